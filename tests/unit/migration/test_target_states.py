"""A target that does not run yet but may come up: nobody else is started beside it, and it counts for no success."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from tranship.inventory.vm import Power
from tranship.migration import cleanup, phases
from tranship.migration.asks import DeleteDisks, StopCopies, StopMachine
from tranship.migration.itinerary import Advance, Do, Fail, Wait
from tranship.migration.seen import CopySeen, CopyState, MachineState, Policy, Seen, SourceSeen, TargetSeen
from tranship.resources.vm import LedgerEntry, VMStatus


def seen(machine: MachineState, *, source: Power = Power.OFF, power: str = "on") -> Seen:
    policy = Policy(mark="tranship-m-vm", machine="web", power=power)
    return Seen(datetime.now(UTC), policy, SourceSeen(source), TargetSeen(machine=machine))


def test_it_is_waited_for() -> None:
    assert isinstance(phases.create_machine(VMStatus(), seen(MachineState.STARTING)), Wait)
    assert isinstance(phases.create_machine(VMStatus(), seen(MachineState.STARTING, power="off")), Wait)
    assert isinstance(phases.create_machine(VMStatus(), seen(MachineState.RUNNING)), Advance)
    assert isinstance(phases.create_machine(VMStatus(), seen(MachineState.STARTING, source=Power.ON)), Fail)


def test_the_source_comes_back_only_when_it_has_gone() -> None:
    vm = VMStatus(restore_power_state="On")
    stop = cleanup.stop_target(vm, seen(MachineState.STARTING))
    assert isinstance(stop, Do)
    assert stop.asks == (StopMachine(),)
    assert isinstance(cleanup.restore_power(vm, seen(MachineState.STARTING)), Fail)
    assert isinstance(cleanup.restore_power(vm, seen(MachineState.OFF)), Do)


@pytest.mark.parametrize("machine", [MachineState.RUNNING, MachineState.OFF])
@pytest.mark.parametrize("power", ["on", "off"])
def test_a_machine_of_somebody_else_is_no_success(machine: MachineState, power: str) -> None:
    """It took the name between the check and the creation."""
    now = seen(machine, power=power)
    now = replace(now, target=replace(now.target, foreign="VirtualMachine moved/web was not made by tranship"))
    verdict = phases.create_machine(VMStatus(), now)
    assert isinstance(verdict, Fail)
    assert verdict.error.reason == "AlreadyExists"
    assert "not made by tranship" in str(verdict.error)
    assert verdict.error.suggestion


def test_beside_a_machine_of_somebody_else_our_disks_go() -> None:
    ledger = [LedgerEntry(kind="disk", name="web-disk-0", side="target", uid="u")]
    ledger.append(LedgerEntry(kind="machine", name="web", side="target"))  # asked for, and never made
    now = seen(MachineState.RUNNING)
    now = replace(now, policy=replace(now.policy, disks={"2000": 1}, disk_names=("web-disk-0",)))
    theirs = TargetSeen(frozenset({"2000"}), MachineState.RUNNING, "it belongs to others")
    verdict = cleanup.discard_target(VMStatus(ledger=ledger), replace(now, target=theirs))
    assert isinstance(verdict, Do)
    assert verdict.asks == (DeleteDisks({"2000": "u"}),)
    gone = cleanup.discard_target(VMStatus(ledger=ledger), replace(now, target=replace(theirs, disks=frozenset())))
    assert isinstance(gone, Advance)
    assert "it belongs to others" in gone.why


def test_a_mover_that_cannot_start_fails_the_vm_and_is_stopped() -> None:
    """It may still come up: nothing else is done before it is gone."""
    stuck = CopySeen(CopyState.RUNNING, reason="MoverNotStarted", message="no nodes", suggestion="Add one.")
    now = seen(MachineState.ABSENT)
    now = replace(now, policy=replace(now.policy, disks={"2000": 1}), copies={"2000": stuck})
    verdict = phases.copy(VMStatus(), now, snapshot="", ways={"2000": "nfc"}, base={})
    assert isinstance(verdict, Fail)
    assert "MoverNotStarted: no nodes" in str(verdict.error)
    assert verdict.error.suggestion == "Add one."
    stop = cleanup.stop_copies(VMStatus(), now)
    assert isinstance(stop, Do)
    assert stop.asks == (StopCopies(1),)


def test_why_a_mover_does_not_run_yet_is_told() -> None:
    now = seen(MachineState.ABSENT)
    copies = {"a": CopySeen(CopyState.RUNNING, message="Unschedulable: no nodes"), "b": CopySeen(CopyState.DONE)}
    now = replace(now, policy=replace(now.policy, disks={"a": 1, "b": 1}), copies=copies)
    verdict = phases.copy(VMStatus(), now, snapshot="", ways={}, base={})
    assert isinstance(verdict, Wait)
    assert "waiting: Unschedulable: no nodes" in verdict.why
