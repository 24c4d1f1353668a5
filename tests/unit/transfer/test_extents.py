"""The arithmetic of extents, against sets of bytes."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tranship.errors import Broken
from tranship.transfer.address import Extent
from tranship.transfer.extents import align, clip, merge


@st.composite
def runs(draw: st.DrawFn) -> list[Extent]:
    """Ascending extents of a disk of some 100 bytes."""
    result, cursor = [], 0
    for gap, length, zero in draw(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.booleans()), max_size=9)):
        result.append(Extent(cursor + gap, length, zero))
        cursor += gap + length
    return result


def points(extents: list[Extent]) -> dict[int, bool]:
    return {at: e.zero for e in extents for at in range(e.start, e.end)}


@given(runs())
def test_merge_keeps_bytes_and_leaves_no_neighbours(extents: list[Extent]) -> None:
    merged = list(merge(extents))
    assert points(merged) == points(extents)
    assert all(a.end < b.start or a.zero is not b.zero for a, b in pairwise(merged))


@given(runs(), st.integers(0, 60), st.integers(0, 60))
def test_clip(extents: list[Extent], start: int, length: int) -> None:
    kept = points(list(clip(extents, start, start + length)))
    assert kept == {at: zero for at, zero in points(extents).items() if start <= at < start + length}


@given(runs(), st.sampled_from([1, 4, 16]))
def test_align_covers_everything_with_whole_blocks(extents: list[Extent], block: int) -> None:
    areas = [Extent(e.start, e.length) for e in extents]
    wide = list(align(areas, block, 160))
    assert all(e.start % block == 0 and e.length % block == 0 for e in wide)
    assert set(points(wide)) == {at // block * block + n for at in points(areas) for n in range(block)}


def test_order_is_checked() -> None:
    with pytest.raises(Broken):
        list(merge([Extent(5, 5), Extent(7, 1)]))
