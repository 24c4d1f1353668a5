"""The provider against the lab's vCenter: what govmomi's simulator cannot do - changed blocks, exports, the datastore
folder, faults by script."""

import queue
import random
import ssl
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tranship.errors import AuthFailed, Busy, NotFound, Refused, TranshipError, Unreachable, Unsupported
from tranship.inventory.estate import Estate
from tranship.inventory.vm import VM, Power
from tranship.lab.vsphere import LabVM, VCenter
from tranship.providers.vsphere import VsphereSource
from tranship.testing.borrowing import borrow
from tranship.transfer.address import DiskAddress, Extent
from tranship.transfer.readers import open_reader

SECONDS = 30
SIZE = 2 << 20
USER, PASSWORD = "administrator@vsphere.local", "lab-password"


@pytest.fixture(scope="module")
def center(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VCenter]:
    center = VCenter(tmp_path_factory.mktemp("lab"), cbt_page=3).start()
    yield center
    center.close()


@pytest.fixture
def source(center: VCenter) -> Iterator[VsphereSource]:
    source = make(center)
    yield source
    source.close()
    center.faults.clear()


def make(center: VCenter, **settings: str) -> VsphereSource:
    secret = {"user": USER, "password": PASSWORD, "ca.crt": center.ca_pem}
    return VsphereSource(center.url, secret, settings, timeout=20, wait=1)


counter = iter(range(1000))


def add(center: VCenter, *disks: bytes | int, **facts: Any) -> tuple[LabVM, VM]:
    """A machine of the lab, and what an inventory would say about it."""
    made = center.add_vm(f"vm{next(counter)}", disks or (random.Random(1).randbytes(SIZE),), **facts)
    return made, inventory(center)[made.moref]


def inventory(center: VCenter) -> dict[str, VM]:
    estates: list[Estate] = []
    stop = threading.Event()

    def publish(estate: Estate) -> None:
        estates.append(estate)
        stop.set()

    make(center).follow(publish, stop)
    return dict(estates[0].vms)


def changed_in(before: bytes, after: bytes, areas: tuple[Extent, ...]) -> None:
    """The areas cover every byte that differs, and not everything."""
    patched = bytearray(before)
    for area in areas:
        patched[area.start : area.end] = after[area.start : area.end]
    assert bytes(patched) == after
    assert sum(area.length for area in areas) < len(after)


# -- inventory ---------------------------------------------------------------------------------------------------------


def test_follow(center: VCenter, source: VsphereSource) -> None:
    estates: queue.Queue[Estate] = queue.Queue()
    stop = threading.Event()
    follower = threading.Thread(target=source.follow, args=(estates.put, stop), daemon=True)
    follower.start()

    def until(fits: Any) -> Estate:
        while True:
            estate = estates.get(timeout=SECONDS)
            if fits(estate):
                return estate

    until(lambda estate: True)
    made = center.add_vm("newcomer", (4096, 8192), networks=("DPortGroup",))
    vm = until(lambda estate: made.moref in estate.vms).vms[made.moref]
    assert [disk.capacity for disk in vm.disks] == [4096, 8192]
    assert vm.power is Power.OFF
    source.power_on(vm)
    until(lambda estate: estate.vms[vm.id].power is Power.ON)
    source.create_snapshot(vm, "tranship-a", quiesce=False)
    until(lambda estate: estate.vms[vm.id].snapshots == 1)
    center.faults.add("WaitForUpdatesEx", expire=True)
    center.remove_vm(made)
    until(lambda estate: made.moref not in estate.vms)
    stop.set()
    follower.join(SECONDS)
    assert not follower.is_alive()


# -- change tracking ---------------------------------------------------------------------------------------------------


