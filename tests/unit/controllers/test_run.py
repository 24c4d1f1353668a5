"""A run's memory is its Migration: what is not durable did not happen, and it fits into an object."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from tranship.controllers.run import Run
from tranship.errors import NotFound
from tranship.migration.book import BOOK
from tranship.migration.checks import too_large
from tranship.migration.itinerary import STORY_LENGTH, begin
from tranship.migration.mapping import DiskOrder, MachineOrder, NicOrder, told
from tranship.migration.story import shorten
from tranship.migration.warm import HISTORY
from tranship.resources.meta import MIGRATION, PLAN
from tranship.resources.migration import Migration
from tranship.resources.model import to_json
from tranship.resources.plan import Plan
from tranship.resources.vm import Delta, DiskStatus, Precopy, StoryEntry, Task, VMStatus, Warm
from tranship.resources.vm import Step as PipelineStep
from tranship.store.memory import MemoryStore

START = datetime(2026, 1, 1, 12, 30, 15, 123456, tzinfo=UTC)
ETCD = 1536 << 10
API = "forklift.konveyor.io/v1beta1"


async def stored(store: MemoryStore) -> tuple[Migration, Plan]:
    def document(kind: str, **spec: Any) -> dict[str, Any]:
        return {"apiVersion": API, "kind": kind, "metadata": {"namespace": "default", "name": "one"}, "spec": spec}

    between = {"source": {"name": "source"}, "destination": {"name": "here"}}
    maps = {"network": {"name": "net"}, "storage": {"name": "store"}}
    plan = document("Plan", provider=between, map=maps, targetNamespace="moved", vms=[])
    made = await store.create(PLAN, plan)
    run = await store.create(MIGRATION, document("Migration", plan={"name": "one"}))
    return Migration.read(run), Plan.read(made)


def order(number: int) -> MachineOrder:
    return MachineOrder(
        owner=f"8a4c1f6e-6c52-4a6f-9a9e-0d7a3c0f{number:04}/vm-{number}",
        name=f"web-server-{number}",
        namespace="moved",
        uuid=f"4223f4b1-6c52-4a6f-9a9e-0d7a3c0f{number:04}",
        sockets=2,
        cores=1,
        memory=4 << 30,
        disks=(
            DiskOrder(source="2000", name=f"web-server-{number}-disk-0", pool="standard", size=40 << 30, boot=1),
            DiskOrder(source="2001", name=f"web-server-{number}-disk-1", pool="standard", size=400 << 30),
        ),
        nics=(NicOrder(mac="00:50:56:01:02:03", kind="multus", network="vlan-120", namespace="default"),),
        filesystem_overhead=0.0,
    )


def status(number: int) -> VMStatus:
    """After a month of precopies."""
    disks = [
        DiskStatus(
            id=one.source, name=one.name, capacity=one.size, way="vddk", why="VDDK is configured", digest="a" * 64
        )
        for one in order(number).disks
    ]
    vm = VMStatus(id=f"vm-{number}", name=f"Web Server {number}", disks=disks, order=told(order(number)))
    vm = begin(vm, BOOK["warm"], START, "begun")
    vm.warm = Warm(
        precopies=[
            Precopy(
                round=round_,
                start=START + timedelta(hours=round_),
                end=START + timedelta(hours=round_, seconds=40),
                snapshot=f"snapshot-{round_}",
                deltas=[
                    Delta(disk=disk.id, delta_id=f"52 8e c4 6d 1f 4b 4c 0d-8f 3a 0c 33/{round_}") for disk in disks
                ],
                bytes=123456789,
                areas=1234,
                seconds=12.5,
            )
            for round_ in range(720 - HISTORY, 720)
        ]
    )
    vm.story = [
        StoryEntry(
            at=START, phase="WaitForPreviousSnapshotRemoval", why=f"entry {n} removed and consolidated", asked=["A"]
        )
        for n in range(STORY_LENGTH)
    ]
    vm.pipeline = [
        PipelineStep(
            name=name,
            description="Shut the source down and copy what has changed since.",
            phase="Running",
            reason="719 precopies done, the next at 12:30:15 UTC; no cutover time is set",
            started=START,
            tasks=[
                Task(name=disk.name, phase="Completed", annotations={"unit": "MB", "bytesDone": "1"}) for disk in disks
            ],
        )
        for name in ("Initialize", "DiskTransfer", "Cutover", "VirtualMachineCreation")
    ]
    return vm


@pytest.mark.parametrize("count", [1, 10, 100, 250])
def test_an_object_stays_well_below_what_etcd_takes(count: int) -> None:
    async def run() -> None:
        store = MemoryStore()
        made = Run.of(*await stored(store), [status(number) for number in range(count)])
        await made.write(store)
        for kind in (MIGRATION, PLAN):
            assert len(msgspec.json.encode(await store.get(kind, "default", "one"))) < 0.75 * ETCD
        vm = made.vm("vm-0")
        assert vm.warm is not None
        assert vm.warm.precopies[-1].round == 719
        assert vm.story[-1].why.startswith(f"entry {STORY_LENGTH - 1} ")
        assert (len(vm.story) == STORY_LENGTH) is (count <= 10)
        assert msgspec.convert(vm.order, MachineOrder) == order(0)

    asyncio.run(run())


def test_a_plan_that_would_not_fit_is_refused_and_one_that_is_not_refused_fits() -> None:
    """All VMs that are let in, with no more past than must be kept, are an object that etcd takes."""
    most = next(n for n in range(1, 2000) if list(too_large([order(0)] * n))) - 1
    assert 250 < most < 500
    (refused,) = too_large([order(0)] * (most + 1))
    assert (refused.type, refused.item) == ("PlanTooLarge", "spec.vms")
    assert f"at most {most} " in refused.suggestion
    told_ = [shorten(to_json(status(number)), 1) for number in range(most)]
    assert len(msgspec.json.encode(told_)) < ETCD


def test_what_is_not_saved_did_not_happen_to_any_of_those_that_waited_for_the_write() -> None:
    """Two VMs are saved by one write, and it fails: neither may go on, and neither remembers its step."""

    async def run() -> None:
        store = MemoryStore()
        made = Run.of(*await stored(store), [status(0), status(1), status(2)])
        await made.write(store)
        await store.delete(MIGRATION, "default", "one")
        changed = [made.vm(f"vm-{number}") for number in range(3)]
        for vm in changed:
            vm.why = "a step further"
        outcomes = await asyncio.gather(*(made.save(vm, store) for vm in changed), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [NotFound] * 3
        assert [vm.why for vm in made.vms] == ["begun"] * 3

    asyncio.run(run())


def test_a_vm_whose_walk_has_ended_is_not_open() -> None:
    async def run() -> None:
        store = MemoryStore()
        made = Run.of(*await stored(store), [status(0), status(1)])
        vm = made.vm("vm-1")
        vm.phase = "Completed"
        await made.save(vm, store)
        assert made.open == {"vm-0"}

    asyncio.run(run())
