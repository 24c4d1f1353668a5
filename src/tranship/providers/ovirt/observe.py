"""The VM as it is now: power, snapshots, own backups, disks, and what still works on it. Called by the source.

Three calls: the VM with its disks and snapshots, its backups, its checkpoints.
"""

from collections.abc import Iterator

from tranship.inventory.vm import VM
from tranship.migration.seen import Snapshot, SourceDisk, SourceSeen
from tranship.providers.ovirt.backups import Backup, Backups
from tranship.providers.ovirt.client import Client
from tranship.providers.ovirt.power import listening, machine, power
from tranship.providers.ovirt.snapshots import OWN, regular
from tranship.providers.ovirt.values import Entity, get, integer, many, text

_WORKING = ("image_locked", "migrating", "saving_state", "restoring_state")
_TEMPORARY = "Auto-generated for Backup VM"  # how the Engine describes the snapshot of a hybrid backup


def look(client: Client, backups: Backups, vm: VM) -> SourceSeen:
    said = machine(client, vm, follow="disk_attachments.disk,snapshots")
    known = backups.all(vm)
    opened = [one for one in known if not one.over]
    disks = [disk for disk in (get(one, "disk") for one in many(said, "disk_attachments")) if isinstance(disk, dict)]
    images = [text(disk, "id") for disk in disks if text(disk, "storage_type") != "lun"]
    return SourceSeen(
        power=power(said),
        snapshots=(*_snapshots(said, known, images), *_backups(opened, images)),
        disks=tuple(SourceDisk(text(disk, "id"), capacity(disk), change_tracking=None) for disk in disks),
        tools_running=listening(said),
        tasks=tuple(_tasks(said, disks, opened)),
        checkpoints=tuple(backups.checkpoints(vm)),
    )


def capacity(disk: Entity) -> int:
    """Bytes."""
    units = many(disk, "lun_storage", "logical_units")
    return integer(units[0], "size") if units else integer(disk, "provisioned_size")


def _hidden(one: Entity, opened: list[Backup]) -> bool:
    """Whether this is what the Engine made for an own backup, and takes away itself."""
    own = [backup for backup in opened if backup.name]
    made = any(text(one, "id") == backup.snapshot for backup in own)
    return made or (bool(own) and text(one, "description") == _TEMPORARY)


def _snapshots(said: Entity, known: list[Backup], images: list[str]) -> Iterator[Snapshot]:
    """A round names as its base the own snapshot of the round before, for every disk. What the Engine left behind of an own
    backup bears the name of that."""
    left = {backup.snapshot: backup.name for backup in known if backup.over and backup.name and backup.snapshot}
    for one in regular(said):
        if not _hidden(one, [backup for backup in known if not backup.over]):
            id, name = text(one, "id"), text(one, "description")
            ids = dict.fromkeys(images, id) if name.startswith(OWN) else {}
            yield Snapshot(id, left.get(id, name), ids)


def _backups(opened: list[Backup], images: list[str]) -> Iterator[Snapshot]:
    for one in opened:
        if one.name:
            ids = dict.fromkeys(images, one.to) if one.to else {}
            yield Snapshot(one.id, one.name, ids, checkpoint=one.to, blocks_power_on=True)


def _tasks(said: Entity, disks: list[Entity], opened: list[Backup]) -> Iterator[str]:
    if text(said, "status") in _WORKING:
        yield f"the VM is {text(said, 'status')}"
    for one in many(said, "snapshots"):
        if text(one, "snapshot_type") == "preview" or text(one, "snapshot_status") == "in_preview":
            yield f"snapshot {text(one, 'description')!r} is in preview"
        elif text(one, "snapshot_status") == "locked" and not _hidden(one, opened):
            yield f"snapshot {text(one, 'description')!r} is locked"
    for backup in opened:
        if not backup.name:
            yield f"backup {backup.id} of another tool"
        elif not backup.ready:
            yield f"backup {backup.name} is {backup.phase}"
    if not any(backup.name for backup in opened):  # a backup keeps its disks locked until it is finalized
        for disk in disks:
            if text(disk, "status") == "locked":
                yield f"disk {text(disk, 'alias') or text(disk, 'id')} is locked"
