"""The small channel between a controller and a mover on this host: one folder for each disk and round.

    job.json       what to do (0600); its secrets are removed by the mover as soon as it has read them
    changed        the areas of a delta, one "start length" a line
    progress.json  twice a second
    result.json    the end, durably: digest and numbers, or the error
    lock           held (flock) by the mover while it lives, from before its first instruction; holds its pid
    mover.log      what it says, with one canonical line at the end

The state folder of a disk (journal, digests) outlives its rounds and has a lock of its own, so that there are never two
movers on one target. Controllers call start, look, stop, scrub and probe; the mover calls the rest. Everything adopts: to
start what runs, or what is done, changes nothing.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any

from tranship.errors import Busy, Side, TimedOut
from tranship.transfer.address import DiskAddress, Extent
from tranship.transfer.extents import merge
from tranship.transfer.journal import sync_folder
from tranship.transfer.library import environment


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One round of one disk. disk: its name in messages. state: folder of journal and digests, the same for all rounds of
    the disk. point: what of the source is read (snapshot name or changeId): a copy goes on only while it is equal.
    base: the round that a delta builds on, with `changed` since then; None = full copy. fresh: the target is known to
    read as zeros. along: prove what is finished before it is named, for a mover whose digests do not outlive it. identity:
    of the very object behind the target's path, where the path cannot tell. connections, depth: 0 = by the measured
    latency. Sizes in bytes."""

    disk: str
    source: DiskAddress
    target: DiskAddress
    size: int
    round: str
    point: str
    state: Path
    base: str | None = None
    changed: tuple[Extent, ...] | None = field(default=None, repr=False)
    fresh: bool = False
    verify: bool = True
    along: bool = False
    identity: str = ""
    connections: int = 0
    depth: int = 0


class State(Enum):
    ABSENT = "absent"  # no mover was started here
    RUNNING = "running"
    DONE = "done"  # copied, flushed, and read back if the job says so
    FAILED = "failed"
    LOST = "lost"  # it was stopped, or died without a word; the journal remains and start goes on


@dataclass(frozen=True, slots=True)
class Report:
    """What a mover's folder says. Bytes: total of the plan, done so far, copied (written), zeroed, skipped (zeros left
    out), read. areas: changed ones that the source named. phase: opening, copying, verifying. proved, to_prove: bytes of
    the reading back. Of a failure: reason, message, temporary, suggestion as in `tranship.errors`."""

    state: State
    phase: str = ""
    total: int = 0
    done: int = 0
    copied: int = 0
    zeroed: int = 0
    skipped: int = 0
    read: int = 0
    areas: int = 0
    healed: int = 0
    proved: int = 0
    to_prove: int = 0
    seconds: float = 0.0
    verify_seconds: float = 0.0
    digest: str = ""
    verified: bool = False
    reason: str = ""
    message: str = ""
    temporary: bool = False
    suggestion: str = ""
    side: str = ""


@dataclass(frozen=True, slots=True)
class Probed:
    """Outcome of reading a few blocks. size: of the disk; seconds: for all of it, the connection included."""

    works: bool
    detail: str
    reason: str = ""
    size: int = 0
    seconds: float = 0.0


def report(state: State, data: Mapping[str, Any]) -> Report:
    """What a mover told, as it stands in its files: unknown names are left out."""
    known = {one.name for one in fields(Report)}
    return Report(**{**{k: v for k, v in data.items() if k in known}, "state": state})


# -- the controller's side -------------------------------------------------------------------------------------------


