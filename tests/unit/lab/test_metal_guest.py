"""The writing guest in QEMU: its own check and the one from outside agree, and both find what was done to a disk."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tranship.errors import Invalid, NotFound, TimedOut
from tranship.lab.guest import Guest, Report, configure, inspect, prepare, reader
from tranship.lab.nbd import NbdServer
from tranship.lab.storage import Volume, quiet

MIB = 1024 * 1024
DEADLINE = 30


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def disks(tmp_path: Path, cache: Path) -> list[Path]:
    paths = [tmp_path / "a.img", tmp_path / "b.img"]
    for path, size in zip(paths, (32 * MIB, 24 * MIB), strict=True):
        with path.open("wb") as file:
            file.truncate(size)
    prepare(paths, cache, rate=0, slots=64)
    return paths


@pytest.fixture
def guest(tmp_path: Path, disks: list[Path]) -> Iterator[Guest]:
    guest = Guest(tmp_path / "run", disks)
    yield guest
    guest.kill()


def write_some(guest: Guest, laps: int = 200) -> int:
    """Let it write at least `laps` records and shut it down cleanly; its last number."""
    guest.start()
    guest.wait_number(laps, DEADLINE)
    guest.request_shutdown()
    guest.wait_exit(DEADLINE)
    return int(guest.wait_line(r"BYE last=(\d+)", 1)[1])


def own_check(guest: Guest, disks: list[Path]) -> Report:
    configure(disks, check_only=True)
    guest.start()
    guest.wait_exit(DEADLINE)
    return Report(*map(int, guest.wait_line(r"CHECK last=(\d+) valid=(\d+) bad=(\d+)", 1).groups()))


def both_checks(guest: Guest, disks: list[Path]) -> Report:
    outside = inspect([reader(disk) for disk in disks])
    assert own_check(guest, disks) == outside
    return outside


def patch(disk: Path, offset: int, data: bytes) -> None:
    with disk.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def test_it_writes_is_shut_down_and_finds_every_record(guest: Guest, disks: list[Path]) -> None:
    last = write_some(guest)
    assert guest.last == last
    assert both_checks(guest, list(reversed(disks))) == Report(last, 128, 0)


def test_a_second_boot_goes_on_where_the_first_ended(guest: Guest, disks: list[Path]) -> None:
    first = write_some(guest)
    assert write_some(guest, first + 1) > first
    assert guest.wait_line(r"CHECK last=(\d+)", 1)[1] == str(first)


def test_a_guest_killed_while_writing_leaves_nothing_torn(guest: Guest, disks: list[Path]) -> None:
    guest.start()
    guest.wait_line("LAST [0-9]{3}", DEADLINE)
    guest.kill()
    report = both_checks(guest, disks)
    assert report.last >= 100
    assert report.bad == 0


def test_a_changed_byte_a_stale_block_and_a_lost_block_are_found(guest: Guest, disks: list[Path]) -> None:
    write_some(guest)
    old = [disk.read_bytes() for disk in disks]
    configure(disks, check_only=False)
    last = write_some(guest, 2000)
    strides = [(disk.stat().st_size // 512 - 128) // 64 * 512 for disk in disks]
    slots = [(disk, 65536 + slot * strides[disk]) for disk, slot in ((0, 3), (1, 5), (1, 62), (1, 63))]
    # Whoever spoils the very last record makes the one before it the last.
    places = [(disk, at) for disk, at in slots if int.from_bytes(reader(disks[disk])(at + 4, 4), "little") != last][:3]
    (changed, changed_at), (stale, stale_at), (lost, lost_at) = places
    now = reader(disks[changed])(changed_at + 4095, 1)[0]
    patch(disks[changed], changed_at + 4095, bytes([now ^ 1]))
    patch(disks[stale], stale_at, old[stale][stale_at : stale_at + 4096])
    patch(disks[lost], lost_at, bytes(4096))
    report = both_checks(guest, disks)
    assert report == Report(last, 125, 3)
    assert report.where == places


def test_few_records_leave_slots_empty_and_a_stray_one_is_found(tmp_path: Path, cache: Path, disks: list[Path]) -> None:
    prepare(disks, cache, rate=200, slots=1024)
    guest = Guest(tmp_path / "run", disks)
    last = write_some(guest, 100)
    assert last < 2048
    assert both_checks(guest, disks) == Report(last, last, 0)
    stride = (disks[0].stat().st_size // 512 - 128) // 1024 * 512
    assert not any(reader(disks[0])(65536 + 1023 * stride, 4096))
    patch(disks[0], 65536 + 1023 * stride, b"stray")
    assert both_checks(guest, disks) == Report(last, last, 1)


def test_a_snapshot_of_both_disks_under_a_writing_guest_is_consistent(tmp_path: Path, cache: Path) -> None:
    volumes = [Volume(tmp_path / name, 16 * MIB) for name in ("a", "b")]
    prepare(volumes, cache, rate=0, slots=32)
    server = NbdServer(tmp_path / "nbd.sock")
    for name, volume in zip("ab", volumes, strict=True):
        volume.enable_tracking()
        volume.stun()
        server.add(name, volume)
    server.start()
    guest = Guest(tmp_path / "run", [server.url("a"), server.url("b")])
    guest.start()
    try:
        guest.wait_line("LAST [0-9]{3}", DEADLINE)
        copies = [bytearray(volume.capacity) for volume in volumes]
        since = ["*"] * 2
        for name in ("one", "two", "three"):
            with quiet(volumes):
                for volume in volumes:
                    volume.snapshot(name)
            for volume, copy, id in zip(volumes, copies, since, strict=True):
                for offset, length in volume.changed(id, name):
                    copy[offset : offset + length] = volume.read(offset, length, name)
                assert copy == volume.read(0, volume.capacity, name)
            report = inspect([lambda at, size, copy=copy: bytes(copy[at : at + size]) for copy in copies])
            assert (report.valid, report.bad) == (64, 0)
            since = [volume.change_id(name) for volume in volumes]
            for volume in volumes:
                volume.remove(name)
        guest.request_shutdown()
        guest.wait_exit(DEADLINE)
        assert inspect([reader(volume) for volume in volumes]) == Report(guest.last, 64, 0)
    finally:
        guest.kill()
        server.close()


def test_a_missing_disk_is_told(tmp_path: Path, disks: list[Path]) -> None:
    guest = Guest(tmp_path / "run", disks[1:])
    guest.start()
    try:
        guest.wait_line("FAIL a disk of the set is missing", DEADLINE)
        guest.wait_exit(DEADLINE)
    finally:
        guest.kill()
    with pytest.raises(Invalid):
        inspect([reader(disks[1])])


def test_the_monitor_and_the_waits(guest: Guest, tmp_path: Path) -> None:
    guest.start()
    guest.wait_line("LAST", DEADLINE)
    assert guest.qmp("query-status")["status"] == "running"
    with pytest.raises(TimedOut):
        guest.wait_line("never", 0.1)
    with pytest.raises(TimedOut):
        guest.wait_exit(0.1)
    guest.kill()
    assert not guest.running
    with pytest.raises(NotFound):
        guest.wait_line("never", DEADLINE)


def test_qemu_ends_with_the_process_that_started_it(disks: list[Path], tmp_path: Path) -> None:
    """Even though the thread that called start() is gone long before, and no matter how the process ends."""
    program = f"""
import pathlib, sys, threading
from tranship.lab.guest import Guest
guest = Guest(pathlib.Path({str(tmp_path / "run")!r}), {[str(disk) for disk in disks]!r})
thread = threading.Thread(target=guest.start)
thread.start()
thread.join()
guest.wait_line("LAST", {DEADLINE})
print(guest.pid, flush=True)
sys.stdin.read()
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout
    pid = int(parent.stdout.readline())
    watch = os.pidfd_open(pid)
    try:
        assert not select.select([watch], [], [], 0)[0]
        parent.send_signal(signal.SIGKILL)
        parent.communicate(timeout=DEADLINE)
        assert select.select([watch], [], [], DEADLINE)[0]
    finally:
        os.close(watch)
