"""The moving picture of a migration on a terminal. Used by watch; imports rich, which the other commands do not need."""

from collections.abc import Iterator
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tranship.cli import runs
from tranship.cli.kinds import dig
from tranship.cli.vmtext import current_step, downtime_text, forecast_text, retry_text, seconds_text
from tranship.units import format_bytes, format_rate

Object = dict[str, Any]
BAR = 32
COLOURS = {"succeeded": "green", "failed": "red", "canceled": "yellow"}


def show(states: Iterator[Object | None]) -> Object | None:
    """Draw each state; the last one, or None if the migration was deleted."""
    last: Object | None = None
    with Live(console=Console(), refresh_per_second=4, transient=True) as live:
        for last in states:
            if last is None:
                return None
            live.update(picture(last))
    return last


def picture(migration: Object) -> RenderableType:
    vms = runs.vms_of(migration)
    if not vms:
        text = "; ".join(str(one.get("message")) for one in dig(migration, "status.conditions") or [])
        return Text(f"{migration['metadata']['name']}: {text or 'waiting for its controller'}")
    return Group(*(_vm(vm) for vm in vms))


def _vm(vm: Object) -> RenderableType:
    outcome = vm.get("outcome") or ""
    head = Text()
    head.append(f"{vm.get('name') or vm['id']}", style="bold")
    head.append(f"  {outcome or vm.get('phase', '')}", style=COLOURS.get(outcome, "cyan"))
    head.append(f"  {vm.get('why', '')}")
    parts: list[RenderableType] = [head]
    if tasks := current_step(vm).get("tasks"):
        parts.append(_disks(tasks))
    parts += [Text(f"  {line}", style="dim") for line in (_rounds(vm), downtime_line(vm)) if line]
    if retry := retry_text(vm):
        parts.append(Text(f"  {retry}", style="yellow"))
    return Group(*parts)


def _disks(tasks: list[Object]) -> Table:
    table = Table.grid(padding=(0, 2))
    for task in tasks:
        total, done, rate = (_number(task, key) for key in ("bytesTotal", "bytesDone", "bytesPerSecond"))
        running = task.get("phase") == "Running"
        left = seconds_text((total - done) / rate) if running and rate else ""
        table.add_row(
            Text(f"  {task.get('name', '')}"),
            ProgressBar(total=max(total, 1), completed=total if task.get("phase") == "Completed" else done, width=BAR),
            Text(f"{format_bytes(done)} of {format_bytes(total)}" if total else "waiting", justify="right"),
            Text(format_rate(rate) if running and rate else "", justify="right"),
            Text(f"{left} left" if left else task.get("phase", "").lower(), justify="right"),
            Text(str(dig(task, "annotations.way") or ""), style="dim"),
        )
    return table


def _number(task: Object, key: str) -> int:
    return int(dig(task, f"annotations.{key}") or 0)


def _rounds(vm: Object) -> str:
    """precopy 3, deltas 5 GiB, 16 MiB, 12 MiB; next at 12:30"""
    rounds = dig(vm, "warm.precopies") or []
    if not rounds:
        return ""
    ended = [format_bytes(one.get("bytes") or 0) for one in rounds if one.get("end")]
    parts = [f"precopy {len(rounds)}"]
    if ended:
        parts.append("copied " + ", ".join(ended[-6:]))
    if vm.get("phase") == "CopyingPaused" and (next_one := dig(vm, "warm.nextPrecopyAt")):
        parts.append(f"next at {next_one}")
    return "; ".join(parts)


def downtime_line(vm: Object) -> str:
    if real := downtime_text(vm):
        return f"downtime {real}"
    return forecast_text(vm)
