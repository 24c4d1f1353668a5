"""A walk as text: one readable line per step. Golden files, docs and `describe` show these. And how much of it is kept."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from tranship.resources.vm import StoryEntry

LEAST_STORY, LEAST_PRECOPIES = 1, 2  # newest ones that stay, whatever they take; two precopies give a forecast


def line(entry: StoryEntry, start: float = 0.0) -> str:
    asked = f"  asks {', '.join(entry.asked)}" if entry.asked else ""
    return f"{entry.at.timestamp() - start:7.1f}s  {entry.phase:<32}{entry.why}{asked}"


def tell(entries: Iterable[StoryEntry]) -> str:
    listed = list(entries)
    start = listed[0].at.timestamp() if listed else 0.0
    return "\n".join(line(entry, start) for entry in listed) + "\n"


def shorten(vm: dict[str, Any], room: int) -> dict[str, Any]:
    """A VM's status as JSON, of at most `room` bytes as far as leaving out its past achieves it: first the story's oldest
    entries go, then the oldest precopies."""
    excess = len(msgspec.json.encode(vm)) - room
    if excess <= 0:
        return vm
    warm = dict(vm.get("warm") or {})
    story, excess = _newest(vm.get("story", ()), LEAST_STORY, excess)
    if warm:
        warm["precopies"], excess = _newest(warm.get("precopies", ()), LEAST_PRECOPIES, excess)
    return {**vm, "story": story} | ({"warm": warm} if warm else {})


def _newest(entries: Sequence[Any], least: int, excess: int) -> tuple[list[Any], int]:
    """What is left when the oldest are gone, and by how many bytes it is still too much."""
    left = list(entries)
    while excess > 0 and len(left) > least:
        excess -= len(msgspec.json.encode(left.pop(0))) + 1
    return left, excess
