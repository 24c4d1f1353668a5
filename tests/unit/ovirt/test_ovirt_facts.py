"""From Engine JSON, written by hand with its strings for numbers, to facts."""

import copy
from typing import Any

import pytest

from tranship.inventory.vm import VM, Power
from tranship.providers.ovirt import facts
from tranship.providers.ovirt.facts import World

GIB = 1 << 30
ENTITY: dict[str, Any] = {
    "id": "vm-1",
    "name": "web",
    "status": "up",
    "memory": "2147483648",
    "fqdn": "web.example.com",
    "cpu": {
        "topology": {"sockets": "2", "cores": "3", "threads": "2"},
        "cpu_tune": {"vcpu_pins": {"vcpu_pin": [{"vcpu": "0", "cpu_set": "1-4"}]}},
    },
    "os": {"type": "rhel_8x64"},
    "bios": {"type": "q35_sea_bios", "boot_menu": {"enabled": "true"}},
    "host": {"id": "host-1"},
    "cluster": {"id": "cluster-1"},
    "guest_operating_system": {"distribution": "Red Hat Enterprise Linux", "version": {"full_version": "8.6"}},
    "placement_policy": {"affinity": "migratable"},
    "io": {"threads": "2"},
    "disk_attachments": {
        "disk_attachment": [
            {
                "id": "disk-1",
                "active": "true",
                "bootable": "true",
                "interface": "virtio_scsi",
                "uses_scsi_reservation": "false",
                "disk": {"id": "disk-1"},
            },
            {"id": "disk-2", "active": "true", "interface": "virtio", "disk": {"id": "disk-2"}},
            {"id": "disk-3", "active": "false", "interface": "virtio_scsi", "disk": {"id": "disk-3"}},
        ]
    },
    "nics": {
        "nic": [
            {
                "id": "nic-1",
                "name": "nic1",
                "mac": {"address": "56:6F:00:00:00:01"},
                "interface": "virtio",
                "plugged": "true",
                "linked": "true",
                "vnic_profile": {"id": "profile-1"},
            },
            {"id": "nic-2", "name": "nic2", "mac": {"address": "56:6f:00:00:00:02"}, "plugged": "false"},
        ]
    },
    "snapshots": {
        "snapshot": [
            {"id": "s0", "snapshot_type": "active", "description": "Active VM", "persist_memorystate": "true"},
            {"id": "s1", "snapshot_type": "regular", "description": "before", "persist_memorystate": "true"},
            {"id": "s2", "snapshot_type": "regular", "description": "after", "persist_memorystate": "false"},
        ]
    },
    "host_devices": {"host_device": [{"name": "pci_0", "vendor": {"name": "ACME"}, "product": {"name": "GPU"}}]},
    "watchdogs": {},
    "custom_properties": {"custom_property": [{"name": "sap_agent", "value": "true"}]},
}


def world() -> World:
    return World(
        engine=(4, 5, 6),
        data_centers={"dc-1": {"id": "dc-1", "name": "Default"}},
        clusters={
            "cluster-1": {
                "id": "cluster-1",
                "name": "east",
                "data_center": {"id": "dc-1"},
                "version": {"major": "4", "minor": "7"},
                "bios_type": "q35_ovmf",
                "ksm": {"enabled": "true"},
                "ha_reservation": "false",
            }
        },
        hosts={"host-1": {"id": "host-1", "name": "node", "status": "maintenance", "cluster": {"id": "cluster-1"}}},
        networks={"net-1": {"id": "net-1", "name": "lan", "data_center": {"id": "dc-1"}, "vlan": {"id": "12"}}},
        profiles={
            "profile-1": {
                "id": "profile-1",
                "name": "lan",
                "network": {"id": "net-1"},
                "pass_through": {"mode": "disabled"},
                "port_mirroring": "false",
                "network_filter": {"id": "filter-1"},
            }
        },
        domains={
            "sd-1": {
                "id": "sd-1",
                "name": "data",
                "type": "data",
                "available": "600",
                "used": "400",
                "storage": {"type": "iscsi"},
                "data_centers": {"data_center": [{"id": "dc-1"}]},
            },
            "sd-2": {"id": "sd-2", "name": "isos", "type": "iso"},
        },
        disks={
            "disk-1": {
                "id": "disk-1",
                "alias": "root",
                "provisioned_size": str(GIB),
                "storage_type": "image",
                "format": "cow",
                "backup": "incremental",
                "status": "ok",
                "image_id": "image-1",
                "storage_domains": {"storage_domain": [{"id": "sd-1"}]},
            },
            "disk-2": {
                "id": "disk-2",
                "alias": "lun",
                "storage_type": "lun",
                "shareable": "true",
                "lun_storage": {
                    "type": "iscsi",
                    "logical_units": {"logical_unit": [{"id": "36", "size": str(2 * GIB)}]},
                },
            },
        },
    )


def read(world: World, **changes: Any) -> VM:
    said = copy.deepcopy(ENTITY) | changes
    return facts.settle(facts.read_vm(said), world, 7)


def test_the_vm() -> None:
    vm = read(world())
    assert (vm.id, vm.instance_uuid, vm.uuid, vm.name) == ("vm-1", "vm-1", "vm-1", "web")
    assert (vm.path, vm.cluster, vm.host) == ("/Default/east/web", "east", "host-1")
    assert (vm.cpus, vm.cores_per_socket, vm.memory) == (12, 6, 2 * GIB)
    assert (vm.guest_id, vm.guest_name) == ("rhel_8x64", "Red Hat Enterprise Linux 8.6")
    assert (vm.hostname, vm.tools_running, vm.native, vm.template) == ("web.example.com", True, True, False)
    assert vm.change_tracking is None
    assert (vm.snapshots, vm.revision) == (2, 7)
    assert vm.traits["cluster_level"] == (4, 7)
    assert vm.traits["engine"] == (4, 5, 6)
    assert (vm.traits["cluster_id"], vm.traits["data_center_id"]) == ("cluster-1", "dc-1")
    assert vm.traits["memory_snapshots"] == ("before",)
    assert vm.traits["host_devices"] == ("ACME GPU",)
    assert vm.traits["cpu_pins"] == ("0 on 1-4",)


