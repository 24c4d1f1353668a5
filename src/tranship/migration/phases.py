"""Decisions that the cold and the warm itineraries share: power, disks, copies, the target machine.

Each is a pure `decide(vm, seen)` or a `record(vm, seen)` that writes what was learned. See itinerary.py for the rules.
"""

from datetime import timedelta

from tranship.errors import AlreadyExists, CopyFailed, Refused, Side, TimedOut
from tranship.inventory.vm import Power
from tranship.migration import churn
from tranship.migration.asks import (
    CreateDisks,
    CreateMachine,
    EndCopies,
    PowerOff,
    RemoveCheckpoint,
    RemoveSnapshot,
    ShutDownGuest,
    StartCopies,
    StartMachine,
)
from tranship.migration.itinerary import Advance, Do, Fail, Verdict, Wait
from tranship.migration.ledger import acquaint, note
from tranship.migration.seen import CopySeen, CopyState, MachineState, Seen, Snapshot
from tranship.resources.vm import CutoverStatus, Precopy, VMStatus
from tranship.units import format_bytes, format_duration

LEAVE_OFF = "Leave the source VM off until its migration has ended, then start the plan again."


def precopies(vm: VMStatus) -> list[Precopy]:
    return vm.warm.precopies if vm.warm else []


def current_round(vm: VMStatus) -> int:
    """Rounds count from 1; a cold migration has one."""
    return precopies(vm)[-1].round if precopies(vm) else 1


def next_round(vm: VMStatus) -> int:
    return precopies(vm)[-1].round + 1 if precopies(vm) else 1


def snapshot_name(seen: Seen, number: int) -> str:
    return f"{seen.policy.mark}-{number}"


def seconds_in_phase(vm: VMStatus, seen: Seen) -> float:
    return (seen.now - vm.entered).total_seconds() if vm.entered else 0.0


# --- start -----------------------------------------------------------------------------------------------------------


def started(vm: VMStatus, seen: Seen) -> Verdict:
    """The name on the target must be free or ours before anything is done to the source."""
    if seen.target.foreign:
        return Fail(
            AlreadyExists(
                f": {seen.target.foreign}",
                what="target",
                name=seen.policy.machine,
                side=Side.TARGET,
                remedy="Remove it, or give the VM another targetName in the plan.",
            )
        )
    return Advance("admitted; the name is free on the target")


# --- source power ----------------------------------------------------------------------------------------------------


def store_power(vm: VMStatus, seen: Seen) -> Verdict:
    if seen.source.power is Power.SUSPENDED:
        remedy = "Resume the VM or power it off, then start the plan again."
        return Fail(
            Refused("the VM is suspended", what="moving it", fault="suspended", side=Side.SOURCE, remedy=remedy)
        )
    if seen.source.power is Power.UNKNOWN:
        return Wait("the source does not say whether the VM is on")
    return Advance(f"the source VM is {seen.source.power.value.lower()}; remembered")


def record_power(vm: VMStatus, seen: Seen) -> None:
    vm.restore_power_state = seen.source.power.value
    vm.cutover = vm.cutover or CutoverStatus()
    vm.cutover.asked = vm.cutover.asked or seen.now
    vm.cutover.predicted_seconds = vm.forecast.downtime_seconds if vm.forecast else None


def power_off_source(vm: VMStatus, seen: Seen) -> Verdict:
    """Guest first; after the deadline hard, if the plan allows it."""
    policy, waited = seen.policy, seconds_in_phase(vm, seen)
    if seen.source.power is Power.OFF:
        return Advance("the source VM is off")
    if seen.source.tools_running and waited < policy.shutdown_deadline:
        left = format_duration(round(policy.shutdown_deadline - waited))
        return Do((ShutDownGuest(),), f"the guest was asked to shut down; {left} left", again=60.0)
    if policy.hard_power_off:
        why = "the guest did not shut down in time" if seen.source.tools_running else "no guest tools run"
        return Do((PowerOff(),), f"powering off hard: {why}", again=30.0)
    remedy = "Shut the guest down by hand, raise spec.shutdown.deadline or allow spec.shutdown.hardPowerOff."
    error = TimedOut(what="shutting down the guest", seconds=policy.shutdown_deadline, side=Side.SOURCE, remedy=remedy)
    return Fail(error)


