"""Image transfers of disks, in front of the genuine daemon: phases, locks, tickets, clients that are idle."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from tranship.lab.ovirt import Engine, LabVM

MIB = 1 << 20
CONTENT = random.Random(3).randbytes(MIB) + bytes(MIB)
Own = Callable[..., tuple[Engine, Any]]


def of(vm: LabVM, **more: Any) -> dict[str, Any]:
    return {"direction": "download", "format": "raw", "disk": {"id": vm.disks[0].id}, **more}


def phase(client: Any, transfer: dict[str, Any]) -> str:
    return str(client.get(f"imagetransfers/{transfer['id']}")["phase"])


def over(client: Any, transfer: dict[str, Any]) -> str:
    path = f"imagetransfers/{transfer['id']}"
    client.until(lambda: client.get(path)["phase"].startswith("finished_failure"), "the end")
    return str(client.get(path)["phase"])


@pytest.mark.parametrize("format", ["cow", "raw"])
def test_a_disk_from_beginning_to_end(engine: Engine, client: Any, format: str) -> None:
    vm = engine.add_vm(f"whole-{format}", [CONTENT], format=format)
    transfer = client.transfer(of(vm))
    assert transfer["phase"] == "transferring" and transfer["transfer_url"] == transfer["proxy_url"]
    assert client.get(f"hosts/{transfer['host']['id']}")["status"] == "up"
    assert vm.transfers == [transfer["id"]]
    assert client.get(f"disks/{vm.disks[0].id}")["status"] == "locked"
    assert client.refused("POST", f"vms/{vm.id}/start", {}).status == 409
    assert client.refused("POST", "imagetransfers", of(vm)).status == 409
    assert client.read(transfer) == CONTENT
    zero = [(e["start"], e["length"]) for e in client.extents(transfer) if e["zero"]]
    assert zero == [(MIB, MIB)]
    assert client.refused("GET", f"imagetransfers/{vm.id}").status == 404
    client.until(lambda: client.get(f"imagetransfers/{transfer['id']}")["transferred"] == str(2 * MIB), "the count")
    assert client.end(transfer) == "finished_success"
    assert vm.transfers == [] and client.get(f"disks/{vm.disks[0].id}")["status"] == "ok"
    assert client.http.get(transfer["transfer_url"]).status_code == 403
    assert client.codes("vm.name=whole-" + format) == ["34", "1031", "1032"]


def test_what_is_refused(engine: Engine, client: Any) -> None:
    running = engine.add_vm("running", [CONTENT], running=True)
    assert "not down" in client.refused("POST", "imagetransfers", of(running)).detail
    vm = engine.add_vm("refused", [CONTENT])
    assert client.refused("POST", "imagetransfers", of(vm, format="cow")).status == 400
    assert client.refused("POST", "imagetransfers", of(vm, direction="upload")).status == 400
    assert client.refused("POST", "imagetransfers", of(vm, disk={"id": "nope"})).status == 404
    vm.disks[0].illegal = True
    assert "ILLEGAL" in client.refused("POST", "imagetransfers", of(vm)).detail
    lun = engine.add_vm("lun", [])
    engine.add_disk(lun, MIB, storage_type="lun")
    assert "LUN" in client.refused("POST", "imagetransfers", of(lun)).detail


def test_cancelled_by_its_user(engine: Engine, client: Any) -> None:
    vm = engine.add_vm("cancelled", [CONTENT])
    held = engine.faults.add("close", hold=True)
    transfer = client.transfer(of(vm))
    client.post(f"imagetransfers/{transfer['id']}/cancel")
    assert held.reached.wait(10)
    assert phase(client, transfer) == "finalizing_cleanup"
    assert client.refused("POST", f"imagetransfers/{transfer['id']}/finalize", {}).status == 409
    held.release()
    over(client, transfer)
    assert client.get(f"disks/{vm.disks[0].id}")["status"] == "ok"


def test_cancelled_before_it_began(engine: Engine, client: Any) -> None:
    vm = engine.add_vm("early", [CONTENT])
    held = engine.faults.add("transfer", hold=True)
    made = client.post("imagetransfers", of(vm))
    assert made["phase"] == "initializing" and "transfer_url" not in made
    client.post(f"imagetransfers/{made['id']}/cancel")
    held.release()
    over(client, made)
    assert vm.transfers == []


def test_paused_by_the_system_and_resumed(engine: Engine, client: Any) -> None:
    vm = engine.add_vm("paused", [CONTENT])
    transfer = client.transfer(of(vm))
    assert client.refused("POST", f"imagetransfers/{transfer['id']}/pause", {}).status == 409
    engine.faults.add("poll", pause=True, vm="paused")
    client.until(lambda: phase(client, transfer) == "paused_system", "the pause")
    client.post(f"imagetransfers/{transfer['id']}/resume")
    assert phase(client, transfer) == "transferring"
    assert client.read(transfer) == CONTENT
    assert client.end(transfer) == "finished_success"


def test_a_ticket_that_is_gone_ends_it(engine: Engine, client: Any) -> None:
    vm = engine.add_vm("ticketless", [CONTENT])
    transfer = client.transfer(of(vm))
    engine.faults.add("poll", ticket=True, vm="ticketless")
    over(client, transfer)
    assert client.http.get(transfer["transfer_url"]).status_code == 403


@pytest.mark.parametrize(
    ("policy", "wanted"), [("cancel", "finished_failure"), ("pause", "paused_system"), ("legacy", "finished_failure")]
)
def test_an_idle_client(engine: Engine, client: Any, policy: str, wanted: str) -> None:
    vm = engine.add_vm(f"idle-{policy}", [CONTENT])
    transfer = client.transfer(of(vm, inactivity_timeout="1", timeout_policy=policy))
    assert transfer["inactivity_timeout"] == "1"
    client.post(f"imagetransfers/{transfer['id']}/extend")
    client.until(lambda: phase(client, transfer) == wanted, wanted)
    if policy == "pause":
        client.post(f"imagetransfers/{transfer['id']}/cancel")
        over(client, transfer)


def test_tickets_are_renewed(own: Own) -> None:
    engine, client = own()
    engine.ticket_timeout = 2
    vm = engine.add_vm("renewed", [CONTENT])
    transfer = client.transfer(of(vm))
    renewed = engine.transfer_service.renewed(transfer["id"])
    client.until(lambda: engine.transfer_service.renewed(transfer["id"]) > renewed + 2.5, "renewal")
    assert client.read(transfer) == CONTENT
    assert client.end(transfer) == "finished_success"


def test_no_host_no_transfer(engine: Engine, client: Any) -> None:
    vm = engine.add_vm("hostless", [CONTENT])
    first, second = engine.hosts.values()
    first.status = second.status = "maintenance"
    try:
        made = client.post("imagetransfers", of(vm))
        over(client, made)
    finally:
        first.status = second.status = "up"
    transfer = client.transfer(of(vm, host={"id": second.id}))
    assert transfer["host"]["id"] == second.id
    assert client.refused("POST", f"hosts/{second.id}/deactivate", {}).status == 409
    second.status = "non_responsive"
    over(client, transfer)
    second.status = "up"


def test_a_transfer_that_cannot_start(engine: Engine, client: Any) -> None:
    vm = engine.add_vm("stuck", [CONTENT])
    engine.faults.add("transfer", fail=True)
    over(client, client.post("imagetransfers", of(vm)))
    assert client.download(of(vm)) == CONTENT


def test_old_engines_forget_at_once(own: Own) -> None:
    engine, client = own(version="4.4.6")
    vm = engine.add_vm("old", [CONTENT])
    transfer = client.transfer(of(vm))
    client.post(f"imagetransfers/{transfer['id']}/finalize")
    client.until(lambda: client.send("GET", f"imagetransfers/{transfer['id']}").status_code == 404, "the end")
    assert client.get(f"disks/{vm.disks[0].id}")["status"] == "ok"


def test_one_that_was_read_through_ends_by_itself(own: Own) -> None:
    engine, client = own()
    engine.complete_timeout = 0.3
    vm = engine.add_vm("through", [CONTENT])
    transfer = client.transfer(of(vm))
    assert client.read(transfer) == CONTENT
    client.until(lambda: phase(client, transfer) == "finished_success", "the end")
    assert vm.transfers == [] and client.end(transfer) == "finished_success"
