"""Start, stop and shutdown as a client sees them, of machines without a guest and of a real one."""

from typing import Any

from tranship.lab.ovirt import Engine, LabVM


def status(client: Any, vm: LabVM) -> str:
    return str(client.get(f"vms/{vm.id}")["status"])


def wait(client: Any, vm: LabVM, wanted: str) -> None:
    client.until(lambda: status(client, vm) == wanted, f"{vm.name} {wanted}")


def test_from_down_to_up_and_back(engine: Engine, client: Any) -> None:
    vm = engine.add_vm("steps", [1 << 20])
    start, shut = (engine.faults.add(step, hold=True) for step in ("start", "shutdown"))
    assert client.post(f"vms/{vm.id}/start", correlation_id="mine")["status"] == "complete"
    assert status(client, vm) == "wait_for_launch"
    assert client.refused("POST", f"vms/{vm.id}/start", {}).status == 409
    start.release()
    wait(client, vm, "up")
    assert client.get(f"vms/{vm.id}")["host"]["id"] in engine.hosts
    client.post(f"vms/{vm.id}/shutdown")
    assert status(client, vm) == "powering_down"
    shut.release()
    wait(client, vm, "down")
    assert vm.power_causes() == ["on", "guest-shutdown"]
    assert client.codes("vm.name=steps") == ["34", "32", "73", "61"]
    job = client.many("jobs", "job", search="correlation_id=mine")
    assert [item["status"] for item in job] == ["finished"]


def test_a_guest_that_does_not_listen_is_stopped(engine: Engine, client: Any) -> None:
    vm = engine.add_vm("deaf", [1 << 20], running=True)
    vm.shutdown_seconds = None
    client.post(f"vms/{vm.id}/shutdown")
    assert client.refused("POST", f"vms/{vm.id}/shutdown", {}).status == 409
    client.post(f"vms/{vm.id}/stop")
    assert status(client, vm) == "down" and vm.power_causes() == ["on", "hard-off"]
    assert client.refused("POST", f"vms/{vm.id}/stop", {}).status == 409


def test_a_shutdown_that_fails_leaves_it_up(engine: Engine, client: Any) -> None:
    vm = engine.add_vm("stays", [1 << 20], running=True)
    engine.faults.add("shutdown", fail=True)
    client.post(f"vms/{vm.id}/shutdown")
    wait(client, vm, "up")
    assert vm.on and vm.power_causes() == ["on"]


def test_a_start_that_fails(engine: Engine, client: Any) -> None:
    vm = engine.add_vm("broken", [1 << 20])
    engine.faults.add("start", fail=True, detail="no memory")
    client.post(f"vms/{vm.id}/start")
    client.until(lambda: "119" in client.codes("vm.name=broken"), "event of the failure")
    assert not vm.on


def test_no_host_no_start(engine: Engine, client: Any) -> None:
    vm = engine.add_vm("hostless", [1 << 20])
    hosts = [host["id"] for host in client.many("hosts", "host")]
    running = engine.add_vm("blocks", [1 << 20], running=True)
    assert running.host is not None
    assert client.refused("POST", f"hosts/{running.host.id}/deactivate", {}).status == 409
    for other in engine.vms.values():
        engine.power.switch_off(other, "hard-off")
    try:
        for host in hosts:
            client.post(f"hosts/{host}/deactivate")
        assert {host["status"] for host in client.many("hosts", "host")} == {"maintenance"}
        assert client.refused("POST", f"vms/{vm.id}/start", {}).status == 409
    finally:
        for host in hosts:
            client.post(f"hosts/{host}/activate")


def test_a_vm_that_is_removed(engine: Engine, client: Any) -> None:
    vm = engine.add_vm("gone", [1 << 20])
    client.call("DELETE", f"vms/{vm.id}")
    assert client.refused("GET", f"vms/{vm.id}").status == 404
    assert client.refused("GET", f"disks/{vm.disks[0].id}").status == 404
    assert client.codes("vm.name=gone") == []
    assert client.many("events", "event", max=1)[0]["code"] == "113"


def test_a_real_guest(engine: Engine, client: Any) -> None:
    vm = engine.add_vm("alive", [8 << 20], guest=True, slots=256)
    client.post(f"vms/{vm.id}/start")
    wait(client, vm, "up")
    assert vm.guest is not None
    seen = vm.guest.wait_number(20, 60)
    client.post(f"vms/{vm.id}/shutdown")
    wait(client, vm, "down")
    assert vm.guest.last >= seen and vm.power_causes() == ["on", "guest-shutdown"]
