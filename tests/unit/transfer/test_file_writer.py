"""Files and block devices as targets."""

import os
import random
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tranship.errors import NoSpace, Refused
from tranship.transfer.address import DiskAddress
from tranship.transfer.readers import open_reader
from tranship.transfer.writers import open_writer
from tranship.transfer.writers.file import FileWriter

MIB = 1 << 20


def address(path: Path) -> DiskAddress:
    return DiskAddress(path.as_uri())


def test_a_new_file_is_sparse_and_holes_come_back(tmp_path: Path) -> None:
    path = tmp_path / "a disk"
    writer = open_writer(address(path), 64 * MIB)
    assert writer.created
    assert path.stat().st_blocks == 0
    assert path.stat().st_mode & 0o777 == 0o600
    writer.write(20 * MIB, memoryview(b"x" * MIB))
    writer.flush()
    assert writer.data_from(0) == 20 * MIB
    assert writer.data_from(30 * MIB) >= 64 * MIB
    writer.zero(20 * MIB, MIB)
    writer.flush()
    assert path.stat().st_blocks == 0
    assert not open_writer(address(path), 64 * MIB).created


def test_identity_is_the_files_own(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    first = open_writer(address(path), MIB)
    assert open_writer(address(path), MIB).identity == first.identity
    (tmp_path / "new").write_bytes(b"")
    (tmp_path / "new").replace(path)
    assert open_writer(address(path), MIB).identity != first.identity


def test_a_file_that_is_larger_is_somebody_elses(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(2 * MIB))
    with pytest.raises(Refused, match="not a file for this disk"):
        open_writer(address(tmp_path / "disk"), MIB)
    with pytest.raises(Refused, match="No such file"):
        open_writer(address(tmp_path / "none" / "disk"), MIB)


def test_zeros_are_written_where_nothing_else_works(tmp_path: Path) -> None:
    writer = FileWriter(str(tmp_path / "disk"), 8 * MIB)
    writer._zero_ways = []
    writer.write(0, memoryview(b"x" * 8 * MIB))
    writer.zero(MIB + 7, 5 * MIB)
    data = (tmp_path / "disk").read_bytes()
    assert data == b"x" * (MIB + 7) + bytes(5 * MIB) + b"x" * (2 * MIB - 7)


def test_the_window_keeps_what_was_written(tmp_path: Path) -> None:
    writer = FileWriter(str(tmp_path / "disk"), 32 * MIB)
    block = random.Random(1).randbytes(MIB)
    for at in range(32):
        writer.write(at * MIB, memoryview(block))
    writer.drop_cache()
    back = bytearray(MIB)
    for at in range(32):
        writer.read(at * MIB, memoryview(back))
        assert back == block


CHILD = """
import resource, signal, sys
from tranship.errors import NoSpace
from tranship.transfer.writers.file import FileWriter
writer = FileWriter(sys.argv[1], 8 << 20)
resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, resource.RLIM_INFINITY))
try:
    writer.write(6 << 20, memoryview(b"x" * 4096))
except NoSpace as error:
    print(error.needed, error.free > 0)
"""


def test_a_limit_is_no_space(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", CHILD, str(tmp_path / "disk")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "4096 True\n"
    assert resource.getrlimit(resource.RLIMIT_FSIZE)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid():
        pytest.skip("mounting needs root")
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], timeout=20).returncode:
        pytest.skip("no mounting here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True, timeout=20)


def test_a_full_disk_says_so(small: Path) -> None:
    writer = FileWriter(str(small / "disk"), 64 * MIB)
    with pytest.raises(NoSpace) as failure:
        for at in range(64):
            writer.write(at * MIB, memoryview(b"x" * MIB))
    assert failure.value.needed == MIB
    assert failure.value.free < MIB
    assert "start again" in failure.value.suggestion
    writer.close()


def test_holes_of_a_source_file(tmp_path: Path) -> None:
    path = tmp_path / "source"
    with path.open("wb") as file:
        file.truncate(16 * MIB)
        file.seek(4 * MIB)
        file.write(b"y" * MIB)
    reader = open_reader(address(path), 0)
    assert [(e.start // MIB, e.length // MIB, e.zero) for e in reader.extents(0, reader.size)] == [
        (0, 4, True),
        (4, 1, False),
        (5, 11, True),
    ]
    assert [e.zero for e in reader.extents(4 * MIB + 5, 10)] == [False]
