"""Carries out a plan: reads, hashes, writes, and keeps the order that makes a copy resumable.

Theory of operation. The supervisor (the caller's thread) opens channels and starts one worker thread for each. A worker
takes leaves from the shared plan, keeps the requests of several leaves in flight on its channel, and settles each leaf whose
last request came in: find zeros, digest, write, note the digest. So while it hashes and writes one leaf, the wire fills
the next. A stream has one feeder thread instead, and the workers decode. Every second or 256 MiB the supervisor
commits: flush the target, flush the digests, then name the leaves in the journal.

Invariants:
- a leaf is named in the journal only after its data and its digest are durable;
- a leaf of a delta is built on what the target holds only if that has the digest of the last round; otherwise the whole leaf
  is read from the source again;
- memory is bounded by the buffers, which are made once; the payload is never copied;
- the first error stops everything; all errors are told.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

from tranship.errors import Side, TranshipError
from tranship.transfer.address import Extent
from tranship.transfer.buffers import Buffer
from tranship.transfer.digest import Leaves
from tranship.transfer.extents import align
from tranship.transfer.journal import Journal
from tranship.transfer.plan import LEAF, Action, Leaf, Op, plan
from tranship.transfer.readers.base import Channel, Reader
from tranship.transfer.stats import Stats
from tranship.transfer.stream import Feed
from tranship.transfer.writers.base import Writer


@dataclass(frozen=True, slots=True)
class Limits:
    """connections and depth (leaves in flight on each): 0 = by the measured latency. memory: bytes of buffers, all
    together. wait: seconds that threads get to end after a stop."""

    connections: int = 0
    depth: int = 0
    memory: int = 96 << 20
    commit_seconds: float = 1.0
    commit_bytes: int = 256 << 20
    wait: float = 5.0


class Stopped(Exception):
    """The copy was asked to stop, and what is finished is in the journal."""


class Line(Protocol):
    """What the source's bytes come through, as far as ending it goes."""

    def abort(self) -> None: ...

    def close(self) -> None: ...


@dataclass(slots=True)
class Flight:
    """A leaf whose requests are under way. missing: how many of them."""

    leaf: Leaf
    buffer: Buffer
    missing: int = 0
    whole: bool = False  # read whole from the source, because the target did not hold the last round


