"""From source facts and maps to the order for the target."""

from dataclasses import replace

import pytest

from tranship.errors import Invalid
from tranship.inventory.estate import Estate, Network
from tranship.migration.mapping import order, target_name, transfer_network, unmapped
from tranship.resources.vm import PlanVM
from tranship.testing.examples import ESTATE, NETWORKS, WEB, network_map, plan, storage_map


def test_the_order_keeps_what_the_guest_knows_itself_by() -> None:
    made = order(plan(), PlanVM(id="vm-42"), WEB, NETWORKS.spec, storage_map({"name": "fast"}).spec, ESTATE)
    assert (made.name, made.namespace, made.uuid, made.owner) == ("web-01-old", "moved", "4215ffc1", "plan-uid/vm-42")
    assert (made.sockets, made.cores, made.memory, made.firmware) == (2, 2, 1 << 30, "efi")
    assert [(disk.source, disk.size, disk.bus, disk.boot) for disk in made.disks] == [
        ("2000", 1 << 20, "virtio", 1),
        ("2001", 1 << 21, "virtio", 2),
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
    assert [(disk.bus, disk.boot) for disk in made.disks] == [("virtio", 2), ("scsi", 1), ("sata", 3)]
    assert [nic.model for nic in made.nics] == ["virtio", "e1000", "rtl8139", "virtio"]


def test_the_boot_disk_is_the_one_the_user_names() -> None:
    def boots(root_disk: str) -> list[int]:
        entry = PlanVM(id="vm-42", root_disk=root_disk)
        made = order(plan(), entry, WEB, NETWORKS.spec, storage_map({"name": "fast"}).spec, ESTATE)
        return [disk.boot for disk in made.disks]

    assert [boots(name) for name in ("", "/dev/sda", "/dev/sdb", "/dev/vdb2", "sdb")] == [[1, 2]] * 2 + [[2, 1]] * 3
    for name in ("/dev/sdc", "2", "/dev/mapper/root"):
        with pytest.raises(Invalid, match="rootDisk"):
            boots(name)


def test_serial_numbers_that_the_guest_read_on_vmware() -> None:
    uuid = "42158c81-5e53-4ac2-9b21-8f3b0a6a9d3e"
    disks = (replace(WEB.disks[0], serial="6000c29a"), replace(WEB.disks[1], serial="6000c29b", bus="nvme"))
    vm = replace(WEB, uuid=uuid, disks=disks, traits={"disk_enable_uuid": True})
    made = order(plan(), PlanVM(id="vm-42"), vm, NETWORKS.spec, storage_map({"name": "fast"}).spec, ESTATE)
    assert made.serial == "VMware-42 15 8c 81 5e 53 4a c2-9b 21 8f 3b 0a 6a 9d 3e"
    assert [disk.serial for disk in made.disks] == ["6000c29a", ""]
    made = order(plan(), PlanVM(id="vm-42"), WEB, NETWORKS.spec, storage_map({"name": "fast"}).spec, ESTATE)
    assert made.serial == ""


def test_where_the_machine_may_run_and_what_it_is_called_by() -> None:
    wanted = plan(
        targetLabels={"tier": "web", "plan": "mine"},
        targetNodeSelector={"zone": "a"},
        targetAffinity={"podAffinity": {}},
    )
    entry = PlanVM(id="vm-42", instance_type="u1.small")
    storages = storage_map({"name": "fast"}).spec
    made = order(wanted, entry, WEB, NETWORKS.spec, storages, ESTATE, migration="run-1")
    assert made.labels == {
        "tier": "web",
        "plan": "plan-uid",
        "vmID": "vm-42",
        "guestConverted": "false",
        "migration": "run-1",
    }
    assert (made.node_selector, made.affinity) == ({"zone": "a"}, {"podAffinity": {}})
    assert made.instance_type == "u1.small"


def test_what_the_machine_is_like_follows_the_source() -> None:
    nics = (replace(WEB.nics[0], connected=False, pci="0000:0b:00.0"), replace(WEB.nics[1], pass_through=True))
    like = {"cpus": 12, "cores_per_socket": 6, "threads": 2, "dedicated_cpus": True, "timezone": "Europe/Berlin"}
    vm = replace(WEB, nics=nics, **like)
    made = order(plan(), PlanVM(id="vm-42"), vm, NETWORKS.spec, storage_map({"name": "fast"}).spec, ESTATE)
    assert (made.sockets, made.cores, made.threads) == (2, 3, 2)
    assert (made.dedicated_cpus, made.timezone, made.nested) == (True, "Europe/Berlin", None)
    assert [(nic.up, nic.pci, nic.pass_through) for nic in made.nics] == [
        (False, "0000:0b:00.0", False),
        (True, "", True),
    ]


@pytest.mark.parametrize(
    ("plans", "own", "source", "nested"),
    [
        (None, None, None, None),
        (None, None, False, None),
        (None, None, True, True),
        (False, None, True, False),
        (False, True, None, True),
        (True, False, True, False),
    ],
)
def test_nested_virtualization_is_as_the_user_says_else_as_it_was(
    plans: bool | None, own: bool | None, source: bool | None, nested: bool | None
) -> None:
    wanted = plan(**({} if plans is None else {"enableNestedVirtualization": plans}))
    entry = PlanVM(id="vm-42", enable_nested_virtualization=own)
    storages = storage_map({"name": "fast"}).spec
    assert order(wanted, entry, replace(WEB, nested=source), NETWORKS.spec, storages, ESTATE).nested is nested


def test_the_serial_number_of_a_machine_that_ran_on_kvm() -> None:
    vm = replace(WEB, native=True, uuid="420f8a31-6c5e-7d0b-0c35-2f7a9f1b7b11")
    storages = storage_map({"name": "fast"}).spec
    assert order(plan(), PlanVM(id="vm-42"), vm, NETWORKS.spec, storages, ESTATE).serial == vm.uuid
    own = replace(vm, serial="ACME-1")
    assert order(plan(), PlanVM(id="vm-42"), own, NETWORKS.spec, storages, ESTATE).serial == "ACME-1"


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


@pytest.mark.parametrize(
    ("own", "defaults", "network"),
    [
        (None, ("", ""), ""),
        ({"name": "a", "namespace": "net"}, ("net/b", "net/c"), "net/a"),
        ({"name": "a"}, ("net/b", ""), "moved/a"),
        ({}, ("net/b", "net/c"), "net/b"),
        (None, ("here", "net/c"), "moved/here"),
        (None, ("elsewhere", "net/c"), "net/c"),  # the namespace has none of that name
        (None, ("elsewhere", ""), ""),
    ],
)
def test_the_transfer_network_is_the_plans_the_providers_or_the_installations(
    own: dict[str, str] | None, defaults: tuple[str, str], network: str
) -> None:
    there = Estate(networks={"moved/here": Network(id="moved/here", name="here")})
    wanted = plan() if own is None else plan(transferNetwork=own)
    assert transfer_network(wanted, defaults, there) == network
