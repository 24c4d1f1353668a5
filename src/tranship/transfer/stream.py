"""Copies a disk that comes as a stream, for the engine.

One thread receives and gathers the pieces of a leaf; a few workers decode them into a leaf buffer and settle it like any
other leaf. The queue between them is bounded, so a slow target slows the source down. Leaves that the journal names are
received, because a stream cannot skip, and thrown away. What no piece covers reads as zeros.
"""

import queue
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tranship.transfer.buffers import Buffer
from tranship.transfer.plan import LEAF, Action, Leaf, Op, leaf_length, runs
from tranship.transfer.readers.base import Piece

if TYPE_CHECKING:
    from tranship.transfer.engine import Engine

WORKERS = 2
QUEUED = 4  # leaves


class Feed:
    """The line of a stream."""

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        self._zeros = Action.SKIP if engine.sparse else Action.ZERO
        self._queue: queue.Queue[tuple[int, list[Piece]] | None] = queue.Queue(QUEUED)

    def start(self) -> list[threading.Thread]:
        """The receiver and the decoders, running."""
        guard = self._engine.guard
        works = [self._receive] + [self._decode] * WORKERS
        threads = [threading.Thread(target=guard, args=(work,), daemon=True) for work in works]
        for thread in threads:
            thread.start()
        return threads

    def abort(self) -> None:
        self._engine.reader.close()

    def close(self) -> None: ...

    def _receive(self) -> None:
        done = self._engine.journal.done
        index, pieces = -1, list[Piece]()
        for piece in self._engine.reader.stream():
            if piece.start // LEAF != index:
                self._hand_over(index, pieces)
                self._blank(index + 1, piece.start // LEAF)
                index, pieces = piece.start // LEAF, []
            if self._engine.stopping:
                return
            if index not in done:
                pieces.append(piece)
        self._hand_over(index, pieces)
        self._blank(index + 1, done.count)
        for _ in range(WORKERS):
            self._put(None)

    def _hand_over(self, index: int, pieces: list[Piece]) -> None:
        if pieces:
            self._put((index, pieces))

    def _put(self, item: tuple[int, list[Piece]] | None) -> None:
        while not self._engine.stopping:
            try:
                self._queue.put(item, timeout=0.2)
                break
            except queue.Full:
                continue

    def _blank(self, first: int, end: int) -> None:
        engine = self._engine
        for leaf in runs(self._zeros, first, end - first, engine.size, engine.journal.done):
            engine.settle_zeros(leaf)

    def _decode(self) -> None:
        buffer = self._engine.buffer()
        while not self._engine.stopping:
            try:
                item = self._queue.get(timeout=0.2)
            except queue.Empty:
                continue
            if item is None:
                return
            self._settle(*item, buffer)

    def _settle(self, index: int, pieces: list[Piece], buffer: Buffer) -> None:
        start = index * LEAF
        for piece in pieces:
            at = piece.start - start
            piece.decode(buffer.view[at : at + piece.length])
        length = leaf_length(index, self._engine.size)
        self._engine.settle(Leaf(index, start, length, tuple(self._operations(start, start + length, pieces))), buffer)

    def _operations(self, start: int, end: int, pieces: list[Piece]) -> Iterator[Op]:
        """Pieces that touch are one."""
        low = cursor = start
        for piece in pieces:
            if piece.start > cursor:
                if cursor > low:
                    yield Op(Action.COPY, low, cursor - low)
                yield Op(self._zeros, cursor, piece.start - cursor)
                low = piece.start
            cursor = piece.start + piece.length
        if cursor > low:
            yield Op(Action.COPY, low, cursor - low)
        if cursor < end:
            yield Op(self._zeros, cursor, end - cursor)
