"""Reading over HTTPS: ranges of a flat disk, and a VMDK as a stream. Real servers with real certificates."""

import contextlib
import http.client
import random
import re
import select
import ssl
import struct
import subprocess
import zlib
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes

from tranship.errors import (
    AuthFailed,
    CopyFailed,
    Invalid,
    NotFound,
    TranshipError,
    Unreachable,
    Unsupported,
    Untrusted,
)
from tranship.transfer import engine
from tranship.transfer.address import DiskAddress
from tranship.transfer.digest import Leaves, verify
from tranship.transfer.journal import Identity, Journal
from tranship.transfer.plan import LEAF
from tranship.transfer.readers import open_reader
from tranship.transfer.readers.https import cut
from tranship.transfer.writers import open_writer

from .conftest import Authority

Https = Callable[[type[BaseHTTPRequestHandler]], int]
SIZE = 3 * LEAF + 512


class Flat(BaseHTTPRequestHandler):
    """Serves `data` in ranges to who has the password. `drops`: after how many bytes of an answer the line goes dead."""

    protocol_version = "HTTP/1.1"
    data = b""
    drops: list[int] = []
    seen: list[str] = []
    ranges = True

    def do_HEAD(self) -> None:
        self._head(200, len(self.data))

    def do_GET(self) -> None:
        self.seen.append(self.headers["Authorization"] or "")
        if self.headers["Authorization"] != "Basic dXNlcjpzZWNyZXQ=":
            return self._head(401, 0)
        if self.path != "/folder/vm/vm-flat.vmdk?dcPath=DC&dsName=ds%201":
            return self._head(404, 0)
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"])
        assert span
        low, high = int(span[1]), int(span[2]) + 1
        if not self.ranges:
            return self._head(200, len(self.data))
        self._head(206, high - low, f"bytes {low}-{high - 1}/{len(self.data)}")
        if self.drops:
            self.wfile.write(self.data[low : low + self.drops.pop()])
            self.wfile.flush()
            self.close_connection = True
            return self.connection.close()
        return self.wfile.write(self.data[low:high]) and None

    def _head(self, status: int, length: int, span: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        if span:
            self.send_header("Content-Range", span)
        self.end_headers()

    def log_message(self, *arguments: object) -> None: ...


@pytest.fixture
def flat() -> type[Flat]:
    data = random.Random(3).randbytes(SIZE)
    return type("ThisFlat", (Flat,), {"data": data, "drops": [], "seen": []})


def folder(port: int, credentials: dict[str, str], host: str = "localhost") -> DiskAddress:
    url = f"datastore+https://{host}:{port}/folder/vm/vm-flat.vmdk?dcPath=DC&dsName=ds%201"
    return DiskAddress(url, {"user": "user", "password": "secret", **credentials})


def copy(address: DiskAddress, folder: Path, size: int, *, round: str = "1") -> engine.Engine:
    """A full, proved copy to folder/target."""
    reader = open_reader(address, size)
    assert reader.size == size
    writer = open_writer(DiskAddress((folder / "target").as_uri()), size)
    identity = Identity(round=round, point="", target=writer.identity, size=size, plan="")
    journal, leaves = Journal(folder / "journal", identity, None), Leaves(folder / "leaves", size)
    work = engine.Engine(
        reader, writer, journal, leaves, disk="d", size=size, fresh=writer.created, limits=engine.Limits(wait=2.0)
    )
    work.run()
    verify(writer, leaves, journal.done.runs(), disk="d")
    reader.close()
    return work


def test_ranges(tmp_path: Path, https: Https, authority: Authority, flat: type[Flat]) -> None:
    copy(folder(https(flat), {"ca": authority.pem}), tmp_path, SIZE)
    assert (tmp_path / "target").read_bytes() == flat.data


def test_a_dropped_connection_goes_on_where_it_was(
    tmp_path: Path, https: Https, authority: Authority, flat: type[Flat]
) -> None:
    flat.drops = [0, 70_000, 5, 1_000_000, 0, 0]
    copy(folder(https(flat), {"ca": authority.pem}), tmp_path, SIZE)
    assert (tmp_path / "target").read_bytes() == flat.data
    assert not flat.drops


def test_a_server_that_always_drops_is_an_error(
    tmp_path: Path, https: Https, authority: Authority, flat: type[Flat]
) -> None:
    flat.drops = [0] * 1000
    with pytest.raises(Unreachable) as failure:
        copy(folder(https(flat), {"ca": authority.pem}), tmp_path, SIZE)
    assert failure.value.temporary


@pytest.mark.parametrize("algorithm", [hashes.SHA1(), hashes.SHA256()])
def test_a_pin_is_enough(https: Https, authority: Authority, flat: type[Flat], algorithm: hashes.HashAlgorithm) -> None:
    assert open_reader(folder(https(flat), {"fingerprint": authority.fingerprint(algorithm)}), 0).size == SIZE


def test_nothing_secret_goes_to_a_stranger(
    tmp_path: Path, https: Https, authority: Authority, flat: type[Flat]
) -> None:
    port = https(flat)
    (tmp_path / "other").mkdir()
    strangers: list[tuple[dict[str, str], type[TranshipError]]] = [
        ({}, Untrusted),
        ({"ca": Authority(tmp_path / "other").pem}, Untrusted),
        ({"fingerprint": "00" * 20}, Untrusted),
        ({"fingerprint": "00" * 20, "insecure": "true"}, Untrusted),
        ({"fingerprint": "abc"}, Invalid),
        ({"ca": "no certificate"}, Invalid),
    ]
    for credentials, error in strangers:
        with pytest.raises(error):
            open_reader(folder(port, credentials), 0)
    assert not flat.seen
    assert open_reader(folder(port, {"insecure": "true"}), 0).size == SIZE


def test_host_name_is_checked(https: Https, authority: Authority, flat: type[Flat]) -> None:
    with pytest.raises(Untrusted, match="certificate of 127"):
        open_reader(folder(https(flat), {"ca": authority.pem}, host="127.0.0.1"), 0)


def test_refusals(tmp_path: Path, https: Https, authority: Authority, flat: type[Flat]) -> None:
    port, trust = https(flat), {"ca": authority.pem}
    with pytest.raises(AuthFailed) as failure:
        copy(folder(port, {**trust, "password": "wrong"}), tmp_path, SIZE)
    assert "wrong" not in str(failure.value)
    good = folder(port, trust)
    with pytest.raises(NotFound):
        copy(DiskAddress(good.url.replace("vm-flat", "no-flat"), good.credentials), tmp_path, SIZE)
    flat.ranges = False
    with pytest.raises(Unsupported, match="ignores ranges"):
        copy(good, tmp_path, SIZE)


# -- streams ---------------------------------------------------------------------------------------------------------


class Lease(BaseHTTPRequestHandler):
    """Sends `data` as an answer without length, as an export lease does (chunked)."""

    protocol_version = "HTTP/1.1"
    data = b""
    cut = -1
    flip = -1

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        data = bytearray(self.data)
        if self.flip >= 0:
            data[self.flip] ^= 0xFF
        for at in range(0, len(data), 50_000):
            part = data[at : at + 50_000]
            if 0 <= self.cut < at + len(part):
                self.close_connection = True
                return
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *arguments: object) -> None: ...


