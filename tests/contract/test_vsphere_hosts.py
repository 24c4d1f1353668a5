"""Disks that are read from the ESXi host that the VM is on, on the lab: who is asked, by what, and what is left there."""

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from tranship.errors import AuthFailed, Busy, Refused, Unreachable, Untrusted
from tranship.inventory.estate import Estate
from tranship.inventory.vm import VM
from tranship.lab.vsphere import LabVM, VCenter
from tranship.providers.base import HostAccess
from tranship.providers.registry import identify_host
from tranship.providers.vsphere import VsphereSource
from tranship.providers.vsphere.lending import Handle
from tranship.testing.borrowing import Borrowed, borrow
from tranship.transfer.address import DiskAddress
from tranship.transfer.library import placed
from tranship.transfer.readers import open_reader

SIZE = 2 << 20
CONTENT = random.Random(7).randbytes(SIZE)
DISK = "2000"
WAYS = ("vddk", "nfc", "datastore")


@pytest.fixture(scope="module")
def module_center(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VCenter]:
    with VCenter(tmp_path_factory.mktemp("lab")) as made:
        yield made


@pytest.fixture
def center(module_center: VCenter) -> Iterator[VCenter]:
    yield module_center
    for number in (0, 1):
        host = module_center.esxi(number)
        left = [one.agent for one in host.sessions.live.values()]
        host.sessions.end_all()
        host.faults.clear()
        assert not left, f"sessions on {host.name}"
    left = [one.agent for one in module_center.sessions.live.values()]
    module_center.sessions.end_all()
    assert not left, "sessions on the vCenter"


def access(center: VCenter, number: int = 0, **changes: str) -> HostAccess:
    host = center.esxi(number)
    secret = {"user": host.user, "password": host.password, "thumbprint": host.thumbprint}
    return HostAccess(host.name.partition(".")[0], host.moref, "", host.address, {**secret, **changes})


@pytest.fixture
def source(center: VCenter) -> Iterator[VsphereSource]:
    made = make(center)
    made.read_from([access(center)])
    yield made
    made.close()


def make(center: VCenter) -> VsphereSource:
    secret = {"user": center.user, "password": center.password, "ca.crt": center.ca_pem}
    return VsphereSource(center.url, secret, {"vddkDirectory": str(center.vddk_directory)}, timeout=20, wait=1)


@pytest.fixture
def machine(center: VCenter, request: pytest.FixtureRequest) -> Iterator[LabVM]:
    made = center.add_vm(f"direct-{request.node.name}"[:60], [CONTENT], host=0, cbt=True)
    yield made
    assert made.lease is None
    center.remove_vm(made)


def known(machine: LabVM) -> VM:
    return VM(id=machine.moref, name=machine.name, instance_uuid=machine.instance_uuid)


def read(center: VCenter, address: DiskAddress) -> bytes:
    if address.url.startswith("vddk"):
        address = placed(address, str(center.vddk_directory))
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


# -- reading --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["vddk", "datastore"])
def test_one_that_is_off(center: VCenter, source: VsphereSource, machine: LabVM, way: str) -> None:
    opened = borrow(source, known(machine), {DISK: way})
    assert read(center, opened.addresses[DISK]) == CONTENT
    method = {"vddk": "VDDK open", "datastore": "GET /folder"}[way]
    assert center.esxi().faults.count(method, machine.name) > 0
    assert center.faults.count(method, machine.name) == 0
    source.close_disks(opened.handle)


def test_a_snapshot_of_one_that_runs(center: VCenter, source: VsphereSource, machine: LabVM) -> None:
    vm = known(machine)
    center.power.switch_on(machine)
    source.create_snapshot(vm, "tranship-one", quiesce=False)
    machine.write(0, b"written after it")
    opened = borrow(source, vm, {DISK: "vddk"}, snapshot="tranship-one")
    url = opened.addresses[DISK].url
    assert center.esxi().address in url and machine.moref not in url and machine.chain[0].moid not in url
    assert read(center, opened.addresses[DISK]) == CONTENT
    source.close_disks(opened.handle)
    assert center.faults.count("VDDK open", machine.name) == 0
    source.remove_snapshot(vm, "tranship-one")
    assert center.esxi().faults.count("RemoveSnapshot_Task") == 0, "snapshots are the vCenter's"
    center.power.switch_off(machine, "hard-off")


