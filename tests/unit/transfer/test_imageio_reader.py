"""Reading from the genuine ovirt-imageio daemon, which reads from QEMU: over TLS, its unix socket, and lines that break."""

import json
import random
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from uuid import uuid4

import pytest

from tranship.errors import Busy, CopyFailed, Invalid, Refused, TranshipError, Unreachable, Unsupported, Untrusted
from tranship.lab.certificates import Identity, make_identity
from tranship.lab.ovirt.imageio import Imageio
from tranship.transfer import channel
from tranship.transfer.address import DiskAddress, Extent
from tranship.transfer.channel import Job, Report, State
from tranship.transfer.plan import LEAF
from tranship.transfer.readers import Reader, open_reader
from tranship.transfer.readers.imageio import Area, Areas

from .conftest import Authority, Serve, wait_for

MIB = 1 << 20
SIZE = 5 * LEAF + 512
Tls = tuple[Identity, Path]


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    folder = tmp_path_factory.mktemp("certificates")
    return make_identity(folder), folder


def run(folder: Path, tls: Tls, *, local: bool = False) -> Imageio:
    certificates = tls[1]
    names = [certificates / name for name in ("server.pem", "server.key", "ca.pem")]
    daemon = Imageio(folder, *names, local=local)
    daemon.start()
    return daemon


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, tls: Tls) -> Iterator[Imageio]:
    daemon = run(tmp_path_factory.mktemp("daemon"), tls)
    yield daemon
    daemon.close()


def lend(daemon: Imageio, url: str, size: int = SIZE, *, dirty: bool = False, timeout: int = 300) -> str:
    """A ticket for what the conftest's NBD server has."""
    ticket = str(uuid4())
    export = f"nbd:unix:{url.partition('socket=')[2]}:exportname=disk"
    daemon.add_ticket(ticket, size, export, timeout=timeout, inactivity_timeout=60, dirty=dirty)
    return ticket


def address(daemon: Imageio, tls: Tls, ticket: str, delta: str = "", port: int = 0) -> DiskAddress:
    query = f"?delta={delta}" if delta else ""
    url = f"imageio+https://localhost:{port or daemon.port}/images/{ticket}{query}"
    return DiskAddress(url, {"ca": tls[0].ca_pem})


def noise(seed: int, length: int) -> bytes:
    return random.Random(seed).randbytes(length)


def content() -> bytes:
    """Noise, a hole over more than a leaf, noise up to the odd end."""
    return noise(1, 5 * MIB) + bytes(7 * MIB) + noise(2, SIZE - 12 * MIB)


def raw(path: Path, data: bytes) -> Path:
    """A file with holes where the data has zeros."""
    with path.open("wb") as file:
        file.truncate(len(data))
        for at in range(0, len(data), 64 << 10):
            if any(part := data[at : at + (64 << 10)]):
                file.seek(at)
                file.write(part)
    return path


def qcow2(path: Path, size: int = SIZE, backing: Path | None = None) -> Path:
    below = ["-b", str(backing), "-F", "qcow2"] if backing else []
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *below, str(path), str(size)], check=True, timeout=30)
    return path


def put(image: Path, *writes: tuple[int, bytes]) -> None:
    """Bytes at offsets; b"" zeroes 1 MiB."""
    commands: list[str] = []
    for number, (at, data) in enumerate(writes):
        part = image.with_suffix(f".part{number}")
        part.write_bytes(data)
        commands += ["-c", f"write -s {part} {at} {len(data)}" if data else f"write -z {at} 1M"]
    subprocess.run(["qemu-io", "-f", "qcow2", *commands, str(image)], check=True, timeout=60, stdout=subprocess.DEVNULL)


def read(reader: Reader) -> bytes:
    data = bytearray(reader.size)
    view = memoryview(data)
    line = reader.open_channel()
    for tag, at in enumerate(range(0, reader.size, LEAF)):
        line.submit(at, view[at : at + LEAF], tag)
        line.finish()
    line.close()
    return bytes(data)


def finish(folder: Path, job: Job) -> Report:
    channel.start(folder, job)
    wait_for(lambda: channel.look(folder).state is not State.RUNNING, 60)
    return channel.look(folder)


def job(folder: Path, source: DiskAddress, **more: object) -> Job:
    target = DiskAddress((folder / "target").as_uri())
    facts = {"disk": "d", "size": SIZE, "round": "1", "point": "a", "state": folder / "state", **more}
    return Job(source=source, target=target, **facts)  # type: ignore[arg-type]


