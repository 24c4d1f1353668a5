"""QueryChangedDiskAreas: which parts of a disk changed since a change id, one page at a time.

A page holds at most `state.cbt_page` areas; who does not go on at startOffset + length until the capacity loses data,
and asking at the capacity is refused. What storage.py tracks is the truth; the rules around it are vCenter's.
"""

from typing import Any

from tranship.lab.vsphere import soap
from tranship.lab.vsphere.calls import Call
from tranship.lab.vsphere.machine import Disk, LabVM, Snapshot
from tranship.lab.vsphere.power import vm_of
from tranship.lab.vsphere.state import State
from tranship.lab.vsphere.vmomi import Fault, vim
from tranship.lab.vsphere.world import invalid_argument


def _file_fault(disk: Disk, message: str) -> Fault:
    return soap.fault_named("FileFault", f"Error caused by file {disk.file(0)}: {message}", file=disk.file(0))


class Tracking:
    def __init__(self, state: State) -> None:
        self.state = state

    def QueryChangedDiskAreas(
        self, call: Call, deviceKey: int, startOffset: int, changeId: str, snapshot: Any = None
    ) -> Any:
        vm = vm_of(call)
        disk = vm.disk(deviceKey)
        if disk is None:
            raise invalid_argument("deviceKey")
        if not 0 <= startOffset < disk.capacity:
            raise invalid_argument("startOffset")
        point = self._point(vm, disk, snapshot)
        areas = [
            (max(start, startOffset), start + length)
            for start, length in self._changed(disk, changeId, point)
            if start + length > startOffset
        ]
        page = areas[: self.state.cbt_page]
        end = page[-1][1] if len(areas) > len(page) else disk.capacity
        return vim.VirtualMachine.DiskChangeInfo(
            startOffset=startOffset,
            length=end - startOffset,
            changedArea=[
                vim.VirtualMachine.DiskChangeInfo.DiskChangeExtent(start=start, length=stop - start)
                for start, stop in page
            ],
        )

    def _point(self, vm: LabVM, disk: Disk, ref: Any) -> str | None:
        if not disk.snapshotted:
            raise _file_fault(disk, "the disk takes no part in snapshots and change tracking")
        if ref is None:
            if vm.on:
                raise _file_fault(disk, "the machine runs, a snapshot is needed")
            return None
        item = self.state.world.find(ref._moId)
        if not isinstance(item, Snapshot) or item.vm is not vm:
            raise soap.fault_named("NotFound", "The snapshot is not one of this machine.")
        return item.moid

    def _changed(self, disk: Disk, change_id: str, point: str | None) -> list[tuple[int, int]]:
        volume = disk.volume
        if not volume.change_id(point):
            raise _file_fault(disk, "change tracking was not active")
        try:
            return volume.changed(change_id, point)
        except KeyError:
            raise invalid_argument("changeId") from None
