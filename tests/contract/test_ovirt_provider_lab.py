"""The provider against the lab's Engine, its genuine imageio daemon and QEMU's own bitmaps: every call, lost answers, locks,
other tools' backups, and that nothing is left behind."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tranship.errors import Busy, NotFound, Refused, TranshipError, Unreachable, Untrusted
from tranship.inventory.estate import Estate
from tranship.inventory.vm import VM, Power
from tranship.lab.ovirt import Engine, LabVM
from tranship.providers.base import Reading
from tranship.providers.ovirt import OvirtSource
from tranship.testing.borrowing import Borrowed, borrow
from tranship.transfer.readers import open_reader

SIZE = 2 << 20
CONTENT = random.Random(4).randbytes(SIZE)
counter = iter(range(1000))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(tmp_path_factory.mktemp("lab"), cluster_level="4.6") as engine:
        yield engine


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(tmp_path_factory.mktemp("hybrid"), cluster_level="4.7") as engine:
        yield engine


@pytest.fixture
def source(engine: Engine) -> Iterator[OvirtSource]:
    source = make(engine)
    yield source
    engine.faults.clear()
    source.close()


def make(engine: Engine, **secret: str) -> OvirtSource:
    told = secret or {"cacert": engine.ca_pem}
    login = {"user": engine.user, "password": engine.password}
    return OvirtSource(engine.url, {**login, **told}, {}, timeout=20, poll=0.05)


def add(engine: Engine, *disks: bytes | int, **facts: Any) -> tuple[LabVM, VM]:
    """A machine of the lab, and what the inventory says about it."""
    made = engine.add_vm(f"vm{next(counter)}", list(disks) or [CONTENT], **facts)
    source = make(engine)
    try:
        return made, inventory(source)[made.id]
    finally:
        source.close()


def inventory(source: OvirtSource) -> dict[str, VM]:
    estates: list[Estate] = []
    stop = threading.Event()

    def publish(estate: Estate) -> None:
        estates.append(estate)
        stop.set()

    source.follow(publish, stop)
    return dict(estates[0].vms)


def named(vm: VM, round_: int) -> str:
    return f"tranship-0a1b2c3d-{vm.id}-{round_}"


def read(reading: Reading) -> bytes:
    """All of the disk, as a mover would."""
    return patched(reading, bytes(SIZE), whole=True)


def patched(reading: Reading, before: bytes, *, whole: bool = False) -> bytes:
    """The disk of the round before with what changed since."""
    reader = open_reader(reading.address, SIZE)
    channel = reader.open_channel()
    result = bytearray(before)
    try:
        if whole or not reading.delta:
            areas = [(0, reader.size)]
        else:
            listed = reading.changed if reading.changed is not None else tuple(reader.changed())
            areas = [(area.start, area.length) for area in listed]
        for start, length in areas:
            buffer = memoryview(result)[start : start + length]
            channel.submit(start, buffer, 0)
            channel.finish()
    finally:
        channel.close()
        reader.close()
    return bytes(result)


def changes(reading: Reading) -> int:
    """Bytes that a delta names."""
    assert reading.delta
    if reading.changed is not None:
        return sum(area.length for area in reading.changed)
    reader = open_reader(reading.address, SIZE)
    try:
        return sum(area.length for area in reader.changed())
    finally:
        reader.close()


def left(made: LabVM) -> list[Any]:
    return [*made.snapshots, *made.backups, *made.checkpoints, *made.transfers]


def wait(true: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)


def key(vm: VM) -> str:
    return vm.disks[0].key


def lend(source: OvirtSource, vm: VM, way: str, name: str = "", before: str = "", base: str = "") -> Borrowed:
    wanted = {disk.key: way for disk in vm.disks}
    since = {disk.key: base for disk in vm.disks} if base else {}
    return borrow(source, vm, wanted, name, before, since)


# -- who answers -------------------------------------------------------------------------------------------------------


def test_identify(engine: Engine, source: OvirtSource) -> None:
    who = source.identify()
    assert (who.product, who.version[:3], who.insecure) == ("oVirt", "4.5", False)
    assert who.fingerprint


def test_a_stranger_is_not_trusted(engine: Engine, hybrid: Engine) -> None:
    with pytest.raises(Untrusted):
        make(engine, cacert=hybrid.ca_pem).identify()


# -- power -------------------------------------------------------------------------------------------------------------


def test_power(engine: Engine, source: OvirtSource) -> None:
    made, vm = add(engine)
    assert source.observe(vm).power is Power.OFF
    source.power_on(vm)
    source.power_on(vm)
    seen = source.observe(vm)
    assert (seen.power, seen.tools_running) == (Power.ON, True)
    source.power_off(vm)
    source.power_off(vm)
    source.shut_down_guest(vm)
    assert source.observe(vm).power is Power.OFF
    assert made.power_causes() == ["on", "hard-off"]


def test_the_guest_is_asked_once(engine: Engine, source: OvirtSource) -> None:
    made, vm = add(engine, running=True)
    engine.faults.add("shutdown", vm=made.name, hold=True)
    source.shut_down_guest(vm)
    source.shut_down_guest(vm)
    assert engine.faults.count("POST vms/shutdown", made.name) == 1
    assert source.observe(vm).power is Power.ON
    engine.faults.clear()


def test_somebody_was_faster(engine: Engine, source: OvirtSource) -> None:
    """The VM is down when the Engine looks, and its refusal is success."""
    made, vm = add(engine, running=True)
    engine.faults.add("POST vms/stop", vm=made.name, drop="after")
    with pytest.raises(Unreachable):
        source.power_off(vm)
    source.power_off(vm)
    assert not made.on


def test_another_machine_is_left_alone(engine: Engine, source: OvirtSource) -> None:
    made, vm = add(engine, running=True)
    with pytest.raises(Refused, match="inventory"):
        source.power_off(replace(vm, instance_uuid="another"))
    with pytest.raises(NotFound):
        source.power_off(replace(vm, id="0b9e7a52-0000-4c1e-9c39-5b1e2a1d7f00"))
    assert made.on


def test_a_start_that_is_taken_back(engine: Engine, source: OvirtSource) -> None:
    made, vm = add(engine)
    engine.faults.add("start", vm=made.name, delay=0.3, fail=True)
    with pytest.raises(Busy, match="powering on") as caught:
        source.power_on(vm)
    assert caught.value.temporary
    source.power_on(vm)
    assert made.on


def test_expired_session(engine: Engine, source: OvirtSource) -> None:
    made, vm = add(engine)
    source.observe(vm)
    engine.faults.add("POST vms/start", vm=made.name, expire=True)
    source.power_on(vm)
    assert made.on


# -- cold --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trust", ["cacert", "thumbprint", "insecureSkipVerify"])
def test_cold(engine: Engine, trust: str) -> None:
    """Hosts are trusted by the Engine's CA, also when the Engine itself is pinned."""
    told = {"cacert": engine.ca_pem, "thumbprint": engine.fingerprint, "insecureSkipVerify": "true"}
    source = make(engine, **{trust: told[trust]})
    made, vm = add(engine, CONTENT, CONTENT[::-1])
    assert {one.way for one in source.ways(vm, warm=False, on_this_host=True)} == {"imageio"}
    lent = lend(source, vm, "imageio")
    assert [read(lent.disks[disk.key]) for disk in vm.disks] == [CONTENT, CONTENT[::-1]]
    assert ("insecure" in next(iter(lent.addresses.values())).credentials) is (trust == "insecureSkipVerify")
    assert len(lent.handles) == 2
    source.keep(lent.handle)
    source.close_disks(lent.handle)
    source.close_disks(lent.handle)
    source.keep(lent.handle)
    assert left(made) == []
    source.close()


