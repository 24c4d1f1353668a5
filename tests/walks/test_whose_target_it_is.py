"""What was made on the target is known by its uid from when it was first seen; whatever takes its name later stays."""

import pytest

from tranship.errors import Refused, Side
from tranship.inventory.vm import Power
from tranship.migration.asks import CreateDisks
from tranship.migration.book import BOOK
from tranship.migration.itinerary import begin
from tranship.migration.ledger import made_on_target
from tranship.migration.seen import MachineState, Policy
from tranship.resources.vm import DiskStatus, VMStatus
from tranship.testing.world import START, World, walk

NAMES = ("web-disk-0", "web-disk-1")


def world(**changes: object) -> World:
    facts: dict[str, object] = {"mark": "m", "disks": {"2000": 1 << 30, "2001": 1 << 30}, "disk_names": NAMES}
    return World(Policy(**{**facts, "machine": "web", **changes}))  # type: ignore[arg-type]


def vm() -> VMStatus:
    disks = [DiskStatus(id=f"200{n}", name=name, capacity=1 << 30, way="datastore") for n, name in enumerate(NAMES)]
    return begin(VMStatus(id="vm-42", name="web", disks=disks), BOOK["cold"], START, "admitted")


def test_uids_are_noted_and_saved_before_anything_is_copied() -> None:
    noted: dict[str, dict[str, str]] = {}

    def each(vm: VMStatus, world: World) -> None:
        noted.setdefault(vm.phase, made_on_target(vm, "disk"))

    end = walk(vm(), there := world(), BOOK, each=each)
    assert noted["CopyDisks"] == {name: there.uids["disk", name] for name in NAMES}
    assert made_on_target(end, "machine") == {"web": "machine-1"}
    assert VMStatus.model_validate(end.model_dump(mode="json", by_alias=True)) == end


@pytest.mark.parametrize("phase", ["CopyDisks", "CreateVM"])
def test_a_volume_that_took_the_name_later_is_neither_used_nor_removed(phase: str) -> None:
    """A restored or cloned claim bears all marks of the one that it was made from."""

    def each(vm: VMStatus, world: World) -> None:
        if vm.phase == phase and "machine" not in dict(world.uids):
            world.uids["disk", NAMES[0]] = "theirs"

    end = walk(vm(), there := world(), BOOK, each=each)
    assert end.outcome == "failed"
    assert end.error is not None
    assert NAMES[0] in end.error.reasons[0]
    assert there.power is Power.ON
    assert there.machine is MachineState.ABSENT
    assert there.uids == {("disk", NAMES[0]): "theirs"}  # ours is removed, theirs stays


def test_a_volume_that_vanished_before_the_copy_is_made_anew_and_is_ours() -> None:
    def each(vm: VMStatus, world: World) -> None:
        if vm.phase == "CreateDataVolumes" and "lost" not in world.counts and world.disks:
            world.counts["lost"] = 1
            world.disks.discard("2000")
            del world.uids["disk", NAMES[0]]

    end = walk(vm(), there := world(), BOOK, each=each)
    assert end.outcome == "succeeded", end.error
    assert there.counts["CreateDisks"] == 2
    assert made_on_target(end, "disk") == {name: there.uids["disk", name] for name in NAMES}


def test_what_an_earlier_migration_of_the_plan_left_is_taken_over_and_removed_if_this_one_fails() -> None:
    refused = Refused("out of memory", what="creating the VM", fault="NoResources", side=Side.TARGET)
    there = world()
    there.counts["CreateDisks"] = 0
    there._CreateDisks(CreateDisks(NAMES))
    there.faults["CreateMachine"] = [refused]
    end = walk(vm(), there, BOOK)
    assert end.outcome == "failed"
    assert there.uids == {}
    assert there.disks == set()


def test_kept_where_the_plan_says_so() -> None:
    refused = Refused("out of memory", what="creating the VM", fault="NoResources", side=Side.TARGET)
    there = world(delete_on_fail=False)
    there.faults["CreateMachine"] = [refused]
    assert walk(vm(), there, BOOK).outcome == "failed"
    assert {name for _, name in there.uids} == set(NAMES)


def test_a_machine_that_took_the_name_later_is_not_removed() -> None:
    def each(vm: VMStatus, world: World) -> None:
        if ("machine", "web") in world.uids and vm.phase == "CreateVM" and made_on_target(vm, "machine").get("web"):
            world.uids["machine", "web"], world.machine = "theirs", MachineState.OFF

    there = world(power="on")
    end = walk(vm(), there, BOOK, each=each)
    assert end.outcome == "failed"
    assert there.uids["machine", "web"] == "theirs"
    assert there.machine is not MachineState.ABSENT
