"""`tranship demo`: the lab, a server and five migrations, driven by the same commands and manifests as any other's.

What the table at the end says is not asked of tranship: the last record is read from the source guest's and the moved
guest's own serial lines, snapshots and power-offs from the lab.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from tranship.cli.client import Client
from tranship.cli.kinds import MIGRATION
from tranship.errors import TimedOut, TranshipError
from tranship.lab.showroom import Showroom
from tranship.units import format_bytes, format_duration

CUTOVER_AFTER = 45  # seconds from the start of the run with a scheduled cutover
DEADLINE = 280.0
CHECK = re.compile(r"TRANSHIP CHECK last=(\d+) valid=(\d+) bad=(\d+)")


@click.command()
@click.option("--directory", type=click.Path(path_type=Path), help="Keep everything there  [default: temporary].")
def demo(directory: Path | None) -> None:
    """Move five machines of a simulated vCenter and oVirt Engine to this host, and count what was lost.

    Of the vCenter's one is stopped (cold), one runs with two disks (warm, by VDDK, cutover scheduled in its manifest), one
    runs (warm without VDDK, cutover by command). Of the Engine's one is stopped (cold), one runs (warm by incremental backup,
    cutover by command). Exit code 1 if anything is off.
    """
    with tempfile.TemporaryDirectory(prefix="tranship-demo-") as temporary:
        home = directory or Path(temporary)
        home.mkdir(parents=True, exist_ok=True)
        click.echo(
            "Starting the lab: a vCenter and an oVirt Engine with five machines; three run and write records without pause."
        )
        with Showroom(home / "lab") as room, _server(home / "server") as tranship:
            try:
                outcome = _Demo(room, tranship, home).run()
            finally:
                _stop_machines(room.targets)
        sys.exit(0 if outcome else 1)


@dataclass
class _Tranship:
    """The command line, run as a user would, and a client to look at the result."""

    environment: dict[str, str]
    client: Client

    def __call__(self, *words: str) -> None:
        click.secho(f"$ tranship {' '.join(words)}", bold=True)
        argv = [sys.executable, "-m", "tranship", *words]
        done = subprocess.run(argv, env=self.environment, capture_output=True, text=True, timeout=120)
        click.echo("".join(f"  {line}\n" for line in (done.stdout + done.stderr).splitlines()), nl=False)
        if done.returncode:
            raise click.ClickException(f"the command ended with code {done.returncode}")


@contextmanager
def _server(home: Path) -> Iterator[_Tranship]:
    environment = {**os.environ, "TRANSHIP_HOME": str(home)}
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    log = (home / "server.log").open("w")
    argv = [sys.executable, "-m", "tranship", "serve", "--directory", str(home), "--port", "0"]
    process = subprocess.Popen(argv, env=environment, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 30
        while not ((home / "server").exists() and (home / "token").exists()):
            if process.poll() is not None or time.monotonic() > until:
                raise click.ClickException(f"the server did not start: {(home / 'server.log').read_text()[-2000:]}")
            time.sleep(0.05)
        url, token = ((home / name).read_text().strip() for name in ("server", "token"))
        client = Client(url, token, str(home / "ca.crt"))
        with client:
            yield _Tranship(environment, client)
    finally:
        process.terminate()
        process.wait(timeout=30)
        log.close()


class _Demo:
    def __init__(self, room: Showroom, tranship: _Tranship, home: Path) -> None:
        self.room, self.tranship, self.home = room, tranship, home
        self._told: dict[str, str] = {}
        self._begun = time.monotonic()

    def run(self) -> bool:
        manifests = self.room.write_manifests()
        self.tranship("apply", "-f", str(manifests))
        self.tranship("wait", "--for=condition=Ready", *(f"plan/{name}" for name in self.room.names), "--timeout=90s")
        cutover = datetime.now(UTC) + timedelta(seconds=CUTOVER_AFTER)
        self.tranship("apply", "-f", str(self.room.write_run("shop", cutover)))
        for name in ("archive", "mail", "ledger", "clinic"):
            self.tranship("start", name)
        self._follow()
        self.tranship("get", "plans")
        rows = [_judge(self.room, name, self._runs()[name]) for name in self.room.names]
        _print_table(rows)
        return all(row.good for row in rows)

    def _follow(self) -> None:
        """One line for each phase, until all have ended; the cutovers that no manifest schedules are given meanwhile."""
        waiting = {"mail": 1, "clinic": 3}  # precopies before the cutover
        while time.monotonic() - self._begun < DEADLINE:
            runs = self._runs()
            for name, run in runs.items():
                self._tell(name, run)
            for name, precopies in list(waiting.items()):
                done = len(runs[name].get("warm", {}).get("precopies", []))
                if done >= precopies and runs[name].get("phase") == "CopyingPaused":
                    del waiting[name]
                    self.tranship("cutover", name, "--now")
            if all(run.get("completed") for run in runs.values()):
                return
            time.sleep(0.25)
        raise TimedOut(" (see --directory for its logs)", what="the demo", seconds=DEADLINE)

    def _runs(self) -> dict[str, dict[str, Any]]:
        """The status of each plan's one VM."""
        found: dict[str, dict[str, Any]] = {name: {} for name in self.room.names}
        for run in self.tranship.client.list(MIGRATION, "default")["items"]:
            for vm in run.get("status", {}).get("vms", []):
                found[run["spec"]["plan"]["name"]] = vm
        return found

    def _tell(self, name: str, vm: dict[str, Any]) -> None:
        phase = vm.get("phase", "")
        if phase and self._told.get(name) != phase:
            self._told[name] = phase
            click.echo(f"  {time.monotonic() - self._begun:6.1f}s  {name:<8} {phase:<30} {vm.get('why', '')}")