def pace(latency: float, reader: Reader, limits: Limits) -> tuple[int, int]:
    """(channels, leaves in flight on each). Aims at 1 GB/s: near sources need two channels with two leaves, one with 20 ms
    needs four with a dozen requests each. Measured: more than that did not help near, less cost half of it far."""
    channels = limits.connections or (2 if latency < 0.002 else 4)
    if reader.request_size >= LEAF and not limits.connections:
        channels = max(channels, 4)  # one request at a time on each
    channels = max(1, min(channels, reader.max_connections, limits.memory // LEAF // 2))
    depth = limits.depth or 2 + int(latency * 1e9 / channels / LEAF)
    return channels, max(1, min(depth, limits.memory // LEAF // channels))


class Engine:
    """One run of one round of one disk. `run` blocks; `stop` may be called from anywhere, a signal handler too."""

    def __init__(
        self,
        reader: Reader,
        writer: Writer,
        journal: Journal,
        leaves: Leaves,
        *,
        disk: str,
        size: int,
        changed: Callable[[], Iterable[Extent]] | None = None,
        fresh: bool = False,
        stats: Stats | None = None,
        limits: Limits | None = None,
        prove: Callable[[list[tuple[int, int]]], None] | None = None,
    ) -> None:
        """prove: reads finished leaves back before the journal names them, or raises."""
        self.reader, self.writer, self.journal, self.leaves = reader, writer, journal, leaves
        self.disk, self.size, self.fresh = disk, size, fresh
        self.stats, self.limits = stats or Stats(), limits or Limits()
        self._changed, self._prove = changed, prove
        self.sparse = fresh and changed is None  # zeros that are found need no writing
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._finished: list[tuple[int, int]] = []
        self._finished_bytes = 0
        self._errors: list[BaseException] = []
        self._aborted = False
        self._lines: list[Line] = []
        self._buffers: list[Buffer] = []
        self._plan: Iterator[Leaf] = iter(())

    def run(self) -> None:
        """Copy everything that is not in the journal. Raises the first error with the others as notes, or Stopped."""
        started = time.monotonic()
        workers: list[threading.Thread] = []
        try:
            workers = self._start()
            self._supervise(workers, started)
        except BaseException as error:
            self._fail(error)
        finally:
            self._abort(workers)
            self.stats.seconds = time.monotonic() - started
        self._last_commit()
        self._close(workers)
        if self._errors:
            for other in self._errors[1:]:
                self._errors[0].add_note(f"also: {other}")
            raise self._errors[0]
        if self._stop.is_set():
            raise Stopped

    def stop(self) -> None:
        self._stop.set()
        self._wake.set()

    # -- the supervisor ---------------------------------------------------------------------------------------------

    def _start(self) -> list[threading.Thread]:
        self.stats.total = self.size
        if self._changed is not None:
            lengths = [area.length for area in self._areas()]
            self.stats.total, self.stats.areas = sum(lengths), len(lengths)
        self.stats.done = self.journal.bytes
        if not self.reader.random_access:
            feed = Feed(self)
            self._lines = [feed]
            return feed.start()
        channels = [self._open()]
        count, depth = pace(self._latency(channels[0]), self.reader, self.limits)
        channels += [self._open() for _ in range(count - 1)]
        self._plan = plan(
            self.size,
            self._extents(),
            None if self._changed is None else self._areas(),
            fresh=self.fresh,
            done=self.journal.done,
        )
        workers = [
            threading.Thread(target=self.guard, args=(self._copy, channel, depth), name=f"copy-{n}", daemon=True)
            for n, channel in enumerate(channels)
        ]
        for worker in workers:
            worker.start()
        return workers

    def _open(self) -> Channel:
        channel = self.reader.open_channel()
        self._lines.append(channel)
        return channel

    def _latency(self, channel: Channel) -> float:
        """Seconds of the quickest of three small reads."""
        block, best = max(self.reader.block_size, 4096), 1.0
        with Buffer(max(block, 4096)) as buffer:
            for at in range(3):
                offset = self.size * at // 3 // block * block
                began = time.monotonic()
                channel.submit(offset, buffer.view[: min(block, self.size - offset)], 0)
                channel.finish()
                best = min(best, time.monotonic() - began)
        return best

    def _areas(self) -> Iterator[Extent]:
        assert self._changed is not None
        return align(self._changed(), self.reader.block_size, self.size)

    def _extents(self) -> Iterator[Extent] | None:
        if self._changed is None:
            return self.reader.extents(0, self.size)
        if not self.reader.cheap_extents:
            return None
        return chain.from_iterable(self.reader.extents(area.start, area.length) for area in self._areas())

    def _supervise(self, workers: list[threading.Thread], started: float) -> None:
        committed = time.monotonic()
        while any(worker.is_alive() for worker in workers) and not self._stop.is_set():
            self._wake.wait(0.1 if self.limits.commit_seconds > 0.1 else self.limits.commit_seconds)
            self._wake.clear()
            now = time.monotonic()
            self.stats.seconds = now - started
            if now - committed >= self.limits.commit_seconds or self._finished_bytes >= self.limits.commit_bytes:
                self._commit()
                committed = time.monotonic()

    def _commit(self) -> None:
        with self._lock:
            ranges, changed = self._finished, self._finished_bytes
            self._finished, self._finished_bytes = [], 0
        if ranges:
            self.writer.flush()
            self.leaves.flush()
            if self._prove is not None:
                self._prove(sorted(ranges))
            self.journal.add(ranges, changed)

    def _last_commit(self) -> None:
        """What is finished is kept, also after a stop or a failure of the source. Not after one of the target: a flush
        that failed once may report success the next time, with the data lost."""
        if all(isinstance(error, TranshipError) and error.side is Side.SOURCE for error in self._errors):
            try:
                self._commit()
            except TranshipError as error:
                self._errors.append(error)

    def _abort(self, workers: list[threading.Thread]) -> None:
        """Have every worker end: at once when something is wrong."""
        if self._stop.is_set():
            self._aborted = True
            for line in self._lines:
                line.abort()
        deadline = time.monotonic() + self.limits.wait
        for worker in workers:
            worker.join(max(0.0, deadline - time.monotonic()) if self._stop.is_set() else None)

    def _close(self, workers: list[threading.Thread]) -> None:
        """A worker that does not end may still use its channel and buffers: those are left to the end of the process."""
        if not any(worker.is_alive() for worker in workers):
            for line in self._lines:
                line.close()
            for buffer in self._buffers:
                buffer.close()

    def guard(self, work: Callable[..., None], *arguments: object) -> None:
        try:
            work(*arguments)
        except BaseException as error:
            self._fail(error)
        finally:
            self._wake.set()

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            if not self._aborted:  # later ones only tell that the lines were cut
                self._errors.append(error)
        self.stop()

    # -- workers ----------------------------------------------------------------------------------------------------

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    def buffer(self) -> Buffer:
        """A new leaf buffer; `_close` gives it back."""
        made = Buffer(LEAF)
        with self._lock:
            self._buffers.append(made)
        return made

    def _copy(self, channel: Channel, depth: int) -> None:
        free = [self.buffer() for _ in range(depth)]
        flights: dict[int, Flight] = {}
        tag = 0
        more = True
        while not self.stopping:
            while more and free:
                with self._lock:
                    leaf = next(self._plan, None)
                more = leaf is not None
                if leaf is None:
                    break
                if leaf.count > 1 or not any(op.action in (Action.COPY, Action.KEEP) for op in leaf.ops):
                    self.settle_zeros(leaf)
                    break  # look at the wire in between
                flight = self._board(leaf, free.pop())
                for offset, length in self._requests(flight):
                    tag += 1
                    flights[tag] = flight
                    flight.missing += 1
                    at = offset - leaf.start
                    channel.submit(offset, flight.buffer.view[at : at + length], tag)
                if not flight.missing:
                    self.settle(leaf, flight.buffer, whole=flight.whole)
                    free.append(flight.buffer)
            if flights:
                flight = flights.pop(channel.finish())
                if self._aborted:  # what a cut line still gives is not believed
                    return
                flight.missing -= 1
                if not flight.missing:
                    self.settle(flight.leaf, flight.buffer, whole=flight.whole)
                    free.append(flight.buffer)
            elif not more:
                return

    def _board(self, leaf: Leaf, buffer: Buffer) -> Flight:
        """Put into the buffer what the target has to contribute: what a delta keeps, if it is what it should be."""
        flight = Flight(leaf, buffer)
        if leaf.partial:
            self.writer.read(leaf.start, buffer.view[: leaf.length])
            flight.whole = self.leaves.whole and buffer.digest(leaf.length) != self.leaves.get(leaf.index)
            if flight.whole:
                self.stats.add(healed=1)
        return flight

    def _requests(self, flight: Flight) -> Iterator[tuple[int, int]]:
        leaf, most = flight.leaf, self.reader.request_size
        reads = [(leaf.start, leaf.length)] if flight.whole else _copies(leaf)
        for start, length in reads:
            for at in range(start, start + length, most):
                yield at, min(most, start + length - at)

    def settle(self, leaf: Leaf, buffer: Buffer, *, whole: bool = False) -> None:
        """All of the leaf is in the buffer but its zeros: digest it, write what changed, note it as finished. whole: all of
        it was read from the source."""
        ops = (Op(Action.COPY, leaf.start, leaf.length),) if whole else leaf.ops
        for op in ops:
            if op.action in (Action.ZERO, Action.SKIP):
                buffer.clear(op.start - leaf.start, op.length)
        read = copied = zeroed = skipped = pieces = 0
        blank = True
        for op in ops:
            if op.action is Action.COPY:
                data, zeros = self._write(leaf, buffer, op)
                read, pieces, copied = read + op.length, pieces + 1, copied + data
                zeroed, skipped = (zeroed, skipped + zeros) if self.sparse else (zeroed + zeros, skipped)
                blank = blank and not data
            elif op.action is Action.ZERO:
                self.writer.zero(op.start, op.length)
                zeroed += op.length
            elif op.action is Action.SKIP:
                skipped += op.length
            else:
                blank = blank and buffer.is_zero(op.start - leaf.start, op.length)
        if blank:
            self.leaves.put_zeros(leaf.index, 1)
        else:
            self.leaves.put(leaf.index, buffer.digest(leaf.length))
        self.stats.add(read=read, copied=copied, zeroed=zeroed, skipped=skipped, pieces=pieces)
        self._note(leaf)

    def _write(self, leaf: Leaf, buffer: Buffer, op: Op) -> tuple[int, int]:
        """Write data, keep zeros holes. (bytes of data, bytes of zeros)."""
        data = 0
        for at, length, zero in buffer.runs(op.start - leaf.start, op.length):
            if not zero:
                self.writer.write(leaf.start + at, buffer.view[at : at + length])
                data += length
            elif not self.sparse:
                self.writer.zero(leaf.start + at, length)
        return data, op.length - data

    def settle_zeros(self, leaf: Leaf) -> None:
        """A leaf, or a run of them, that is zeros all over."""
        for op in leaf.ops:
            if op.action is Action.ZERO:
                self.writer.zero(op.start, op.length)
                self.stats.add(zeroed=op.length)
            else:
                self.stats.add(skipped=op.length)
        self.leaves.put_zeros(leaf.index, leaf.count)
        self._note(leaf)

    def _note(self, leaf: Leaf) -> None:
        changed = leaf.changed
        self.stats.add(done=changed)
        with self._lock:
            self._finished.append((leaf.index, leaf.count))
            self._finished_bytes += changed
            due = self._finished_bytes >= self.limits.commit_bytes
        if due:
            self._wake.set()


def _copies(leaf: Leaf) -> list[tuple[int, int]]:
    return [(op.start, op.length) for op in leaf.ops if op.action is Action.COPY]
