"""Snapshots of a VM: made over all its disks at one point, merged away while it runs, previewed, gone back to.

A snapshot is `locked` until QEMU is done, and as long as anything of the VM is locked the next request gets 409. The new
volume becomes the active one; what was active until then belongs to the snapshot. Removing one commits the volume above it.
"""

from tranship.lab.ovirt import vmviews
from tranship.lab.ovirt.events import Code, Events
from tranship.lab.ovirt.model import Disk, LabVM, Snapshot
from tranship.lab.ovirt.render import identity, items, truth
from tranship.lab.ovirt.routes import Reply, Request, Row
from tranship.lab.ovirt.state import State, conflict, missing


class Snapshots:
    def __init__(self, state: State, events: Events) -> None:
        self.state = state
        self.events = events

    def rows(self) -> list[Row]:
        return [
            ("POST", "vms/*/snapshots", self.create),
            ("DELETE", "vms/*/snapshots/*", self.remove),
            ("POST", "vms/*/snapshots/*/restore", self.restore),
            ("POST", "vms/*/previewsnapshot", self.preview),
            ("POST", "vms/*/undosnapshot", self.undo),
            ("POST", "vms/*/commitsnapshot", self.commit),
        ]

    # creation

    def create(self, request: Request, id: str) -> Reply:
        body = request.body
        limit = {identity(item, "disk") for item in items(body, "disk_attachments", "disk_attachment")}
        with self.state.lock:
            vm = self.state.find_vm(id)
            self.may_change(vm, "Cannot create Snapshot.")
            disks = [disk for disk in self.snapable(vm) if not limit or disk.id in limit]
            memory = vm.on and truth(body.get("persist_memorystate", "true"))
            snapshot = self.begin(vm, str(body.get("description") or ""), disks, memory)
        name = f"Snapshot '{snapshot.description}' creation for VM '{vm.name}'"
        correlation = request.correlation
        self.events.add(Code.SNAPSHOT_STARTED, f"{name} was initiated.", vm, correlation=correlation)

        def work() -> None:
            self.take(vm, snapshot, disks)
            self.events.add(Code.SNAPSHOT_CREATED, f"{name} has been completed.", vm, correlation=correlation)

        def failed(why: str) -> None:
            self.undo_begin(vm, snapshot, disks)
            self.events.error(Code.SNAPSHOT_FAILED, f"Failed to complete: {name}: {why}.", vm, correlation=correlation)

        self.state.run_job("Creating snapshot", correlation, work, failed)
        return Reply(vmviews.snapshot(vm, snapshot, self.state), 202)

    def snapable(self, vm: LabVM) -> list[Disk]:
        return [disk for disk in vm.disks if disk.storage_type == "image" and not disk.shareable]

    def may_change(self, vm: LabVM, what: str, backup: bool = False) -> None:
        """Whether snapshots can be made or removed now. backup: a backup itself asks."""
        if vm.lock or any(item.status == "locked" for item in vm.chain):
            raise conflict(f"{what} VM is locked by {vm.lock or 'a snapshot operation'}.")
        if vm.status not in ("up", "down"):
            raise conflict(f"{what} VM is {vm.status}.")
        if vm.preview:
            raise conflict(f"{what} VM is previewing a Snapshot.")
        if vm.backups and not backup:
            raise conflict(f"{what} The VM is during a backup operation.")
        if any(item.open and item.volume for item in vm.transfer_list):
            raise conflict(f"{what} VM is locked by an image transfer.")
        for disk in self.snapable(vm):
            if disk.status != "ok" and not backup:
                raise conflict(f"{what} The following disks are {disk.status}: {disk.name}.")

    def begin(self, vm: LabVM, description: str, disks: list[Disk], memory: bool = False) -> Snapshot:
        snapshot = Snapshot(self.state.uuid(), description, status="locked", memory=memory)
        vm.chain.append(snapshot)
        vm.lock = "a snapshot operation"
        for disk in disks:
            disk.locks.add(snapshot.id)
        return snapshot

    def undo_begin(self, vm: LabVM, snapshot: Snapshot, disks: list[Disk]) -> None:
        vm.chain.remove(snapshot)
        self._unlock(vm, snapshot, disks)

    def _unlock(self, vm: LabVM, snapshot: Snapshot, disks: list[Disk]) -> None:
        vm.lock = ""
        snapshot.status = "ok"
        for disk in disks:
            disk.locks.discard(snapshot.id)

    def take(self, vm: LabVM, snapshot: Snapshot, disks: list[Disk]) -> None:
        """One point in time over all disks of one home. Not under the lock: the guest writes on meanwhile."""
        self.state.step("snapshot", vm)
        layers = {disk.id: self.state.uuid() for disk in disks}
        for home in {id(disk.home): disk.home for disk in disks}.values():
            home.metal.snapshot({disk.id: layers[disk.id] for disk in disks if disk.home is home})
        with self.state.lock:
            for disk in disks:
                snapshot.volumes[disk.id], snapshot.sizes[disk.id] = disk.volume, disk.size
                disk.follow_metal()
                disk.format = "cow"
            self._unlock(vm, snapshot, disks)

    # removal

    def remove(self, request: Request, id: str, snapshot_id: str) -> Reply:
        with self.state.lock:
            vm = self.state.find_vm(id)
            snapshot = self.find(vm, snapshot_id)
            self.may_change(vm, "Cannot remove Snapshot.")
            disks = self.begin_removal(vm, snapshot)
        name = f"Snapshot '{snapshot.description}' deletion for VM '{vm.name}'"
        correlation = request.correlation
        self.events.add(Code.SNAPSHOT_REMOVAL_STARTED, f"{name} was initiated.", vm, correlation=correlation)

        def work() -> None:
            self.drop(vm, snapshot, disks)
            self.events.add(Code.SNAPSHOT_REMOVED, f"{name} has been completed.", vm, correlation=correlation)

        def failed(why: str) -> None:
            self._unlock(vm, snapshot, disks)
            text = f"Failed to complete: {name}: {why}."
            self.events.error(Code.SNAPSHOT_REMOVAL_FAILED, text, vm, correlation=correlation)

        self.state.run_job("Removing snapshot", correlation, work, failed)
        return Reply()

    def find(self, vm: LabVM, id: str) -> Snapshot:
        if id == vm.active_id:
            raise conflict("Cannot remove Snapshot. The active state of a VM cannot be removed.")
        found = next((item for item in vm.chain if item.id == id), None)
        if found is None:
            raise missing("Snapshot", id)
        return found

    def begin_removal(self, vm: LabVM, snapshot: Snapshot) -> list[Disk]:
        disks = [disk for disk in self.state.disks.values() if disk.id in snapshot.volumes]
        snapshot.status = "locked"
        vm.lock = "a snapshot operation"
        for disk in disks:
            disk.locks.add(snapshot.id)
        return disks

    def drop(self, vm: LabVM, snapshot: Snapshot, disks: list[Disk]) -> None:
        """Merges disk by disk. One that is merged stays so when a later one fails, and the next try goes on from there."""
        self.state.step("merge", vm)
        for disk in disks:
            volume = snapshot.volumes.get(disk.id)
            if volume is None:
                continue
            disk.home.metal.merge(disk.id, disk.metal_volume(volume))
            with self.state.lock:
                self._merged(vm, snapshot, disk, volume)
        with self.state.lock:
            vm.chain.remove(snapshot)
            self._unlock(vm, snapshot, disks)

    def _merged(self, vm: LabVM, snapshot: Snapshot, disk: Disk, volume: str) -> None:
        """The volume that stays takes the place of the one above it, in the next snapshot or as the active one."""
        above = disk.chain[disk.chain.index(volume) + 1]
        del snapshot.volumes[disk.id]
        for other in vm.chain:
            if other.volumes.get(disk.id) == above:
                other.volumes[disk.id] = volume
        disk.follow_metal()
        disk.format = disk.home_format if len(disk.chain) == 1 else "cow"

    # going back

    def preview(self, request: Request, id: str) -> Reply:
        with self.state.lock:
            vm = self.state.find_vm(id)
            snapshot = self.find(vm, identity(request.body, "snapshot"))
            self._may_go_back(vm, "Cannot preview Snapshot.")
            vm.preview, snapshot.status, vm.before_preview = snapshot.id, "in_preview", self.state.uuid()
        self.events.add(Code.PREVIEW_STARTED, f"Snapshot-Preview for VM '{vm.name}' was initiated.", vm)
        return Reply()

    def undo(self, request: Request, id: str) -> Reply:
        with self.state.lock:
            vm = self.state.find_vm(id)
            if not vm.preview:
                raise conflict("Cannot undo Snapshot. No snapshot is previewed.")
            self.find(vm, vm.preview).status = "ok"
            vm.preview = ""
        return Reply()

    def commit(self, request: Request, id: str) -> Reply:
        with self.state.lock:
            vm = self.state.find_vm(id)
            if not vm.preview:
                raise conflict("Cannot commit Snapshot. No snapshot is previewed.")
            snapshot = self.find(vm, vm.preview)
        return self._go_back(request, vm, snapshot)

    def restore(self, request: Request, id: str, snapshot_id: str) -> Reply:
        with self.state.lock:
            vm = self.state.find_vm(id)
            snapshot = self.find(vm, snapshot_id)
            self._may_go_back(vm, "Cannot restore Snapshot.")
        return self._go_back(request, vm, snapshot)

    def _may_go_back(self, vm: LabVM, what: str) -> None:
        if vm.on:
            raise conflict(f"{what} VM is not down.")
        self.may_change(vm, what)

    def _go_back(self, request: Request, vm: LabVM, snapshot: Snapshot) -> Reply:
        """Whatever is newer goes, and with it every checkpoint's validity."""
        with self.state.lock:
            disks = self.begin_removal(vm, snapshot)
        self.events.add(Code.RESTORE, f"Restoring VM '{vm.name}' from snapshot was initiated.", vm)

        def work() -> None:
            self.state.step("restore", vm)
            for disk in disks:
                disk.home.metal.revert(disk.id, disk.metal_volume(snapshot.volumes[disk.id]))
            with self.state.lock:
                for disk in disks:
                    disk.follow_metal()
                    disk.format = "cow"
                del vm.chain[vm.chain.index(snapshot) + 1 :]
                for checkpoint in vm.checkpoint_list:
                    checkpoint.state = "invalid"
                vm.preview = ""
                self._unlock(vm, snapshot, disks)
            self.events.vm_changed(vm)

        def failed(why: str) -> None:
            self._unlock(vm, snapshot, disks)
            self.events.error(Code.RESTORE, f"Failed to restore VM '{vm.name}' from snapshot: {why}.", vm)

        self.state.run_job("Restoring snapshot", request.correlation, work, failed)
        return Reply()
