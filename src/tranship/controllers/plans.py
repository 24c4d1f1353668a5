"""Plans: can every VM be moved as the plan says? All causes as conditions, before anything is touched.

Also says by which way each disk will come, what a probe of the ways found, and how the plan's migrations stand. While a
migration runs the checks rest, and the plan costs nothing: the world that they would look at is the migration's doing. The
plan's status.migration belongs to the migration controller.
"""

import asyncio
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from tranship.controllers.access import not_ready
from tranship.controllers.manager import Watch, everything, wanted
from tranship.controllers.mirror import Key, Mirror, key_of
from tranship.controllers.providers import ProviderController
from tranship.controllers.resolve import Route, route, settings_of, ways_of
from tranship.controllers.rivals import findings, plan_key, rivals
from tranship.errors import Busy, NotFound, NotReady, NotUnique, TranshipError
from tranship.inventory.vm import VM
from tranship.migration.checks import Facts, Finding, check, orders, too_large
from tranship.migration.mapping import MachineOrder
from tranship.migration.progress import conclude_run
from tranship.providers.base import DiskWay, Library, Probe
from tranship.resources.conditions import READY, Category, Conditions
from tranship.resources.meta import HOST, MIGRATION, NETWORK_MAP, PLAN, STORAGE_MAP, Kind
from tranship.resources.migration import Migration
from tranship.resources.model import to_json
from tranship.resources.plan import Plan
from tranship.resources.unacted import blocking_unacted, unacted
from tranship.resources.vm import PlanVM
from tranship.store.base import Object, Store

RETRY = 5.0


