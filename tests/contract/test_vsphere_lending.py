"""What movers are lent: a session of their own for each round, on the lab's vCenter and on govmomi's simulator.

The simulator knows cookie and key of a session as one, asks nobody for a cookie in its datastore folder, has no VDDK, and
gives a clone the name of the program that made the ticket: what depends on these is tried on the lab alone.
"""

import os
import random
import runpy
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tranship.errors import Busy, CopyFailed, Unreachable
from tranship.inventory.estate import Estate
from tranship.inventory.vm import VM
from tranship.lab.vsphere import VCenter
from tranship.providers.vsphere import VsphereSource
from tranship.providers.vsphere.client import Client, Login
from tranship.providers.vsphere.lending import AGENT, Handle
from tranship.testing.borrowing import Borrowed, borrow
from tranship.transfer import channel
from tranship.transfer.address import DiskAddress
from tranship.transfer.library import placed
from tranship.transfer.readers import open_reader

VCSIM = runpy.run_path(str(Path(__file__).parent / "vcsim" / "process.py"))
SECONDS = 30
SIZE = 2 << 20
CONTENT = random.Random(5).randbytes(SIZE)
DISK = "2000"


@dataclass
class Server:
    """A vCenter with a VM that is off, as an administrator sees it."""

    url: str
    secret: dict[str, str]
    vm: VM
    admin: Client
    disk: str

    def source(self, **settings: str) -> VsphereSource:
        return VsphereSource(self.url, self.secret, settings, timeout=20, wait=1)

    def sessions(self) -> dict[str, str]:
        """Key -> the program's name; the administrator's own left out."""
        listed = self.admin.content.sessionManager.sessionList
        return {one.key: one.userAgent for one in listed if one.key != self.admin._session}

    def terminate(self, key: str) -> None:
        self.admin.call("terminate", lambda: self.admin.content.sessionManager.TerminateSession([key]))


def first_estate(source: VsphereSource) -> Estate:
    estates: list[Estate] = []
    stop = threading.Event()

    def publish(estate: Estate) -> None:
        estates.append(estate)
        stop.set()

    source.follow(publish, stop)
    source.close()
    return estates[0]


def serve(url: str, secret: dict[str, str], name: str) -> Server:
    estate = first_estate(VsphereSource(url, secret, {}, timeout=20, wait=1))
    vm = next(one for one in estate.vms.values() if one.name == name)
    return Server(url, secret, vm, Client(Login.of(url, secret)), vm.disks[0].key)


@pytest.fixture(scope="module")
def center(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VCenter]:
    with VCenter(tmp_path_factory.mktemp("lab")) as made:
        made.add_vm("lent", [CONTENT, CONTENT])
        yield made


@pytest.fixture
def lab(center: VCenter) -> Iterator[Server]:
    made = serve(center.url, {"user": center.user, "password": center.password, "ca.crt": center.ca_pem}, "lent")
    yield made
    center.faults.clear()
    center.missing_privileges.clear()
    made.admin.close()
    left = [session.agent for session in center.sessions.live.values()]
    center.sessions.end_all()
    assert not left


@pytest.fixture(scope="module")
def vcsim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    try:
        VCSIM["binary"]()
    except VCSIM["Unavailable"] as reason:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"govmomi's simulator cannot be built: {reason}")
    process = VCSIM["Server"](tmp_path_factory.mktemp("vcsim"))
    secret = {"user": VCSIM["USER"], "password": VCSIM["PASSWORD"], "ca.crt": process.identity.ca}
    made = serve(process.url, secret, "DC0_C0_RP0_VM0")
    source = made.source()
    source.power_off(made.vm)
    source.close()
    yield made
    process.close()


@pytest.fixture(params=["lab", "vcsim"])
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def source(server: Server) -> Iterator[VsphereSource]:
    made = server.source()
    yield made
    made.close()


@pytest.fixture
def on_lab(lab: Server) -> Iterator[VsphereSource]:
    made = lab.source()
    yield made
    made.close()


