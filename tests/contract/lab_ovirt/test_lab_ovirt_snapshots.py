"""Snapshots: locked and then there, their disk snapshots, merged in any order, limited to disks, previewed, gone back to."""

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tranship.lab.guest import inspect
from tranship.lab.ovirt import Engine, LabVM

MIB = 1 << 20
CONTENT = random.Random(7).randbytes(MIB)


def images(client: Any, vm: LabVM) -> list[dict[str, Any]]:
    """The disk snapshots of a VM's disks."""
    ids = {disk.id for disk in vm.disks}
    domain = vm.disks[0].storage.id  # type: ignore[union-attr]
    found = client.many(f"storagedomains/{domain}/disksnapshots", "disk_snapshot", follow="snapshot")
    return [image for image in found if image["disk"]["id"] in ids]


def image(client: Any, vm: LabVM, snapshot: str, disk: int = 0) -> str:
    found = images(client, vm)
    wanted = vm.disks[disk].id
    return next(str(i["id"]) for i in found if i["snapshot"]["id"] == snapshot and i["disk"]["id"] == wanted)


def part(data: bytes, at: int, count: int) -> bytes:
    return data[at : at + count]


def test_locked_until_it_is_there(engine: Engine, client: Any) -> None:
    vm = engine.add_vm("locks", [CONTENT])
    held = engine.faults.add("snapshot", hold=True)
    made = client.post(f"vms/{vm.id}/snapshots", {"description": "one"}, correlation_id="mine")
    assert made["snapshot_status"] == "locked" and made["snapshot_type"] == "regular"
    assert client.get(f"disks/{vm.disks[0].id}")["status"] == "locked"
    for method, path in (
        ("POST", f"vms/{vm.id}/snapshots"),
        ("DELETE", f"vms/{vm.id}/snapshots/{made['id']}"),
        ("POST", f"vms/{vm.id}/start"),
    ):
        assert client.refused(method, path, {}).status == 409
    held.release()
    client.until(lambda: "68" in client.codes("correlation_id=mine"), "the snapshot")
    listed = client.many(f"vms/{vm.id}/snapshots", "snapshot")
    assert [(s["description"], s["snapshot_type"]) for s in listed] == [("one", "regular"), ("Active VM", "active")]
    assert vm.snapshots == ["one"]
    client.remove_snapshot(vm, made["id"])
    assert vm.snapshots == [] and client.codes("vm.name=locks and type>300") == ["342", "356"]


def test_disk_snapshots_form_a_chain(engine: Engine, client: Any) -> None:
    vm = engine.add_vm("chain", [CONTENT, MIB])
    ids = []
    for number in range(2):
        ids.append(client.snapshot(vm, f"s{number}"))
        vm.write(number * 65536, bytes([number + 1]) * 65536)
    found = {(i["snapshot"]["id"], i["disk"]["id"]): i for i in images(client, vm)}
    assert len(found) == 4
    first, second = (found[id, vm.disks[0].id] for id in ids)
    assert second["parent"]["id"] == first["id"] and "parent" not in first
    assert second["snapshot"]["description"] == "s1"
    assert first["id"] != client.get(f"disks/{vm.disks[0].id}")["image_id"]
    followed = client.get(f"vms/{vm.id}/snapshots/{ids[1]}", follow="disks")["disks"]["disk"]
    assert {disk["image_id"] for disk in followed} == {found[ids[1], disk.id]["id"] for disk in vm.disks}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)], ids=str)
def test_merged_in_any_order(engine: Engine, client: Any, order: tuple[int, ...]) -> None:
    vm = engine.add_vm(f"merge-{order}", [CONTENT], format="raw" if order == (2, 1, 0) else "cow")
    expected, ids, states = bytearray(CONTENT), [], []
    for number in range(3):
        ids.append(client.snapshot(vm, f"s{number}"))
        states.append(bytes(expected))
        at = number * 100_000
        expected[at : at + 70_000] = bytes([number + 1]) * 70_000
        vm.write(at, bytes([number + 1]) * 70_000)
    left = {0, 1, 2}
    for number in order:
        client.remove_snapshot(vm, ids[number])
        left.discard(number)
        assert vm.read() == bytes(expected)
        for other in left:
            assert client.download({"snapshot": {"id": image(client, vm, ids[other])}}) == states[other]
    assert images(client, vm) == []
    disk = client.get(f"disks/{vm.disks[0].id}")
    assert disk["format"] == ("raw" if order == (2, 1, 0) else "cow") and disk["status"] == "ok"