def test_a_warm_migration_in_small(center: VCenter, source: VsphereSource) -> None:
    lab, vm = add(center, random.Random(7).randbytes(SIZE), SIZE, running=True)
    assert not any(disk.change_tracking for disk in source.observe(vm).disks)
    source.enable_change_tracking(vm, "tranship-cbt")
    seen = source.observe(vm)
    assert all(disk.change_tracking for disk in seen.disks)
    assert seen.snapshots == ()
    copies, since = [bytes(SIZE), bytes(SIZE)], dict.fromkeys(("2000", "2001"), "*")
    dice = random.Random(42)
    for round_ in range(1, 4):
        name = f"tranship-m-{round_}"
        now = [lab.read(0), lab.read(1)]
        source.create_snapshot(vm, name, quiesce=False)
        lab.write(0, b"later, not of this round")
        snapshot = source.observe(vm).snapshot(name)
        assert snapshot is not None
        for index, key in enumerate(("2000", "2001")):
            areas = source.changes(vm, key, name, since[key])
            patched = bytearray(copies[index])
            for area in areas:
                patched[area.start : area.end] = now[index][area.start : area.end]
            copies[index] = bytes(patched)
            assert copies[index] == now[index]
            since[key] = snapshot.change_ids[key]
        source.remove_snapshot(vm, name)
        for _ in range(20):
            lab.write(dice.randrange(SIZE - 100), dice.randbytes(100), disk=dice.randrange(2))
    source.power_off(vm)
    for index, key in enumerate(("2000", "2001")):
        changed_in(copies[index], lab.read(index), source.changes(vm, key, "", since[key]))
    assert source.observe(vm).snapshots == ()


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(writes=st.lists(st.integers(0, SIZE - 1), max_size=40), page=st.integers(1, 5))
def test_pages_lose_nothing(center: VCenter, source: VsphereSource, tracked: Any, writes: list[int], page: int) -> None:
    center.cbt_page = page
    lab, vm = tracked
    source.create_snapshot(vm, "tranship-p-1", quiesce=False)
    snapshot = source.observe(vm).snapshot("tranship-p-1")
    assert snapshot is not None
    before = lab.read()
    source.remove_snapshot(vm, "tranship-p-1")
    for at in writes:
        lab.write(at, b"\xaa" if before[at] != 0xAA else b"\xbb")
    source.create_snapshot(vm, "tranship-p-2", quiesce=False)
    areas = source.changes(vm, "2000", "tranship-p-2", snapshot.change_ids["2000"])
    source.remove_snapshot(vm, "tranship-p-2")
    covered = [any(area.start <= at < area.end for area in areas) for at in writes]
    assert all(covered)
    assert bool(areas) is bool(writes)


@pytest.fixture(scope="module")
def tracked(center: VCenter) -> Any:
    lab, vm = add(center, running=True)
    source = make(center)
    source.enable_change_tracking(vm, "tranship-cbt")
    source.close()
    return lab, vm


def test_change_ids_that_cannot_be_used(source: VsphereSource, tracked: Any) -> None:
    _, vm = tracked
    source.create_snapshot(vm, "tranship-x", quiesce=False)
    snapshot = source.observe(vm).snapshot("tranship-x")
    assert snapshot is not None
    epoch = snapshot.change_ids["2000"].rpartition("/")[0]
    for since, fault in [("52 00 11/3", "ChangeTrackingReset"), (f"{epoch}/99999", "InvalidArgument")]:
        with pytest.raises(Refused) as caught:
            source.changes(vm, "2000", "tranship-x", since)
        assert caught.value.fault == fault
    with pytest.raises(NotFound):
        source.changes(vm, "2999", "tranship-x", "*")
    with pytest.raises(NotFound):
        source.changes(vm, "2000", "tranship-y", "*")
    with pytest.raises(Refused):
        source.changes(vm, "2000", "", "*")
    source.remove_snapshot(vm, "tranship-x")


def test_a_disk_without_tracking(center: VCenter, source: VsphereSource) -> None:
    _, vm = add(center, running=True)
    source.create_snapshot(vm, "tranship-x", quiesce=False)
    with pytest.raises(Refused) as caught:
        source.changes(vm, "2000", "tranship-x", "*")
    assert caught.value.fault == "NotTracked"


def test_tracking_is_not_switched_on_beside_snapshots(center: VCenter, source: VsphereSource) -> None:
    _, vm = add(center, running=True)
    source.create_snapshot(vm, "tranship-other", quiesce=False)
    with pytest.raises(Refused) as caught:
        source.enable_change_tracking(vm, "tranship-cbt")
    assert caught.value.fault == "HasSnapshots"


def test_enabling_is_repeatable(center: VCenter, source: VsphereSource) -> None:
    _, vm = add(center, running=True)
    center.faults.add("RemoveSnapshot_Task", vm=vm.name, drop="before")
    with pytest.raises(Unreachable):
        source.enable_change_tracking(vm, "tranship-cbt")
    assert source.observe(vm).snapshot("tranship-cbt")
    source.enable_change_tracking(vm, "tranship-cbt")
    assert source.observe(vm).snapshots == ()
    source.create_snapshot(vm, "tranship-1", quiesce=False)
    assert source.observe(vm).snapshots[0].change_ids["2000"]


