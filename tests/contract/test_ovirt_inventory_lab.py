"""Client and inventory of the oVirt provider against the lab's Engine: sign-on, trust, paging, follow, events, faults."""

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from tranship.errors import AuthFailed, Busy, NotFound, Refused, Unreachable, Untrusted
from tranship.inventory.estate import Estate
from tranship.inventory.vm import VM, Power
from tranship.lab.ovirt import Engine, LabVM
from tranship.providers.ovirt.client import Client, Login, fetch_ca
from tranship.providers.ovirt.inventory import Inventory

SECONDS = 30
MIB = 1 << 20


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(tmp_path_factory.mktemp("engine"), cluster_level="4.7") as engine:
        yield engine


@pytest.fixture(autouse=True)
def no_faults(engine: Engine) -> Iterator[None]:
    yield
    engine.faults.clear()


def login(engine: Engine, password: str = "", **secret: str) -> Login:
    trust = secret or {"cacert": engine.ca_pem}
    return Login.of(engine.url, {"user": engine.user, "password": password or engine.password, **trust})


@pytest.fixture
def client(engine: Engine) -> Iterator[Client]:
    client = Client(login(engine), timeout=20)
    yield client
    client.close()


class Following:
    """An inventory that is followed in a thread; `until` waits for an estate that fits."""

    def __init__(self, client: Client, **arguments: Any) -> None:
        self.estates: queue.Queue[Estate] = queue.Queue()
        self.stop = threading.Event()
        inventory = Inventory(client, poll=0.05, **arguments)
        self.thread = threading.Thread(target=inventory.follow, args=(self.estates.put, self.stop), daemon=True)
        self.thread.start()

    def until(self, fits: Callable[[Estate], Any]) -> Estate:
        while True:
            estate = self.estates.get(timeout=SECONDS)
            if fits(estate):
                return estate

    def close(self) -> None:
        self.stop.set()
        self.thread.join(SECONDS)
        assert not self.thread.is_alive()


@pytest.fixture
def following(client: Client) -> Iterator[Following]:
    following = Following(client, page=3)
    yield following
    following.close()


names = (f"vm{number}" for number in range(1000))


def add(engine: Engine, *disks: int, **facts: Any) -> LabVM:
    return engine.add_vm(next(names), disks or (MIB,), **facts)


def seen(client: Client, made: LabVM) -> VM:
    following = Following(client)
    vm = following.until(lambda estate: made.id in estate.vms).vms[made.id]
    following.close()
    return vm


# -- what is listed ------------------------------------------------------------------------------------------------------


def test_a_vm_with_disks_nics_and_surroundings(engine: Engine, client: Client) -> None:
    made = add(
        engine, 2 * MIB, MIB, memory=96, cpus=2, firmware="efi", incremental=[True, False], network=["ovirtmgmt"]
    )
    following = Following(client)
    estate = following.until(lambda estate: made.id in estate.vms)
    following.close()
    vm = estate.vms[made.id]
    assert (vm.name, vm.path, vm.cluster) == (made.name, f"/Default/Default/{made.name}", "Default")
    assert (vm.power, vm.memory, vm.cpus, vm.firmware) == (Power.OFF, 96 * MIB, 2, "efi")
    assert [disk.key for disk in vm.disks] == [disk.id for disk in made.disks]
    assert [(disk.capacity, disk.bus, disk.bootable) for disk in vm.disks] == [
        (2 * MIB, "scsi", True),
        (MIB, "scsi", False),
    ]
    assert {estate.datastores[disk.datastore].name for disk in vm.disks} == {"data"}
    assert [estate.networks[nic.network].name for nic in vm.nics] == ["ovirtmgmt"]
    assert vm.nics[0].connected and vm.nics[0].mac.startswith("56:6f:")
    told = [vm.traits["disks"][disk.key] for disk in vm.disks]
    assert [(facts["backup"], facts["format"], facts["status"]) for facts in told] == [
        ("incremental", "cow", "ok"),
        ("none", "cow", "ok"),
    ]
    assert (vm.traits["engine"], vm.traits["cluster_level"]) == ((4, 5, 6), (4, 7))
    assert (vm.change_tracking, vm.native, vm.snapshots) == (None, True, 0)
    assert sorted(network.path for network in estate.networks.values()) == ["/Default/ovirtmgmt", "/Default/vlan10"]
    assert {network.vlan for network in estate.networks.values()} == {"", "10"}
    assert all(
        store.capacity > store.free > 0 and store.datacenter == "Default" for store in estate.datastores.values()
    )
    assert [host.cluster for host in estate.hosts.values()] == ["Default", "Default"]


