"""The vddk reader against the lab's libvixDiskLib: the same C interface, loaded by the same loader."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tranship.errors import (
    AuthFailed,
    Busy,
    CopyFailed,
    Denied,
    Invalid,
    NotFound,
    ToolMissing,
    TranshipError,
    Unreachable,
)
from tranship.lab.storage import Volume
from tranship.lab.vddk import BlockService, Trouble, build_library
from tranship.transfer import channel
from tranship.transfer.address import DiskAddress
from tranship.transfer.channel import Job, State
from tranship.transfer.readers import open_reader

from .conftest import wait_for

SIZE = 24 << 20
PIN = "AB" * 20
MIB = 1 << 20


class Source:
    """VM vm-42 with one disk and snapshot-7 of it, behind a block service."""

    def __init__(self, folder: Path) -> None:
        self.volume = Volume(folder / "volume", SIZE)
        self.volume.write(0, random.Random(1).randbytes(3 * MIB))
        self.volume.write(17 * MIB + 512, random.Random(2).randbytes(MIB))
        self.content = self.volume.read(0, SIZE)
        self.volume.snapshot("snapshot-7")
        self.volume.write(0, b"later" * 1000)  # not in the snapshot
        self.sessions = {("cookie-1", "root", "key-1")}
        self.service = BlockService(self._authorize, self._find, session=self._session, thumbprint=PIN)
        self.service.start()
        self.libdir = build_library(folder / "vddk", self.service.address)

    def _authorize(self, user: str, password: str) -> bool:
        return (user, password) == ("root", "secret")

    def _session(self, cookie: str, user: str, key: str) -> bool:
        return (cookie, user, key) in self.sessions

    def _find(self, vm: str, snapshot: str, path: str) -> tuple[Volume, str | None]:
        if vm != "vm-42" or path != "[ds 1] vm/vm.vmdk":
            raise NotFound(what="vm" if vm != "vm-42" else "disk", name=vm)
        if snapshot not in ("snapshot-7", ""):
            raise NotFound(what="snapshot", name=snapshot)
        if not snapshot:
            raise Denied("", what="it runs")
        return self.volume, snapshot

    def lent(self) -> DiskAddress:
        """By a session, without a password."""
        return self.address(password="", cookie="cookie-1", key="key-1")

    def address(self, *, snapshot: str = "snapshot-7", moref: str = "vm-42", **secrets: str) -> DiskAddress:
        query = f"moref={moref}&snapshot={snapshot}&disk=[ds+1]+vm/vm.vmdk&libdir={self.libdir}&port=443"
        credentials = {"user": "root", "password": "secret", "fingerprint": PIN, **secrets}
        return DiskAddress(f"vddk://127.0.0.1/?{query}", credentials)


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Source]:
    made = Source(tmp_path)
    yield made
    made.service.close()
    made.volume.close()


def read(address: DiskAddress, *, request: int = MIB) -> bytes:
    reader = open_reader(address, SIZE)
    lines = [reader.open_channel() for _ in range(2)]
    data = bytearray(reader.size)
    view = memoryview(data)
    offsets = list(range(0, reader.size, request))
    try:
        for tag, at in enumerate(offsets):
            lines[tag % 2].submit(at, view[at : at + request], tag)
        done = [lines[tag % 2].finish() for tag in range(len(offsets))]
    finally:
        for line in lines:
            line.close()
        reader.close()
    assert sorted(done) == list(range(len(offsets)))
    return bytes(data)


def test_many_reads_in_flight_on_two_handles(source: Source) -> None:
    assert read(source.address()) == source.content


def test_a_session_is_enough(source: Source) -> None:
    assert read(source.lent()) == source.content


def test_a_session_that_ended_is_worth_another_try(source: Source) -> None:
    reader = open_reader(source.lent(), SIZE)
    line = reader.open_channel()
    source.sessions.clear()
    line.submit(0, memoryview(bytearray(MIB)), 1)
    with pytest.raises(CopyFailed, match="connection to the host was lost") as lost:
        line.finish()
    line.close()
    reader.close()
    with pytest.raises(Busy, match="session that was lent has ended") as refused:
        open_reader(source.lent(), SIZE)
    assert lost.value.temporary and refused.value.temporary
    assert "cookie-1" not in str(refused.value)


def test_what_is_not_allocated_is_zero(source: Source) -> None:
    reader = open_reader(source.address(), SIZE)
    extents = list(reader.extents(0, SIZE))
    assert sum(e.length for e in extents) == SIZE
    assert [e.zero for e in extents][:2] == [False, True]
    assert all(not any(source.content[e.start : e.end]) for e in extents if e.zero)
    assert [(e.start, e.end) for e in reader.extents(512, 1024)] == [(512, 1536)]
    assert not reader.cheap_extents
    reader.close()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"password": "wrong"}, AuthFailed),
        ({"snapshot": "snapshot-8"}, NotFound),
        ({"moref": "vm-1"}, NotFound),
        ({"snapshot": ""}, Denied),
        ({"fingerprint": "CD" * 20}, Unreachable),
        ({"user": ""}, Invalid),
        ({"password": ""}, Invalid),
    ],
)
def test_refusals(source: Source, changes: dict[str, str], error: type[TranshipError]) -> None:
    with pytest.raises(error) as failure:
        open_reader(source.address(**changes), SIZE)
    assert "wrong" not in str(failure.value)


def test_a_failed_read_names_its_place(source: Source) -> None:
    source.service.faults.reads[5] = Trouble.FAIL
    with pytest.raises(CopyFailed, match=r"ReadAsync at .* file access error"):
        read(source.address())


def test_a_missing_library_says_what_was_looked_for(source: Source, tmp_path: Path) -> None:
    url = source.address().url.replace(str(source.libdir), str(tmp_path / "none"))
    with pytest.raises(ToolMissing, match=r"libvixDiskLib\.so\.8"):
        open_reader(DiskAddress(url, source.address().credentials), SIZE)
    (tmp_path / "bad" / "lib64").mkdir(parents=True)
    (tmp_path / "bad" / "lib64" / "libvixDiskLib.so.8").write_text("no library")
    with pytest.raises(ToolMissing, match=r"invalid ELF header|file too short"):
        open_reader(DiskAddress(url.replace("none", "bad"), source.address().credentials), SIZE)


def test_a_mover_copies_by_it(source: Source, tmp_path: Path) -> None:
    target = DiskAddress((tmp_path / "target").as_uri())
    job = Job(
        disk="d", source=source.address(), target=target, size=SIZE, round="1", point="s", state=tmp_path / "state"
    )
    assert channel.probe(job.source, SIZE).works
    channel.start(tmp_path / "r1", job)
    wait_for(lambda: channel.look(tmp_path / "r1").state is not State.RUNNING)
    report = channel.look(tmp_path / "r1")
    assert (report.state, report.verified) == (State.DONE, True), report.message
    assert (tmp_path / "target").read_bytes() == source.content
    assert report.read < SIZE // 2
    wrong = channel.probe(source.address(password="wrong"), SIZE)
    assert (wrong.works, wrong.reason) == (False, "AuthFailed")