class PlanController:
    name = "plan"

    def __init__(self, store: Store, mirror: Mirror, providers: ProviderController) -> None:
        self._store, self._mirror, self._providers = store, mirror, providers
        self._probes: dict[tuple[str, int, str], tuple[Probe, ...]] = {}  # (plan uid, generation, VM id)
        self._known: set[Key] = set()

    @property
    def watches(self) -> Mapping[Kind, Watch]:
        by_map = Watch(lambda obj: self.known, everything)
        return {
            PLAN: Watch(lambda obj: [key_of(obj)], lambda obj: (wanted(obj), _times(obj, "migration"))),
            MIGRATION: Watch(lambda obj: [plan_key(obj)], lambda obj: (obj["metadata"].get("uid"), _times(obj))),
            NETWORK_MAP: by_map,
            STORAGE_MAP: by_map,
            HOST: by_map,
        }

    @property
    def known(self) -> Iterable[Key]:
        """Those that are checked when the world changes."""
        return tuple(self._known)

    async def reconcile(self, key: Key) -> float | None:
        # The runs first: a plan that is read after its run has ended knows which of its VMs are moved, and must be left alone.
        runs = migrations_of(self._mirror, key)
        try:
            plan = Plan.read(await self._store.get(PLAN, *key))
        except NotFound:
            self._known.discard(key)
            return None
        conditions, now = Conditions(plan.status.conditions), datetime.now(UTC)
        executing = any(run.status.started and not run.status.completed for run in runs)
        if executing:
            self._known.discard(key)
            conditions.delete("Succeeded", "Failed", "Canceled", "Executing")
        else:
            self._known.add(key)
            conditions.begin_staging()
            await self._validate(plan, conditions, now)
            conditions.end_staging()
        _say_runs(plan, runs, conditions, now, executing=executing)
        told = [to_json(one) for one in conditions.list]
        status = {"conditions": told, "observedGeneration": plan.metadata.generation}
        await self._store.patch(PLAN, *key, {"status": status}, subresource="status")
        return None if conditions.ready or executing else RETRY

    async def _validate(self, plan: Plan, conditions: Conditions, now: datetime) -> None:
        if plan.spec.archived:
            conditions.set("Archived", Category.ADVISORY, now, reason="UserRequested", message="the plan is archived")
        self._say_unacted(plan, conditions, now)
        try:
            settings = settings_of(self._mirror)
            leads = await route(self._store, self._providers, plan)
        except Busy as error:
            conditions.set("ProviderNotReady", Category.ERROR, now, reason="Staging", message=str(error))
            return
        except NotReady as error:
            text, remedy = str(error), error.suggestion
            conditions.set(
                "ProviderNotReady", Category.CRITICAL, now, reason=error.reason, message=text, suggestion=remedy
            )
            return
        except TranshipError as error:
            text, remedy = str(error), error.suggestion
            conditions.set("NotValid", Category.CRITICAL, now, reason=error.reason, message=text, suggestion=remedy)
            return
        self._say_maps(leads, conditions, now)
        vms = self._vms(plan, leads, conditions, now)
        _say_guests(plan, [vm for _, vm in vms if not vm.native], conditions, now)
        ways, no_way = await self._ways(plan, leads, [vm for _, vm in vms])
        done = frozenset(one.id for one in plan.status.migration.vms if one.outcome == "succeeded")
        maps = leads.networks.spec, leads.storages.spec
        network = leads.transfer_network(plan, settings)
        facts = Facts(leads.source_estate, leads.target_estate, *maps, no_way, done, settings, network)
        _say_findings(check(plan, vms, facts), conditions, now)
        names = {vm.id: vm.name for _, vm in vms if vm.id not in done}
        key, source = Key(plan.namespace, plan.name), plan.spec.provider.source
        plans, runs, hosts = (self._mirror.objects(kind).values() for kind in (PLAN, MIGRATION, HOST))
        _say_findings(findings(rivals(plans, runs, self._providers, key, source, names)), conditions, now)
        origin = Key(source.namespace or plan.namespace, source.name)
        left = [vm for _, vm in vms if vm.id in names]
        _say_findings(not_ready(hosts, origin, left, leads.source_estate), conditions, now)
        if not conditions.blocking:
            _say_findings(too_large(orders(plan, vms, facts)), conditions, now)
            needed = {way.library for found in ways.values() for way in found if way.library}
            await self._check_target(leads, orders(plan, vms, facts), needed, conditions, now)
        _say_ways(ways, {vm.id: vm.name for _, vm in vms}, conditions, now)
        if not conditions.blocking:
            await self._probe(plan, leads, [vm for _, vm in vms if vm.id not in done], conditions, now)
            conditions.set(READY, Category.REQUIRED, now, message="the plan can be started")

    def _say_unacted(self, plan: Plan, conditions: Conditions, now: datetime) -> None:
        for field in blocking_unacted(plan):
            text = f"{field.path}: {field.why}"
            remedy = "Remove the field, if the VM can be moved without."
            conditions.set(
                "NotSupported",
                Category.CRITICAL,
                now,
                reason="NotSupported",
                message=text,
                suggestion=remedy,
                items=[field.path],
            )
        for field in unacted(plan):
            text = f"{field.path}: {field.why}"
            conditions.set(
                "FieldsNotActedOn", Category.ADVISORY, now, reason="NotSupported", message=text, items=[field.path]
            )

    def _say_maps(self, leads: Route, conditions: Conditions, now: datetime) -> None:
        for kind, one in (("Network", leads.networks), ("Storage", leads.storages)):
            if Conditions(one.status.conditions).blocking or not one.status.observed_generation:
                text = f"the {kind.lower()} map {one.name} is not ready"
                remedy = f"See the conditions of {kind}Map {one.name}."
                conditions.set(f"{kind}MapNotReady", Category.CRITICAL, now, message=text, suggestion=remedy)

    def _vms(self, plan: Plan, leads: Route, conditions: Conditions, now: datetime) -> list[tuple[PlanVM, VM]]:
        found = []
        for number, entry in enumerate(plan.spec.vms):
            field = f"spec.vms[{number}]"
            try:
                found.append((entry, leads.vm(entry)))
            except (NotFound, NotUnique) as error:
                type = "VMNotFound" if isinstance(error, NotFound) else "VMRefNotValid"
                reason = "NotFound" if isinstance(error, NotFound) else "NotUnique"
                text, remedy = f"{field}: {error}", error.suggestion
                conditions.set(
                    type, Category.CRITICAL, now, reason=reason, message=text, suggestion=remedy, items=[str(entry)]
                )
        if not plan.spec.vms:
            text = "the plan names no VM"
            conditions.set(
                "VMRefNotValid", Category.CRITICAL, now, reason="NotSet", message=text, suggestion="Fill spec.vms."
            )
        return found

    async def _ways(
        self, plan: Plan, leads: Route, vms: list[VM]
    ) -> tuple[dict[str, tuple[DiskWay, ...]], dict[str, tuple[str, str]]]:
        ways, no_way = {}, {}
        for vm in vms:
            try:
                ways[vm.id] = await ways_of(leads, vm, warm=plan.warm)
            except TranshipError as error:
                no_way[vm.id] = (f"{vm.name}: {error}", error.suggestion)
        return ways, no_way

    async def _check_target(
        self, leads: Route, wanted: list[MachineOrder], needed: set[Library], conditions: Conditions, now: datetime
    ) -> None:
        try:
            _say_findings(await asyncio.to_thread(leads.target.check, wanted, needed), conditions, now)
        except TranshipError as error:
            text, remedy = f"the target cannot be asked: {error}", error.suggestion
            conditions.set(
                "TargetNotChecked", Category.ERROR, now, reason=error.reason, message=text, suggestion=remedy
            )

    async def _probe(self, plan: Plan, leads: Route, vms: list[VM], conditions: Conditions, now: datetime) -> None:
        """Once per generation of the plan and VM: it reads real blocks."""
        for vm in vms:
            key = (plan.uid, plan.metadata.generation, vm.id)
            if key not in self._probes:
                self._probes[key] = await asyncio.to_thread(leads.source.probe, vm)
            for probe in self._probes[key]:
                word = {True: "works", False: "does not work", None: "cannot be tried now"}[probe.works]
                text = f"{vm.name}: {probe.way} {word}: {probe.detail}"
                conditions.set("WaysProbed", Category.ADVISORY, now, message=text, items=[text])


