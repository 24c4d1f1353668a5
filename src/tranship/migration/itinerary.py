"""The machine that walks a VM along its itinerary: a table of rows, one row per phase.

Theory of operation. The controller looks at the world (`Seen`: facts only), calls `step`, saves the VM's status that comes
back, and only then carries out the asks in it. A row's `decide` is pure and answers with one verdict:

    Advance(why)         the phase is done; its `record` writes what was learned into the status; the next row's phase begins
    Do(asks, why)        effects that bring the phase forward; what they did is *seen* by a later look, never remembered
    Wait(why)            nothing to do but look again
    Fail(error)          the VM cannot go on: its itinerary becomes the failure's (cleanup.py), which compensates

So a crash at any instant loses at most a look: the next one sees what is there and decides the same. Repetition is the
machine's, not the rows': an ask that failed for a temporary reason, or a Do that reports a trouble, waits with backoff and
counts against the row's budget; permanent errors and spent budgets fail the VM, except in a stubborn row, which notes what
is left behind and goes on. Edges other than "the next row" are declared in `jumps`, else the machine refuses them.

Nobody outside this package names a phase: pipeline, progress, diagrams and messages are projections of the rows.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from tranship.errors import Broken, TimedOut, TranshipError
from tranship.migration.asks import Ask
from tranship.migration.ledger import acquaint, note
from tranship.migration.seen import Policy, Seen
from tranship.resources.vm import Retry, StepError, StoryEntry, VMStatus

LONGEST_BACKOFF = 60.0  # seconds; a source that is away for minutes is normal, hammering it helps nobody
LEFT = "left behind: "  # begins the story's entry about what a stubborn row could not do
STORY_LENGTH = 100  # entries kept: eight precopies; of plans of hundreds of VMs fewer fit (story.shorten)


@dataclass(frozen=True, slots=True)
class Advance:
    why: str
    to: str = ""  # "" = the next row


@dataclass(frozen=True, slots=True)
class Do:
    """again: seconds before the same ask is carried out once more while its effect is not yet seen.
    trouble: why this has to be done *again*; counts against the row's budget."""

    asks: tuple[Ask, ...]
    why: str
    again: float = 0.0
    trouble: TranshipError | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """slot: a slot of the budget is all that is missing."""

    why: str
    until: datetime | None = None
    slot: bool = False


@dataclass(frozen=True, slots=True)
class Fail:
    error: TranshipError


Verdict = Advance | Do | Wait | Fail


@dataclass(frozen=True, slots=True)
class Row:
    """phase: Forklift's name where it has one. step: the pipeline step that the user sees. deadline: seconds, of a policy.
    stubborn: goes on when it cannot succeed. point_of_no_return: from here on a cancel comes too late. slot: what is waited
    for, where leaving the row forwards takes a slot of the budget (budget.py). blind: decides by the history, the policy and
    the clock alone, so nobody needs to look at source, target or movers."""

    phase: str
    step: str
    decide: Callable[[VMStatus, Seen], Verdict]
    record: Callable[[VMStatus, Seen], None] | None = None
    jumps: tuple[str, ...] = ()
    deadline: Callable[[Policy], float] | None = None
    retries: int = 20
    stubborn: bool = False
    point_of_no_return: bool = False
    slot: str = ""
    blind: bool = False


@dataclass(frozen=True, slots=True)
class Itinerary:
    """name: saved in the status. rows: the last one is the end and is never left. on_failure and on_cancel name the
    itineraries that take over; an itinerary without them compensates already and cannot fail."""

    name: str
    rows: tuple[Row, ...]
    on_failure: str = ""
    on_cancel: str = ""

    def row(self, phase: str) -> Row:
        for row in self.rows:
            if row.phase == phase:
                return row
        raise Broken(f"itinerary {self.name} has no phase {phase!r}")

    def after(self, row: Row) -> Row:
        return self.rows[self.rows.index(row) + 1]

    def validate(self) -> None:
        """Invariants: phases are unique, jumps lead to phases of the table, rows of one step stand together or loop."""
        phases = [row.phase for row in self.rows]
        assert len(set(phases)) == len(phases), f"{self.name}: a phase stands twice"
        for row in self.rows:
            assert set(row.jumps) <= set(phases), f"{self.name}: {row.phase} jumps out of the table"


Book = Mapping[str, Itinerary]


def begin(vm: VMStatus, itinerary: Itinerary, now: datetime, why: str) -> VMStatus:
    """Put a VM at the first row."""
    vm = vm.model_copy(deep=True)
    _enter(vm, itinerary, itinerary.rows[0], now, why)
    vm.started = vm.started or now
    return vm


def ended(vm: VMStatus, book: Book) -> bool:
    return bool(vm.itinerary) and book[vm.itinerary].rows[-1].phase == vm.phase


