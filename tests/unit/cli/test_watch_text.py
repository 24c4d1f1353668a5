"""What describe, watch and the live picture show of a VM, from the status that controllers write."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.console import Console

from tranship.cli import live, watch
from tranship.cli.vmtext import vm_text
from tranship.resources.model import to_json
from tranship.resources.vm import (
    CutoverStatus,
    Delta,
    DiskStatus,
    Forecast,
    LedgerEntry,
    Precopy,
    Progress,
    Retry,
    Step,
    StoryEntry,
    Task,
    VMStatus,
    Warm,
)

NOON = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
GIB = 1 << 30


def warm_vm() -> VMStatus:
    """In its third precopy, a try of which failed."""
    numbers = {"bytesTotal": str(GIB), "bytesDone": str(GIB // 2), "bytesCopied": "0", "bytesPerSecond": str(64 << 20)}
    rounds = [
        Precopy(round=1, start=NOON, end=NOON, bytes=5 * GIB, areas=3, seconds=20.0, snapshot="t-1", full=["2000"]),
        Precopy(round=2, start=NOON, end=NOON, bytes=16 << 20, areas=7, seconds=0.5, snapshot="t-2", quiesced=True),
        Precopy(round=3, start=NOON, snapshot="t-3", deltas=[Delta(disk="2000", delta_id="52 1/4")]),
    ]
    return VMStatus(
        id="vm-42",
        name="web",
        phase="CopyDisks",
        entered=NOON,
        why="copying: 512 MiB of 1 GiB",
        itinerary="warm",
        warm=Warm(successes=2, precopies=rounds),
        retry=Retry(count=1, at=NOON, reason="Unreachable", message="no answer"),
        forecast=Forecast(downtime_seconds=42.4, p90_seconds=60, converging=True, basis="2 deltas"),
        disks=[
            DiskStatus(id="2000", name="web-0", capacity=GIB, way="vddk", why="VDDK is there", round=2, verified=True)
        ],
        ledger=[LedgerEntry(kind="snapshot", name="t-3", side="source")],
        story=[StoryEntry(at=NOON + timedelta(seconds=n), phase="CopyDisks", why=f"line {n}") for n in range(5)],
        pipeline=[
            Step(name="Initialize", phase="Completed", started=NOON, completed=NOON + timedelta(seconds=3)),
            Step(
                name="DiskTransfer",
                phase="Running",
                annotations={"unit": "MB"},
                progress=Progress(completed=512, total=1024),
                tasks=[Task(name="web-0", phase="Running", annotations={**numbers, "way": "vddk"})],
            ),
        ],
    )


def moved(vm: VMStatus) -> VMStatus:
    cutover = CutoverStatus(predicted_seconds=42, downtime_seconds=38.5)
    return vm.model_copy(update={"outcome": "succeeded", "phase": "Completed", "cutover": cutover, "retry": None})


def migration(*vms: VMStatus) -> dict[str, Any]:
    return {"metadata": {"name": "web-1", "namespace": "default"}, "status": {"vms": [to_json(vm) for vm in vms]}}


def test_describe_tells_all() -> None:
    text = vm_text(to_json(warm_vm()), cutover="2026-02-01T00:00:00Z", story=2)
    for words in (
        "VM web (vm-42)",
        "copying: 512 MiB of 1 GiB",
        "downtime about 42s (90 % below 1m); precopies converge; from 2 deltas",
        "try 1 failed: no answer; again at 2026-01-31T12:00:00Z",
        "512/1024 MB",
        "VDDK is there",
        "t-1 full: 2000",
        "t-2 quiesced",
        "32 MiB/s",
        "running",
        "source   snapshot   t-3",
        "2026-02-01T00:00:00Z",
        "the last 2 of 5",
        "line 4",
    ):
        assert words in text, f"{words!r} is not in\n{text}"
    assert "line 2" not in text


def test_an_empty_vm_is_no_trouble() -> None:
    assert vm_text(to_json(VMStatus(id="vm-1"))).startswith("VM vm-1")
    assert watch.summary(migration(VMStatus(id="vm-1"))).splitlines()[1].startswith("vm-1")


def test_the_picture_on_a_terminal() -> None:
    console = Console(width=160, force_terminal=True, color_system=None, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(live.picture(migration(warm_vm())))
    text = console.export_text()
    for words in ("web  CopyDisks", "512 MiB of 1 GiB", "64 MiB/s", "8s left", "precopy 3; copied 5 GiB, 16 MiB"):
        assert words in text, f"{words!r} is not in\n{text}"


def test_a_line_per_change() -> None:
    lines: list[str] = []
    vm = warm_vm()
    states = [migration(vm)]
    for done in (520, 530, 620):  # the same tenth, the same tenth, the next one
        vm = vm.model_copy(deep=True)
        vm.why = f"copying: {done} MiB of 1 GiB"
        vm.pipeline[1].progress.completed = done
        states.append(migration(vm))
    states.append(migration(moved(vm)))
    last = watch._log(iter(states), lines.append)
    assert last is states[-1]
    assert ["CopyDisks" in line for line in lines] == [True, True, False]
    assert "620 MiB" in lines[1]
    assert "precopy 3" in lines[0]


def test_the_summary() -> None:
    header, row = watch.summary(migration(moved(warm_vm()))).splitlines()
    assert header.split() == ["VM", "OUTCOME", "BYTES", "PRECOPIES", "PREDICTED", "DOWNTIME", "VERIFIED"]
    assert re.split(r" {2,}", row) == ["web", "succeeded", "5 GiB", "3", "42s", "38s", "1/1 disks"]
