"""What goes wrong with a VM under way: either the run gets over it, or the VM fails and the world is as before.

As before means: the source has its power, its users' snapshots and none of ours; the target has nothing of this VM. The error
names what failed and says what to do.
"""

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tranship.app import App
from tranship.lab.vsphere.machine import LabVM
from tranship.resources.meta import MIGRATION, PLAN, SECRET
from tranship.resources.migration import Migration
from tranship.resources.vm import VMStatus
from tranship.store.base import EventType

MIB = 1 << 20
PAST = "2020-01-01T00:00:00Z"


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    path = tmp_path / "small"
    path.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(path)], capture_output=True, timeout=10
    )
    if done.returncode:
        pytest.skip(f"this user may not mount: {done.stderr.decode()}")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True, timeout=10)


async def run(
    site: Any, vm: LabVM, boundary: Callable[[str], None] = lambda where: None, *, vddk: bool = True, **options: Any
) -> Migration:
    options.setdefault("documents", site.providers(vddk=vddk))
    return await site.move(vm, boundary, **options)  # type: ignore[no-any-return]


def the_vm(run: Migration) -> VMStatus:
    (status,) = run.status.vms
    return status


def moved(site: Any, vm: LabVM, run: Migration, snapshots: tuple[str, ...] = ()) -> VMStatus:
    status = the_vm(run)
    assert status.outcome == "succeeded", status.error
    for number in range(len(vm.disks)):
        assert site.target(vm, number) == vm.read(number)
    assert (site.vms / "moved" / vm.name / "machine.json").exists()
    assert vm.snapshots == list(snapshots)
    assert not vm.unconsolidated
    assert not vm.consolidation_needed
    site.assert_nothing_lent(vm)
    return status


def as_before(
    site: Any, vm: LabVM, run: Migration, outcome: str, *, on: bool, snapshots: tuple[str, ...] = ()
) -> VMStatus:
    status = the_vm(run)
    assert status.outcome == outcome, status.error
    assert vm.on is on
    assert vm.snapshots == list(snapshots)
    assert not vm.unconsolidated
    site.assert_nothing_lent(vm)
    assert not (site.vms / "moved").exists() or not (site.vms / "moved" / vm.name).exists()
    assert not list((site.directory / "home" / "movers").glob("*"))
    assert "LeftBehind" not in [one.type for one in status.conditions]
    last = next(one for one in status.conditions if one.type == outcome.capitalize())
    assert last.message
    return status


# --- the target is full, or taken ----------------------------------------------------------------------------------------


def _in_pool(site: Any, path: Path, **settings: str) -> list[Any]:
    documents: list[Any] = site.providers(vddk=True)
    for one in documents:
        if one["kind"] == "StorageMap":
            one["spec"]["map"][0]["destination"] = {"storageClass": "small"}
        if one["metadata"]["name"] == "here":
            one["spec"]["settings"] |= {"pool.small": str(path), **settings}
    return documents


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_no_room_for_the_disks(site: Any, small: Path, warm: bool) -> None:
    """Seen before a byte is copied; the source ran and runs again. A user's snapshot of a VM that moves cold stays."""
    vm = site.add_vm(f"no-room-{'warm' if warm else 'cold'}", 16 * MIB, running=True, cbt=True)
    kept = () if warm else ("before the upgrade",)
    for name in kept:
        site.lab.snapshots.take(vm, name)
    result = asyncio.run(run(site, vm, warm=warm, documents=_in_pool(site, small)))
    status = as_before(site, vm, result, "failed", on=True, snapshots=kept)
    site.failed_for(status, "CreateDataVolumes", "NoSpace", str(small), str(16 * MIB), "bytes free")
    assert not list(small.glob("*"))
    assert vm.power_causes() == (["on"] if warm else ["on", "guest-shutdown", "on"])


def test_the_target_runs_full(site: Any, small: Path) -> None:
    vm = site.add_vm("runs-full", 24 * MIB, running=True, cbt=True)
    result = asyncio.run(run(site, vm, warm=True, documents=_in_pool(site, small, overcommit="true")))
    status = as_before(site, vm, result, "failed", on=True)
    site.failed_for(status, "CopyDisks", "NoSpace", "runs-full-disk-0")
    assert not list(small.glob("*/*"))