def read(address: DiskAddress) -> bytes:
    reader = open_reader(address, SIZE)
    try:
        buffer = memoryview(bytearray(SIZE))
        line = reader.open_channel()
        line.submit(0, buffer, 1)
        line.finish()
        line.close()
        return bytes(buffer)
    finally:
        reader.close()


def lent(opened: Borrowed) -> Handle:
    return Handle.read(opened.handle)


# -- on both -----------------------------------------------------------------------------------------------------------


def test_a_round_has_a_session_of_its_own(server: Server, source: VsphereSource) -> None:
    source.identify()
    before = server.sessions()
    opened = borrow(source, server.vm, {server.disk: "datastore"})
    handle = lent(opened)
    assert server.sessions().keys() - before.keys() == {handle.key}
    assert handle.key != source._calls._session
    assert handle.cookie in opened.addresses[server.disk].credentials["cookie"]
    assert handle.cookie not in str(source._calls._stub.cookie)
    for _ in range(2):
        source.close_disks(opened.handle)
        assert server.sessions().keys() == before.keys()


def test_it_is_remembered_before_it_is_handed_out(server: Server, source: VsphereSource) -> None:
    """First its name, then what it takes to use it."""
    opened = borrow(source, server.vm, {server.disk: "datastore"})
    first, second = (Handle.read(one) for one in opened.handles)
    assert first.name.startswith(f"{AGENT}/{server.vm.id}-") and not first.cookie
    assert second == lent(opened)
    source.close_disks(opened.handle)


def test_a_restarted_controller_finds_it_by_its_handle(server: Server, source: VsphereSource) -> None:
    opened = borrow(source, server.vm, {server.disk: "datastore"})
    source.close()
    other = server.source()
    other.keep(opened.handle)
    again = borrow(other, server.vm, {server.disk: "datastore"}, before=opened.handle)
    assert again.handles == []
    assert again.addresses == opened.addresses
    other.close_disks(opened.handle)
    assert lent(opened).key not in server.sessions()
    other.close()


def test_one_that_was_terminated(server: Server, source: VsphereSource) -> None:
    """Its readers notice; the next try gets another."""
    opened = borrow(source, server.vm, {server.disk: "datastore"})
    server.terminate(lent(opened).key)
    source.keep(opened.handle)
    again = borrow(source, server.vm, {server.disk: "datastore"}, before=opened.handle)
    assert lent(again).key != lent(opened).key
    source.keep(again.handle)
    assert lent(again).key in server.sessions()
    source.close_disks(opened.handle)
    source.close_disks(again.handle)
    assert lent(again).key not in server.sessions()


def test_who_cannot_remember_it_has_none(server: Server, source: VsphereSource) -> None:
    source.identify()
    before, told = server.sessions(), []

    def remember(handle: str) -> None:
        told.append(handle)
        if len(told) == 2:
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        ways = {server.disk: "datastore"}
        source.open_disks(server.vm, ways, snapshot="", base={}, before="", remember=remember)
    assert server.sessions().keys() == before.keys()


def test_no_password_is_handed_out(server: Server, source: VsphereSource) -> None:
    opened = borrow(source, server.vm, {server.disk: "datastore"})
    given = repr([dict(one.credentials) for one in opened.addresses.values()]) + "".join(opened.handles)
    assert server.secret["password"] not in given
    assert str(source._calls._stub.cookie).partition(";")[0].partition("=")[2].strip('"') not in given
    assert lent(opened).cookie not in repr(opened) + repr(lent(opened))
    source.close_disks(opened.handle)


def test_handles_of_somebody_else(server: Server, source: VsphereSource) -> None:
    before = server.sessions()
    for text in ("", "lease:session[52]52-1", "5", "{}", '{"who": "knows"}', '{"name": "other/vm-1"}'):
        source.keep(text)
        source.close_disks(text)
    assert server.sessions() == before


# -- on the lab --------------------------------------------------------------------------------------------------------


