"""Times that people type, and what a migration's end means for the exit code."""

from datetime import UTC, datetime
from typing import Any

import pytest

from tranship.cli import output, runs
from tranship.errors import Invalid

NOW = datetime(2026, 1, 31, 23, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("typed", "time"),
    [
        ("now", "2026-01-31T23:00:00Z"),
        ("30m", "2026-01-31T23:30:00Z"),
        ("+1h30m", "2026-02-01T00:30:00Z"),
        ("2026-02-01T01:00:00+02:00", "2026-01-31T23:00:00Z"),
    ],
)
def test_when(typed: str, time: str) -> None:
    assert runs.parse_when(typed, NOW, "--at") == time


@pytest.mark.parametrize("typed", ["", "soon", "5", "2026-02-01", "2026-02-01T25:00:00Z", "99999999999h"])
def test_when_it_is_no_time(typed: str) -> None:
    with pytest.raises(Invalid, match="--at"):
        runs.parse_when(typed, NOW, "--at")


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [(["succeeded"], 0), (["succeeded", "failed"], 4), (["succeeded", "canceled"], 4), (["failed"], 1), ([], 1)],
)
def test_exit_code(outcomes: list[str], code: int) -> None:
    migration: dict[str, Any] = {"status": {"vms": [{"id": one, "outcome": one} for one in outcomes]}}
    assert runs.exit_code(migration) == code


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59, "59s"), (200, "3m20s"), (3600, "1h"), (18600, "5h10m"), (1e6, "11d")]
)
def test_short_span(seconds: float, text: str) -> None:
    assert output.short_span(seconds) == text


def test_columns_stand_under_each_other() -> None:
    assert output.columns([["A", "BB"], ["long\ncell", ""]]) == "A           BB\nlong cell"