@pytest.mark.parametrize("snapshot", ["", "tranship-one"])
def test_an_export(center: VCenter, source: VsphereSource, machine: LabVM, snapshot: str) -> None:
    vm = known(machine)
    if snapshot:
        source.create_snapshot(vm, snapshot, quiesce=False)
    opened = borrow(source, vm, {DISK: "nfc"}, snapshot=snapshot)
    address = opened.addresses[DISK]
    assert address.url.startswith(f"nfc+https://{center.esxi().address}/nfc/")
    reader = open_reader(address, SIZE)
    target = bytearray(SIZE)
    for piece in reader.stream():
        piece.decode(memoryview(target)[piece.start : piece.start + piece.length])
    reader.close()
    assert target == CONTENT
    before = center.esxi().faults.count("HttpNfcLeaseProgress")
    source.keep(opened.handle)
    assert center.esxi().faults.count("HttpNfcLeaseProgress") == before + 1
    assert center.faults.count("HttpNfcLeaseProgress") == 0
    source.close_disks(opened.handle)
    if snapshot:
        source.remove_snapshot(vm, snapshot)


def test_what_changed_is_asked_at_the_vcenter(center: VCenter, source: VsphereSource, machine: LabVM) -> None:
    vm = known(machine)
    center.power.switch_on(machine)
    source.create_snapshot(vm, "tranship-1", quiesce=False)
    since = next(one for one in source.observe(vm).snapshots).change_ids[DISK]
    machine.write(1 << 20, b"x" * 4096)
    source.remove_snapshot(vm, "tranship-1")
    source.create_snapshot(vm, "tranship-2", quiesce=False)
    opened = borrow(source, vm, {DISK: "vddk"}, snapshot="tranship-2", base={DISK: since})
    reading = opened.disks[DISK]
    assert reading.delta and reading.changed and reading.changed[0].start == 1 << 20
    assert center.esxi().faults.count("QueryChangedDiskAreas") == 0
    source.close_disks(opened.handle)
    source.remove_snapshot(vm, "tranship-2")
    center.power.switch_off(machine, "hard-off")


# -- what is handed out, and what is left ----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_no_password_is_handed_out(center: VCenter, source: VsphereSource, machine: LabVM, way: str) -> None:
    opened = borrow(source, known(machine), {DISK: way})
    host = center.esxi()
    (session,) = host.sessions.live.values()
    handle = Handle.read(opened.handle)
    assert (handle.key, handle.cookie) == (session.key, session.cookie)
    assert session.agent.startswith("tranship-mover/")
    given = repr([dict(one.credentials) for one in opened.addresses.values()]) + "".join(opened.handles)
    for secret in (host.password, center.password):
        assert secret not in given
    source.close_disks(opened.handle)
    assert not host.sessions.live


def test_a_restarted_controller_finds_it(center: VCenter, source: VsphereSource, machine: LabVM) -> None:
    opened = borrow(source, known(machine), {DISK: "nfc"})
    source.close()
    other = make(center)
    other.read_from([access(center)])
    other.keep(opened.handle)
    again = borrow(other, known(machine), {DISK: "nfc"}, before=opened.handle)
    assert again.addresses == opened.addresses
    other.close_disks(again.handle)
    other.close()


@pytest.mark.parametrize("way", WAYS)
def test_what_was_lent_ends_when_its_host_object_is_gone(
    center: VCenter, source: VsphereSource, machine: LabVM, way: str
) -> None:
    """Nobody has the password any more. The handle is enough; after a restart too."""
    opened = borrow(source, known(machine), {DISK: way})
    source.close()
    other = make(center)
    other.keep(opened.handle)
    other.close_disks(opened.handle)
    assert not center.esxi().sessions.live
    other.close()


def test_a_login_whose_answer_is_lost(center: VCenter, source: VsphereSource, machine: LabVM) -> None:
    center.esxi().faults.add("Login", drop="after")
    told: list[str] = []
    with pytest.raises(Unreachable):
        source.open_disks(known(machine), {DISK: "vddk"}, snapshot="", base={}, before="", remember=told.append)
    assert len(center.esxi().sessions.live) == 1
    source.close_disks(told[-1])
    assert not center.esxi().sessions.live


# -- another host ----------------------------------------------------------------------------------------------------------


def test_a_vm_that_moves_between_rounds(center: VCenter, source: VsphereSource, machine: LabVM) -> None:
    source.read_from([access(center, 0), access(center, 1)])
    for number in (0, 1, 0):
        center.migrate(machine, number)
        opened = borrow(source, known(machine), {DISK: "vddk"})
        assert center.esxi(number).address in opened.addresses[DISK].url
        assert read(center, opened.addresses[DISK]) == CONTENT
        source.close_disks(opened.handle)
    source.read_from([access(center, 1)])
    opened = borrow(source, known(machine), {DISK: "vddk"})
    assert f":{center.port}/" in opened.addresses[DISK].url
    source.close_disks(opened.handle)