# -- snapshots ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "quiesce", "expected"),
    [
        ({"running": True}, True, True),
        ({"running": True}, False, False),
        ({"running": True, "tools": False}, True, False),
        ({"running": False}, True, False),
    ],
)
def test_quiescing_is_recorded(
    center: VCenter, source: VsphereSource, facts: Any, quiesce: bool, expected: bool
) -> None:
    _, vm = add(center, **facts)
    source.create_snapshot(vm, "tranship-q", quiesce=quiesce)
    assert [snapshot.quiesced for snapshot in source.observe(vm).snapshots] == [expected]


def test_a_guest_that_will_not_be_quiesced(center: VCenter, source: VsphereSource) -> None:
    _, vm = add(center, running=True)
    center.faults.add("CreateSnapshot_Task", vm=vm.name, fault="ApplicationQuiesceFault", where="task")
    source.create_snapshot(vm, "tranship-q", quiesce=True)
    (snapshot,) = source.observe(vm).snapshots
    assert not snapshot.quiesced


def test_the_budget(center: VCenter, source: VsphereSource) -> None:
    lab, vm = add(center, 4096)
    for index in range(28):
        source.create_snapshot(vm, f"tranship-{index}", quiesce=False)
    with pytest.raises(Refused) as caught:
        source.create_snapshot(vm, "tranship-too-many", quiesce=False)
    assert caught.value.fault == "SnapshotBudget"
    source.create_snapshot(vm, "tranship-3", quiesce=False)
    assert len(lab.snapshots) == 28


def test_an_answer_that_is_lost_is_made_good(center: VCenter, source: VsphereSource) -> None:
    """The snapshot was made, the connection broke: the second ask adopts it."""
    lab, vm = add(center, running=True)
    center.faults.add("CreateSnapshot_Task", vm=vm.name, drop="after")
    with pytest.raises(TranshipError) as caught:
        source.create_snapshot(vm, "tranship-1", quiesce=False)
    assert caught.value.temporary
    center.faults.clear()
    for _ in range(100):
        if not source.observe(vm).tasks:
            break
    source.create_snapshot(vm, "tranship-1", quiesce=False)
    assert lab.snapshots == ["tranship-1"]


def test_a_forgotten_task(center: VCenter, source: VsphereSource) -> None:
    lab, vm = add(center, running=True)
    center.faults.add("RemoveSnapshot_Task", vm=vm.name, fault="TaskInProgress")
    source.create_snapshot(vm, "tranship-1", quiesce=False)
    with pytest.raises(Busy) as caught:
        source.remove_snapshot(vm, "tranship-1")
    assert caught.value.temporary
    source.remove_snapshot(vm, "tranship-1")
    assert lab.snapshots == []


def test_children_and_users_snapshots_stay(center: VCenter, source: VsphereSource) -> None:
    lab, vm = add(center, running=True)
    for name in ("tranship-1", "tranship-2", "tranship-3"):
        source.create_snapshot(vm, name, quiesce=False)
    source.remove_snapshot(vm, "tranship-2")
    assert lab.snapshots == ["tranship-1", "tranship-3"]


# -- sessions and trouble ----------------------------------------------------------------------------------------------


def test_expiry_amid_everything(center: VCenter, source: VsphereSource) -> None:
    lab, vm = add(center, running=True)
    for method in ("RetrievePropertiesEx", "CreateSnapshot_Task", "RemoveSnapshot_Task", "PowerOffVM_Task"):
        center.faults.add(method, expire=True)
    source.create_snapshot(vm, "tranship-1", quiesce=False)
    source.remove_snapshot(vm, "tranship-1")
    source.power_off(vm)
    assert not lab.on
    assert lab.power_causes()[-1] == "hard-off"


def test_reads_survive_a_broken_connection(center: VCenter, source: VsphereSource) -> None:
    _, vm = add(center)
    source.observe(vm)
    center.faults.add("RetrievePropertiesEx", drop="before")
    source.observe(vm)
    center.faults.add("RetrievePropertiesEx", drop="before", count=5)
    with pytest.raises(Unreachable):
        source.observe(vm)


def test_a_password_that_was_changed_meanwhile(center: VCenter, source: VsphereSource) -> None:
    _, vm = add(center)
    source.observe(vm)
    center.faults.add("RetrievePropertiesEx", expire=True)
    center.faults.add("Login", fault="InvalidLogin", count=5)
    with pytest.raises(AuthFailed):
        source.observe(vm)


