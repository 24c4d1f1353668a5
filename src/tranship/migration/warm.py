"""The warm itineraries: copy while the VM runs, cut over when the user says so.

With random access to snapshots (VDDK, oVirt):

    Started > EnableChangeTracking > CreateInitialSnapshot > WaitForInitialSnapshot > StoreInitialSnapshotDeltas >
    CreateDataVolumes >
    loop: CopyDisks > RemovePreviousSnapshot > WaitForPreviousSnapshotRemoval > CopyingPaused >
          CreateSnapshot > WaitForSnapshot > StoreSnapshotDeltas > AddCheckpoint > (CopyDisks)
    StorePowerState > PowerOffSource > WaitForPowerOff > CreateFinalSnapshot > WaitForFinalSnapshot > AddFinalCheckpoint >
    Finalize > CreateVM > RemoveFinalSnapshot > WaitForFinalSnapshotRemoval > Completed

The order inside a round is what keeps data whole: changeIds noted, areas copied and proved, the snapshot removed and
consolidated, only then the next one made. (On vSphere, making the next before removing the last has corrupted file systems.)
The last snapshot is removed when the target runs already: consolidation takes minutes to hours and is not part of the
downtime.

oVirt walks the same rows. By its backup API a round's "snapshot" is a backup, and what tells the next round's changes is the
checkpoint that the backup leaves behind. By snapshots it is the layer between two of them, so the last one stays until the
next is copied. Hence one rule: after a round, whatever the next round does not name as its base is removed.

Without VDDK a running VM can be read once, as a stream of the first snapshot; changes since then are read from the datastore
when the VM is off and its own snapshots are gone, so there is one full copy and one final delta.
"""

from datetime import datetime, timedelta

from tranship.errors import Refused, Side, Unsupported
from tranship.migration import churn, phases
from tranship.migration.asks import Consolidate, CreateSnapshot, EnableChangeTracking
from tranship.migration.cold import completed
from tranship.migration.itinerary import Advance, Do, Fail, Itinerary, Row, Verdict, Wait
from tranship.migration.seen import CopyState, Policy, Seen
from tranship.resources.vm import Delta, Precopy, VMStatus, Warm

HISTORY = 50  # precopies that are remembered: a month of them would not fit into an object


def enable_change_tracking(vm: VMStatus, seen: Seen) -> Verdict:
    disks = [one for one in seen.source.disks if one.key in seen.policy.disks]
    if all(one.change_tracking is None for one in disks):
        return Advance("the source tells changes without anything being switched on")
    foreign = [one.name for one in seen.source.snapshots if not one.name.startswith(seen.policy.own)]
    if foreign:
        remedy = "Remove the snapshot, or migrate the VM cold."
        detail = f"the VM has the snapshot {foreign[0]!r}; reverting to it would make increments wrong"
        return Fail(Refused(detail, what="warm migration", fault="VMHasSnapshots", side=Side.SOURCE, remedy=remedy))
    off = [one.key for one in disks if not one.change_tracking]
    if not off:
        return Advance("changed block tracking is on for every disk")
    if seen.policy.enable_change_tracking:
        ask = EnableChangeTracking(f"{seen.policy.mark}-cbt")
        return Do((ask,), f"switching changed block tracking on ({len(off)} disks)")
    remedy = "Enable changed block tracking on the VM, set spec.precopy.enableChangeTracking, or migrate cold."
    error = Unsupported(
        f"changed block tracking is off for disks {', '.join(off)}", what="warm migration", remedy=remedy
    )
    return Fail(error)


def _snapshot(vm: VMStatus, seen: Seen, number: int) -> Verdict:
    name = phases.snapshot_name(seen, number)
    if seen.source.snapshot(name):
        return Advance(f"snapshot {name} is there")
    if seen.source.tasks:
        return Wait(f"the source still works on the VM: {', '.join(seen.source.tasks)}")
    if seen.source.consolidation_needed:
        return Do((Consolidate(),), "consolidating before the next snapshot", again=60.0)
    since = next(iter(sorted(phases.bases(vm))), "")
    return Do((CreateSnapshot(name, seen.policy.quiesce, since),), f"making snapshot {name}")


