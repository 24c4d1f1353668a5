"""Our NBD client against nbdkit and qemu-nbd."""

import socket
import subprocess
from pathlib import Path

import pytest

from tranship.errors import CopyFailed, Invalid, Refused, Unreachable
from tranship.transfer.address import DiskAddress, Extent
from tranship.transfer.extents import merge
from tranship.transfer.readers import Reader, open_reader

from .conftest import Serve

MIB = 1 << 20


def read(reader: Reader, size: int, request: int = 300_000) -> bytes:
    data = bytearray(size)
    view = memoryview(data)
    line = reader.open_channel()
    offsets = list(range(0, size, request))
    for tag, at in enumerate(offsets):
        line.submit(at, view[at : at + request], tag)
    assert sorted(line.finish() for _ in offsets) == list(range(len(offsets)))
    line.close()
    return bytes(data)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """8 MiB: data, hole, data."""
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.write(bytes(range(1, 256)) * 8226)
        file.truncate(8 * MIB)
        file.seek(6 * MIB)
        file.write(b"end" * 1000)
    return path


@pytest.mark.parametrize("arguments", [(), ("--no-sr",), ("--filter=nozero",), ("--filter=noextents",)])
def test_nbdkit(image: Path, nbdkit: Serve, arguments: tuple[str, ...]) -> None:
    reader = open_reader(DiskAddress(nbdkit(*arguments, "file", str(image))), 0)
    assert reader.size == 8 * MIB
    assert read(reader, reader.size) == image.read_bytes()
    extents = list(reader.extents(0, reader.size))
    assert sum(e.length for e in extents) == reader.size
    data = image.read_bytes()
    assert all(not e.zero or not any(data[e.start : e.end]) for e in extents)
    if not arguments:
        assert [e.zero for e in extents] == [False, True, False, True]
        assert reader.max_connections > 1
        inner = list(reader.extents(3 * MIB, 4 * MIB))
        assert (inner[0].start, inner[-1].end) == (3 * MIB, 7 * MIB)
    reader.close()


def test_qemu_nbd_answers_holes_as_holes(image: Path, qemu_nbd: Serve) -> None:
    reader = open_reader(DiskAddress(qemu_nbd(image, "-f", "raw")), 0)
    assert read(reader, reader.size) == image.read_bytes()
    assert any(extent.zero for extent in reader.extents(0, reader.size))
    reader.close()


def test_tcp(image: Path, nbdkit: Serve) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nbdkit("-i", "127.0.0.1", "-p", str(port), "file", str(image))
    reader = open_reader(DiskAddress(f"nbd://127.0.0.1:{port}/"), 0)
    assert read(reader, reader.size) == image.read_bytes()
    reader.close()


def test_dirty_bitmap_tells_the_changed_areas(tmp_path: Path, qemu_nbd: Serve) -> None:
    disk = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "16M"], check=True, timeout=20)
    subprocess.run(["qemu-img", "bitmap", "--add", disk, "b0"], check=True, timeout=20)
    writes = ["-c", "write -P 7 1M 64k", "-c", "write -z 5M 128k", "-c", "write -P 9 15M 1M"]
    subprocess.run(["qemu-io", "-f", "qcow2", *writes, disk], check=True, timeout=20, capture_output=True)
    url = qemu_nbd(disk, "-f", "qcow2", "-B", "b0")
    reader = open_reader(DiskAddress(url + "&bitmap=b0"), 0)
    assert reader.tracks_changes
    changed = list(reader.changed())
    assert changed == [Extent(MIB, 65536), Extent(5 * MIB, 131072), Extent(15 * MIB, MIB)]
    assert not open_reader(DiskAddress(url), 0).tracks_changes
    with pytest.raises(Refused, match="no bitmap 'b1'"):
        open_reader(DiskAddress(url + "&bitmap=b1"), 0)


def test_terabytes_of_nothing(nbdkit: Serve) -> None:
    reader = open_reader(DiskAddress(nbdkit("null", "4T")), 0)
    assert list(merge(reader.extents(0, reader.size))) == [Extent(0, 4 << 40, zero=True)]


def test_errors(tmp_path: Path, nbdkit: Serve, qemu_nbd: Serve, image: Path) -> None:
    with pytest.raises(Unreachable):
        open_reader(DiskAddress(f"nbd+unix:///?socket={tmp_path}/nobody"), 0)
    with pytest.raises(Invalid):
        open_reader(DiskAddress("nbd+unix:///"), 0)
    with pytest.raises(Refused, match="no such export"):
        open_reader(DiskAddress(qemu_nbd(image, "-f", "raw").replace("/disk", "/other")), 0)
    bad = open_reader(DiskAddress(nbdkit("--filter=error", "memory", "8M", "error-pread-rate=100%")), 0)
    with pytest.raises(CopyFailed, match="NBD error 5"):
        read(bad, bad.size)