def test_pages_bring_every_vm_once(engine: Engine, client: Client) -> None:
    made = {add(engine).id for _ in range(4)}
    before = engine.faults.count("GET vms")
    following = Following(client, page=2)
    estate = following.until(lambda estate: True)
    following.close()
    assert made <= set(estate.vms)
    assert engine.faults.count("GET vms") - before == len(estate.vms) // 2 + 1


def test_a_lun_is_seen_and_refused(engine: Engine, client: Client) -> None:
    made = add(engine)
    engine.add_disk(made, 4 * MIB, storage_type="lun", lun={"lun_mapping": 1})
    vm = seen(client, made)
    assert (vm.disks[1].capacity, vm.disks[1].datastore) == (4 * MIB, "")
    assert "ovirt.disk.storage_type.unsupported" in [concern.id for concern in vm.concerns]


def test_the_concerns_of_a_vm_with_everything(engine: Engine, client: Client) -> None:
    made = add(engine)
    made.hardware = replace(
        made.hardware,
        bios_type="q35_secure_boot",
        boot_menu=True,
        cpu_pinning_policy="isolate_threads",
        cpu_pins={0: "1-2"},
        cpu_shares=512,
        custom_cpu_model="Haswell",
        custom_properties={"sap_agent": "true"},
        display="spice",
        ha=True,
        host_devices=(("pci", "ACME", "GPU"),),
        io_threads=4,
        os_type="windows_11",
        resume_behaviour="kill",
        usb=True,
        watchdog="reset",
    )
    made.attachments[0].interface, made.attachments[0].uses_scsi_reservation = "ide", True
    made.disks[0].shareable = True
    made.disks[0].illegal = True
    profile = made.nics[0].profile
    assert profile is not None
    made.nics[0].profile = replace(
        profile,
        id=engine.uuid(),
        name="special",
        port_mirroring=True,
        network_filter=engine.uuid(),
        qos=engine.uuid(),
        custom_properties={"hook": "1"},
    )
    engine.profiles[made.nics[0].profile.id] = made.nics[0].profile
    made.nics[0].interface, made.nics[0].plugged = "pci_passthrough", False
    engine.cluster.ksm = engine.cluster.ha_reservation = True
    vm = seen(client, made)
    engine.cluster.ksm = engine.cluster.ha_reservation = False
    told = {concern.id.removeprefix("ovirt.") for concern in vm.concerns}
    assert told == {
        "memory.ballooning.enabled",
        "display_type.spice.enabled",
        "iothreads.configured",
        "storage.resume_behavior.unsupported",
        "disk.illegal_or_locked_status",
        "disk.illegal_images.detected",
        "bios.boot_menu.enabled",
        "cpu.custom_model.detected",
        "cpu.shares.defined",
        "cpu.tuning.detected",
        "cpu.pinning_policy.unsupported",
        "vm.custom_properties.detected",
        "host_devices.mapped",
        "watchdog.enabled",
        "usb.enabled",
        "disk.interface_type.unsupported",
        "disk.scsi_reservation.enabled",
        "disk.shared.detected",
        "ha.enabled",
        "ha.reservation.enabled",
        "cluster.ksm_enabled",
        "nic.custom_properties.detected",
        "nic.network_filter.detected",
        "nic.qos.detected",
        "nic.port_mirroring.detected",
        "nic.pci_passthrough.detected",
        "nic.unplugged.detected",
        "placement_policy.affinity_set",
        "secure_boot.detected",
        "tpm.required_by_os",
    }
    assert vm.tpm and vm.secure_boot and vm.firmware == "efi"


# -- what changes ----------------------------------------------------------------------------------------------------------


