"""A VM moves to this host, and its disks come from the ESXi hosts that it runs on, past the vCenter."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tranship.resources.meta import HOST, MIGRATION, PLAN
from tranship.resources.migration import Migration

MIB = 1 << 20


@pytest.fixture
def direct(site: Any) -> Iterator[Any]:
    for number in (0, 1):
        site.lab.esxi(number).faults.clear()
    yield site
    for number in (0, 1):
        site.lab.esxi(number).faults.clear()


async def hosts_ready(site: Any, app: Any, *names: str) -> None:
    for name in names:
        await site.says(app, HOST, name, "Ready")


def moved(site: Any, vm: Any, run: Migration) -> None:
    (status,) = run.status.vms
    assert status.outcome == "succeeded", status.error
    assert site.target(vm) == vm.read()
    site.assert_nothing_left(vm)


def opened(where: Any, vm: Any) -> int:
    return int(where.faults.count("VDDK open", vm.name))


def test_warm_by_vddk_from_the_hosts(direct: Any) -> None:
    """It is moved to another host between two rounds: the next round follows."""
    site = direct
    vm = site.add_vm("direct", 8 * MIB, running=True, cbt=True, host=0)
    first, second = site.lab.esxi(0), site.lab.esxi(1)
    passwords = [host.password.encode() for host in (first, second)] + [site.lab.password.encode()]
    jobs: list[bytes] = []

    def look(where: str) -> None:
        for path in (site.directory / "home" / "movers").rglob("*"):
            try:
                data = path.read_bytes() if path.is_file() else b""
            except FileNotFoundError:
                continue
            assert not [one for one in passwords if one in data], f"a password in {path}"
            if path.name == "job.json":
                jobs.append(data)

    async def during(app: Any) -> None:
        await site.precopied(app, 1)
        counted = opened(first, vm)
        assert counted > 0 and opened(second, vm) == 0
        site.lab.migrate(vm, 1)
        vm.write(3 * MIB, b"after it moved" * 100)
        done = len((await site.until(app, MIGRATION, "run", lambda run: run, 5)).status.vms[0].warm.precopies)
        await site.precopied(app, done + 1)
        assert opened(second, vm) > 0
        await site.cut_over(app)

    async def run() -> Migration:
        async with site.app(boundary=look) as app:
            await site.apply(app, *site.providers(vddk=True), *site.hosts(0, 1))
            await hosts_ready(site, app, "esx1", "esx2")
            await site.apply(app, site.plan(vm, warm=True, targetPowerState="off"))
            ready = await site.ready(app, 20)
            (ways,) = [one for one in ready.status.conditions if one.type == "DiskWays"]
            assert f"by host {first.address} itself" in ways.items[0] and "Host default/esx1" in ways.items[0]
            await site.start(app)
            await during(app)
            return Migration.model_validate(await site.ended(app))

    result = asyncio.run(run())
    moved(site, vm, result)
    assert "Host default/esx1" in result.status.vms[0].disks[0].why
    assert opened(site.lab, vm) == 0, "the vCenter was read from"
    assert any(f"vddk://{first.address}/".encode() in job for job in jobs)
    assert any(f"vddk://{second.address}/".encode() in job for job in jobs)
    for host in (first, second):
        assert host.faults.count("CreateSnapshot_Task") == host.faults.count("QueryChangedDiskAreas") == 0


@pytest.mark.parametrize("warm", [True, False])
def test_without_vddk(direct: Any, warm: bool) -> None:
    """Warm by an export of the host and its datastore folder at the end, cold by the folder alone."""
    site = direct
    vm = site.add_vm("direct-warm" if warm else "direct-cold", 8 * MIB, running=warm, cbt=warm, host=0)
    host = site.lab.esxi(0)

    async def run() -> Migration:
        async with site.app() as app:
            await site.apply(app, *site.providers(), *site.hosts(0))
            await hosts_ready(site, app, "esx1")
            await site.apply(app, site.plan(vm, warm=warm, targetPowerState="off"))
            await site.ready(app, 20)
            await site.start(app)
            if warm:
                await site.precopied(app, 1)
                vm.write(3 * MIB, b"the last change" * 100)
                await site.cut_over(app)
            return Migration.model_validate(await site.ended(app))

    moved(site, vm, asyncio.run(run()))
    assert host.faults.count("GET /folder", vm.name) > 0
    assert site.lab.faults.count("GET /folder", vm.name) == 0
    methods = {one.method for one in host.calls if one.vm == vm.name}
    assert ("ExportSnapshot" in methods) == warm
    assert site.lab.faults.count("ExportSnapshot", vm.name) == site.lab.faults.count("ExportVm", vm.name) == 0


def test_a_host_that_does_not_answer_is_waited_for(direct: Any) -> None:
    """Nothing is read through the vCenter meanwhile. A restart of the controllers changes nothing about that."""
    site = direct
    vm = site.add_vm("silent", 8 * MIB, running=True, cbt=True, host=0)
    host = site.lab.esxi(0)

    async def run() -> Migration:
        async with site.app() as app:
            await site.apply(app, *site.providers(vddk=True), *site.hosts(0))
            await hosts_ready(site, app, "esx1")
            await site.apply(app, site.plan(vm, warm=True, targetPowerState="off"))
            await site.ready(app, 20)
            host.faults.add("Login", drop="before", count=0)
            await site.start(app, cutover="2020-01-01T00:00:00Z")
            words = f"{host.address} does not answer"
            await site.until(app, MIGRATION, "run", lambda run: any(words in one.why for one in run.status.vms), 30)
        async with site.app() as app:
            await site.says(app, HOST, "esx1", "ConnectionTestFailed", deadline=40.0)
            await site.until(app, MIGRATION, "run", lambda run: any(words in one.why for one in run.status.vms), 30)
            assert opened(site.lab, vm) == opened(host, vm) == 0
            host.faults.clear()
            return Migration.model_validate(await site.ended(app))

    moved(site, vm, asyncio.run(run()))
    assert opened(host, vm) > 0 and opened(site.lab, vm) == 0


def test_a_host_that_is_not_ready_is_told_to_the_plan(direct: Any) -> None:
    """One that never let us in does not count: the plan may start, by the vCenter, and says so."""
    site = direct
    vm = site.add_vm("refused", 4 * MIB, host=0)

    async def run() -> None:
        async with site.app() as app:
            secret, host = site.hosts(0)
            secret["stringData"]["password"] = "wrong"  # type: ignore[index]
            await site.apply(app, *site.providers(vddk=True), secret, host, site.plan(vm, warm=False))
            told = await site.says(app, PLAN, "plan", "HostNotReady", deadline=30.0)
            assert "read through the vCenter" in told.message and "default/esx1" in told.message
            await site.ready(app)

    asyncio.run(run())
