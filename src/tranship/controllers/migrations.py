"""Migrations: start the walk of every VM of a plan, tell the walkers what the user wants, bring the run to its end.

The truth of a run is Migration.status: one entry per VM, saved before anything is asked. After a restart the walks go on from
there. Nothing is looked at again and again: a run is looked at when its objects, the settings or its providers change, or when
one of its walks has ended.
"""

import asyncio
import contextlib
import shutil
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import structlog

from tranship.controllers.effects import Effects
from tranship.controllers.manager import Watch, wanted
from tranship.controllers.mirror import Key, Mirror, key_of
from tranship.controllers.plans import migrations_of
from tranship.controllers.providers import ProviderController
from tranship.controllers.resolve import Route, open_sides, route, settings_of, ways_of
from tranship.controllers.rivals import objection, plan_key, rivals
from tranship.controllers.run import Run
from tranship.controllers.walker import Orders, Walker
from tranship.errors import Busy, NotFound, TranshipError
from tranship.inventory.vm import VM
from tranship.migration.book import BOOK, choose
from tranship.migration.budget import Budget, Use, Who, holds, use_of
from tranship.migration.itinerary import begin, ended
from tranship.migration.mapping import MachineOrder, order, told
from tranship.migration.progress import conclude_run
from tranship.providers.base import Source, Target
from tranship.resources.conditions import READY, Category, Condition, Conditions
from tranship.resources.controller import Settings
from tranship.resources.meta import FORKLIFT_CONTROLLER, MIGRATION, PLAN, Kind
from tranship.resources.migration import Migration
from tranship.resources.model import to_json
from tranship.resources.plan import HistoryEntry, Plan, SnapshotMaps, SnapshotProviders, SnapshotRef
from tranship.resources.vm import DiskStatus, PlanVM, VMStatus
from tranship.store.base import Object, Store

log = structlog.get_logger()

FINALIZER = "tranship/migration"  # a deleted Migration cancels its VMs first
WAITING = "the migration has begun"
RETRY = 10.0  # seconds: most of what a migration waits for to begin is watched


