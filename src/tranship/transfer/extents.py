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
