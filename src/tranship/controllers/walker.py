"""Walks one VM: look, step, save, ask. Pure decisions are migration's; here is only the order of things.

The order is what makes it safe: the status is saved before anything is asked, and one ask is carried out at a time, so that a
controller that dies anywhere leaves a world from which the next look goes on. `boundary` is called at each such place; tests
die there.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from tranship.controllers.effects import Effects
from tranship.errors import NotFound, TranshipError
from tranship.inventory.vm import Power
from tranship.migration.asks import Ask
from tranship.migration.book import BOOK
from tranship.migration.itinerary import Advance, Do, Fail, Verdict, Wait, ended, step
from tranship.migration.phases import current_round
from tranship.migration.progress import conclude, project
from tranship.migration.seen import CopyState, Policy, Seen, SourceSeen, TargetSeen
from tranship.resources.vm import VMStatus

log = structlog.get_logger()

LONGEST_NAP = 30.0  # seconds between looks at a VM that pauses; commands wake it at once
LONGEST_BACKOFF = 60.0


@dataclass
class Orders:
    """What the user wants of this VM now. The migration controller writes it, the walker reads it at every look."""

    policy: Policy
    cutover: datetime | None = None
    cancelled: bool = False


@dataclass
class Walker:
    """vm: the saved status. save: makes a status durable, or raises. poll: seconds between looks at what moves."""

    vm: VMStatus
    orders: Orders
    effects: Effects
    save: Callable[[VMStatus], Awaitable[None]]
    poll: float = 1.0
    boundary: Callable[[str], None] = lambda where: None
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    _failed: dict[str, TranshipError] = field(default_factory=dict)
    _asked: dict[tuple[str, str], float] = field(default_factory=dict)  # (phase, ask) -> monotonic time
    _blind: int = 0  # looks in a row that failed

    async def walk(self) -> None:
        """Until the itinerary's end."""
        while not ended(self.vm, BOOK):
            self.wake.clear()
            delay = await self._pass()
            try:
                await asyncio.wait_for(self.wake.wait(), delay)
            except TimeoutError:
                continue

    @property
    def pausing(self) -> bool:
        return self.vm.phase == "CopyingPaused"

    async def _pass(self) -> float:
        try:
            seen = await self._look()
            self._blind = 0
        except TranshipError as error:
            return await self._cannot_see(error)
        vm, verdict = step(self.vm, seen, BOOK)
        vm.pipeline = project(vm, seen, BOOK)
        if ended(vm, BOOK):
            conclude(vm, seen)
        self._tell(vm, verdict)
        if vm != self.vm:
            self.boundary(f"before save {vm.phase}")
            await self.save(vm)
            self.vm = vm
            self.boundary(f"after save {vm.phase}")
        if isinstance(verdict, Do):
            for ask in verdict.asks:
                await self._ask(ask, verdict.again)
            return 0.0 if not self._failed and verdict.again == 0.0 else self.poll
        if isinstance(verdict, Advance | Fail):
            return 0.0
        return self._nap(verdict, seen)

    def _nap(self, verdict: Wait, seen: Seen) -> float:
        if verdict.until is None and not self.pausing:
            return self.poll
        left = (verdict.until - seen.now).total_seconds() if verdict.until else LONGEST_NAP
        if self.orders.cutover and self.pausing:
            left = min(left, max((self.orders.cutover - seen.now).total_seconds(), 0.0))
        return min(max(left, 0.0) + 0.01, LONGEST_NAP)

    async def _look(self) -> Seen:
        failed, self._failed = self._failed, {}
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
        return Seen(
            now=datetime.now(UTC),
            policy=self.orders.policy,
            source=source,
            target=target,
            copies=copies,
            failed=failed,
            cutover=self.orders.cutover,
            cancelled=self.orders.cancelled,
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
            self.vm = blind
        return float(min(self.orders.policy.backoff * 2.0 ** min(self._blind - 1, 10), LONGEST_BACKOFF))

    async def _ask(self, ask: Ask, again: float) -> None:
        asked, now = (self.vm.phase, ask.key), time.monotonic()
        if again and now - self._asked.get(asked, -again) < again:
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
