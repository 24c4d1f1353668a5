"""controller_max_vm_inflight holds for a host across all plans, also when the controllers are started anew on the way."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from tranship.app import App
from tranship.migration.book import BOOK
from tranship.migration.budget import holds
from tranship.resources.meta import MIGRATION
from tranship.resources.migration import Migration
from tranship.store.base import EventType

from .conftest import MIB, PAST, document

TEXT = "Waiting to start migration: in-flight limit reached (max 1)."


def all_pause(run: Migration) -> bool:
    return {vm.phase for vm in run.status.vms} == {"CopyingPaused"}


class Ledger:
    """The most VMs of each host that were under way at a time, and who ever said that it waits."""

    def __init__(self, hosts: dict[str, str]) -> None:
        self._hosts = hosts
        self._runs: dict[str, Migration] = {}
        self.most: Counter[str] = Counter()
        self.pending: set[str] = set()

    @asynccontextmanager
    async def kept(self, app: App) -> AsyncIterator[None]:
        async def follow() -> None:
            async with aclosing(app.store.watch(MIGRATION)) as events:
                async for event in events:
                    if event.type is not EventType.BOOKMARK:
                        self._note(Migration.read(event.object))

        task = asyncio.create_task(follow())
        try:
            yield
            assert not task.done(), task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _note(self, run: Migration) -> None:
        self._runs[run.name] = run
        vms = [vm for one in self._runs.values() for vm in one.status.vms]
        now = Counter(self._hosts[vm.id] for vm in vms if holds(vm, BOOK))
        self.most |= now
        self.pending |= {vm.id for vm in vms for one in vm.conditions if (one.type, one.message) == ("Pending", TEXT)}


def test_across_plans_and_a_restart(site: Any) -> None:
    first = [site.add_vm(f"first-{n}", 2 * MIB, seed=n, host=0, cbt=True, running=True) for n in range(4)]
    second = site.add_vm("second", 2 * MIB, host=1, cbt=True, running=True)
    plans = {"a": first[:2], "b": [*first[2:], second]}
    ledger = Ledger({vm.moref: "first" for vm in first} | {second.moref: "second"})

    async def ended(app: App, name: str) -> Migration:
        run: Migration = await site.until(app, MIGRATION, name, lambda run: run.status.completed is not None, 120)
        return run

    async def run() -> None:
        async with site.app() as app, ledger.kept(app):
            settings = document("ForkliftController", "settings", spec={"controller_max_vm_inflight": 1})
            await site.apply(app, settings, *site.providers(vddk=True))
            for name, vms in plans.items():
                plan = site.plan(*vms, warm=True, precopy={"interval": "1h"})
                plan["metadata"]["name"] = name
                await site.apply(app, plan, document("Migration", name, spec={"plan": {"name": name}}))
            await site.until(app, MIGRATION, "b", lambda run: any(holds(vm, BOOK) for vm in run.status.vms), 60)
        async with site.app() as app, ledger.kept(app):
            for name in plans:
                await site.until(app, MIGRATION, name, all_pause, 120)
            assert ledger.most == {"first": 1, "second": 1}
            for name in plans:
                await app.store.patch(MIGRATION, "default", name, {"spec": {"cutover": PAST}})
            runs = [await ended(app, name) for name in plans]
        assert {vm.outcome for run in runs for vm in run.status.vms} == {"succeeded"}
        assert not [one for run in runs for vm in run.status.vms for one in vm.conditions if one.type == "Pending"]

    asyncio.run(run())
    assert ledger.most == {"first": 1, "second": 1}
    assert ledger.pending & {vm.moref for vm in first}
    assert second.moref not in ledger.pending
