"""A real Linux that writes and fsyncs: whatever it announced is whole on the disk, also in a snapshot under its feet."""

import os
from pathlib import Path

import pytest

from tranship.errors import ToolFailed, ToolMissing
from tranship.lab.guest import Report
from tranship.lab.guest.linux import fetch_kernel, format_disk, inspect_files, linux_guest
from tranship.lab.nbd import NbdServer
from tranship.lab.storage import Volume

MIB = 1024 * 1024
DEADLINE = 60


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = os.environ.get("TRANSHIP_CACHE")
    cache = Path(home) if home else tmp_path_factory.mktemp("cache")
    try:
        fetch_kernel(cache)
    except (ToolMissing, ToolFailed) as error:
        pytest.skip(f"no Debian kernel to be had here: {error}")
    return cache


def test_files_survive_a_snapshot_a_shutdown_and_a_second_boot(tmp_path: Path, cache: Path) -> None:
    volume = Volume(tmp_path / "volume", 48 * MIB)
    format_disk(volume)
    server = NbdServer(tmp_path / "nbd.sock")
    server.add("disk", volume)
    server.start()
    guest = linux_guest(tmp_path / "run", [server.url("disk")], cache, pause=0)
    try:
        guest.start()
        announced = guest.wait_number(20, DEADLINE)
        volume.snapshot("s")
        guest.wait_number(announced + 5, DEADLINE)
        guest.request_shutdown()
        guest.wait_exit(DEADLINE)
        last = int(guest.wait_line(r"BYE last=(\d+)", 1)[1])

        (tmp_path / "crash.img").write_bytes(volume.read(0, volume.capacity, "s"))
        crashed = inspect_files(tmp_path / "crash.img")
        assert crashed.bad == 0
        assert announced <= crashed.last < last

        (tmp_path / "final.img").write_bytes(volume.read(0, volume.capacity))
        assert inspect_files(tmp_path / "final.img") == Report(last, last, 0)

        guest.start()
        check = guest.wait_line(r"CHECK last=(\d+) valid=(\d+) bad=(\d+)", DEADLINE)
        assert [int(number) for number in check.groups()] == [last, last, 0]
    finally:
        guest.kill()
        server.close()


def test_a_file_that_is_not_whole_and_a_broken_file_system_are_found(tmp_path: Path, cache: Path) -> None:
    disk = tmp_path / "disk.img"
    with disk.open("wb") as file:
        file.truncate(32 * MIB)
    format_disk(disk)
    guest = linux_guest(tmp_path / "run", [disk], cache, pause=0)
    guest.start()
    try:
        guest.wait_number(3, DEADLINE)
        guest.request_shutdown()
        guest.wait_exit(DEADLINE)
    finally:
        guest.kill()
    image = bytearray(disk.read_bytes())
    at = image.index(b"2\n3\n4\n5\n6\n7\n8\n9\n10\n")
    image[at + 100] ^= 1
    disk.write_bytes(image)
    report = inspect_files(disk)
    assert (report.last, report.bad) == (guest.last, 1)
    image[1024 + 20 :: 4096] = bytes(len(image[1024 + 20 :: 4096]))
    disk.write_bytes(image)
    with pytest.raises(ToolFailed):
        inspect_files(disk)
