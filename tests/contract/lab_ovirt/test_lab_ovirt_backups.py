"""Backups: full, incremental, mixed; what each cluster level allows; what is refused; what becomes of checkpoints."""

import random
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import uuid4

import pytest

from tranship.lab.guest import inspect
from tranship.lab.ovirt import Engine, LabVM

MIB = 1 << 20
CONTENT = random.Random(9).randbytes(MIB)
Own = Callable[..., tuple[Engine, Any]]


def body(vm: LabVM, since: str = "", **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"disks": {"disk": [{"id": disk.id} for disk in vm.disks]}, **more}
    return {**found, "from_checkpoint_id": since} if since else found


def refused(client: Any, vm: LabVM, since: str = "", **more: Any) -> str:
    return str(client.refused("POST", f"vms/{vm.id}/backups", body(vm, since, **more)).detail)


def of(vm: LabVM, backup: dict[str, Any], disk: int = 0) -> dict[str, Any]:
    return {"disk": {"id": vm.disks[disk].id}, "backup": {"id": backup["id"]}}


def part(data: bytes, at: int, count: int) -> bytes:
    return data[at : at + count]


def modes(client: Any, vm: LabVM, backup: dict[str, Any]) -> list[str]:
    return [disk["backup_mode"] for disk in client.many(f"vms/{vm.id}/backups/{backup['id']}/disks", "disk")]


@pytest.mark.parametrize("level", ["4.6", "4.7"])
@pytest.mark.parametrize("running", [False, True], ids=["cold", "live"])
def test_full_and_then_what_was_written(own: Own, level: str, running: bool) -> None:
    engine, client = own(cluster_level=level)
    vm = engine.add_vm("vm", [CONTENT], running=running)
    full = client.backup(vm)
    assert full["phase"] == "ready" and modes(client, vm, full) == ["full"]
    vm.write(0, b"\1" * 65536)
    assert client.download(of(vm, full)) == CONTENT, "as it was when the backup began"
    assert client.finalize(vm, full) == "succeeded"
    vm.write(5 * 65536, b"\2" * 65536)
    point = vm.read()
    second = client.backup(vm, since=full["to_checkpoint_id"])
    assert modes(client, vm, second) == ["incremental"]
    vm.write(9 * 65536, b"\3" * 65536)
    transfer = client.transfer(of(vm, second))
    dirty = [(e["start"], e["length"]) for e in client.extents(transfer, "dirty") if e["dirty"]]
    assert dirty == [(0, 65536), (5 * 65536, 65536)]
    assert client.read(transfer) == point
    assert client.end(transfer) == "finished_success"
    assert client.finalize(vm, second) == "succeeded"
    assert vm.snapshots == [] and vm.backups == [] and len(vm.checkpoints) == 2
    assert client.codes("vm.name=vm and type>10000") == ["10790", "10794", "10793"] * 2
    parents = [c.get("parent_id") for c in client.many(f"vms/{vm.id}/checkpoints", "checkpoint")]
    assert parents == [None, full["to_checkpoint_id"]]


def test_hybrid_holds_its_point_by_a_snapshot(own: Own) -> None:
    engine, client = own(cluster_level="4.7")
    vm = engine.add_vm("vm", [CONTENT], running=True)
    backup = client.backup(vm)
    assert vm.snapshots == ["Auto-generated for Backup VM"]
    assert backup["snapshot"]["id"] == client.many(f"vms/{vm.id}/snapshots", "snapshot")[0]["id"]
    assert client.get(f"disks/{vm.disks[0].id}")["status"] == "ok"
    assert client.finalize(vm, backup) == "succeeded"
    assert vm.snapshots == []
    backup = client.backup(vm, legacy="true")
    assert vm.snapshots == [] and "snapshot" not in backup
    assert client.get(f"disks/{vm.disks[0].id}")["status"] == "locked"
    assert client.finalize(vm, backup) == "succeeded"
    engine.faults.add("merge", fail=True)
    assert client.finalize(vm, client.backup(vm)) == "succeeded", "though its snapshot stays behind"
    assert vm.snapshots == ["Auto-generated for Backup VM"]


def test_each_disk_has_its_own_mode(engine: Engine, client: Any) -> None:
    vm = engine.add_vm("mixed", [CONTENT, MIB], format=["cow", "raw"], running=True)
    first = client.backup(vm)
    client.finalize(vm, first)
    engine.add_disk(vm, CONTENT)
    second = client.backup(vm, since=first["to_checkpoint_id"])
    assert modes(client, vm, second) == ["incremental", "full", "full"]
    assert client.download(of(vm, second, 2)) == CONTENT
    checkpoint = client.many(f"vms/{vm.id}/checkpoints", "checkpoint")[1]
    disks = client.many(f"vms/{vm.id}/checkpoints/{checkpoint['id']}/disks", "disk")
    assert [disk["id"] for disk in disks] == [vm.disks[0].id, vm.disks[2].id]
    client.finalize(vm, second)