def step(vm: VMStatus, seen: Seen, book: Book) -> tuple[VMStatus, Verdict]:
    """One decision. Returns the status to save and the verdict whose asks are to be carried out after the save."""
    vm = vm.model_copy(deep=True)
    seen = acquaint(vm, seen)
    itinerary = book[vm.itinerary]
    row = itinerary.row(vm.phase)
    if ended(vm, book):
        return vm, Wait("ended")
    if seen.cancelled and itinerary.on_cancel and not _too_late(itinerary, row):
        return _switch(vm, book[itinerary.on_cancel], seen, "cancelled by the user"), Wait("cancelled by the user")
    verdict = _repeat(vm, row, seen, _decide(vm, row, seen))
    if isinstance(verdict, Advance) and row.slot and not seen.slot:
        verdict = Wait(f"Waiting {row.slot}: in-flight limit reached (max {seen.policy.inflight}).", slot=True)
    if isinstance(verdict, Fail) and row.stubborn:
        _enter(vm, itinerary, itinerary.after(row), seen.now, f"{LEFT}{verdict.error}")
        return vm, verdict
    if isinstance(verdict, Fail):
        return _fail(vm, itinerary, book, seen, verdict), verdict
    if isinstance(verdict, Advance):
        _advance(vm, itinerary, row, seen, verdict)
    else:
        _stay(vm, seen, verdict)
    return vm, verdict


def _too_late(itinerary: Itinerary, row: Row) -> bool:
    rows = itinerary.rows[: itinerary.rows.index(row) + 1]
    return any(one.point_of_no_return for one in rows)


def _decide(vm: VMStatus, row: Row, seen: Seen) -> Verdict:
    """The row's verdict, after its deadline and the errors of asks have had their say."""
    permanent = [error for error in seen.failed.values() if not error.temporary]
    if permanent:
        return Fail(permanent[0])
    verdict = row.decide(vm, seen)
    if isinstance(verdict, Advance) or row.deadline is None or vm.entered is None:
        return verdict
    limit = row.deadline(seen.policy)
    if (seen.now - vm.entered).total_seconds() > limit:
        why = f": {verdict.why}" if not isinstance(verdict, Fail) else ""
        remedy = "Look what holds it up on the platform that is concerned, then start the plan again."
        return Fail(TimedOut(why, what=row.phase, seconds=limit, remedy=remedy))
    return verdict


def _repeat(vm: VMStatus, row: Row, seen: Seen, verdict: Verdict) -> Verdict:
    """Backoff and budget. retry.at set: waiting for the next try; None: that try is under way."""
    if isinstance(verdict, Advance | Fail):
        return verdict
    failed = next(iter(seen.failed.values()), None)
    trouble = failed or (verdict.trouble if isinstance(verdict, Do) else None)
    retry = vm.retry
    if trouble and (failed or retry is None or retry.at is None):
        count = (retry.count if retry else 0) + 1
        if count > row.retries:
            return Fail(trouble)
        pause = min(seen.policy.backoff * 2.0 ** (count - 1), LONGEST_BACKOFF)
        at = seen.now + timedelta(seconds=pause)
        vm.retry = Retry(count=count, at=at, reason=trouble.reason, message=str(trouble))
    if vm.retry and vm.retry.at:
        if seen.now < vm.retry.at:
            return Wait(f"trying again (number {vm.retry.count}): {vm.retry.message}", until=vm.retry.at)
        vm.retry.at = None
    return verdict


def _advance(vm: VMStatus, itinerary: Itinerary, row: Row, seen: Seen, verdict: Advance) -> None:
    if row.record:
        row.record(vm, seen)
    following = itinerary.row(verdict.to) if verdict.to else itinerary.after(row)
    if verdict.to and verdict.to not in row.jumps and following is not itinerary.after(row):
        tale = ", ".join(entry.phase for entry in vm.story[-5:])
        raise Broken(f"VM {vm.id}: no way from {row.phase} to {verdict.to}; so far: {tale}")
    _enter(vm, itinerary, following, seen.now, verdict.why)


def _enter(vm: VMStatus, itinerary: Itinerary, row: Row, now: datetime, why: str) -> None:
    vm.itinerary, vm.phase, vm.entered, vm.why, vm.retry = itinerary.name, row.phase, now, why, None
    vm.story.append(StoryEntry(at=now, phase=row.phase, why=why))
    if row is itinerary.rows[-1]:
        vm.completed = now
    del vm.story[:-STORY_LENGTH]


def _stay(vm: VMStatus, seen: Seen, verdict: Do | Wait) -> None:
    vm.why = verdict.why
    if not isinstance(verdict, Do):
        return
    asked = [ask.key for ask in verdict.asks]
    note(vm, (made for ask in verdict.asks for made in ask.makes), seen)
    last = vm.story[-1]
    if (last.phase, last.asked) != (vm.phase, asked):
        vm.story.append(StoryEntry(at=seen.now, phase=vm.phase, why=verdict.why, asked=asked))


def _fail(vm: VMStatus, itinerary: Itinerary, book: Book, seen: Seen, verdict: Fail) -> VMStatus:
    if not itinerary.on_failure:
        raise Broken(f"VM {vm.id}: {itinerary.name} failed in {vm.phase}: {verdict.error}") from verdict.error
    reasons = [f"{verdict.error.reason}: {verdict.error}"]
    if verdict.error.suggestion:
        reasons.append(verdict.error.suggestion)
    vm.error = StepError(phase=vm.phase or "", reasons=reasons)
    return _switch(vm, book[itinerary.on_failure], seen, str(verdict.error))


def _switch(vm: VMStatus, to: Itinerary, seen: Seen, why: str) -> VMStatus:
    vm.outcome = to.name
    _enter(vm, to, to.rows[0], seen.now, why)
    return vm