def test_the_name_is_taken_after_the_checks(site: Any, moments: Any) -> None:
    vm = site.add_vm("taken-late", 2 * MIB, running=True, cbt=True)
    home = site.vms / "moved" / vm.name

    def take() -> None:
        home.mkdir(parents=True)
        (home / "notes.txt").write_text("somebody else's")

    async def go() -> Migration:
        async with site.app() as app:
            await site.apply(app, *site.providers(vddk=True), site.plan(vm, warm=True))
            await site.ready(app, 20)
            take()
            await site.start(app, cutover=PAST)
            found: Migration = await site.ended(app, 30)
            return found

    status = the_vm(asyncio.run(go()))
    assert status.outcome == "failed"
    site.failed_for(status, "Started", "taken-late", "exists already")
    assert [path.name for path in home.iterdir()] == ["notes.txt"]
    assert vm.power_causes() == ["on"]
    assert vm.snapshots == []


# --- shutting down, cutover ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_a_guest_that_does_not_shut_down_keeps_running(site: Any, warm: bool) -> None:
    vm = site.add_vm(f"stays-up-{'warm' if warm else 'cold'}", 2 * MIB, running=True, cbt=True)
    vm.shutdown_seconds = None
    policy = {"deadline": "1s", "hardPowerOff": False}
    status = as_before(site, vm, asyncio.run(run(site, vm, warm=warm, shutdown=policy)), "failed", on=True)
    site.failed_for(status, "PowerOffSource", "shutting down the guest", "1 s")
    assert status.error and "hardPowerOff" in status.error.reasons[1]
    assert vm.power_causes() == ["on"]


def test_a_guest_that_does_not_shut_down_is_powered_off_and_loses_its_tracking(site: Any) -> None:
    """The hard way is the default. What tracking forgot at the power loss is copied again, and that is recorded."""
    vm = site.add_vm("pulled-plug", 4 * MIB, 2 * MIB, running=True, cbt=True)
    vm.shutdown_seconds, vm.loses_tracking = None, True
    status = moved(site, vm, asyncio.run(run(site, vm, warm=True, shutdown={"deadline": "1s"})))
    assert vm.power_causes() == ["on", "hard-off"]
    assert status.warm is not None
    assert [sorted(one.full) for one in status.warm.precopies] == [[], ["2000", "2001"]]


def test_a_cutover_of_one_vm_in_the_past_means_now(site: Any) -> None:
    vm = site.add_vm("past", 2 * MIB, running=True, cbt=True)

    async def go() -> Migration:
        async with site.app() as app:
            await site.apply(
                app,
                *site.providers(vddk=True),
                site.plan(vm, warm=True, precopy={"interval": "1h"}, targetPowerState="off"),
            )
            await site.ready(app, 20)
            await site.start(app, cutover="2099-01-01T00:00:00Z", vmCutover=[{"id": vm.moref, "cutover": PAST}])
            found: Migration = await site.ended(app, 30)
            return found

    status = moved(site, vm, asyncio.run(go()))
    assert vm.power_causes() == ["on", "guest-shutdown"]
    assert status.warm is not None
    assert [one.full for one in status.warm.precopies] == [[], []]


# --- change tracking -----------------------------------------------------------------------------------------------------


def test_change_tracking_is_switched_on_where_the_plan_allows_it(site: Any, moments: Any) -> None:
    vm = site.add_vm("untracked", 4 * MIB, 2 * MIB, running=True, cbt=False)
    moments.at("after save CopyingPaused", lambda: vm.write(MIB + 512, b"late" * 300, disk=1))
    precopy = {"interval": "1s", "enableChangeTracking": True}
    status = moved(site, vm, asyncio.run(run(site, vm, moments, warm=True, precopy=precopy)))
    assert vm.cbt
    assert status.warm is not None
    first, last = status.warm.precopies[0], status.warm.precopies[-1]
    assert last.full == []
    assert 0 < last.bytes < first.bytes


def test_tracking_that_began_anew_costs_a_full_copy_of_that_disk(site: Any, moments: Any) -> None:
    vm = site.add_vm("reset", 4 * MIB, 4 * MIB, running=True, cbt=True)

    def reset() -> None:
        vm.disks[1].volume.reset_tracking()
        vm.write(0, b"one" * 400, disk=0)
        vm.write(2 * MIB, b"two" * 400, disk=1)

    moments.at("after save CopyingPaused", reset)
    status = moved(site, vm, asyncio.run(run(site, vm, moments, warm=True)))
    assert status.warm is not None
    assert [one.full for one in status.warm.precopies] == [[], ["2001"]]


