"""A VM's disks as pyVmomi tells them in a live read, of the VM itself or of a snapshot.

The inventory reads the same devices from the wire (facts.py); here a handful of disks is read at the moment of use, because
what is copied must never come from a cache.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tranship.providers.vsphere.facts import bus_of
from tranship.providers.vsphere.sdk import vim


@dataclass(frozen=True, slots=True)
class LiveDisk:
    """path: `[datastore] folder/name.vmdk`. datastore: its id. change_id: of this moment, "" = not tracked. chained: the
    file holds only what changed since a snapshot."""

    key: str
    label: str
    path: str
    datastore: str
    capacity: int
    bus: str
    controller: int
    unit: int
    backing_uuid: str
    change_id: str
    chained: bool

    @property
    def place(self) -> str:
        """`scsi0:1`: how extraConfig names it."""
        return f"{self.bus}{self.controller}:{self.unit}"


def live_disks(devices: Iterable[Any]) -> dict[str, LiveDisk]:
    """By key."""
    devices = list(devices)
    controllers = {item.key: item for item in devices if isinstance(item, vim.vm.device.VirtualController)}
    disks = [item for item in devices if isinstance(item, vim.vm.device.VirtualDisk)]
    return {str(disk.key): _disk(disk, controllers.get(disk.controllerKey)) for disk in disks}


def _disk(disk: Any, controller: Any) -> LiveDisk:
    backing = disk.backing
    store = getattr(backing, "datastore", None)
    return LiveDisk(
        key=str(disk.key),
        label=disk.deviceInfo.label if disk.deviceInfo else "",
        path=getattr(backing, "fileName", "") or "",
        datastore=store._moId if store is not None else "",
        capacity=int(disk.capacityInBytes or disk.capacityInKB * 1024),
        bus=bus_of(type(controller).__name__.rpartition(".")[2]) if controller is not None else "scsi",
        controller=controller.busNumber if controller is not None else 0,
        unit=disk.unitNumber or 0,
        backing_uuid=getattr(backing, "uuid", "") or "",
        change_id=getattr(backing, "changeId", "") or "",
        chained=getattr(backing, "parent", None) is not None,
    )


def tracked(disks: Iterable[LiveDisk], extra: Iterable[Any]) -> set[str]:
    """Keys of the disks whose own flag (scsiX:Y.ctkEnabled) is on."""
    on = {option.key for option in extra if str(option.value).lower() == "true"}
    return {disk.key for disk in disks if f"{disk.place}.ctkEnabled" in on}
