"""Migrations: start the walk of every VM of a plan, tell the walkers what the user wants, bring the run to its end.

The truth of a run is Migration.status: one entry per VM, saved before anything is asked. Plan.status.migration is a copy for
those who look at plans, as upstream has it. After a restart the walks go on from there.
"""

import asyncio
import contextlib
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import structlog

from tranship.controllers.effects import Effects
from tranship.controllers.manager import Key, key_of
from tranship.controllers.plans import migrations_of
from tranship.controllers.providers import ProviderController
from tranship.controllers.resolve import Route, route, settings_of, ways_of
from tranship.controllers.rivals import objection, rivals
from tranship.controllers.walker import Orders, Walker
from tranship.errors import NotFound, TranshipError
from tranship.inventory.vm import VM
from tranship.migration.book import BOOK, choose
from tranship.migration.itinerary import begin, ended
from tranship.migration.mapping import MachineOrder, order
from tranship.migration.progress import conclude_run
from tranship.migration.seen import Policy
from tranship.resources.conditions import READY, Category, Conditions
from tranship.resources.controller import Settings
from tranship.resources.meta import FORKLIFT_CONTROLLER, MIGRATION, PLAN, Kind
from tranship.resources.migration import Migration
from tranship.resources.model import to_json
from tranship.resources.plan import HistoryEntry, Plan, ShutdownSpec, SnapshotMaps, SnapshotProviders, SnapshotRef
from tranship.resources.vm import DiskStatus, PlanVM, VMStatus
from tranship.store.base import Object, Store

log = structlog.get_logger()

FINALIZER = "tranship/migration"  # a deleted Migration cancels its VMs first
WAITING = "waiting to start: as many VMs as the limit allows are under way"
SHUTDOWN_DEADLINE = 600.0


@dataclass
class Run:
    """One migration under way. lock: one write of its status at a time; writes that wait are one."""

    migration: Migration
    plan: Plan
    vms: dict[str, VMStatus]
    walkers: dict[str, Walker] = field(default_factory=dict)
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    wanted: int = 0
    written: int = 0

    @property
    def finished(self) -> bool:
        return all(ended(vm, BOOK) for vm in self.vms.values())


