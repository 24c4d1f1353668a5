"""Runs controllers: what changed goes into keyed queues, one reconcile at a time per key, errors stay with their key.

Called by app.py. A controller says which kinds it watches, which keys a changed object concerns, and what of an object matters
to it; `reconcile` brings the world one step nearer to what the key's object wants and returns in how many seconds it wants to
look again (None = at the next change). Nothing is reconciled before all that is watched has been listed once.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import structlog

from tranship.controllers.mirror import Key, Mirror
from tranship.errors import TranshipError
from tranship.resources.meta import Kind
from tranship.store.base import Object

log = structlog.get_logger()

LONGEST_BACKOFF = 60.0


def wanted(obj: Object) -> Any:
    """What users ask for: anything but the status, which controllers write themselves."""
    meta = obj["metadata"]
    return meta.get("uid"), meta.get("generation"), meta.get("deletionTimestamp")


def everything(obj: Object) -> Any:
    return obj["metadata"].get("uid"), obj["metadata"].get("resourceVersion")


@dataclass(frozen=True, slots=True)
class Watch:
    """keys: whom an object concerns. matters: a change that leaves this as it was wakes nobody."""

    keys: Callable[[Object], Iterable[Key]]
    matters: Callable[[Object], Any] = wanted


class Controller(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def watches(self) -> Mapping[Kind, Watch]: ...

    async def reconcile(self, key: Key) -> float | None: ...


class Queue:
    """Keys that want a look. A key that is added while it is worked on is worked on once more afterwards."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._due: dict[Key, asyncio.TimerHandle | None] = {}
        self._ready: asyncio.Queue[Key] = asyncio.Queue()
        self._failures: dict[Key, int] = {}

    def add(self, key: Key, after: float = 0.0) -> None:
        timer = self._due.get(key)
        if key in self._due and (
            timer is None or (after > 0 and timer.when() <= asyncio.get_running_loop().time() + after)
        ):
            return
        if timer is not None:
            timer.cancel()
        if after > 0:
            self._due[key] = asyncio.get_running_loop().call_later(after, self._make_ready, key)
        else:
            self._make_ready(key)

    def _make_ready(self, key: Key) -> None:
        self._due[key] = None
        self._ready.put_nowait(key)

    async def work(self) -> None:
        """One worker: reconciles of one controller never overlap, so its objects need no locks."""
        while True:
            key = await self._ready.get()
            del self._due[key]
            try:
                again = await self._controller.reconcile(key)
                self._failures.pop(key, None)
            except TranshipError as error:
                again = self._backoff(key)
                log.warning("reconcile failed", controller=self._controller.name, key="/".join(key), error=str(error))
            except Exception:
                again = self._backoff(key)
                log.exception("reconcile failed", controller=self._controller.name, key="/".join(key))
            if again is not None:
                self.add(key, again)

    def _backoff(self, key: Key) -> float:
        self._failures[key] = self._failures.get(key, 0) + 1
        return float(min(0.5 * 2.0 ** min(self._failures[key], 10), LONGEST_BACKOFF))


class Manager:
    def __init__(self, mirror: Mirror, controllers: Sequence[Controller]) -> None:
        self._mirror = mirror
        self._queues = {controller.name: Queue(controller) for controller in controllers}
        for controller in controllers:
            for kind, watch in controller.watches.items():
                mirror.follow(kind, partial(_told, self._queues[controller.name], watch))

    def poke(self, controller: str, key: Key, after: float = 0.0) -> None:
        """Look at key soon: something outside of the store has changed."""
        self._queues[controller].add(key, after)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._mirror.run(), name="mirror")
            await self._mirror.complete()
            for name, queue in self._queues.items():
                group.create_task(queue.work(), name=f"{name} worker")


def _told(queue: Queue, watch: Watch, was: Object | None, now: Object | None) -> None:
    if was is not None and now is not None and watch.matters(was) == watch.matters(now):
        return
    concerned = {key for obj in (was, now) if obj is not None for key in watch.keys(obj)}
    for key in concerned:
        queue.add(key)
