"""What movers on this host are lent of the vCenter: never the password, never the controllers' own session; and it ends."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tranship.lab.vddk import Trouble
from tranship.resources.meta import MIGRATION
from tranship.resources.migration import Migration

MIB = 1 << 20
ROUNDS = {"vddk": True, "without-vddk": False}


def moved(site: Any, vm: Any, run: Migration) -> None:
    (status,) = run.status.vms
    assert status.outcome == "succeeded", status.error
    assert site.target(vm) == vm.read()
    site.assert_nothing_left(vm)


class Scan:
    """Looks at each boundary into everything that is written for movers."""

    def __init__(self, site: Any, vm: Any) -> None:
        self.site, self.vm = site, vm
        self.seen: set[str] = set()
        self.cookies: set[str] = set()

    def __call__(self, where: str) -> None:
        live = list(self.site.lab.sessions.live.values())
        self.cookies |= {one.cookie for one in self.site.lent(self.vm)}
        secrets = [self.site.lab.password, *(one.cookie for one in live if not one.agent.startswith("tranship-mover"))]
        for path in (self.site.directory / "home" / "movers").rglob("*"):
            self._look(path, [one.encode() for one in secrets])

    def _look(self, path: Path, secrets: list[bytes]) -> None:
        try:
            data = path.read_bytes() if path.is_file() else b""
        except FileNotFoundError:
            return
        assert not [one for one in secrets if one in data], f"a secret in {path}"
        if any(cookie.encode() in data for cookie in self.cookies):
            self.seen.add(path.name)
            assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("way", ROUNDS)
def test_movers_have_sessions_of_their_own(site: Any, way: str) -> None:
    vm = site.add_vm(f"lent-{way}", 8 * MIB, running=True, cbt=True)
    scan = Scan(site, vm)
    moved(site, vm, asyncio.run(site.move(vm, scan, warm=True, documents=site.providers(vddk=ROUNDS[way]))))
    assert "job.json" in scan.seen, "no job was looked at while its secrets were in it"
    assert any(name.startswith("handle-") for name in scan.seen)
    assert len(scan.cookies) >= 2, "each round has its own"


@pytest.mark.parametrize("way", ROUNDS)
def test_a_session_is_terminated_under_the_movers(site: Any, way: str) -> None:
    """By an administrator who cleans up, in the middle of a read: another is lent, and the copy goes on."""
    vm = site.add_vm(f"terminated-{way}", 8 * MIB, running=True, cbt=True)
    ended: list[Any] = []

    def terminate(where: str) -> None:
        if where == "after StartCopies" and not ended:
            ended.extend(site.lent(vm))
            for one in ended:
                site.lab.sessions.end(one)

    async def told(app: Any) -> None:
        if way == "vddk":  # an export goes on: its host knows the movers by the lease's ticket
            words = "session that was lent has ended"
            await site.until(app, MIGRATION, "run", lambda run: any(words in vm.why for vm in run.status.vms), 30)

    options = {"documents": site.providers(vddk=ROUNDS[way]), "during": told}
    run = asyncio.run(site.move(vm, terminate, warm=True, **options))
    moved(site, vm, run)
    assert ended


def test_nothing_is_lent_when_it_is_cancelled(site: Any) -> None:
    vm = site.add_vm("lent-cancelled", 8 * MIB, running=True, cbt=True)
    service = site.lab.blocks.service
    service.faults.reads = {service.reads + number: Trouble.HANG for number in range(2, 40)}

    async def cancel(app: Any) -> None:
        await site.eventually("session", lambda: site.lent(vm))
        await app.store.patch(MIGRATION, "default", "run", {"spec": {"cancel": [{"name": vm.name}]}})

    try:
        run = asyncio.run(site.move(vm, warm=True, cutover=None, during=cancel, documents=site.providers(vddk=True)))
    finally:
        service.faults.reads = {}
    (status,) = run.status.vms
    assert status.outcome == "canceled"
    assert vm.on
    site.assert_nothing_left(vm)
