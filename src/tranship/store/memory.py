"""The store that lives and dies with its process: for tests, and the body of the SQLite store.

Belongs to one event loop. Writers work on `head`; readers and watches see `seen`, which follows once the changes are
kept. In memory both are one table, as nothing has to be waited for.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from tranship.errors import Expired
from tranship.resources.meta import Kind
from tranship.store.base import INITIAL_EVENTS_END, Event, EventType, Listing, Object
from tranship.store.table import KEEP, Change, Keep, Log, Row, Table, Transaction, table_key

Clock = Callable[[], datetime]
Verb = Callable[[Transaction], Row]


def utc_now() -> datetime:
    return datetime.now(UTC)


class MemoryStore:
    """bookmarks: how often a quiet watch tells that it is up to date."""

    def __init__(
        self, *, keep: Keep = KEEP, bookmarks: timedelta = timedelta(minutes=1), clock: Clock = utc_now
    ) -> None:
        self._seen = Table()
        self._log = Log(0, keep)
        self._clock = clock
        self._bookmarks = bookmarks.total_seconds()
        self._news = asyncio.Event()  # set, and replaced, with each publication
        self._closed = False

    async def get(self, kind: Kind, namespace: str, name: str) -> Object:
        return self._seen.find(kind, namespace, name).object()

    async def list(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        labels: Mapping[str, str] | None = None,
        limit: int = 0,
        cont: str = "",
    ) -> Listing:
        return self._seen.page(kind, namespace, labels or {}, limit, cont, self._log.floor)

    async def watch(
        self, kind: Kind, namespace: str | None = None, *, since: str | None = None
    ) -> AsyncGenerator[Event, None]:
        told = position = self._seen.version if since is None else _number(since)
        if since is None:
            for row in self._seen.rows(kind, namespace):
                yield Event(EventType.ADDED, row.object())
            yield _bookmark(kind, position, {INITIAL_EVENTS_END: "true"})
        while not self._closed:
            news = self._news
            changes = self._log.after(position)
            position += len(changes)
            for change in changes:
                if change.row.table == table_key(kind) and namespace in (None, change.row.namespace):
                    told = change.row.version
                    yield Event(change.type, change.row.object())
            if not await _comes(news, self._bookmarks) and told < position:
                told = position
                yield _bookmark(kind, position, {})

    async def create(self, kind: Kind, obj: Object) -> Object:
        return await self._write(lambda transaction: transaction.create(kind, obj))

    async def replace(self, kind: Kind, obj: Object, *, subresource: str = "") -> Object:
        return await self._write(lambda transaction: transaction.replace(kind, obj, subresource=subresource))

    async def patch(
        self, kind: Kind, namespace: str, name: str, patch: Mapping[str, Any], *, subresource: str = ""
    ) -> Object:
        return await self._write(
            lambda transaction: transaction.patch(kind, namespace, name, patch, subresource=subresource)
        )

    async def delete(
        self, kind: Kind, namespace: str, name: str, *, uid: str = "", resource_version: str = ""
    ) -> Object:
        return await self._write(
            lambda transaction: transaction.delete(kind, namespace, name, uid=uid, resource_version=resource_version)
        )

    async def close(self) -> None:
        """Watches end."""
        self._closed = True
        self._news.set()

    async def _write(self, verb: Verb) -> Object:
        transaction = Transaction(self._seen, self._clock())
        row = verb(transaction)
        self._publish(transaction.changes)
        return row.object()

    def _publish(self, changes: Sequence[Change]) -> None:
        """Tell watches of changes that the table holds."""
        for change in changes:
            self._log.append(change)
        self._log.compact(self._clock().timestamp())
        self._news.set()
        self._news = asyncio.Event()


async def _comes(news: asyncio.Event, seconds: float) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            return await news.wait()
    return False


def _bookmark(kind: Kind, version: int, annotations: Mapping[str, str]) -> Event:
    meta: Object = {"resourceVersion": str(version)}
    if annotations:
        meta["annotations"] = dict(annotations)
    return Event(EventType.BOOKMARK, {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": meta})


def _number(since: str) -> int:
    try:
        return int(since)
    except ValueError:
        raise Expired(since=since) from None  # another store's: list again