def test_raw_disks_alone_make_no_checkpoint(engine: Engine, client: Any) -> None:
    vm = engine.add_vm("raw", [CONTENT], format="raw")
    backup = client.backup(vm)
    assert "to_checkpoint_id" not in backup
    assert client.download(of(vm, backup)) == CONTENT
    client.finalize(vm, backup)
    assert vm.checkpoints == []


def test_below_level_4_5(own: Own) -> None:
    engine, client = own(cluster_level="4.4", version="4.4.3")
    vm = engine.add_vm("vm", [CONTENT], running=True)
    first = client.backup(vm)
    client.finalize(vm, first)
    engine.add_disk(vm, MIB)
    assert "Mixing" in refused(client, vm, first["to_checkpoint_id"])
    plain = engine.add_vm("plain", [CONTENT], running=True, incremental=False)
    base = client.backup(plain)
    client.finalize(plain, base)
    assert "not enabled" in refused(client, plain, base["to_checkpoint_id"])
    assert "Bitmaps" in refused(client, engine.add_vm("cold", [CONTENT]))


def test_one_at_a_time_and_what_it_blocks(engine: Engine, client: Any) -> None:
    vm = engine.add_vm("busy", [CONTENT], running=True)
    backup = client.backup(vm)
    disk = vm.disks[0].id
    assert "locked" in refused(client, vm)
    assert client.get(f"disks/{disk}")["status"] == "locked"
    assert client.get(f"disks/{disk}")["backup_mode"] == "full"
    blocked: list[tuple[str, dict[str, Any]]] = [("snapshots", {}), ("stop", {}), ("shutdown", {})]
    assert [client.refused("POST", f"vms/{vm.id}/{path}", sent).status for path, sent in blocked] == [409] * 3
    assert client.refused("DELETE", f"vms/{vm.id}/checkpoints/{backup['to_checkpoint_id']}").status == 409
    assert client.finalize(vm, backup) == "succeeded"
    assert "in 'succeeded' phase" in client.refused("POST", f"vms/{vm.id}/backups/{backup['id']}/finalize", {}).detail
    assert client.codes("vm.name=busy")[-1] == "10795"


def test_ids_are_the_clients_to_choose_once(engine: Engine, client: Any) -> None:
    vm = engine.add_vm("ids", [CONTENT])
    id = str(uuid4())
    path = f"vms/{vm.id}/backups"
    made = client.post(path, body(vm, id=id, description="of round 1"))
    assert made["id"] == id and made["description"] == "of round 1"
    client.until(lambda: client.get(f"{path}/{id}")["phase"] == "ready", "the backup")
    client.finalize(vm, made)
    assert client.many(f"vms/{vm.id}/checkpoints", "checkpoint")[0]["description"] == "of round 1"
    assert "already exists" in refused(client, vm, id=id)
    assert client.many("events", "event", search=id)[0]["code"] == "10793"
    engine.kept_success = 0.0
    try:
        assert client.refused("GET", f"{path}/{id}").status == 404
    finally:
        engine.kept_success = 900.0
    assert client.finalize(vm, client.backup(vm)) == "succeeded"


def test_phases_that_stall_and_fail(engine: Engine, client: Any) -> None:
    vm = engine.add_vm("phases", [CONTENT])
    held = engine.faults.add("backup", hold=True, vm="phases")
    path = f"vms/{vm.id}/backups"
    made = client.post(path, body(vm))
    assert held.reached.wait(10)
    assert client.get(f"{path}/{made['id']}")["phase"] == "starting"
    assert (
        "not ready"
        in client.refused("POST", "imagetransfers", {"direction": "download", "format": "raw", **of(vm, made)}).detail
    )
    assert client.refused("POST", f"{path}/{made['id']}/finalize", {}).status == 400
    held.release()
    client.until(lambda: client.get(f"{path}/{made['id']}")["phase"] == "ready", "the backup")
    engine.faults.add("finalize", fail=True, vm="phases")
    assert client.finalize(vm, made) == "failed"
    engine.faults.add("backup", fail=True, vm="phases")
    assert client.backup(vm)["phase"] == "failed"
    client.until(lambda: not vm.checkpoints, "the end of its checkpoint")
    assert client.codes("vm.name=phases")[-1] == "10792"
    assert client.finalize(vm, client.backup(vm)) == "succeeded"


