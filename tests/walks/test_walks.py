"""Walks of the itineraries, as stories: golden files with one line per step, and deaths at every boundary.

Goldens live beside this file; `TRANSHIP_GOLDEN=write pytest tests/walks` writes them anew, for a human to read the difference.
"""

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tranship.errors import Busy, Refused, Side, Unreachable
from tranship.inventory.vm import Power
from tranship.migration.book import BOOK
from tranship.migration.itinerary import begin
from tranship.migration.seen import CopyState, MachineState, Policy
from tranship.migration.story import tell
from tranship.resources.vm import DiskStatus, VMStatus
from tranship.testing.world import START, Killed, World, walk

GIB = 1 << 30
DISKS = {"2000": 4 * GIB, "2001": GIB}


def policy(**changes: object) -> Policy:
    facts: dict[str, object] = {
        "mark": "tranship-1234abcd-vm-42",
        "disks": DISKS,
        "disk_names": ("web-disk-0", "web-disk-1"),
        "machine": "web",
        "interval": 60.0,
        "shutdown_deadline": 120.0,
    }
    return Policy(**{**facts, **changes})  # type: ignore[arg-type]


def vm(itinerary: str) -> VMStatus:
    way = {"cold": "datastore", "warm": "vddk", "warm-without-vddk": "nfc"}[itinerary]
    disks = [
        DiskStatus(id=key, name=f"web-disk-{n}", capacity=size, way=way) for n, (key, size) in enumerate(DISKS.items())
    ]
    return begin(VMStatus(id="vm-42", name="web", disks=disks), BOOK[itinerary], START, "admitted")


def cutover_after(rounds: int) -> Callable[[VMStatus, World], None]:
    """The user gives the command while precopy number `rounds` runs or waits."""

    def act(vm: VMStatus, world: World) -> None:
        if vm.warm and len(vm.warm.precopies) >= rounds and world.cutover is None:
            world.cutover = world.now

    return act


def golden(name: str, text: str) -> None:
    path = Path(__file__).with_name(f"{name}.txt")
    if os.environ.get("TRANSHIP_GOLDEN") == "write":
        path.write_text(text)
    assert text == path.read_text()


def assert_moved(end: VMStatus, world: World) -> None:
    assert end.outcome == "succeeded", end.error
    assert world.machine is MachineState.RUNNING
    assert world.power is Power.OFF
    assert world.counts["power Off"] == 1
    assert world.counts["machines"] == 1
    assert world.disks == DISKS.keys()
    assert not world.snapshots
    assert not world.checkpoints
    assert all(disk.verified for disk in end.disks)
    assert not [entry for entry in end.ledger if entry.kind in ("snapshot", "checkpoint")]
    assert [step.phase for step in end.pipeline] == ["Completed"] * len(end.pipeline)


def assert_back(end: VMStatus, world: World, outcome: str) -> None:
    assert end.outcome == outcome
    assert world.power is Power.ON
    assert world.machine is MachineState.ABSENT
    assert not world.disks
    assert not world.snapshots
    assert not world.checkpoints
    assert not any(one.state is CopyState.RUNNING for copies in world.copies.values() for one in copies.values())
    assert all(one.released for copies in world.copies.values() for one in copies.values())


@pytest.mark.parametrize("itinerary", BOOK)
def test_tables_are_sound(itinerary: str) -> None:
    BOOK[itinerary].validate()


def test_cold() -> None:
    world = World(policy())
    end = walk(vm("cold"), world, BOOK)
    assert_moved(end, world)
    golden("cold", tell(end.story))


def test_a_copy_that_was_not_read_back_says_so() -> None:
    world = World(policy(), verify=False)
    end = walk(vm("cold"), world, BOOK)
    assert end.outcome == "succeeded"
    told = [entry.why for entry in end.story if entry.phase == "CreateVM"]
    assert told[0].endswith("target not read back")


def test_warm_with_three_precopies() -> None:
    world = World(policy())
    end = walk(vm("warm"), world, BOOK, each=cutover_after(3))
    assert_moved(end, world)
    assert end.warm is not None
    assert [len(one.deltas) for one in end.warm.precopies] == [2] * len(end.warm.precopies)
    assert end.forecast is not None
    assert end.forecast.converging
    golden("warm-three-precopies", tell(end.story))


@pytest.mark.parametrize("kind", ["backup", "layers"])
def test_warm_from_ovirt(kind: Any) -> None:
    world = World(policy(), kind=kind)
    end = walk(vm("warm"), world, BOOK, each=cutover_after(3))
    assert_moved(end, world)
    golden(f"warm-by-{kind}", tell(end.story))


def test_warm_without_vddk() -> None:
    world = World(policy())
    end = walk(vm("warm-without-vddk"), world, BOOK, each=cutover_after(1))
    assert_moved(end, world)
    golden("warm-without-vddk", tell(end.story))


def test_cancel_during_precopy() -> None:
    world = World(policy(), copy_looks=5)

    def act(vm: VMStatus, world: World) -> None:
        world.cancelled = vm.phase == "CopyDisks" and len(vm.warm.precopies if vm.warm else []) == 2

    end = walk(vm("warm"), world, BOOK, each=act)
    assert_back(end, world, "canceled")
    assert "power Off" not in world.counts
    golden("cancel-during-precopy", tell(end.story))


@pytest.mark.parametrize("kind", ["backup", "layers"])
@pytest.mark.parametrize("phase", ["CopyDisks", "CopyingPaused", "CreateSnapshot", "Finalize"])
def test_cancel_leaves_neither_snapshot_nor_checkpoint(kind: Any, phase: str) -> None:
    world = World(policy(), kind=kind, copy_looks=5)

    def act(vm: VMStatus, world: World) -> None:
        cutover_after(3)(vm, world)
        world.cancelled = world.cancelled or (vm.phase == phase and len(vm.warm.precopies if vm.warm else []) >= 2)

    assert_back(walk(vm("warm"), world, BOOK, each=act), world, "canceled")


