"""Movers as processes: started, watched, killed, resumed, proved."""

import json
import os
import random
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from blake3 import blake3

from tranship.errors import Busy
from tranship.transfer import channel
from tranship.transfer.address import DiskAddress, Extent
from tranship.transfer.channel import Job, Report, State
from tranship.transfer.plan import LEAF

from .conftest import Serve, wait_for

MIB = 1 << 20
SIZE = 10 * LEAF + 1024


def content(seed: int = 1, size: int = SIZE) -> bytes:
    """Two thirds of noise, a third of zeros."""
    noise = random.Random(seed)
    parts = [noise.randbytes(MIB) if at % 3 else bytes(MIB) for at in range(-(-size // MIB))]
    return b"".join(parts)[:size]


def root(data: bytes) -> str:
    return blake3(b"".join(blake3(data[at : at + LEAF]).digest() for at in range(0, len(data), LEAF))).hexdigest()


@pytest.fixture
def job(tmp_path: Path) -> Job:
    (tmp_path / "source").write_bytes(content())
    return Job(
        disk="disk-1",
        source=DiskAddress((tmp_path / "source").as_uri()),
        target=DiskAddress((tmp_path / "target").as_uri()),
        size=SIZE,
        round="1",
        point="snapshot-1",
        state=tmp_path / "state",
    )


def finish(folder: Path, job: Job) -> Report:
    channel.start(folder, job)
    wait_for(lambda: channel.look(folder).state is not State.RUNNING, 60)
    return channel.look(folder)


def log(folder: Path) -> str:
    return (folder / "mover.log").read_text()


def test_full_then_delta(tmp_path: Path, job: Job) -> None:
    assert channel.look(tmp_path / "r1") == Report(State.ABSENT)
    report = finish(tmp_path / "r1", job)
    source = bytearray((tmp_path / "source").read_bytes())
    assert (report.state, report.verified, report.digest) == (State.DONE, True, root(source))
    assert (report.done, report.total) == (SIZE, SIZE)
    assert (tmp_path / "target").read_bytes() == source
    assert (tmp_path / "target").stat().st_blocks * 512 < SIZE * 3 // 4
    line = log(tmp_path / "r1").splitlines()[-1]
    assert line.startswith("disk=disk-1 round=1 ")
    assert "rate_mib=" in line

    changed = [Extent(5 * MIB + 512, 70_000), Extent(0, 512), Extent(20 * MIB, 9 * MIB)]
    for area in changed:
        source[area.start : area.end] = random.Random(area.start).randbytes(area.length)
    source[22 * MIB : 23 * MIB] = bytes(MIB)
    (tmp_path / "source").write_bytes(source)
    delta = replace(job, round="2", point="snapshot-2", base="1", changed=tuple(changed))
    report = finish(tmp_path / "r2", delta)
    assert (report.state, report.digest) == (State.DONE, root(source))
    assert report.total == report.done == sum(area.length for area in changed)
    assert report.copied + report.zeroed == report.total
    assert (tmp_path / "target").read_bytes() == source


def test_what_is_done_is_adopted(tmp_path: Path, job: Job) -> None:
    finish(tmp_path / "r1", job)
    before = log(tmp_path / "r1")
    channel.start(tmp_path / "r1", job)
    assert channel.look(tmp_path / "r1").state is State.DONE
    assert log(tmp_path / "r1") == before


def test_a_delta_without_its_base_is_refused(tmp_path: Path, job: Job) -> None:
    report = finish(tmp_path / "r2", replace(job, round="2", base="1", changed=(Extent(0, 512),)))
    assert (report.state, report.reason, report.temporary) == (State.FAILED, "Refused", False)
    assert "does not hold round 1" in report.message
    assert report.suggestion == "Copy the disk fully again."


def test_another_size_is_refused(tmp_path: Path, job: Job) -> None:
    report = finish(tmp_path / "r1", replace(job, size=SIZE - 512))
    assert (report.state, report.reason) == (State.FAILED, "Invalid")
    assert not (tmp_path / "target").exists()


def test_secrets_leave_the_disk(tmp_path: Path, job: Job) -> None:
    secret = replace(job, source=replace(job.source, credentials={"password": "hush-hush"}))
    finish(tmp_path / "r1", secret)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert not any(b"hush-hush" in path.read_bytes() for path in files)
    assert stat.S_IMODE((tmp_path / "r1").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "r1" / "job.json").stat().st_mode) == 0o600


def test_scrub_removes_what_no_mover_read(tmp_path: Path, job: Job) -> None:
    (tmp_path / "r1").mkdir()
    address = {"url": "file:///x", "credentials": {"password": "hush-hush"}}
    (tmp_path / "r1" / "job.json").write_text(json.dumps({"source": address, "target": address}))
    channel.scrub(tmp_path / "r1")
    assert "hush" not in (tmp_path / "r1" / "job.json").read_text()


@pytest.fixture
def slow(tmp_path: Path, job: Job, nbdkit: Serve) -> Job:
    """The same disk from a source that takes 20 ms for each MiB, and one connection."""
    arguments = ["--filter=noparallel", "--filter=delay", "file", str(tmp_path / "source"), "rdelay=20ms"]
    return replace(job, source=DiskAddress(nbdkit(*arguments)), connections=1, depth=1)


def test_one_mover_on_a_disk(tmp_path: Path, slow: Job) -> None:
    channel.start(tmp_path / "r1", slow)
    channel.start(tmp_path / "r1", slow)
    assert channel.look(tmp_path / "r1").state is State.RUNNING
    with pytest.raises(Busy):
        channel.start(tmp_path / "r2", replace(slow, round="2"))
    channel.stop(tmp_path / "r1")
    assert channel.look(tmp_path / "r1").state is State.LOST


def finished(state: Path) -> int:
    """Bytes of the plan that the journal names."""
    path = state / "journal"
    lines = path.read_text().splitlines() if path.exists() else []
    return sum(json.loads(line[9:]).get("bytes", 0) for line in lines if line.endswith("}"))


def test_stop_is_quick_and_keeps_what_is_finished(tmp_path: Path, slow: Job) -> None:
    channel.start(tmp_path / "r1", slow)
    wait_for(lambda: channel.look(tmp_path / "r1").done > 0)
    channel.stop(tmp_path / "r1", 10.0)
    report = channel.look(tmp_path / "r1")
    assert report.state is State.LOST
    kept = finished(tmp_path / "state")
    assert kept >= LEAF
    channel.stop(tmp_path / "r1")  # again: nothing to do
    report = finish(tmp_path / "r1", slow)
    assert (report.state, report.digest) == (State.DONE, root(content()))
    assert report.read <= SIZE - kept
    assert (tmp_path / "target").read_bytes() == content()


def kill(folder: Path, job: Job, goal: int) -> None:
    """Start, and kill when so many bytes are done."""
    channel.start(folder, job)
    pid = int((folder / "lock").read_text())
    wait_for(lambda: channel.look(folder).done >= goal or channel.look(folder).state is not State.RUNNING)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: channel.look(folder).state is not State.RUNNING)


@pytest.mark.parametrize("seed", range(3))
def test_killed_anywhere_it_goes_on(tmp_path: Path, slow: Job, seed: int) -> None:
    """Full copy, then a delta; each killed at two points that the seed chooses."""
    chance = random.Random(seed)
    source = bytearray(content())
    jobs = [slow]
    changed = [Extent(at * 2 * MIB, MIB + 512) for at in range(20)]
    jobs.append(replace(slow, round="2", point="snapshot-2", base="1", changed=tuple(changed)))
    for job in jobs:
        if job.base:
            for area in changed:
                source[area.start : area.end] = random.Random(area.start).randbytes(area.length)
            with (tmp_path / "source").open("r+b") as file:
                file.write(source)
        folder = tmp_path / f"r{job.round}"
        goal = 0
        for _ in range(2):
            goal += chance.randrange(MIB, 12 * MIB)
            kill(folder, job, goal)
        report = finish(folder, job)
        assert (report.state, report.digest, report.verified) == (State.DONE, root(bytes(source)), True)
        assert (tmp_path / "target").read_bytes() == source


def test_a_torn_leaf_of_a_delta_heals(tmp_path: Path, job: Job) -> None:
    """As a kill between writing and the journal leaves it: the target has half of the new data."""
    finish(tmp_path / "r1", job)
    source = bytearray(content())
    source[MIB : 2 * MIB] = random.Random(7).randbytes(MIB)
    (tmp_path / "source").write_bytes(source)
    with (tmp_path / "target").open("r+b") as file:
        file.seek(MIB)
        file.write(source[MIB : MIB + 4096])
    report = finish(tmp_path / "r2", replace(job, round="2", base="1", changed=(Extent(MIB, MIB),)))
    assert (report.state, report.healed, report.digest) == (State.DONE, 1, root(source))


def test_a_flipped_block_is_found_and_named(tmp_path: Path, slow: Job) -> None:
    """Somebody writes to the target between the copy of a block and its proof."""
    first, target = content()[:LEAF], tmp_path / "target"

    def arrived() -> bool:
        """The leaf stands in the target. Its mark in the journal comes up to a second later, and then all may be over."""
        if not target.exists():
            return False
        with target.open("rb") as file:
            return file.read(LEAF) == first

    channel.start(tmp_path / "r1", slow)
    wait_for(arrived)
    with target.open("r+b") as file:
        file.seek(MIB + 77)
        file.write(b"flip")
    wait_for(lambda: channel.look(tmp_path / "r1").state is not State.RUNNING, 60)
    report = channel.look(tmp_path / "r1")
    assert (report.state, report.reason, report.temporary) == (State.FAILED, "VerifyFailed", False)
    assert f"disk disk-1 differs from its source at offset 0, {LEAF} bytes" in report.message
    assert "check it" in report.suggestion


def test_without_proof_it_says_so(tmp_path: Path, job: Job) -> None:
    report = finish(tmp_path / "r1", replace(job, verify=False))
    assert (report.state, report.verified) == (State.DONE, False)


def test_a_target_that_was_replaced_is_copied_anew(tmp_path: Path, job: Job) -> None:
    finish(tmp_path / "r1", job)
    (tmp_path / "target").rename(tmp_path / "old")
    report = finish(tmp_path / "again", job)
    assert (report.state, report.copied + report.skipped) == (State.DONE, SIZE)
    assert (tmp_path / "target").read_bytes() == content()


def test_a_dying_source_is_temporary(tmp_path: Path, slow: Job, nbdkit: Serve) -> None:
    arguments = ["--filter=error", "file", str(tmp_path / "source"), "error-pread=EIO", "error-pread-rate=20%"]
    report = finish(tmp_path / "r1", replace(slow, source=DiskAddress(nbdkit(*arguments))))
    assert (report.state, report.reason, report.temporary) == (State.FAILED, "CopyFailed", True)
    report = finish(tmp_path / "r1", slow)
    assert (report.state, report.digest) == (State.DONE, root(content()))


def test_dirt_under_zeros_goes_away(tmp_path: Path, job: Job) -> None:
    (tmp_path / "target").write_bytes(b"dirt" * (SIZE // 4))
    report = finish(tmp_path / "r1", job)
    assert report.zeroed > SIZE // 4
    assert (tmp_path / "target").read_bytes() == content()


CHILD = """
import resource, subprocess, sys
code = subprocess.run([sys.executable, "-m", "tranship.transfer.mover", sys.argv[1]]).returncode
print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def test_a_huge_sparse_disk_takes_little_memory_and_time(tmp_path: Path, job: Job, nbdkit: Serve) -> None:
    """1 TiB with a few MiB of data at both ends."""
    size = 1 << 40
    with (tmp_path / "source").open("wb") as file:
        file.truncate(size)
        file.write(content()[: 6 * MIB])
        file.seek(size - 300 * MIB)
        for _ in range(5):
            file.write(random.Random(5).randbytes(20 * MIB))
    huge = replace(job, size=size, fresh=True, source=DiskAddress(nbdkit("file", str(tmp_path / "source"))))
    folder = tmp_path / "r1"
    folder.mkdir()
    huge.state.mkdir()
    channel._write_job(folder, huge)
    done = subprocess.run([sys.executable, "-c", CHILD, folder], capture_output=True, text=True, timeout=60)
    code, kilobytes = (int(word) for word in done.stdout.split())
    assert code == 0, done.stderr
    assert kilobytes < 150 * 1024
    report = channel.look(folder)
    assert (report.state, report.verified, report.done) == (State.DONE, True, size)
    assert report.seconds + report.verify_seconds < 20


def test_probe(tmp_path: Path, job: Job) -> None:
    good = channel.probe(job.source, SIZE)
    assert (good.works, good.size) == (True, SIZE)
    bad = channel.probe(DiskAddress(f"nbd+unix:///?socket={tmp_path}/nobody"))
    assert (bad.works, bad.reason) == (False, "Unreachable")
    missing = channel.probe(DiskAddress("vddk://h/?moref=a&disk=b&libdir=/none", {"user": "u", "password": "p"}))
    assert not missing.works


def test_start_is_light() -> None:
    """What a mover loads before it knows its way."""
    heavy = "asyncio ssl http.client logging structlog pydantic pyVmomi httpx2 concurrent.futures"
    script = f"import sys; import tranship.transfer.mover; print([m for m in '{heavy}'.split() if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "[]"