def test_only_a_full_one_will_do(engine: Engine, client: Any) -> None:
    vm = engine.add_vm("redefine", [CONTENT], running=True)
    first = client.backup(vm)
    client.finalize(vm, first)
    engine.faults.add("redefine", fail=True, vm="redefine")
    id = str(uuid4())
    assert client.refused("POST", f"vms/{vm.id}/backups", body(vm, first["to_checkpoint_id"], id=id)).status == 400
    assert client.get(f"vms/{vm.id}/backups/{id}")["phase"] == "failed"
    assert client.many("events", "event", search=id)[0]["code"] == "10791"
    assert vm.checkpoints == [first["to_checkpoint_id"]]
    client.call("DELETE", f"vms/{vm.id}/checkpoints/{first['to_checkpoint_id']}")
    assert client.finalize(vm, client.backup(vm)) == "succeeded"


def test_a_vm_that_goes_down_takes_its_backup_along(engine: Engine, client: Any) -> None:
    vm = engine.add_vm("crash", [CONTENT], running=True)
    backup = client.backup(vm)
    client.post(f"vms/{vm.id}/stop", {"force": "true"})
    path = f"vms/{vm.id}/backups/{backup['id']}"
    assert client.get(path)["phase"] == "failed"
    assert vm.backups == [] and vm.checkpoints == []
    client.until(lambda: client.get(f"disks/{vm.disks[0].id}")["status"] == "ok", "the disk")
    assert client.finalize(vm, client.backup(vm)) == "succeeded"


def test_checkpoints_are_removed_from_the_middle(engine: Engine, client: Any) -> None:
    vm = engine.add_vm("points", [CONTENT], running=True)
    points: list[str] = []
    for number in range(3):
        backup = client.backup(vm, since=points[-1] if points else "")
        client.finalize(vm, backup)
        points.append(backup["to_checkpoint_id"])
        vm.write(number * 65536, bytes([number + 1]) * 65536)
    client.call("DELETE", f"vms/{vm.id}/checkpoints/{points[1]}")
    left = client.many(f"vms/{vm.id}/checkpoints", "checkpoint")
    assert [(c["id"], c.get("parent_id")) for c in left] == [(points[0], None), (points[2], points[0])]
    backup = client.backup(vm, since=points[0])
    transfer = client.transfer(of(vm, backup))
    assert sum(e["length"] for e in client.extents(transfer, "dirty") if e["dirty"]) == 3 * 65536
    client.end(transfer)
    client.finalize(vm, backup)
    assert "doesn't exist" in refused(client, vm, points[1])
    engine.power.switch_off(vm, "hard-off")
    client.call("DELETE", f"vms/{vm.id}/checkpoints/{points[0]}")
    assert client.refused("GET", f"vms/{vm.id}/checkpoints/{points[0]}").status == 404


def test_disks_that_cannot_be_backed_up(engine: Engine, client: Any) -> None:
    vm = engine.add_vm("odd", [CONTENT])
    engine.add_disk(vm, MIB, storage_type="lun")
    assert "direct LUN" in refused(client, vm)
    other = engine.add_vm("unplugged", [CONTENT])
    other.attachments[0].active = False
    assert "not active" in refused(client, other)
    assert "Disks are missing" in client.refused("POST", f"vms/{other.id}/backups", {}).detail


def test_a_guest_is_caught_at_one_point(own: Own) -> None:
    engine, client = own()
    vm = engine.add_vm("alive", [8 * MIB, 8 * MIB], guest=True, running=True, slots=256)
    assert vm.guest is not None
    vm.guest.wait_number(20, 60)
    first = client.backup(vm)
    copy = [bytearray(client.download(of(vm, first, disk))) for disk in (0, 1)]
    client.finalize(vm, first)
    vm.guest.wait_number(vm.guest.last + 100, 60)
    second = client.backup(vm, since=first["to_checkpoint_id"])
    vm.guest.wait_number(vm.guest.last + 20, 60)
    for disk in (0, 1):
        transfer = client.transfer(of(vm, second, disk))
        whole = client.read(transfer)
        for extent in client.extents(transfer, "dirty"):
            if extent["dirty"]:
                at = slice(extent["start"], extent["start"] + extent["length"])
                copy[disk][at] = whole[at]
        assert bytes(copy[disk]) == whole
        client.end(transfer)
    client.finalize(vm, second)
    report = inspect([partial(part, bytes(data)) for data in copy])
    assert report.bad == 0 and report.last >= 120
