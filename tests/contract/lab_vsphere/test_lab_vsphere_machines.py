"""Power, tasks, snapshots and change tracking, as pyVmomi sees them."""

import random
import time
from typing import Any

import pytest
from pyVmomi import vim, vmodl

from tranship.lab.vsphere import LabVM, VCenter

MIB = 1 << 20
DISK = 2000


def until(condition: Any, center: VCenter, deadline: float = 10.0) -> None:
    end = time.monotonic() + deadline
    with center.world.changed:
        while not condition():
            assert time.monotonic() < end, "it does not come"
            center.world.changed.wait(0.05)


# power and tasks


def test_power_cycle_is_logged_with_causes(center: VCenter, client: Any) -> None:
    vm = center.add_vm("a", [MIB])
    client.wait(client.vm(vm).PowerOnVM_Task())
    with pytest.raises(vim.fault.InvalidPowerState) as refused:
        client.wait(client.vm(vm).PowerOnVM_Task())
    assert refused.value.existingState == "poweredOn"
    client.vm(vm).ShutdownGuest()
    until(lambda: not vm.on, center)
    client.wait(client.vm(vm).PowerOnVM_Task())
    client.wait(client.vm(vm).PowerOffVM_Task())
    with pytest.raises(vim.fault.InvalidPowerState):
        client.wait(client.vm(vm).PowerOffVM_Task())
    with pytest.raises(vim.fault.InvalidPowerState):
        client.vm(vm).ShutdownGuest()
    assert vm.power_causes() == ["on", "guest-shutdown", "on", "hard-off"]
    assert center.faults.count("PowerOffVM_Task", "a") == 2


def test_guest_that_never_ends_or_has_no_tools(center: VCenter, client: Any) -> None:
    deaf = center.add_vm("deaf", [MIB], running=True)
    deaf.shutdown_seconds = None
    client.vm(deaf).ShutdownGuest()
    bare = center.add_vm("bare", [MIB], running=True, tools=False)
    with pytest.raises(vim.fault.ToolsUnavailable):
        client.vm(bare).ShutdownGuest()
    slow = center.add_vm("slow", [MIB], running=True)
    slow.shutdown_seconds = 0.2
    client.vm(slow).ShutdownGuest()
    assert slow.on
    until(lambda: not slow.on, center)
    assert deaf.on and bare.on


def test_tasks_take_time_exclude_each_other_and_expire(center: VCenter, client: Any) -> None:
    vm = center.add_vm("a", [MIB])
    center.faults.add("PowerOnVM_Task", delay=0.3)
    slow = client.vm(vm).PowerOnVM_Task()
    assert slow.info.state in ("queued", "running") and client.vm(vm).recentTask == [slow]
    with pytest.raises(vim.fault.TaskInProgress) as refused:
        client.wait(client.vm(vm).CreateSnapshot_Task("s", "", False, False))
    assert refused.value.task == slow
    client.wait(slow)
    assert slow.info.entityName == "a" and slow.info.descriptionId == "VirtualMachine.powerOnVM"
    center.task_expiry = 0.0
    client.service.CurrentTime()
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        _ = slow.info
    assert vm.on


# snapshots


def test_snapshot_tree_files_and_removal(center: VCenter, client: Any) -> None:
    vm = center.add_vm("a", [b"0" * MIB], running=True)
    one = client.snapshot(vm, "one", description="first")
    vm.write(0, b"1" * 512)
    two = client.snapshot(vm, "two")
    vm.write(0, b"2" * 512)
    info = client.vm(vm).snapshot
    assert info.currentSnapshot == two
    (root,) = info.rootSnapshotList
    assert (root.name, root.description, root.snapshot) == ("one", "first", one)
    assert root.childSnapshotList[0].snapshot == two and one.childSnapshot == [two]

    def names(config: Any) -> str:
        return str(next(d for d in config.hardware.device if d.key == DISK).backing.fileName)

    assert names(one.config) == "[datastore1] a/a.vmdk"
    assert names(two.config) == "[datastore1] a/a-000001.vmdk"
    assert names(client.vm(vm).config) == "[datastore1] a/a-000002.vmdk"
    client.wait(one.RemoveSnapshot_Task(removeChildren=False, consolidate=True))
    assert vm.snapshots == ["two"] and client.vm(vm).snapshot.rootSnapshotList[0].snapshot == two
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        _ = one.config
    assert vm.volumes[0].read(0, 4, two._moId) == b"1111" and vm.read()[:4] == b"2222"
    client.wait(two.RemoveSnapshot_Task(True))
    assert client.vm(vm).snapshot is None and not vm.volumes[0].chained and vm.read()[:4] == b"2222"


