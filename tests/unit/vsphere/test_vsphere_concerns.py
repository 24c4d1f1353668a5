"""Each of the 29 concerns fires for its fact and for nothing else, and says what to do."""

from dataclasses import replace
from typing import Any

import pytest

from tranship.inventory.vm import VM, Category, Disk
from tranship.providers.vsphere.concerns import RULES, concerns

DISK = Disk(
    key="2000",
    label="Hard disk 1",
    path="[ds] a/a.vmdk",
    datastore="datastore-1",
    capacity=1 << 30,
    bus="scsi",
    controller=1,
    unit=3,
    change_tracking=True,
)
QUIET = VM(
    id="vm-1",
    name="web-1",
    hostname="web-1.example.com",
    guest_id="rhel9_64Guest",
    guest_name="Red Hat Enterprise Linux 9 (64-bit)",
    change_tracking=True,
    disks=(DISK,),
    traits={"guest_networks": ({"ip": "10.0.0.1"},)},
)
C, W, I = Category.CRITICAL, Category.WARNING, Category.INFORMATION  # noqa: E741


def disk(**facts: Any) -> dict[str, Any]:
    return {"disks": (replace(DISK, **facts),)}


def trait(**facts: Any) -> dict[str, Any]:
    return {"traits": {**QUIET.traits, **facts}}


def drive(path: str, free: int, keys: tuple[str, ...] = ("2000",)) -> dict[str, Any]:
    return trait(guest_disks=({"path": path, "capacity": 1 << 40, "free": free << 20, "keys": keys},))


CASES = [
    ("changed_block_tracking.disabled", W, {"change_tracking": False}),
    ("changed_block_tracking.disk.disabled", W, disk(change_tracking=False)),
    ("cpu_affinity.detected", W, trait(cpu_affinity=("0", "1"))),
    ("numa_affinity.detected", W, trait(numa_affinity=("0",))),
    ("host_affinity.detected", W, trait(host_affinity=True)),
    ("cpu_memory.hotplug.enabled", W, trait(memory_hot_add=True)),
    ("datastore.missing", C, disk(datastore="")),
    ("disk.capacity.invalid", C, disk(capacity=0)),
    ("disk.count.exceeds.limit", W, {"disks": (DISK,) * 166}),
    ("consolidation_needed", W, {"consolidation_needed": True}),
    ("disk_serial.truncated", I, trait(disk_enable_uuid=True)),
    ("disk_mode.independent", W, disk(mode="independent_nonpersistent")),
    ("disk.rdm.detected", W, disk(rdm="virtual")),
    ("disk.shared.detected", W, disk(shared=True)),
    ("dpm.enabled", I, trait(dpm=True)),
    ("drs.enabled", I, trait(drs=True)),
    ("fault_tolerance.enabled", I, trait(fault_tolerance=True)),
    ("guestDisks.freespace", C, drive("/boot", 49)),
    ("hostname.empty", W, {"hostname": ""}),
    ("hostname.default", W, {"hostname": "localhost.localdomain"}),
    ("vm_missing_ip.detected", W, {"traits": {}}),
    ("vm.name.invalid", W, {"name": "web_1"}),
    ("passthrough_device.detected", C, trait(devices=("VirtualPCIPassthrough",))),
    ("device.sriov.detected", W, trait(devices=("VirtualSriovEthernetCard",))),
    ("usb_controller.detected", W, trait(devices=("VirtualUSBXHCIController",))),
    ("tpm.detected", W, {"tpm": True}),
    ("snapshot.detected", I, {"snapshots": 2}),
    ("os.unsupported", W, {"guest_id": "debian12_64Guest", "guest_name": "Debian GNU/Linux 12 (64-bit)"}),
    (
        "guestDisks.key.not_found",
        I,
        {"guest_id": "windows2019srv_64Guest", "guest_name": "", **drive("C:\\", 5000, keys=())},
    ),
]


def test_a_plain_vm_has_none() -> None:
    assert concerns(QUIET) == ()


@pytest.mark.parametrize(("id", "category", "facts"), CASES, ids=[case[0] for case in CASES])
def test_one_fact_one_concern(id: str, category: Category, facts: dict[str, Any]) -> None:
    (concern,) = concerns(replace(QUIET, **facts))
    assert (concern.id, concern.category) == (f"vmware.{id}", category)
    assert concern.label
    assert concern.assessment


def test_all_29_are_tested_once() -> None:
    assert len(RULES) == 29
    assert sorted(rule.id for rule in RULES) == sorted(case[0] for case in CASES)


def test_a_disk_is_named_by_its_place() -> None:
    (concern,) = concerns(replace(QUIET, **disk(change_tracking=False)))
    assert "Hard disk 1, scsi1:3" in concern.assessment


def test_change_tracking_does_not_matter_to_a_cold_migration() -> None:
    vm = replace(QUIET, change_tracking=False, **disk(change_tracking=False))
    assert concerns(vm, warm=False) == ()
    assert len(concerns(vm, warm=True)) == 2


@pytest.mark.parametrize(
    ("path", "free", "enough"),
    [
        ("/", 100, True),
        ("/", 99, False),
        ("/boot", 50, True),
        ("C:\\", 99, False),
        ("/home", 10, True),
        ("D:\\", 9, False),
    ],
)
def test_free_space(path: str, free: int, enough: bool) -> None:
    assert (concerns(replace(QUIET, **drive(path, free))) == ()) is enough


@pytest.mark.parametrize(
    ("id", "name"),
    [
        ("windows9Server64Guest", ""),
        ("windows2019srvNext_64Guest", ""),
        ("rhel7_64Guest", ""),
        ("otherLinux64Guest", "Microsoft Windows Server 2025 (64-bit)"),
        ("", "Red Hat Enterprise Linux 10.1 (Coughlan)"),
    ],
)
def test_known_systems(id: str, name: str) -> None:
    assert concerns(replace(QUIET, guest_id=id, guest_name=name)) == ()


@pytest.mark.parametrize("name", ["", "-web", "web-", "a b", "x" * 64, "wéb"])
def test_names_that_have_to_change(name: str) -> None:
    assert [concern.id for concern in concerns(replace(QUIET, name=name))] == ["vmware.vm.name.invalid"]
