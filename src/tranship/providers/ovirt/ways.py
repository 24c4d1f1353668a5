"""By which way the bytes of each disk come, and why. Pure.

Called by the source when a plan is validated and when a migration starts. All disks of a VM go warm by the same way, because
one backup, or one snapshot, freezes them together.
"""

from collections.abc import Mapping
from typing import Any

from tranship.errors import Busy, Side, TranshipError, Unsupported
from tranship.inventory.vm import VM, Disk
from tranship.providers.base import DiskWay

COLD, BACKUP, SNAPSHOT = "imageio", "backup", "snapshot"
WAYS = (COLD, BACKUP, SNAPSHOT)
_ENGINE, _CLUSTER = (4, 4), (4, 5)
"""The oldest that back up a VM by increments: before cluster level 4.5 not when it is down, which the last round needs."""


def choose(vm: VM, *, warm: bool) -> tuple[DiskWay, ...]:
    """Raises Unsupported, or Busy (temporary) for a disk that is locked; both name the disk."""
    for disk in vm.disks:
        if (trouble := _no_way(vm, disk)) or (warm and (trouble := _no_warm(vm, disk))):
            raise trouble
    if not warm:
        return tuple(
            DiskWay(disk.key, COLD, "the VM is down and an image transfer reads the disk") for disk in vm.disks
        )
    if why := _no_backup(vm):
        return tuple(DiskWay(disk.key, SNAPSHOT, f"by a snapshot for each round, because {why}") for disk in vm.disks)
    return tuple(DiskWay(disk.key, BACKUP, "incremental backup is on for every disk") for disk in vm.disks)


def by_backup(vm: VM) -> bool:
    """Whether rounds of the VM are backups; else they are snapshots."""
    return not _no_backup(vm)


def _said(vm: VM, disk: Disk) -> Mapping[str, Any]:
    found = vm.traits.get("disks", {}).get(disk.key, {})
    assert isinstance(found, Mapping)
    return found


def _no_way(vm: VM, disk: Disk) -> TranshipError | None:
    said, what = _said(vm, disk), f"reading disk {disk.label} of {vm.name}"
    if said.get("storage_type") != "image":
        kind = {"lun": "a LUN that the guest uses directly", "": "of no known kind"}.get(
            said.get("storage_type", ""), f"on storage of type {said.get('storage_type')}"
        )
        remedy = "Copy it to a disk of a storage domain, or detach it and attach the storage to the target by hand."
        return Unsupported(f"it is {kind}, which no image transfer reads", what=what, side=Side.SOURCE, remedy=remedy)
    if said.get("status") == "illegal":
        remedy = "Repair or remove the disk: the Administration Portal shows what failed on it."
        return Unsupported("it is in state illegal", what=what, side=Side.SOURCE, remedy=remedy)
    if said.get("status") == "locked":
        remedy = "Wait until what locks it has ended: a copy, a backup, a snapshot or a transfer."
        return Busy("it is locked", what=what, fault="DiskLocked", side=Side.SOURCE, remedy=remedy)
    return None


def _no_warm(vm: VM, disk: Disk) -> TranshipError | None:
    if not disk.shared:
        return None
    return Unsupported(
        "a shareable disk takes part in no snapshot and no backup",
        what=f"warm migration of disk {disk.label} of {vm.name}",
        side=Side.SOURCE,
        remedy="Migrate the VM cold, or make the disk not shareable.",
    )


def _no_backup(vm: VM) -> str:
    """Why not by backup, "" if nothing is against it."""
    engine, level = tuple(vm.traits.get("engine", ())), tuple(vm.traits.get("cluster_level", ()))
    if engine < _ENGINE:
        return f"the Engine is {_dotted(engine)}, and only {_dotted(_ENGINE)} and newer back up by increments"
    if level < _CLUSTER:
        return f"the cluster's level is {_dotted(level)}, and only {_dotted(_CLUSTER)} and newer back up by increments"
    for disk in vm.disks:
        said = _said(vm, disk)
        if said.get("backup") != "incremental":
            return f"incremental backup is off for disk {disk.label}"
        if said.get("format") != "cow":
            return f"disk {disk.label} is not in the qcow2 format"
        if not said.get("active"):
            return f"disk {disk.label} is not active"
    return ""


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version) or "not known"