def test_a_vm_that_moves_within_a_round(center: VCenter, source: VsphereSource, machine: LabVM) -> None:
    """What was lent on the first host is given back before anything is lent on the other."""
    source.read_from([access(center, 0), access(center, 1)])
    first = borrow(source, known(machine), {DISK: "nfc"})
    center.migrate(machine, 1)
    second = borrow(source, known(machine), {DISK: "nfc"}, before=first.handle)
    assert not center.esxi(0).sessions.live
    assert center.esxi(1).address in second.addresses[DISK].url
    source.read_from([])
    third = borrow(source, known(machine), {DISK: "nfc"}, before=second.handle)
    assert not center.esxi(1).sessions.live
    assert f":{center.port}/" in third.addresses[DISK].url
    source.close_disks(third.handle)


def test_by_the_name_of_the_host(center: VCenter, source: VsphereSource, machine: LabVM) -> None:
    for name in (center.esxi().name, f"/Datacenter/host/cluster1/{center.esxi().name}"):
        source.read_from([replace(access(center), id="", host=name)])
        opened = borrow(source, known(machine), {DISK: "vddk"})
        assert center.esxi().address in opened.addresses[DISK].url
        source.close_disks(opened.handle)


def test_the_ways_say_so(center: VCenter, source: VsphereSource, machine: LabVM) -> None:
    vm = in_inventory(source, machine)
    (way,) = source.ways(vm, warm=True, on_this_host=True)
    assert way.way == "vddk"
    assert f"by host {center.esxi().address} itself" in way.why and "Host esx1" in way.why
    center.migrate(machine, 1)
    (way,) = source.ways(vm, warm=True, on_this_host=True)
    assert "itself" not in way.why
    assert not center.esxi().sessions.live


def in_inventory(source: VsphereSource, machine: LabVM) -> VM:
    """As the inventory has it."""
    found: list[VM] = []
    stop = threading.Event()

    def publish(estate: Estate) -> None:
        found.append(estate.vms[machine.moref])
        stop.set()

    source.follow(publish, stop)
    return found[0]


# -- trouble ----------------------------------------------------------------------------------------------------------------


def test_a_host_that_does_not_answer(center: VCenter, source: VsphereSource, machine: LabVM) -> None:
    """Temporary, with what to do; and nothing is read from the vCenter instead."""
    source.read_from([replace(access(center), address="localhost:1")])
    told: list[str] = []
    with pytest.raises(Unreachable) as error:
        source.open_disks(known(machine), {DISK: "vddk"}, snapshot="", base={}, before="", remember=told.append)
    assert error.value.temporary
    assert "localhost:1" in str(error.value) and "delete Host esx1" in error.value.suggestion
    source.close_disks(told[-1])
    assert center.faults.count("VDDK open", machine.name) == 0


def test_a_host_that_is_gone_keeps_nobody_waiting(center: VCenter, source: VsphereSource, machine: LabVM) -> None:
    opened = borrow(source, known(machine), {DISK: "vddk"})
    center.esxi().faults.add("CurrentTime", drop="before", count=2)
    center.esxi().faults.add("Logout", drop="before")
    source.keep(opened.handle)
    source.close_disks(opened.handle)
    source.close_disks(opened.handle)
    assert not center.esxi().sessions.live


def test_an_address_of_another_host(center: VCenter, source: VsphereSource, machine: LabVM) -> None:
    source.read_from([replace(access(center, 1), id=center.esxi(0).moref)])
    opened = Borrowed()
    with pytest.raises(Busy, match="NotOnHost") as error:
        source.open_disks(
            known(machine), {DISK: "vddk"}, snapshot="", base={}, before="", remember=opened.handles.append
        )
    assert "Check that the address of Host esx2" in error.value.suggestion
    source.close_disks(opened.handle)


# -- the connection test -----------------------------------------------------------------------------------------------------


def test_identify(center: VCenter) -> None:
    found = identify_host("vsphere", access(center))
    assert (found.product, found.version) == ("VMware ESXi", "8.0.3")
    assert found.fingerprint == center.esxi().thumbprint
    assert center.esxi().faults.count("Login") >= 1 and not center.esxi().sessions.live


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda host: replace(host, secret={**host.secret, "password": "no"}), AuthFailed, "secret of Host esx1"),
        (lambda host: replace(host, secret={**host.secret, "thumbprint": "0" * 40}), Untrusted, "thumbprint"),
        (lambda host: replace(host, address="localhost:1"), Unreachable, "delete Host esx1"),
    ],
)
def test_identify_says_what_is_wrong(
    center: VCenter, change: Callable[[HostAccess], HostAccess], error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as raised:
        identify_host("vsphere", change(access(center)))
    assert words in raised.value.suggestion  # type: ignore[attr-defined]


def test_a_vcenter_is_no_host(center: VCenter) -> None:
    secret = {"user": center.user, "password": center.password, "ca.crt": center.ca_pem}
    with pytest.raises(Refused, match="VMware vCenter Server"):
        identify_host("vsphere", replace(access(center), address=f"localhost:{center.port}", secret=secret))