def test_failure_at_cutover() -> None:
    refused = Refused(
        "out of memory", what="creating the VM", fault="NoResources", side=Side.TARGET, remedy="Add memory."
    )
    world = World(policy(), faults={"CreateMachine": [refused]})
    end = walk(vm("warm"), world, BOOK, each=cutover_after(1))
    assert_back(end, world, "failed")
    assert world.counts["power Off"] == world.counts["power On"] == 1
    assert end.error is not None
    assert "Add memory." in end.error.reasons
    golden("failure-at-cutover", tell(end.story))


@pytest.mark.parametrize(
    ("itinerary", "kind"),
    [
        ("cold", "tracking"),
        ("warm", "tracking"),
        ("warm", "backup"),
        ("warm", "layers"),
        ("warm-without-vddk", "tracking"),
    ],
)
@pytest.mark.parametrize("lag", [0, 1, 2])
def test_death_at_every_boundary_ends_in_the_same_world(itinerary: str, kind: Any, lag: int) -> None:
    boundaries: list[str] = []
    walk(
        vm(itinerary),
        World(policy(), kind=kind, lag=lag),
        BOOK,
        each=cutover_after(2 - (itinerary != "warm")),
        boundary=boundaries.append,
    )
    assert len(boundaries) > 20
    for fatal in range(len(boundaries)):
        world, passed = World(policy(), kind=kind, lag=lag), 0

        def die(where: str) -> None:
            nonlocal passed
            passed += 1
            if passed == fatal + 1:  # noqa: B023
                raise Killed

        end = walk(vm(itinerary), world, BOOK, each=cutover_after(2 - (itinerary != "warm")), boundary=die)
        assert_moved(end, world)


def test_temporary_errors_are_repeated_with_backoff_and_then_forgotten() -> None:
    away = Unreachable("connection refused", address="vcenter", side=Side.SOURCE)
    world = World(policy(), faults={"CreateSnapshot": [away] * 3, "ShutDownGuest": [away]})
    end = walk(vm("warm"), world, BOOK, each=cutover_after(1))
    assert_moved(end, world)
    assert end.retry is None


def test_a_budget_that_is_spent_fails_the_vm() -> None:
    busy = Busy("another task", what="CreateSnapshot", fault="TaskInProgress", side=Side.SOURCE)
    world = World(policy(), faults={"CreateSnapshot": [busy] * 1000})
    end = walk(vm("warm"), world, BOOK)
    assert end.outcome == "failed"
    assert end.error is not None
    assert end.error.phase == "CreateInitialSnapshot"


def test_a_guest_that_does_not_shut_down_is_powered_off_hard() -> None:
    world = World(policy(), guest_obeys=False)
    assert_moved(walk(vm("cold"), world, BOOK), world)
    assert world.counts["PowerOff"] == 1


def test_a_guest_that_does_not_shut_down_keeps_running_if_the_plan_says_so() -> None:
    world = World(policy(hard_power_off=False), guest_obeys=False)
    end = walk(vm("cold"), world, BOOK)
    assert_back(end, world, "failed")
    assert "PowerOff" not in world.counts


def test_a_guest_that_goes_down_after_the_cancel_comes_back() -> None:
    world = World(policy(), guest_obeys=False)

    def act(vm: VMStatus, world: World) -> None:
        if vm.phase == "PowerOffSource" and world.counts.get("ShutDownGuest"):
            world.cancelled = True
        if vm.phase == "WatchPower" and "late" not in world.counts:
            world.counts["late"] = 1
            world.power = Power.OFF

    assert_back(walk(vm("cold"), world, BOOK, each=act), world, "canceled")


def test_a_snapshot_that_cannot_be_removed_does_not_keep_the_source_off() -> None:
    refused = Refused("out of memory", what="creating the VM", fault="NoResources", side=Side.TARGET)
    stuck = Refused("locked", what="RemoveSnapshot", fault="FileLocked", side=Side.SOURCE)
    world = World(policy(), faults={"CreateMachine": [refused], "RemoveSnapshot": []})

    def act(vm: VMStatus, world: World) -> None:
        if vm.itinerary == "failed":
            world.faults["RemoveSnapshot"] = [stuck]

    end = walk(vm("warm"), world, BOOK, each=lambda vm, world: (cutover_after(1)(vm, world), act(vm, world))[0])
    assert world.power is Power.ON
    assert world.snapshots
    assert [entry for entry in end.story if "left behind" in entry.why]
    assert [entry for entry in end.ledger if entry.kind == "snapshot"]


def test_a_scheduled_cutover_is_preceded_by_one_more_precopy() -> None:
    at = START + timedelta(seconds=1000)
    world = World(policy(interval=3600.0), cutover=at)
    end = walk(vm("warm"), world, BOOK)
    assert_moved(end, world)
    assert end.warm is not None
    assert end.cutover is not None
    last_precopy = end.warm.precopies[-2]
    assert last_precopy.start is not None
    assert at - timedelta(seconds=60) <= last_precopy.start < at
    assert end.cutover.asked is not None
    assert at <= end.cutover.asked <= at + timedelta(seconds=30)


def test_a_foreign_snapshot_refuses_warm() -> None:
    world = World(policy())
    from tranship.migration.seen import Snapshot

    world.snapshots["before upgrade"] = Snapshot("snapshot-1", "before upgrade")
    end = walk(vm("warm"), world, BOOK)
    assert end.outcome == "failed"
    assert end.error is not None
    assert "before upgrade" in end.error.reasons[0]
    assert list(world.snapshots) == ["before upgrade"]
