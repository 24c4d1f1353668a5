"""Names of claims, volumes and networks in an order: by default, by templates, and refused."""

from dataclasses import replace
from typing import Any

import pytest

from tranship.errors import Invalid
from tranship.inventory.vm import VM
from tranship.migration.mapping import MachineOrder, order
from tranship.resources.controller import Settings
from tranship.resources.vm import PlanVM
from tranship.testing.examples import ESTATE, NETWORKS, WEB, plan, storage_map


def made(
    vm: VM = WEB, entry: dict[str, Any] | None = None, settings: Settings | None = None, **spec: Any
) -> MachineOrder:
    one = PlanVM(id=vm.id, **(entry or {}))
    storages = storage_map({"name": "fast"}).spec
    return order(plan(**spec), one, vm, NETWORKS.spec, storages, ESTATE, settings=settings or Settings())


def claims(order: MachineOrder) -> list[str]:
    return [disk.name for disk in order.disks]


def test_without_templates() -> None:
    order = made()
    assert claims(order) == ["web-01-old-disk-0", "web-01-old-disk-1"]
    assert [disk.volume for disk in order.disks] == ["vol-0", "vol-1"]
    assert [nic.name for nic in order.nics] == ["net-0", "net-1"]


def test_machines_whose_names_begin_alike_have_disks_of_their_own() -> None:
    names = ("a.b", "a-b", "x" * 50 + "-1", "x" * 50 + "-2")
    found = [claims(made(entry={"target_name": name}))[0] for name in names]
    assert len(set(found)) == 4
    assert all(len(name) < 63 and "." not in name for name in found)
    assert found[1] == "a-b-disk-0"


def test_a_claim_by_template_has_an_ending_that_is_always_the_same() -> None:
    template = "{{trunc 3 .PlanName}}-{{.TargetVmName}}-{{.DiskIndex}}"
    first, second = claims(made(pvcNameTemplate=template))
    assert first.startswith("p-web-01-old-0-")
    assert len(first) == len("p-web-01-old-0-") + 5
    assert claims(made(pvcNameTemplate=template)) == [first, second]
    assert claims(made(replace(WEB, id="vm-43"), pvcNameTemplate=template)) != [first, second]


def test_an_exact_name_and_all_variables() -> None:
    disks = (replace(WEB.disks[0], path="[fast] w/Root_1-000002.vmdk"), replace(WEB.disks[1], shared=True))
    drives = {"guest_disks": ({"path": "D:\\", "keys": ("2001",)}, {"path": "C:\\", "keys": ("2000",)})}
    vm = replace(WEB, disks=disks, traits=drives)
    template = (
        "{{.VmId}}-{{lower .VmName | replace `_` `-` | trunc 6}}-{{.PlanName}}-{{.DiskIndex}}-{{.DiskId}}-{{.RootDiskIndex}}"
        "-{{.WinDriveLetter}}-{{if .Shared}}s-{{end}}{{trimSuffix `.vmdk` .FileName | lower | replace `_` `-`}}"
    )
    assert claims(made(vm, pvcNameTemplate=template, pvcNameTemplateUseGenerateName=False)) == [
        "vm-42-web-01-p-0-2000-0-c-root-1",
        "vm-42-web-01-p-1-2001-0-d-s-w-1",
    ]


def test_the_vms_template_wins_over_the_plans_and_that_over_the_installations() -> None:
    exact = {"pvcNameTemplateUseGenerateName": False}
    everywhere = Settings(pvc_name_template=r"all-\{\{.DiskIndex\}\}")
    assert claims(made(settings=everywhere, **exact)) == ["all-0", "all-1"]
    assert claims(made(settings=everywhere, pvcNameTemplate="plan-{{.DiskIndex}}", **exact)) == ["plan-0", "plan-1"]
    own = {"pvc_name_template": "own-{{.DiskIndex}}"}
    assert claims(made(entry=own, pvcNameTemplate="plan-{{.DiskIndex}}", **exact)) == ["own-0", "own-1"]


def test_the_plans_service_account_wins_over_the_installations() -> None:
    everywhere = Settings(migration_service_account="all")
    assert made().service_account == ""
    assert made(settings=everywhere).service_account == "all"
    assert made(settings=everywhere, serviceAccount="own").service_account == "own"


def test_volumes_and_networks_by_template() -> None:
    networks = '{{if eq .NetworkType "Pod"}}pod{{else}}{{.NetworkName}}-{{.NetworkIndex}}{{end}}'
    order = made(volumeNameTemplate="v-{{.PVCName}}-{{.VolumeIndex}}", networkNameTemplate=networks)
    assert [disk.volume for disk in order.disks] == ["v-web-01-old-disk-0-0", "v-web-01-old-disk-1-1"]
    assert [nic.name for nic in order.nics] == ["pod", "br0-1"]


@pytest.mark.parametrize(
    ("spec", "field", "why"),
    [
        ({"pvcNameTemplate": "{{.VmName}}-{{.DiskIndex}}"}, "spec.pvcNameTemplate", "no DNS label"),
        ({"pvcNameTemplate": "{{.Nothing}}"}, "spec.pvcNameTemplate", "Nothing"),
        ({"pvcNameTemplate": "disk", "pvcNameTemplateUseGenerateName": False}, "spec.pvcNameTemplate", "two are named"),
        ({"volumeNameTemplate": "vol"}, "spec.volumeNameTemplate", "two are named 'vol'"),
        ({"volumeNameTemplate": "{{.DiskIndex}}"}, "spec.volumeNameTemplate", "DiskIndex"),
        ({"networkNameTemplate": "Net_{{.NetworkIndex}}"}, "spec.networkNameTemplate", "no DNS label"),
        ({"networkNameTemplate": "net"}, "spec.networkNameTemplate", "two are named 'net'"),
    ],
)
def test_templates_that_give_no_names(spec: dict[str, Any], field: str, why: str) -> None:
    with pytest.raises(Invalid, match=why) as raised:
        made(**spec)
    assert raised.value.field == field


def test_a_template_of_the_vm_is_named_as_such() -> None:
    with pytest.raises(Invalid) as raised:
        made(entry={"volume_name_template": "{{"})
    assert raised.value.field == "spec.vms[].volumeNameTemplate"
