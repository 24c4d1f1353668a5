"""Backups of a VM at one point in time, full or since a checkpoint, and what the cluster's level makes of them.

Before level 4.7 the point is held by scratch disks (QEMU's backup job in metal.py), from then on by a temporary snapshot,
unless the client asks for `legacy`. One backup at a time; it is open until it is finalized, and shown for a while after.
What a backup of a running VM needs is gone when that VM goes down: it fails then.
"""

import time

from tranship.errors import TranshipError
from tranship.lab.ovirt import vmviews
from tranship.lab.ovirt.events import Code, Events
from tranship.lab.ovirt.model import Backup, Checkpoint, Disk, LabVM, Snapshot, now
from tranship.lab.ovirt.render import items, truth
from tranship.lab.ovirt.routes import Reply, Request, Row
from tranship.lab.ovirt.snapshots import Snapshots
from tranship.lab.ovirt.state import State, StepFailed, conflict, missing, refused

TEMPORARY = "Auto-generated for Backup VM"
INCREMENTAL, MODES, HYBRID = (4, 4), (4, 5), (4, 7)  # cluster levels: since when


def level_of(vm: LabVM) -> tuple[int, int]:
    major, minor = vm.cluster.version.split(".")[:2]
    return int(major), int(minor)


def _tracked(backup: Backup) -> list[Disk]:
    """Raw disks are in no checkpoint, so they are always copied fully; where all are raw there is none."""
    return [disk for disk in backup.disks if disk.format == "cow"]


