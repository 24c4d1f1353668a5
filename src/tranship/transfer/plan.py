"""What is to be done with every leaf of a disk.

Pure. A leaf is 4 MiB: the unit of work, of the journal and of the proof. The plan turns what is known of the source
(which parts read as zeros, which changed since the last round), of the target (fresh: it reads as zeros) and of the
journal (leaves that are done) into leaves whose operations cover them exactly once. The engine carries them out.

Rules:
- data is never skipped, and what nobody vouches for is data;
- an area that changed and reads as zeros is zeroed: the target may hold something else there;
- zeros are left out only where the whole disk is copied to a target that is known to read as zeros;
- outside the changed areas the target keeps what it has.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from tranship.transfer.address import Extent
from tranship.transfer.extents import clip, merge

LEAF = 4 << 20
RUN = 1024  # leaves in one Leaf at most: 4 GiB of zeros are one piece of work and one mark in the journal


class Action(Enum):
    COPY = "copy"  # read from the source
    ZERO = "zero"  # make it read as zeros
    SKIP = "skip"  # zeros, and the target reads as zeros already
    KEEP = "keep"  # unchanged since the last round


class Op(NamedTuple):
    action: Action
    start: int
    length: int

    @property
    def end(self) -> int:
        return self.start + self.length


@dataclass(frozen=True, slots=True)
class Leaf:
    """index: number of the (first) leaf. A Leaf may stand for up to RUN leaves when one ZERO or SKIP covers them all."""

    index: int
    start: int
    length: int
    ops: tuple[Op, ...]

    @property
    def count(self) -> int:
        return -(-self.length // LEAF)

    @property
    def changed(self) -> int:
        """Bytes that are not kept."""
        return sum(op.length for op in self.ops if op.action is not Action.KEEP)

    @property
    def partial(self) -> bool:
        return any(op.action is Action.KEEP for op in self.ops)


class LeafSet:
    """A set of leaf numbers, one bit each: 2 MiB for a disk of 64 TiB."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._bits = bytearray(-(-count // 8))

    def add(self, first: int, count: int = 1) -> None:
        head = min(count, -first % 8)
        for index in range(first, first + head):
            self._bits[index >> 3] |= 1 << (index & 7)
        whole = (count - head) >> 3
        at = (first + head) >> 3
        self._bits[at : at + whole] = b"\xff" * whole
        for index in range(first + head + whole * 8, first + count):
            self._bits[index >> 3] |= 1 << (index & 7)

    def __contains__(self, index: int) -> bool:
        return bool(self._bits[index >> 3] >> (index & 7) & 1)

    def touches(self, first: int, count: int) -> bool:
        """Is any of these leaves in the set? (May say yes for a close neighbour.)"""
        part = self._bits[first >> 3 : ((first + count - 1) >> 3) + 1]
        return part.count(0) != len(part)

    def runs(self) -> Iterator[tuple[int, int]]:
        """(first, count) of every unbroken run, ascending."""
        first = -1
        for at, bits in enumerate(self._bits):
            if bits == (0xFF if first >= 0 else 0):
                continue
            for index in range(at * 8, at * 8 + 8):
                inside = bool(bits >> (index & 7) & 1)
                if inside and first < 0:
                    first = index
                elif not inside and first >= 0:
                    yield first, index - first
                    first = -1
        if first >= 0:
            yield first, self.count - first

    def __len__(self) -> int:
        return sum(count for _, count in self.runs())


def leaf_count(size: int) -> int:
    return -(-size // LEAF)


def leaf_length(index: int, size: int) -> int:
    return min(LEAF, size - index * LEAF)


def plan(
    size: int,
    extents: Iterable[Extent] | None = None,
    changed: Iterable[Extent] | None = None,
    *,
    fresh: bool = False,
    done: LeafSet | None = None,
) -> Iterator[Leaf]:
    """The leaves that need anything, ascending. extents: which parts of the source read as zeros (None = all is data; so
    is every gap). changed: what to copy (None = everything). fresh: the target reads as zeros. done: finished leaves."""
    done = LeafSet(leaf_count(size)) if done is None else done
    ops: list[Op] = []
    for op in _operations(size, extents, changed, fresh):
        start = op.start
        while start < op.end:
            if not ops and op.action is not Action.COPY and (whole := _whole_leaves(start, op.end, size)):
                yield from runs(op.action, start // LEAF, whole, size, done)
                start = min(start + whole * LEAF, size)
                continue
            end = min(op.end, (start // LEAF + 1) * LEAF)
            ops.append(Op(op.action, start, end - start))
            if end % LEAF == 0 or end == size:
                yield from _leaf(tuple(ops), done)
                ops = []
            start = end


def _whole_leaves(start: int, end: int, size: int) -> int:
    """How many leaves [start, end) covers, when it begins with one. The last leaf of the disk may be short."""
    if start % LEAF:
        return 0
    return leaf_count(end - start) if end == size else (end - start) // LEAF


def _leaf(ops: tuple[Op, ...], done: LeafSet) -> Iterator[Leaf]:
    index = ops[0].start // LEAF
    if index not in done and any(op.action is not Action.KEEP for op in ops):
        yield Leaf(index, ops[0].start, ops[-1].end - ops[0].start, ops)


def runs(action: Action, index: int, count: int, size: int, done: LeafSet) -> Iterator[Leaf]:
    """Whole leaves of one kind that are not done, as many as may be in one Leaf. Kept ones need nothing."""
    last = index + count if action is not Action.KEEP else index
    while index < last:
        run = min(RUN, last - index)
        if done.touches(index, run):
            run = 1
        if run > 1 or index not in done:
            begin, end = index * LEAF, min((index + run) * LEAF, size)
            yield Leaf(index, begin, end - begin, (Op(action, begin, end - begin),))
        index += run


def _operations(
    size: int, extents: Iterable[Extent] | None, changed: Iterable[Extent] | None, fresh: bool
) -> Iterator[Op]:
    """Operations that cover the disk once, neighbours of one kind merged."""
    zeros = Action.SKIP if fresh and changed is None else Action.ZERO
    kinds = _cover(size, extents)
    kind = next(kinds, None)
    cursor = 0
    for area in merge(Extent(*e[:2]) for e in clip(changed if changed is not None else [Extent(0, size)], 0, size)):
        if area.start > cursor:
            yield Op(Action.KEEP, cursor, area.start - cursor)
        cursor = area.start
        while cursor < area.end and kind is not None:
            end = min(kind.end, area.end)
            if end > cursor:
                yield Op(zeros if kind.zero else Action.COPY, cursor, end - cursor)
                cursor = end
            if kind.end <= area.end:
                kind = next(kinds, None)
    if cursor < size:
        yield Op(Action.KEEP, cursor, size - cursor)


def _cover(size: int, extents: Iterable[Extent] | None) -> Iterator[Extent]:
    """The extents with every gap filled by data."""

    def filled() -> Iterator[Extent]:
        cursor = 0
        for extent in clip(extents or (), 0, size):
            if extent.start > cursor:
                yield Extent(cursor, extent.start - cursor)
            yield extent
            cursor = extent.end
        if cursor < size:
            yield Extent(cursor, size - cursor)

    return merge(filled())
