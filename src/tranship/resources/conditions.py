"""Conditions: what holds about an object, how grave it is and what to do about it.

Called by controllers, which validate in stages: `begin_staging`, then `set` for everything found, then `end_staging`;
a condition that is not durable and was not set again vanishes. There is one condition per type: setting a type twice in
one stage collects the causes in items, message and suggestion, so that no finding hides another.
Invariants: types are unique; lastTransitionTime changes only when the status does.
"""

from collections.abc import Iterable
from datetime import datetime
from enum import Enum
from typing import Annotated

from pydantic import Field

from tranship.resources.model import ALWAYS, Model, Timestamp


class Category(Enum):
    """How grave a condition is; the words are Forklift's. Critical and Error block."""

    CRITICAL = "Critical"
    ERROR = "Error"
    WARN = "Warn"
    REQUIRED = "Required"
    ADVISORY = "Advisory"


_GRAVITY = [category.value for category in Category]
TRUE, FALSE = "True", "False"
READY = "Ready"


class Condition(Model):
    type: str
    status: Annotated[str, ALWAYS] = TRUE
    category: Annotated[str, ALWAYS] = Category.ADVISORY.value
    reason: str = ""
    message: str = ""
    suggestion: str = ""
    """What to do about it."""
    items: list[str] = Field(default_factory=list)
    """Whom or what it concerns: VMs, map entries, fields."""
    durable: bool = False
    """Survives a validation that does not set it again."""
    last_transition_time: Timestamp

    @property
    def holds(self) -> bool:
        return self.status == TRUE

    @property
    def blocks(self) -> bool:
        return self.holds and self.category in (Category.CRITICAL.value, Category.ERROR.value)


class Conditions:
    """Works in place on the list of a status: `Conditions(plan.status.conditions)`."""

    def __init__(self, conditions: list[Condition]) -> None:
        self.list = conditions
        self._staged: set[str] | None = None

    def begin_staging(self) -> None:
        self._staged = set()

    def set(
        self,
        type: str,
        category: Category,
        now: datetime,
        *,
        reason: str = "",
        message: str = "",
        suggestion: str = "",
        items: Iterable[str] = (),
        durable: bool = False,
        status: bool = True,
    ) -> Condition:
        """Add or replace the condition of that type; within a stage the causes of equal types are collected."""
        new = Condition(
            type=type,
            status=TRUE if status else FALSE,
            category=category.value,
            reason=reason,
            message=message,
            suggestion=suggestion,
            items=list(items),
            durable=durable,
            last_transition_time=now,
        )
        old = self.get(type)
        if old and self._staged is not None and type in self._staged:
            new = _merge(old, new)
        if old and old.status == new.status:
            new.last_transition_time = old.last_transition_time
        if self._staged is not None:
            self._staged.add(type)
        if old:
            self.list[self.list.index(old)] = new
        else:
            self.list.append(new)
        return new

    def end_staging(self) -> None:
        staged = self._staged or set()
        self.list[:] = [condition for condition in self.list if condition.durable or condition.type in staged]
        self._staged = None

    def get(self, type: str) -> Condition | None:
        return next((condition for condition in self.list if condition.type == type), None)

    def has(self, type: str) -> bool:
        """Whether the condition is there and holds."""
        return any(condition.type == type and condition.holds for condition in self.list)

    def delete(self, *types: str) -> None:
        self.list[:] = [condition for condition in self.list if condition.type not in types]

    @property
    def blocking(self) -> list[Condition]:
        """The conditions that keep the object from being used: Critical or Error. Within a stage only what it has found so
        far, and what is durable: an earlier finding that is not made again does not hold any more."""
        staged = self._staged
        counted = [one for one in self.list if staged is None or one.durable or one.type in staged]
        return [condition for condition in counted if condition.blocks]

    @property
    def ready(self) -> bool:
        return self.has(READY) and not self.blocking


def _merge(old: Condition, new: Condition) -> Condition:
    """Both causes under one type: the graver category and its reason, texts and items of both, once each."""
    graver = min(old, new, key=lambda condition: _GRAVITY.index(condition.category))
    return Condition(
        type=new.type,
        status=TRUE if old.holds or new.holds else FALSE,
        category=graver.category,
        reason=graver.reason,
        message=_join(old.message, new.message),
        suggestion=_join(old.suggestion, new.suggestion),
        items=list(dict.fromkeys([*old.items, *new.items])),
        durable=old.durable or new.durable,
        last_transition_time=new.last_transition_time,
    )


def _join(old: str, new: str) -> str:
    if not new or new in old:
        return old
    return f"{old} {new}" if old else new
