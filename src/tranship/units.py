"""Bytes, rates, durations and points in time as people and manifests write them, both ways. Pure.

Called by resources (durations and times in manifests), by the command line (what the user types and reads) and by log
lines. Every parser raises ValueError with a sentence that says what would have been right; callers add the field.
Durations are Go's ("1h30m"), because Forklift's and Kubernetes' are; seconds are floats. Times are aware and in UTC.
"""

import re
from datetime import UTC, datetime, timedelta, timezone

_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")

_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d+))?(?:([Zz])|([+-])(\d\d):(\d\d))",
)


def format_bytes(count: float) -> str:
    """For people: "0 B", "640 KiB", "1.5 GiB"."""
    value, units = float(abs(count)), ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
    index = 0
    while index < len(units) - 1 and round(value, 1) >= 1024:
        value, index = value / 1024, index + 1
    number = f"{value:.1f}".removesuffix(".0")
    return f"{'-' if count < 0 else ''}{number} {units[index]}"


def format_rate(bytes_per_second: float) -> str:
    return f"{format_bytes(bytes_per_second)}/s"


def parse_duration(text: str) -> float:
    """Go's notation, never negative: "1h30m", "90s", "500ms", "0"."""
    if text == "0":
        return 0.0
    parts = list(_PART.finditer(text))
    if not parts or "".join(part[0] for part in parts) != text:
        raise ValueError(f"{text!r} is no duration: write it with units, such as 90s, 5m or 1h30m")
    return sum(float(part[1]) * _SECONDS[part[2]] for part in parts)


def format_duration(seconds: float) -> str:
    """The shortest Go notation: "1h30m", "1m30s", "1.5s", "500ms". Finer than a microsecond is dropped."""
    micros = round(abs(seconds) * 1_000_000)
    if micros == 0:
        return "0s"
    sign = "-" if seconds < 0 else ""
    if micros < 1000:
        return f"{sign}{micros}us"
    if micros < 1_000_000:
        return f"{sign}{_number(micros, 1000)}ms"
    hours, rest = divmod(micros, 3_600_000_000)
    minutes, rest = divmod(rest, 60_000_000)
    parts = [f"{hours}h" if hours else "", f"{minutes}m" if minutes else "", f"{_number(rest, 10**6)}s" if rest else ""]
    return sign + "".join(parts)


def _number(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    digits = f"{rest:0{len(str(unit)) - 1}d}".rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)


def parse_time(text: str) -> datetime:
    """RFC 3339, with an offset or Z; the result is in UTC. Finer than a microsecond is dropped."""
    match = _TIME.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is no time: write it as 2026-01-31T23:00:00Z")
    offset = timedelta(hours=int(match[6] or 0), minutes=int(match[7] or 0)) * (-1 if match[5] == "-" else 1)
    try:
        moment = datetime.fromisoformat(f"{match[1]}T{match[2]}").replace(tzinfo=timezone(offset))
        return (moment + timedelta(microseconds=int((match[3] or "")[:6].ljust(6, "0")))).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{text!r} is no time: {error}") from error


def format_time(moment: datetime) -> str:
    """RFC 3339 in UTC with Z; the fraction only where there is one. Raises ValueError for a time without a zone."""
    if moment.tzinfo is None:
        raise ValueError("a time without a zone means nothing here")
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
