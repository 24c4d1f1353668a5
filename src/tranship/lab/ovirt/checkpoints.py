"""Checkpoints: the points that a later backup can count from. Made by backups.py, removed here, invalid after a revert."""

from tranship.lab.ovirt import views
from tranship.lab.ovirt.events import Events
from tranship.lab.ovirt.model import Checkpoint, LabVM
from tranship.lab.ovirt.render import Many
from tranship.lab.ovirt.routes import Reply, Request, Row
from tranship.lab.ovirt.state import State, conflict, missing


class Checkpoints:
    def __init__(self, state: State, events: Events) -> None:
        self.state = state
        self.events = events

    def rows(self) -> list[Row]:
        return [
            ("DELETE", "vms/*/checkpoints/*", self.remove),
            ("GET", "vms/*/checkpoints/*/disks", self.disks),
        ]

    def find(self, vm: LabVM, id: str) -> Checkpoint:
        found = next((item for item in vm.checkpoint_list if item.id == id), None)
        if found is None:
            raise missing("Checkpoint", id)
        return found

    def disks(self, request: Request, id: str, checkpoint_id: str) -> Reply:
        with self.state.lock:
            vm = self.state.find_vm(id)
            shown = [views.disk(disk, self.state) for disk in self.find(vm, checkpoint_id).disks]
            return Reply(Many("disk", shown))

    def remove(self, request: Request, id: str, checkpoint_id: str) -> Reply:
        """Any of them. Its child goes to its parent. With the VM down it is invalid first, then its bitmaps go."""
        with self.state.lock:
            vm = self.state.find_vm(id)
            checkpoint = self.find(vm, checkpoint_id)
            if vm.backups:
                raise conflict("Cannot remove Checkpoint. The VM is during a backup operation.")
            if vm.lock:
                raise conflict(f"Cannot remove Checkpoint. VM is locked by {vm.lock}.")
            locked = [disk.name for disk in checkpoint.disks if disk.status == "locked"]
            if locked:
                raise conflict(f"Cannot remove Checkpoint. The following disks are locked: {', '.join(locked)}.")
            vm.lock = "a checkpoint removal"
            if not vm.on:
                checkpoint.state = "invalid"
        try:
            self.state.step("checkpoint", vm)
            for home in {item.home for item in checkpoint.disks}:
                home.metal.remove_checkpoint(checkpoint.id)
            with self.state.lock:
                for other in vm.checkpoint_list:
                    if other.parent == checkpoint.id:
                        other.parent = checkpoint.parent
                vm.checkpoint_list.remove(checkpoint)
        finally:
            vm.lock = ""
        return Reply()
