"""A walk as text: one readable line per step. Golden files, docs and `describe` show these."""

from collections.abc import Iterable

from tranship.resources.vm import StoryEntry


def line(entry: StoryEntry, start: float = 0.0) -> str:
    asked = f"  asks {', '.join(entry.asked)}" if entry.asked else ""
    return f"{entry.at.timestamp() - start:7.1f}s  {entry.phase:<32}{entry.why}{asked}"


def tell(entries: Iterable[StoryEntry]) -> str:
    listed = list(entries)
    start = listed[0].at.timestamp() if listed else 0.0
    return "\n".join(line(entry, start) for entry in listed) + "\n"
