"""Who may go on: the rules at the top of migration/budget.py."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tranship.inventory.vm import Power
from tranship.migration.book import BOOK
from tranship.migration.budget import Budget, Use, Who, holds, use_of, wants
from tranship.migration.itinerary import Wait, begin, step
from tranship.migration.progress import queue
from tranship.migration.seen import Policy, Seen, SourceSeen
from tranship.resources.vm import CutoverStatus, VMStatus, Warm

START = datetime(2026, 1, 1, tzinfo=UTC)
COPY, CUTOVER = Use.COPY, Use.CUTOVER


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


class Lanes:
    """A budget whose VMs are named after their host: "a1" is on host a."""

    def __init__(self, limit: int) -> None:
        self.told: list[str] = []
        self.budget = Budget(lambda who: who.vm[0], lambda who: self.told.append(who.vm), limit)

    def ask(self, vm: str, use: Use = COPY, since: float = 0) -> bool:
        return self.budget.ask(Who("run", vm), use, at(since))

    def release(self, vm: str) -> None:
        self.told.clear()
        self.budget.release(Who("run", vm))


def test_each_host_has_its_own_slots() -> None:
    lanes = Lanes(1)
    assert lanes.ask("a1")
    assert not lanes.ask("a2")
    assert lanes.ask("b1")
    lanes.release("b1")
    assert lanes.told == []
    lanes.release("a1")
    assert lanes.told == ["a2"]
    assert lanes.ask("a2")


def test_all_plans_share_them() -> None:
    lanes = Lanes(1)
    assert lanes.ask("a1")
    assert not lanes.budget.ask(Who("another run", "a2"), COPY, START)


def test_who_waits_longest_is_first() -> None:
    lanes = Lanes(1)
    lanes.ask("a1")
    lanes.ask("a2", since=20)
    lanes.ask("a3", since=10)
    lanes.release("a1")
    assert lanes.told == ["a3"]


def test_a_cutover_waits_for_no_copy_but_for_other_cutovers() -> None:
    lanes = Lanes(2)
    assert lanes.ask("a1")
    assert lanes.ask("a2")
    assert not lanes.ask("a3")
    assert lanes.ask("a4", CUTOVER)
    assert lanes.ask("a5", CUTOVER)
    assert not lanes.ask("a6", CUTOVER)
    lanes.release("a1")
    assert lanes.told == ["a3"]
    lanes.release("a4")
    assert lanes.told == ["a6"]


def test_a_cutover_that_comes_due_while_its_precopy_waits_goes_at_once() -> None:
    lanes = Lanes(1)
    lanes.ask("a1")
    assert not lanes.ask("a2")
    assert lanes.ask("a2", CUTOVER)
    lanes.release("a1")
    assert lanes.told == []
    assert not lanes.budget.waiting


def test_after_a_restart_what_was_under_way_counts_before_anything_is_let_in() -> None:
    lanes = Lanes(2)
    for vm in ("a1", "a2", "a3"):  # the limit was lowered meanwhile
        lanes.budget.hold(Who("run not taken up yet", vm), COPY)
    assert not lanes.ask("a4")
    for vm in ("a1", "a2"):
        lanes.budget.release(Who("run not taken up yet", vm))
    assert lanes.told == ["a4"]
    lanes.budget.forget("run not taken up yet")
    assert len(lanes.budget.held) == 1


def test_a_raised_limit_lets_in_at_once() -> None:
    lanes = Lanes(1)
    assert [lanes.ask(f"a{n}") for n in range(4)] == [True, False, False, False]
    lanes.budget.limit = 3
    lanes.budget.admit()
    assert lanes.told == ["a0", "a1", "a2"]


actions = st.lists(
    st.tuples(
        st.sampled_from(["ask", "release", "limit"]),
        st.sampled_from(["a1", "a2", "a3", "a4", "b1", "b2", "b3"]),
        st.sampled_from(Use),
        st.integers(0, 9),
    ),
    max_size=60,
)


@given(actions)
def test_never_above_the_limit_and_nobody_waits_for_nothing(given: list[tuple[str, str, Use, int]]) -> None:
    lanes, limit = Lanes(2), 2
    for what, vm, use, number in given:
        before = Counter((who.vm[0], used) for who, used in lanes.budget.held.items())
        if what == "ask":
            lanes.ask(vm, use, number)
        elif what == "release":
            lanes.release(vm)
        else:
            limit = lanes.budget.limit = 1 + number % 3
            lanes.budget.admit()
        held = Counter((who.vm[0], used) for who, used in lanes.budget.held.items())
        assert all(count <= max(limit, before[lane]) for lane, count in held.items())
        assert all(held[who.vm[0], used] >= limit for who, (_, used) in lanes.budget.waiting.items())
        assert not lanes.budget.held.keys() & lanes.budget.waiting.keys()


# --- what of a saved status holds or wants one ----------------------------------------------------------------------------


def saved(phase: str, itinerary: str = "warm", **fields: Any) -> VMStatus:
    return VMStatus(id="vm-1", name="one", phase=phase, itinerary=itinerary, entered=START, **fields)


@pytest.mark.parametrize(
    ("itinerary", "phase", "held"),
    [
        ("cold", "Started", False),
        ("cold", "PowerOffSource", True),
        ("cold", "CopyDisks", True),
        ("cold", "Completed", False),
        ("warm", "CopyDisks", True),
        ("warm", "CopyingPaused", False),
        ("warm", "CreateSnapshot", True),
        ("warm", "WaitForFinalSnapshotRemoval", True),
        ("warm-without-vddk", "CopyingPaused", False),
    ],
)
def test_who_holds_a_slot_is_read_from_the_saved_status(itinerary: str, phase: str, held: bool) -> None:
    assert holds(saved(phase, itinerary), BOOK) is held


def test_failure_and_cancel_hold_none() -> None:
    for name in ("failed", "canceled"):
        assert not any(holds(saved(row.phase, name), BOOK) for row in BOOK[name].rows)


def test_a_slot_is_wanted_for_the_cutover_only_when_it_is_due() -> None:
    seen = Seen(at(100), Policy(mark="m"), SourceSeen(Power.UNKNOWN), cutover=at(90), slot=False)
    pausing = saved("CopyingPaused", warm=Warm(next_precopy_at=at(40)))
    assert wants(pausing, seen, BOOK) == (CUTOVER, at(90))
    assert wants(saved("Started"), seen, BOOK) == (COPY, START)  # the full copy is a copy, whenever the cutover is due
    early = Seen(at(100), Policy(mark="m"), SourceSeen(Power.UNKNOWN), cutover=at(900), slot=False)
    assert wants(pausing, early, BOOK) == (COPY, at(40))
    assert use_of(saved("Finalize", cutover=CutoverStatus(asked=START))) is CUTOVER
    assert use_of(saved("CopyDisks")) is COPY


def test_who_waits_says_so_as_upstream_does() -> None:
    vm = begin(VMStatus(id="vm-1", name="one"), BOOK["cold"], START, "begun")
    seen = Seen(at(1), Policy(mark="m", inflight=7), SourceSeen(Power.ON), slot=False)
    waiting, verdict = step(vm, seen, BOOK)
    queue(waiting, verdict, seen.now)
    assert isinstance(verdict, Wait)
    assert waiting.phase == "Started"
    text = "Waiting to start migration: in-flight limit reached (max 7)."
    assert waiting.why == text
    assert [(one.type, one.message) for one in waiting.conditions] == [("Pending", text)]
    admitted, verdict = step(waiting, Seen(at(2), Policy(mark="m"), SourceSeen(Power.ON)), BOOK)
    queue(admitted, verdict, at(2))
    assert admitted.phase == "StorePowerState"
    assert admitted.conditions == []