def test_strange_handles_are_ignored(source: OvirtSource) -> None:
    for handle in ("", "lease:17", "[]", '{"disk": "0b9e7a52-0000-4c1e-9c39-5b1e2a1d7f00"}'):
        source.keep(handle)
        source.close_disks(handle)


def test_a_running_vm_has_no_cold_way(engine: Engine, source: OvirtSource) -> None:
    _, vm = add(engine, running=True)
    with pytest.raises(Busy):
        lend(source, vm, "imageio")
    with pytest.raises(Refused):
        lend(source, vm, "backup")


def test_a_living_transfer_is_used_on(engine: Engine, source: OvirtSource) -> None:
    made, vm = add(engine)
    first = lend(source, vm, "imageio")
    again = lend(make(engine), vm, "imageio", before=first.handle)
    assert again.addresses == first.addresses
    assert len(made.transfers) == 1
    source.close_disks(again.handle)
    anew = lend(source, vm, "imageio", before=first.handle)
    assert anew.addresses != first.addresses
    source.close_disks(anew.handle)
    assert left(made) == []


def test_a_lost_transfer_does_not_block(engine: Engine, source: OvirtSource) -> None:
    """The controller died before it could note the id."""
    made, vm = add(engine)
    lost = lend(source, vm, "imageio")
    lent = lend(source, vm, "imageio")
    assert lent.addresses != lost.addresses
    assert read(lent.disks[key(vm)]) == CONTENT
    source.close_disks(lent.handle)
    assert left(made) == []


