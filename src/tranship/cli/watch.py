"""`tranship watch`: a migration while it runs. Bars on a terminal, one line per change elsewhere; ends with the migration."""

import os
import re
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import click

from tranship.cli import output, runs
from tranship.cli.client import Client
from tranship.cli.context import Context, namespace_option, pass_context
from tranship.cli.kinds import MIGRATION, PLAN, dig, plan_name
from tranship.cli.vmtext import current_step, forecast_text, retry_text, seconds_text
from tranship.errors import NotReady
from tranship.units import format_bytes

Object = dict[str, Any]
STEPS_OF_PROGRESS = 10  # percent between two lines about a copy


@click.command()
@click.argument("plan")
@namespace_option
@pass_context
def watch(context: Context, plan: str, namespace: str) -> int:
    """Follow PLAN's migration until it ends.

    The exit code is 0 if all VMs were moved, 4 if some were, 1 if none was.
    """
    client, name = context.client, plan_name(plan)
    migration = runs.latest(client, namespace, name)
    if migration is None:
        client.get(PLAN, namespace, name)
        raise NotReady("it was never started", what="plan", name=name, remedy=f"Start it: tranship start {name}.")
    return follow(client, migration)


def follow(client: Client, migration: Object) -> int:
    """Show it until it ends; its exit code. Also used by start."""
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        from tranship.cli.live import show

        last = show(_states(client, migration))
    else:
        last = _log(_states(client, migration), click.echo)
    if last is None:
        click.echo("The migration was deleted: its VMs are cancelled.", err=True)
        return 1
    click.echo("\n" + summary(last))
    return runs.exit_code(last)


def _states(client: Client, migration: Object) -> Iterator[Object | None]:
    """The migration after every change, the last time when it has ended; None = deleted."""
    meta = migration["metadata"]
    for type, obj in client.watch(MIGRATION, meta["namespace"], meta["name"]):
        if type == "DELETED" or obj["metadata"]["uid"] != meta["uid"]:
            yield None
            return
        yield obj
        if runs.ended_at(obj):
            return


def _log(states: Iterator[Object | None], say: Callable[[str], None]) -> Object | None:
    """A line whenever a VM says something new. A copy's progress counts only every tenth."""
    said: dict[str, tuple[str, ...]] = {}
    last: Object | None = None
    for last in states:
        if last is None:
            return None
        for one in runs.blockers(last):
            text = str(one.get("message") or one.get("type"))
            if said.get("") != (text,):
                said[""] = (text,)
                say(f"{'-':20}  {text}")
        for vm in runs.vms_of(last):
            mark = (
                vm.get("phase", ""),
                re.sub(r"\d+(\.\d+)?", "#", vm.get("why", "")),
                retry_text(vm),
                str(_tenth(vm)),
            )
            if said.get(vm["id"]) != mark:
                said[vm["id"]] = mark
                say(_line(vm))
    return last


def _tenth(vm: Object) -> int:
    step = current_step(vm)
    total = dig(step, "progress.total") or 0
    return int(100 * (dig(step, "progress.completed") or 0) / total) // STEPS_OF_PROGRESS if total > 1 else 0


def _line(vm: Object) -> str:
    at = vm.get("story", [{}])[-1].get("at") if vm.get("story") else vm.get("entered")
    moment = output.moment(at)
    parts = [_clock(moment), str(vm.get("name") or vm["id"]), str(vm.get("phase", "")), str(vm.get("why", ""))]
    if (rounds := dig(vm, "warm.precopies")) and vm.get("phase") == "CopyDisks":
        parts.append(f"precopy {len(rounds)}")
    if vm.get("phase") == "CopyingPaused" and (forecast := forecast_text(vm)):
        parts.append(forecast)
    return "  ".join([*parts, retry_text(vm)]).rstrip()


def _clock(moment: datetime | None) -> str:
    return moment.strftime("%H:%M:%SZ") if moment else "-"


def summary(migration: Object) -> str:
    """One row per VM: what was moved, how often, how long it was down."""
    rows = [["VM", "OUTCOME", "BYTES", "PRECOPIES", "PREDICTED", "DOWNTIME", "VERIFIED"]]
    notes = []
    for vm in runs.vms_of(migration):
        disks, rounds = vm.get("disks") or [], dig(vm, "warm.precopies") or []
        name = str(vm.get("name") or vm["id"])
        rows.append(
            [
                name,
                vm.get("outcome") or vm.get("phase") or "",
                format_bytes(_copied(vm)),
                str(len(rounds)) if rounds else "-",
                seconds_text(dig(vm, "cutover.predictedSeconds")) or "-",
                seconds_text(dig(vm, "cutover.downtimeSeconds")) or "-",
                f"{sum(bool(disk.get('verified')) for disk in disks)}/{len(disks)} disks",
            ]
        )
        for one in vm.get("conditions") or []:
            if one.get("status") == "True" and one.get("category") in ("Warn", "Error", "Critical"):
                notes.append(f"{name}: {one.get('message', '')} {one.get('suggestion', '')}".rstrip())
    return "\n".join([output.columns(rows), *notes])


def _copied(vm: Object) -> int:
    """Over all rounds; a cold migration has only the pipeline's numbers."""
    rounds = dig(vm, "warm.precopies") or []
    if rounds:
        return sum(one.get("bytes") or 0 for one in rounds)
    tasks = [task for step in vm.get("pipeline") or [] for task in step.get("tasks") or []]
    return sum(int(dig(task, "annotations.bytesCopied") or 0) for task in tasks)
