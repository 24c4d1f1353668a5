"""The provider against an independent server: govmomi's simulator. Inventory, power, snapshots, sessions, TLS."""

import os
import queue
import runpy
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim

from tranship.errors import AuthFailed, Invalid, NotFound, Refused, Unreachable, Untrusted
from tranship.inventory.estate import Estate
from tranship.inventory.vm import VM, Power
from tranship.providers.vsphere import VsphereSource, fetch_certificate
from tranship.providers.vsphere.client import Client, Login
from tranship.testing.borrowing import borrow

VCSIM = runpy.run_path(str(Path(__file__).parent / "vcsim" / "process.py"))
USER, PASSWORD = VCSIM["USER"], VCSIM["PASSWORD"]
SECONDS = 30


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    try:
        VCSIM["binary"]()
    except VCSIM["Unavailable"] as reason:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"govmomi's simulator cannot be built: {reason}")
    server = VCSIM["Server"](tmp_path_factory.mktemp("vcsim"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def secret(server: Any) -> dict[str, str]:
    return {"user": USER, "password": PASSWORD, "ca.crt": server.identity.ca}


@pytest.fixture
def source(server: Any, secret: dict[str, str]) -> Iterator[VsphereSource]:
    source = VsphereSource(server.url, secret, {}, timeout=20, wait=1)
    yield source
    source.close()


class Follower:
    """Runs `follow` in a thread and hands out what it publishes."""

    def __init__(self, source: VsphereSource) -> None:
        self._estates: queue.Queue[Estate] = queue.Queue()
        self._stop = threading.Event()
        self._failed: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, args=(source,), daemon=True)
        self._thread.start()

    def _run(self, source: VsphereSource) -> None:
        try:
            source.follow(self._estates.put, self._stop)
        except BaseException as error:
            self._failed.append(error)

    def until(self, fits: Callable[[Estate], object]) -> Estate:
        while True:
            try:
                estate = self._estates.get(timeout=SECONDS)
            except queue.Empty:
                raise AssertionError(f"no such estate was published; trouble: {self._failed}") from None
            if fits(estate):
                return estate

    def close(self) -> None:
        self._stop.set()
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()
        assert not self._failed


@pytest.fixture
def follower(source: VsphereSource) -> Iterator[Follower]:
    follower = Follower(source)
    yield follower
    follower.close()


@pytest.fixture
def vm(follower: Follower) -> VM:
    return named(follower.until(lambda estate: True), "DC0_C0_RP0_VM0")


def named(estate: Estate, name: str) -> VM:
    return next(vm for vm in estate.vms.values() if vm.name == name)


# -- inventory ---------------------------------------------------------------------------------------------------------


def test_the_whole_estate(follower: Follower) -> None:
    estate = follower.until(lambda estate: True)
    assert sorted(vm.name for vm in estate.vms.values()) == [
        "DC0_C0_RP0_VM0",
        "DC0_C0_RP0_VM1",
        "DC0_H0_VM0",
        "DC0_H0_VM1",
    ]
    vm = named(estate, "DC0_C0_RP0_VM0")
    assert vm.path == "/DC0/vm/DC0_C0_RP0_VM0"
    assert vm.cluster == "DC0_C0"
    assert estate.hosts[vm.host].cluster == "DC0_C0"
    assert vm.instance_uuid
    (disk,) = vm.disks
    assert (disk.capacity, disk.bus, disk.path) == (10 << 30, "scsi", "[LocalDS_0] DC0_C0_RP0_VM0/disk1.vmdk")
    assert estate.datastores[disk.datastore].name == "LocalDS_0"
    assert estate.datastores[disk.datastore].datacenter == "DC0"
    (nic,) = vm.nics
    assert estate.networks[nic.network].name == "DC0_DVPG0"
    assert {network.kind for network in estate.networks.values()} == {"standard", "dvportgroup", "opaque"}
    assert "vmware.drs.enabled" in [concern.id for concern in vm.concerns]
    assert "vmware.drs.enabled" not in [concern.id for concern in named(estate, "DC0_H0_VM0").concerns]


def test_changes_are_published(source: VsphereSource, follower: Follower, vm: VM) -> None:
    source.power_off(vm)
    changed = follower.until(lambda estate: estate.vms[vm.id].power is Power.OFF)
    assert changed.vms[vm.id].revision > vm.revision
    source.power_on(vm)
    follower.until(lambda estate: estate.vms[vm.id].power is Power.ON)


def test_a_lost_session_begins_a_new_sweep(server: Any, secret: dict[str, str], follower: Follower) -> None:
    before = follower.until(lambda estate: True)
    admin = Client(Login.of(server.url, secret))
    sessions = [item.key for item in admin.content.sessionManager.sessionList if item.key != admin._session]
    admin.call("end sessions", lambda: admin.content.sessionManager.TerminateSession(sessions))
    admin.close()
    again = follower.until(lambda estate: estate.version > before.version)
    assert again.vms.keys() == before.vms.keys()


# -- power and snapshots -----------------------------------------------------------------------------------------------


def test_power_is_idempotent(source: VsphereSource, vm: VM) -> None:
    for wanted, act in [(Power.OFF, source.power_off), (Power.ON, source.power_on)]:
        act(vm)
        act(vm)
        assert source.observe(vm).power is wanted
    source.shut_down_guest(vm)
    source.shut_down_guest(vm)
    assert source.observe(vm).power is Power.OFF
    source.power_on(vm)


def test_another_machine_is_left_alone(source: VsphereSource, vm: VM) -> None:
    stranger = replace(vm, instance_uuid="00000000-0000-0000-0000-000000000000")
    for act in (
        source.power_off,
        source.shut_down_guest,
        source.power_on,
        source.consolidate,
        lambda vm: source.create_snapshot(vm, "tranship-a", quiesce=False),
        lambda vm: source.remove_snapshot(vm, "tranship-a"),
        lambda vm: source.enable_change_tracking(vm, "tranship-a"),
    ):
        with pytest.raises(Refused, match="instance uuid"):
            act(stranger)
    assert source.observe(vm).power is Power.ON


def test_a_vm_that_is_gone(source: VsphereSource, vm: VM) -> None:
    with pytest.raises(NotFound):
        source.power_off(replace(vm, id="vm-9999"))


def test_snapshots_are_adopted_and_users_ones_kept(source: VsphereSource, vm: VM) -> None:
    machine = source._calls.object(vim.VirtualMachine, vm.id)
    source._calls.wait(machine.CreateSnapshot("mine", "", False, False), "a user's snapshot", SECONDS)
    for _ in range(2):
        source.create_snapshot(vm, "tranship-m1-1", quiesce=True)
    assert [snapshot.name for snapshot in source.observe(vm).snapshots] == ["mine", "tranship-m1-1"]
    for _ in range(2):
        source.remove_snapshot(vm, "tranship-m1-1")
    assert [snapshot.name for snapshot in source.observe(vm).snapshots] == ["mine"]
    with pytest.raises(Refused, match="tranship-"):
        source.remove_snapshot(vm, "mine")
    source._calls.wait(machine.RemoveAllSnapshots(), "clean up", SECONDS)


# -- sessions ----------------------------------------------------------------------------------------------------------


def test_a_terminated_session_is_renewed_once_for_many_threads(
    server: Any, secret: dict[str, str], source: VsphereSource, vm: VM
) -> None:
    source.observe(vm)
    admin = Client(Login.of(server.url, secret))
    sessions = [item.key for item in admin.content.sessionManager.sessionList if item.key != admin._session]
    admin.call("end sessions", lambda: admin.content.sessionManager.TerminateSession(sessions))
    begin, errors = threading.Barrier(6), []

    def look() -> None:
        begin.wait(SECONDS)
        try:
            source.observe(vm)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=look) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert not errors
    assert source._calls._epoch == 2
    admin.close()