@dataclass
class _Row:
    """good: nothing is off. cells: what the table shows."""

    good: bool
    cells: list[str]


HEADINGS = (
    ("machine", "left"),
    ("way", "left"),
    ("copied", "right"),
    ("deltas", "left"),
    ("downtime", "right"),
    ("predicted", "right"),
    ("read back", "left"),
    ("last record", "left"),
    ("left there", "right"),
)


def _judge(room: Showroom, name: str, vm: dict[str, Any]) -> _Row:
    machine = room.machines[name]
    rounds = vm.get("warm", {}).get("precopies", [])
    disks = vm.get("disks", [])
    source = machine.guest.last if machine.guest else -1
    checked = _target_check(room.targets / "demo" / name / "serial.log")
    last, bad = (checked[0], checked[2]) if checked else (-1, -1)
    proved = all(disk.get("verified") for disk in disks) and bool(disks)
    equal = source == last and bad == 0
    cutover = vm.get("cutover", {})
    sizes = [int(one.get("bytes", 0)) for one in rounds]
    copied = sum(sizes) if rounds else _copied_cold(vm)
    good = vm.get("outcome") == "succeeded" and proved and equal and not room.left(name)
    return _Row(
        good,
        [
            name,
            f"{'warm' if rounds else 'cold'}, {disks[0]['way'] if disks else '?'}",
            format_bytes(copied),
            " ".join(format_bytes(size) for size in sizes[1:]) or "-",
            _seconds(cutover.get("downtimeSeconds")),
            _seconds(cutover.get("predictedSeconds")),
            "yes" if proved else "NO",
            f"{source} {'=' if source == last else '≠'} {last}" + (f", {bad} BAD" if bad else ""),
            str(room.left(name)),
        ],
    )


def _copied_cold(vm: dict[str, Any]) -> int:
    tasks = [task for step in vm.get("pipeline", []) for task in step.get("tasks", [])]
    return sum(int(task.get("annotations", {}).get("bytesCopied", 0)) for task in tasks)


def _target_check(log: Path) -> tuple[int, int, int] | None:
    """What the moved guest itself found on its disks when it booted here."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        found = CHECK.search(log.read_text(errors="replace")) if log.exists() else None
        if found:
            return int(found[1]), int(found[2]), int(found[3])
        time.sleep(0.2)
    return None


def _seconds(value: float | None) -> str:
    return "-" if value is None else format_duration(round(value, 1))


def _print_table(rows: list[_Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="What was moved, and what was lost")
    for heading, side in HEADINGS:
        table.add_column(heading, justify="right" if side == "right" else "left", no_wrap=heading != "deltas")
    for row in rows:
        table.add_row(*row.cells, style=None if row.good else "bold red")
    Console(width=None if sys.stdout.isatty() else 130).print(table)
    verdict = "Nothing was lost." if all(row.good for row in rows) else "Something is off: see the red rows."
    click.secho(verdict, bold=True)


def _stop_machines(targets: Path) -> None:
    from tranship.providers.local import qemu

    for machine in targets.glob("*/*/"):
        try:
            qemu.stop(machine, 1.0)
        except TranshipError as error:
            click.echo(f"{machine.name} still runs: {error}", err=True)