def test_revert_goes_back_and_drops_what_came_later(center: VCenter, client: Any) -> None:
    vm = center.add_vm("a", [b"0" * MIB], cbt=True)
    one = client.snapshot(vm, "one")
    before = client.change_ids(one)[DISK]
    vm.write(0, b"1" * 512)
    client.snapshot(vm, "two")
    client.wait(one.RevertToSnapshot_Task())
    assert vm.snapshots == ["one"] and vm.read()[:4] == b"0000"
    three = client.snapshot(vm, "three")
    assert client.change_ids(three)[DISK].partition("/")[0] != before.partition("/")[0]
    with pytest.raises(vmodl.fault.InvalidArgument):
        client.vm(vm).QueryChangedDiskAreas(three, DISK, 0, before)


def test_depth_limit(center: VCenter, client: Any) -> None:
    vm = center.add_vm("a", [MIB])
    for number in range(31):
        client.snapshot(vm, f"s{number}")
    with pytest.raises(vim.fault.TooManySnapshotLevels):
        client.snapshot(vm, "s31")
    client.wait(client.vm(vm).RemoveAllSnapshots_Task())
    assert vm.snapshots == [] and not vm.volumes[0].chained


def test_quiesce_needs_tools_and_sharing_forbids_snapshots(center: VCenter, client: Any) -> None:
    bare = center.add_vm("bare", [MIB], running=True, tools=False)
    with pytest.raises(vim.fault.ApplicationQuiesceFault):
        client.snapshot(bare, "s", quiesce=True)
    good = center.add_vm("good", [MIB], running=True)
    client.snapshot(good, "s", quiesce=True)
    assert client.vm(good).snapshot.rootSnapshotList[0].quiesced
    ask = client.vm(good).CreateSnapshotEx_Task(
        name="ex", description="", memory=False, quiesceSpec=vim.vm.GuestQuiesceSpec(timeout=5)
    )
    assert client.wait(ask).config.name == "good"
    for kind in ("multiwriter", "bus"):
        shared = center.add_vm(f"shared-{kind}", [MIB], shared=kind)
        with pytest.raises(vim.fault.SnapshotIncompatibleDeviceInVm):
            client.snapshot(shared, "s")
    with pytest.raises(vim.fault.InvalidName):
        client.snapshot(good, "")


def test_failed_consolidation_is_needed_until_done(center: VCenter, client: Any) -> None:
    vm = center.add_vm("a", [MIB], running=True)
    one = client.snapshot(vm, "one")
    vm.write(0, b"x" * 4096)
    center.faults.add("consolidate", fault="FileLocked", message="locked by a backup")
    with pytest.raises(vim.fault.FileLocked):
        client.wait(one.RemoveSnapshot_Task(False))
    assert client.vm(vm).snapshot is None and client.vm(vm).runtime.consolidationNeeded and vm.volumes[0].chained
    client.wait(client.vm(vm).ConsolidateVMDisks_Task())
    assert not client.vm(vm).runtime.consolidationNeeded and not vm.volumes[0].chained
    two = client.snapshot(vm, "two")
    client.wait(two.RemoveSnapshot_Task(False, consolidate=False))
    assert client.vm(vm).runtime.consolidationNeeded


def test_slow_consolidation_keeps_the_task_running(center: VCenter, client: Any) -> None:
    vm = center.add_vm("a", [MIB], running=True)
    one = client.snapshot(vm, "one")
    center.faults.add("consolidate", delay=0.3)
    task = one.RemoveSnapshot_Task(False)
    until(lambda: vm.snapshots == [], center)
    assert task.info.state == "running" and vm.volumes[0].chained
    client.wait(task)
    assert not vm.volumes[0].chained


# change tracking


def changed(client: Any, vm: LabVM, snapshot: Any, since: str) -> tuple[list[tuple[int, int]], int]:
    """All pages; areas and the number of calls."""
    areas, start, calls = [], 0, 0
    while start < vm.disks[0].capacity:
        page = client.vm(vm).QueryChangedDiskAreas(snapshot, DISK, start, since)
        areas += [(area.start, area.length) for area in page.changedArea]
        assert page.startOffset == start and page.length > 0
        start, calls = page.startOffset + page.length, calls + 1
    return areas, calls