class Backups:
    def __init__(self, state: State, events: Events, snapshots: Snapshots) -> None:
        self.state = state
        self.events = events
        self.snapshots = snapshots

    def rows(self) -> list[Row]:
        path = "vms/*/backups"
        return [
            ("POST", path, self.start),
            ("POST", f"{path}/*/finalize", self.finalize),
            ("GET", f"{path}/*", self.get),
            ("GET", f"{path}/*/disks", self.disks),
            ("GET", f"{path}/*/disks/*", self.disk),
        ]

    def find(self, vm: LabVM, id: str) -> Backup:
        self.forget(vm)
        found = next((backup for backup in vm.backup_list if backup.id == id), None)
        if found is None:
            raise missing("Backup", id)
        return found

    def forget(self, vm: LabVM) -> None:
        """Finished ones that were kept for long enough."""

        def kept(backup: Backup) -> bool:
            seconds = self.state.kept_success if backup.phase == "succeeded" else self.state.kept_failure
            return not backup.ended or time.monotonic() - backup.ended < seconds

        vm.backup_list = [backup for backup in vm.backup_list if kept(backup)]

    def get(self, request: Request, id: str, backup_id: str) -> Reply:
        with self.state.lock:
            vm = self.state.find_vm(id)
            return Reply(vmviews.backup(vm, self.find(vm, backup_id), self.state))

    def disks(self, request: Request, id: str, backup_id: str) -> Reply:
        with self.state.lock:
            vm = self.state.find_vm(id)
            return Reply(vmviews.backup(vm, self.find(vm, backup_id), self.state).links["disks"]())

    def disk(self, request: Request, id: str, backup_id: str, disk_id: str) -> Reply:
        found = [node for node in self.disks(request, id, backup_id).body.items if node.id == disk_id]  # type: ignore[union-attr]
        if not found:
            raise missing("Disk", disk_id)
        return Reply(found[0])

    # start

    def start(self, request: Request, id: str) -> Reply:
        body = request.body
        with self.state.lock:
            vm = self.state.find_vm(id)
            self.forget(vm)
            asked = [str(item.get("id", "")) for item in items(body, "disks", "disk")]
            disks = [self._plugged(vm, disk_id) for disk_id in asked]
            backup = Backup(str(body.get("id") or self.state.uuid()), str(body.get("description") or ""), disks)
            backup.from_checkpoint = str(body.get("from_checkpoint_id") or "")
            backup.live = vm.status == "up"
            self._validate(vm, backup)
            vm.backup_list.append(backup)
            for disk in disks:
                backup_mode = "incremental" if self._counted(vm, backup, disk) else "full"
                if level_of(vm) >= MODES:
                    disk.modes[backup.id] = backup_mode
        hybrid = level_of(vm) >= HYBRID and not truth(request.query.get("legacy", ""))
        if backup.live and not hybrid:
            self._redefine(vm, backup, request.correlation)
        self.events.add(
            Code.BACKUP_STARTED,
            f"Backup {backup.id} for VM {vm.name} started (User: {self.state.user}).",
            vm,
            correlation=request.correlation,
        )
        work = self._hybrid if hybrid else self._legacy
        failed = lambda why: self._fail(vm, backup, why)  # noqa: E731
        self.state.run_job("Backing up VM", request.correlation, lambda: work(vm, backup), failed)
        return Reply(vmviews.backup(vm, backup, self.state), 201)

    def _plugged(self, vm: LabVM, disk_id: str) -> Disk:
        found = next((item for item in vm.attachments if item.disk.id == disk_id), None)
        if found is None:
            raise conflict(f"Cannot backup VM. The following disks do not exist: {disk_id}.")
        if not found.active:
            raise conflict(f"Cannot backup VM. Disks of VM {vm.name} are not active: {disk_id}.")
        return found.disk

    def _validate(self, vm: LabVM, backup: Backup) -> None:
        what = "Cannot backup VM."
        if not backup.disks:
            raise refused("Cannot backup VM. Disks are missing.")
        for disk in backup.disks:
            if disk.status != "ok":
                raise conflict(f"{what} Disk {disk.name} is {disk.status}.")
            if disk.storage_type != "image" or disk.shareable:
                raise conflict(f"{what} Disk {disk.name} is shareable or a direct LUN.")
        if backup.from_checkpoint:
            self._validate_checkpoint(vm, backup)
        if vm.status not in ("up", "down"):
            raise conflict(f"{what} VM should be in Up or Down status.")
        if vm.preview:
            raise conflict(f"{what} VM is previewing a Snapshot.")
        if vm.lock:
            raise conflict(f"{what} VM is locked by {vm.lock}.")
        if not backup.live and level_of(vm) < MODES:
            raise conflict(f"{what} Bitmaps operations are not supported in cluster level {vm.cluster.version}.")
        if vm.backups:
            raise conflict(f"{what} The VM is during a backup operation.")
        if len(backup.description) > 1024:
            raise refused(f"{what} The description is too long.")
        if any(item.id == backup.id for other in self.state.vms.values() for item in other.backup_list):
            raise conflict(f"{what} Backup ID {backup.id} already exists.")

    def _validate_checkpoint(self, vm: LabVM, backup: Backup) -> None:
        what, level = "Cannot backup VM.", level_of(vm)
        base = self._checkpoint(vm, backup.from_checkpoint)
        if level < INCREMENTAL:
            raise conflict(f"{what} Incremental backup is not supported in cluster level {vm.cluster.version}.")
        if base is None:
            raise conflict(f"{what} Checkpoint {backup.from_checkpoint} doesn't exist.")
        if base.state == "invalid":
            raise conflict(f"{what} Checkpoint {backup.from_checkpoint} is invalid.")
        if level < MODES:
            plain = [disk.id for disk in backup.disks if disk.backup != "incremental"]
            if plain:
                raise conflict(f"{what} Incremental backup is not enabled for disks {', '.join(plain)}.")
            fresh = [disk.id for disk in backup.disks if disk not in base.disks]
            if fresh:
                raise conflict(f"{what} Mixing incremental and full backup is not supported, disks {', '.join(fresh)}.")

    def _checkpoint(self, vm: LabVM, id: str) -> Checkpoint | None:
        return next((item for item in vm.checkpoint_list if item.id == id), None)

    def _counted(self, vm: LabVM, backup: Backup, disk: Disk) -> bool:
        """Whether the disk's part is incremental: it took part in the backup that made the checkpoint."""
        base = self._checkpoint(vm, backup.from_checkpoint)
        return base is not None and disk in base.disks

    def _redefine(self, vm: LabVM, backup: Backup, correlation: str) -> None:
        """The Engine tells libvirt of the older checkpoints before each backup of a running VM. If that fails the request
        fails, the backup stays visible as failed, and an event says that only a full one will do."""
        try:
            self.state.step("redefine", vm)
            for disk in backup.disks:
                if self._counted(vm, backup, disk) and not disk.home.metal.has_checkpoint(
                    disk.id, backup.from_checkpoint
                ):
                    raise StepFailed(f"disk {disk.name} lacks the bitmap of {backup.from_checkpoint}")
        except (StepFailed, TranshipError) as error:
            with self.state.lock:
                self._ended(backup, "failed")
                text = f"Failed to redefine checkpoints for backup {backup.id} of VM {vm.name}, a full VM backup is needed."
                self.events.error(Code.BACKUP_NEEDS_FULL, text, vm, correlation=correlation)
            raise refused(str(error)) from error

    def _legacy(self, vm: LabVM, backup: Backup) -> None:
        self._lock_disks(backup)
        self._make_checkpoint(vm, backup, _tracked(backup))
        self._set(backup, "starting")
        self._open(vm, backup)

    def _hybrid(self, vm: LabVM, backup: Backup) -> None:
        with self.state.lock:
            tracked = _tracked(backup)
            self.snapshots.may_change(vm, "Cannot backup VM.", backup=True)
            snapshot = self.snapshots.begin(vm, TEMPORARY, backup.disks)
            backup.hybrid = snapshot.id
        try:
            self.snapshots.take(vm, snapshot, backup.disks)
        except (StepFailed, TranshipError):
            with self.state.lock:
                self.snapshots.undo_begin(vm, snapshot, backup.disks)
                backup.hybrid = ""
            raise
        self._make_checkpoint(vm, backup, tracked)
        self._set(backup, "starting")
        self._open(vm, backup)

    def _lock_disks(self, backup: Backup) -> None:
        with self.state.lock:
            for disk in backup.disks:
                disk.locks.add(backup.id)

    def _make_checkpoint(self, vm: LabVM, backup: Backup, disks: list[Disk]) -> None:
        with self.state.lock:
            if disks and level_of(vm) >= INCREMENTAL:
                parent = vm.checkpoint_list[-1].id if vm.checkpoint_list else ""
                made = Checkpoint(self.state.uuid(), backup.description, disks, parent)
                vm.checkpoint_list.append(made)
                backup.to_checkpoint = made.id

    def _open(self, vm: LabVM, backup: Backup) -> None:
        self.state.step("backup", vm)
        since = {disk.id: backup.from_checkpoint if self._counted(vm, backup, disk) else "" for disk in backup.disks}
        homes = {id(disk.home): disk.home for disk in backup.disks}
        if len(homes) > 1:
            raise StepFailed("the disks do not belong to one VM")
        for home in homes.values():
            backup.exports = dict(home.metal.start_backup(backup.id, since, backup.to_checkpoint))
        with self.state.lock:
            gone = backup.live and not vm.on
            if not gone:
                self._set(backup, "ready")
        if gone:
            raise StepFailed("the VM went down")

    def _set(self, backup: Backup, phase: str) -> None:
        with self.state.lock:
            backup.phase, backup.modified = phase, now()

    # end

    def finalize(self, request: Request, id: str, backup_id: str) -> Reply:
        """Open transfers do not hinder it; their data is gone then."""
        with self.state.lock:
            vm = self.state.find_vm(id)
            backup = self.find(vm, backup_id)
            if backup.phase != "ready":
                self.events.error(Code.BACKUP_FINALIZE_FAILED, f"Failed to finalize backup {backup.id}.", vm)
                raise refused(f"VM '{vm.name}' backup '{backup.id}' is in '{backup.phase}' phase.")
            self._set(backup, "finalizing")
        text = f"Backup {backup.id} for VM {vm.name} finalized (User: {self.state.user})."
        self.events.add(Code.BACKUP_FINALIZED, text, vm, correlation=request.correlation)
        failed = lambda why: self._fail(vm, backup, why)  # noqa: E731
        self.state.run_job("Finalizing backup", request.correlation, lambda: self._finish(vm, backup), failed)
        return Reply()

    def _finish(self, vm: LabVM, backup: Backup) -> None:
        self.state.step("finalize", vm)
        self._close(backup)
        if backup.hybrid:
            with self.state.lock:
                snapshot = self.snapshots.find(vm, backup.hybrid)
                disks = self.snapshots.begin_removal(vm, snapshot)
            self._remove_snapshot(vm, snapshot, disks)
        with self.state.lock:
            self._ended(backup, "succeeded")
            self.events.add(Code.BACKUP_SUCCEEDED, f"Backup {backup.id} for VM {vm.name} completed.", vm)

    def _remove_snapshot(self, vm: LabVM, snapshot: Snapshot, disks: list[Disk]) -> None:
        """A temporary snapshot that cannot be removed stays behind; the backup succeeds all the same, as oVirt's does."""
        try:
            self.snapshots.drop(vm, snapshot, disks)
        except (StepFailed, TranshipError) as error:
            with self.state.lock:
                vm.lock, snapshot.status = "", "ok"
                for disk in disks:
                    disk.locks.discard(snapshot.id)
                self.events.error(Code.SNAPSHOT_REMOVAL_FAILED, f"Failed to delete snapshot {TEMPORARY}: {error}.", vm)

    def _close(self, backup: Backup) -> None:
        if backup.exports:
            backup.disks[0].home.metal.stop_backup(backup.id)
            backup.exports = {}

    def _ended(self, backup: Backup, phase: str) -> None:
        self._set(backup, phase)
        backup.ended = time.monotonic()
        for disk in backup.disks:
            disk.locks.discard(backup.id)
            disk.modes.pop(backup.id, None)

    def _fail(self, vm: LabVM, backup: Backup, why: str) -> None:
        """Under the lock: its checkpoint goes, since nobody has the data that it counts from."""
        if not backup.open:
            return
        self._ended(backup, "failed")
        made = self._checkpoint(vm, backup.to_checkpoint)
        if made is not None:
            vm.checkpoint_list.remove(made)
        self.events.error(Code.BACKUP_FAILED, f"Backup {backup.id} for VM {vm.name} failed: {why}.", vm)

        def clean() -> None:
            self._close(backup)
            if made is not None and backup.disks[0].home.metal.has_checkpoint(made.disks[0].id, made.id):
                backup.disks[0].home.metal.remove_checkpoint(made.id)
            if backup.hybrid and any(item.id == backup.hybrid for item in vm.chain):
                with self.state.lock:
                    snapshot = self.snapshots.find(vm, backup.hybrid)
                    disks = self.snapshots.begin_removal(vm, snapshot)
                self._remove_snapshot(vm, snapshot, disks)

        self.state.run_job("Cleaning up after backup", "", clean, lambda reason: None)

    def vm_went_down(self, vm: LabVM) -> None:
        """power.py tells, under the lock."""
        for backup in vm.backup_list:
            if backup.live and backup.phase == "ready":
                self._fail(vm, backup, "the VM went down")
