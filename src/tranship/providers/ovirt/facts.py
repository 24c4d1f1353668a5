"""From the Engine's JSON to inventory facts. Pure.

Called by the inventory for each object of a listing or that an event was about. A VM is made in two steps: `read_vm` takes
what the VM itself says, `settle` adds what only its surroundings know (its disks' sizes and states, networks behind vNIC
profiles, cluster, paths), so that a disk that was locked for a moment costs no second read of its VM.

VM.traits, for concerns and for the source (ways, backups):

- `status`: the VM's, in the Engine's words; `has_illegal_images`, `bios_type`, `cluster_id`, `data_center_id`
- `engine`: version of the Engine, (4, 5, 6); `cluster_level`: (4, 7), () when it is not known
- `disks`: per disk id `status` (ok, locked, illegal), `storage_type` (image, lun, cinder, managed_block_storage), `format`
  (cow, raw), `backup` (incremental, none), `active` (plugged), `read_only`, `sparse`, `content_type`, `interface`,
  `scsi_reservation`, `lun` (id of the logical unit)
- `nics`: per NIC id `plugged`, `linked`, `profile` (name), `pass_through`, `network_filter`, `qos`, `port_mirroring`,
  `custom_properties`
- what else concerns.py asks for
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tranship.inventory.estate import Datastore, Host, Network
from tranship.inventory.vm import VM, Disk, Nic, Power
from tranship.providers.ovirt.concerns import NEEDS_TPM, concerns
from tranship.providers.ovirt.values import Entity, boolean, get, integer, many, text

POWER: Mapping[str, Power] = {
    "up": Power.ON,
    "powering_up": Power.ON,
    "powering_down": Power.ON,
    "reboot_in_progress": Power.ON,
    "wait_for_launch": Power.ON,
    "migrating": Power.ON,
    "paused": Power.ON,
    "not_responding": Power.ON,
    "saving_state": Power.ON,
    "restoring_state": Power.ON,
    "suspended": Power.SUSPENDED,
    "down": Power.OFF,
    "image_locked": Power.OFF,
}
"""A paused VM keeps its process and its memory, so it is on. unassigned and unknown are not known to anybody."""

_EFI = ("q35_ovmf", "q35_secure_boot")
_BUSES = {"virtio_scsi": "scsi"}
_NO_DISKS = ("iso", "export", "image", "volume")  # kinds of storage domains that hold none of VMs


@dataclass(slots=True)
class World:
    """Everything but the VMs, as the Engine writes it, by id."""

    engine: tuple[int, ...] = ()
    data_centers: dict[str, Entity] = field(default_factory=dict)
    clusters: dict[str, Entity] = field(default_factory=dict)
    hosts: dict[str, Entity] = field(default_factory=dict)
    networks: dict[str, Entity] = field(default_factory=dict)
    profiles: dict[str, Entity] = field(default_factory=dict)
    domains: dict[str, Entity] = field(default_factory=dict)
    disks: dict[str, Entity] = field(default_factory=dict)

    def path(self, data_center: str, *names: str) -> str:
        """/DC/name, or /DC/cluster/name for what is in a cluster. What is not known has no part in it."""
        first = text(self.data_centers.get(data_center), "name")
        return "/" + "/".join(name for name in (first, *names) if name)

    def in_cluster(self, cluster: str, name: str) -> str:
        said = self.clusters.get(cluster)
        return self.path(text(said, "data_center", "id"), text(said, "name"), name)


def by_id(entities: Iterable[Entity]) -> dict[str, Entity]:
    return {text(entity, "id"): entity for entity in entities}


# -- the VM's own part ----------------------------------------------------------------------------------------------------


def read_vm(said: Entity) -> VM:
    """said: a VM with its disk_attachments, nics, snapshots, host_devices and watchdogs followed."""
    id, status, os = text(said, "id"), text(said, "status"), text(said, "os", "type")
    sockets, cores, threads = (
        max(integer(said, "cpu", "topology", name, default=1), 1) for name in ("sockets", "cores", "threads")
    )
    guest = get(said, "guest_operating_system")
    return VM(
        id=id,
        name=text(said, "name"),
        instance_uuid=id,
        uuid=id,
        power=POWER.get(status, Power.UNKNOWN),
        cpus=sockets * cores * threads,
        cores_per_socket=cores * threads,
        threads=threads,
        dedicated_cpus=text(said, "cpu_pinning_policy") == "dedicated",
        timezone=_timezone(text(said, "time_zone", "name")),
        serial=text(said, "serial_number", "value") if text(said, "serial_number", "policy") == "custom" else "",
        memory=integer(said, "memory"),
        tpm=boolean(said, "tpm_enabled") or os in NEEDS_TPM,
        host=text(said, "host", "id"),
        cluster=text(said, "cluster", "id"),
        guest_id=os,
        guest_name=_guest_name(guest) or os,
        hostname=text(said, "fqdn"),
        tools_running=status == "up" and bool(guest or text(said, "fqdn")),
        native=True,
        change_tracking=None,
        snapshots=sum(1 for snapshot in many(said, "snapshots") if not _is_present(snapshot)),
        disks=tuple(_attached(said)),
        nics=tuple(_nics(said)),
        traits=_traits(said),
    )


def _timezone(name: str) -> str:
    """Windows guests have Microsoft's names for zones, which no clock of the target knows."""
    return name if "/" in name or name in ("UTC", "GMT") else ""