def test_follow(engine: Engine, client: Client, following: Following) -> None:
    following.until(lambda estate: True)
    made = add(engine, MIB, 2 * MIB)
    estate = following.until(lambda estate: made.id in estate.vms)
    assert [disk.capacity for disk in estate.vms[made.id].disks] == [MIB, 2 * MIB]
    client.action(f"vms/{made.id}/start")
    following.until(lambda estate: estate.vms[made.id].power is Power.ON)
    engine.add_disk(made, 3 * MIB)
    following.until(lambda estate: len(estate.vms[made.id].disks) == 3)
    engine.faults.add("GET events", expire=True)
    made.name = "renamed"
    engine.touch(made)
    following.until(lambda estate: estate.vms[made.id].name == "renamed")
    client.action(f"vms/{made.id}/stop")
    following.until(lambda estate: estate.vms[made.id].power is Power.OFF)
    engine.remove_vm(made)
    following.until(lambda estate: made.id not in estate.vms)


def test_an_event_reads_one_vm_and_no_list(engine: Engine, following: Following) -> None:
    made = add(engine)
    following.until(lambda estate: made.id in estate.vms)
    listed, read = engine.faults.count("GET vms"), engine.faults.count("GET vms", made.name)
    made.hardware.fqdn, made.hardware.cpu_shares = "told", 77
    engine.touch(made)
    following.until(lambda estate: estate.vms[made.id].traits["cpu_shares"] == 77)
    assert engine.faults.count("GET vms", made.name) == read + 1
    assert engine.faults.count("GET vms") == listed + 1  # one VM is "GET vms" too, and no listing was made


def test_connections_that_break_are_made_again(engine: Engine, following: Following) -> None:
    following.until(lambda estate: True)
    engine.drop_connections()
    made = add(engine)
    following.until(lambda estate: made.id in estate.vms)


# -- sign-on, trust, faults --------------------------------------------------------------------------------------------------


def test_version_and_sign_of_life(engine: Engine, client: Client) -> None:
    assert client.version == (4, 5, 6)
    assert client.about["product_info"]["name"] == "oVirt Engine"


def test_the_engines_ca_is_fetched_and_shown(engine: Engine, client: Client) -> None:
    shown = fetch_ca(engine.url)
    assert shown.pem.strip() == engine.ca_pem.strip()
    trusting = Client(login(engine, **{"ca.crt": shown.pem}), timeout=20)
    assert trusting.list("hosts", "host")
    trusting.close()


def test_who_is_trusted(engine: Engine) -> None:
    with pytest.raises(Untrusted) as caught:
        Client(Login.of(engine.url, {"user": engine.user, "password": engine.password}), timeout=20).get("vms")
    assert "pki-resource" in caught.value.suggestion
    with pytest.raises(Untrusted, match="not the pinned one"):
        Client(login(engine, thumbprint="ab" * 32), timeout=20).get("vms")
    for secret in ({"thumbprint": engine.fingerprint}, {"insecureSkipVerify": "true"}):
        client = Client(login(engine, **secret), timeout=20)
        assert client.version == (4, 5, 6)
        client.close()


def test_a_wrong_password(engine: Engine) -> None:
    client = Client(login(engine, password="not-it"), timeout=20)
    with pytest.raises(AuthFailed, match="wrong") as caught:
        client.get("vms")
    assert "not-it" not in str(caught.value)


def test_a_session_that_ended(engine: Engine, client: Client) -> None:
    made = add(engine)
    client.connect()
    engine.sso.expire_all()
    client.action(f"vms/{made.id}/start")
    assert made.on
    client.close()
    assert engine.sso.count == 0


def test_faults(engine: Engine, client: Client) -> None:
    made = add(engine)
    with pytest.raises(NotFound, match="VM 'nobody' was not found"):
        client.get("vms/nobody")
    engine.faults.add("POST vms/start", status=409, detail="Cannot run VM. Disk is locked.")
    with pytest.raises(Busy, match="Disk is locked"):
        client.action(f"vms/{made.id}/start")
    engine.faults.add("POST vms/start", status=400, detail="Cannot run VM. No host fits.")
    with pytest.raises(Refused, match="No host fits"):
        client.action(f"vms/{made.id}/start")
    engine.faults.add("POST vms/start", drop="before")
    with pytest.raises(Unreachable):
        client.action(f"vms/{made.id}/start")
    assert not made.on
    engine.faults.add("GET vms", drop="before")
    assert client.get(f"vms/{made.id}")["name"] == made.name
