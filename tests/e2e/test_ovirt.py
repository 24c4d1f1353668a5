"""What an oVirt Engine can do to a migration: either the run gets over it, or the VM fails and the world is as before.

As before means: the source has its power, its users' snapshots and nothing of ours (no transfer, no backup, no checkpoint, no
snapshot); the target has nothing of this VM. Moves that go well, with guests, are in test_guests.py; deaths of the controller
in test_crash.py.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner

from tranship.app import App
from tranship.cli.certificate import certificate
from tranship.resources.meta import PLAN, PROVIDER
from tranship.resources.migration import Migration
from tranship.resources.vm import VMStatus

MIB = 1 << 20
WARM = {"backup": {}, "snapshot": {"incremental": False}}  # way: what a VM is like that goes it


def made(site: Any, name: str, *sizes: int, **options: Any) -> Any:
    return site.add_vm(name, *(sizes or (6 * MIB,)), running=True, **options)


def moved(site: Any, vm: Any, run: Migration, snapshots: tuple[str, ...] = ()) -> VMStatus:
    (status,) = run.status.vms
    assert status.outcome == "succeeded", status.error
    for number in range(len(vm.disks)):
        assert site.target(vm, number) == vm.read(number)
    assert vm.snapshots == list(snapshots)
    assert (vm.backups, vm.checkpoints, vm.transfers) == ([], [], [])
    assert "LeftBehind" not in [one.type for one in status.conditions]
    return status


def as_before(site: Any, vm: Any, run: Migration, outcome: str = "failed", *, on: bool = True) -> VMStatus:
    (status,) = run.status.vms
    assert status.outcome == outcome, status.error
    assert vm.on is on
    site.assert_nothing_left(vm)
    assert not (site.vms / "moved").exists() or not (site.vms / "moved" / vm.name).exists()
    assert not list((site.directory / "home" / "movers").glob("*"))
    assert "LeftBehind" not in [one.type for one in status.conditions]
    return status


def go(site: Any, vm: Any, boundary: Any = lambda where: None, *, warm: bool = True, **options: Any) -> Migration:
    return asyncio.run(site.move(vm, boundary, warm=warm, deadline=120.0, **options))  # type: ignore[no-any-return]


# --- before it starts ----------------------------------------------------------------------------------------------------


def says(site: Any, vm: Any, type: str, *words: str, warm: bool = False, **secret: str) -> None:
    """The condition of plan or provider, with a remedy; and nothing was touched."""

    async def run() -> None:
        kind, name = (PLAN, "plan") if type.startswith("VM") else (PROVIDER, "source")
        async with site.app() as app:
            await site.apply(app, *site.providers(**secret), site.plan(vm, warm=warm))
            condition = await site.says(app, kind, name, type, *words)
            assert condition.suggestion

    asyncio.run(run())
    site.assert_nothing_left(vm)
    assert vm.on


def test_a_wrong_password(ovirt: Any) -> None:
    says(ovirt, made(ovirt, "password"), "ConnectionAuthFailed", "admin@internal", password="no-password")


def test_an_authority_that_is_not_the_engines(ovirt: Any, lab: Any) -> None:
    says(ovirt, made(ovirt, "authority"), "ConnectionTestFailed", "certificate", cacert=lab.ca_pem)


def test_what_is_to_be_trusted_is_shown(ovirt: Any, lab: Any) -> None:
    """The Engine's own authority, for it signs the hosts' certificates too; of a vCenter what it shows itself."""
    for url, pem in ((ovirt.lab.url, ovirt.lab.ca_pem), (lab.url, lab.server_pem)):
        shown = CliRunner().invoke(certificate, [url])
        assert shown.exit_code == 0, shown.output
        assert pem.strip() in shown.output
        assert "SHA-256" in shown.output


@pytest.mark.parametrize("status", ["illegal", "locked"])
def test_a_disk_that_is_not_in_order(ovirt: Any, status: str) -> None:
    vm = made(ovirt, status)
    setattr(vm.disks[0], status, True)
    says(ovirt, vm, "VMCriticalConcerns", vm.name, status)
    setattr(vm.disks[0], status, False)


def test_a_lun_cannot_be_copied(ovirt: Any) -> None:
    vm = made(ovirt, "lun")
    ovirt.lab.add_disk(vm, 8 * MIB, storage_type="lun", lun={"id": "36001405b5f1"})
    says(ovirt, vm, "VMStorageNotSupported", vm.name, "LUN")


# --- which way, and why --------------------------------------------------------------------------------------------------


def test_one_disk_without_incremental_backup_sends_all_by_snapshots(ovirt: Any) -> None:
    vm = made(ovirt, "mixed", 4 * MIB, 4 * MIB, incremental=(True, False))
    status = moved(ovirt, vm, go(ovirt, vm))
    assert [disk.way for disk in status.disks] == ["snapshot", "snapshot"]
    assert all("incremental backup is off for disk mixed_Disk2" in disk.why for disk in status.disks)


def test_a_raw_disk_goes_by_snapshots(ovirt: Any) -> None:
    vm = made(ovirt, "raw", format="raw")
    status = moved(ovirt, vm, go(ovirt, vm))
    assert [disk.way for disk in status.disks] == ["snapshot"]


@pytest.mark.parametrize("way", WARM)
def test_users_snapshots_stay(ovirt: Any, way: str) -> None:
    vm = made(ovirt, f"users-{way}", **WARM[way])
    ovirt.snapshot(vm, "before the upgrade")
    moved(ovirt, vm, go(ovirt, vm), snapshots=("before the upgrade",))


def test_hybrid_backups(ovirt: Any) -> None:
    """From cluster level 4.7 on the Engine holds a backup's point in time by a snapshot of its own."""
    cluster = ovirt.lab.add_cluster("hybrid", "4.7")
    ovirt.lab.add_host("host-of-hybrid", cluster)
    vm = made(ovirt, "hybrid", cluster=cluster)
    status = moved(ovirt, vm, go(ovirt, vm))
    assert [disk.way for disk in status.disks] == ["backup"]
    assert status.warm is not None
    assert not any(one.full for one in status.warm.precopies)


