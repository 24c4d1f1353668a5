"""Follows the inventory: one listing, then what the Engine's events are about, as Estates.

Called by the provider's source with a Client of its own, because listings take long.

Theory of operation. The newest event is noted, then everything is listed (VMs by pages, with what hangs on them followed);
so what changes during the listing is read again. After that each poll asks for the events behind the cursor, and for the
event at the cursor itself: if that is gone, the Engine's database is another one or its log was cut, and everything is
listed anew. An event that names a VM costs one read of that VM; disks and surroundings are few and are listed as a whole;
an event that names nothing we know of, or too many of them, is a reason to list everything.

Events are not the whole truth: free space and what guests report change without any, and two transactions may commit in
another order than that of their events' numbers. Therefore everything is listed again every half hour.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from threading import Event

from tranship.errors import NotFound
from tranship.inventory.estate import Estate
from tranship.inventory.vm import VM
from tranship.providers.ovirt import facts
from tranship.providers.ovirt.client import Client
from tranship.providers.ovirt.values import Entity, integer, many, text

_HANGS_ON = "host_devices,snapshots,watchdogs,nics"
_MOST_EVENTS = 1000  # in one poll; more tell that listing everything is cheaper
_MOST_VMS = 100
# Codes of events that say by themselves what they are about; the rest is known by the objects that they name.
_VMS = {34, 37, 53, 113, 124, 172, 174, 1130, 1152, 1229, 1720, 2042, 2043, 2044}  # added, removed, imported
_DISKS = {
    *(86, 88, 97, 371, 373, 375, 377, 378, 382),
    *range(2000, 2056),  # plugged, copied, moved, attached, added, removed
    *(1031, 1032, 1033, 1034, 1035, 1053, *range(1060, 1078)),  # image transfers lock and unlock
    *(1054, 1055, 1056, 1057),  # LUNs
}
_SURROUNDINGS = {
    *(809, 811, 813, 835, 950, 952, 954, 918, *range(956, 1010), 1029, 1030),
    *(942, 944, 946, 948, 1112, 1114, 1122, 1124, 1126, 1142, 1140, 10920),  # networks, vNIC profiles
    *range(10100, 10136),  # QoS, profiles
}
_NOTHING = {
    *(30, 31, 114, 815, 831, 832, 1010, *range(1171, 1186)),  # sessions, of which our own is one
    *range(9022, 9027),  # backups of the Engine's database
    *(9500, 9501, 9700, 9701, 9704, *range(9801, 9805), 11000, 11001),
    *range(3000, 3017),  # quotas
}


@dataclass
class _Changes:
    """What has to be read again."""

    everything: bool = False
    vms: set[str] = field(default_factory=set)
    disks: bool = False
    surroundings: bool = False

    def __bool__(self) -> bool:
        return self.everything or self.disks or self.surroundings or bool(self.vms)

    def add(self, event: Entity) -> None:
        code, vm = integer(event, "code"), text(event, "vm", "id")
        if vm:
            self.vms.add(vm)
        elif code in _VMS:
            self.everything = True
        elif code in _DISKS:
            self.disks = True
        elif code in _SURROUNDINGS or any(
            text(event, kind, "id") for kind in ("host", "storage_domain", "cluster", "data_center")
        ):
            self.surroundings = True
        elif code not in _NOTHING and not text(event, "template", "id"):
            self.everything = True


class Inventory:
    """poll: seconds between two looks at the events. page: VMs in one answer. relist: seconds between full listings."""

    def __init__(self, client: Client, *, poll: float = 10.0, page: int = 100, relist: float = 1800.0) -> None:
        self._client = client
        self._poll = poll
        self._page = page
        self._relist = relist
        self._cursor = 0
        self._due = 0.0
        self._version = 0
        self._vms: dict[str, VM] = {}  # as read
        self._settled: dict[str, VM] = {}
        self._world = facts.World()
        self._told = Estate()

    def follow(self, publish: Callable[[Estate], None], stop: Event) -> None:
        """Publish now and after every change, until stop. Raises tranship.errors."""
        self._read_everything()
        publish(self._estate())
        while not stop.wait(self._poll):
            changes = self._changes()
            if not changes:
                continue
            self._read(changes)
            before = self._version
            estate = self._estate()
            if self._version != before:
                publish(estate)

    # -- events ------------------------------------------------------------------------------------------------------

    def _newest(self) -> int:
        return max((integer(event, "id") for event in self._client.list("events", "event", max=1)), default=0)

    def _changes(self) -> _Changes:
        changes = _Changes(everything=time.monotonic() >= self._due)
        if changes.everything:
            return changes
        since = max(self._cursor - 1, 0)
        events = self._client.list("events", "event", from_=since, max=_MOST_EVENTS)
        ids = [integer(event, "id") for event in events]
        if len(events) >= _MOST_EVENTS or (self._cursor and self._cursor not in ids):
            changes.everything = True
            return changes
        for event, id in zip(events, ids, strict=True):
            if id > self._cursor:
                changes.add(event)
        self._cursor = max([self._cursor, *ids])
        changes.everything = changes.everything or len(changes.vms) > _MOST_VMS
        return changes

    # -- reading -----------------------------------------------------------------------------------------------------

    def _read(self, changes: _Changes) -> None:
        if changes.everything:
            self._read_everything()
            return
        if changes.surroundings:
            self._read_surroundings()
        if changes.disks:
            self._world.disks = self._disks()
        if changes.disks or changes.surroundings:
            self._settled.clear()
        for id in changes.vms:
            self._read_vm(id)

    def _read_everything(self) -> None:
        """In this order: what changes later is told by an event behind the cursor."""
        self._due = time.monotonic() + self._relist
        self._cursor = self._newest()
        self._read_surroundings()
        self._world.disks = self._disks()
        follow = f"disk_attachments,{_HANGS_ON}"
        listed = self._client.pages("vms", "vm", size=self._page, follow=follow)
        self._vms = {text(said, "id"): facts.read_vm(self._whole(said)) for page in listed for said in page}
        self._settled.clear()

    def _read_surroundings(self) -> None:
        world, listed = self._world, self._client.list
        world.engine = self._client.version
        world.data_centers = facts.by_id(listed("datacenters", "data_center"))
        world.clusters = facts.by_id(listed("clusters", "cluster"))
        world.hosts = facts.by_id(listed("hosts", "host"))
        world.networks = facts.by_id(listed("networks", "network"))
        world.profiles = facts.by_id(listed("vnicprofiles", "vnic_profile"))
        world.domains = facts.by_id(listed("storagedomains", "storage_domain"))

    def _disks(self) -> dict[str, Entity]:
        pages = self._client.pages("disks", "disk", size=self._page * 5, by="alias")
        return facts.by_id(disk for page in pages for disk in page)

    def _read_vm(self, id: str) -> None:
        self._settled.pop(id, None)
        try:
            said = self._client.get(f"vms/{id}", follow=f"disk_attachments.disk,{_HANGS_ON}")
        except NotFound:
            self._vms.pop(id, None)
            return
        disks = [disk for attachment in many(said, "disk_attachments") if (disk := attachment.get("disk"))]
        self._world.disks.update(facts.by_id(disk for disk in disks if text(disk, "storage_type")))
        for other in self._sharing(id, disks):
            self._settled.pop(other, None)
        self._vms[id] = facts.read_vm(self._whole(said))

    def _sharing(self, id: str, disks: Iterable[Entity]) -> list[str]:
        """Other VMs that have one of these disks."""
        keys = {text(disk, "id") for disk in disks}
        return [vm.id for vm in self._vms.values() if vm.id != id and any(disk.key in keys for disk in vm.disks)]

    def _whole(self, said: Entity) -> Entity:
        """NUMA nodes cannot be followed on every Engine; only a VM that is tied to hosts can have pinned ones."""
        if many(said, "placement_policy", "hosts"):
            said["numa_nodes"] = self._client.list(f"vms/{text(said, 'id')}/numanodes", "vm_numa_node")
        return said

    # -- telling -----------------------------------------------------------------------------------------------------

    def _estate(self) -> Estate:
        """The version counts up when anything differs from the estate before."""
        version = self._version + 1
        estate = Estate(
            vms={id: self._settle(vm, self._told.vms.get(id), version) for id, vm in self._vms.items()},
            networks=facts.networks(self._world),
            datastores=facts.datastores(self._world),
            hosts=facts.hosts(self._world),
            version=self._version,
        )
        if estate != self._told or not self._version:
            self._version = version
            estate = replace(estate, version=version)
        self._told = estate
        return estate

    def _settle(self, vm: VM, last: VM | None, version: int) -> VM:
        if vm.id not in self._settled:
            settled = facts.settle(vm, self._world, last.revision if last else version)
            self._settled[vm.id] = settled if last is None or settled == last else replace(settled, revision=version)
        return self._settled[vm.id]