def create_snapshot(vm: VMStatus, seen: Seen) -> Verdict:
    return _snapshot(vm, seen, phases.next_round(vm))


def record_snapshot(vm: VMStatus, seen: Seen) -> None:
    vm.warm = vm.warm or Warm()
    number = phases.next_round(vm)
    snapshot = seen.source.snapshot(phases.snapshot_name(seen, number))
    assert snapshot is not None
    vm.warm.precopies.append(Precopy(round=number, start=seen.now, snapshot=snapshot.id, quiesced=snapshot.quiesced))
    del vm.warm.precopies[:-HISTORY]


def wait_for_snapshot(vm: VMStatus, seen: Seen) -> Verdict:
    if seen.source.snapshot(phases.snapshot_name(seen, phases.current_round(vm))) is None:
        return Fail(_snapshot_lost(vm, seen))
    if seen.source.tasks:
        return Wait(f"the source still works on the VM: {', '.join(seen.source.tasks)}")
    return Advance("the snapshot is complete")


def _snapshot_lost(vm: VMStatus, seen: Seen) -> Refused:
    name = phases.snapshot_name(seen, phases.current_round(vm))
    remedy = "Keep other tools from removing it, then start the plan again."
    return Refused(
        f"{name} was removed by somebody else", what="snapshot", fault="gone", side=Side.SOURCE, remedy=remedy
    )


def store_deltas(vm: VMStatus, seen: Seen) -> Verdict:
    snapshot = seen.source.snapshot(phases.snapshot_name(seen, phases.current_round(vm)))
    if snapshot is None:
        return Fail(_snapshot_lost(vm, seen))
    without = [disk for disk in seen.policy.disks if not snapshot.change_ids.get(disk)]
    if without and phases.current_round(vm) == 1:
        detail = f"the snapshot carries no changeId for disks {', '.join(without)}: tracking is not active there"
        remedy = "Set spec.precopy.enableChangeTracking, or power the VM off and on once, or migrate cold."
        return Fail(Unsupported(detail, what="warm migration", remedy=remedy))
    return Advance("changeIds noted" if not without else f"no changeId for {', '.join(without)}: full copy next time")


def record_deltas(vm: VMStatus, seen: Seen) -> None:
    snapshot = seen.source.snapshot(phases.snapshot_name(seen, phases.current_round(vm)))
    assert snapshot is not None
    ids = snapshot.change_ids
    phases.precopies(vm)[-1].deltas = [Delta(disk=disk, delta_id=ids.get(disk, "")) for disk in seen.policy.disks]


def add_checkpoint(vm: VMStatus, seen: Seen) -> Verdict:
    """The disks must be those of the round before: a grown or exchanged disk makes its delta meaningless."""
    sizes = {disk.key: disk.capacity for disk in seen.source.disks}
    changed = [disk for disk, size in seen.policy.disks.items() if sizes.get(disk) != size]
    added = [disk for disk in sizes if disk not in seen.policy.disks]
    if changed or added:
        detail = f"disks {', '.join(sorted(changed + added))} were resized, added or removed during the migration"
        remedy = "Start the plan again: it takes the VM's disks as they are now."
        return Fail(Refused(detail, what="precopy", fault="disksChanged", side=Side.SOURCE, remedy=remedy))
    return Advance("the disks are those of the round before")


def begin_round(vm: VMStatus, seen: Seen) -> Verdict:
    verdict = add_checkpoint(vm, seen)
    return Advance(verdict.why, to="CopyDisks") if isinstance(verdict, Advance) else verdict