def wait_for_power_off(vm: VMStatus, seen: Seen) -> Verdict:
    if seen.source.power is not Power.OFF:
        return Fail(
            Refused(
                "the VM was powered on again", what="cutover", fault="poweredOn", side=Side.SOURCE, remedy=LEAVE_OFF
            )
        )
    if seen.source.tasks:
        return Wait(f"the source still works on the VM: {', '.join(seen.source.tasks)}")
    return Advance("power-off confirmed")


def record_power_off(vm: VMStatus, seen: Seen) -> None:
    vm.cutover = vm.cutover or CutoverStatus()
    if vm.restore_power_state == Power.ON.value:
        vm.cutover.powered_off = seen.now


# --- disks and copies ------------------------------------------------------------------------------------------------


def create_disks(vm: VMStatus, seen: Seen) -> Verdict:
    if seen.target.foreign:
        return started(vm, seen)
    missing = seen.policy.disks.keys() - seen.target.disks
    if missing:
        return Do((CreateDisks(seen.policy.disk_names),), f"making {len(missing)} target disks")
    return Advance(f"{len(seen.policy.disks)} target disks are there")


def record_disks(vm: VMStatus, seen: Seen) -> None:
    """What an earlier migration of the plan made for this VM is used on, and is this one's from now on."""
    note(vm, CreateDisks(seen.policy.disk_names).makes, seen)
    acquaint(vm, seen)


def copy(vm: VMStatus, seen: Seen, *, snapshot: str, ways: dict[str, str], base: dict[str, str]) -> Verdict:
    """Done means copied, flushed, read back and equal, said by the mover; never the absence of something."""
    if seen.target.foreign:
        return started(vm, seen)
    number = current_round(vm)
    copies = {disk: seen.copies.get(disk, CopySeen(CopyState.ABSENT)) for disk in seen.policy.disks}
    for disk, one in copies.items():
        if (one.state is CopyState.FAILED and not one.temporary) or one.stuck:
            return Fail(_copy_error(disk, one))
    open_ = [disk for disk, one in copies.items() if one.state not in (CopyState.DONE, CopyState.RUNNING)]
    if open_:
        broken = next((disk for disk in open_ if copies[disk].state is not CopyState.ABSENT), None)
        chosen = {disk: ways[disk] for disk in open_}
        known = {disk: base[disk] for disk in open_ if base.get(disk)}
        trouble = _copy_error(broken, copies[broken]) if broken else None
        why = f"resuming the copy of {len(open_)} disks" if broken else f"starting the copy of {len(open_)} disks"
        return Do((StartCopies(number, snapshot, chosen, known),), why, trouble=trouble)
    total, done = sum(one.total for one in copies.values()), sum(one.done for one in copies.values())
    if any(one.state is CopyState.RUNNING for one in copies.values()):
        waits = next((f"; waiting: {one.message}" for one in copies.values() if one.waits), "")
        return Wait(f"copying: {format_bytes(done)} of {format_bytes(total)}{waits}")
    if not all(one.released for one in copies.values()):
        return Do((EndCopies(number),), "giving back what the source lent for reading")
    copied = sum(one.copied for one in copies.values())
    proof = "target read back and equal" if all(one.verified for one in copies.values()) else "target not read back"
    return Advance(f"round {number}: {format_bytes(copied)} copied, {proof}")


def _copy_error(disk: str, one: CopySeen) -> CopyFailed:
    if one.state is CopyState.LOST:
        remedy = "See the server's log and this host's memory, then start the plan again."
        return CopyFailed("the mover died; its journal remains", disk=disk, remedy=remedy)
    return CopyFailed(f"{one.reason}: {one.message}", disk=disk, remedy=one.suggestion)


def record_copy(vm: VMStatus, seen: Seen) -> None:
    """The changeId of this round becomes the base only now, when its bytes are durable and proved."""
    number = current_round(vm)
    deltas = {}
    if precopies(vm):
        last = precopies(vm)[-1]
        deltas = {delta.disk: delta.delta_id for delta in last.deltas}
        last.end = seen.now
        last.bytes = sum(one.copied + one.zeroed for one in seen.copies.values())
        last.areas = sum(one.areas for one in seen.copies.values())
        last.seconds = max((one.seconds for one in seen.copies.values()), default=0.0)
        last.full = sorted(disk for disk, one in seen.copies.items() if one.full)
        assert vm.warm is not None
        vm.warm.successes += 1
        vm.warm.next_precopy_at = seen.now + timedelta(seconds=churn.interval(precopies(vm), seen.policy))
        vm.forecast = churn.forecast(precopies(vm), seen.policy)
    for disk in vm.disks:
        one = seen.copies[disk.id]
        disk.round, disk.digest, disk.verified = number, one.digest, one.verified
        disk.base = deltas.get(disk.id) or ""


