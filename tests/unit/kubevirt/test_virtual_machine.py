"""The VirtualMachine of an order: what the guest knows itself by, its devices, where it may run."""

from dataclasses import replace
from typing import Any

import pytest

from tranship.migration.mapping import DiskOrder, MachineOrder, NicOrder
from tranship.providers.virtualmachine import virtual_machine

UUID = "420f8a31-6c5e-7d0b-0c35-2f7a9f1b7b11"
ORDER = MachineOrder(
    owner="plan/vm-42",
    name="web.01",
    namespace="shop",
    uuid=UUID,
    sockets=2,
    cores=3,
    memory=(64 << 20) - 1,
    disks=(
        DiskOrder(source="2000", name="web01-0", pool="", size=1 << 30, bus="virtio"),
        DiskOrder(
            source="2001", name="web01-1", pool="", size=1 << 30, bus="sata", boot=1, volume="root", serial="6000c2"
        ),
        DiskOrder(source="2002", name="web01-2", pool="", size=1 << 30, bus="scsi", shared=True),
    ),
    nics=(
        NicOrder(mac="00:50:56:aa:bb:01", kind="pod"),
        NicOrder(mac="00:50:56:aa:bb:02", kind="multus", network="br0", namespace="nets", model="e1000e", name="blue"),
        NicOrder(mac="", kind="multus", network="br1"),
    ),
    labels={"vmID": "vm-42"},
    annotations={"original-ID": "vm-42"},
)


def domain(order: MachineOrder) -> Any:
    return virtual_machine(order)["spec"]["template"]["spec"]["domain"]


def test_the_whole() -> None:
    machine = virtual_machine(ORDER)
    assert (machine["apiVersion"], machine["kind"]) == ("kubevirt.io/v1", "VirtualMachine")
    meta = {"name": "web.01", "namespace": "shop", "labels": {"vmID": "vm-42"}, "annotations": {"original-ID": "vm-42"}}
    assert machine["metadata"] == meta
    assert set(machine["spec"]) == {"runStrategy", "template"}  # `running` is deprecated
    assert machine["spec"]["template"]["metadata"] == {"labels": {"vmID": "vm-42", "app": "web.01"}}
    assert set(machine["spec"]["template"]["spec"]) == {"domain", "networks", "volumes"}
    assert domain(ORDER)["cpu"] == {"sockets": 2, "cores": 3, "threads": 1}
    assert domain(ORDER)["memory"] == {"guest": "64Mi"}


def test_disks_and_their_volumes() -> None:
    assert domain(ORDER)["devices"]["disks"] == [
        {"name": "vol-0", "disk": {"bus": "virtio"}},
        {"name": "root", "bootOrder": 1, "disk": {"bus": "sata"}, "serial": "6000c2"},
        {"name": "vol-2", "disk": {"bus": "scsi"}, "shareable": True, "cache": "none"},
    ]
    assert virtual_machine(ORDER)["spec"]["template"]["spec"]["volumes"] == [
        {"name": "vol-0", "persistentVolumeClaim": {"claimName": "web01-0"}},
        {"name": "root", "persistentVolumeClaim": {"claimName": "web01-1"}},
        {"name": "vol-2", "persistentVolumeClaim": {"claimName": "web01-2"}},
    ]


def test_nics_and_their_networks() -> None:
    assert domain(ORDER)["devices"]["interfaces"] == [
        {"name": "net-0", "model": "virtio", "macAddress": "00:50:56:aa:bb:01", "masquerade": {}},
        {"name": "blue", "model": "e1000e", "macAddress": "00:50:56:aa:bb:02", "bridge": {}},
        {"name": "net-2", "model": "virtio", "bridge": {}},
    ]
    assert virtual_machine(ORDER)["spec"]["template"]["spec"]["networks"] == [
        {"name": "net-0", "pod": {}},
        {"name": "blue", "multus": {"networkName": "nets/br0"}},
        {"name": "net-2", "multus": {"networkName": "br1"}},
    ]


@pytest.mark.parametrize(
    ("firmware", "secure", "bootloader", "features"),
    [
        ("bios", False, {"bios": {}}, {"acpi": {}}),
        ("bios", True, {"bios": {}}, {"acpi": {}}),
        ("efi", False, {"efi": {"secureBoot": False}}, {"acpi": {}}),
        ("efi", True, {"efi": {"secureBoot": True}}, {"acpi": {}, "smm": {"enabled": True}}),
    ],
)
def test_firmware(firmware: str, secure: bool, bootloader: object, features: object) -> None:
    made = domain(replace(ORDER, firmware=firmware, secure_boot=secure))
    assert made["firmware"] == {"uuid": UUID, "bootloader": bootloader}
    assert made["features"] == features


def test_a_uuid_that_is_none_is_left_to_kubevirt_and_a_serial_number_is_kept() -> None:
    made = domain(replace(ORDER, uuid="4215ffc1", serial="VMware-42 0f"))
    assert made["firmware"] == {"serial": "VMware-42 0f", "bootloader": {"bios": {}}}


def test_tpm_and_run_strategy() -> None:
    assert domain(ORDER)["devices"]["tpm"] == {"enabled": False}
    assert domain(replace(ORDER, tpm=True))["devices"]["tpm"] == {"persistent": True}
    assert virtual_machine(ORDER)["spec"]["runStrategy"] == "Halted"
    assert virtual_machine(replace(ORDER, start=True))["spec"]["runStrategy"] == "Always"


def test_an_instance_type_gives_processors_and_memory() -> None:
    order = replace(ORDER, instance_type="u1.small")
    spec = virtual_machine(order)["spec"]
    assert spec["instancetype"] == {"kind": "VirtualMachineClusterInstancetype", "name": "u1.small"}
    assert not {"cpu", "memory"} & domain(order).keys()
    assert virtual_machine(order, "VirtualMachineInstancetype")["spec"]["instancetype"]["kind"].endswith(
        "eInstancetype"
    )


def test_processors_and_clock() -> None:
    made = domain(replace(ORDER, threads=2, dedicated_cpus=True, nested=True, timezone="Europe/Berlin"))
    features = [{"name": "vmx", "policy": "optional"}, {"name": "svm", "policy": "optional"}]
    assert made["cpu"] == {"sockets": 2, "cores": 3, "threads": 2, "dedicatedCpuPlacement": True, "features": features}
    assert made["clock"] == {"timezone": "Europe/Berlin"}
    without = domain(replace(ORDER, nested=False))
    assert {one["policy"] for one in without["cpu"]["features"]} == {"disable"}
    assert "clock" not in without


def test_a_nic_that_is_unplugged_has_its_place_or_is_a_hosts_own() -> None:
    down = replace(ORDER.nics[0], up=False, pci="0000:0b:00.0")
    direct = replace(ORDER.nics[1], pass_through=True, up=False)
    first, second = domain(replace(ORDER, nics=(down, direct)))["devices"]["interfaces"]
    assert (first["state"], first["pciAddress"]) == ("down", "0000:0b:00.0")
    assert second == {"name": "blue", "macAddress": "00:50:56:aa:bb:02", "sriov": {}}


def test_where_it_may_run() -> None:
    affinity = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": []}}
    spec = virtual_machine(replace(ORDER, node_selector={"zone": "a"}, affinity=affinity))["spec"]["template"]["spec"]
    assert (spec["nodeSelector"], spec["affinity"]) == ({"zone": "a"}, affinity)