def test_power(center: VCenter, source: VsphereSource) -> None:
    lab, vm = add(center, running=True)
    source.power_on(vm)
    source.shut_down_guest(vm)
    for _ in range(1000):
        if source.observe(vm).power is Power.OFF:
            break
    source.shut_down_guest(vm)
    source.power_off(vm)
    assert lab.power_causes()[-1] == "guest-shutdown"
    source.power_on(vm)
    source.power_off(vm)
    assert not lab.on


def test_nobody_to_ask_for_a_shutdown(center: VCenter, source: VsphereSource) -> None:
    lab, vm = add(center, running=True, tools=False)
    with pytest.raises(Refused) as caught:
        source.shut_down_guest(vm)
    assert caught.value.fault == "ToolsUnavailable"
    assert lab.on


def test_somebody_was_faster(center: VCenter, source: VsphereSource) -> None:
    """InvalidPowerState for a machine that is not where we want it is no success."""
    _, vm = add(center, running=True)
    center.faults.add("PowerOffVM_Task", vm=vm.name, fault="InvalidPowerState")
    with pytest.raises(Busy):
        source.power_off(vm)
    source.power_off(vm)


# -- bytes -------------------------------------------------------------------------------------------------------------


def whole(address: DiskAddress, size: int) -> bytes:
    reader = open_reader(address, size)
    try:
        buffer = memoryview(bytearray(size))
        channel = reader.open_channel()
        channel.submit(0, buffer, 1)
        assert channel.finish() == 1
        channel.close()
        return bytes(buffer)
    finally:
        reader.close()


def exported(address: DiskAddress, folder: Path) -> bytes:
    """The export's stream, decoded by QEMU: what is tried here is the address, not our decoder."""
    trust = ssl.create_default_context(cadata=address.credentials["ca"])
    request = urllib.request.Request(
        address.url.removeprefix("nfc+"), headers={"Cookie": address.credentials["cookie"]}
    )
    with urllib.request.urlopen(request, timeout=SECONDS, context=trust) as answer:
        (folder / "disk.vmdk").write_bytes(answer.read())
    argv = ["qemu-img", "convert", "-f", "vmdk", "-O", "raw", "disk.vmdk", "disk.raw"]
    subprocess.run(argv, cwd=folder, timeout=SECONDS, check=True)
    return (folder / "disk.raw").read_bytes()