# --- cancelled -----------------------------------------------------------------------------------------------------------


def _cancel(site: Any, vm: LabVM, where: str, moments: Any) -> Callable[[App], Any]:
    """The user cancels that VM when the walk is there."""
    there = asyncio.Event()
    moments.at(where, there.set)

    async def act(app: App) -> None:
        await asyncio.wait_for(there.wait(), 20)
        await app.store.patch(MIGRATION, "default", "run", {"spec": {"cancel": [{"id": vm.moref}]}})

    return act


@pytest.mark.parametrize("way", ["vddk", "without-vddk"])
@pytest.mark.parametrize("where", ["after CreateSnapshot", "after StartCopies", "after save CopyingPaused"])
def test_cancelled_during_a_precopy(site: Any, moments: Any, where: str, way: str) -> None:
    vm = site.add_vm(f"cancel-{where.split()[-1]}-{way}", 8 * MIB, running=True, cbt=True)

    async def go() -> Migration:
        act = _cancel(site, vm, where, moments)
        return await run(site, vm, moments, warm=True, vddk=way == "vddk", cutover=None, during=act)

    result = asyncio.run(go())
    as_before(site, vm, result, "canceled", on=True)
    assert vm.power_causes() == ["on"]
    assert [one.type for one in result.status.conditions if one.type in ("Canceled", "Failed")] == ["Canceled"]


def test_cancelled_when_the_source_is_off_already(site: Any, moments: Any) -> None:
    vm = site.add_vm("cancel-cold", 8 * MIB, running=True, cbt=True)
    site.lab.snapshots.take(vm, "mine")

    async def go() -> Migration:
        act = _cancel(site, vm, "after StartCopies", moments)
        return await run(site, vm, moments, warm=False, during=act, shutdown={"deadline": "1s"})

    as_before(site, vm, asyncio.run(go()), "canceled", on=True, snapshots=("mine",))
    assert vm.power_causes() == ["on", "guest-shutdown", "on"]


def test_a_deleted_migration_cleans_up_and_then_goes(site: Any, moments: Any) -> None:
    vm = site.add_vm("deleted", 8 * MIB, running=True, cbt=True)

    async def go() -> Migration:
        there = asyncio.Event()
        moments.at("after StartCopies", there.set)
        async with site.app(boundary=moments) as app:
            await site.apply(app, *site.providers(vddk=True), site.plan(vm, warm=True))
            await site.ready(app, 20)
            await site.start(app)
            await asyncio.wait_for(there.wait(), 20)
            await app.store.delete(MIGRATION, "default", "run")
            async with asyncio.timeout(20):
                async for event in app.store.watch(MIGRATION):
                    if event.type is EventType.DELETED:
                        await site.says(app, PLAN, "plan", "Canceled")
                        return Migration.read(event.object)
        raise AssertionError("the watch ended")

    as_before(site, vm, asyncio.run(go()), "canceled", on=True)
    assert vm.power_causes() == ["on"]


# --- the platform has its troubles ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["vddk", "without-vddk"])
def test_sessions_that_expire_under_way(site: Any, moments: Any, way: str) -> None:
    vm = site.add_vm(f"expire-{way}", 6 * MIB, running=True, cbt=True)
    for where in ("after CreateSnapshot", "after StartCopies", "after RemoveSnapshot", "after ShutDownGuest"):
        moments.at(where, site.lab.sessions.end_all)
        moments.at(where, site.lab.sessions.end_all, nth=2)
    moved(site, vm, asyncio.run(run(site, vm, moments, warm=True, vddk=way == "vddk")))
    assert moments.passed["after StartCopies"] >= 2


def test_a_password_that_is_changed_under_way(site: Any, moments: Any) -> None:
    """Refused logins are no reason to give up a VM: it waits until the secret is corrected."""
    vm, old = site.add_vm("rotated", 4 * MIB, running=True, cbt=True), site.lab.password

    def rotate() -> None:
        site.lab.password = "new-password"
        site.lab.sessions.end_all()

    async def correct(app: App) -> None:
        def refused(one: Migration) -> bool:
            return any("refused user" in status.why for status in one.status.vms)

        await site.until(app, MIGRATION, "run", refused, 20)
        await app.store.patch(SECRET, "default", "source", {"stringData": {"password": "new-password"}})

    moments.at("after save CopyingPaused", rotate)
    try:
        moved(site, vm, asyncio.run(run(site, vm, moments, warm=True, during=correct)))
    finally:
        site.lab.password = old
        site.lab.sessions.end_all()


