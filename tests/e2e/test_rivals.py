"""Two plans name one VM: one migration at a time moves it, and the other is told why it waits, or that it came too late."""

import asyncio
from typing import Any

from tranship.resources.meta import MIGRATION, PLAN
from tranship.resources.migration import Migration

from .conftest import MIB, document

PAST = "2020-01-01T00:00:00Z"


def second(site: Any, vm: Any, **spec: Any) -> Any:
    made = site.plan(vm, warm=False, targetPowerState="off", **spec)
    made["metadata"]["name"] = "second"
    return made


def start(plan: str, name: str) -> Any:
    return document("Migration", name, spec={"plan": {"name": plan}})


async def ready(site: Any, app: Any, name: str) -> None:
    await site.until(app, PLAN, name, lambda plan: any(c.type == "Ready" for c in plan.status.conditions), 30)


def test_started_at_the_same_moment(site: Any) -> None:
    """The one that comes second waits; when the VM was moved meanwhile it is not moved once more."""
    vm = site.add_vm("contested", 4 * MIB, cbt=True, running=True)

    async def story() -> None:
        async with site.app() as app:
            first = site.plan(vm, warm=True, targetPowerState="off")
            await site.apply(app, *site.providers(), first, second(site, vm, targetNamespace="elsewhere"))
            await ready(site, app, "plan")
            await ready(site, app, "second")
            await asyncio.gather(
                app.store.create(MIGRATION, start("plan", "run")), app.store.create(MIGRATION, start("second", "run2"))
            )
            runs: list[Migration] = await asyncio.gather(
                *(site.until(app, MIGRATION, name, told, 30) for name in ("run", "run2"))
            )
            begun = [run for run in runs if run.status.started]
            (waits,) = (run for run in runs if not run.status.started)
            (pending,) = (c for c in waits.status.conditions if c.type == "Pending")
            assert "contested" in pending.message
            assert f"migration {begun[0].name} of plan default/{begun[0].spec.plan.name}" in pending.message
            if begun[0].name == "run":
                await app.store.patch(MIGRATION, "default", "run", {"spec": {"cutover": PAST}})
            ended = await site.until(app, MIGRATION, begun[0].name, lambda run: run.status.completed, 60)
            assert ended.status.vms[0].outcome == "succeeded"
            too_late = await site.says(app, MIGRATION, waits.name, "VMAlreadyMigrated", "contested")
            assert too_late.suggestion
            left = Migration.read(await app.store.get(MIGRATION, "default", waits.name))
            assert left.status.started is None
            assert left.status.vms == []

    def told(run: Migration) -> Any:
        return run.status.started or any(c.type == "Pending" for c in run.status.conditions)

    asyncio.run(story())
    homes = [path for path in site.vms.glob("*/contested") if path.is_dir()]
    assert len(homes) == 1


def test_a_vm_that_was_moved_by_another_plan_is_pointed_out(site: Any) -> None:
    vm = site.add_vm("moved-before", 4 * MIB)

    async def story() -> None:
        async with site.app() as app:
            await site.apply(app, *site.providers(), site.plan(vm, warm=False, targetPowerState="off"))
            await site.ready(app)
            await site.start(app)
            ended = await site.ended(app)
            assert ended.status.vms[0].outcome == "succeeded"
            await site.apply(app, second(site, vm, targetNamespace="elsewhere"))
            await ready(site, app, "second")
            told = await site.says(app, PLAN, "second", "VMAlreadyMigrated", "moved-before", "plan default/plan")
            assert told.category == "Warn"
            await app.store.create(MIGRATION, start("second", "run2"))  # the user knows, and wants it
            again = await site.until(app, MIGRATION, "run2", lambda run: run.status.completed, 60)
            assert again.status.vms[0].outcome == "succeeded"

    asyncio.run(story())


def test_two_providers_of_one_platform_are_one_source(site: Any) -> None:

    vm = site.add_vm("by-two-providers", 4 * MIB)

    async def story() -> None:
        async with site.app() as app:
            documents = site.providers()
            for one in documents[:2]:
                copy = {**one, "metadata": {**one["metadata"], "name": "source2"}}
                if one["kind"] == "Provider":
                    copy["spec"] = {**one["spec"], "secret": {"name": "source2"}}
                await site.apply(app, copy)
            await site.apply(app, *documents, site.plan(vm, warm=False, targetPowerState="off"))
            await site.ready(app)
            await site.start(app)
            await site.ended(app)
            between = {"source": {"name": "source2"}, "destination": {"name": "here"}}
            maps = [
                {**one, "metadata": {**one["metadata"], "name": f"{one['metadata']['name']}2"}} for one in documents
            ]
            for one in maps:
                if one["kind"].endswith("Map"):
                    await site.apply(app, {**one, "spec": {**one["spec"], "provider": between}})
            other = second(site, vm, targetNamespace="elsewhere")
            other["spec"] |= {"provider": between, "map": {"network": {"name": "net2"}, "storage": {"name": "store2"}}}
            await site.apply(app, other)
            await site.says(app, PLAN, "second", "VMAlreadyMigrated", "by-two-providers")

    asyncio.run(story())