CONTENTS = (random.Random(3).randbytes(SIZE), random.Random(4).randbytes(SIZE // 2) + bytes(SIZE // 2))


def test_the_datastore_folder(center: VCenter, source: VsphereSource) -> None:
    _, vm = add(center, *CONTENTS)
    opened = borrow(source, vm, {"2000": "datastore", "2001": "datastore"})
    for key, content in zip(("2000", "2001"), CONTENTS, strict=True):
        assert whole(opened.addresses[key], SIZE) == content
    source.keep(opened.handle)
    source.close_disks(opened.handle)


def test_a_name_that_needs_quoting(center: VCenter, source: VsphereSource) -> None:
    made = center.add_vm("näme & 100% #1", (CONTENTS[0],))
    vm = inventory(center)[made.moref]
    assert vm.name == "näme & 100% #1"
    opened = borrow(source, vm, {"2000": "datastore"})
    assert whole(opened.addresses["2000"], SIZE) == CONTENTS[0]


def test_an_export_of_a_running_vm(center: VCenter, source: VsphereSource, tmp_path: Path) -> None:
    lab, vm = add(center, *CONTENTS, running=True)
    source.create_snapshot(vm, "tranship-1", quiesce=False)
    lab.write(0, b"after the snapshot")
    opened = borrow(source, vm, {"2000": "nfc", "2001": "nfc"}, "tranship-1")
    source.keep(opened.handle)
    for key, content in zip(("2000", "2001"), CONTENTS, strict=True):
        assert exported(opened.addresses[key], tmp_path) == content
    for _ in range(2):
        source.close_disks(opened.handle)
    source.keep(opened.handle)
    source.remove_snapshot(vm, "tranship-1")


def test_an_export_is_used_again_while_it_lives(center: VCenter, source: VsphereSource, tmp_path: Path) -> None:
    _, vm = add(center, *CONTENTS)
    first = borrow(source, vm, {"2000": "nfc", "2001": "nfc"})
    again = borrow(source, vm, {"2001": "nfc"}, before=first.handle)
    assert again.handle == first.handle
    assert exported(again.addresses["2001"], tmp_path) == CONTENTS[1]
    source.close_disks(first.handle)
    after = borrow(source, vm, {"2001": "nfc"}, before=first.handle)
    assert after.handle != first.handle
    assert exported(after.addresses["2001"], tmp_path) == CONTENTS[1]
    assert borrow(source, vm, {"2001": "nfc"}, before=after.handle).handle == after.handle
    source.close_disks(after.handle)


def test_an_export_of_a_vm_that_is_off(center: VCenter, source: VsphereSource, tmp_path: Path) -> None:
    _, vm = add(center, *CONTENTS)
    opened = borrow(source, vm, {"2001": "nfc"})
    assert exported(opened.addresses["2001"], tmp_path) == CONTENTS[1]
    source.close_disks(opened.handle)


def test_the_movers_session_is_not_ours(center: VCenter, source: VsphereSource) -> None:
    _, vm = add(center, *CONTENTS)
    opened = borrow(source, vm, {"2000": "datastore"})
    center.faults.add("RetrievePropertiesEx", expire=True)
    source.observe(vm)
    assert whole(opened.addresses["2000"], SIZE) == CONTENTS[0]


def test_identify_asks_again(center: VCenter, source: VsphereSource) -> None:
    assert source.identify().version == "8.0.3"
    center.faults.add("RetrievePropertiesEx", drop="before", count=2)
    with pytest.raises(Unreachable):
        source.identify()
    center.faults.clear()
    center.faults.add("RetrievePropertiesEx", expire=True)
    center.faults.add("Login", fault="InvalidLogin")
    with pytest.raises(AuthFailed):
        source.identify()
    assert source.identify().missing_privileges == ()


def test_what_cannot_be_opened(center: VCenter, source: VsphereSource) -> None:
    _, vm = add(center, running=True)
    with pytest.raises(Refused):
        borrow(source, vm, {"2000": "datastore"})
    source.create_snapshot(vm, "tranship-1", quiesce=False)
    with pytest.raises(Unsupported):
        borrow(source, vm, {"2000": "datastore"}, "tranship-1")
    with pytest.raises(NotFound):
        borrow(source, vm, {"2009": "nfc"}, "tranship-1")
    with pytest.raises(Unsupported):
        borrow(source, vm, {"2000": "telepathy"}, "tranship-1")
    source.power_off(vm)
    with pytest.raises(Unsupported, match="chain"):
        borrow(source, vm, {"2000": "datastore"})


def test_probes(center: VCenter) -> None:
    source = make(center, vddkDirectory=str(center.vddk_directory))
    _, vm = add(center, running=True)
    assert [(probe.way, probe.works) for probe in source.probe(vm)] == [
        ("vddk", None),
        ("nfc", None),
        ("datastore", None),
    ]
    source.create_snapshot(vm, "tranship-1", quiesce=False)
    assert [(probe.way, probe.works) for probe in source.probe(vm)] == [
        ("vddk", True),
        ("nfc", True),
        ("datastore", None),
    ]
    source.remove_snapshot(vm, "tranship-1")
    source.power_off(vm)
    assert [probe.works for probe in source.probe(vm)] == [True, True, True]
    source.close()


def test_a_wrong_vddk_directory(center: VCenter, tmp_path: Path) -> None:
    source = make(center, vddkDirectory=str(tmp_path))
    _, vm = add(center)
    with pytest.raises(Unsupported, match=str(tmp_path)):
        source.ways(vm, warm=True, on_this_host=True)
    assert source.probe(vm)[0].works is False
    source.close()


def test_ways_of_real_facts(center: VCenter, source: VsphereSource) -> None:
    _, vm = add(center, *CONTENTS, disk_mode=("persistent", "independent_persistent"))
    assert [way.way for way in source.ways(vm, warm=False, on_this_host=True)] == ["datastore", "datastore"]
    with pytest.raises(Unsupported, match="Hard disk 2"):
        source.ways(vm, warm=True, on_this_host=True)
    _, rdm = add(center, 4096, rdm="physical")
    with pytest.raises(Unsupported, match="physical"):
        source.ways(rdm, warm=True, on_this_host=True)
    assert [way.way for way in source.ways(replace(vm, snapshots=1), warm=False, on_this_host=True)] == ["nfc", "nfc"]