def final_checkpoint(vm: VMStatus, seen: Seen) -> Verdict:
    """The last time to find out that the VM has a disk that nobody copied."""
    verdict = add_checkpoint(vm, seen)
    return store_deltas(vm, seen) if isinstance(verdict, Advance) else verdict


def copy_disks(vm: VMStatus, seen: Seen) -> Verdict:
    number = phases.current_round(vm)
    base = {disk.id: disk.base or "" for disk in vm.disks}
    name = phases.snapshot_name(seen, number)
    if seen.source.snapshot(name) is None and not _all_done(seen):
        return Fail(_snapshot_lost(vm, seen))
    return phases.copy(vm, seen, snapshot=name, ways={disk.id: disk.way for disk in vm.disks}, base=base)


def _all_done(seen: Seen) -> bool:
    return bool(seen.copies) and all(one.state is CopyState.DONE for one in seen.copies.values())


def wait_for_removal(vm: VMStatus, seen: Seen) -> Verdict:
    if seen.source.consolidation_needed:
        return Do((Consolidate(),), "the source has disks to consolidate", again=60.0)
    if seen.source.tasks:
        return Wait(f"the source still works on the VM: {', '.join(seen.source.tasks)}")
    return Advance("removed and consolidated")


def copying_paused(vm: VMStatus, seen: Seen) -> Verdict:
    """Next round when its time comes; shortly before a cutover one more, so that the downtime carries minutes of change."""
    history = phases.precopies(vm)
    lead = timedelta(seconds=churn.lead(history))
    last = history[-1]
    assert last.start is not None and last.end is not None
    if seen.cutover_due:
        assert seen.cutover is not None
        if last.start >= seen.cutover - lead:
            return Advance("cutover", to="StorePowerState")
        return Advance("cutover is due: one more precopy first, so that little is left to copy while the VM is down")
    following = last.end + timedelta(seconds=churn.interval(history, seen.policy))
    if seen.cutover and last.start < seen.cutover - lead:
        following = min(following, seen.cutover - lead)
    if following <= seen.now:
        return Advance("the next precopy is due")
    return _pause(vm, seen, following)


def _pause(vm: VMStatus, seen: Seen, following: datetime) -> Wait:
    when = f"cutover at {seen.cutover:%Y-%m-%d %H:%M:%S} UTC" if seen.cutover else "no cutover time is set"
    tail = f"; {vm.forecast.basis}" if vm.forecast and vm.forecast.converging is False else ""
    return Wait(
        f"{phases.current_round(vm)} precopies done, the next at {following:%H:%M:%S} UTC; {when}{tail}", following
    )


def paused_without_rounds(vm: VMStatus, seen: Seen) -> Verdict:
    if seen.cutover_due:
        return Advance("cutover")
    when = f"cutover at {seen.cutover:%Y-%m-%d %H:%M:%S} UTC" if seen.cutover else "no cutover time is set"
    return Wait(f"the full copy is done; {when}; changes are read at cutover when the VM is off")


def record_offline_round(vm: VMStatus, seen: Seen) -> None:
    """The final delta of a way without snapshots is a round too."""
    assert vm.warm is not None
    vm.warm.precopies.append(Precopy(round=phases.next_round(vm), start=seen.now, snapshot=""))


def copy_offline(vm: VMStatus, seen: Seen) -> Verdict:
    base = {disk.id: disk.base or "" for disk in vm.disks}
    return phases.copy(vm, seen, snapshot="", ways={disk.id: "datastore" for disk in vm.disks}, base=base)


def no_snapshot_left(vm: VMStatus, seen: Seen) -> Verdict:
    """The datastore serves a disk only without a chain."""
    verdict = phases.remove_all(vm, seen)
    return verdict if isinstance(verdict, Do) else wait_for_removal(vm, seen)


def _snapshot_deadline(policy: Policy) -> float:
    return policy.snapshot_deadline


def _removal_deadline(policy: Policy) -> float:
    return policy.removal_deadline


