"""Sizes, rates, durations and times, both ways."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tranship.units import (
    format_bytes,
    format_duration,
    format_rate,
    format_time,
    parse_duration,
    parse_time,
)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        ((1 << 30) - 1, "1 GiB"),
        (-(1 << 20), "-1 MiB"),
    ],
)
def test_sizes_are_written(count: int, text: str) -> None:
    assert format_bytes(count) == text


def test_rates() -> None:
    assert format_rate(200 << 20) == "200 MiB/s"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("90s", 90), ("1h30m", 5400), ("500ms", 0.5), ("1.5h", 5400), ("2m0.5s", 120.5), ("10us", 1e-5)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "90", "1 h", "-5m", "h", "5d", "5m3"])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="1h30m"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (5400, "1h30m"), (90, "1m30s"), (0.5, "500ms"), (1.25, "1.25s"), (1e-5, "10us"), (3600, "1h")],
)
def test_durations_are_written(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(min_value=0, max_value=10**15))
def test_a_written_duration_reads_as_itself(micros: int) -> None:
    assert parse_duration(format_duration(micros / 10**6)) == pytest.approx(micros / 10**6, abs=1e-5)


def test_times_are_utc() -> None:
    assert parse_time("2026-01-31T23:00:00Z") == datetime(2026, 1, 31, 23, tzinfo=UTC)
    assert parse_time("2026-02-01T01:00:00+02:00") == datetime(2026, 1, 31, 23, tzinfo=UTC)
    assert parse_time("2026-01-31T23:00:00.123456789Z").microsecond == 123456
    assert parse_time("2026-02-01T01:00:00+02:00").tzinfo is UTC
    east = datetime(2026, 2, 1, 1, tzinfo=timezone(timedelta(hours=2)))
    assert format_time(east) == "2026-01-31T23:00:00Z"


@pytest.mark.parametrize("text", ["", "tomorrow", "2026-01-31", "2026-01-31T23:00:00", "2026-13-01T00:00:00Z"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no time"):
        parse_time(text)


def test_a_time_without_zone_is_not_written() -> None:
    with pytest.raises(ValueError, match="zone"):
        format_time(datetime(2026, 1, 31))


@given(st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30), timezones=st.just(UTC)))
def test_a_written_time_reads_as_itself(moment: datetime) -> None:
    assert parse_time(format_time(moment)) == moment