def test_reading_after_it_was_terminated(lab: Server, on_lab: VsphereSource) -> None:
    opened = borrow(on_lab, lab.vm, {DISK: "datastore"})
    assert read(opened.addresses[DISK]) == CONTENT
    lab.terminate(lent(opened).key)
    with pytest.raises(Busy, match="session that was lent has ended"):
        read(opened.addresses[DISK])
    again = borrow(on_lab, lab.vm, {DISK: "datastore"}, before=opened.handle)
    assert read(again.addresses[DISK]) == CONTENT
    on_lab.close_disks(again.handle)


def test_vddk_reads_by_it(center: VCenter, lab: Server) -> None:
    """Without a password, until it ends; what is open then is lost."""
    source = lab.source(vddkDirectory=str(center.vddk_directory))
    opened = borrow(source, lab.vm, {DISK: "vddk"})
    address = placed(opened.addresses[DISK], str(center.vddk_directory))
    assert {"user", "cookie", "key", "fingerprint"} == address.credentials.keys()
    assert center.password not in repr(dict(address.credentials))
    assert channel.probe(address, SIZE).works
    reader = open_reader(address, SIZE)
    line = reader.open_channel()
    lab.terminate(lent(opened).key)
    line.submit(0, memoryview(bytearray(SIZE)), 1)
    with pytest.raises(CopyFailed) as lost:
        line.finish()
    line.close()
    reader.close()
    assert lost.value.temporary
    assert "session that was lent has ended" in channel.probe(address, SIZE).detail
    again = borrow(source, lab.vm, {DISK: "vddk"}, before=opened.handle)
    assert channel.probe(placed(again.addresses[DISK], str(center.vddk_directory)), SIZE).works
    source.close_disks(again.handle)
    source.close()


def test_a_sign_of_life_reaches_it(center: VCenter, lab: Server, on_lab: VsphereSource) -> None:
    for way in ("datastore", "nfc"):
        opened = borrow(on_lab, lab.vm, {DISK: way})
        session = center.sessions.live[lent(opened).cookie]
        session.last -= 1000
        on_lab.keep(opened.handle)
        center.session_timeout = 500
        center.sessions.find("")
        center.session_timeout = 1800
        assert not session.ended
        on_lab.close_disks(opened.handle)


def test_reading_by_the_library_is_no_sign_of_life(center: VCenter, lab: Server) -> None:
    """Else nobody would notice that the controllers give none."""
    source = lab.source(vddkDirectory=str(center.vddk_directory))
    opened = borrow(source, lab.vm, {DISK: "vddk"})
    session = center.sessions.live[lent(opened).cookie]
    last = session.last
    assert channel.probe(placed(opened.addresses[DISK], str(center.vddk_directory)), SIZE).works
    assert session.last == last
    source.close_disks(opened.handle)
    source.close()


def test_a_lease_lives_and_ends_in_it(center: VCenter, lab: Server, on_lab: VsphereSource) -> None:
    opened = borrow(on_lab, lab.vm, {DISK: "nfc", "2001": "datastore"})
    machine = center.vm("lent")
    assert machine.lease is not None and lent(opened).lease == machine.lease.moid
    on_lab.close()
    other = lab.source()
    other.keep(opened.handle)
    assert borrow(other, lab.vm, {DISK: "nfc"}, before=opened.handle).handle == opened.handle
    other.close_disks(opened.handle)
    assert machine.lease is None
    other.close()


def test_a_lease_whose_session_was_terminated(center: VCenter, lab: Server, on_lab: VsphereSource) -> None:
    opened = borrow(on_lab, lab.vm, {DISK: "nfc"})
    lab.terminate(lent(opened).key)
    on_lab.keep(opened.handle)
    again = borrow(on_lab, lab.vm, {DISK: "nfc"}, before=opened.handle)
    assert lent(again).key != lent(opened).key and lent(again).lease
    lab.terminate(lent(again).key)
    on_lab.close_disks(again.handle)
    assert center.vm("lent").lease is None


