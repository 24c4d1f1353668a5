"""The controller is killed at every boundary: before and after each save and each effect. Every run ends in the same world.

In one process: what `boundary` raises ends the walk where it is, and the application is thrown away with whatever it
remembered. A new one starts on the same directory. Movers are processes of their own and live on, as they would.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tranship.resources.migration import Migration

MIB = 1 << 20
WAYS: dict[str, tuple[str, bool, dict[str, Any], dict[str, Any]]] = {  # site, warm, of the provider, of the VM
    "cold": ("site", False, {"vddk": True}, {"cbt": True}),
    "warm": ("site", True, {"vddk": True}, {"cbt": True}),
    "warm-without-vddk": ("site", True, {"vddk": False}, {"cbt": True}),
    "ovirt-cold": ("ovirt", False, {}, {}),
    "ovirt-backup": ("ovirt", True, {}, {}),
    "ovirt-snapshot": ("ovirt", True, {}, {"incremental": False}),
}


class Killed(BaseException):
    pass


class Killer:
    """Counts boundaries by name, dies at the chosen one, and stays dead."""

    def __init__(self, fatal: tuple[str, int] | None = None, each: Callable[[str], None] = lambda where: None) -> None:
        self.fatal, self.each = fatal, each
        self.passed: Counter[str] = Counter()
        self.dead = asyncio.Event()

    def __call__(self, where: str) -> None:
        if self.dead.is_set():
            raise Killed
        self.passed[where] += 1
        self.each(where)
        if self.fatal == (where, self.passed[where]):
            self.dead.set()
            raise Killed


async def move(site: Any, vm: Any, way: str, fatal: tuple[str, int] | None) -> tuple[Migration, Counter[str]]:
    _, warm, options, _ = WAYS[way]

    def guest_writes(where: str) -> None:
        """Between any two steps something changes on the running source."""
        if vm.on and where in ("after StartCopies", "after save CopyingPaused", "after RemoveSnapshot"):
            written = len(vm.power_log) * 7 + sum(killer.passed.values())
            vm.write((written * 37 % 31) * 64 * 1024 + 512 * (written % 5), written.to_bytes(4, "little") * 300)

    killer = Killer(fatal, guest_writes)
    async with site.app(boundary=killer) as app:
        power = "auto" if fatal is None or "Machine" in fatal[0] or "CreateVM" in fatal[0] else "off"
        plan = site.plan(vm, warm=warm, targetPowerState=power)
        await site.apply(app, *site.providers(**options), plan)
        await site.ready(app)
        await site.start(app, cutover="2026-01-01T00:00:00Z")
        run = asyncio.ensure_future(site.ended(app))
        death = asyncio.ensure_future(killer.dead.wait())
        await asyncio.wait([run, death], return_when=asyncio.FIRST_COMPLETED)
        death.cancel()
        if not killer.dead.is_set():
            return await run, killer.passed
        run.cancel()
    async with site.app() as app:
        return await site.ended(app), killer.passed


def assert_moved(site: Any, vm: Any, run: Migration) -> None:
    (status,) = run.status.vms
    assert status.outcome == "succeeded", status.error
    assert site.target(vm) == vm.read()
    assert [machine.name for machine in site.vms.glob("moved/*")] == [vm.name]
    assert (site.vms / "moved" / vm.name / "machine.json").exists()
    site.assert_nothing_left(vm)
    assert [cause for cause in vm.power_causes() if cause != "on"] == ["guest-shutdown"]
    assert all(disk.verified for disk in status.disks)
    assert not (site.directory / "home" / "movers" / run.uid / site.id(vm)).exists()


async def _every(site: Any, way: str, part: int, parts: int) -> None:
    made = {"running": True, **WAYS[way][3]}
    vm = site.add_vm(f"{way}-whole-{part}", 6 * MIB, **made)
    run, passed = await move(site, vm, way, None)
    assert_moved(site, vm, run)
    fatal = [(where, 1) for where in sorted(passed)]  # a second time is only one more look at a running copy
    assert len(fatal) > 20
    for number, one in list(enumerate(fatal))[part::parts]:
        site.stop_machines()
        fresh = type(site)(site.lab, site.directory / f"{number}")
        vm = fresh.add_vm(f"{way}-{part}-{number}", 6 * MIB, **made)
        try:
            run, _ = await move(fresh, vm, way, one)
            assert_moved(fresh, vm, run)
        except AssertionError as error:
            raise AssertionError(f"killed at {one}: {error}") from error
        finally:
            fresh.stop_machines()


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("way", WAYS)
def test_killed_at_every_boundary(request: pytest.FixtureRequest, way: str, part: int) -> None:
    asyncio.run(_every(request.getfixturevalue(WAYS[way][0]), way, part, 4))
