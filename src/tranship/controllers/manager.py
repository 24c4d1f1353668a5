"""Runs controllers: watches feed keyed queues, one reconcile at a time per key, errors stay with their key.

Called by app.py. A controller says which kinds it watches and which keys a changed object concerns; `reconcile` brings the
world one step nearer to what the key's object wants and returns in how many seconds it wants to look again (None = at the
next change).
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, Protocol

import structlog

from tranship.errors import TranshipError
from tranship.resources.meta import Kind
from tranship.store.base import EventType, Object, Store

log = structlog.get_logger()

LONGEST_BACKOFF = 60.0


class Key(NamedTuple):
    namespace: str
    name: str


def key_of(obj: Object) -> Key:
    meta = obj["metadata"]
    return Key(meta.get("namespace", ""), meta["name"])


class Controller(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def watches(self) -> Mapping[Kind, Callable[[Object], Iterable[Key]]]: ...

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
        return float(min(0.5 * 2.0 ** self._failures[key], LONGEST_BACKOFF))


class Manager:
    def __init__(self, store: Store, controllers: Iterable[Controller]) -> None:
        self._store = store
        self._queues = {controller.name: Queue(controller) for controller in controllers}
        self._controllers = {controller.name: controller for controller in controllers}

    def poke(self, controller: str, key: Key, after: float = 0.0) -> None:
        """Look at key soon: something outside of the store has changed."""
        self._queues[controller].add(key, after)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for name, controller in self._controllers.items():
                group.create_task(self._queues[name].work(), name=f"{name} worker")
                for kind, keys in controller.watches.items():
                    group.create_task(self._feed(self._queues[name], kind, keys), name=f"{name} watches {kind}")

    async def _feed(self, queue: Queue, kind: Kind, keys: Callable[[Object], Iterable[Key]]) -> None:
        while True:
            try:
                async for event in self._store.watch(kind):
                    if event.type is not EventType.BOOKMARK:
                        for key in keys(event.object):
                            queue.add(key)
            except TranshipError as error:
                log.warning("watch broke; listing again", kind=kind.plural, error=str(error))
            await asyncio.sleep(0.5)  # a watch that ends at once must not spin