@pytest.mark.parametrize("way", ["vddk", "without-vddk"])
def test_slow_consolidation_is_waited_for(site: Any, way: str) -> None:
    vm = site.add_vm(f"slow-{way}", 4 * MIB, running=True, cbt=True)
    site.lab.faults.add("consolidate", vm=vm.name, delay=1.0, count=0)
    moved(site, vm, asyncio.run(run(site, vm, warm=True, vddk=way == "vddk")))


def test_disks_that_were_not_merged_are_consolidated(site: Any) -> None:
    vm = site.add_vm("unmerged", 4 * MIB, running=True, cbt=True)
    site.lab.faults.add("consolidate", vm=vm.name, fault="FileLocked")
    moved(site, vm, asyncio.run(run(site, vm, warm=True)))
    assert site.lab.faults.count("ConsolidateVMDisks_Task", vm.name) == 1


def test_a_snapshot_that_is_refused_for_now(site: Any) -> None:
    vm = site.add_vm("not-now", 4 * MIB, running=True, cbt=True)
    site.lab.faults.add("CreateSnapshot_Task", vm=vm.name, fault="TaskInProgress")
    moved(site, vm, asyncio.run(run(site, vm, warm=True)))
    assert site.lab.faults.count("CreateSnapshot_Task", vm.name) == 3


def test_a_snapshot_that_is_refused_for_good(site: Any) -> None:
    vm = site.add_vm("never", 4 * MIB, running=True, cbt=True)
    site.lab.faults.add("CreateSnapshot_Task", vm=vm.name, fault="NotSupported", message="No snapshots here.", count=0)
    status = as_before(site, vm, asyncio.run(run(site, vm, warm=True)), "failed", on=True)
    site.failed_for(status, "CreateInitialSnapshot", vm.name, "snapshot", "NotSupported", "No snapshots here.")


def test_the_last_snapshot_cannot_be_removed(site: Any) -> None:
    """The VM is moved and runs; what is left on the source is said."""
    vm = site.add_vm("stuck", 4 * MIB, running=True, cbt=True)
    site.lab.faults.add("RemoveSnapshot_Task", vm=vm.name, nth=2, count=0, fault="NotSupported")
    result = asyncio.run(run(site, vm, warm=True))
    status = the_vm(result)
    assert status.outcome == "succeeded"
    assert site.target(vm) == vm.read()
    (name,) = vm.snapshots
    left = next(one for one in status.conditions if one.type == "LeftBehind")
    assert name in left.message
    assert left.suggestion
    assert left.category == "Warn"


def test_a_failed_vm_says_what_it_left_behind(site: Any, small: Path) -> None:
    vm = site.add_vm("stuck-twice", 16 * MIB, running=True, cbt=True)
    site.lab.faults.add("RemoveSnapshot_Task", vm=vm.name, count=0, fault="NotSupported")
    status = the_vm(asyncio.run(run(site, vm, warm=True, documents=_in_pool(site, small))))
    assert status.outcome == "failed"
    site.failed_for(status, "CreateDataVolumes", "NoSpace")
    (name,) = vm.snapshots
    assert name in next(one for one in status.conditions if one.type == "LeftBehind").message
    assert vm.on


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_the_vcenter_is_away_for_a_while(site: Any, moments: Any, warm: bool) -> None:
    vm = site.add_vm(f"away-{'warm' if warm else 'cold'}", 4 * MIB, running=True, cbt=True)

    def leave() -> None:
        for method in ("RetrievePropertiesEx", "WaitForUpdatesEx"):
            site.lab.faults.add(method, drop="before", count=3)

    moments.at("after StartCopies", leave)
    moved(site, vm, asyncio.run(run(site, vm, moments, warm=warm)))


def test_an_answer_that_got_lost_is_not_asked_twice(site: Any) -> None:
    """The snapshot is made and the connection breaks before the answer: the next look finds it."""
    vm = site.add_vm("lost-answer", 4 * MIB, running=True, cbt=True)
    site.lab.faults.add("CreateSnapshot_Task", vm=vm.name, drop="after")
    moved(site, vm, asyncio.run(run(site, vm, warm=True)))
    assert site.lab.faults.count("CreateSnapshot_Task", vm.name) == 2