def test_close_logs_out(server: Any, secret: dict[str, str]) -> None:
    admin, guest = (Client(Login.of(server.url, secret)) for _ in range(2))
    guest.connect()
    session = guest._session
    assert session in [item.key for item in admin.content.sessionManager.sessionList]
    guest.close()
    assert session not in [item.key for item in admin.content.sessionManager.sessionList]
    admin.close()


# -- trust -------------------------------------------------------------------------------------------------------------


def login(url: str, **secret: str) -> VsphereSource:
    return VsphereSource(url, {"user": USER, "password": PASSWORD, **secret}, {}, timeout=10)


def test_identity(server: Any, source: VsphereSource) -> None:
    identity = source.identify()
    assert identity.product == "VMware vCenter Server"
    assert identity.fingerprint == fetch_certificate(server.url).sha1
    assert identity.missing_privileges == ()
    assert not identity.insecure


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
@pytest.mark.parametrize("write", [str.upper, str.lower, lambda text: text.replace(":", "")])
def test_the_right_pin(server: Any, algorithm: str, write: Callable[[str], str]) -> None:
    source = login(server.url, thumbprint=write(getattr(fetch_certificate(server.url), algorithm)))
    assert not source.identify().insecure
    source.close()


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_the_wrong_pin(server: Any, algorithm: str) -> None:
    shown = getattr(fetch_certificate(server.url), algorithm)
    wrong = shown[:-1] + ("0" if shown[-1] != "0" else "1")
    for more in ({}, {"ca.crt": server.identity.ca}, {"insecureSkipVerify": "true"}):
        with pytest.raises(Untrusted) as caught:
            login(server.url, thumbprint=wrong, **more).identify()
        assert shown in str(caught.value)


