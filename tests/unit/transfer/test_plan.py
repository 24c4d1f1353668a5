"""What is done with every leaf. Disks of a few leaves; the truth is a map of pages."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from tranship.transfer.address import Extent
from tranship.transfer.plan import LEAF, RUN, Action, LeafSet, Op, leaf_count, plan

PAGE = LEAF // 4
PAGES = 26  # six leaves and a half


@st.composite
def pages(draw: st.DrawFn, kinds: str) -> str:
    """One letter for each page, with runs."""
    text = ""
    while len(text) < PAGES:
        text += draw(st.sampled_from(kinds)) * draw(st.integers(1, 9))
    return text[:PAGES]


def extents(picture: str, wanted: str) -> list[Extent]:
    """Extents of the pages whose letter is in `wanted`; 0 is zero."""
    return [Extent(at * PAGE, PAGE, letter == "0") for at, letter in enumerate(picture) if letter in wanted]


@settings(max_examples=300)
@given(
    source=pages("0A-"),
    dirty=st.none() | pages("x-"),
    fresh=st.booleans(),
    finished=st.sets(st.integers(0, 6)),
    tail=st.integers(0, PAGE - 1),
)
def test_rules(source: str, dirty: str | None, fresh: bool, finished: set[int], tail: int) -> None:
    size = PAGES * PAGE - tail
    done = LeafSet(leaf_count(size))
    for index in finished:
        done.add(index)
    changed = None if dirty is None else extents(dirty, "x")
    leaves = list(plan(size, extents(source, "0A"), changed, fresh=fresh, done=done))

    ops: list[Op] = []
    for leaf in leaves:
        assert leaf.start == leaf.index * LEAF
        assert sum(op.length for op in leaf.ops) == leaf.length
        assert [op.start for op in leaf.ops] == [leaf.start, *(op.end for op in leaf.ops)][:-1]  # exactly once
        assert not any(index in done for index in range(leaf.index, leaf.index + leaf.count))
        assert any(op.action is not Action.KEEP for op in leaf.ops)
        ops += leaf.ops
    assert all(a.end <= b.start for a, b in pairwise(ops))

    for at in range(PAGES):
        offset = at * PAGE
        op = next((op for op in ops if op.start <= offset < op.end), None)
        if offset // LEAF in finished:
            assert op is None
        elif dirty is not None and dirty[at] == "-":
            assert op is None or op.action is Action.KEEP
        elif source[at] == "0":
            assert op is not None
            assert op.action is (Action.SKIP if fresh and dirty is None else Action.ZERO)
        else:  # data, or nobody says that it is not
            assert op is not None and op.action is Action.COPY


def test_nothing_known_is_all_data() -> None:
    assert [leaf.ops for leaf in plan(LEAF + 5)] == [
        (Op(Action.COPY, 0, LEAF),),
        (Op(Action.COPY, LEAF, 5),),
    ]


def test_zeros_come_in_long_runs() -> None:
    """64 TiB of zeros: thousands of steps, not millions."""
    size = 64 << 40
    leaves = list(plan(size, [Extent(0, size, True)], fresh=True))
    assert len(leaves) == leaf_count(size) // RUN
    assert leaves[-1].start + leaves[-1].length == size


@given(st.lists(st.tuples(st.integers(0, 90), st.integers(1, 30)), max_size=8))
def test_leaf_set_is_a_set(ranges: list[tuple[int, int]]) -> None:
    leaves, truth = LeafSet(120), set[int]()
    for first, count in ranges:
        leaves.add(first, count)
        truth |= set(range(first, first + count))
    assert {index for index in range(120) if index in leaves} == truth
    assert {index for first, count in leaves.runs() for index in range(first, first + count)} == truth
    assert len(leaves) == len(truth)
    assert all(leaves.touches(first, 7) for first in range(100) if truth & set(range(first, first + 7)))
