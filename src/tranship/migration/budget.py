"""How many VMs may be under way at a time: a slot for each, counted in lanes. The rules:

1. A lane is what is spared: one ESXi host of a vSphere provider, or the whole of any other provider. A lane has `limit` slots
   for copying and as many for cutting over (controller_max_vm_inflight), across all plans.
2. A VM holds a slot wherever it is under way: in each row of a moving itinerary but the last one and those that are marked
   `slot` (Started, CopyingPaused). So who holds one is read from the saved status, and a restart changes nothing. Failure and
   cancel copy nothing and hold none.
3. To leave Started, or the pause for another precopy, takes a slot for copying. To leave the pause when the cutover is due
   takes one for cutting over. So a cutover waits for other cutovers at most, never for somebody's full copy; and the VM runs
   while it waits. What waits holds nothing: nobody can block anybody for ever.
4. Who has waited longest is first, and nobody waits while a slot of his lane is free.
5. A slot is never taken away. A lane may be above its limit when the limit falls or VMs move to another host; then nobody
   is let in until it is below again.

The migration controller holds the one Budget of an installation. Pure: times are given, and are only compared.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from tranship.migration.itinerary import Book, ended
from tranship.migration.seen import Seen
from tranship.resources.vm import VMStatus


class Use(Enum):
    COPY = "copy"
    CUTOVER = "cutover"


@dataclass(frozen=True, slots=True)
class Who:
    """A VM of a run, whose key is its Migration's."""

    run: Hashable
    vm: str


def holds(vm: VMStatus, book: Book) -> bool:
    """Whether the VM, as it was saved, holds a slot."""
    table = book.get(vm.itinerary)
    return table is not None and bool(table.on_failure) and not ended(vm, book) and not table.row(vm.phase).slot


def wants(vm: VMStatus, seen: Seen, book: Book) -> tuple[Use, datetime]:
    """What a VM that waits in front of a slot wants it for, and since when it could have gone on."""
    pauses = book[vm.itinerary].row(vm.phase).blind
    if pauses and seen.cutover and seen.cutover_due:
        return Use.CUTOVER, seen.cutover
    due = vm.warm.next_precopy_at if pauses and vm.warm else None
    return Use.COPY, min(due or vm.entered or seen.now, seen.now)


def use_of(vm: VMStatus) -> Use:
    """Of a slot that was held before a restart. The short precopy right before a cutover counts as a copy then."""
    return Use.CUTOVER if vm.cutover else Use.COPY


@dataclass
class Budget:
    """lane: where a VM is now. granted: told of whoever waited and holds a slot from now on."""

    lane: Callable[[Who], Hashable]
    granted: Callable[[Who], None]
    limit: int = 20
    held: dict[Who, Use] = field(default_factory=dict)
    waiting: dict[Who, tuple[datetime, Use]] = field(default_factory=dict)

    def hold(self, who: Who, use: Use) -> None:
        """It is under way already."""
        self.waiting.pop(who, None)
        self.held.setdefault(who, use)

    def ask(self, who: Who, use: Use, since: datetime) -> bool:
        """True = it holds a slot. False = it waits, and `granted` will be told; since: when it could have gone on."""
        if who in self.held:
            return True
        self.waiting[who] = (since, use)
        if self._free(self.lane(who), use):
            self.admit()
        return who in self.held

    def release(self, who: Who) -> None:
        """It neither holds a slot nor waits for one."""
        self.waiting.pop(who, None)
        if self.held.pop(who, None) is not None:
            self.admit()

    def forget(self, run: Hashable) -> None:
        for who in [one for one in (*self.held, *self.waiting) if one.run == run]:
            self.waiting.pop(who, None)
            self.held.pop(who, None)
        self.admit()

    def admit(self) -> None:
        """Whoever may go on. To be called, too, when the limit was changed or VMs were moved to other hosts."""
        if not self.waiting:
            return
        taken: dict[tuple[Hashable, Use], int] = {}
        for who, use in self.held.items():
            taken[self.lane(who), use] = taken.get((self.lane(who), use), 0) + 1
        for who, (_, use) in sorted(self.waiting.items(), key=lambda item: item[1][0]):
            lane = self.lane(who)
            if taken.get((lane, use), 0) < self.limit:
                taken[lane, use] = taken.get((lane, use), 0) + 1
                del self.waiting[who]
                self.held[who] = use
                self.granted(who)

    def _free(self, lane: Hashable, use: Use) -> bool:
        return sum(other is use and self.lane(who) == lane for who, other in self.held.items()) < self.limit