@pytest.mark.parametrize("page", [1, 3, 2000])
def test_three_rounds_are_equal_byte_for_byte(center: VCenter, client: Any, page: int) -> None:
    center.cbt_page = page
    rng = random.Random(page)
    vm = center.add_vm("a", [rng.randbytes(8 * MIB)], running=True, cbt=True)
    volume, copy, since = vm.volumes[0], bytearray(8 * MIB), "*"
    for number in range(4):
        for _ in range(number and 20):
            vm.write(rng.randrange(0, 8 * MIB - 5000), rng.randbytes(rng.randrange(1, 5000)))
        snapshot = client.snapshot(vm, f"round-{number}")
        vm.write(rng.randrange(0, 8 * MIB - 512), b"after" * 100)
        areas, calls = changed(client, vm, snapshot, since)
        assert calls == max(1, -(-len(areas) // page)) and (not number or len(areas) > 3)
        for start, length in areas:
            copy[start : start + length] = volume.read(start, length, snapshot._moId)
        assert copy == volume.read(0, 8 * MIB, snapshot._moId)
        since = client.change_ids(snapshot)[DISK]
        client.wait(snapshot.RemoveSnapshot_Task(False, True))
    client.wait(client.vm(vm).PowerOffVM_Task())
    for start, length in changed(client, vm, None, since)[0]:
        copy[start : start + length] = volume.read(start, length)
    assert copy == vm.read()


def test_tracking_begins_with_a_stun(center: VCenter, client: Any) -> None:
    vm = center.add_vm("a", [b"x" * MIB], running=True)
    assert client.change_ids(client.snapshot(vm, "without"))[DISK] is None
    client.wait(client.vm(vm).RemoveAllSnapshots_Task())
    client.wait(client.vm(vm).ReconfigVM_Task(vim.vm.ConfigSpec(changeTrackingEnabled=True)))
    config = client.vm(vm).config
    assert config.changeTrackingEnabled and {o.key for o in config.extraConfig} >= {"ctkEnabled", "scsi0:0.ctkEnabled"}
    assert not vm.volumes[0].tracking_active
    first = client.snapshot(vm, "stun")
    assert vm.volumes[0].tracking_active
    assert client.change_ids(client.vm(vm))[DISK] is None, "never in the running configuration"
    client.wait(first.RemoveSnapshot_Task(False))
    second = client.snapshot(vm, "with")
    assert client.change_ids(second)[DISK]
    fresh = center.add_vm("fresh", [MIB], running=True)
    client.wait(client.vm(fresh).ReconfigVM_Task(vim.vm.ConfigSpec(changeTrackingEnabled=True)))
    assert not fresh.volumes[0].tracking_active
    client.wait(client.vm(fresh).PowerOffVM_Task())
    client.wait(client.vm(fresh).PowerOnVM_Task())
    assert fresh.volumes[0].tracking_active


def test_what_is_refused(center: VCenter, client: Any) -> None:
    vm = center.add_vm("a", [MIB, MIB], running=True, cbt=True, disk_mode=["persistent", "independent_persistent"])
    other = center.add_vm("b", [MIB], running=True)
    mine, theirs = client.snapshot(vm, "s"), client.snapshot(other, "s")
    ids = client.change_ids(mine)
    assert ids[DISK + 1] is None
    ask = client.vm(vm).QueryChangedDiskAreas
    for snapshot, key, start, since, fault in (
        (mine, DISK, MIB, "*", vmodl.fault.InvalidArgument),
        (mine, DISK, -1, "*", vmodl.fault.InvalidArgument),
        (mine, 1, 0, "*", vmodl.fault.InvalidArgument),
        (mine, DISK, 0, "52 01/7", vmodl.fault.InvalidArgument),
        (mine, DISK + 1, 0, "*", vim.fault.FileFault),
        (theirs, DISK, 0, "*", vim.fault.NotFound),
        (None, DISK, 0, ids[DISK], vim.fault.FileFault),
    ):
        with pytest.raises(fault):
            ask(snapshot, key, start, since)
    with pytest.raises(vim.fault.FileFault):
        client.vm(other).QueryChangedDiskAreas(theirs, DISK, 0, "*")


def test_power_loss_may_lose_the_tracking(center: VCenter, client: Any) -> None:
    vm = center.add_vm("a", [MIB], running=True, cbt=True)
    since = client.change_ids(client.snapshot(vm, "one"))[DISK]
    client.wait(client.vm(vm).RemoveAllSnapshots_Task())
    vm.loses_tracking = True
    client.wait(client.vm(vm).PowerOffVM_Task())
    with pytest.raises(vmodl.fault.InvalidArgument):
        client.vm(vm).QueryChangedDiskAreas(None, DISK, 0, since)
    other = client.change_ids(client.snapshot(vm, "two"))[DISK]
    assert other.partition("/")[0] != since.partition("/")[0]