def test_a_malformed_pin(server: Any) -> None:
    with pytest.raises(Invalid, match="thumbprint"):
        login(server.url, thumbprint="AB:CD")


def test_no_reason_to_trust(server: Any) -> None:
    with pytest.raises(Untrusted):
        login(server.url).identify()


def test_another_ca(server: Any, tmp_path: Path) -> None:
    with pytest.raises(Untrusted):
        login(server.url, cacert=VCSIM["identity"](tmp_path).ca).identify()


def test_another_host_name(server: Any) -> None:
    """The certificate names 127.0.0.1 only, and pyVmomi alone would not look at all on a loopback address."""
    with pytest.raises(Untrusted):
        login(server.url.replace("127.0.0.1", "localhost"), **{"ca.crt": server.identity.ca}).identify()


def test_insecure_only_when_asked(server: Any) -> None:
    source = login(server.url, insecureSkipVerify="true")
    assert source.identify().insecure
    source.close()


def test_a_wrong_password(server: Any) -> None:
    with pytest.raises(AuthFailed) as caught:
        VsphereSource(server.url, {"user": USER, "password": "hunter2", "ca.crt": server.identity.ca}, {}).identify()
    assert USER in str(caught.value)
    assert "hunter2" not in str(caught.value) + repr(caught.value.facts) + repr(caught.value.__cause__)


def test_secrets_stay_out_of_sight(server: Any, source: VsphereSource, vm: VM) -> None:
    source.power_off(vm)
    opened = borrow(source, vm, {vm.disks[0].key: "datastore"})
    assert PASSWORD not in repr(opened) + repr(source._login)
    assert "vmware_soap_session" in opened.addresses[vm.disks[0].key].credentials["cookie"]
    assert "cookie" not in repr(opened)
    source.power_on(vm)


def test_nobody_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"https://127.0.0.1:{taken.getsockname()[1]}/sdk"
        with pytest.raises(Unreachable):
            login(url).identify()
        with pytest.raises(Unreachable):
            fetch_certificate(url)


def test_a_server_that_never_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/sdk"
        with pytest.raises(Unreachable):
            VsphereSource(url, {"user": USER, "password": PASSWORD}, {}, timeout=0.3).identify()


@pytest.mark.parametrize("url", ["http://vc/sdk", "vc.example.com", "https:///sdk", "https://vc:port/sdk"])
def test_not_an_address(url: str) -> None:
    with pytest.raises(Invalid, match=r"spec\.url"):
        login(url)