def test_a_lost_transfer_does_not_keep_the_vm_down(engine: Engine, source: OvirtSource) -> None:
    made, vm = add(engine)
    lend(source, vm, "imageio")
    source.power_on(vm)
    assert made.on
    assert left(made) == []


def test_a_lost_answer_leaves_no_second_transfer(engine: Engine, source: OvirtSource) -> None:
    made, vm = add(engine)
    engine.faults.add("POST imagetransfers", drop="after")
    with pytest.raises(Unreachable):
        lend(source, vm, "imageio")
    lent = lend(source, vm, "imageio")
    assert len(made.transfers) == 1
    source.close_disks(lent.handle)
    assert left(made) == []


def test_a_transfer_that_was_paused_is_made_anew(engine: Engine, source: OvirtSource) -> None:
    made, vm = add(engine)
    first = paused(engine, source, made, vm)
    lent = lend(source, vm, "imageio", before=first.handle)
    assert lent.addresses != first.addresses
    assert read(lent.disks[key(vm)]) == CONTENT
    source.close_disks(lent.handle)
    assert left(made) == []


def test_a_transfer_that_was_paused_is_ended(engine: Engine, source: OvirtSource) -> None:
    made, vm = add(engine)
    first = paused(engine, source, made, vm)
    source.close_disks(first.handle)
    assert left(made) == []


def paused(engine: Engine, source: OvirtSource, made: LabVM, vm: VM) -> Borrowed:
    lent = lend(source, vm, "imageio")
    script = engine.faults.add("poll", vm=made.name, pause=True)
    assert script.reached.wait(20)
    wait(lambda: made.transfer_list[-1].phase == "paused_system")
    return lent


def test_no_host_takes_it(engine: Engine, source: OvirtSource) -> None:
    made, vm = add(engine)
    engine.faults.add("transfer", vm=made.name, count=0, fail=True)
    with pytest.raises(Busy, match="failure|cancelled_system") as caught:  # how far it has come when it is looked at
        lend(source, vm, "imageio")
    assert "ovirt-imageio" in caught.value.suggestion
    assert left(made) == []


def test_a_disk_that_is_locked_has_to_wait(engine: Engine, source: OvirtSource) -> None:
    made, vm = add(engine)
    made.disks[0].locked = True
    with pytest.raises(Busy, match="lock"):
        lend(source, vm, "imageio")
    assert any("is locked" in task for task in source.observe(vm).tasks)
    made.disks[0].locked = False
    assert source.observe(vm).tasks == ()


