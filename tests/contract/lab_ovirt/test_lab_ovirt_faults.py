"""Trouble by script: refusals, delays, lost answers, ended sessions."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from tranship.lab.ovirt import Engine


def test_the_second_call_is_refused(engine: Engine, client: Any) -> None:
    engine.faults.add("GET vms", nth=2, status=409, detail="Cannot do it. VM is locked.")
    statuses = [client.send("GET", "vms").status_code for _ in range(3)]
    assert statuses == [200, 409, 200]


def test_of_one_vm_only_and_for_good(engine: Engine, client: Any) -> None:
    one, two = engine.add_vm("one", [1 << 20]), engine.add_vm("two", [1 << 20])
    engine.faults.add("POST vms/start", vm="two", count=0, status=503)
    client.post(f"vms/{one.id}/start")
    assert [client.send("POST", f"vms/{two.id}/start", {}).status_code for _ in range(2)] == [503, 503]
    assert engine.faults.count("POST vms/start", "two") == 2


def test_an_action_that_fails_says_so_inside_itself(engine: Engine, client: Any) -> None:
    vm = engine.add_vm("off", [1 << 20])
    answer = client.send("POST", f"vms/{vm.id}/stop", {})
    assert answer.status_code == 409
    assert answer.json()["status"] == "failed" and "not running" in answer.json()["fault"]["detail"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_answer_is_lost(engine: Engine, client: Any, when: str) -> None:
    vm = engine.add_vm(f"lost-{when}", [1 << 20], running=True)
    engine.faults.add("POST vms/stop", vm=vm.name, drop=when)  # type: ignore[arg-type]
    with pytest.raises(httpx2.HTTPError):
        client.post(f"vms/{vm.id}/stop")
    assert vm.on == (when == "before")


def test_the_session_is_over_in_the_middle(engine: Engine, client: Any) -> None:
    engine.faults.add("GET hosts", expire=True)
    assert client.send("GET", "hosts").status_code == 401
    client.token = client.login().json()["access_token"]
    assert client.send("GET", "hosts").status_code == 200


def test_sign_on_that_fails(engine: Engine, client: Any) -> None:
    engine.faults.add("POST sso/oauth/token", status=500)
    assert client.login().status_code == 500
    assert client.login().status_code == 200


def test_connections_are_dropped_at_once(engine: Engine, client: Any) -> None:
    held = engine.faults.add("GET vms", hold=True)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.send, "GET", "vms")
        assert held.reached.wait(10)
        engine.drop_connections()
        with pytest.raises(httpx2.HTTPError):
            answer.result(10)
        held.release()
    assert client.send("GET", "vms").status_code == 200


def test_bodies_and_addresses_that_make_no_sense(client: Any) -> None:
    headers = {"Authorization": f"Bearer {client.token}", "Content-Type": "application/json"}
    assert client.http.post("/api/disks", content=b"{", headers=headers).status_code == 400
    assert client.send("GET", "nothing").status_code == 404
    assert client.send("DELETE", "clusters").status_code == 405
    assert client.http.get("/elsewhere").status_code == 404
