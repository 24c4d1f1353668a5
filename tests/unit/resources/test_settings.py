"""The object wins over the environment, the environment over the default, a plan over all."""

from typing import Any

import pytest

from tranship.errors import Invalid
from tranship.resources.controller import ForkliftController, ForkliftControllerSpec, Settings
from tranship.resources.model import to_json
from tranship.resources.plan import PrecopySpec


def spec(**settings: Any) -> ForkliftControllerSpec:
    return ForkliftControllerSpec.model_validate(settings)


def test_defaults() -> None:
    assert Settings.from_spec(None, {}) == Settings()
    assert Settings().precopy_interval == 3600 and Settings().max_vm_inflight == 20
    assert Settings().snapshot_removal_timeout == 7200


def test_precedence() -> None:
    env = {"PRECOPY_INTERVAL": "30", "MAX_VM_INFLIGHT": "4"}
    settings = Settings.from_spec(spec(controller_precopy_interval=15), env)
    assert (settings.precopy_interval, settings.max_vm_inflight) == (900, 4)
    assert Settings.from_spec(None, env).precopy_interval == 1800
    assert settings.precopy_seconds(None) == 900
    assert settings.precopy_seconds(PrecopySpec(interval="5m")) == 300
    assert settings.precopy_seconds(PrecopySpec(target_downtime="30s")) == 900
    assert settings.precopy_seconds(PrecopySpec(interval="auto")) is None


@pytest.mark.parametrize("name", ["minuts", "minutes"])
def test_both_spellings_of_the_snapshot_timeout_work(name: str) -> None:
    settings = Settings.from_spec(spec(**{f"controller_snapshot_removal_timeout_{name}": 7}), {})
    assert settings.snapshot_removal_timeout == 420


@pytest.mark.parametrize("name", ["SNAPSHOT_REMOVAL_TIMEOUT", "SNAPSHOT_REMOVAL_TIMEOUT_MINUTES"])
def test_both_names_of_its_variable_work(name: str) -> None:
    assert Settings.from_spec(None, {name: "7"}).snapshot_removal_timeout == 420


@pytest.mark.parametrize("value", ["soon", 0, -1, True, 1.5, [], ""])
def test_what_is_no_number_is_refused_by_name(value: Any) -> None:
    with pytest.raises(Invalid) as caught:
        Settings.from_spec(spec(controller_max_vm_inflight=value), {})
    assert caught.value.field == "spec.controller_max_vm_inflight"


def test_texts() -> None:
    env = {"MIGRATION_SERVICE_ACCOUNT": "env", "PVC_NAME_TEMPLATE": "e"}
    assert Settings.from_spec(None, env).migration_service_account == "env"
    given = spec(controller_migration_service_account="own", controller_pvc_name_template="o")
    settings = Settings.from_spec(given, env)
    assert (settings.migration_service_account, settings.pvc_name_template) == ("own", "o")
    for name in ("controller_migration_service_account", "controller_pvc_name_template"):
        with pytest.raises(Invalid) as caught:
            Settings.from_spec(spec(**{name: 7}), {})
        assert caught.value.field == f"spec.{name}"


def test_other_settings_are_kept() -> None:
    manifest = {
        "apiVersion": "forklift.konveyor.io/v1beta1",
        "kind": "ForkliftController",
        "metadata": {"name": "forklift"},
        "spec": {"feature_ui_plugin": "true", "controller_max_vm_inflight": 3, "aap_timeout": 60},
        "status": {"conditions": [{"type": "Running", "ansibleResult": {"ok": 1}}]},
    }
    assert to_json(ForkliftController.read(manifest)) == manifest


def test_the_transfer_network() -> None:
    assert Settings.from_spec(None, {}).transfer_network == ""
    for name in ("fast", "net/fast"):
        assert Settings.from_spec(spec(controller_transfer_network=name), {}).transfer_network == name
    for wrong in ("a/b/c", "/fast", "net/", 7, ["net"]):
        with pytest.raises(Invalid, match="controller_transfer_network") as caught:
            Settings.from_spec(spec(controller_transfer_network=wrong), {})
        assert caught.value.suggestion
