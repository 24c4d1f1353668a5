"""One migration under way: what is known of it, and how that becomes durable.

The truth is Migration.status: one entry per VM. Plan.status.migration is a copy for those who look at plans, as upstream
has it.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec
import structlog

from tranship.controllers.mirror import Key
from tranship.controllers.walker import Orders, Walker
from tranship.errors import NotFound
from tranship.migration.book import BOOK
from tranship.migration.itinerary import ended
from tranship.migration.seen import Policy
from tranship.resources.controller import Settings
from tranship.resources.meta import MIGRATION, PLAN
from tranship.resources.migration import Migration
from tranship.resources.model import to_json
from tranship.resources.plan import Plan, ShutdownSpec
from tranship.resources.vm import VMStatus
from tranship.store.base import Object, Store

log = structlog.get_logger()

SHUTDOWN_DEADLINE = 600.0


@dataclass
class Run:
    """migration, plan: without their VMs' statuses, which are in vms. walkers, tasks: by VM. lock: one write at a time;
    writes that wait are one. _told: each VM as it was written last, so that one VM's step does not cost all of them."""

    migration: Migration
    plan: Plan
    vms: dict[str, VMStatus]
    walkers: dict[str, Walker] = field(default_factory=dict)
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    wanted: int = 0
    written: int = 0
    _told: dict[str, tuple[VMStatus, bytes]] = field(default_factory=dict)

    @classmethod
    def of(cls, migration: Migration, plan: Plan, vms: Iterable[VMStatus]) -> "Run":
        made = cls(migration, plan, {vm.id: vm for vm in vms})
        migration.status.vms, plan.status.migration.vms = [], []
        return made

    @property
    def key(self) -> Key:
        return Key(self.migration.namespace, self.migration.name)

    @property
    def plan_key(self) -> Key:
        return Key(self.plan.namespace, self.plan.name)

    @property
    def source_key(self) -> Key:
        ref = self.plan.spec.provider.source
        return Key(ref.namespace or self.plan.namespace, ref.name)

    @property
    def finished(self) -> bool:
        return all(ended(vm, BOOK) for vm in self.vms.values())

    async def read(self, store: Store) -> None:
        """What the user wants now. Raises NotFound when the migration is gone; without its plan it goes on as it began."""
        migration = Migration.read(without_status(await store.get(MIGRATION, *self.key)))
        self.migration.spec, self.migration.metadata = migration.spec, migration.metadata
        try:
            self.plan.spec = Plan.read(without_status(await store.get(PLAN, *self.plan_key))).spec
        except NotFound:
            log.warning("the plan was deleted; the migration goes on", plan=self.plan.name)

    async def write(self, store: Store) -> None:
        """Make the present state durable. Callers that wait for the lock share one write."""
        self.wanted += 1
        mine = self.wanted
        async with self.lock:
            if self.written >= mine:
                return
            self.written = self.wanted
            vms = [self._json(vm) for vm in self.vms.values()]
            status = {**to_json(self.migration.status), "vms": vms}
            await store.patch(MIGRATION, *self.key, {"status": status}, subresource="status")
            copy = {**to_json(self.plan.status.migration), "vms": vms, "started": status.get("started")}
            copy["completed"] = status.get("completed")
            try:
                await store.patch(PLAN, *self.plan_key, {"status": {"migration": copy}}, subresource="status")
            except NotFound:
                log.warning("the plan was deleted; the migration goes on", plan=self.plan.name)

    def _json(self, vm: VMStatus) -> Object:
        known = self._told.get(vm.id)
        if known is None or known[0] is not vm:
            known = self._told[vm.id] = vm, msgspec.json.encode(to_json(vm))
        return msgspec.json.decode(known[1])  # type: ignore[no-any-return]

    def orders(self, vm: VMStatus, settings: Settings) -> Orders:
        migration, spec = self.migration, self.plan.spec
        shutdown = spec.shutdown or ShutdownSpec()
        precopy = spec.precopy
        policy = Policy(
            mark=f"tranship-{migration.uid[:8]}-{vm.id}",
            disks={disk.id: disk.capacity for disk in vm.disks},
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
            inflight=settings.max_vm_inflight,
        )
        return Orders(policy, migration.cutover_of(vm.id), migration.cancels(id=vm.id, name=vm.name))


def without_status(obj: Object) -> Object:
    """A status of hundreds of VMs costs seconds to parse."""
    return {key: value for key, value in obj.items() if key != "status"}