CHANGING = ("CreateSnapshot_Task", "RemoveSnapshot_Task", "ShutdownGuest", "QueryChangedDiskAreas")


@pytest.mark.parametrize("way", ["vddk", "without-vddk"])
@pytest.mark.parametrize("trouble", [{"drop": "before"}, {"drop": "after"}, {"expire": True}], ids=str)
def test_every_call_breaks_once(site: Any, trouble: dict[str, Any], way: str) -> None:
    vm = site.add_vm(f"breaks-{'-'.join(map(str, trouble.values())).lower()}-{way}", 4 * MIB, running=True, cbt=True)
    for method in CHANGING:
        site.lab.faults.add(method, vm=vm.name, **trouble)
    moved(site, vm, asyncio.run(run(site, vm, warm=True, vddk=way == "vddk")))
    assert vm.power_causes() == ["on", "guest-shutdown"]
    assert site.lab.faults.count("CreateSnapshot_Task", vm.name) <= 3


def test_powering_on_again_is_refused_for_now(site: Any, small: Path) -> None:
    vm = site.add_vm("on-again", 16 * MIB, running=True, cbt=True)
    site.lab.faults.add("PowerOnVM_Task", vm=vm.name, fault="TaskInProgress")
    result = asyncio.run(run(site, vm, warm=False, documents=_in_pool(site, small)))
    site.failed_for(as_before(site, vm, result, "failed", on=True), "CreateDataVolumes", "NoSpace")


def test_powering_on_again_is_refused_for_good(site: Any, small: Path) -> None:
    """A source that ran and is off now is the worst that a failure can leave: it is said."""
    vm = site.add_vm("stays-down", 16 * MIB, running=True, cbt=True)
    site.lab.faults.add("PowerOnVM_Task", vm=vm.name, fault="InsufficientResourcesFault", message="No memory.", count=0)
    result = asyncio.run(run(site, vm, warm=False, documents=_in_pool(site, small)))
    status = the_vm(result)
    assert status.outcome == "failed"
    assert not vm.on
    left = next(one for one in status.conditions if one.type == "LeftBehind")
    assert "powered off" in left.message and "No memory." in left.message
    assert left.suggestion


def test_cancelled_before_it_began(site: Any) -> None:
    vm = site.add_vm("never-began", 2 * MIB, running=True, cbt=True)

    async def go() -> Migration:
        async with site.app() as app:
            await site.apply(app, *site.providers(vddk=True), site.plan(vm, warm=True))
            await site.ready(app, 20)
            await site.start(app, cancel=[{"name": vm.name}])
            found: Migration = await site.ended(app, 20)
            return found

    as_before(site, vm, asyncio.run(go()), "canceled", on=True)
    assert vm.power_causes() == ["on"]


def test_a_stream_that_breaks_off(site: Any) -> None:
    vm = site.add_vm("torn", 6 * MIB, running=True, cbt=True)
    site.lab.faults.add("GET /nfc", drop_after=1 << 20)
    site.lab.faults.add("GET /folder", drop_after=1 << 16)
    moved(site, vm, asyncio.run(run(site, vm, warm=True, vddk=False)))


def test_a_library_that_cannot_be_loaded(site: Any) -> None:
    vm = site.add_vm("no-library", 2 * MIB, running=True, cbt=True)
    directory = site.directory / "vddk"
    directory.mkdir()
    (directory / "libvixDiskLib.so").write_text("this is no library")
    documents = site.providers(vddk=True)
    next(one for one in documents if one["metadata"]["name"] == "source" and one["kind"] == "Provider")["spec"][
        "settings"
    ]["vddkDirectory"] = str(directory)
    status = as_before(site, vm, asyncio.run(run(site, vm, warm=True, documents=documents)), "failed", on=True)
    site.failed_for(status, "CopyDisks", "2000", str(directory))


def test_somebody_else_removes_our_snapshot(site: Any, moments: Any) -> None:
    vm = site.add_vm("robbed", 4 * MIB, running=True, cbt=True)

    def rob() -> None:
        site.lab.snapshots._remove(vm, list(vm.chain), consolidate=True)

    moments.at("before save CreateDataVolumes", rob)
    status = as_before(site, vm, asyncio.run(run(site, vm, moments, warm=True)), "failed", on=True)
    site.failed_for(status, "CopyDisks", "removed by somebody else")
