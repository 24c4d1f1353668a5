"""A target that does not run yet but may come up: nobody else is started beside it, and it counts for no success."""

from datetime import UTC, datetime

from tranship.inventory.vm import Power
from tranship.migration import cleanup, phases
from tranship.migration.asks import StopMachine
from tranship.migration.itinerary import Advance, Do, Fail, Wait
from tranship.migration.seen import MachineState, Policy, Seen, SourceSeen, TargetSeen
from tranship.resources.vm import VMStatus


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