# --- the data's way breaks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble", [{"pause": True}, {"ticket": True}, {"fail": True}], ids=["paused", "ticket", "ended"]
)
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_a_transfer_that_breaks_off_is_replaced(ovirt: Any, trouble: dict[str, Any], warm: bool) -> None:
    vm = made(ovirt, f"breaks-{'-'.join(trouble)}-{warm}".lower(), 64 * MIB)
    ovirt.lab.faults.add("transfer" if "fail" in trouble else "poll", vm=vm.name, **trouble)
    moved(ovirt, vm, go(ovirt, vm, warm=warm))


def test_the_engine_is_away_for_a_while(ovirt: Any, moments: Any) -> None:
    vm = made(ovirt, "away", 32 * MIB)

    def leave() -> None:
        for method in ("GET vms", "POST imagetransfers", "POST imagetransfers/extend", "GET imagetransfers"):
            ovirt.lab.faults.add(method, drop="before", count=4)
        ovirt.lab.drop_connections()

    moments.at("after StartCopies", leave)
    moments.at("before RemoveSnapshot", leave)
    moved(ovirt, vm, go(ovirt, vm, moments))


def test_a_session_that_ends_under_way(ovirt: Any, moments: Any) -> None:
    vm = made(ovirt, "session")
    for where in ("after CreateSnapshot", "after StartCopies", "after RemoveSnapshot", "after ShutDownGuest"):
        moments.at(where, ovirt.lab.sso.expire_all)
    moved(ovirt, vm, go(ovirt, vm, moments))


def test_no_host_takes_the_transfer_for_now(ovirt: Any) -> None:
    vm = made(ovirt, "no-host")
    ovirt.lab.faults.add(
        "POST imagetransfers", vm=vm.name, status=409, detail="[Cannot transfer: no host is up]", count=2
    )
    moved(ovirt, vm, go(ovirt, vm, warm=False))


@pytest.mark.parametrize("way", ["cold", *WARM])
@pytest.mark.parametrize(
    "operation", ["POST imagetransfers", "POST vms/backups", "POST vms/snapshots", "POST vms/shutdown"]
)
def test_an_answer_that_got_lost_is_not_asked_twice(ovirt: Any, way: str, operation: str) -> None:
    vm = made(ovirt, f"lost-{way}-{operation}".lower().replace("/", "-").replace(" ", "-"), **WARM.get(way, {}))
    ovirt.lab.faults.add(operation, vm=vm.name, drop="after")
    moved(ovirt, vm, go(ovirt, vm, warm=way != "cold"))
    assert vm.power_causes() == ["on", "guest-shutdown"]


# --- rounds --------------------------------------------------------------------------------------------------------------


def between_rounds(site: Any, vm: Any, act: Callable[[], Any], *, wait: str = "") -> Migration:
    """Something happens to the VM after its first precopy; then it is cut over, with one more precopy before. wait: words for
    which the VM waits then, after which `act` is called a second time."""

    async def during(app: App) -> None:
        await site.until(app, *site.RUN, lambda run: any(vm.phase == "CopyingPaused" for vm in run.status.vms), 60)
        await asyncio.to_thread(act)
        await site.cut_over(app)
        if wait:
            await site.until(app, *site.RUN, lambda run: any(wait in one.why for one in run.status.vms), 20)
            await asyncio.to_thread(act)

    return go(site, vm, cutover=None, during=during, precopy={"interval": "10m"})


def test_another_tools_backup_is_waited_for(ovirt: Any) -> None:
    vm = made(ovirt, "foreign")
    opened: list[str] = []

    def act() -> None:
        if opened:
            ovirt.end_backup(vm, opened[0])
        else:
            opened.append(ovirt.backup(vm))

    status = moved_beside(ovirt, vm, between_rounds(ovirt, vm, act, wait="during a backup operation"))
    assert status.outcome == "succeeded"