def start(folder: Path, job: Job) -> None:
    """Have a mover run this job in this folder, unless one does or it is done. Raises Busy while another mover, of another
    round, is on the same disk."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    job.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    own = lock(folder)
    if own is None:
        return
    try:
        if _load(folder / "result.json").get("state") == State.DONE.value:
            return
        whole = lock(job.state)
        if whole is None:
            raise Busy("", side=Side.OURS, what=f"disk {job.disk}", fault="another mover runs")
        try:
            for stale in ("result.json", "progress.json"):
                (folder / stale).unlink(missing_ok=True)
            _write_job(folder, job)
            pid = _spawn(folder, job.source, (own, whole))
            os.truncate(own, 0)
            os.pwrite(own, str(pid).encode(), 0)
        finally:
            os.close(whole)
    finally:
        os.close(own)


def look(folder: Path) -> Report:
    """What the mover says now. Never blocks."""
    if _locked(folder):
        return report(State.RUNNING, _load(folder / "progress.json"))
    result = _load(folder / "result.json")
    if result.get("state") in (State.DONE.value, State.FAILED.value):
        return report(State(result["state"]), result)
    if (folder / "job.json").exists():
        return report(State.LOST, result or _load(folder / "progress.json"))
    return Report(State.ABSENT)


def stop(folder: Path, deadline: float = 10.0) -> None:
    """End the mover: politely, so that it writes its journal, and after `deadline` seconds by force. Raises TimedOut when
    even that does not help (it hangs in the kernel)."""
    for number, seconds in ((signal.SIGTERM, deadline), (signal.SIGKILL, 10.0)):
        until = time.monotonic() + seconds
        sent = False
        while _locked(folder):
            pid = (folder / "lock").read_text()
            if pid and not sent:
                sent = True
                _signal(int(pid), number)
            if time.monotonic() > until:
                break
            time.sleep(0.02)
        else:
            return
    raise TimedOut(f" ({folder})", what="the end of a mover", seconds=deadline + 10.0)


def scrub(folder: Path) -> None:
    """Remove the secrets of a job, should its mover never have come to read them."""
    job = _load(folder / "job.json")
    if job and not _locked(folder):
        _without_secrets(folder, job)


def probe(source: DiskAddress, size: int = 0, timeout: float = 60.0) -> Probed:
    """Read a few blocks in a process of its own. Every trouble is an answer, none an exception."""
    question = json.dumps({"source": _address(source), "size": size})
    argv = [sys.executable, "-m", "tranship.transfer.mover", "--probe"]
    try:
        done = subprocess.run(
            argv, input=question, capture_output=True, text=True, timeout=timeout, env=environment(source, os.environ)
        )
        return Probed(**json.loads(done.stdout.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        return Probed(False, f"no answer within {timeout:.0f} s", "TimedOut")
    except (ValueError, IndexError):
        return Probed(False, f"the reader died with code {done.returncode}", "CopyFailed")


def told(job: Job) -> dict[str, Any]:
    """What stands in job.json, secrets included."""
    data = {name: getattr(job, name) for name in Job.__slots__ if name != "changed"}
    data |= {"source": _address(job.source), "target": _address(job.target), "state": str(job.state.resolve())}
    return {**data, "listed": job.changed is not None}


def listed(changed: Iterable[Extent]) -> Iterator[str]:
    """The lines of `changed`: in order, and none touching the next."""
    return (f"{area.start} {area.length}\n" for area in merge(Extent(*area[:2]) for area in sorted(changed)))


# -- the mover's side ------------------------------------------------------------------------------------------------


def take(folder: Path) -> tuple[Job, bool]:
    """The job, and whether it is a delta's with a list of areas (see `areas`). Its secrets leave the disk."""
    data = _load(folder / "job.json")
    _without_secrets(folder, data)
    data["source"], data["target"] = DiskAddress(**data["source"]), DiskAddress(**data["target"])
    data["state"] = Path(data["state"])
    listed = bool(data.pop("listed"))
    return Job(**data), listed


def areas(folder: Path) -> Iterator[Extent]:
    """The changed areas, read as they are needed: there may be millions."""
    with (folder / "changed").open() as file:
        for line in file:
            begin, _, length = line.partition(" ")
            yield Extent(int(begin), int(length))


def tell(folder: Path, phase: str, facts: Mapping[str, Any]) -> None:
    _replace(folder / "progress.json", {"phase": phase, **facts}, durable=False)


def conclude(folder: Path, facts: Mapping[str, Any]) -> None:
    """The mover's last word. Durable when this returns."""
    _replace(folder / "result.json", facts, durable=True)


def lock(folder: Path) -> int | None:
    """A descriptor that holds the folder's lock, or None when somebody has it. Passed on to a child, the child has it."""
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


# -- inside ----------------------------------------------------------------------------------------------------------


def _locked(folder: Path) -> bool:
    """A look may make a start at the same instant believe that a mover runs; it is asked again after the next look."""
    try:
        fd = os.open(folder / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _spawn(folder: Path, source: DiskAddress, locks: tuple[int, ...]) -> int:
    argv = [sys.executable, "-m", "tranship.transfer.mover", str(folder.resolve())]
    log = os.open(folder / "mover.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        child = subprocess.Popen(
            [*argv, "--locked"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=environment(source, os.environ),
            pass_fds=locks,
            start_new_session=True,
        )
    finally:
        os.close(log)
    return child.pid


def _write_job(folder: Path, job: Job) -> None:
    if job.changed is not None:
        with (folder / "changed").open("w") as file:
            file.writelines(listed(job.changed))
    _replace(folder / "job.json", told(job), durable=True)


def _without_secrets(folder: Path, job: Mapping[str, Any]) -> None:
    bare = {name: {"url": job[name]["url"], "credentials": {}} for name in ("source", "target")}
    _replace(folder / "job.json", {**job, **bare}, durable=True)


def _address(address: DiskAddress) -> dict[str, Any]:
    return {"url": address.url, "credentials": dict(address.credentials)}


def _replace(path: Path, data: Mapping[str, Any], *, durable: bool) -> None:
    new = path.with_suffix(".new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as file:
        json.dump(data, file)
        file.flush()
        if durable:
            os.fsync(fd)
    new.replace(path)
    if durable:
        sync_folder(path.parent)


def _load(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _signal(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return
