"""From source facts and maps to the order for the target."""

from dataclasses import replace

import pytest

from tranship.errors import Invalid
from tranship.migration.mapping import order, target_name, unmapped
from tranship.resources.vm import PlanVM
from tranship.testing.examples import ESTATE, NETWORKS, WEB, network_map, plan, storage_map


def test_the_order_keeps_what_the_guest_knows_itself_by() -> None:
    made = order(plan(), PlanVM(id="vm-42"), WEB, NETWORKS.spec, storage_map({"name": "fast"}).spec, ESTATE)
    assert (made.name, made.namespace, made.uuid, made.owner) == ("web-01-old", "moved", "4215ffc1", "plan-uid/vm-42")
    assert (made.sockets, made.cores, made.memory, made.firmware) == (2, 2, 1 << 30, "efi")
    assert [(disk.source, disk.size, disk.bus, disk.boot) for disk in made.disks] == [
        ("2000", 1 << 20, "virtio", 1),
        ("2001", 1 << 21, "virtio", 0),
    ]
    assert [(nic.mac, nic.kind, nic.network) for nic in made.nics] == [
        ("00:50:56:00:00:01", "pod", ""),
        ("00:50:56:00:00:02", "multus", "br0"),
    ]


def test_compatibility_mode_is_for_guests_that_are_not_converted() -> None:
    raw = plan(skipGuestConversion=True)
    made = order(raw, PlanVM(id="vm-42"), WEB, NETWORKS.spec, storage_map({"name": "fast"}).spec, ESTATE)
    assert {disk.bus for disk in made.disks} == {"sata"}
    assert {nic.model for nic in made.nics} == {"e1000e"}


def test_a_guest_that_ran_on_kvm_keeps_its_disks_and_nics() -> None:
    buses = ("virtio", "scsi", "ide")
    disks = tuple(replace(WEB.disks[0], key=f"{n}", bus=bus, bootable=n == 1) for n, bus in enumerate(buses))
    nics = tuple(replace(WEB.nics[0], model=model) for model in ("virtio", "e1000", "rtl8139", "pci_passthrough"))
    vm = replace(WEB, native=True, disks=disks, nics=nics)
    made = order(plan(), PlanVM(id="vm-42"), vm, NETWORKS.spec, storage_map({"name": "fast"}).spec, ESTATE)
    assert [(disk.bus, disk.boot) for disk in made.disks] == [("virtio", 0), ("scsi", 1), ("sata", 0)]
    assert [nic.model for nic in made.nics] == ["virtio", "e1000", "rtl8139", "virtio"]


def test_ignored_networks_leave_their_nics_out() -> None:
    ignoring = network_map(
        ({"name": "VM Network"}, {"type": "ignored"}), ({"name": "prod", "vlan": "7"}, {"type": "pod"})
    )
    made = order(plan(), PlanVM(id="vm-42"), WEB, ignoring.spec, storage_map({"name": "fast"}).spec, ESTATE)
    assert [nic.mac for nic in made.nics] == ["00:50:56:00:00:02"]


def test_every_unmapped_network_and_datastore_is_named() -> None:
    missing = unmapped(WEB, network_map(({"id": "network-1"}, {"type": "pod"})).spec, storage_map().spec, ESTATE)
    assert [(one.what, one.name, one.used_by) for one in missing] == [
        ("network", "prod", "Network adapter 2"),
        ("datastore", "fast", "Hard disk 1"),
        ("datastore", "fast", "Hard disk 2"),
    ]


@pytest.mark.parametrize(
    ("wanted", "source", "name"),
    [
        ("", "Web_01", "web-01"),
        ("", "A B/C", "a-b-c"),
        ("", "größe", "gre"),
        ("", "___", "vm-vm7"),
        ("", "x" * 80, "x" * 63),
        ("kept", "Web", "kept"),
    ],
)
def test_names_are_made_fit(wanted: str, source: str, name: str) -> None:
    assert target_name(wanted, source, "vm-7") == name


def test_a_wanted_name_is_never_changed() -> None:
    with pytest.raises(Invalid, match="targetName"):
        target_name("Web_01", "x", "vm-7")