def test_a_layer_by_itself(engine: Engine, client: Any) -> None:
    vm = engine.add_vm("layer", [CONTENT])
    first = client.snapshot(vm, "base")
    vm.write(3 * 65536, b"\7" * 65536)
    second = client.snapshot(vm, "layer")
    transfer = client.transfer({"snapshot": {"id": image(client, vm, second)}, "shallow": "true"})
    there = [(e["start"], e["length"]) for e in client.extents(transfer) if not e["hole"]]
    assert there == [(3 * 65536, 65536)]
    assert client.get(f"imagetransfers/{transfer['id']}")["shallow"] == "true"
    assert client.refused("DELETE", f"vms/{vm.id}/snapshots/{first}").status == 409, "the transfer keeps it"
    assert client.end(transfer) == "finished_success"
    client.remove_snapshot(vm, first)
    assert vm.snapshots == ["layer"]


def test_only_some_disks(engine: Engine, client: Any) -> None:
    vm = engine.add_vm("some", [CONTENT, MIB])
    attachments = {"disk_attachment": [{"disk": {"id": vm.disks[1].id}}]}
    id = client.snapshot(vm, "second", disk_attachments=attachments)
    assert [i["disk"]["id"] for i in images(client, vm)] == [vm.disks[1].id]
    client.remove_snapshot(vm, id)


def test_creation_and_removal_that_fail(engine: Engine, client: Any) -> None:
    vm = engine.add_vm("fails", [CONTENT])
    engine.faults.add("snapshot", fail=True, vm="fails")
    client.post(f"vms/{vm.id}/snapshots", {"description": "no"}, correlation_id="bad")
    client.until(lambda: "69" in client.codes("correlation_id=bad"), "the failure")
    assert vm.snapshots == [] and client.get(f"disks/{vm.disks[0].id}")["status"] == "ok"
    id = client.snapshot(vm, "stays")
    engine.faults.add("merge", fail=True, vm="fails")
    client.call("DELETE", f"vms/{vm.id}/snapshots/{id}", correlation_id="worse")
    client.until(lambda: "357" in client.codes("correlation_id=worse"), "the failure")
    assert vm.snapshots == ["stays"]
    client.remove_snapshot(vm, id)
    assert vm.read() == CONTENT


@pytest.mark.parametrize("way", ["restore", "preview"])
def test_going_back_makes_checkpoints_invalid(engine: Engine, client: Any, way: str) -> None:
    vm = engine.add_vm(f"back-{way}", [CONTENT])
    backup = client.backup(vm)
    assert client.finalize(vm, backup) == "succeeded"
    kept, later = client.snapshot(vm, "kept"), ""
    vm.write(0, b"\1" * 65536)
    later = client.snapshot(vm, "later")
    if way == "restore":
        client.post(f"vms/{vm.id}/snapshots/{kept}/restore")
    else:
        client.post(f"vms/{vm.id}/previewsnapshot", {"snapshot": {"id": later}})
        client.post(f"vms/{vm.id}/undosnapshot")
        client.post(f"vms/{vm.id}/previewsnapshot", {"snapshot": {"id": kept}})
        listed = client.many(f"vms/{vm.id}/snapshots", "snapshot")
        kinds = [(item["snapshot_type"], item["snapshot_status"]) for item in listed]
        assert kinds == [("regular", "in_preview"), ("regular", "ok"), ("preview", "ok"), ("active", "ok")]
        body = {"disks": {"disk": [{"id": vm.disks[0].id}]}}
        assert "previewing" in client.refused("POST", f"vms/{vm.id}/backups", body).detail
        client.post(f"vms/{vm.id}/commitsnapshot")
    client.until(lambda: vm.snapshots == ["kept"] and not vm.lock, "the way back")
    assert vm.read() == CONTENT
    assert [c["state"] for c in client.many(f"vms/{vm.id}/checkpoints", "checkpoint")] == ["invalid"]
    body = {"disks": {"disk": [{"id": vm.disks[0].id}]}, "from_checkpoint_id": backup["to_checkpoint_id"]}
    assert "invalid" in client.refused("POST", f"vms/{vm.id}/backups", body).detail


def test_a_guest_writes_on(own: Callable[..., tuple[Engine, Any]]) -> None:
    engine, client = own()
    vm = engine.add_vm("writes", [8 * MIB, 8 * MIB], guest=True, running=True, slots=256)
    assert vm.guest is not None
    seen = vm.guest.wait_number(10, 60)
    first = client.snapshot(vm, "first")
    seen = vm.guest.wait_number(seen + 50, 60)
    second = client.snapshot(vm, "second")
    seen = vm.guest.wait_number(seen + 50, 60)
    client.remove_snapshot(vm, first)
    seen = vm.guest.wait_number(seen + 50, 60)
    client.remove_snapshot(vm, second)
    vm.guest.wait_number(seen + 50, 60)
    client.post(f"vms/{vm.id}/shutdown")
    client.until(lambda: not vm.on, "the shutdown")
    report = inspect([partial(part, vm.read(disk)) for disk in (0, 1)])
    assert report.bad == 0 and report.last >= seen
