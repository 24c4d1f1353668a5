"""How results and errors look: plain columns as kubectl prints them, JSON, YAML or names; times and ages for people."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from tranship.cli.kinds import Kind
from tranship.errors import TranshipError
from tranship.units import parse_time

FORMATS = ("table", "wide", "json", "yaml", "name")
Object = Mapping[str, Any]


def complain(error: TranshipError, about: str = "") -> None:
    """One line with the cause, one with the remedy, on standard error."""
    click.echo(f"error: {_one_line(f'{about}: {error}' if about else str(error))}", err=True)
    if error.suggestion:
        click.echo(f"  fix: {_one_line(error.suggestion)}", err=True)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def columns(rows: Iterable[Sequence[str]], indent: int = 0) -> str:
    """Cells under each other, three spaces apart, nothing trailing. The first row is the header."""
    table = [[_one_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        " " * indent + "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    )


def json_text(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def yaml_text(value: Any) -> str:
    import yaml

    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120)).rstrip()


def moment(text: Any) -> datetime | None:
    """A time of a status; None for one that is absent or unreadable."""
    try:
        return parse_time(text) if isinstance(text, str) else None
    except ValueError:
        return None


def age(obj: Object, now: datetime) -> str:
    return since(obj["metadata"].get("creationTimestamp"), now)


def since(text: Any, now: datetime) -> str:
    start = moment(text)
    return short_span((now - start).total_seconds()) if start else ""


def short_span(seconds: float) -> str:
    """The two largest units: 45s, 3m20s, 5h10m, 12d."""
    left = max(int(seconds), 0)
    for size, name, smaller, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if left >= size:
            rest = left % size // smaller
            return f"{left // size}{name}" + (f"{rest}{small}" if rest and left < size * 10 else "")
    return f"{left}s"


def object_row(kind: Kind, obj: Object, *, wide: bool, namespaced: bool, now: datetime) -> list[str]:
    own = [column.value(obj) for column in kind.columns if wide or not column.wide]
    place = [obj["metadata"].get("namespace", "")] if namespaced else []
    return [*place, obj["metadata"]["name"], *own, age(obj, now)]


def header(kind: Kind, *, wide: bool, namespaced: bool) -> list[str]:
    own = [column.header for column in kind.columns if wide or not column.wide]
    return [*(["NAMESPACE"] if namespaced else []), "NAME", *own, "AGE"]


def utc_now() -> datetime:
    return datetime.now(UTC)
