"""A mover's container as a process on folders: what a pod mounts, what it says, and what the next pod makes of that."""

import json
import os
import random
import signal
import stat
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tranship.transfer import channel
from tranship.transfer.address import DiskAddress, Extent
from tranship.transfer.channel import Job
from tranship.transfer.plan import LEAF

from .conftest import Serve, wait_for

MIB = 1 << 20
SIZE = 12 * LEAF + 1024


@dataclass
class Pod:
    """root: the container's file system."""

    root: Path

    def start(self) -> "subprocess.Popen[str]":
        with (self.root / "stdout").open("w") as said:
            argv = [sys.executable, "-m", "tranship.transfer.pod", str(self.root)]
            return subprocess.Popen(argv, stdout=said, text=True, start_new_session=True)

    def run(self) -> int:
        return self.start().wait(60)

    @property
    def said(self) -> dict[str, Any]:
        """Its last whole line."""
        lines = (self.root / "stdout").read_text().split("\n")[:-1]
        return dict(json.loads(lines[-1])) if lines else {}

    @property
    def last_word(self) -> dict[str, Any]:
        return dict(json.loads((self.root / "dev" / "termination-log").read_text()))


@dataclass
class Node:
    """Makes pods of one disk; volume and source stay."""

    folder: Path
    job: Job
    made: int = 0

    @property
    def image(self) -> Path:
        return self.folder / "volume" / "disk.img"

    def pod(self, job: Job, journal: object = None) -> Pod:
        self.made += 1
        root = self.folder / f"pod-{self.made}"
        for name in ("job", "journal", "work", "dev"):
            (root / name).mkdir(parents=True)
        (root / "disk").symlink_to(self.folder / "volume")
        (root / "job" / "job.json").write_text(json.dumps(channel.told(job)))
        if job.changed is not None:
            (root / "job" / "changed").write_text("".join(channel.listed(job.changed)))
        if journal is not None:
            (root / "journal" / "journal").write_text(json.dumps(journal))
        return Pod(root)


def content() -> bytearray:
    noise = random.Random(3)
    return bytearray(b"".join(noise.randbytes(MIB) if at % 3 else bytes(MIB) for at in range(SIZE // MIB + 1))[:SIZE])


@pytest.fixture
def node(tmp_path: Path) -> Node:
    (tmp_path / "volume").mkdir()
    (tmp_path / "source").write_bytes(content())
    job = Job(
        disk="disk-1",
        source=DiskAddress((tmp_path / "source").as_uri(), {"cookie": "s3cret"}),
        target=DiskAddress("pvc://target/web-disk-0?mode=Filesystem"),
        size=SIZE,
        round="1",
        point="snapshot-1",
        state=Path("/work/state"),
        along=True,
        identity="claim 1234",
    )
    return Node(tmp_path, job)


def test_two_rounds_in_two_pods(node: Node) -> None:
    first = node.pod(node.job)
    assert first.run() == 0
    assert node.image.read_bytes() == content()
    assert stat.S_IMODE(node.image.stat().st_mode) == 0o660
    assert node.image.stat().st_blocks * 512 < SIZE * 3 // 4
    assert {"state": "done", "verified": True, "done": SIZE}.items() <= first.last_word.items()
    assert first.last_word["proved"] == first.last_word["to_prove"] == SIZE
    assert len(first.last_word["digest"]) == 64

    source = content()
    changed = (Extent(512, 70_000), Extent(9 * MIB, 5 * MIB), Extent(SIZE - 512, 512))
    for area in changed:
        source[area.start : area.end] = random.Random(area.start).randbytes(area.length)
    (node.folder / "source").write_bytes(source)
    second = node.pod(
        replace(node.job, round="2", base="1", point="snapshot-2", changed=changed), first.said["journal"]
    )
    assert second.run() == 0
    assert node.image.read_bytes() == source
    assert {"state": "done", "verified": True, "areas": 3}.items() <= second.last_word.items()
    assert "digest" not in second.last_word  # those of the untouched leaves went with the first pod
    assert second.last_word["read"] < 6 * MIB
    assert "s3cret" not in "".join(path.read_text() for pod in (first, second) for path in pod.root.rglob("stdout"))


def test_killed_with_all_it_had_the_next_goes_on(node: Node, nbdkit: Serve) -> None:
    slow = nbdkit("--filter=noparallel", "--filter=delay", "file", str(node.folder / "source"), "rdelay=60ms")
    job = replace(node.job, source=DiskAddress(slow), connections=1, depth=1)
    first = node.pod(job)
    process = first.start()
    wait_for(lambda: first.said.get("journal", {}).get("done"), 30)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)
    journal = first.said["journal"]
    assert 0 < journal["bytes"] < SIZE
    second = node.pod(job, journal)
    assert second.run() == 0
    assert node.image.read_bytes() == content()
    assert second.last_word["read"] <= SIZE - journal["bytes"]
    assert second.last_word["verified"]


def test_what_was_copied_and_not_named_is_copied_again(node: Node) -> None:
    """A journal that is older than the volume: the pod died before anybody heard of its last seconds."""
    first = node.pod(node.job)
    assert first.run() == 0
    with node.image.open("r+b") as image:
        image.seek(5 * LEAF)
        image.write(b"torn" * 1000)
    journal = {**first.said["journal"], "done": [[0, 5]], "bytes": 5 * LEAF}
    del journal["complete"]
    second = node.pod(node.job, journal)
    assert second.run() == 0
    assert second.last_word["done"] == SIZE
    assert node.image.read_bytes() == content()


def test_a_delta_on_another_volume_is_refused_for_good(node: Node) -> None:
    first = node.pod(node.job)
    assert first.run() == 0
    delta = replace(node.job, round="2", base="1", changed=(Extent(0, 512),), identity="claim 5678")
    second = node.pod(delta, first.said["journal"])
    assert second.run() == 1
    assert second.last_word["state"] == "failed"
    assert "the target does not hold round 1" in second.last_word["message"]


def test_asked_to_end_it_says_what_is_finished(node: Node, nbdkit: Serve) -> None:
    slow = nbdkit("--filter=noparallel", "--filter=delay", "file", str(node.folder / "source"), "rdelay=60ms")
    pod = node.pod(replace(node.job, source=DiskAddress(slow), connections=1, depth=1))
    process = pod.start()
    wait_for(lambda: pod.said.get("done", 0), 30)
    process.terminate()
    assert process.wait(20) == 3  # neither done nor failed: to be tried again
    assert pod.last_word["state"] == "lost"
    assert pod.said["journal"]["bytes"] >= LEAF


def test_a_volume_that_cannot_be_written_is_said(node: Node) -> None:
    (node.folder / "volume").rmdir()
    (node.folder / "volume").write_text("no folder")
    pod = node.pod(node.job)
    assert pod.run() == 1
    assert pod.last_word["reason"] == "Refused"
    assert "the volume" in pod.last_word["message"]