def test_a_clone_whose_answer_is_lost(center: VCenter, lab: Server, on_lab: VsphereSource) -> None:
    """Nobody has its cookie. It is ended by its name: by the next try, or when the round ends without one."""
    for cleanup in ("try again", "give up"):
        center.faults.add("CloneSession", drop="after")
        told: list[str] = []
        ways = {DISK: "datastore"}
        with pytest.raises(Unreachable):
            on_lab.open_disks(lab.vm, ways, snapshot="", base={}, before="", remember=told.append)
        (handle,) = told
        assert Handle.read(handle).name in lab.sessions().values()
        if cleanup == "try again":
            again = borrow(on_lab, lab.vm, ways, before=handle)
            assert Handle.read(handle).name not in lab.sessions().values()
            handle = again.handle
        on_lab.close_disks(handle)
        assert not [name for name in lab.sessions().values() if name.startswith(AGENT)]


def test_who_may_not_see_the_list_leaves_it_to_expire(center: VCenter, lab: Server, on_lab: VsphereSource) -> None:
    orphan = on_lab._lender._clone(f"{AGENT}/vm-0-lost")
    center.missing_privileges.add("Sessions.TerminateSession")
    on_lab.close_disks(str(Handle(f"{AGENT}/vm-0-lost")))
    opened = borrow(on_lab, lab.vm, {DISK: "datastore"})
    assert read(opened.addresses[DISK]) == CONTENT
    on_lab.close_disks(opened.handle)
    assert [name for name in lab.sessions().values() if name.startswith(AGENT)] == [f"{AGENT}/vm-0-lost"]
    orphan.end()


def test_a_host_that_knows_no_clones(center: VCenter, lab: Server, on_lab: VsphereSource) -> None:
    center.faults.add("AcquireCloneTicket", fault="NotSupported")
    opened = borrow(on_lab, lab.vm, {DISK: "datastore"})
    assert lab.sessions()[lent(opened).key].startswith(AGENT)
    assert read(opened.addresses[DISK]) == CONTENT
    on_lab.close_disks(opened.handle)


def test_it_outlives_the_controllers_session(lab: Server, on_lab: VsphereSource) -> None:
    opened = borrow(on_lab, lab.vm, {DISK: "datastore"})
    lab.terminate(on_lab._calls._session)
    assert read(opened.addresses[DISK]) == CONTENT
    on_lab.close_disks(opened.handle)


def test_a_vcenter_that_does_not_answer_is_asked_again(center: VCenter, lab: Server, on_lab: VsphereSource) -> None:
    opened = borrow(on_lab, lab.vm, {DISK: "datastore"})
    center.faults.add("Logout", drop="before")
    with pytest.raises(Unreachable):
        on_lab.close_disks(opened.handle)
    on_lab.close_disks(opened.handle)
    assert lent(opened).key not in lab.sessions()


def test_a_disk_that_cannot_be_read_costs_no_session(lab: Server, on_lab: VsphereSource) -> None:
    on_lab.identify()
    before = lab.sessions()
    for ways, why in (({"2009": "datastore"}, "2009"), ({DISK: "telepathy"}, "telepathy")):
        with pytest.raises(Exception, match=why):
            borrow(on_lab, lab.vm, ways)
    assert lab.sessions() == before


def test_probes_give_back(center: VCenter, lab: Server) -> None:
    source = lab.source(vddkDirectory=str(center.vddk_directory))
    source.identify()
    before = lab.sessions()
    outcome: Any = [(one.way, one.works) for one in source.probe(lab.vm)]
    assert outcome == [("vddk", True), ("nfc", True), ("datastore", True)]
    assert lab.sessions() == before
    source.close()


def test_a_library_that_only_pods_have_is_not_probed(lab: Server) -> None:
    source = lab.source(vddkInitImage="registry.example.com/vddk:8")
    (probe,) = [one for one in source.probe(lab.vm) if one.way == "vddk"]
    assert probe.works is None and "only movers in the cluster have the library" in probe.detail
    source.close()
