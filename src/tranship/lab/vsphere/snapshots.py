"""Snapshots: create, remove, revert, consolidate; the chain of one machine is a line, not a tree.

Removing has two halves, as on ESXi: the snapshot leaves the tree first, then the disks are merged, which may take long
(script `consolidate` with a delay) and may fail, and then runtime.consolidationNeeded stays true until
ConsolidateVMDisks_Task. A revert drops the later snapshots: branches are not kept.
"""

import itertools
from typing import Any

from tranship.lab.storage import quiet
from tranship.lab.vsphere import facts, soap
from tranship.lab.vsphere.calls import Call
from tranship.lab.vsphere.machine import LabVM, Snapshot
from tranship.lab.vsphere.power import Power, vm_of
from tranship.lab.vsphere.state import State
from tranship.lab.vsphere.tasks import Tasks

DEEPEST = 31
"""Snapshots that a chain can hold (VMware KB 1025279: 32 files)."""


def _snapshot_of(call: Call) -> Snapshot:
    if not isinstance(call.this, Snapshot):
        raise soap.fault_named("NotSupported", f"{call.method} is for snapshots.")
    return call.this


class Snapshots:
    def __init__(self, state: State, tasks: Tasks, power: Power) -> None:
        self.state = state
        self.tasks = tasks
        self.power = power
        self.world = state.world
        self._numbers = itertools.count(1)

    # create

    def CreateSnapshot_Task(self, call: Call, name: str, memory: bool, quiesce: bool, description: str = "") -> Any:
        vm = vm_of(call)
        work = self._creator(vm, name, description, memory, quiesce)
        return self.tasks.start(call, vm, work)

    def CreateSnapshotEx_Task(
        self, call: Call, name: str, memory: bool, description: str = "", quiesceSpec: Any = None
    ) -> Any:
        vm = vm_of(call)
        work = self._creator(vm, name, description, memory, quiesceSpec is not None)
        return self.tasks.start(call, vm, work)

    def _creator(self, vm: LabVM, name: str, description: str, memory: bool, quiesce: bool) -> Any:
        def work(task: Any) -> Any:
            if not name:
                raise soap.fault_named("InvalidName", "A snapshot needs a name.", name=name)
            if memory and vm.on:
                raise soap.fault_named("NotSupported", "The lab takes no memory snapshots.")
            if len(vm.chain) + len(vm.unconsolidated) >= DEEPEST:
                message = f"Cannot take more than {DEEPEST} levels of snapshots."
                raise soap.fault_named("TooManySnapshotLevels", message)
            if any(disk.sharing for disk in vm.disks):
                raise soap.fault_named("SnapshotIncompatibleDeviceInVm", "A disk or its controller is shared.")
            self._not_exporting(vm)
            if quiesce and vm.on and not vm.tools_running:
                message = "An error occurred while quiescing the virtual machine: VMware Tools is not running."
                raise soap.fault_named("ApplicationQuiesceFault", message)
            return self.take(vm, name, description, quiesce and vm.on).ref

        return work

    def take(self, vm: LabVM, name: str, description: str = "", quiesced: bool = False) -> Snapshot:
        """All disks at one point in time."""
        disks = [disk for disk in vm.disks if disk.snapshotted]
        moid = self.world.new_id("snapshot-")
        with self.world.lock:
            snapshot = Snapshot(moid, vm, next(self._numbers), name, description or "", quiesced)
            with quiet([disk.volume for disk in disks]):
                for disk in disks:
                    disk.volume.snapshot(moid)
                ids = {disk.key: disk.volume.change_id(moid) for disk in disks}
            snapshot.config = facts.config(vm, ids)
            vm.snapshot_count += 1
            for disk in disks:
                disk.files.append(vm.snapshot_count)
            previous = vm.chain[-1:]
            vm.chain.append(snapshot)
            self.world.add(snapshot, vm, *previous)
        return snapshot

    # remove

    def RemoveSnapshot_Task(self, call: Call, removeChildren: bool, consolidate: bool | None = None) -> Any:
        snapshot = _snapshot_of(call)
        vm = snapshot.vm

        def work(task: Any) -> None:
            self._present(snapshot)
            self._not_exporting(vm)
            at = vm.chain.index(snapshot)
            going = vm.chain[at:] if removeChildren else [snapshot]
            self._remove(vm, going, consolidate is not False)

        return self.tasks.start(call, vm, work)

    def RemoveAllSnapshots_Task(self, call: Call, consolidate: bool | None = None, spec: Any = None) -> Any:
        vm = vm_of(call)

        def work(task: Any) -> None:
            self._not_exporting(vm)
            self._remove(vm, list(vm.chain), consolidate is not False)

        return self.tasks.start(call, vm, work)

    def _remove(self, vm: LabVM, going: list[Snapshot], consolidate: bool) -> None:
        with self.world.lock:
            for snapshot in going:
                vm.chain.remove(snapshot)
                vm.unconsolidated.append(snapshot.moid)
                self.world.remove(snapshot)
            self.world.touch(vm, *vm.chain)
        if consolidate:
            self._consolidate(vm)
        else:
            self._need(vm, True)

    def ConsolidateVMDisks_Task(self, call: Call) -> Any:
        vm = vm_of(call)

        def work(task: Any) -> None:
            self._not_exporting(vm)
            self._consolidate(vm)

        return self.tasks.start(call, vm, work)

    def _consolidate(self, vm: LabVM) -> None:
        """Merge what removed snapshots left. Outside the world's lock: guests and other machines go on meanwhile."""
        try:
            for script in self.state.faults.due("consolidate", vm.name, "task"):
                self.state.pause(script.delay)
                if error := script.error():
                    raise error
            for moid in list(vm.unconsolidated):
                for disk in vm.disks:
                    if disk.snapshotted and moid in disk.volume.snapshots:
                        at = disk.volume.snapshots.index(moid)
                        disk.volume.remove(moid)
                        del disk.files[at + 1]
                vm.unconsolidated.remove(moid)
        except Exception:
            self._need(vm, True)
            raise
        self._need(vm, False)

    def _need(self, vm: LabVM, needed: bool) -> None:
        with self.world.lock:
            vm.consolidation_needed = needed
            self.world.touch(vm)

    # revert

    def RevertToSnapshot_Task(self, call: Call, host: Any = None, suppressPowerOn: bool = False) -> Any:
        snapshot = _snapshot_of(call)
        vm = snapshot.vm

        def work(task: Any) -> None:
            self._present(snapshot)
            self._revert(vm, snapshot)

        return self.tasks.start(call, vm, work)

    def RevertToCurrentSnapshot_Task(self, call: Call, host: Any = None, suppressPowerOn: bool = False) -> Any:
        vm = vm_of(call)

        def work(task: Any) -> None:
            if not vm.chain:
                raise soap.fault_named("NotFound", "The virtual machine has no snapshot.")
            self._revert(vm, vm.chain[-1])

        return self.tasks.start(call, vm, work)

    def _revert(self, vm: LabVM, snapshot: Snapshot) -> None:
        """The snapshots hold no memory, so the machine is off afterwards."""
        self._not_exporting(vm)
        self.power.switch_off(vm, "revert")
        with self.world.lock:
            at = vm.chain.index(snapshot)
            for disk in vm.disks:
                if disk.snapshotted:
                    disk.volume.revert(snapshot.moid)
                    keep = disk.volume.snapshots.index(snapshot.moid) + 1
                    vm.snapshot_count += 1
                    disk.files[keep:] = [vm.snapshot_count]
            for later in vm.chain[at + 1 :]:
                self.world.remove(later)
            del vm.chain[at + 1 :]
            self.world.touch(vm, snapshot)

    def RenameSnapshot(self, call: Call, name: str = "", description: str | None = None) -> None:
        snapshot = _snapshot_of(call)
        snapshot.name = name or snapshot.name
        snapshot.description = snapshot.description if description is None else description
        self.world.touch(snapshot, snapshot.vm)

    def _present(self, snapshot: Snapshot) -> None:
        if snapshot not in snapshot.vm.chain:
            raise soap.fault_named("ManagedObjectNotFound", "The snapshot is gone.", obj=snapshot.ref)

    def _not_exporting(self, vm: LabVM) -> None:
        if vm.lease is not None:
            raise soap.fault_named("InvalidState", "The virtual machine is being exported.")