def _guest_name(guest: Any) -> str:
    parts = (text(guest, "distribution") or text(guest, "family"), text(guest, "version", "full_version"))
    return " ".join(part for part in parts if part)


def _is_present(snapshot: Entity) -> bool:
    """The entry that stands for the VM as it is now."""
    return text(snapshot, "snapshot_type") == "active"


def _attached(said: Entity) -> Iterable[Disk]:
    """What the attachments say; sizes and places come with the disks."""
    units: dict[str, int] = {}
    for attachment in many(said, "disk_attachments"):
        interface = text(attachment, "interface")
        bus = _BUSES.get(interface, interface)
        unit = units[bus] = units.get(bus, -1) + 1
        id = text(attachment, "disk", "id") or text(attachment, "id")
        yield Disk(
            key=id,
            label=text(attachment, "name") or id,
            path="",
            datastore="",
            capacity=0,
            bus=bus,
            unit=unit,
            serial=id,
            bootable=boolean(attachment, "bootable"),
        )


def _nics(said: Entity) -> Iterable[Nic]:
    for nic in many(said, "nics"):
        yield Nic(
            key=text(nic, "id"),
            label=text(nic, "name"),
            mac=text(nic, "mac", "address").lower(),
            network=text(nic, "vnic_profile", "id"),
            model=text(nic, "interface"),
            connected=boolean(nic, "plugged") and text(nic, "linked") != "false",
        )


def _traits(said: Entity) -> dict[str, Any]:
    return {
        "status": text(said, "status"),
        "has_illegal_images": boolean(said, "has_illegal_images"),
        "bios_type": text(said, "bios", "type"),
        "boot_menu": boolean(said, "bios", "boot_menu", "enabled"),
        "ballooning": boolean(said, "memory_policy", "ballooning"),
        "display": text(said, "display", "type"),
        "io_threads": integer(said, "io", "threads"),
        "resume_behaviour": text(said, "storage_error_resume_behaviour"),
        "custom_cpu_model": text(said, "custom_cpu_model"),
        "cpu_shares": integer(said, "cpu_shares"),
        "cpu_pins": tuple(
            f"{text(pin, 'vcpu')} on {text(pin, 'cpu_set')}" for pin in many(said, "cpu", "cpu_tune", "vcpu_pins")
        ),
        "cpu_pinning_policy": text(said, "cpu_pinning_policy"),
        "custom_properties": tuple(text(item, "name") for item in many(said, "custom_properties")),
        "host_devices": tuple(_device(item) for item in many(said, "host_devices")),
        "watchdogs": tuple(text(item, "model") for item in many(said, "watchdogs")),
        "usb": boolean(said, "usb", "enabled"),
        "ha": boolean(said, "high_availability", "enabled"),
        "numa_pins": tuple(
            f"node {text(node, 'index')}" for node in many(said, "numa_nodes") if many(node, "numa_node_pins")
        ),
        "affinity": text(said, "placement_policy", "affinity"),
        "memory_snapshots": tuple(
            text(snapshot, "description")
            for snapshot in many(said, "snapshots")
            if boolean(snapshot, "persist_memorystate") and not _is_present(snapshot)
        ),
        "attachments": by_disk(many(said, "disk_attachments")),
        "cards": by_id(many(said, "nics")),
    }


def by_disk(attachments: Iterable[Entity]) -> dict[str, Entity]:
    return {text(item, "disk", "id") or text(item, "id"): item for item in attachments}


def _device(said: Entity) -> str:
    named = " ".join(part for part in (text(said, "vendor", "name"), text(said, "product", "name")) if part)
    return named or text(said, "name") or text(said, "capability")


# -- what the surroundings add --------------------------------------------------------------------------------------------


