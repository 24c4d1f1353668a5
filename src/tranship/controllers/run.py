"""One migration under way: what is known of it, and how that becomes durable.

The truth is Migration.status: one entry per VM. Plan.status.migration is a copy for those who look at plans, as upstream
has it.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec
import structlog

from tranship.controllers.mirror import Key
from tranship.controllers.walker import Orders, Walker
from tranship.errors import NotFound
from tranship.migration.book import BOOK
from tranship.migration.itinerary import ended
from tranship.migration.seen import Policy
from tranship.migration.story import shorten
from tranship.resources.controller import Settings
from tranship.resources.meta import MIGRATION, PLAN
from tranship.resources.migration import Migration
from tranship.resources.model import to_json
from tranship.resources.plan import Plan, ShutdownSpec
from tranship.resources.vm import VMStatus
from tranship.store.base import Object, Store

log = structlog.get_logger()

SHUTDOWN_DEADLINE = 600.0
ROOM = 1 << 20  # bytes for all VMs of an object: etcd refuses one of 1.5 MiB


@dataclass
class Run:
    """migration, plan: without their VMs' statuses. walkers, tasks: by VM. open: ids of the VMs whose walks have not ended.
    lock: one write at a time; writes that wait are one. _vms: each as the JSON that is written: one VM's step does not cost
    all the others, and thousands that pause fit into memory."""

    migration: Migration
    plan: Plan
    walkers: dict[str, Walker] = field(default_factory=dict)
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    open: set[str] = field(default_factory=set)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    wanted: int = 0
    written: int = 0
    _vms: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, migration: Migration, plan: Plan, vms: Sequence[VMStatus]) -> "Run":
        plan.status.migration.vms = []
        made = cls(migration, plan)
        for vm in vms:
            made._put(vm, ROOM // len(vms))
        return made

    @classmethod
    def saved(cls, migration: Migration, plan: Plan, vms: Sequence[Object]) -> "Run":
        """As it was written. Nothing is parsed before it is needed: after a restart thousands are taken up at once."""
        made = cls(migration, plan)
        for vm in vms:
            made._vms[vm["id"]] = msgspec.json.encode(vm)
            if not ended(VMStatus(itinerary=vm.get("itinerary", ""), phase=vm.get("phase", "")), BOOK):
                made.open.add(vm["id"])
        return made

    @property
    def vms(self) -> Iterator[VMStatus]:
        return (self.vm(id) for id in self._vms)

    def vm(self, id: str) -> VMStatus:
        """Whoever gets it may alter it: it is read anew each time."""
        return VMStatus.model_validate(msgspec.json.decode(self._vms[id]), by_alias=True, by_name=False)

    def _put(self, vm: VMStatus, room: int) -> None:
        self._vms[vm.id] = msgspec.json.encode(shorten(to_json(vm), room))
        (self.open.discard if ended(vm, BOOK) else self.open.add)(vm.id)

    async def save(self, vm: VMStatus, store: Store) -> None:
        """Raises what keeps it from being durable; it is as before then, so nobody builds on what is not saved."""
        before = self.vm(vm.id)
        room = ROOM // len(self._vms)
        self._put(vm, room)
        try:
            await self.write(store)
        except BaseException:
            self._put(before, room)
            raise

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
            now = self.wanted
            vms = [msgspec.json.decode(vm) for vm in self._vms.values()]
            status = {**to_json(self.migration.status), "vms": vms}
            await store.patch(MIGRATION, *self.key, {"status": status}, subresource="status")
            self.written = now
            copy = {**to_json(self.plan.status.migration), "vms": vms, "started": status.get("started")}
            copy["completed"] = status.get("completed")
            try:
                await store.patch(PLAN, *self.plan_key, {"status": {"migration": copy}}, subresource="status")
            except NotFound:
                log.warning("the plan was deleted; the migration goes on", plan=self.plan.name)

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
