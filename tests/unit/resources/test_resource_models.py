"""Manifests are read strictly, kept whole and written back as the user wrote them."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from tranship.errors import Invalid
from tranship.resources.meta import KINDS, MIGRATION, PLAN, SECRET, ObjectReference, Ref, parse
from tranship.resources.migration import Migration
from tranship.resources.model import Model, to_json
from tranship.resources.plan import Plan, PlanVM, VMStatus
from tranship.resources.secret import Secret
from tranship.resources.vm import Step

NOW = datetime(2026, 1, 31, 23, tzinfo=UTC)


def plan(**spec: Any) -> dict[str, Any]:
    pair = {"source": {"name": "vc", "namespace": "ns"}, "destination": {"name": "here"}}
    maps = {"network": {"name": "net"}, "storage": {"name": "sto"}}
    return {
        "apiVersion": "forklift.konveyor.io/v1beta1",
        "kind": "Plan",
        "metadata": {"name": "p", "namespace": "ns"},
        "spec": {"provider": pair, "map": maps, "vms": [{"id": "vm-1"}], "targetNamespace": "t", **spec},
    }


def migration(**spec: Any) -> Migration:
    return Migration.read(
        {"apiVersion": MIGRATION.api_version, "kind": "Migration", "spec": {"plan": {"name": "p"}, **spec}}
    )


def test_defaults_are_read_and_not_written() -> None:
    manifest = plan(preserveStaticIPs=False, warm=False)
    read = Plan.read(manifest)
    assert read.spec.delete_vm_on_fail_migration and read.spec.use_compatibility_mode and read.spec.verify
    assert not read.spec.preserve_static_ips
    assert to_json(read) == manifest


def test_unknown_fields_are_kept_at_every_depth() -> None:
    manifest = plan(future={"deep": [1, {"x": None}]}, vms=[{"id": "vm-1", "future": 1}])
    manifest["metadata"]["managedFields"] = [{"manager": "kubectl"}]
    manifest["future"] = True
    manifest["status"] = {
        "future": 1,
        "migration": {"vms": [{"id": "vm-1", "phase": "x", "pipeline": [], "future": 2}]},
    }
    assert to_json(parse(manifest)) == manifest


def test_null_is_the_same_as_absent() -> None:
    manifest = plan(type=None)
    manifest["metadata"]["creationTimestamp"] = None
    read = Plan.read(manifest)
    assert read.spec.migration_type == "cold"
    assert "type" not in to_json(read)["spec"] and "creationTimestamp" not in to_json(read)["metadata"]


def test_what_a_controller_appends_is_written_although_nobody_assigned_the_list() -> None:
    read = Plan.read(plan())
    read.metadata.finalizers.append("tranship")
    read.status.migration.vms.append(VMStatus(id="vm-1"))
    written = to_json(read)
    assert written["metadata"]["finalizers"] == ["tranship"]
    assert written["status"] == {"migration": {"vms": [{"id": "vm-1", "phase": "", "pipeline": []}]}}


@pytest.mark.parametrize(
    ("spec", "field", "said"),
    [
        ({"warm": "true"}, "spec.warm", "boolean"),
        ({"type": "hot"}, "spec.type", "cold"),
        ({"vms": [{"id": 3}]}, "spec.vms[0].id", "string"),
        ({"precopy": {"interval": "90"}}, "spec.precopy.interval", "1h30m"),
        ({"precopy": {"interval": "0s"}}, "spec.precopy.interval", "longer"),
        ({"shutdown": {"deadline": "soon"}}, "spec.shutdown.deadline", "1h30m"),
        ({"targetPowerState": "maybe"}, "spec.targetPowerState", "auto"),
    ],
)
def test_an_invalid_field_is_named(spec: dict[str, Any], field: str, said: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse(plan(**spec))
    assert caught.value.field == field
    assert said in str(caught.value)
    assert caught.value.suggestion


def test_all_faults_are_told_at_once() -> None:
    manifest = plan(warm=1)
    del manifest["spec"]["targetNamespace"]
    with pytest.raises(Invalid, match=r"spec\.targetNamespace: is missing; spec\.warm"):
        parse(manifest)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"kind": "Plot"}, "kind"),
        ({"kind": None}, "kind"),
        ({"kind": "plans"}, "kind"),
        ({"apiVersion": "v1"}, "apiVersion"),
    ],
)
def test_an_unknown_kind_is_refused_with_the_known_ones(change: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse({**plan(), **change})
    assert caught.value.field == field
    assert "Plan" in caught.value.suggestion or "v1beta1" in caught.value.suggestion


def test_a_kind_is_found_under_all_its_names() -> None:
    assert KINDS["plans"] is KINDS["Plan"] is KINDS["plan"] is PLAN
    assert KINDS["mig"] is MIGRATION
    assert SECRET.api_version == "v1" and PLAN.api_version == "forklift.konveyor.io/v1beta1"


def test_a_python_spelling_is_no_manifest() -> None:
    manifest = plan(target_power_state="on")
    read = Plan.read(manifest)
    assert read.spec.target_power_state is None
    assert to_json(read) == manifest


def test_type_wins_over_the_deprecated_flag() -> None:
    assert Plan.read(plan(warm=True)).warm
    assert not Plan.read(plan(warm=True, type="cold")).warm
    assert Plan.read(plan(warm=False, type="warm")).warm


def test_a_vm_overrides_its_plan_in_either_direction() -> None:
    spec = Plan.read(plan(targetPowerState="off", deleteVmOnFailMigration=False)).spec
    assert spec.power_state(PlanVM(id="a")) == "off"
    assert spec.power_state(PlanVM(id="a", target_power_state="on")) == "on"
    assert not spec.deletes_on_failure(PlanVM(id="a"))
    assert spec.deletes_on_failure(PlanVM(id="a", delete_vm_on_fail_migration=True))


def test_an_id_wins_over_a_name() -> None:
    assert Ref(id="vm-1", name="x").fits(id="vm-1", name="y")
    assert not Ref(id="vm-1", name="y").fits(id="vm-2", name="y")
    assert Ref(name="y").fits(id="vm-2", name="y")
    assert not Ref().fits(id="vm-2", name="")
    assert not ObjectReference(namespace="ns") and ObjectReference(name="x")


def test_a_vms_own_cutover_wins() -> None:
    run = migration(cutover="2026-02-01T01:00:00+02:00", vmCutover=[{"id": "vm-1", "cutover": "2026-02-02T00:00:00Z"}])
    assert run.cutover_of("vm-1") == datetime(2026, 2, 2, tzinfo=UTC)
    assert run.cutover_of("vm-2") == NOW
    assert migration().cutover_of("vm-1") is None


def test_deleting_a_migration_cancels_all_and_naming_cancels_some() -> None:
    run = migration(cancel=[{"name": "web"}])
    assert run.cancels(id="vm-1", name="web") and not run.cancels(id="vm-2", name="db")
    run.metadata.deletion_timestamp = NOW
    assert run.cancels(id="vm-2", name="db")


def test_a_time_without_zone_is_refused_even_in_python() -> None:
    with pytest.raises(ValueError, match="zone"):
        Step(name="x", started=datetime(2026, 1, 1))


def values(annotation: Any) -> st.SearchStrategy[Any]:
    """Values for the annotations that occur in a VMStatus."""
    origin, args = getattr(annotation, "__origin__", None), getattr(annotation, "__args__", ())
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return models(annotation)
    if annotation is datetime:
        return st.datetimes(min_value=datetime(2020, 1, 1), timezones=st.just(UTC))
    if origin is list:
        return st.lists(values(args[0]), max_size=2)
    if origin is dict:
        return st.dictionaries(st.text(max_size=3), values(args[1]), max_size=2)
    if args and all(isinstance(choice, str) for choice in args):
        return st.sampled_from(args)
    if args:
        return st.one_of([values(choice) for choice in args if choice is not type(None)])
    return {
        str: st.text(max_size=5),
        bool: st.booleans(),
        int: st.integers(0, 2**63 - 1),
        float: st.floats(0, 1e9),
        type(None): st.nothing(),
    }.get(annotation, st.none())


def models(cls: type[BaseModel]) -> st.SearchStrategy[Any]:
    fields = {name: values(plain(field.annotation)) for name, field in cls.model_fields.items()}
    needed = {name: fields.pop(name) for name, field in cls.model_fields.items() if field.is_required()}
    return st.fixed_dictionaries(needed, optional=fields).map(lambda made: cls(**made))


def plain(annotation: Any) -> Any:
    """Without Annotated, at the top and inside of `X | None`."""
    inner = [getattr(part, "__origin__", part) if hasattr(part, "__metadata__") else part for part in [annotation]]
    args = [plain(part) for part in getattr(inner[0], "__args__", ()) if hasattr(part, "__metadata__")]
    return args[0] if args else inner[0]


@settings(max_examples=30, deadline=None)
@given(models(VMStatus))
def test_a_vm_status_survives_the_round_trip(status: VMStatus) -> None:
    assert VMStatus.model_validate(to_json(status), by_alias=True, by_name=False) == status


def secret(**parts: Any) -> Secret:
    return Secret.read({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, **parts})


def test_secret_text_comes_from_either_part_and_string_data_wins() -> None:
    given = secret(data={"user": "cm9vdAo=", "password": "b2xk"}, stringData={"password": "hunter2"})
    assert given.text("user") == "root"
    assert given.text("password") == "hunter2"
    assert given.text("token") == "" and given.text("token", "none") == "none"
    folded = to_json(given.folded())
    assert folded["data"]["password"] == "aHVudGVyMg==" and "stringData" not in folded


def test_both_names_of_the_ca_are_accepted() -> None:
    assert secret(stringData={"cacert": "PEM"}).ca == secret(stringData={"ca.crt": "PEM"}).ca == "PEM"
    assert secret(stringData={"insecureSkipVerify": "true"}).insecure and not secret().insecure


def test_a_secret_never_shows_its_values() -> None:
    given = secret(data={"a": "aHVudGVyMg=="}, stringData={"password": "hunter2"}, extra="hunter2")
    assert "hunter2" not in f"{given!r} {given}" and "aHVud" not in f"{given!r} {given}"
    assert "password" in repr(given)
    with pytest.raises(Invalid) as caught:
        secret(data={"password": ["hunter2"]})
    assert "hunter2" not in f"{caught.value} {caught.value.__cause__}" and caught.value.__suppress_context__


@pytest.mark.parametrize("data", ["not base64!", "/w=="])
def test_a_secret_that_cannot_be_read_names_its_key(data: str) -> None:
    with pytest.raises(Invalid) as caught:
        secret(data={"password": data}).text("password")
    assert caught.value.field == "data[password]"