class Flaky:
    """A TCP proxy that cuts each of the first connections after so many bytes of the answers."""

    def __init__(self, port: int, cuts: list[int]) -> None:
        self.port, self.cuts = port, cuts
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> int:
        return int(self._listener.getsockname()[1])

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self.port))
                limit = self.cuts.pop(0) if self.cuts else 1 << 40
                for ends in ((client, server, 1 << 40), (server, client, limit)):
                    threading.Thread(target=self._pass, args=ends, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, limit: int) -> None:
        with suppress(OSError):
            while limit > 0 and (data := source.recv(min(limit, 64 << 10))):
                target.sendall(data)
                limit -= len(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()


# -- whole disks --------------------------------------------------------------------------------------------------------


def test_a_raw_disk(tmp_path: Path, daemon: Imageio, tls: Tls, qemu_nbd: Serve) -> None:
    url = qemu_nbd(raw(tmp_path / "image", content()), "-f", "raw")
    reader = open_reader(address(daemon, tls, lend(daemon, url)), SIZE)
    assert (reader.size, reader.max_connections, reader.tracks_changes) == (SIZE, 8, False)
    assert read(reader) == content()
    assert [one.zero for one in reader.extents(0, SIZE)] == [False, True, False]
    (hole,) = reader.extents(6 * MIB, MIB)
    assert hole == Extent(6 * MIB, MIB, zero=True)
    with pytest.raises(Unsupported):
        list(reader.changed())


def test_a_disk_of_zeros_is_not_downloaded(tmp_path: Path, daemon: Imageio, tls: Tls, qemu_nbd: Serve) -> None:
    ticket = lend(daemon, qemu_nbd(qcow2(tmp_path / "image"), "-f", "qcow2"))
    report = finish(tmp_path / "job", job(tmp_path, address(daemon, tls, ticket)))
    assert (report.state, report.copied, report.skipped) == (State.DONE, 0, SIZE)
    assert not any((tmp_path / "target").read_bytes())
    assert (daemon.ticket(ticket) or {})["transferred"] < 64 << 10


def test_a_chain_reads_as_one_disk(tmp_path: Path, daemon: Imageio, tls: Tls, qemu_nbd: Serve) -> None:
    base = qcow2(tmp_path / "base")
    put(base, (0, noise(3, 2 * MIB)), (9 * MIB, noise(4, MIB)))
    top = qcow2(tmp_path / "top", backing=base)
    put(top, (MIB, noise(5, MIB)), (9 * MIB, b""))
    ticket = lend(daemon, qemu_nbd(top, "-f", "qcow2", "-A"))
    report = finish(tmp_path / "job", job(tmp_path, address(daemon, tls, ticket), verify=True))
    assert (report.state, report.copied) == (State.DONE, 2 * MIB)
    expected = noise(3, 2 * MIB)[:MIB] + noise(5, MIB)
    assert (tmp_path / "target").read_bytes() == expected.ljust(SIZE, b"\0")


def test_a_ticket_for_less_than_the_volume(tmp_path: Path, daemon: Imageio, tls: Tls, qemu_nbd: Serve) -> None:
    url = qemu_nbd(raw(tmp_path / "image", content()), "-f", "raw")
    reader = open_reader(address(daemon, tls, lend(daemon, url, LEAF)), LEAF)
    assert (reader.size, read(reader)) == (LEAF, content()[:LEAF])


# -- changes --------------------------------------------------------------------------------------------------------------


def test_changes_of_a_backup_on_top_of_the_round_before(
    tmp_path: Path, daemon: Imageio, tls: Tls, qemu_nbd: Serve
) -> None:
    image = qcow2(tmp_path / "image")
    put(image, *((at, content()[at : at + LEAF]) for at in range(0, SIZE, LEAF)))
    first = shutil.copy(image, tmp_path / "first")
    full = job(tmp_path, address(daemon, tls, lend(daemon, qemu_nbd(Path(first), "-f", "qcow2"))))
    assert finish(tmp_path / "one", full).state is State.DONE
    subprocess.run(["qemu-img", "bitmap", "--add", "-f", "qcow2", str(image), "since"], check=True, timeout=30)
    put(image, (MIB, noise(6, MIB // 2)), (14 * MIB, b""), (8 * MIB, noise(7, MIB)))

    ticket = lend(daemon, qemu_nbd(image, "-f", "qcow2", "-B", "since"), dirty=True)
    source = address(daemon, tls, ticket, "dirty")
    reader = open_reader(source, SIZE)
    areas = [Extent(MIB, MIB // 2), Extent(8 * MIB, MIB), Extent(14 * MIB, MIB)]
    assert (reader.tracks_changes, list(reader.changed())) == (True, areas)
    report = finish(tmp_path / "two", job(tmp_path, source, round="2", base="1", verify=True))
    assert (report.state, report.read, report.zeroed) == (State.DONE, MIB + MIB // 2, MIB), report
    assert (daemon.ticket(ticket) or {})["transferred"] < 2 * MIB
    expected = bytearray(content())
    for at, data in ((MIB, noise(6, MIB // 2)), (14 * MIB, bytes(MIB)), (8 * MIB, noise(7, MIB))):
        expected[at : at + len(data)] = data
    assert (tmp_path / "target").read_bytes() == expected


def test_a_torn_leaf_is_read_whole_from_the_backup(tmp_path: Path, daemon: Imageio, tls: Tls, qemu_nbd: Serve) -> None:
    image = qcow2(tmp_path / "image")
    put(image, (0, noise(1, LEAF)))
    source = address(daemon, tls, lend(daemon, qemu_nbd(image, "-f", "qcow2")))
    assert finish(tmp_path / "one", job(tmp_path, source)).state is State.DONE
    other = Path(shutil.copy(image, tmp_path / "other"))
    subprocess.run(["qemu-img", "bitmap", "--add", "-f", "qcow2", str(other), "since"], check=True, timeout=30)
    put(other, (MIB, noise(2, MIB)))
    with (tmp_path / "target").open("r+b") as file:
        file.write(b"torn")
    source = address(daemon, tls, lend(daemon, qemu_nbd(other, "-f", "qcow2", "-B", "since"), dirty=True), "dirty")
    report = finish(tmp_path / "two", job(tmp_path, source, round="2", base="1"))
    assert (report.state, report.read) == (State.DONE, LEAF)
    expected = bytearray(noise(1, LEAF).ljust(SIZE, b"\0"))
    expected[MIB : 2 * MIB] = noise(2, MIB)
    assert (tmp_path / "target").read_bytes() == expected


def test_a_layer_lists_what_it_holds_and_is_not_copied(
    tmp_path: Path, daemon: Imageio, tls: Tls, qemu_nbd: Serve
) -> None:
    base = qcow2(tmp_path / "base")
    put(base, (0, noise(3, 4 * MIB)))
    top = qcow2(tmp_path / "top", backing=base)
    put(top, (MIB, noise(5, MIB)), (3 * MIB, b""))
    alone = json.dumps({"driver": "qcow2", "backing": None, "file": {"driver": "file", "filename": str(top)}})
    reader = open_reader(address(daemon, tls, lend(daemon, _export(qemu_nbd, alone)), "layer"), SIZE)
    assert list(reader.changed()) == [Extent(MIB, MIB), Extent(3 * MIB, MIB)]
    with pytest.raises(Unsupported):
        reader.open_channel()


def _export(qemu_nbd: Serve, node: str) -> str:
    """Serve a node given as JSON, as a host does for a shallow transfer."""
    return qemu_nbd(Path(f"json:{node}"), "-A")


def test_no_backup_behind_the_ticket(tmp_path: Path, daemon: Imageio, tls: Tls, qemu_nbd: Serve) -> None:
    ticket = lend(daemon, qemu_nbd(qcow2(tmp_path / "image"), "-f", "qcow2"))
    with pytest.raises(Refused, match="no incremental backup"):
        open_reader(address(daemon, tls, ticket, "dirty"), SIZE)
    with pytest.raises(Invalid):
        open_reader(address(daemon, tls, ticket, "other"), SIZE)


# -- the daemon on this host ----------------------------------------------------------------------------------------------


def test_the_unix_socket_of_the_same_daemon(tmp_path: Path, daemon: Imageio, tls: Tls, qemu_nbd: Serve) -> None:
    url = qemu_nbd(raw(tmp_path / "image", content()), "-f", "raw")
    near = run(tmp_path / "near", tls, local=True)
    try:
        ticket = lend(near, url)
        proxy = Flaky(near.port, [])
        reader = open_reader(address(near, tls, ticket, port=proxy.address), SIZE)
        proxy.close()  # whatever comes now comes by the unix socket
        assert read(reader) == content()
        source = address(near, tls, ticket)
        assert finish(tmp_path / "job", job(tmp_path, source, verify=True)).state is State.DONE
        assert (tmp_path / "target").read_bytes() == content()
        assert (near.ticket(ticket) or {})["connections"] == 0
    finally:
        near.close()


def test_a_socket_of_another_daemon_is_left_alone(tmp_path: Path, tls: Tls, qemu_nbd: Serve) -> None:
    """By chance this host has a daemon too, at the very path that the far one names."""
    url = qemu_nbd(raw(tmp_path / "image", content()), "-f", "raw")
    far, here = run(tmp_path / "far", tls, local=True), run(tmp_path / "here", tls, local=True)
    try:
        far.unix_socket.unlink()
        far.unix_socket.symlink_to(here.unix_socket)
        assert read(open_reader(address(far, tls, lend(far, url)), SIZE)) == content()
    finally:
        far.close()
        here.close()


# -- trouble --------------------------------------------------------------------------------------------------------------


def test_lines_that_break_within_a_leaf(tmp_path: Path, daemon: Imageio, tls: Tls, qemu_nbd: Serve) -> None:
    ticket = lend(daemon, qemu_nbd(raw(tmp_path / "image", content()), "-f", "raw"))
    proxy = Flaky(daemon.port, [1 << 40, 3 * MIB, 70_000, 5 * MIB + 17, 100, MIB])
    source = address(daemon, tls, ticket, port=proxy.address)
    report = finish(tmp_path / "job", job(tmp_path, source, verify=True))
    proxy.close()
    assert (report.state, proxy.cuts) == (State.DONE, []), report
    assert (tmp_path / "target").read_bytes() == content()


def test_a_line_that_always_breaks_is_a_temporary_error(
    tmp_path: Path, daemon: Imageio, tls: Tls, qemu_nbd: Serve
) -> None:
    ticket = lend(daemon, qemu_nbd(raw(tmp_path / "image", content()), "-f", "raw"))
    proxy = Flaky(daemon.port, [1 << 40, *[3000] * 50])
    reader = open_reader(address(daemon, tls, ticket, port=proxy.address), SIZE)
    with pytest.raises(Unreachable) as failure:
        read(reader)
    proxy.close()
    assert failure.value.temporary


def test_a_ticket_that_ends_is_temporary_and_the_copy_goes_on_with_another(
    tmp_path: Path, daemon: Imageio, tls: Tls, qemu_nbd: Serve
) -> None:
    url = qemu_nbd(raw(tmp_path / "image", content()), "-f", "raw")
    ticket = lend(daemon, url)
    reader = open_reader(address(daemon, tls, ticket), SIZE)
    line, leaf = reader.open_channel(), memoryview(bytearray(LEAF))
    line.submit(0, leaf, 1)
    assert line.finish() == 1
    daemon.remove_ticket(ticket)
    line.submit(LEAF, leaf, 2)
    with pytest.raises(Busy, match="is over") as failure:
        line.finish()
    assert failure.value.temporary
    with pytest.raises(Busy, match="is over"):
        open_reader(address(daemon, tls, ticket), SIZE)

    report = finish(tmp_path / "one", job(tmp_path, address(daemon, tls, ticket)))
    assert (report.state, report.temporary) == (State.FAILED, True)
    report = finish(tmp_path / "two", job(tmp_path, address(daemon, tls, lend(daemon, url))))
    assert report.state is State.DONE
    assert (tmp_path / "target").read_bytes() == content()


def test_a_ticket_that_is_taken_away_while_it_is_read(
    tmp_path: Path, daemon: Imageio, tls: Tls, qemu_nbd: Serve
) -> None:
    """What was copied before is kept: of 64 MiB at most 32 are under way on eight connections."""
    data = b"".join(noise(seed, LEAF) for seed in range(24))
    url = qemu_nbd(raw(tmp_path / "image", data), "-f", "raw")
    ticket = lend(daemon, url, len(data))
    proxy = Slow(daemon.port, 64 * MIB, lambda: daemon.remove_ticket(ticket))
    source = address(daemon, tls, ticket, port=proxy.address)
    report = finish(tmp_path / "one", job(tmp_path, source, size=len(data)))
    proxy.close()
    assert (report.state, report.temporary) == (State.FAILED, True), report
    source = address(daemon, tls, lend(daemon, url, len(data)))
    again = finish(tmp_path / "two", job(tmp_path, source, size=len(data), verify=True))
    assert again.state is State.DONE
    assert again.read <= len(data) - 2 * LEAF
    assert (tmp_path / "target").read_bytes() == data


class Slow(Flaky):
    """Does something once so many bytes went through, and only then goes on."""

    def __init__(self, port: int, after: int, then: Callable[[], None]) -> None:
        super().__init__(port, [])
        self._after, self._then = after, then
        self._gate = threading.Lock()

    def _pass(self, source: socket.socket, target: socket.socket, limit: int) -> None:
        with suppress(OSError):
            while data := source.recv(64 << 10):
                with self._gate:
                    self._after -= len(data)
                    if self._after < 0 and self._then:
                        then, self._then = self._then, None  # type: ignore[assignment]
                        threading.Thread(target=then, daemon=True).start()
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def test_nothing_is_asked_of_a_stranger(daemon: Imageio, tls: Tls, tmp_path: Path) -> None:
    url = f"imageio+https://localhost:{daemon.port}/images/secret"
    for credentials in ({}, {"ca": Authority(tmp_path).pem}, {"fingerprint": "00" * 32}):
        with pytest.raises(Untrusted):
            open_reader(DiskAddress(url, credentials), SIZE)
    for credentials in ({"fingerprint": tls[0].sha256}, {"insecure": "true"}):
        with pytest.raises(Busy, match="is over"):
            open_reader(DiskAddress(url, credentials), SIZE)


# -- daemons that are older, or wrong -------------------------------------------------------------------------------------


class Ancient(BaseHTTPRequestHandler):
    """Knows no OPTIONS: ranges are all it has. `listing`: what it answers for extents, if it is a bit younger."""

    protocol_version = "HTTP/1.1"
    listing: bytes | None = None

    def do_OPTIONS(self) -> None:
        if self.listing is None:
            return self._answer(405, b"")
        return self._answer(200, b'{"features": ["extents"], "unix_socket": "/nowhere"}')

    def do_GET(self) -> None:
        if self.path.startswith("/images/t/extents"):
            return self._answer(200, self.listing or b"")
        low, high = (int(part) for part in self.headers["Range"].removeprefix("bytes=").split("-"))
        return self._answer(206, content()[low : high + 1], f"bytes {low}-{high}/{SIZE}")

    def _answer(self, status: int, body: bytes, span: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if span:
            self.send_header("Content-Range", span)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None: ...


def ancient(https: Callable[[type[BaseHTTPRequestHandler]], int], authority: Authority, **facts: object) -> DiskAddress:
    port = https(type("ThisAncient", (Ancient,), facts))
    return DiskAddress(f"imageio+https://localhost:{port}/images/t", {"ca": authority.pem})


Https = Callable[[type[BaseHTTPRequestHandler]], int]


def test_an_ancient_daemon(https: Https, authority: Authority) -> None:
    source = ancient(https, authority)
    reader = open_reader(source, SIZE)
    assert (reader.size, reader.max_connections) == (SIZE, 1)
    assert list(reader.extents(0, SIZE)) == [Extent(0, SIZE)]
    assert read(reader) == content()
    with pytest.raises(Unsupported, match="too old"):
        open_reader(DiskAddress(f"{source.url}?delta=dirty", source.credentials), SIZE)


def test_a_long_list_comes_in_parts(https: Https, authority: Authority) -> None:
    areas = [{"start": at, "length": 100, "zero": at % 200 == 0} for at in range(0, SIZE, 100)]
    reader = open_reader(ancient(https, authority, listing=json.dumps(areas).encode() + b"\n"), SIZE)
    found = list(reader.extents(0, SIZE))
    assert (len(found), sum(one.length for one in found)) == (len(areas), SIZE)
    assert found[:2] == [Extent(0, 100, zero=True), Extent(100, 100)]


@pytest.mark.parametrize(
    "listing",
    [
        b"[]\n",
        b'[{"start": 0, "length": 100}]',
        b'[{"start": 512, "length": 99999999}]',
        b'[{"start": 0, "length": 99999999}',
        b'[{"start": 0, "length": "x"}]',
        b"<html>",
        b"",
    ],
)
def test_a_list_that_does_not_cover_the_disk(https: Https, authority: Authority, listing: bytes) -> None:
    with pytest.raises(CopyFailed):
        open_reader(ancient(https, authority, listing=listing), SIZE)


def test_areas() -> None:
    areas = Areas([Area(0, 10, zero=True), Area(10, 5, hole=True, dirty=True), Area(15, 5, hole=False)])
    assert list(areas.within(4, 8)) == [Extent(4, 6, zero=True), Extent(10, 2)]
    assert [one.zero for one in areas.marked(Areas.DIRTY)] == [False, True, False]
    assert [one.zero for one in areas.marked(Areas.HELD)] == [True, False, True]
    assert (areas.end, Areas([]).end) == (20, 0)
    with pytest.raises(ValueError):
        Areas([Area(0, 10), Area(11, 1)])


def test_a_port_where_nobody_speaks_tls(tls: Tls) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    listener.close()
    with pytest.raises(TranshipError) as failure:
        open_reader(DiskAddress(f"imageio+https://localhost:{port}/images/t", {"ca": tls[0].ca_pem}), SIZE)
    assert failure.value.temporary
