"""Slim copies of all objects of the kinds that controllers watch: one list and one watch for each kind, whoever looks.

Called by the manager, which tells controllers what changed, and by controllers that ask what there is. A watch that breaks, or
whose past the store has forgotten, begins with a new list, and what is not on it any more has been deleted: nobody else would
say so.

A copy may be behind, by as long as a watch is cut. It may be read to find out which objects there are, whom they refer to,
what wakes whom, what the installation's settings are, and who held what when this process began (only the controllers write
that, and one process of them acts at a time). It is never read where a power-off, a delete or a cutover follows: that object is
read from the store then and there.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Any, NamedTuple

import structlog

from tranship.errors import TranshipError
from tranship.resources.meta import MIGRATION, PLAN, SECRET, Kind
from tranship.store.base import INITIAL_EVENTS_END, EventType, Object, Store

log = structlog.get_logger()

SHORTEST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds between a watch that broke and the next list

Told = Callable[[Object | None, Object | None], None]
"""What an object was and what it is; None = not there."""


class Key(NamedTuple):
    namespace: str
    name: str


def key_of(obj: Object) -> Key:
    meta = obj["metadata"]
    return Key(meta.get("namespace", ""), meta["name"])


class Mirror:
    """Kinds are followed from before `run` on."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._objects: dict[Kind, dict[Key, Object]] = {}
        self._told: dict[Kind, list[Told]] = {}
        self._complete: dict[Kind, asyncio.Event] = {}

    def follow(self, kind: Kind, told: Told) -> None:
        """told: called for each change, and for each object at first."""
        self._objects.setdefault(kind, {})
        self._complete.setdefault(kind, asyncio.Event())
        self._told.setdefault(kind, []).append(told)

    def objects(self, kind: Kind) -> Mapping[Key, Object]:
        """Not to be altered."""
        return self._objects[kind]

    async def complete(self) -> None:
        """Until every kind has been listed once."""
        for event in self._complete.values():
            await event.wait()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for kind in self._objects:
                group.create_task(self._follow(kind), name=f"watch of {kind.plural}")

    async def _follow(self, kind: Kind) -> None:
        pause = SHORTEST_PAUSE
        while True:
            try:
                async with aclosing(self._store.watch(kind)) as events:
                    fresh: set[Key] | None = set()  # None = the list is told, changes come
                    async for event in events:
                        if event.type is EventType.BOOKMARK:
                            marks = event.object["metadata"].get("annotations") or {}
                            if fresh is not None and INITIAL_EVENTS_END in marks:
                                self._forget_all_but(kind, fresh)
                                self._complete[kind].set()
                                fresh, pause = None, SHORTEST_PAUSE
                            continue
                        key = key_of(event.object)
                        if fresh is not None:
                            fresh.add(key)
                        self._put(kind, key, None if event.type is EventType.DELETED else slim(kind, event.object))
            except TranshipError as error:
                log.warning("watch broke; listing again", kind=kind.plural, error=str(error))
            await asyncio.sleep(pause)  # a watch that ends at once must not spin
            pause = min(2 * pause, LONGEST_PAUSE)

    def _forget_all_but(self, kind: Kind, there: set[Key]) -> None:
        for key in [key for key in self._objects[kind] if key not in there]:
            self._put(kind, key, None)

    def _put(self, kind: Kind, key: Key, now: Object | None) -> None:
        known = self._objects[kind]
        was = known.pop(key, None)
        if now is not None:
            known[key] = now
        for told in self._told[kind]:
            told(was, now)


def slim(kind: Kind, obj: Object) -> Object:
    """Without a secret's content, and of the walks of VMs only where they are: at 2,000 VMs that is a MiB, not a hundred."""
    if kind == SECRET:
        return {key: value for key, value in obj.items() if key not in ("data", "stringData")}
    status = obj.get("status") or {}
    if kind == MIGRATION:
        return {**obj, "status": {**status, "vms": _places(status)}}
    if kind == PLAN:
        run = status.get("migration") or {}
        return {**obj, "status": {**status, "migration": {**_only(run, "started", "completed"), "vms": _places(run)}}}
    return obj


def _places(run: Object) -> list[Object]:
    return [_only(vm, "id", "phase", "itinerary", "cutover", "outcome", "completed") for vm in run.get("vms") or ()]


def _only(obj: Object, *names: str) -> dict[str, Any]:
    return {name: obj[name] for name in names if name in obj}