class MigrationController:
    name = "migration"

    def __init__(
        self,
        store: Store,
        providers: ProviderController,
        work: Path,
        *,
        poll: float = 1.0,
        boundary: Callable[[str], None] = lambda where: None,
        again: Callable[[Key], None],
    ) -> None:
        """work: directory of the movers' journals and reports. again: asks for a reconcile of a migration."""
        self._store, self._providers, self._work = store, providers, work
        self._poll, self._boundary, self._again = poll, boundary, again
        self._runs: dict[Key, Run] = {}

    @property
    def watches(self) -> Mapping[Kind, Callable[[Object], Iterable[Key]]]:
        def all_runs(obj: Object) -> list[Key]:
            return list(self._runs)

        return {MIGRATION: lambda obj: [key_of(obj)], PLAN: all_runs, FORKLIFT_CONTROLLER: all_runs}

    async def close(self) -> None:
        """Stop looking. Movers go on; whoever starts next adopts them."""
        tasks = [task for run in self._runs.values() for task in run.tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- reconcile ---

    async def reconcile(self, key: Key) -> float | None:
        try:
            migration = Migration.read(await self._store.get(MIGRATION, *key))
        except NotFound:
            return None
        if migration.status.completed:
            await self._let_go(migration)
            return None
        run = self._runs.get(key)
        if run is None:
            run = await self._start(migration)
            if run is None:
                return 3.0
            self._runs[key] = run
        return await self._direct(run, migration)

    async def _let_go(self, migration: Migration) -> None:
        self._runs.pop(Key(migration.namespace, migration.name), None)
        if migration.metadata.deletion_timestamp and FINALIZER in migration.metadata.finalizers:
            left = [one for one in migration.metadata.finalizers if one != FINALIZER]
            patch = {"metadata": {"finalizers": left}}
            await self._store.patch(MIGRATION, migration.namespace, migration.name, patch)

    async def _start(self, migration: Migration) -> Run | None:
        """None = it cannot start yet; its conditions say why."""
        try:
            ref = migration.spec.plan
            plan = Plan.read(await self._store.get(PLAN, ref.namespace or migration.namespace, ref.name))
        except NotFound as error:
            await self._say(migration, "PlanNotValid", Category.CRITICAL, str(error), "Correct spec.plan.")
            return None
        if migration.status.vms:  # a restart: what was begun goes on, whatever the plan's checks say now
            return Run(migration, plan, {vm.id: vm for vm in migration.status.vms})
        if migration.metadata.deletion_timestamp:
            await self._complete(Run(migration, plan, {}))
            return None
        if not Conditions(plan.status.conditions).ready or plan.status.observed_generation != plan.metadata.generation:
            text = f"plan {plan.name} is not ready"
            await self._say(migration, "PlanNotReady", Category.CRITICAL, text, "See the plan's conditions.")
            return None
        before = [
            one for one in await migrations_of(self._store, Key(plan.namespace, plan.name)) if not one.status.completed
        ]
        if before and before[0].uid != migration.uid:
            text = f"migration {before[0].name} of the same plan is under way"
            await self._say(migration, "Pending", Category.ADVISORY, text, "It starts when that one has ended.")
            return None
        return await self._begin(migration, plan)

    async def _begin(self, migration: Migration, plan: Plan) -> Run | None:
        try:
            leads = await route(self._store, self._providers, plan)
            settings = await settings_of(self._store)
            vms = [await self._status(migration, plan, entry, leads, settings) for entry in plan.spec.vms]
        except TranshipError as error:
            await self._say(migration, "PlanNotReady", Category.CRITICAL, str(error), error.suggestion)
            return None
        names = {vm.id: vm.name for vm in vms if not ended(vm, BOOK)}
        key, source = Key(plan.namespace, plan.name), plan.spec.provider.source
        found = await rivals(self._store, self._providers, key, source, names)
        if refused := objection(found, migration.metadata.creation_timestamp):
            await self._say(migration, *refused)
            return None
        if FINALIZER not in migration.metadata.finalizers:
            finalizers = [*migration.metadata.finalizers, FINALIZER]
            body = await self._store.patch(
                MIGRATION, migration.namespace, migration.name, {"metadata": {"finalizers": finalizers}}
            )
            migration = Migration.read(body)
        run = Run(migration, plan, {vm.id: vm for vm in vms})
        now = datetime.now(UTC)
        migration.status.started = now
        conditions = Conditions(migration.status.conditions)
        conditions.delete("PlanNotReady", "PlanNotValid", "Pending", "VMAlreadyMigrated")
        conditions.set(READY, Category.REQUIRED, now, message="the migration is ready", durable=True)
        conditions.set("Running", Category.ADVISORY, now, message="the migration runs", durable=True)
        plan.status.migration.history.append(_history(run, leads))
        await self._write(run)
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
        status = VMStatus(**entry.model_dump(), disks=disks, order=msgspec.to_builtins(made))
        status.id, status.name = vm.id, vm.name
        status.firmware, status.operating_system = vm.firmware, vm.guest_name
        itinerary = choose(plan.warm, {way.way for way in ways.values()})
        return begin(status, itinerary, datetime.now(UTC), WAITING)

    async def _direct(self, run: Run, migration: Migration) -> float | None:
        """Tell the walkers what the user wants now; start walkers as far as the limit allows."""
        run.migration.spec, run.migration.metadata = migration.spec, migration.metadata
        settings = await settings_of(self._store)
        run.plan.spec = Plan.read(await self._store.get(PLAN, run.plan.namespace, run.plan.name)).spec
        leads: Route | None = None
        for id, vm in run.vms.items():
            if ended(vm, BOOK):
                continue
            orders = _orders(run, vm, settings)
            walker = run.walkers.get(id)
            if walker is not None:
                self._reconnect(run.plan, walker)
                if walker.orders != orders:
                    walker.orders = orders
                    walker.wake.set()
            elif vm.phase != "Started" or orders.cancelled or self._busy() < settings.max_vm_inflight:
                leads = leads or await route(self._store, self._providers, run.plan)
                self._walk(run, vm, orders, leads)
        if run.finished:
            await self._complete(run)
            return None
        return 5.0

    def _reconnect(self, plan: Plan, walker: Walker) -> None:
        """The connections that are open now. One that is in trouble is left: its walker says so, and waits."""
        with contextlib.suppress(TranshipError):
            source = self._providers.get(plan.spec.provider.source, plan.namespace).source
            target = self._providers.get(plan.spec.provider.destination, plan.namespace).target
            if source is not None and target is not None and walker.effects.use(source, target):
                walker.wake.set()

    def _busy(self) -> int:
        return sum(
            not walker.pausing and not ended(walker.vm, BOOK)
            for run in self._runs.values()
            for walker in run.walkers.values()
        )

    # --- walking ---

    def _walk(self, run: Run, vm: VMStatus, orders: Orders, leads: Route) -> None:
        made = msgspec.convert(vm.order, MachineOrder)
        known = leads.source_estate.vms.get(vm.id) or VM(id=vm.id, name=vm.name)
        work = self._work / run.migration.uid / vm.id
        effects = Effects(leads.source, leads.target, known, made, work, verify=run.plan.spec.verify)

        async def save(status: VMStatus) -> None:
            run.vms[status.id] = status
            await self._write(run)

        walker = Walker(vm, orders, effects, save, poll=self._poll, boundary=self._boundary)
        run.walkers[vm.id] = walker
        task = asyncio.create_task(walker.walk(), name=f"walk {vm.name}")
        run.tasks[vm.id] = task
        task.add_done_callback(lambda done: self._walked(run, vm.id, done))

    def _walked(self, run: Run, id: str, task: asyncio.Task[None]) -> None:
        run.walkers.pop(id, None)
        run.tasks.pop(id, None)
        if not task.cancelled() and (error := task.exception()):
            log.error("walk broke off; it is taken up again", vm=run.vms[id].name, error=repr(error), exc_info=error)
        self._again(Key(run.migration.namespace, run.migration.name))

    async def _write(self, run: Run) -> None:
        """Make the run's present state durable. Callers that wait for the lock share one write."""
        run.wanted += 1
        mine = run.wanted
        async with run.lock:
            if run.written >= mine:
                return
            run.written = run.wanted
            vms = [to_json(vm) for vm in run.vms.values()]
            status = {**to_json(run.migration.status), "vms": vms}
            namespace = run.migration.namespace
            await self._store.patch(MIGRATION, namespace, run.migration.name, {"status": status}, subresource="status")
            copy = {**to_json(run.plan.status.migration), "vms": vms, "started": status.get("started")}
            copy["completed"] = status.get("completed")
            patch = {"status": {"migration": copy}}
            try:
                await self._store.patch(PLAN, run.plan.namespace, run.plan.name, patch, subresource="status")
            except NotFound:
                log.warning("the plan was deleted; the migration goes on", plan=run.plan.name)

    async def _complete(self, run: Run) -> None:
        """Every VM's walk has ended."""
        await self._forget(run)
        now, outcomes = datetime.now(UTC), [vm.outcome for vm in run.vms.values()]
        run.migration.status.completed = now
        conditions = Conditions(run.migration.status.conditions)
        conditions.delete("Running")
        conclude_run(outcomes, conditions, now)
        history = run.plan.status.migration.history
        if history:
            history[-1].conditions = list(conditions.list)
        await self._write(run)
        log.info("migration ended", migration=run.migration.name, outcomes=",".join(outcomes))
        await self._let_go(run.migration)

    async def _forget(self, run: Run) -> None:
        """Journals and reports are of no more use. Raises what keeps a cluster from being cleaned up: it is tried again."""
        work = self._work / run.migration.uid
        with contextlib.suppress(NotFound):  # the provider was removed
            target = self._providers.get(run.plan.spec.provider.destination, run.plan.namespace).target
            if target is not None:
                for vm in run.vms.values():
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


def _orders(run: Run, vm: VMStatus, settings: Settings) -> Orders:
    migration, spec = run.migration, run.plan.spec
    shutdown = spec.shutdown or ShutdownSpec()
    precopy = spec.precopy
    disks = {disk.id: disk.capacity for disk in vm.disks}
    policy = Policy(
        mark=f"tranship-{migration.uid[:8]}-{vm.id}",
        disks=disks,
        disk_names=tuple(disk.name for disk in vm.disks),
        machine=str(vm.order["name"]),
        interval=settings.precopy_seconds(precopy),
        target_downtime=precopy.target_downtime_seconds if precopy else None,
        enable_change_tracking=bool(precopy and precopy.enable_change_tracking),
        quiesce=bool(precopy and precopy.quiesce),
        shutdown_deadline=SHUTDOWN_DEADLINE if shutdown.deadline_seconds is None else shutdown.deadline_seconds,
        hard_power_off=shutdown.hard_power_off,
        removal_deadline=settings.snapshot_removal_timeout,
        power=spec.power_state(vm),
        delete_on_fail=spec.deletes_on_failure(vm),
    )
    return Orders(policy, migration.cutover_of(vm.id), migration.cancels(id=vm.id, name=vm.name))


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