class MigrationController:
    name = "migration"

    def __init__(
        self,
        store: Store,
        mirror: Mirror,
        providers: ProviderController,
        work: Path,
        *,
        poll: float = 1.0,
        boundary: Callable[[str], None] = lambda where: None,
        again: Callable[[Key], None],
    ) -> None:
        """work: directory of the movers' journals and reports. again: asks for a reconcile of a migration."""
        self._store, self._mirror, self._providers, self._work = store, mirror, providers, work
        self._poll, self._boundary, self._again = poll, boundary, again
        self._runs: dict[Key, Run] = {}
        self._budget = Budget(self._lane, self._granted)
        self._counted = False

    @property
    def watches(self) -> Mapping[Kind, Watch]:
        return {
            MIGRATION: Watch(self._of_migration, lambda obj: (wanted(obj), obj.get("status", {}).get("completed"))),
            PLAN: Watch(self._of_plan, lambda obj: (wanted(obj), _validated(obj))),
            FORKLIFT_CONTROLLER: Watch(lambda obj: tuple(self._runs)),
        }

    def _of_migration(self, obj: Object) -> list[Key]:
        """It, and when it has ended those that have not begun: they may have waited for it."""
        if not obj.get("status", {}).get("completed"):
            return [key_of(obj)]
        others = self._mirror.objects(MIGRATION).items()
        return [key_of(obj), *(key for key, other in others if not other.get("status", {}).get("started"))]

    def _of_plan(self, obj: Object) -> list[Key]:
        return self._open(key_of(obj))

    def _open(self, plan: Key) -> list[Key]:
        return [Key(run.namespace, run.name) for run in migrations_of(self._mirror, plan) if not run.status.completed]

    def unsettled(self) -> list[Key]:
        """A provider has changed: runs that wait for it, or whose walkers use a connection that was closed."""
        self._budget.admit()  # VMs may be on other hosts now
        return [key for key, run in self._runs.items() if not self._settled(run)]

    def _settled(self, run: Run) -> bool:
        try:
            sides = open_sides(self._mirror, self._providers, run.plan)
        except TranshipError:
            return True  # its walkers say so, and wait
        return all(id in run.walkers and run.walkers[id].effects.uses(*sides) for id in run.open)

    async def close(self) -> None:
        """Stop looking. Movers go on; whoever starts next adopts them."""
        for run in self._runs.values():
            await self._halt(run)

    async def _halt(self, run: Run) -> None:
        tasks = list(run.tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- the budget ---

    def _count(self) -> None:
        """Whoever was under way when this process began holds a slot, be its run taken up yet or not."""
        for key, obj in self._mirror.objects(MIGRATION).items():
            status = obj.get("status", {})
            for entry in () if status.get("completed") else status.get("vms", ()):
                vm = VMStatus.model_validate(entry, by_alias=True, by_name=False)
                if holds(vm, BOOK):
                    self._budget.hold(Who(key, vm.id), use_of(vm))
        self._counted = True

    def _lane(self, who: Who) -> Hashable:
        key = who.run
        assert isinstance(key, Key)
        run = self._runs.get(key)
        if run is not None:
            return self._providers.lane(run.source_key, who.vm)
        migration = self._mirror.objects(MIGRATION).get(key)
        plan = self._mirror.objects(PLAN).get(plan_key(migration)) if migration else None
        if plan is None:
            return None
        source = plan["spec"]["provider"]["source"]
        return self._providers.lane(
            Key(source.get("namespace") or plan["metadata"]["namespace"], source["name"]), who.vm
        )

    def _granted(self, who: Who) -> None:
        assert isinstance(who.run, Key)
        run = self._runs.get(who.run)
        if run is not None and who.vm in run.walkers:
            run.walkers[who.vm].wake.set()

    # --- reconcile ---

    async def reconcile(self, key: Key) -> float | None:
        if not self._counted:
            self._count()
        run = self._runs.get(key)
        try:
            if run is None:
                if _finished(self._mirror.objects(MIGRATION).get(key)):
                    return None
                found = await self._store.get(MIGRATION, *key)
                vms = found.get("status", {}).pop("vms", [])
                migration = Migration.read(found)
                if migration.status.completed:
                    await self._let_go(migration)
                    return None
                run = await self._start(migration, vms)
                if run is None:
                    return None if migration.status.completed else RETRY
                self._runs[key] = run
            else:
                await run.read(self._store)
        except NotFound:
            await self._lost(key)
            return None
        return await self._direct(run)

    async def _lost(self, key: Key) -> None:
        """Somebody took the finalizer away: nobody can say any more what is wanted, and nothing can be saved."""
        run = self._runs.pop(key, None)
        if run is not None:
            log.warning("the migration is gone; its VMs are left as they are", migration=key.name)
            await self._halt(run)
        self._budget.forget(key)

    async def _let_go(self, migration: Migration) -> None:
        key = Key(migration.namespace, migration.name)
        self._runs.pop(key, None)
        self._budget.forget(key)
        if migration.metadata.deletion_timestamp and FINALIZER in migration.metadata.finalizers:
            left = [one for one in migration.metadata.finalizers if one != FINALIZER]
            patch = {"metadata": {"finalizers": left}}
            await self._store.patch(MIGRATION, migration.namespace, migration.name, patch)

    async def _start(self, migration: Migration, vms: list[Object]) -> Run | None:
        """vms: their saved statuses, if it has begun already. None = it cannot start yet; its conditions say why."""
        ref = migration.spec.plan
        try:
            found = await self._store.get(PLAN, ref.namespace or migration.namespace, ref.name)
            if vms:
                found.get("status", {}).get("migration", {}).pop("vms", None)  # the run knows better
            plan = Plan.read(found)
        except NotFound as error:
            await self._say(migration, "PlanNotValid", Category.CRITICAL, str(error), "Correct spec.plan.")
            return None
        if vms:  # a restart: what was begun goes on, whatever the plan's checks say now
            return Run.saved(migration, plan, vms)
        if migration.metadata.deletion_timestamp:
            await self._complete(Run.of(migration, plan, ()))
            return None
        if not Conditions(plan.status.conditions).ready or plan.status.observed_generation != plan.metadata.generation:
            text = f"plan {plan.name} is not ready"
            await self._say(migration, "PlanNotReady", Category.CRITICAL, text, "See the plan's conditions.")
            return None
        before = self._before(migration)
        if before:
            text = f"migration {before} of the same plan is under way"
            await self._say(migration, "Pending", Category.ADVISORY, text, "It starts when that one has ended.")
            return None
        return await self._begin(migration, plan)

    def _before(self, migration: Migration) -> str:
        """Name of the migration that has to end first: one of its plan that runs, or was made earlier."""
        own = Key(migration.namespace, migration.name)
        runs = [
            run
            for run in migrations_of(
                self._mirror, Key(migration.spec.plan.namespace or migration.namespace, migration.spec.plan.name)
            )
            if not run.status.completed
        ]
        others = [run for run in runs if run.uid != migration.uid]
        for run in others:
            if run.status.started or Key(run.namespace, run.name) in self._runs:
                return run.name
        first = runs[0] if runs else migration
        return "" if Key(first.namespace, first.name) == own else first.name

    async def _begin(self, migration: Migration, plan: Plan) -> Run | None:
        try:
            leads = await route(self._store, self._providers, plan)
            settings = settings_of(self._mirror)
            vms = [await self._status(migration, plan, entry, leads, settings) for entry in plan.spec.vms]
        except TranshipError as error:
            await self._say(migration, "PlanNotReady", Category.CRITICAL, str(error), error.suggestion)
            raise
        names = {vm.id: vm.name for vm in vms if not ended(vm, BOOK)}
        key, source = Key(plan.namespace, plan.name), plan.spec.provider.source
        plans, runs = [
            (await self._store.list(kind)).items for kind in (PLAN, MIGRATION)
        ]  # not from a copy: it decides
        found = rivals(plans, runs, self._providers, key, source, names)
        if refused := objection(found, migration.metadata.creation_timestamp):
            await self._say(migration, *refused)
            return None
        if FINALIZER not in migration.metadata.finalizers:
            finalizers = [*migration.metadata.finalizers, FINALIZER]
            body = await self._store.patch(
                MIGRATION, migration.namespace, migration.name, {"metadata": {"finalizers": finalizers}}
            )
            migration = Migration.read(body)
        run = Run.of(migration, plan, vms)
        now = datetime.now(UTC)
        migration.status.started = now
        conditions = Conditions(migration.status.conditions)
        conditions.delete("PlanNotReady", "PlanNotValid", "Pending", "VMAlreadyMigrated")
        conditions.set(READY, Category.REQUIRED, now, message="the migration is ready", durable=True)
        conditions.set("Running", Category.ADVISORY, now, message="the migration runs", durable=True)
        plan.status.migration.history.append(_history(run, leads))
        await run.write(self._store)
        log.info("migration started", migration=migration.name, plan=plan.name, vms=len(vms))
        return run

    async def _status(
        self, migration: Migration, plan: Plan, entry: PlanVM, leads: Route, settings: Settings
    ) -> VMStatus:
        vm = leads.vm(entry)
        earlier = plan.status.migration.vm(vm.id)
        if earlier is not None and earlier.outcome == "succeeded":
            return earlier
        ways = {way.disk: way for way in await ways_of(leads, vm, warm=plan.warm)}
        maps = leads.networks.spec, leads.storages.spec
        made = order(
            *(plan, entry, vm, *maps, leads.source_estate),
            settings=settings,
            migration=migration.uid,
            transfer_network=leads.transfer_network(plan, settings),
        )
        disks = [
            DiskStatus(
                id=disk.source, name=disk.name, capacity=disk.size, way=ways[disk.source].way, why=ways[disk.source].why
            )
            for disk in made.disks
        ]
        status = VMStatus(**entry.model_dump(exclude_unset=True), disks=disks, order=told(made))
        status.id, status.name = vm.id, vm.name
        status.firmware, status.operating_system = vm.firmware, vm.guest_name
        itinerary = choose(plan.warm, {way.way for way in ways.values()})
        return begin(status, itinerary, datetime.now(UTC), WAITING)

    async def _direct(self, run: Run) -> float | None:
        """Tell the walkers what the user wants now, and which connections are open."""
        if not run.open:
            await self._complete(run)
            return None
        settings = settings_of(self._mirror)
        self._budget.limit = settings.max_vm_inflight
        self._budget.admit()
        try:
            sides, trouble = open_sides(self._mirror, self._providers, run.plan), None
        except TranshipError as error:
            sides, trouble = None, error
        idle = len(run.open - run.walkers.keys())
        for id in tuple(run.open):
            vm = run.vm(id)
            orders, walker = run.orders(vm, settings), run.walkers.get(id)
            if walker is not None:
                if sides is not None and walker.effects.use(*sides):
                    walker.wake.set()
                walker.heed(orders)
            elif sides is not None:
                self._walk(run, vm, orders, *sides)
            elif not isinstance(trouble, Busy) and trouble is not None:
                raise trouble
        if idle and sides is not None:
            log.info("VMs under way", migration=run.key.name, vms=idle)
        return None  # a provider that is being opened tells when it is

    # --- walking ---

    def _walk(self, run: Run, vm: VMStatus, orders: Orders, source: Source, target: Target) -> None:
        made = msgspec.convert(vm.order, MachineOrder)
        work = self._work / run.migration.uid / vm.id
        known = self._providers.vm(run.source_key, vm.id) or VM(id=vm.id, name=vm.name)
        effects = Effects(source, target, known, made, work, verify=run.plan.spec.verify)

        async def save(status: VMStatus) -> None:
            await run.save(status, self._store)

        async def refresh() -> bool:
            await run.read(self._store)
            return walker.heed(run.orders(walker.vm, settings_of(self._mirror)))

        slots = Slots(self._budget, Who(run.key, vm.id))
        walker = Walker(
            partial(run.vm, vm.id), orders, effects, save, refresh, slots, poll=self._poll, boundary=self._boundary
        )
        run.walkers[vm.id] = walker
        task = asyncio.create_task(walker.walk(), name=f"walk {vm.name}")
        run.tasks[vm.id] = task
        task.add_done_callback(partial(self._walked, run, vm.id))  # a lambda would keep the whole status

    def _walked(self, run: Run, id: str, task: asyncio.Task[None]) -> None:
        run.walkers.pop(id, None)
        run.tasks.pop(id, None)
        if not task.cancelled() and (error := task.exception()):
            log.error("walk broke off; it is taken up again", vm=id, error=repr(error), exc_info=error)
        self._again(run.key)

    async def _complete(self, run: Run) -> None:
        """Every VM's walk has ended."""
        await self._forget(run)
        now, outcomes = datetime.now(UTC), [vm.outcome for vm in run.vms]
        run.migration.status.completed = now
        conditions = Conditions(run.migration.status.conditions)
        conditions.delete("Running")
        conclude_run(outcomes, conditions, now)
        history = run.plan.status.migration.history
        if history:
            history[-1].conditions = list(conditions.list)
        await run.write(self._store)
        log.info("migration ended", migration=run.migration.name, outcomes=",".join(outcomes))
        await self._let_go(run.migration)

    async def _forget(self, run: Run) -> None:
        """Journals and reports are of no more use. Raises what keeps a cluster from being cleaned up: it is tried again."""
        work = self._work / run.migration.uid
        with contextlib.suppress(NotFound):  # the provider was removed
            target = self._providers.get(run.plan.spec.provider.destination, run.plan.namespace).target
            if target is not None:
                for vm in run.vms:
                    movers = target.movers(msgspec.convert(vm.order, MachineOrder), work / vm.id)
                    await asyncio.to_thread(movers.forget)
        await asyncio.to_thread(shutil.rmtree, work, ignore_errors=True)

    async def _say(self, migration: Migration, type: str, category: Category, text: str, remedy: str) -> None:
        conditions = Conditions(migration.status.conditions)
        conditions.begin_staging()
        conditions.set(type, category, datetime.now(UTC), message=text, suggestion=remedy)
        conditions.end_staging()
        patch = {"status": {"conditions": [to_json(one) for one in conditions.list]}}
        await self._store.patch(MIGRATION, migration.namespace, migration.name, patch, subresource="status")


@dataclass(frozen=True, slots=True)
class Slots:
    """The budget, for one walker."""

    budget: Budget
    who: Who

    def ask(self, use: Use, since: datetime) -> bool:
        return self.budget.ask(self.who, use, since)

    def release(self) -> None:
        self.budget.release(self.who)


def _validated(plan: Object) -> Any:
    """What a migration that waits for its plan waits for."""
    status = plan.get("status", {})
    ready = Conditions(
        [Condition.model_validate(one, by_alias=True, by_name=False) for one in status.get("conditions", ())]
    ).ready
    return ready, status.get("observedGeneration")


def _finished(migration: Object | None) -> bool:
    """Nothing is left to be done about it: thousands of them cost nothing."""
    if migration is None or migration["metadata"].get("deletionTimestamp"):
        return False
    return bool(migration.get("status", {}).get("completed"))


def _history(run: Run, leads: Route) -> HistoryEntry:
    providers = run.plan.spec.provider
    return HistoryEntry(
        plan=SnapshotRef.of(run.plan),
        migration=SnapshotRef.of(run.migration),
        map=SnapshotMaps(network=SnapshotRef.of(leads.networks), storage=SnapshotRef.of(leads.storages)),
        provider=SnapshotProviders(
            source=SnapshotRef(name=providers.source.name, namespace=providers.source.namespace),
            destination=SnapshotRef(name=providers.destination.name, namespace=providers.destination.namespace),
        ),
    )
