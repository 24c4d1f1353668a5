"""From a source VM, a plan and its maps to an order for the target: what machine is to be made.

Pure. Called when a plan is validated and when a migration starts; target providers read the MachineOrder.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from tranship.errors import Invalid
from tranship.inventory.estate import Datastore, Estate, Network
from tranship.inventory.vm import VM, Disk, Nic
from tranship.resources.meta import Ref
from tranship.resources.networkmap import DestinationNetwork, NetworkMapSpec
from tranship.resources.plan import Plan
from tranship.resources.storagemap import DestinationStorage, StorageMapSpec
from tranship.resources.vm import PlanVM


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskOrder:
    """source: key of the source disk. name: unique per machine, safe in a file name. pool: destination storage (class or
    directory). size in bytes, a multiple of 512. bus: virtio, sata, scsi. boot: 1 = boot disk, 0 = not booted from."""

    source: str
    name: str
    pool: str
    size: int
    bus: str = "virtio"
    boot: int = 0
    access_mode: str = ""
    volume_mode: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NicOrder:
    """kind: pod (NAT), multus (a named network: bridge on a KVM host) ; ignored NICs are not in the order."""

    mac: str
    kind: str
    network: str = ""
    namespace: str = ""
    model: str = "virtio"


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineOrder:
    """owner: "<plan uid>/<vm id>", the mark by which the target adopts or refuses. memory in bytes."""

    owner: str
    name: str
    namespace: str
    uuid: str
    sockets: int
    cores: int
    memory: int
    firmware: str = "bios"
    secure_boot: bool = False
    tpm: bool = False
    disks: tuple[DiskOrder, ...] = ()
    nics: tuple[NicOrder, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    start: bool = False


LONGEST_NAME = 63


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


def order(
    plan: Plan, entry: PlanVM, vm: VM, networks: NetworkMapSpec, storages: StorageMapSpec, estate: Estate
) -> MachineOrder:
    """The machine to be made. Everything must be mapped (see `unmapped`). Raises Invalid for an impossible name."""
    name = target_name(entry.target_name, vm.name, vm.id)
    return MachineOrder(
        owner=f"{plan.uid}/{vm.id}",
        name=name,
        namespace=plan.spec.target_namespace,
        uuid=vm.uuid or vm.instance_uuid,
        sockets=max(vm.cpus // max(vm.cores_per_socket, 1), 1),
        cores=max(vm.cores_per_socket, 1),
        memory=vm.memory,
        firmware=vm.firmware,
        secure_boot=vm.secure_boot,
        tpm=vm.tpm,
        disks=tuple(_disks(name, vm, storages, estate, _buses(plan, vm))),
        nics=tuple(_nics(vm, networks, estate, _models(plan, vm))),
        labels={**plan.spec.target_labels, "plan": plan.uid, "vmID": vm.id},
        annotations={"original-ID": vm.id, "openshift.io/display-name": vm.name},
    )


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
    name: str, vm: VM, storages: StorageMapSpec, estate: Estate, bus: Callable[[Disk], str]
) -> Iterator[DiskOrder]:
    first = next((disk.key for disk in vm.disks if disk.bootable), vm.disks[0].key if vm.disks else "")
    for number, disk in enumerate(vm.disks):
        destination = storage_for(disk, storages, estate)
        if destination is None:
            raise Invalid(f"datastore {disk.datastore} is not mapped", field="spec.map.storage")
        yield DiskOrder(
            source=disk.key,
            name=f"{name[:40]}-disk-{number}",
            pool=destination.storage_class,
            size=disk.capacity,
            bus=bus(disk),
            boot=1 if disk.key == first else 0,
            access_mode=destination.access_mode or "",
            volume_mode=destination.volume_mode or "",
        )


def _nics(vm: VM, networks: NetworkMapSpec, estate: Estate, model: Callable[[Nic], str]) -> Iterator[NicOrder]:
    for nic in vm.nics:
        destination = network_for(nic, networks, estate)
        if destination is None:
            raise Invalid(f"network {nic.network} is not mapped", field="spec.map.network")
        if destination.type != "ignored":
            yield NicOrder(
                mac=nic.mac,
                kind=destination.type,
                network=destination.name,
                namespace=destination.namespace,
                model=model(nic),
            )
