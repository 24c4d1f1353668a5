"""How far precopies are apart: the environment, the ForkliftController over it, the plan over both; under way too."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from tranship.resources.meta import FORKLIFT_CONTROLLER, MIGRATION, PLAN

from .conftest import MIB, document


def test_each_wins_over_the_one_before(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRECOPY_INTERVAL", "45")
    vm = site.add_vm("intervals", 2 * MIB, cbt=True, running=True)

    def next_is(minutes: int) -> Any:
        def said(run: Any) -> bool:
            (status,) = run.status.vms or [None]
            if status is None or status.phase != "CopyingPaused":
                return False
            due = status.warm.precopies[-1].end + timedelta(minutes=minutes)
            return f"the next at {due:%H:%M:%S} UTC" in status.why

        return said

    async def story(app: Any) -> None:
        await site.until(app, MIGRATION, "run", next_is(45), 30)
        settings = document("ForkliftController", "settings", spec={"controller_precopy_interval": 20})
        await app.store.create(FORKLIFT_CONTROLLER, settings)
        await site.until(app, MIGRATION, "run", next_is(20), 15)
        patch = {"spec": {"controller_precopy_interval": "25"}}
        await app.store.patch(FORKLIFT_CONTROLLER, "default", "settings", patch)
        await site.until(app, MIGRATION, "run", next_is(25), 15)
        await app.store.patch(PLAN, "default", "plan", {"spec": {"precopy": {"interval": "10m"}}})
        await site.until(app, MIGRATION, "run", next_is(10), 15)
        await app.store.delete(FORKLIFT_CONTROLLER, "default", "settings")
        await app.store.patch(PLAN, "default", "plan", {"spec": {"precopy": None}})
        await site.until(app, MIGRATION, "run", next_is(45), 15)
        await site.cut_over(app)

    moved = site.move(vm, warm=True, cutover=None, during=story, documents=site.providers(vddk=True), precopy={})
    assert asyncio.run(moved).status.vms[0].outcome == "succeeded"
