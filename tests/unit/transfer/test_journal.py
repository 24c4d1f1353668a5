"""The journal: whatever is torn off its tail, what it names is true."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tranship.errors import Refused
from tranship.transfer.journal import Identity, Journal
from tranship.transfer.plan import LEAF

SIZE = 100 * LEAF


def identity(**changes: str) -> Identity:
    facts = {"round": "r1", "point": "snapshot-1", "target": "disk#1", "plan": "full", **changes}
    return Identity(size=SIZE, **facts)


@given(
    ranges=st.lists(st.lists(st.tuples(st.integers(0, 90), st.integers(1, 9)), min_size=1, max_size=3), max_size=6),
    cut=st.integers(0, 200),
    noise=st.binary(max_size=9),
)
def test_a_torn_tail_costs_only_itself(
    tmp_path_factory: pytest.TempPathFactory, ranges: list[list[tuple[int, int]]], cut: int, noise: bytes
) -> None:
    path = tmp_path_factory.mktemp("j") / "journal"
    journal = Journal(path, identity(), None)
    for batch in ranges:
        journal.add(batch, 7)
    journal.close()
    whole = path.read_bytes()
    torn = whole[: max(len(whole) - cut, whole.index(b"\n") + 1)]
    path.write_bytes(torn + noise)
    kept = torn.count(b"\n") - 1

    again = Journal(path, identity(), None)
    assert again.resumed
    assert again.bytes == 7 * kept
    wanted = {index for batch in ranges[:kept] for first, count in batch for index in range(first, first + count)}
    assert {index for index in range(100) if index in again.done} == wanted
    again.add([(99, 1)], 1)
    again.close()
    assert 99 in Journal(path, identity(), None).done


@pytest.mark.parametrize("change", ["round", "point", "target", "plan"])
def test_another_identity_begins_anew(tmp_path: Path, change: str) -> None:
    first = Journal(tmp_path / "journal", identity(), None)
    first.add([(0, 5)], 5)
    again = Journal(tmp_path / "journal", identity(**{change: "other"}), None)
    assert not again.resumed
    assert len(again.done) == 0
    assert again.used is (change != "target")


def test_a_delta_needs_its_base(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    full = Journal(path, identity(), None)
    with pytest.raises(Refused, match="does not hold round r1"):
        Journal(path, identity(round="r2", plan="delta"), "r1")
    full.complete("abc")
    delta = Journal(path, identity(round="r2", plan="delta"), "r1")
    delta.add([(3, 1)], 1)
    # given up half-way: the next one still builds on the last whole round
    Journal(path, identity(round="r3", plan="delta"), "r1").complete("def")
    with pytest.raises(Refused):
        Journal(path, identity(round="r4", plan="delta"), "r1")
    assert not Journal(path, identity(round="r4", plan="delta"), "r3").resumed
    with pytest.raises(Refused):  # the file behind the name is another one
        Journal(path, identity(round="r5", plan="delta", target="disk#2"), "r3")