def test_signs_of_life(engine: Engine, source: OvirtSource, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon counts idleness by requests; a sign is sent now and then, and by a controller that was restarted too."""
    made, vm = add(engine)
    lent = lend(source, vm, "imageio")
    asked = engine.faults.count("POST imagetransfers/extend")
    source.keep(lent.handle)
    assert engine.faults.count("POST imagetransfers/extend") == asked
    ticket = made.transfer_list[-1].ticket
    wait(lambda: engine.transfer_service.daemon.ticket(ticket)["idle_time"] >= 1)
    other = make(engine)
    other.keep(lent.handle)
    other.keep(lent.handle)
    assert engine.faults.count("POST imagetransfers/extend") == asked + 1
    assert engine.transfer_service.daemon.ticket(ticket)["idle_time"] < 1
    engine.faults.add("POST imagetransfers/extend", status=500)
    make(engine).keep(lent.handle)
    source.close_disks(lent.handle)
    assert left(made) == []


def test_probe(engine: Engine, source: OvirtSource) -> None:
    made, vm = add(engine)
    (probe,) = source.probe(vm)
    assert (probe.way, probe.works) == ("imageio", True)
    source.power_on(vm)
    assert source.probe(vm)[0].works is None
    assert left(made) == []


# -- rounds by snapshots -------------------------------------------------------------------------------------------------


def layered(engine: Engine, *disks: bytes | int, **facts: Any) -> tuple[LabVM, VM]:
    """Incremental backup is off, so rounds are snapshots."""
    return add(engine, *disks, **{"incremental": False, **facts})


def take(source: OvirtSource, vm: VM, round_: int, since: str = "") -> str:
    """Id of the snapshot, as the itinerary notes it."""
    name = named(vm, round_)
    source.create_snapshot(vm, name, quiesce=False, since=since)
    seen = source.observe(vm).snapshot(name)
    assert seen is not None
    assert source.observe(vm).tasks == ()
    return seen.change_ids[key(vm)]


def users_snapshot(source: OvirtSource, vm: VM, text: str) -> None:
    source._calls.post(f"vms/{vm.id}/snapshots", {"description": text, "persist_memorystate": "false"})
    wait(lambda: source.observe(vm).tasks == ())


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("format", ["raw", "cow"])
def test_rounds_by_snapshots(engine: Engine, source: OvirtSource, format: str, running: bool) -> None:
    made, vm = layered(engine, format=format, running=running)
    assert {one.way for one in source.ways(vm, warm=True, on_this_host=True)} == {"snapshot"}
    held, base = bytes(SIZE), ""
    for round_ in (1, 2, 3):
        now = made.read()
        base_before, base = base, take(source, vm, round_)
        made.write(round_ << 18, b"later" * 1000)  # not in this round
        lent = lend(source, vm, "snapshot", named(vm, round_), base=base_before)
        reading = lent.disks[key(vm)]
        assert (reading.delta, reading.full) == (round_ > 1, "")
        if reading.delta:
            assert changes(reading) < SIZE / 4
        assert read(reading) == now  # what is outside of the layer can be read as well
        held = patched(reading, held)
        assert held == now
        source.close_disks(lent.handle)
        if round_ > 1:
            source.remove_snapshot(vm, named(vm, round_ - 1))
        assert made.snapshots == [named(vm, round_)]
    source.remove_snapshot(vm, named(vm, 3))
    source.remove_snapshot(vm, named(vm, 3))
    assert left(made) == []
    assert made.read()[3 << 18 :].startswith(b"later")


def test_zeroed_areas_are_in_the_layer(engine: Engine, source: OvirtSource) -> None:
    made, vm = layered(engine, running=True)
    base = take(source, vm, 1)
    made.write(1 << 20, bytes(1 << 18))
    take(source, vm, 2)
    reading = lend(source, vm, "snapshot", named(vm, 2), base=base).disks[key(vm)]
    assert patched(reading, CONTENT) == made.read()
    for round_ in (1, 2):
        source.remove_snapshot(vm, named(vm, round_))
    assert left(made) == []


def test_a_users_snapshot_in_between(engine: Engine, source: OvirtSource) -> None:
    made, vm = layered(engine, running=True)
    base = take(source, vm, 1)
    made.write(0, b"before the user's")
    users_snapshot(source, vm, "mine")
    made.write(1 << 20, b"after the user's")
    take(source, vm, 2)
    lent = lend(source, vm, "snapshot", named(vm, 2), base=base)
    reading = lent.disks[key(vm)]
    assert not reading.delta
    assert "another snapshot" in reading.full
    assert read(reading) == made.read()
    source.close_disks(lent.handle)
    for round_ in (1, 2):
        source.remove_snapshot(vm, named(vm, round_))
    assert left(made) == ["mine"]
    assert [one.change_ids for one in source.observe(vm).snapshots] == [{}]


def test_a_living_transfer_of_a_layer(engine: Engine, source: OvirtSource) -> None:
    """A mover died: its disk's areas are listed once more, whatever is still open."""
    made, vm = layered(engine, CONTENT, CONTENT, running=True)
    base = take(source, vm, 1)
    made.write(4096, b"new")
    take(source, vm, 2)
    first = lend(source, vm, "snapshot", named(vm, 2), base=base)
    again = lend(source, vm, "snapshot", named(vm, 2), before=first.handle, base=base)
    assert again.disks[key(vm)].changed == first.disks[key(vm)].changed
    lost = lend(source, vm, "snapshot", named(vm, 2), base=base)
    assert lost.disks[key(vm)].changed == first.disks[key(vm)].changed
    assert len(made.transfers) == 2
    source.remove_snapshot(vm, named(vm, 2))
    assert made.transfers == []
    source.remove_snapshot(vm, named(vm, 1))
    assert left(made) == []


def test_a_lost_answer_makes_no_second_snapshot(engine: Engine, source: OvirtSource) -> None:
    made, vm = layered(engine, running=True)
    engine.faults.add("POST vms/snapshots", vm=made.name, drop="after")
    with pytest.raises(Unreachable):
        take(source, vm, 1)
    take(source, vm, 1)
    take(source, vm, 1)
    assert made.snapshots == [named(vm, 1)]
    engine.faults.add("DELETE vms/snapshots", vm=made.name, drop="after")
    with pytest.raises(Unreachable):
        source.remove_snapshot(vm, named(vm, 1))
    source.remove_snapshot(vm, named(vm, 1))
    assert left(made) == []


def test_a_snapshot_that_fails_says_why(engine: Engine, source: OvirtSource) -> None:
    made, vm = layered(engine, running=True)
    engine.faults.add("snapshot", vm=made.name, fail=True)
    with pytest.raises(Busy, match=made.name) as caught:
        take(source, vm, 1)
    assert caught.value.fault == "SnapshotFailed"
    take(source, vm, 1)
    source.remove_snapshot(vm, named(vm, 1))
    assert left(made) == []


def test_removal_waits_while_the_vm_is_locked_and_merges(engine: Engine, source: OvirtSource) -> None:
    made, vm = layered(engine, running=True)
    take(source, vm, 1)
    engine.faults.add(
        "DELETE vms/snapshots", vm=made.name, count=3, status=409, detail="Cannot remove Snapshot. VM is locked."
    )
    merge = engine.faults.add("merge", vm=made.name, hold=True)
    done = threading.Thread(target=source.remove_snapshot, args=(vm, named(vm, 1)), daemon=True)
    done.start()
    assert merge.reached.wait(20)
    assert any("is locked" in task for task in make(engine).observe(vm).tasks)
    assert done.is_alive()
    merge.release()
    done.join(20)
    assert not done.is_alive()
    assert left(made) == []


def test_a_merge_that_fails_is_tried_again_by_the_next_call(engine: Engine, source: OvirtSource) -> None:
    made, vm = layered(engine, running=True)
    take(source, vm, 1)
    engine.faults.add("merge", vm=made.name, fail=True)
    with pytest.raises(TranshipError) as caught:
        source.remove_snapshot(vm, named(vm, 1))
    assert caught.value.temporary
    source.remove_snapshot(vm, named(vm, 1))
    assert left(made) == []


def test_never_more_than_28(engine: Engine, source: OvirtSource) -> None:
    made, vm = layered(engine)
    for number in range(28):
        users_snapshot(source, vm, f"users {number}")
    with pytest.raises(Refused, match="28"):
        take(source, vm, 1)
    assert len(made.snapshots) == 28


def test_only_own_snapshots_are_touched(engine: Engine, source: OvirtSource) -> None:
    _, vm = layered(engine)
    with pytest.raises(Refused):
        source.remove_snapshot(vm, "mine")
    with pytest.raises(NotFound):
        lend(source, vm, "snapshot", named(vm, 7))


# -- rounds by backups ---------------------------------------------------------------------------------------------------


def begin(source: OvirtSource, vm: VM, round_: int, since: str = "") -> str:
    """The checkpoint that it leaves."""
    name = named(vm, round_)
    source.create_snapshot(vm, name, quiesce=False, since=since)
    seen = source.observe(vm)
    made = seen.snapshot(name)
    assert made is not None
    assert seen.tasks == ()
    assert made.blocks_power_on
    assert made.checkpoint in seen.checkpoints
    assert made.change_ids == {disk.key: made.checkpoint for disk in vm.disks}
    return made.checkpoint


def full(source: OvirtSource, vm: VM, round_: int, base: str) -> str:
    """Why the round's first disk is read fully."""
    lent = lend(source, vm, "backup", named(vm, round_), base=base)
    source.close_disks(lent.handle)
    assert not lent.disks[key(vm)].delta
    return lent.disks[key(vm)].full


def clean(source: OvirtSource, made: LabVM, vm: VM, *rounds: int) -> None:
    for round_ in rounds:
        source.remove_snapshot(vm, named(vm, round_))
    for id in source.observe(vm).checkpoints:
        source.remove_checkpoint(vm, id)
    assert left(made) == []


@pytest.mark.parametrize("level", ["4.6", "4.7"])
@pytest.mark.parametrize("running", [True, False])
def test_rounds_by_backups(request: pytest.FixtureRequest, level: str, running: bool) -> None:
    engine: Engine = request.getfixturevalue("engine" if level == "4.6" else "hybrid")
    source = make(engine)
    made, vm = add(engine, running=running)
    assert {one.way for one in source.ways(vm, warm=True, on_this_host=True)} == {"backup"}
    held, base = bytes(SIZE), ""
    for round_ in (1, 2, 3):
        now = made.read()
        before, base = base, begin(source, vm, round_, base)
        made.write(round_ << 18, b"later" * 1000)
        lent = lend(source, vm, "backup", named(vm, round_), base=before)
        reading = lent.disks[key(vm)]
        assert (reading.delta, reading.full) == (round_ > 1, "")
        if reading.delta:
            assert changes(reading) < SIZE / 4
        assert read(reading) == now
        held = patched(reading, held)
        assert held == now
        assert [one.name for one in source.observe(vm).snapshots] == [named(vm, round_)]
        source.close_disks(lent.handle)
        source.remove_snapshot(vm, named(vm, round_))
        source.remove_snapshot(vm, named(vm, round_))
        source.remove_checkpoint(vm, before or "0b9e7a52-0000-4c1e-9c39-5b1e2a1d7f00")
        assert (made.backups, made.snapshots, made.checkpoints) == ([], [], [base])
    clean(source, made, vm)
    source.close()


def test_a_disk_that_the_checkpoint_does_not_know_is_full(engine: Engine, source: OvirtSource) -> None:
    made, vm = add(engine, running=True)
    base = begin(source, vm, 1)
    source.remove_snapshot(vm, named(vm, 1))
    engine.add_disk(made, CONTENT[::-1])
    vm = inventory(source)[vm.id]
    begin(source, vm, 2, base)
    lent = lend(source, vm, "backup", named(vm, 2), base=base)
    first, second = (lent.disks[disk.key] for disk in vm.disks)
    assert (first.delta, second.delta) == (True, False)
    assert "no increment" in second.full
    assert read(second) == CONTENT[::-1]
    clean(source, made, vm, 2)


def test_a_lost_answer_begins_no_second_backup(engine: Engine, source: OvirtSource) -> None:
    made, vm = add(engine, running=True)
    engine.faults.add("POST vms/backups", vm=made.name, drop="after")
    with pytest.raises(Unreachable):
        begin(source, vm, 1)
    begin(source, vm, 1)
    assert len(made.backups) == 1
    engine.faults.add("POST vms/backups/finalize", vm=made.name, drop="after")
    with pytest.raises(Unreachable):
        source.remove_snapshot(vm, named(vm, 1))
    clean(source, made, vm, 1)


def test_a_backup_that_is_starting_is_a_task(engine: Engine, source: OvirtSource) -> None:
    made, vm = add(engine, running=True)
    script = engine.faults.add("backup", vm=made.name, hold=True)
    begun = threading.Thread(target=begin, args=(make(engine), vm, 1), daemon=True)
    begun.start()
    assert script.reached.wait(20)
    seen = source.observe(vm)
    assert any(named(vm, 1) in task for task in seen.tasks)
    assert [one.name for one in seen.snapshots] == [named(vm, 1)]
    with pytest.raises(Busy):
        lend(source, vm, "backup", named(vm, 1))
    script.release()
    begun.join(20)
    clean(source, made, vm, 1)


def test_another_tools_backup_is_named_and_left_alone(engine: Engine, source: OvirtSource) -> None:
    made, vm = add(engine, running=True)
    foreign = foreign_backup(source, vm)
    assert f"backup {foreign} of another tool" in source.observe(vm).tasks
    assert source.observe(vm).snapshots == ()
    with pytest.raises(Busy, match="another tool") as caught:
        begin(source, vm, 1)
    assert foreign in str(caught.value)
    source.remove_snapshot(vm, named(vm, 1))
    assert made.backups == [foreign]
    finalize(source, vm, foreign)
    begin(source, vm, 1)
    clean(source, made, vm, 1)


def foreign_backup(source: OvirtSource, vm: VM) -> str:
    client = source._calls
    said = client.post(f"vms/{vm.id}/backups", {"disks": {"disk": [{"id": key(vm)}]}})
    wait(lambda: client.get(f"vms/{vm.id}/backups/{said['id']}")["phase"] == "ready")
    return str(said["id"])


def finalize(source: OvirtSource, vm: VM, id: str) -> None:
    source._calls.action(f"vms/{vm.id}/backups/{id}/finalize")
    wait(lambda: source._calls.get(f"vms/{vm.id}/backups/{id}")["phase"] == "succeeded")


def test_a_checkpoint_stays_while_a_backup_is_open(engine: Engine, source: OvirtSource) -> None:
    made, vm = add(engine, running=True)
    base = begin(source, vm, 1)
    with pytest.raises(Busy):
        source.remove_checkpoint(vm, base)
    clean(source, made, vm, 1)


def test_a_checkpoint_that_is_gone_means_full(engine: Engine, source: OvirtSource) -> None:
    made, vm = add(engine, running=True)
    base = begin(source, vm, 1)
    clean(source, made, vm, 1)
    begin(source, vm, 2, base)
    assert "gone" in full(source, vm, 2, base)
    clean(source, made, vm, 2)


def test_a_checkpoint_that_is_invalid_means_full(engine: Engine, source: OvirtSource) -> None:
    """A snapshot was reverted to, and all that the checkpoints knew is wrong."""
    made, vm = add(engine)
    users_snapshot(source, vm, "mine")
    base = begin(source, vm, 1)
    source.remove_snapshot(vm, named(vm, 1))
    users = next(one.id for one in source.observe(vm).snapshots)
    source._calls.action(f"vms/{vm.id}/snapshots/{users}/restore")
    wait(lambda: source.observe(vm).tasks == ())
    begin(source, vm, 2, base)
    assert "invalid" in full(source, vm, 2, base)
    source.remove_snapshot(vm, named(vm, 2))
    for id in source.observe(vm).checkpoints:
        source.remove_checkpoint(vm, id)
    assert left(made) == ["mine"]


def test_a_checkpoint_that_cannot_be_redefined_means_full(engine: Engine, source: OvirtSource) -> None:
    """Event 10791: the Engine wants a full backup. The checkpoint is dropped, so the next call gives one."""
    made, vm = add(engine, running=True)
    base = begin(source, vm, 1)
    source.remove_snapshot(vm, named(vm, 1))
    engine.faults.add("redefine", vm=made.name, fail=True)
    with pytest.raises(Busy, match="full") as caught:
        begin(source, vm, 2, base)
    assert caught.value.temporary
    begin(source, vm, 2, base)
    assert base in full(source, vm, 2, base)
    assert base not in made.checkpoints
    clean(source, made, vm, 2)


def test_a_start_that_fails_is_tried_again(engine: Engine, source: OvirtSource) -> None:
    """Once may be chance; when it fails again, the checkpoint is not trusted any more."""
    made, vm = add(engine, running=True)
    base = begin(source, vm, 1)
    source.remove_snapshot(vm, named(vm, 1))
    engine.faults.add("backup", vm=made.name, count=2, fail=True)
    for _ in range(2):
        with pytest.raises(Busy):
            begin(source, vm, 2, base)
    begin(source, vm, 2, base)
    assert full(source, vm, 2, base)
    clean(source, made, vm, 2)


def test_lost_transfers_of_a_backup_are_adopted(engine: Engine, source: OvirtSource) -> None:
    made, vm = add(engine, running=True)
    begin(source, vm, 1)
    lost = lend(source, vm, "backup", named(vm, 1))
    found = lend(make(engine), vm, "backup", named(vm, 1))
    assert found.addresses == lost.addresses
    assert len(made.transfers) == 1
    clean(source, made, vm, 1)


def test_a_vm_that_goes_down_by_itself(engine: Engine, source: OvirtSource) -> None:
    """Its backup can be ended all the same."""
    made, vm = add(engine, running=True)
    begin(source, vm, 1)
    lend(source, vm, "backup", named(vm, 1))
    engine.power.switch_off(made, "guest-shutdown")
    assert source.observe(vm).power is Power.OFF
    clean(source, made, vm, 1)


def test_what_the_engine_leaves_of_a_backup_goes_too(hybrid: Engine) -> None:
    """A hybrid backup succeeds although its snapshot could not be merged."""
    source = make(hybrid)
    made, vm = add(hybrid, running=True)
    begin(source, vm, 1)
    hybrid.faults.add("merge", vm=made.name, fail=True)
    finalize(source, vm, made.backups[0])
    wait(lambda: source.observe(vm).tasks == ())
    assert [one.name for one in source.observe(vm).snapshots] == [named(vm, 1)]
    clean(source, made, vm, 1)
    hybrid.faults.clear()
    source.close()


def test_older_engines_forget_what_has_ended(tmp_path: Path) -> None:
    with Engine(tmp_path, version="4.4.6", cluster_level="4.5") as engine:
        source = make(engine)
        made, vm = add(engine)
        begin(source, vm, 1)
        lent = lend(source, vm, "backup", named(vm, 1))
        assert read(lent.disks[key(vm)]) == CONTENT
        source.close_disks(lent.handle)
        clean(source, made, vm, 1)
        source.close()


def test_engines_without_backups(tmp_path: Path) -> None:
    with Engine(tmp_path, version="4.3.10", cluster_level="4.3") as engine:
        source = make(engine)
        made, vm = add(engine)
        assert {one.way for one in source.ways(vm, warm=True, on_this_host=True)} == {"snapshot"}
        take(source, vm, 1)
        assert source.observe(vm).checkpoints == ()
        source.remove_snapshot(vm, named(vm, 1))
        assert left(made) == []
        source.close()