def migrations_of(mirror: Mirror, plan: Key) -> list[Migration]:
    """Oldest first; of their VMs no more than the mirror has."""
    runs = [Migration.read(obj) for obj in mirror.objects(MIGRATION).values() if plan_key(obj) == plan]
    return sorted(runs, key=lambda run: (run.metadata.creation_timestamp or datetime.now(UTC), run.name))


def _times(obj: Object, *path: str) -> tuple[str, str]:
    """When a run began and ended."""
    status = obj.get("status", {})
    for name in path:
        status = status.get(name, {})
    return status.get("started", ""), status.get("completed", "")


def _say_guests(plan: Plan, vms: list[VM], conditions: Conditions, now: datetime) -> None:
    """vms: those that ran on other hardware."""
    if not vms or (plan.spec.skip_guest_conversion and plan.spec.use_compatibility_mode):
        return
    text = "guests are moved as they are: tranship does not convert them yet, and gives them virtio devices"
    remedy = (
        "Where a guest has no virtio drivers set spec.skipGuestConversion, without useCompatibilityMode: false: it gets"
        " SATA, E1000E and USB devices."
    )
    items = [vm.name for vm in vms]
    conditions.set(
        *("GuestNotConverted", Category.WARN, now), reason="NotSupported", message=text, suggestion=remedy, items=items
    )


def _say_findings(findings: Iterable[Finding], conditions: Conditions, now: datetime) -> None:
    for finding in findings:
        items = [finding.item] if finding.item else []
        text, remedy = finding.message, finding.suggestion
        conditions.set(
            finding.type, finding.category, now, reason=finding.reason, message=text, suggestion=remedy, items=items
        )


def _say_ways(
    ways: Mapping[str, tuple[DiskWay, ...]], names: Mapping[str, str], conditions: Conditions, now: datetime
) -> None:
    items = [f"{names[id]}: disk {way.disk} by {way.way}: {way.why}" for id, found in ways.items() for way in found]
    if items:
        text = f"the way to the bytes of {len(items)} disks is chosen"
        conditions.set("DiskWays", Category.ADVISORY, now, message=text, items=items)


def _say_runs(plan: Plan, runs: list[Migration], conditions: Conditions, now: datetime, *, executing: bool) -> None:
    vms = plan.status.migration.vms
    if executing:
        conditions.set("Executing", Category.ADVISORY, now, reason="Started", message="a migration runs", durable=True)
        return
    conditions.delete("Executing")
    if not runs or not vms or not all(one.completed for one in vms):
        return
    conclude_run([one.outcome for one in vms], conditions, now)