def moved_beside(site: Any, vm: Any, run: Migration) -> VMStatus:
    """The other tool's checkpoint is none of ours, and stays."""
    (status,) = run.status.vms
    assert status.outcome == "succeeded", status.error
    assert site.target(vm) == vm.read()
    assert (vm.snapshots, vm.backups, vm.transfers) == ([], [], [])
    assert len(vm.checkpoints) == 1
    return status


def test_a_checkpoint_that_is_gone_costs_a_full_copy(ovirt: Any) -> None:
    vm = made(ovirt, "checkpoint")

    def act() -> None:
        ovirt.invalidate(vm)
        vm.write(2 * MIB, b"changed" * 100)

    status = moved(ovirt, vm, between_rounds(ovirt, vm, act))
    assert status.warm is not None
    assert any(one.full for one in status.warm.precopies[1:]), "no round says that it was full"


def test_an_increment_that_the_engine_cannot_give_becomes_a_full_backup(ovirt: Any) -> None:
    """Event 10791."""
    vm = made(ovirt, "redefine")
    ovirt.lab.faults.add("redefine", vm=vm.name, nth=2, fail=True)

    async def during(app: App) -> None:
        await ovirt.precopied(app, 2)
        await ovirt.cut_over(app)

    status = moved(ovirt, vm, go(ovirt, vm, cutover=None, during=during))
    assert status.warm is not None
    assert [bool(one.full) for one in status.warm.precopies[:2]] == [False, True]


def test_somebody_elses_snapshot_between_rounds_costs_a_full_copy(ovirt: Any) -> None:
    vm = made(ovirt, "between", **WARM["snapshot"])

    def act() -> None:
        vm.write(MIB, b"before it" * 100)
        ovirt.snapshot(vm, "mine")
        vm.write(3 * MIB, b"after it" * 100)

    status = moved(ovirt, vm, between_rounds(ovirt, vm, act), snapshots=("mine",))
    assert status.warm is not None
    assert any(one.full for one in status.warm.precopies[1:])


@pytest.mark.parametrize("way", WARM)
@pytest.mark.parametrize("change", ["grown", "added"])
def test_a_disk_that_is_not_what_it_was(ovirt: Any, way: str, change: str) -> None:
    vm = made(ovirt, f"{change}-{way}", **WARM[way])

    def act() -> None:
        if change == "grown":
            ovirt.lab.extend_disk(vm.disks[0], 8 * MIB)
        else:
            ovirt.lab.add_disk(vm, 4 * MIB)

    status = as_before(ovirt, vm, between_rounds(ovirt, vm, act))
    ovirt.failed_for(status, status.error.phase, "resized, added or removed")  # type: ignore[union-attr]


@pytest.mark.parametrize("way", WARM)
def test_a_snapshot_that_cannot_be_merged_for_now(ovirt: Any, way: str) -> None:
    vm = made(ovirt, f"merge-{way}", **WARM[way])
    ovirt.lab.faults.add("merge" if way == "snapshot" else "finalize", vm=vm.name, fail=True)
    status = moved(ovirt, vm, go(ovirt, vm))
    assert status.outcome == "succeeded"


@pytest.mark.parametrize("way", ["cold", *WARM])
def test_a_target_that_fails_gives_the_source_back(
    ovirt: Any, moments: Any, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Also under a backup, during which the Engine starts no VM. Here QEMU is not found when the target is to be started."""
    vm = made(ovirt, f"back-{way}", **WARM.get(way, {}))
    moments.at("before StartMachine", lambda: monkeypatch.setenv("PATH", "/nowhere"))
    status = as_before(ovirt, vm, go(ovirt, vm, moments, warm=way != "cold", targetPowerState="on"))
    assert status.error is not None
    assert status.error.phase == "CreateVM"
    assert vm.power_causes() == ["on", "guest-shutdown", "on"]


@pytest.mark.parametrize("way", WARM)
@pytest.mark.parametrize(
    "where", ["after CreateSnapshot", "after StartCopies", "after RemoveSnapshot", "after save CopyingPaused"]
)
def test_cancelled_during_a_precopy(ovirt: Any, moments: Any, way: str, where: str) -> None:
    vm = made(ovirt, f"cancel-{way}-{where.replace(' ', '-')}", 16 * MIB, **WARM[way])
    nth = 1 if where == "after save CopyingPaused" or (way, where) == ("snapshot", "after RemoveSnapshot") else 2

    async def during(app: App) -> None:
        there = asyncio.Event()
        moments.at(where, there.set, nth)
        await asyncio.wait_for(there.wait(), 40)
        await app.store.patch(*ovirt.RUN_KEY, {"spec": {"cancel": [{"id": vm.id}]}})

    as_before(ovirt, vm, go(ovirt, vm, moments, cutover=None, during=during), "canceled")
    assert vm.power_causes() == ["on"]