def record_all_copied(vm: VMStatus, seen: Seen) -> None:
    record_copy(vm, seen)
    vm.disks_copied = True


# --- snapshots -------------------------------------------------------------------------------------------------------


def remove_previous(vm: VMStatus, seen: Seen) -> Verdict:
    """What the next round does not name as its base."""
    return _remove(vm, seen, bases(vm))


def remove_all(vm: VMStatus, seen: Seen) -> Verdict:
    return _remove(vm, seen, frozenset())


def bases(vm: VMStatus) -> frozenset[str]:
    return frozenset(disk.base for disk in vm.disks if disk.base)


def own_snapshots(seen: Seen) -> list[Snapshot]:
    return [one for one in seen.source.snapshots if one.name.startswith(f"{seen.policy.mark}-")]


def _remove(vm: VMStatus, seen: Seen, keep: frozenset[str]) -> Verdict:
    """Only this migration's; users' snapshots and checkpoints stay whatever happens."""
    snapshots = [one for one in own_snapshots(seen) if one.id not in keep]
    if snapshots:
        return remove(snapshots[-1], seen)
    if seen.source.tasks:  # a snapshot asked for by a controller that died may still appear
        return Wait(f"the source still works on the VM: {', '.join(seen.source.tasks)}")
    own = {entry.name for entry in vm.ledger if entry.kind == "checkpoint"}
    own |= {delta.delta_id for one in precopies(vm) for delta in one.deltas}
    for id in seen.source.checkpoints:
        if id in own - keep:
            return Do((RemoveCheckpoint(id),), f"removing checkpoint {id}")
    return Advance("nothing of ours is left" if not keep else "what the next round does not need is gone")


def remove(snapshot: Snapshot, seen: Seen) -> Verdict:
    """One that is being made has to be there first: only then it says what it leaves behind."""
    if snapshot.blocks_power_on and not snapshot.checkpoint and seen.source.tasks:
        return Wait(f"the source still works on the VM: {', '.join(seen.source.tasks)}")
    return Do((RemoveSnapshot(snapshot.name, snapshot.checkpoint),), f"removing snapshot {snapshot.name}")


def record_removed(vm: VMStatus, seen: Seen) -> None:
    """What stays in the ledger is what is still there."""
    there = {one.name for one in own_snapshots(seen)} | set(seen.source.checkpoints)
    vm.ledger = [one for one in vm.ledger if one.kind not in ("snapshot", "checkpoint") or one.name in there]


# --- target machine --------------------------------------------------------------------------------------------------


def wanted_on(vm: VMStatus, seen: Seen) -> bool:
    if seen.policy.power == "auto":
        return vm.restore_power_state == Power.ON.value
    return seen.policy.power == "on"


def create_machine(vm: VMStatus, seen: Seen) -> Verdict:
    if seen.target.foreign:  # somebody was quicker: what has the name now is not what was ordered
        return started(vm, seen)
    if seen.target.machine is MachineState.ABSENT:
        return Do((CreateMachine(seen.policy.machine),), f"making the target VM {seen.policy.machine}")
    if not wanted_on(vm, seen) and seen.target.machine is not MachineState.STARTING:
        return Advance("the target VM is there; it stays off as wished")
    if seen.target.machine is MachineState.RUNNING:
        return Advance("the target VM runs")
    if seen.source.power is not Power.OFF:  # two machines with the same addresses must never be up
        return Fail(
            Refused(
                "the source VM is on again",
                what="starting the target",
                fault="poweredOn",
                side=Side.SOURCE,
                remedy=LEAVE_OFF,
            )
        )
    if seen.target.machine is MachineState.STARTING:
        return Wait("the target VM is starting")
    return Do((StartMachine(),), "starting the target VM", again=30.0)


def record_machine(vm: VMStatus, seen: Seen) -> None:
    vm.outcome = "succeeded"
    vm.new_name = seen.policy.machine
    if vm.cutover and vm.cutover.powered_off and seen.target.machine is MachineState.RUNNING:
        vm.cutover.started = seen.now
        vm.cutover.downtime_seconds = (seen.now - vm.cutover.powered_off).total_seconds()