_FIRST = (
    Row("Started", "Initialize", phases.started, slot="to start migration"),
    Row("EnableChangeTracking", "Initialize", enable_change_tracking, deadline=_snapshot_deadline),
    Row("CreateInitialSnapshot", "Initialize", create_snapshot, record_snapshot, deadline=_snapshot_deadline),
    Row("WaitForInitialSnapshot", "Initialize", wait_for_snapshot, deadline=_snapshot_deadline),
    Row("StoreInitialSnapshotDeltas", "Initialize", store_deltas, record_deltas),
    Row("CreateDataVolumes", "Initialize", phases.create_disks, phases.record_disks),
    Row("CopyDisks", "DiskTransfer", copy_disks, phases.record_copy),
    Row("RemovePreviousSnapshot", "DiskTransfer", phases.remove_previous, phases.record_removed),
    Row("WaitForPreviousSnapshotRemoval", "DiskTransfer", wait_for_removal, deadline=_removal_deadline),
)
_POWER_OFF = (
    Row("StorePowerState", "Cutover", phases.store_power, phases.record_power),
    Row("PowerOffSource", "Cutover", phases.power_off_source),
    Row("WaitForPowerOff", "Cutover", phases.wait_for_power_off, phases.record_power_off),
)
_CREATE_VM = Row(
    "CreateVM",
    "VirtualMachineCreation",
    phases.create_machine,
    phases.record_machine,
    deadline=lambda policy: policy.start_deadline,
)

WARM = Itinerary(
    "warm",
    (
        *_FIRST,
        Row(
            "CopyingPaused",
            "DiskTransfer",
            copying_paused,
            jumps=("StorePowerState",),
            slot="to leave the pause",
            blind=True,
        ),
        Row("CreateSnapshot", "DiskTransfer", create_snapshot, record_snapshot, deadline=_snapshot_deadline),
        Row("WaitForSnapshot", "DiskTransfer", wait_for_snapshot, deadline=_snapshot_deadline),
        Row("StoreSnapshotDeltas", "DiskTransfer", store_deltas, record_deltas),
        Row("AddCheckpoint", "DiskTransfer", begin_round, jumps=("CopyDisks",)),
        *_POWER_OFF,
        Row("CreateFinalSnapshot", "Cutover", create_snapshot, record_snapshot, deadline=_snapshot_deadline),
        Row("WaitForFinalSnapshot", "Cutover", wait_for_snapshot, deadline=_snapshot_deadline),
        Row("AddFinalCheckpoint", "Cutover", final_checkpoint, record_deltas),
        Row("Finalize", "Cutover", copy_disks, phases.record_all_copied),
        _CREATE_VM,
        Row(
            "RemoveFinalSnapshot",
            "WaitForFinalSnapshotConsolidation",
            phases.remove_all,
            phases.record_removed,
            deadline=_removal_deadline,
            stubborn=True,
            point_of_no_return=True,
        ),
        Row(
            "WaitForFinalSnapshotRemoval",
            "WaitForFinalSnapshotConsolidation",
            wait_for_removal,
            deadline=_removal_deadline,
            stubborn=True,
        ),
        Row("Completed", "WaitForFinalSnapshotConsolidation", completed),
    ),
    on_failure="failed",
    on_cancel="canceled",
)

WARM_WITHOUT_VDDK = Itinerary(
    "warm-without-vddk",
    (
        *_FIRST,
        Row("CopyingPaused", "DiskTransfer", paused_without_rounds, slot="to cut over", blind=True),
        *_POWER_OFF,
        Row("RemovePenultimateSnapshot", "Cutover", no_snapshot_left, deadline=_removal_deadline),
        Row("AddFinalCheckpoint", "Cutover", add_checkpoint, record_offline_round),
        Row("Finalize", "Cutover", copy_offline, phases.record_all_copied),
        _CREATE_VM,
        Row("Completed", "VirtualMachineCreation", completed, point_of_no_return=True),
    ),
    on_failure="failed",
    on_cancel="canceled",
)
