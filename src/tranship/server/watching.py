"""Watches over HTTP: events of the store as lines of JSON, until the client leaves, its time is up or the server stops.

Called by the endpoints of objects.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, suppress
from typing import Any

import msgspec

from tranship.errors import TranshipError
from tranship.server.answers import status_of
from tranship.server.selectors import Selector
from tranship.store.base import Event, EventType

Object = dict[str, Any]


async def lines(
    events: AsyncGenerator[Event, None],
    *,
    selector: Selector,
    bookmarks: bool,
    end_mark: bool,
    seconds: float | None,
    stopping: asyncio.Event,
    show: Callable[[Object], Object],
) -> AsyncIterator[bytes]:
    """bookmarks: whether the client knows them; end_mark: whether also the one that ends the initial state is marked as
    such. seconds: when to end, None = never. show: the form that the client asked for."""
    view = _View(selector)
    try:
        async for event in _until(events, seconds, stopping):
            if event.type is EventType.BOOKMARK:
                if bookmarks:
                    yield _line(event.type.value, event.object if end_mark else _unmarked(event.object))
            elif (type := view.type_for(event)) is not None:
                yield _line(type.value, show(event.object))
    except TranshipError as error:
        yield _line("ERROR", status_of(error))


class _View:
    """What the client sees through its selector: an object that stops fitting is DELETED for it, one that begins to fit
    is ADDED. Whether it knew an object from before the watch cannot be told here; then DELETED is sent to be sure."""

    def __init__(self, selector: Selector) -> None:
        self._selector = selector
        self._outside: set[str] = set()  # uids that the client is known not to have

    def type_for(self, event: Event) -> EventType | None:
        uid = event.object["metadata"]["uid"]
        unknown = uid in self._outside
        if event.type is EventType.DELETED:
            self._outside.discard(uid)
            return None if unknown else event.type
        if self._selector.fits(event.object):
            self._outside.discard(uid)
            return EventType.ADDED if unknown else event.type
        self._outside.add(uid)
        return None if unknown or event.type is EventType.ADDED else EventType.DELETED


async def _until(
    events: AsyncGenerator[Event, None], seconds: float | None, stopping: asyncio.Event
) -> AsyncGenerator[Event, None]:
    end = None if seconds is None else asyncio.get_running_loop().time() + seconds
    halt = asyncio.create_task(stopping.wait())
    step: asyncio.Task[Event | None] | None = None
    async with aclosing(events):
        try:
            while not stopping.is_set():
                step = asyncio.create_task(_next(events))
                left = None if end is None else max(0.0, end - asyncio.get_running_loop().time())
                await asyncio.wait({step, halt}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if not step.done() or (event := step.result()) is None:
                    return
                yield event
        finally:
            await _cancel(halt)
            await _cancel(step)  # before the events are closed: a running generator cannot be


async def _next(events: AsyncGenerator[Event, None]) -> Event | None:
    return await anext(events, None)


async def _cancel(task: asyncio.Task[Any] | None) -> None:
    if task is not None and not task.done():
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _unmarked(bookmark: Object) -> Object:
    return bookmark | {"metadata": {"resourceVersion": bookmark["metadata"]["resourceVersion"]}}


def _line(type: str, obj: Object) -> bytes:
    return msgspec.json.encode({"type": type, "object": obj}) + b"\n"
