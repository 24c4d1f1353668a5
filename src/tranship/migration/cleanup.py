"""Failure and cancel are itineraries too: stop copying, stop the target, source on again, no snapshot left, target discarded.

Their rows are stubborn: one that cannot succeed says what it left behind and the rest still runs. The source comes back
before snapshots are removed, because users wait for the one and nobody for the other; but never while the target runs.
"""

from tranship.errors import Refused, Side
from tranship.inventory.vm import Power
from tranship.migration import phases
from tranship.migration.asks import Consolidate, DeleteDisks, DeleteMachine, EndCopies, PowerOn, StopCopies, StopMachine
from tranship.migration.itinerary import Advance, Do, Fail, Itinerary, Row, Verdict, Wait
from tranship.migration.ledger import made_on_target
from tranship.migration.seen import CopyState, MachineState, Seen
from tranship.resources.vm import VMStatus


def stop_copies(vm: VMStatus, seen: Seen) -> Verdict:
    number = phases.current_round(vm)
    if any(one.state is CopyState.RUNNING for one in seen.copies.values()):
        return Do((StopCopies(number),), "stopping the movers")
    if not all(one.released for one in seen.copies.values()):
        return Do((EndCopies(number),), "giving back what the source lent for reading")
    return Advance("no mover runs")


def stop_target(vm: VMStatus, seen: Seen) -> Verdict:
    if seen.target.may_run and not seen.target.foreign:
        return Do((StopMachine(),), "stopping the target VM", again=30.0)
    return Advance("the target VM does not run")


def release_source(vm: VMStatus, seen: Seen) -> Verdict:
    blocking = [one for one in phases.own_snapshots(seen) if one.blocks_power_on]
    if blocking and vm.restore_power_state == Power.ON.value and seen.source.power is not Power.ON:
        return phases.remove(blocking[0], seen)
    return Advance("nothing of ours keeps the source VM from starting")


def restore_power(vm: VMStatus, seen: Seen) -> Verdict:
    if vm.restore_power_state != Power.ON.value:
        return Advance("the source VM was not on")
    if seen.source.power is Power.ON:
        return Advance("the source VM is on")
    if seen.target.may_run and not seen.target.foreign:
        remedy = "Stop the target VM, then power the source VM on by hand."
        return Fail(
            Refused("the target runs", what="powering the source on", fault="twins", side=Side.TARGET, remedy=remedy)
        )
    return Do((PowerOn(),), "powering the source VM on again", again=30.0)


def watch_power(vm: VMStatus, seen: Seen) -> Verdict:
    """A guest that was asked to shut down may do so after the cancel: watch it that long, and bring it back."""
    verdict = restore_power(vm, seen)
    if not isinstance(verdict, Advance) or vm.restore_power_state != Power.ON.value:
        return verdict
    asked = {entry.name for entry in vm.ledger if entry.kind == "power"}
    if asked == {"off"} and phases.seconds_in_phase(vm, seen) < seen.policy.shutdown_deadline:
        return Wait("the guest was asked to shut down and may still do so: watching that the source stays on")
    return verdict


def consolidate(vm: VMStatus, seen: Seen) -> Verdict:
    if seen.source.consolidation_needed and vm.ledger:
        return Do((Consolidate(),), "the source has disks to consolidate", again=60.0)
    return Advance("nothing to consolidate")


def discard_target(vm: VMStatus, seen: Seen) -> Verdict:
    """Only what the ledger says is ours, and only if the plan wants it gone. A machine of ours whose disk is somebody
    else's by now is left as it is."""
    if not seen.policy.delete_on_fail:
        return Advance("the target is kept as the plan says")
    machines, disks = made_on_target(vm, "machine"), made_on_target(vm, "disk")
    machine = machines.get(seen.policy.machine)
    if seen.target.foreign and machine:
        return Advance("the target is somebody else's: not touched")
    if seen.target.machine is not MachineState.ABSENT and machine is not None and not seen.target.foreign:
        return Do((DeleteMachine(machine),), "removing the target VM")
    names = zip(seen.policy.disks, seen.policy.disk_names, strict=True)
    seen_uids = seen.target.uids
    made = {
        disk: disks[name]
        for disk, name in names
        if name in disks
        and (disk in seen.target.disks or (disks[name] and seen_uids.get(("disk", name)) == disks[name]))
    }
    if made:
        return Do((DeleteDisks(made),), "removing the target disks")
    whose = f"; {seen.target.foreign}: not touched" if seen.target.foreign else ""
    return Advance(f"nothing of ours is left on the target{whose}")


def completed(vm: VMStatus, seen: Seen) -> Verdict:
    return Wait("ended")


def _compensation(name: str) -> Itinerary:
    return Itinerary(
        name,
        (
            Row("StopCopies", "Cleanup", stop_copies, stubborn=True),
            Row("StopTarget", "Cleanup", stop_target, deadline=lambda policy: policy.start_deadline, stubborn=True),
            Row(
                "ReleaseSource",
                "Cleanup",
                release_source,
                deadline=lambda policy: policy.removal_deadline,
                stubborn=True,
            ),
            Row("RestorePower", "Cleanup", restore_power, deadline=lambda policy: policy.start_deadline, stubborn=True),
            Row(
                "RemoveSnapshots",
                "Cleanup",
                phases.remove_all,
                phases.record_removed,
                deadline=lambda policy: policy.removal_deadline,
                stubborn=True,
            ),
            Row("Consolidate", "Cleanup", consolidate, deadline=lambda policy: policy.removal_deadline, stubborn=True),
            Row("DiscardTarget", "Cleanup", discard_target, stubborn=True),
            Row("WatchPower", "Cleanup", watch_power, stubborn=True),
            Row("Completed", "Cleanup", completed),
        ),
    )


FAILED = _compensation("failed")
CANCELED = _compensation("canceled")
