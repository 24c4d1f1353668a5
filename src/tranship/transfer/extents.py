"""Arithmetic on sorted runs of bytes.

Pure. Every function takes extents in ascending order without overlap, and gives them back so, one at a time: a disk of
many terabytes may have millions. Used by the plan, the readers and the channel that hands changed areas to a mover.
"""

from collections.abc import Iterable, Iterator

from tranship.errors import Broken
from tranship.transfer.address import Extent


def ordered(extents: Iterable[Extent]) -> Iterator[Extent]:
    """The same extents without the empty ones. Raises Broken where they overlap or go backwards."""
    cursor = 0
    for extent in extents:
        if extent.start < cursor or extent.length < 0:
            raise Broken(f"extents are out of order at {extent.start}")
        if extent.length:
            yield extent
        cursor = extent.end


def merge(extents: Iterable[Extent]) -> Iterator[Extent]:
    """Neighbours of one kind become one."""
    held: Extent | None = None
    for extent in ordered(extents):
        if held is not None and held.end == extent.start and held.zero == extent.zero:
            held = Extent(held.start, held.length + extent.length, held.zero)
            continue
        if held is not None:
            yield held
        held = extent
    if held is not None:
        yield held


def clip(extents: Iterable[Extent], start: int, end: int) -> Iterator[Extent]:
    """What lies within [start, end)."""
    for extent in extents:
        if extent.start >= end:
            return
        low, high = max(extent.start, start), min(extent.end, end)
        if low < high:
            yield Extent(low, high - low, extent.zero)


def intersect(extents: Iterable[Extent], mask: Iterable[Extent]) -> Iterator[Extent]:
    """The parts of `extents` that lie within `mask`, with the kind that they have in `extents`."""
    covers = ordered(mask)
    cover = next(covers, None)
    for extent in ordered(extents):
        while cover is not None:
            low, high = max(extent.start, cover.start), min(extent.end, cover.end)
            if low < high:
                yield Extent(low, high - low, extent.zero)
            if cover.end > extent.end:
                break
            cover = next(covers, None)


def subtract(extents: Iterable[Extent], mask: Iterable[Extent]) -> Iterator[Extent]:
    """The parts of `extents` that lie outside `mask`."""
    covers = ordered(mask)
    cover = next(covers, None)
    for extent in ordered(extents):
        cursor = extent.start
        while cover is not None and cover.start < extent.end:
            if cover.start > cursor:
                yield Extent(cursor, cover.start - cursor, extent.zero)
            cursor = max(cursor, cover.end)
            if cover.end > extent.end:
                break
            cover = next(covers, None)
        if cursor < extent.end:
            yield Extent(cursor, extent.end - cursor, extent.zero)


def align(extents: Iterable[Extent], block: int, size: int) -> Iterator[Extent]:
    """Every extent widened to whole blocks, within the disk: what a source that reads only blocks can be asked for."""

    def widened() -> Iterator[Extent]:
        cursor = 0
        for extent in ordered(extents):
            low = max(cursor, extent.start // block * block)
            high = min(size, -(-extent.end // block) * block)
            if low < high:
                yield Extent(low, high - low, extent.zero)
                cursor = high

    return merge(widened())


def total(extents: Iterable[Extent]) -> int:
    return sum(extent.length for extent in extents)


def to_json(extents: Iterable[Extent]) -> list[list[int]]:
    """[[start, length], ...]; a third number 1 marks an extent that reads as zeros."""
    return [[e.start, e.length, 1] if e.zero else [e.start, e.length] for e in extents]


def from_json(items: Iterable[list[int]]) -> Iterator[Extent]:
    return (Extent(item[0], item[1], len(item) > 2 and item[2] == 1) for item in items)
