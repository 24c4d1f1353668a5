"""Walks one VM: look, step, save, ask. Pure decisions are migration's; here is only the order of things.

The order is what makes it safe: the status is saved before anything is asked, and one ask is carried out at a time, so that a
controller that dies anywhere leaves a world from which the next look goes on. `boundary` is called at each such place; tests
die there.

A VM that pauses costs nothing: nobody looks at its source, target and movers, and its walker sleeps until the next precopy or
the cutover is due, or until its orders change. Whatever happened to the VM meanwhile is seen at the first look of the next
round, before anything is done to it.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Protocol

import structlog

from tranship.controllers.effects import Effects
from tranship.errors import NotFound, TranshipError
from tranship.inventory.vm import Power
from tranship.migration.asks import GRAVE, Ask
from tranship.migration.book import BOOK
from tranship.migration.budget import Use, holds, wants
from tranship.migration.itinerary import Advance, Do, Fail, Row, Verdict, Wait, ended, step
from tranship.migration.phases import current_round
from tranship.migration.progress import conclude, project, queue
from tranship.migration.seen import CopySeen, CopyState, Policy, Seen, SourceSeen, TargetSeen
from tranship.resources.vm import VMStatus

log = structlog.get_logger()

CLOCK = 60.0  # seconds after which a sleeper looks at the clock, which somebody may have set
LONGEST_BACKOFF = 60.0


@dataclass
class Orders:
    """What the user wants of this VM now. The migration controller writes it, the walker reads it at every look."""

    policy: Policy
    cutover: datetime | None = None
    cancelled: bool = False


class Slots(Protocol):
    """The budget, for one VM."""

    def ask(self, use: Use, since: datetime) -> bool:
        """False = not now; the walker will be woken."""

    def release(self) -> None: ...


@dataclass
class Walker:
    """load: gives the saved status. save: makes a status durable, or raises. refresh: reads what the user wants now, writes
    it into orders, and says whether that is news. poll: seconds between looks at what moves."""

    load: Callable[[], VMStatus]
    orders: Orders
    effects: Effects
    save: Callable[[VMStatus], Awaitable[None]]
    refresh: Callable[[], Awaitable[bool]]
    slots: Slots
    poll: float = 1.0
    boundary: Callable[[str], None] = lambda where: None
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    _failed: dict[str, TranshipError] = field(default_factory=dict)
    _asked: dict[tuple[str, str], float] = field(default_factory=dict)  # (phase, ask) -> monotonic time
    _blind: int = 0  # looks in a row that failed
    _vm: VMStatus | None = None

    @property
    def vm(self) -> VMStatus:
        """As it is saved."""
        if self._vm is None:
            self._vm = self.load()
        return self._vm

    def heed(self, orders: Orders) -> bool:
        """Whether they are news."""
        if orders == self.orders:
            return False
        self.orders = orders
        self.wake.set()
        return True

    async def walk(self) -> None:
        """Until the itinerary's end."""
        while not ended(self.vm, BOOK):
            self.wake.clear()
            await self._sleep(await self._pass())
        self.slots.release()

    async def _sleep(self, seconds: float) -> None:
        """Until somebody wakes it, or the wall clock says that it is time."""
        until = time.time() + seconds
        await asyncio.sleep(0)
        if seconds > CLOCK:
            self._vm = None  # a whole status takes 60 KiB
        while not self.wake.is_set() and (left := until - time.time()) > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.wake.wait(), min(left, CLOCK))

    async def _pass(self) -> float:
        try:
            seen = await self._look()
            self._blind = 0
            vm, verdict = self._step(seen)
            if isinstance(verdict, Advance) and self._row.slot and await self.refresh():
                return 0.0  # decided by what is wanted no more
        except TranshipError as error:
            return await self._cannot_see(error)
        vm.pipeline = project(vm, seen, BOOK)
        queue(vm, verdict, seen.now)
        if ended(vm, BOOK):
            conclude(vm, seen)
        self._tell(vm, verdict)
        if vm != self.vm:
            self.boundary(f"before save {vm.phase}")
            await self.save(vm)
            self._vm = vm
            self.boundary(f"after save {vm.phase}")
        if not holds(vm, BOOK) and not (isinstance(verdict, Wait) and verdict.slot):
            self.slots.release()
        if isinstance(verdict, Do):
            for ask in verdict.asks:
                await self._ask(ask, verdict.again)
            return 0.0 if not self._failed and verdict.again == 0.0 else self.poll
        if isinstance(verdict, Advance | Fail):
            return 0.0
        return self._nap(verdict, seen)

    def _step(self, seen: Seen) -> tuple[VMStatus, Verdict]:
        vm, verdict = step(self.vm, seen, BOOK)
        if isinstance(verdict, Wait) and verdict.slot and self.slots.ask(*wants(self.vm, seen, BOOK)):
            vm, verdict = step(self.vm, replace(seen, slot=True), BOOK)
        return vm, verdict

    @property
    def _row(self) -> Row:
        return BOOK[self.vm.itinerary].row(self.vm.phase)

    def _nap(self, verdict: Wait, seen: Seen) -> float:
        if not (verdict.slot or verdict.until or self._row.blind):
            return self.poll
        ahead = [when for when in (verdict.until, seen.cutover) if when and when > seen.now]
        return min(((when - seen.now).total_seconds() + 0.01 for when in ahead), default=math.inf)

    async def _look(self) -> Seen:
        failed, self._failed = self._failed, {}
        if self._row.blind:
            return self._seen(failed, SourceSeen(Power.UNKNOWN))
        effects = self.effects
        try:
            source = await asyncio.to_thread(effects.source_seen)
        except NotFound as error:
            # nothing of the source can be seen any more; the itineraries must still come to an end
            source, failed = SourceSeen(Power.UNKNOWN), {**failed, "look": error}
        target: TargetSeen = await asyncio.to_thread(effects.target_seen)
        copies = await asyncio.to_thread(effects.copies_seen, current_round(self.vm))
        if any(one.state is CopyState.RUNNING for one in copies.values()):
            await asyncio.to_thread(effects.keep_alive, current_round(self.vm))
        return self._seen(failed, source, target, copies)

    def _seen(
        self,
        failed: Mapping[str, TranshipError],
        source: SourceSeen,
        target: TargetSeen | None = None,
        copies: Mapping[str, CopySeen] | None = None,
    ) -> Seen:
        return Seen(
            now=datetime.now(UTC),
            policy=self.orders.policy,
            source=source,
            target=target or TargetSeen(),
            copies=copies or {},
            failed=failed,
            cutover=self.orders.cutover,
            cancelled=self.orders.cancelled,
            slot=False,
        )

    async def _cannot_see(self, error: TranshipError) -> float:
        """Without facts nothing is decided: wait, and say so."""
        self._blind += 1
        why = f"waiting: {error}"
        if self.vm.why != why:
            log.warning("cannot look", vm=self.vm.name, phase=self.vm.phase, error=str(error))
            blind = self.vm.model_copy(deep=True)
            blind.why = why
            await self.save(blind)
            self._vm = blind
        return float(min(self.orders.policy.backoff * 2.0 ** min(self._blind - 1, 10), LONGEST_BACKOFF))

    async def _ask(self, ask: Ask, again: float) -> None:
        asked, now = (self.vm.phase, ask.key), time.monotonic()
        if again and now - self._asked.get(asked, -again) < again:
            return
        if isinstance(ask, GRAVE) and await self._thinks_better():
            return
        self._asked[asked] = now
        self.boundary(f"before {ask.key}")
        try:
            await _to_its_end(asyncio.to_thread(self.effects.carry_out, ask))
        except TranshipError as error:
            log.warning("ask failed", vm=self.vm.name, phase=self.vm.phase, ask=ask.key, error=str(error))
            self._failed[ask.key] = error
            self._asked.pop(asked)
        self.boundary(f"after {ask.key}")

    async def _thinks_better(self) -> bool:
        """Whether the user wants something else meanwhile, or cannot be asked: then the next look decides."""
        try:
            return await self.refresh()
        except TranshipError as error:
            log.warning("cannot read what is wanted", vm=self.vm.name, phase=self.vm.phase, error=str(error))
            return True

    def _tell(self, vm: VMStatus, verdict: Verdict) -> None:
        if isinstance(verdict, Fail):
            log.warning("failed", vm=vm.name, phase=self.vm.phase, error=str(verdict.error))
        if vm.phase != self.vm.phase:
            log.info("phase", vm=vm.name, phase=vm.phase, why=vm.why)


async def _to_its_end(effect: Coroutine[None, None, None]) -> None:
    """A thread does not end when its walk is cancelled. It is waited for: nobody else may act before it is done."""
    task = asyncio.ensure_future(effect)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise
