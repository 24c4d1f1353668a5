"""The NBD server against independent clients: nbdcopy, nbdinfo and the QEMU tools."""

import hashlib
import json
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tranship.errors import AlreadyExists, NotFound
from tranship.lab.nbd import NbdServer
from tranship.lab.storage import Volume

MIB = 1024 * 1024


def run(*argv: str, ok: bool = True) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
    assert (done.returncode == 0) == ok, done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path / "disk", 8 * MIB)


@pytest.fixture
def server(tmp_path: Path, volume: Volume) -> Iterator[NbdServer]:
    server = NbdServer(tmp_path / "nbd.sock")
    server.add("disk", volume)
    server.start()
    yield server
    server.close()


def test_nbdcopy_writes_and_reads_back(tmp_path: Path, server: NbdServer, volume: Volume) -> None:
    image = tmp_path / "image"
    image.write_bytes(random.Random(1).randbytes(3 * MIB) + bytes(4 * MIB) + random.Random(2).randbytes(MIB))
    run("nbdcopy", str(image), server.url("disk"))
    assert volume.read(0, 8 * MIB) == image.read_bytes()
    back = tmp_path / "back"
    run("nbdcopy", server.url("disk"), str(back))
    assert back.read_bytes() == image.read_bytes()


def test_qemu_img_converts_and_compares(tmp_path: Path, server: NbdServer, volume: Volume) -> None:
    volume.write(MIB, random.Random(3).randbytes(MIB))
    run("qemu-img", "convert", "-O", "qcow2", server.url("disk"), str(tmp_path / "image.qcow2"))
    run("qemu-img", "compare", server.url("disk"), str(tmp_path / "image.qcow2"))


def test_qemu_io_writes_zeroes_discards_and_flushes(server: NbdServer, volume: Volume) -> None:
    commands = ["write -P 7 0 1M", "write -f -P 9 1M 4k", "write -z 512k 64k", "discard 0 64k", "flush"]
    run("qemu-io", "-f", "raw", *(part for command in commands for part in ("-c", command)), server.url("disk"))
    expected = bytes(65536) + b"\7" * (7 * 65536) + bytes(65536) + b"\7" * (7 * 65536) + b"\x09" * 4096
    assert volume.read(0, MIB + 4096) == expected


def test_holes_are_told(server: NbdServer, volume: Volume) -> None:
    volume.write(2 * MIB, b"x")
    extents = json.loads(run("nbdinfo", "--map", "--json", server.url("disk")))
    assert [(e["offset"], e["length"], e["type"]) for e in extents] == [
        (0, 2 * MIB, 3),
        (2 * MIB, 65536, 0),
        (2 * MIB + 65536, 6 * MIB - 65536, 3),
    ]


def test_a_snapshot_is_served_read_only_while_the_disk_is_written(server: NbdServer, volume: Volume) -> None:
    volume.write(0, b"then")
    volume.snapshot("s")
    server.add("frozen", volume, "s")
    run("qemu-io", "-f", "raw", "-c", "write -P 1 0 512", server.url("disk"))
    assert "is_read_only: true" in run("nbdinfo", server.url("frozen"))
    run("qemu-io", "-f", "raw", "-c", "write -P 2 0 512", server.url("frozen"), ok=False)
    digest = hashlib.sha256(b"then" + bytes(8 * MIB - 4)).hexdigest()
    content = subprocess.run(["nbdcopy", server.url("frozen"), "-"], capture_output=True, timeout=30).stdout
    assert hashlib.sha256(content).hexdigest() == digest
    assert volume.read(0, 4) == b"\1" * 4


def test_exports_come_and_go(server: NbdServer, volume: Volume) -> None:
    assert "disk" in run("nbdinfo", "--list", server.url(""))
    with pytest.raises(AlreadyExists):
        server.add("disk", volume)
    with pytest.raises(NotFound):
        server.add("frozen", volume, "nope")
    client = subprocess.Popen(
        ["qemu-io", "-f", "raw", server.url("disk")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert client.stdin
    client.stdin.write(b"length\n")
    client.stdin.flush()
    assert client.stdout
    while b"MiB" not in client.stdout.readline():
        pass
    server.remove("disk")
    output, _ = client.communicate(b"read 0 512\n", timeout=10)
    assert b"failed" in output
    run("nbdinfo", server.url("disk"), ok=False)
    with pytest.raises(NotFound):
        server.remove("disk")
