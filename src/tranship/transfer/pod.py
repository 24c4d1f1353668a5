"""A mover in a pod: `python -m tranship.transfer.pod [ROOT]`, the container that providers/kubevirt/jobs.py writes.

    /job       a mounted Secret: job.json and changed, as in a mover's folder
    /journal   a mounted ConfigMap: journal, what earlier pods of this disk had finished
    /work      memory: the mover's folder; goes with the pod
    /disk      the volume: a folder for disk.img, or the block device itself
    /vddk      where the source is read by VMware's library: that, from an image or a claim

The pod has no access to the cluster that it runs in. What it knows it says: each second one line on its standard output, the
report and the journal so far; at the end the report once more, as the container's termination message. The controller reads
both. So the journal that the next pod finds is that of a second or two before this one died, and it names only what was read
back. A line comes at least every HEARTBEAT seconds: a pod that is silent for much longer hangs.
"""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tranship.errors import CopyFailed, Refused, Side, TranshipError
from tranship.transfer import channel
from tranship.transfer.address import DiskAddress
from tranship.transfer.channel import Report, State
from tranship.transfer.journal import remembered, restore
from tranship.transfer.library import environment
from tranship.transfer.mover import FAILED, STOPPED, failure

IMAGE = "disk.img"
MODE = 0o660  # of disk.img: KubeVirt's QEMU runs as the same user and group
STALLED = 900.0  # seconds without a byte, after which a mover is believed to hang
HEARTBEAT = 20.0


def main(root: Path) -> int:
    """The container's exit code: 0 done; 1 failed, another pod would fail too; anything else: try again."""
    folder = root / "work" / "round"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(STOPPED))  # the first process of a container ignores it otherwise
    try:
        _prepare(root, folder)
        code = _watch(folder)
    except TranshipError as error:
        channel.conclude(folder, failure(error))
        code = FAILED
    report = channel.look(folder)
    _say(folder, report)
    word = _short(report)
    if report.state is State.DONE:  # all that the next round needs to know of this one
        word["journal"] = {**remembered(folder.with_name("state") / "journal"), "done": []}
    (root / "dev" / "termination-log").write_text(json.dumps(word))
    return code if report.state is State.FAILED or code == 0 else STOPPED


def _prepare(root: Path, folder: Path) -> None:
    folder.mkdir(mode=0o700)
    job = json.loads((root / "job" / "job.json").read_bytes())
    state, journal = folder.with_name("state"), root / "journal" / "journal"
    state.mkdir(mode=0o700)
    if journal.exists():
        restore(state / "journal", json.loads(journal.read_bytes()))
    path, fresh = _target(root / "disk")
    job |= {"state": str(state), "fresh": fresh}
    job["target"]["url"] = path.as_uri()
    (folder / "job.json").write_text(json.dumps(job))
    if job["listed"]:
        shutil.copyfile(root / "job" / "changed", folder / "changed")


def _target(disk: Path) -> tuple[Path, bool]:
    """What is written to, and whether it is proved to read as zeros: a file without a single allocated block."""
    try:
        if stat.S_ISBLK(disk.stat().st_mode):
            return disk, False
        image = disk / IMAGE
        image.touch()
        if image.stat().st_uid == os.getuid():
            image.chmod(MODE)
        return image, image.stat().st_blocks == 0
    except OSError as error:
        remedy = "See that the storage class makes volumes that group 107 may write to."
        raise Refused(f"{error}", what="the volume", fault="Volume", side=Side.TARGET, remedy=remedy) from error


def _watch(folder: Path) -> int:
    """Run the mover and tell of it until it ends. Its exit code."""
    source = DiskAddress(json.loads((folder / "job.json").read_bytes())["source"]["url"])
    argv = [sys.executable, "-m", "tranship.transfer.mover", str(folder)]
    mover = subprocess.Popen(argv, stdout=sys.stderr, env=environment(source, os.environ))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: mover.terminate())
    last = Report(State.ABSENT)
    since = said = time.monotonic()
    while True:
        try:
            return mover.wait(1.0)
        except subprocess.TimeoutExpired:
            pass
        report = channel.look(folder)
        if report != last or time.monotonic() - said > HEARTBEAT:
            _say(folder, report)
            said = time.monotonic()
        if _marks(report) != _marks(last):
            since = time.monotonic()
        elif time.monotonic() - since > STALLED:
            mover.kill()
            mover.wait(30)
            detail = f"not a byte for {STALLED:.0f} s while {report.phase}; the mover is started again"
            channel.conclude(folder, failure(CopyFailed(detail, disk=folder.name)))
            return STOPPED
        last = report


def _marks(report: Report) -> tuple[object, ...]:
    return report.phase, report.done, report.read, report.proved


def _say(folder: Path, report: Report) -> None:
    journal = remembered(folder.with_name("state") / "journal")
    print(json.dumps({"at": round(time.time(), 1), **_short(report), "journal": journal}), flush=True)


def _short(report: Report) -> dict[str, Any]:
    """Without what says nothing. A container's last word may be 4 KiB long."""
    facts = {**asdict(report), "state": report.state.value, "message": report.message[:2000]}
    return {name: fact for name, fact in facts.items() if fact}


if __name__ == "__main__":
    sys.exit(main(Path(*sys.argv[1:2] or "/")))