def vmdk(disk: bytes, *, grain: int = 128, footer: bool = True, end: bool = True) -> bytes:
    """A streamOptimized VMDK as an ESXi host writes it: directory at the end, grain tables in between, a footer."""
    flags, directory = 0x30001, (1 << 64) - 1

    def header(where: int) -> bytes:
        fields = (flags, len(disk) // 512, grain, 1, 1, 512, 0, where, 128, False, b"\n \r\n", 1)
        return struct.pack("<4sIIQQQQIQQQ?4sH", b"KDMV", 3, *fields).ljust(512, b"\0")

    def metadata(sectors: int, kind: int) -> bytes:
        return struct.pack("<QII", sectors, 0, kind).ljust(512, b"\0")

    parts = [header(directory), b"# Disk DescriptorFile\n".ljust(127 * 512, b"\0")]
    for number, at in enumerate(range(0, len(disk), grain * 512)):
        block = disk[at : at + grain * 512]
        if any(block):
            packed = zlib.compress(block.ljust(grain * 512, b"\0"), 1)
            body = struct.pack("<QI", at // 512, len(packed)) + packed
            parts.append(body + bytes(-len(body) % 512))
        if number % 512 == 511:
            parts.append(metadata(4, 1) + bytes(4 * 512))
    parts += [metadata(4, 1) + bytes(4 * 512), metadata(1, 2) + bytes(512)]
    if footer:
        parts.append(metadata(1, 3) + header(len(b"".join(parts)) // 512 - 1))
    if end:
        parts.append(bytes(512))
    return b"".join(parts)


def picture(size: int) -> bytes:
    """Data, a long hole, data in the middle of a leaf, zeros, a short end."""
    disk = bytearray(size)
    noise = random.Random(9).randbytes(300_000)
    disk[0 : len(noise)] = noise
    disk[2 * LEAF + 700_000 : 2 * LEAF + 700_000 + len(noise)] = noise
    disk[size - 512 :] = noise[:512]
    return bytes(disk)


@pytest.fixture
def lease() -> type[Lease]:
    return type("ThisLease", (Lease,), {"data": vmdk(picture(5 * LEAF + 1024))})


def nfc(port: int, authority: Authority) -> DiskAddress:
    return DiskAddress(f"nfc+https://localhost:{port}/nfc/disk-0.vmdk", {"ca": authority.pem})


@pytest.mark.parametrize("dirt", [False, True])
def test_stream(tmp_path: Path, https: Https, authority: Authority, lease: type[Lease], dirt: bool) -> None:
    disk = picture(5 * LEAF + 1024)
    if dirt:
        (tmp_path / "target").write_bytes(b"x" * len(disk))
    work = copy(nfc(https(lease), authority), tmp_path, len(disk))
    assert (tmp_path / "target").read_bytes() == disk
    assert work.stats.done == len(disk)
    if not dirt:
        assert (tmp_path / "target").stat().st_blocks * 512 < 2 << 20


def test_stream_that_qemu_wrote(tmp_path: Path, https: Https, authority: Authority, lease: type[Lease]) -> None:
    disk = picture(3 * LEAF)
    (tmp_path / "raw").write_bytes(disk)
    argv = ["qemu-img", "convert", "-O", "vmdk", "-o", "subformat=streamOptimized", "-f", "raw"]
    subprocess.run([*argv, tmp_path / "raw", tmp_path / "vmdk"], check=True, timeout=60)
    lease.data = (tmp_path / "vmdk").read_bytes()
    copy(nfc(https(lease), authority), tmp_path, len(disk))
    assert (tmp_path / "target").read_bytes() == disk


def test_stream_goes_on_after_a_break(tmp_path: Path, https: Https, authority: Authority, lease: type[Lease]) -> None:
    disk = random.Random(4).randbytes(6 * LEAF)
    lease.data = vmdk(disk)
    lease.cut = len(lease.data) - 1_000_000
    port = https(lease)
    with pytest.raises(Unreachable) as failure:
        copy(nfc(port, authority), tmp_path, len(disk))
    assert failure.value.temporary
    lease.cut = -1
    again = copy(nfc(port, authority), tmp_path, len(disk))
    assert 0 < again.stats.copied < len(disk)
    assert (tmp_path / "target").read_bytes() == disk


@pytest.mark.parametrize(
    ("options", "says"),
    [({"end": False}, "before its end marker"), ({"footer": False}, "without its footer")],
)
def test_a_short_stream_is_a_failure(
    tmp_path: Path, https: Https, authority: Authority, lease: type[Lease], options: dict[str, bool], says: str
) -> None:
    disk = picture(5 * LEAF + 1024)
    lease.data = vmdk(disk, **options)
    with pytest.raises(CopyFailed, match=says):
        copy(nfc(https(lease), authority), tmp_path, len(disk))


def test_a_damaged_grain_is_a_failure(tmp_path: Path, https: Https, authority: Authority, lease: type[Lease]) -> None:
    lease.flip = 128 * 512 + 40_000
    with pytest.raises(CopyFailed, match="corrupt"):
        copy(nfc(https(lease), authority), tmp_path, 5 * LEAF + 1024)


def test_no_vmdk(https: Https, authority: Authority, lease: type[Lease]) -> None:
    lease.data = b"<html>" * 1000
    with pytest.raises(Unsupported, match="no streamOptimized VMDK"):
        open_reader(nfc(https(lease), authority), 0)


def test_a_cut_line_never_gives_what_the_server_did_not_say(
    https: Https, authority: Authority, flat: type[Flat]
) -> None:
    """Cut by another thread between two reads, with records of TLS that nobody has read yet: they must not come as data."""
    port = https(flat)
    trust = ssl.create_default_context(cadata=authority.pem)
    line = http.client.HTTPSConnection("localhost", port, timeout=10, context=trust)
    ask = {"Authorization": "Basic dXNlcjpzZWNyZXQ=", "Range": f"bytes=0-{2 * LEAF - 1}"}
    line.request("GET", "/folder/vm/vm-flat.vmdk?dcPath=DC&dsName=ds%201", headers=ask)
    answer = line.getresponse()
    got = answer.read(20_000)
    select.select([line.sock], [], [], 10)
    cut(line)
    with contextlib.suppress(OSError, http.client.HTTPException):
        while more := answer.read1(20_000):
            got += more
    assert flat.data.startswith(got)
    line.close()
