"""How a platform's concerns are written down: one row per concern, judged against the facts of a VM. Pure.

Called by the `concerns` module of each platform, which holds the table.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tranship.inventory.vm import VM, Category, Concern

Findings = Iterable[str]
"""What is wrong, one phrase each; nothing = the concern does not apply. The phrases end the assessment; a phrase of ""
means: yes, and there is nothing to add."""

MOST_DISKS = 165  # what a target machine can be given
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Rule:
    id: str
    category: Category
    label: str
    assessment: str
    remedy: str
    find: Callable[[VM, bool | None], Findings]


def judge(rules: Sequence[Rule], prefix: str, vm: VM, warm: bool | None) -> tuple[Concern, ...]:
    """Every concern that applies, in the table's order. warm None = the migration type is not chosen yet."""
    return tuple(
        Concern(
            id=f"{prefix}.{rule.id}",
            category=rule.category,
            label=rule.label,
            assessment=f"{rule.assessment} ({', '.join(found)})" if any(found) else rule.assessment,
            remedy=rule.remedy,
        )
        for rule in rules
        if (found := tuple(rule.find(vm, warm)))
    )


def when(fact: object) -> Findings:
    return ("",) if fact else ()


def trait(name: str) -> Callable[[VM, bool | None], Findings]:
    return lambda vm, warm: when(vm.traits.get(name))


def bad_name(vm: VM, warm: bool | None) -> Findings:
    """Upper case is no trouble: it is folded when the target's name is made."""
    return when(len(vm.name) >= 64 or not _NAME.fullmatch(vm.name))
