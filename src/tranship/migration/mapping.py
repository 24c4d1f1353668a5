"""From a source VM, a plan and its maps to an order for the target: what machine is to be made.

Pure. Called when a plan is validated and when a migration starts; target providers read the MachineOrder.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, NamedTuple

import msgspec

from tranship.errors import Invalid
from tranship.inventory.estate import Datastore, Estate, Network
from tranship.inventory.vm import VM, Disk, Nic
from tranship.migration import names
from tranship.resources.controller import Settings
from tranship.resources.meta import Ref
from tranship.resources.networkmap import DestinationNetwork, NetworkMapSpec
from tranship.resources.plan import Plan
from tranship.resources.storagemap import DestinationStorage, StorageMapSpec
from tranship.resources.vm import PlanVM


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskOrder:
    """source: key of the source disk. name: of the disk on the target (claim or file), a DNS label. pool: destination
    storage (class or directory). size in bytes, a multiple of 512. bus: virtio, sata, scsi. boot: place in the boot order,
    0 = none. volume: the disk's name within the machine. origin: what the source calls it, a path or an id. serial: what
    the guest reads as the disk's serial number."""

    source: str
    name: str
    pool: str
    size: int
    bus: str = "virtio"
    boot: int = 0
    access_mode: str = ""
    volume_mode: str = ""
    volume: str = ""
    origin: str = ""
    shared: bool = False
    serial: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NicOrder:
    """kind: pod (NAT), multus (a named network: bridge on a KVM host) ; ignored NICs are not in the order. up: the cable is
    plugged in. pci: where the guest shall see it, "" = anywhere. pass_through: a function of the host's card."""

    mac: str
    kind: str
    network: str = ""
    namespace: str = ""
    model: str = "virtio"
    name: str = ""
    up: bool = True
    pci: str = ""
    pass_through: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineOrder:
    """owner: "<plan uid>/<vm id>", the mark by which the target adopts or refuses. memory in bytes. serial: what the guest
    reads as the machine's serial number. affinity: as Kubernetes writes it. instance_type: name of one that gives processors
    and memory instead. filesystem_overhead: the share of a file system that is lost to itself, where the target does not know
    better; block_overhead: bytes that a block volume is made larger by. threads: of a core. nested: whether the machine may
    run machines itself, None = as the target has it. timezone: of its clock, "" = UTC. service_account: of the movers' pods in
    a cluster, "" = the namespace's default. transfer_network: by which the disks' bytes come there, namespace/name; "" = the
    movers' own."""

    owner: str
    name: str
    namespace: str
    uuid: str
    sockets: int
    cores: int
    memory: int
    threads: int = 1
    dedicated_cpus: bool = False
    nested: bool | None = None
    timezone: str = ""
    firmware: str = "bios"
    secure_boot: bool = False
    tpm: bool = False
    disks: tuple[DiskOrder, ...] = ()
    nics: tuple[NicOrder, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    start: bool = False
    serial: str = ""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    affinity: Mapping[str, Any] = field(default_factory=dict)
    instance_type: str = ""
    filesystem_overhead: float = 0.1
    block_overhead: int = 0
    service_account: str = ""
    transfer_network: str = ""


def told(order: Any) -> dict[str, Any]:
    """An order as JSON, without what is as always; msgspec.convert reads it."""
    values = ((field, getattr(order, field.name)) for field in fields(order))
    return {
        field.name: [told(one) for one in value] if isinstance(value, tuple) else msgspec.to_builtins(value)
        for field, value in values
        if value != (field.default if field.default_factory is MISSING else field.default_factory())
    }


LONGEST_NAME = 63
DEFAULTS = Settings()


def target_name(wanted: str, source: str, id: str) -> str:
    """The user's name as it is, else the source's made fit for DNS-1123 as Forklift does it. Raises Invalid."""
    if wanted:
        if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", wanted) or len(wanted) > LONGEST_NAME:
            remedy = "Use lower case letters, digits and '-', at most 63, with a letter or digit at both ends."
            raise Invalid(f"{wanted!r} is no DNS-1123 name", field="spec.vms[].targetName", remedy=remedy)
        return wanted
    name = re.sub(r"[_+*/\\ ]", "-", source.lower())
    name = re.sub(r"[^-a-z0-9.]", "", name)[:LONGEST_NAME].strip("-.")
    return name or f"vm-{re.sub(r'[^a-z0-9]', '', id.lower())}"


class Unmapped(NamedTuple):
    """A network or datastore that the map does not mention. what: network or datastore; used_by: label of NIC or disk."""

    what: str
    id: str
    name: str
    used_by: str


def network_for(nic: Nic, spec: NetworkMapSpec, estate: Estate) -> DestinationNetwork | None:
    network = estate.networks.get(nic.network)
    vlan = network.vlan if network else ""
    fitting = [pair for pair in spec.map if _means(pair.source, nic.network, network)]
    exact = [pair for pair in fitting if pair.source.vlan and pair.source.vlan == vlan]
    general = [pair for pair in fitting if not pair.source.vlan]
    return next((pair.destination for pair in exact + general), None)


def storage_for(disk: Disk, spec: StorageMapSpec, estate: Estate) -> DestinationStorage | None:
    datastore = estate.datastores.get(disk.datastore)
    return next((pair.destination for pair in spec.map if _means(pair.source, disk.datastore, datastore)), None)


def _means(ref: Ref, id: str, thing: Network | Datastore | None) -> bool:
    if ref.id:
        return ref.id == id
    return thing is not None and ref.name in (thing.name, thing.path)


def unmapped(vm: VM, networks: NetworkMapSpec, storages: StorageMapSpec, estate: Estate) -> list[Unmapped]:
    missing = []
    for nic in vm.nics:
        if network_for(nic, networks, estate) is None:
            name = estate.networks[nic.network].name if nic.network in estate.networks else nic.network
            missing.append(Unmapped("network", nic.network, name, nic.label))
    for disk in vm.disks:
        if storage_for(disk, storages, estate) is None:
            name = estate.datastores[disk.datastore].name if disk.datastore in estate.datastores else disk.datastore
            missing.append(Unmapped("datastore", disk.datastore, name, disk.label))
    return missing


def transfer_network(plan: Plan, defaults: Sequence[str], target: Estate) -> str:
    """The NetworkAttachmentDefinition by which the plan's disks travel, namespace/name; "" = the pods' own network. The plan's
    word wins. defaults: what provider and installation say, the nearer first; a name without a namespace means the one
    that is moved into, where it has one of that name."""
    if own := plan.spec.transfer_network:
        return f"{own.namespace or plan.spec.target_namespace}/{own.name}"
    for name in defaults:
        id = name if "/" in name else f"{plan.spec.target_namespace}/{name}"
        if name and ("/" in name or id in target.networks):
            return id
    return ""


def order(
    plan: Plan,
    entry: PlanVM,
    vm: VM,
    networks: NetworkMapSpec,
    storages: StorageMapSpec,
    estate: Estate,
    *,
    settings: Settings = DEFAULTS,
    migration: str = "",
    transfer_network: str = "",
) -> MachineOrder:
    """The machine to be made. Everything must be mapped (see `unmapped`). migration: uid of the one that makes it.
    transfer_network: see `transfer_network`. Raises Invalid for an impossible name."""
    name = target_name(entry.target_name, vm.name, vm.id)
    owner = f"{plan.uid}/{vm.id}"
    system = {"plan": plan.uid, "vmID": vm.id, "guestConverted": "false"}
    system |= {"migration": migration} if migration else {}
    in_socket, threads = max(vm.cores_per_socket, 1), max(vm.threads, 1)
    return MachineOrder(
        owner=owner,
        name=name,
        namespace=plan.spec.target_namespace,
        uuid=vm.uuid or vm.instance_uuid,
        serial=vm.serial or (vm.uuid if vm.native else _vmware_serial(vm.uuid)),
        sockets=max(vm.cpus // in_socket, 1),
        cores=max(in_socket // threads, 1),
        threads=threads,
        dedicated_cpus=vm.dedicated_cpus,
        nested=_nested(plan, entry, vm),
        timezone=vm.timezone,
        memory=vm.memory,
        firmware=vm.firmware,
        secure_boot=vm.secure_boot,
        tpm=vm.tpm,
        disks=tuple(_disks(plan, entry, vm, name, owner, storages, estate, settings.pvc_name_template)),
        nics=tuple(_nics(plan, entry, vm, networks, estate)),
        labels={**plan.spec.target_labels, **system},
        annotations={"original-ID": vm.id, "openshift.io/display-name": vm.name},
        node_selector=dict(plan.spec.target_node_selector),
        affinity=dict(plan.spec.target_affinity),
        instance_type=entry.instance_type,
        filesystem_overhead=settings.filesystem_overhead,
        block_overhead=settings.block_overhead,
        service_account=plan.spec.service_account or settings.migration_service_account,
        transfer_network=transfer_network,
    )


def _nested(plan: Plan, entry: PlanVM, vm: VM) -> bool | None:
    """What the user says, the VM's own word first; else as it is on the source, where that is more than the target's."""
    for wish in (entry.enable_nested_virtualization, plan.spec.enable_nested_virtualization):
        if wish is not None:
            return wish
    return True if vm.nested else None


def _vmware_serial(uuid: str) -> str:
    """What a guest on VMware reads as its serial number, made of its UUID; licences may hang on it. "" = no such UUID."""
    digits = uuid.replace("-", "").lower()
    if not re.fullmatch(r"[0-9a-f]{32}", digits):
        return ""
    pairs = [digits[at : at + 2] for at in range(0, 32, 2)]
    return f"VMware-{' '.join(pairs[:8])}-{' '.join(pairs[8:])}"


def _buses(plan: Plan, vm: VM) -> Callable[[Disk], str]:
    """A guest that had other hardware gets what it will have drivers for; one that ran on KVM keeps what it has."""
    if vm.native:
        return lambda disk: {"scsi": "scsi", "sata": "sata", "ide": "sata"}.get(disk.bus, "virtio")
    compatible = plan.spec.skip_guest_conversion and plan.spec.use_compatibility_mode
    return lambda disk: "sata" if compatible else "virtio"


def _models(plan: Plan, vm: VM) -> Callable[[Nic], str]:
    if vm.native:
        return lambda nic: nic.model if nic.model in ("e1000", "rtl8139") else "virtio"
    compatible = plan.spec.skip_guest_conversion and plan.spec.use_compatibility_mode
    return lambda nic: "e1000e" if compatible else "virtio"


def _disks(
    plan: Plan,
    entry: PlanVM,
    vm: VM,
    machine: str,
    owner: str,
    storages: StorageMapSpec,
    estate: Estate,
    default_template: str,
) -> Iterator[DiskOrder]:
    root, bus = _boot_disk(entry, vm), _buses(plan, vm)
    taken: set[str] = set()
    for number, disk in enumerate(vm.disks):
        destination = storage_for(disk, storages, estate)
        if destination is None:
            raise Invalid(f"datastore {disk.datastore} is not mapped", field="spec.map.storage")
        claim = names.claim_name(plan, entry, vm, machine, number, root, owner, default_template)
        volume = names.volume_name(plan, entry, claim, number)
        _unique(taken, {"pvcNameTemplate": claim, "volumeNameTemplate": volume})
        yield DiskOrder(
            source=disk.key,
            name=claim,
            pool=destination.storage_class,
            size=disk.capacity,
            bus=bus(disk),
            boot=_boot_order(number, root),
            access_mode=destination.access_mode or "",
            volume_mode=destination.volume_mode or "",
            volume=volume,
            origin=disk.path,
            shared=disk.shared,
            serial=_disk_serial(vm, disk),
        )


def _unique(taken: set[str], made: Mapping[str, str]) -> None:
    for template, name in made.items():
        if f"{template} {name}" in taken:
            remedy = "Put an index into the template."
            raise Invalid(f"two are named {name!r}", field=f"spec.{template}", remedy=remedy)
        taken.add(f"{template} {name}")


def _boot_disk(entry: PlanVM, vm: VM) -> int:
    """Its number: what rootDisk names (/dev/sda2 is on the first), else the first bootable one, else the first."""
    if entry.root_disk:
        letter = re.fullmatch(r"(?:/dev/)?[a-z]d([a-z])\d*", entry.root_disk)
        number = ord(letter[1]) - ord("a") if letter else len(vm.disks)
        if number >= len(vm.disks):
            remedy = "Write the disk as Linux names it: /dev/sda for the first."
            raise Invalid(f"{entry.root_disk!r} is no disk of {vm.name}", field="spec.vms[].rootDisk", remedy=remedy)
        return number
    return next((number for number, disk in enumerate(vm.disks) if disk.bootable), 0)


def _boot_order(number: int, root: int) -> int:
    """All disks have a place: a BIOS that follows an order strictly shows boot loaders none that has not, and theirs may lie
    on several."""
    return 1 if number == root else number + (2 if number < root else 1)


def _disk_serial(vm: VM, disk: Disk) -> str:
    """VMware shows a disk's serial number to the guest on SCSI only, and only if told to."""
    shown = vm.native or (disk.bus == "scsi" and vm.traits.get("disk_enable_uuid"))
    return disk.serial if shown and re.fullmatch(r"[A-Za-z0-9_.+-]{1,256}", disk.serial) else ""


def _nics(plan: Plan, entry: PlanVM, vm: VM, networks: NetworkMapSpec, estate: Estate) -> Iterator[NicOrder]:
    model, number, taken = _models(plan, vm), 0, set[str]()
    for nic in vm.nics:
        destination = network_for(nic, networks, estate)
        if destination is None:
            raise Invalid(f"network {nic.network} is not mapped", field="spec.map.network")
        if destination.type != "ignored":
            name = names.network_name(plan, entry, destination.type, destination.name, destination.namespace, number)
            _unique(taken, {"networkNameTemplate": name})
            yield NicOrder(
                mac=nic.mac,
                kind=destination.type,
                network=destination.name,
                namespace=destination.namespace,
                model=model(nic),
                name=name,
                up=nic.connected,
                pci=nic.pci,
                pass_through=nic.pass_through and destination.type == "multus",
            )
            number += 1