@pytest.mark.parametrize(
    ("policy", "zone", "serial", "expected"),
    [
        ("dedicated", "Europe/Berlin", {"policy": "custom", "value": "ACME-1"}, (True, "Europe/Berlin", "ACME-1")),
        ("manual", "GMT Standard Time", {"policy": "vm"}, (False, "", "")),
        ("none", "Etc/GMT", {}, (False, "Etc/GMT", "")),
    ],
)
def test_processors_clock_and_serial_number(policy: str, zone: str, serial: Any, expected: object) -> None:
    vm = read(world(), cpu_pinning_policy=policy, time_zone={"name": zone}, serial_number=serial)
    assert (vm.dedicated_cpus, vm.timezone, vm.serial) == expected
    assert vm.threads == 2


def test_disks_of_images_and_luns_and_one_that_is_not_known() -> None:
    vm = read(world())
    root, lun, unknown = vm.disks
    assert (root.key, root.label, root.path, root.datastore) == ("disk-1", "root", "data/root", "sd-1")
    assert (root.capacity, root.bus, root.unit, root.bootable, root.shared) == (GIB, "scsi", 0, True, False)
    assert (root.backing_uuid, root.serial, root.change_tracking, root.rdm) == ("image-1", "disk-1", None, "")
    assert (lun.label, lun.datastore, lun.capacity, lun.bus, lun.shared) == ("lun", "", 2 * GIB, "virtio", True)
    assert (unknown.key, unknown.capacity, unknown.bus, unknown.unit) == ("disk-3", 0, "scsi", 1)
    told = vm.traits["disks"]
    assert told["disk-1"] == {
        "status": "ok",
        "storage_type": "image",
        "format": "cow",
        "backup": "incremental",
        "active": True,
        "read_only": False,
        "sparse": False,
        "content_type": "",
        "interface": "virtio_scsi",
        "scsi_reservation": False,
        "lun": "",
    }
    assert (told["disk-2"]["lun"], told["disk-2"]["backup"], told["disk-2"]["status"]) == ("36", "none", "ok")
    assert told["disk-3"]["active"] is False


def test_nics_are_joined_to_networks_through_their_profiles() -> None:
    vm = read(world())
    first, second = vm.nics
    assert (first.key, first.label, first.mac) == ("nic-1", "nic1", "56:6f:00:00:00:01")
    assert (first.network, first.model, first.connected) == ("net-1", "virtio", True)
    assert (second.network, second.connected) == ("", False)
    assert vm.traits["nics"]["nic-1"]["network_filter"] == "filter-1"
    assert vm.traits["nics"]["nic-2"]["plugged"] is False


@pytest.mark.parametrize(
    "own, clusters, firmware, secure",
    [
        ("q35_sea_bios", "q35_ovmf", "bios", False),
        ("i440fx_sea_bios", "q35_ovmf", "bios", False),
        ("q35_ovmf", "", "efi", False),
        ("q35_secure_boot", "", "efi", True),
        ("cluster_default", "q35_secure_boot", "efi", True),
        ("", "q35_ovmf", "efi", False),
        ("", "", "bios", False),
    ],
)
def test_firmware_is_the_vms_or_its_clusters(own: str, clusters: str, firmware: str, secure: bool) -> None:
    known = world()
    known.clusters["cluster-1"]["bios_type"] = clusters
    vm = read(known, bios={"type": own})
    assert (vm.firmware, vm.secure_boot) == (firmware, secure)


@pytest.mark.parametrize(
    "os, device, tpm",
    [("windows_11", "", True), ("windows_2022", "false", True), ("rhel_9x64", "true", True), ("rhel_9x64", "", False)],
)
def test_a_tpm_is_there_or_the_system_needs_one(os: str, device: str, tpm: bool) -> None:
    assert read(world(), os={"type": os}, tpm_enabled=device).tpm is tpm


@pytest.mark.parametrize(
    "status, power",
    [
        ("up", Power.ON),
        ("powering_down", Power.ON),
        ("paused", Power.ON),
        ("down", Power.OFF),
        ("suspended", Power.SUSPENDED),
        ("unknown", Power.UNKNOWN),
        ("something new", Power.UNKNOWN),
    ],
)
def test_power(status: str, power: Power) -> None:
    assert read(world(), status=status).power is power


def test_surroundings() -> None:
    known = world()
    (network,) = facts.networks(known).values()
    assert (network.id, network.name, network.path, network.vlan) == ("net-1", "lan", "/Default/lan", "12")
    (store,) = facts.datastores(known).values()
    assert (store.id, store.path, store.kind, store.capacity, store.free) == (
        "sd-1",
        "/Default/data",
        "iscsi",
        1000,
        600,
    )
    assert store.datacenter == "Default"
    (host,) = facts.hosts(known).values()
    assert (host.path, host.cluster, host.in_maintenance) == ("/Default/east/node", "east", True)
    assert host.status == "maintenance"


def test_almost_nothing_is_enough() -> None:
    vm = facts.settle(facts.read_vm({"id": "x"}), World())
    assert (vm.id, vm.cpus, vm.path, vm.disks, vm.power) == ("x", 1, "/", (), Power.UNKNOWN)
