"""Reading the Engine's JSON, where every number and boolean is a string and what is empty is left out. Pure.

Called by all of the oVirt provider. Each takes a path of keys into nested objects and is quiet about what is not there.
"""

from typing import Any

Entity = dict[str, Any]
"""One object as the Engine writes it."""


def get(value: Any, *path: str) -> Any:
    """What lies at the end of the path; None if any part of it is missing."""
    for name in path:
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def text(value: Any, *path: str) -> str:
    """ "" for what is missing or no scalar. A boolean reads as the Engine writes it: true, false."""
    found = get(value, *path) if path else value
    if isinstance(found, bool):
        return "true" if found else "false"
    return str(found) if isinstance(found, str | int | float) else ""


def boolean(value: Any, *path: str) -> bool:
    return text(value, *path).lower() in ("true", "1")


def integer(value: Any, *path: str, default: int = 0) -> int:
    try:
        return int(text(value, *path))
    except ValueError:
        return default


def many(value: Any, *path: str) -> list[Entity]:
    """The members of a collection at the end of the path: {"nic": [...]} as much as the list itself, {} as nothing. The
    Engine's XML-minded JSON writes a collection as an object with one key, the name of its members."""
    found = get(value, *path) if path else value
    if isinstance(found, dict):
        found = next((inner for inner in found.values() if isinstance(inner, list)), [])
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []
