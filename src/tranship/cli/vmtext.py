"""One VM's migration as text: phase, pipeline, disks, precopies, forecast, what was made, and its story. Used by describe."""

from typing import Any

from tranship.cli import output
from tranship.cli.kinds import dig
from tranship.cli.output import moment
from tranship.units import format_bytes, format_duration, format_rate

Object = dict[str, Any]


def seconds_text(value: Any) -> str:
    """Two or three digits that matter: 0.35s, 6.1s, 42s, 3m20s."""
    if not isinstance(value, int | float):
        return ""
    return format_duration(round(value, 2 if value < 1 else 1 if value < 10 else 0))


def vm_text(vm: Object, *, cutover: str | None = None, story: int | None = None) -> str:
    """cutover: a time of the VM's own. story: how many of its last lines; None = all."""
    name = vm.get("name") or vm.get("id")
    parts = [
        f"VM {name} ({vm.get('id', '')})" + (f" -> {vm['newName']}" if vm.get("newName") else ""),
        _state(vm, cutover),
        _pipeline(vm),
        _disks(vm),
        _precopies(vm),
        _ledger(vm),
        _story(vm, story),
    ]
    return "\n".join(part for part in parts if part)


def _state(vm: Object, cutover: str | None) -> str:
    rows = [
        ("Phase", f"{vm.get('phase', '')}" + (f" since {vm['entered']}" if vm.get("entered") else "")),
        ("Why", vm.get("why")),
        ("Outcome", vm.get("outcome")),
        ("Error", "; ".join(dig(vm, "error.reasons") or [])),
        ("Retry", retry_text(vm)),
        ("Itinerary", vm.get("itinerary")),
        ("Source was", vm.get("restorePowerState")),
        ("Cutover", cutover),
        ("Forecast", forecast_text(vm)),
        ("Downtime", downtime_text(vm)),
    ]
    lines = [(f"{name}:", str(value)) for name, value in rows if value]
    for one in vm.get("conditions") or []:
        if one.get("category") in ("Warn", "Error", "Critical"):
            lines.append((f"{one.get('type')}:", f"{one.get('message', '')} {one.get('suggestion', '')}".strip()))
    return output.columns(lines, 2) if lines else ""


def retry_text(vm: Object) -> str:
    retry = vm.get("retry") or {}
    if not retry.get("count"):
        return ""
    return f"try {retry['count']} failed: {retry.get('message') or retry.get('reason')}; again at {retry.get('at', 'once')}"


def forecast_text(vm: Object) -> str:
    """downtime about 42s (90 % below 60s); precopies get shorter; from ..."""
    forecast = vm.get("forecast") or {}
    parts = []
    if (expected := seconds_text(forecast.get("downtimeSeconds"))) != "":
        high = seconds_text(forecast.get("p90Seconds"))
        parts.append(f"downtime about {expected}" + (f" (90 % below {high})" if high else ""))
    if forecast.get("converging") is not None:
        parts.append("precopies converge" if forecast["converging"] else "precopies do NOT converge")
    if parts and forecast.get("basis"):
        parts.append(f"from {forecast['basis']}")
    return "; ".join(parts)


def downtime_text(vm: Object) -> str:
    real = seconds_text(dig(vm, "cutover.downtimeSeconds"))
    if not real:
        return ""
    predicted = seconds_text(dig(vm, "cutover.predictedSeconds"))
    return real + (f", predicted {predicted}" if predicted else "")


def current_step(vm: Object) -> Object:
    """The pipeline's running step, {} when none runs."""
    return next((step for step in vm.get("pipeline") or [] if step.get("phase") == "Running"), {})


def _pipeline(vm: Object) -> str:
    rows = [["STEP", "PHASE", "PROGRESS", "STARTED", "TOOK"]]
    for step in vm.get("pipeline") or []:
        done, total = dig(step, "progress.completed") or 0, dig(step, "progress.total") or 0
        unit = dig(step, "annotations.unit") or ""
        start, end = moment(step.get("started")), moment(step.get("completed"))
        took = seconds_text((end - start).total_seconds()) if start and end else ""
        error = "; ".join(dig(step, "error.reasons") or [])
        progress = f"{done}/{total} {unit}".strip() + (f"  failed: {error}" if error else "")
        rows.append([step.get("name", ""), step.get("phase", ""), progress, step.get("started") or "", took])
    return "  Pipeline:\n" + output.columns(rows, 4) if len(rows) > 1 else ""


def _disks(vm: Object) -> str:
    rows = [["DISK", "CAPACITY", "WAY", "VERIFIED", "DIGEST", "BECAUSE"]]
    for disk in vm.get("disks") or []:
        rows.append(
            [
                f"{disk.get('name') or disk.get('id')}",
                format_bytes(disk.get("capacity") or 0),
                disk.get("way") or "",
                f"round {disk.get('round')}" if disk.get("verified") else "no",
                (disk.get("digest") or "")[:16],
                disk.get("why") or "",
            ]
        )
    return "  Disks:\n" + output.columns(rows, 4) if len(rows) > 1 else ""


def _precopies(vm: Object) -> str:
    rows = [["N", "START", "TOOK", "BYTES", "AREAS", "RATE", "SNAPSHOT"]]
    for number, one in enumerate(dig(vm, "warm.precopies") or [], 1):
        copied, seconds = one.get("bytes") or 0, one.get("seconds") or 0
        ended = one.get("end") is not None
        kind = {True: " quiesced", False: " crash-consistent"}.get(one.get("quiesced"), "")
        full = f" full: {', '.join(one['full'])}" if one.get("full") else ""
        rows.append(
            [
                str(one.get("round") or number),
                one.get("start") or "",
                seconds_text(seconds) if ended else "running",
                format_bytes(copied) if ended else "",
                str(one.get("areas") or "") if ended else "",
                format_rate(copied / seconds) if ended and seconds else "",
                f"{one.get('snapshot') or ''}{kind}{full}",
            ]
        )
    return "  Precopies:\n" + output.columns(rows, 4) if len(rows) > 1 else ""


def _ledger(vm: Object) -> str:
    rows = [[entry.get("side", ""), entry.get("kind", ""), entry.get("name", "")] for entry in vm.get("ledger") or []]
    return "  Made for it:\n" + output.columns(rows, 4) if rows else ""


def _story(vm: Object, length: int | None) -> str:
    story = vm.get("story") or []
    shown = story if length is None else story[-length:]
    rows = [[entry.get("at", ""), entry.get("phase", ""), _event(entry)] for entry in shown]
    earlier = f" (the last {len(shown)} of {len(story)}; all with --story)" if len(shown) < len(story) else ""
    return f"  Story{earlier}:\n" + output.columns(rows, 4) if rows else ""


def _event(entry: Object) -> str:
    asked = ", ".join(entry.get("asked") or [])
    return f"{entry.get('why', '')}" + (f" [asks {asked}]" if asked else "")