def settle(vm: VM, world: World, revision: int = 0) -> VM:
    """vm: as `read_vm` made it."""
    cluster = world.clusters.get(vm.cluster)
    bios = vm.traits["bios_type"]
    if bios in ("", "cluster_default"):
        bios = text(cluster, "bios_type")
    own = {name: value for name, value in vm.traits.items() if name not in ("attachments", "cards")}
    level = tuple(integer(cluster, "version", part) for part in ("major", "minor"))
    traits = {
        **own,
        "bios_type": bios,
        "engine": world.engine,
        "cluster_id": vm.cluster,
        "cluster_level": level if any(level) else (),
        "data_center_id": text(cluster, "data_center", "id"),
        "ksm": boolean(cluster, "ksm", "enabled"),
        "ha_reservation": boolean(cluster, "ha_reservation"),
        "disks": {disk.key: _disk_traits(vm, disk.key, world) for disk in vm.disks},
        "nics": {nic.key: _nic_traits(vm, nic, world) for nic in vm.nics},
    }
    whole = replace(
        vm,
        path=world.in_cluster(vm.cluster, vm.name),
        cluster=text(cluster, "name"),
        firmware="efi" if bios in _EFI else "bios",
        secure_boot=bios == "q35_secure_boot",
        disks=tuple(_whole_disk(disk, world) for disk in vm.disks),
        nics=tuple(_whole_nic(nic, world.profiles.get(nic.network)) for nic in vm.nics),
        traits=traits,
        revision=revision,
    )
    return replace(whole, concerns=concerns(whole))


def _whole_disk(disk: Disk, world: World) -> Disk:
    said = world.disks.get(disk.key)
    label = text(said, "alias") or text(said, "name") or disk.label
    domain = next((text(item, "id") for item in many(said, "storage_domains")), "") if not _lun(said) else ""
    return replace(
        disk,
        label=label,
        path=f"{text(world.domains.get(domain), 'name') or 'LUN'}/{label}",
        datastore=domain,
        capacity=integer(_lun(said), "size") or integer(said, "provisioned_size"),
        shared=boolean(said, "shareable"),
        backing_uuid=text(said, "image_id"),
    )


def _whole_nic(nic: Nic, profile: Entity | None) -> Nic:
    direct = text(profile, "pass_through", "mode") == "enabled"
    return replace(nic, network=text(profile, "network", "id"), pass_through=direct)


def _lun(disk: Any) -> Entity | None:
    return next(iter(many(disk, "lun_storage", "logical_units")), None)


def _disk_traits(vm: VM, key: str, world: World) -> dict[str, Any]:
    said, attachment = world.disks.get(key), vm.traits["attachments"].get(key)
    return {
        "status": text(said, "status") or ("ok" if _lun(said) else ""),  # the Engine keeps no status of a LUN
        "storage_type": text(said, "storage_type"),
        "format": text(said, "format"),
        "backup": text(said, "backup") or "none",
        "active": boolean(attachment, "active"),
        "read_only": boolean(attachment, "read_only"),
        "sparse": boolean(said, "sparse"),
        "content_type": text(said, "content_type"),
        "interface": text(attachment, "interface"),
        "scsi_reservation": boolean(attachment, "uses_scsi_reservation"),
        "lun": text(_lun(said), "id"),
    }


def _nic_traits(vm: VM, nic: Nic, world: World) -> dict[str, Any]:
    card, profile = vm.traits["cards"].get(nic.key), world.profiles.get(nic.network)
    return {
        "plugged": boolean(card, "plugged"),
        "linked": text(card, "linked") != "false",
        "profile": text(profile, "name"),
        "pass_through": text(profile, "pass_through", "mode") == "enabled",
        "network_filter": text(profile, "network_filter", "id"),
        "qos": text(profile, "qos", "id"),
        "port_mirroring": boolean(profile, "port_mirroring"),
        "custom_properties": tuple(text(item, "name") for item in many(profile, "custom_properties")),
    }


def networks(world: World) -> dict[str, Network]:
    return {id: _network(said, world) for id, said in world.networks.items()}


def _network(said: Entity, world: World) -> Network:
    return Network(
        id=text(said, "id"),
        name=text(said, "name"),
        path=world.path(text(said, "data_center", "id"), text(said, "name")),
        vlan=text(said, "vlan", "id"),
    )


def datastores(world: World) -> dict[str, Datastore]:
    """The storage domains that can hold disks of VMs."""
    return {id: _datastore(said, world) for id, said in world.domains.items() if text(said, "type") not in _NO_DISKS}


def _datastore(said: Entity, world: World) -> Datastore:
    center = next((text(item, "id") for item in many(said, "data_centers")), text(said, "data_center", "id"))
    free = integer(said, "available")
    return Datastore(
        id=text(said, "id"),
        name=text(said, "name"),
        path=world.path(center, text(said, "name")),
        kind=text(said, "storage", "type"),
        capacity=free + integer(said, "used"),
        free=free,
        datacenter=text(world.data_centers.get(center), "name"),
    )


def hosts(world: World) -> dict[str, Host]:
    return {id: _host(said, world) for id, said in world.hosts.items()}


def _host(said: Entity, world: World) -> Host:
    cluster, status = text(said, "cluster", "id"), text(said, "status")
    return Host(
        id=text(said, "id"),
        name=text(said, "name"),
        path=world.in_cluster(cluster, text(said, "name")),
        cluster=text(world.clusters.get(cluster), "name"),
        in_maintenance=status in ("maintenance", "preparing_for_maintenance"),
        status=status,
    )
