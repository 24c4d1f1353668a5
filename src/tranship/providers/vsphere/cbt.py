"""Changed block tracking: reading every page of a disk's changes. Pure; the source brings the call.

The paging rule, whose breach lost data in several tools: the server may describe less than was asked for, and the only
cursor is its own `start + length`. It is asked again until the description reaches the capacity; never beyond, which is an
InvalidArgument.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tranship.errors import Refused, Side
from tranship.transfer.address import Extent


@dataclass(frozen=True, slots=True)
class Page:
    """One answer: areas that changed within start .. start + length (bytes)."""

    start: int
    length: int
    areas: Iterable[tuple[int, int]]


def collect(ask: Callable[[int], Page], capacity: int) -> tuple[Extent, ...]:
    """All changed areas, ascending and without overlap. Raises Refused when the server describes only a part."""
    found: list[Extent] = []
    cursor = 0
    while cursor < capacity:
        page = ask(cursor)
        end = page.start + page.length
        if page.start > cursor or end <= cursor:
            # Taking silence for "nothing changed" would lose blocks; a full copy is only slow.
            detail = f"the changes between byte {cursor} and {capacity} were not described"
            raise Refused(detail, what="reading changed areas", fault="Incomplete", side=Side.SOURCE)
        found += (Extent(start, min(length, capacity - start)) for start, length in page.areas if start < capacity)
        cursor = end
    return tuple(_merged(found))


def _merged(areas: Iterable[Extent]) -> Iterable[Extent]:
    last: Extent | None = None
    for area in sorted(area for area in areas if area.length > 0):
        if last is None or area.start > last.end:
            if last is not None:
                yield last
            last = area
        elif area.end > last.end:
            last = Extent(last.start, area.end - last.start)
    if last is not None:
        yield last


def same_epoch(one: str, other: str) -> bool:
    """changeIds are `UUID/number`; another UUID means that tracking began anew in between."""
    return one.rpartition("/")[0] == other.rpartition("/")[0]
