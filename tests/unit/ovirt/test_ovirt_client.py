"""The client against a real HTTPS server: trust, tokens, faults, broken connections."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from tranship.errors import AuthFailed, Busy, Denied, Invalid, NotFound, Refused, TimedOut, Unreachable, Untrusted
from tranship.providers.ovirt.client import Client, Login, fetch_ca, timeout_of
from tranship.providers.ovirt.faults import subject
from tranship.providers.ovirt.values import boolean, integer, many, text

ABOUT = {"product_info": {"name": "oVirt Engine", "version": {"full_version": "4.5.6-1.el9", "major": "4"}}}


def fault(detail: str) -> dict[str, str]:
    return {"reason": "Operation Failed", "detail": f"[{detail}]"}


# -- calls ---------------------------------------------------------------------------------------------------------------


def test_a_list_is_unwrapped_and_nothing_is_an_empty_list(engine: Any, client: Client) -> None:
    engine.answers["GET", "/vms"] = (200, {"vm": [{"id": "1"}, {"id": "2"}]})
    engine.answers["GET", "/hosts"] = (200, {})
    assert [vm["id"] for vm in client.list("vms", "vm", max=2, follow="nics", all_content=True)] == ["1", "2"]
    assert client.list("hosts", "host") == []
    asked = engine.requests[1]
    assert asked.query == {"max": ["2"], "follow": ["nics"], "all_content": ["true"]}
    assert (asked.headers["version"], asked.headers["accept"]) == ("4", "application/json")


def test_bodies_are_json_and_an_action_without_facts_is_an_empty_object(engine: Any, client: Client) -> None:
    engine.answers["POST", "/vms/1/snapshots"] = (201, {"id": "s"})
    engine.answers["POST", "/vms/1/stop"] = (200, {"status": "complete"})
    engine.answers["PUT", "/disks/d"] = (200, {"id": "d"})
    engine.answers["DELETE", "/vms/1/snapshots/s"] = (200, "")
    assert client.post("vms/1/snapshots", {"description": "mine"}, correlation_id="c") == {"id": "s"}
    client.action("vms/1/stop")
    client.action("/ovirt-engine/api/vms/1/stop", force=True)
    client.put("disks/d", {"backup": "incremental"})
    assert client.delete("vms/1/snapshots/s", from_="7") == {}
    sent = [request for request in engine.requests if "/api" in request.path]
    assert [json.loads(request.body or b"null") for request in sent] == [
        {"description": "mine"},
        {},
        {"force": True},
        {"backup": "incremental"},
        None,
    ]
    assert sent[0].query == {"correlation_id": ["c"]}
    assert sent[0].headers["content-type"] == "application/json"
    assert sent[-1].query == {"from": ["7"]}


def test_pages_end_with_the_first_that_is_not_full(engine: Any, client: Client) -> None:
    names = [{"id": str(number)} for number in range(5)]

    def page(request: Any) -> Any:
        number = int(request.query["search"][0].removeprefix("sortby name page ")) - 1
        size = int(request.query["max"][0])
        found = names[number * size :][:size]
        return 200, {"vm": found} if found else {}

    engine.answers["GET", "/vms"] = page
    for size, pages in ((2, 3), (5, 2), (6, 1)):
        engine.requests.clear()
        assert [vm for page in client.pages("vms", "vm", size=size) for vm in page] == names
        assert len(engine.calls()) == pages


def test_version(engine: Any, client: Client) -> None:
    engine.answers["GET", ""] = (200, ABOUT)
    assert (client.version, client.version) == ((4, 5, 6), (4, 5, 6))
    assert engine.calls() == [""]


def test_version_in_numbers_only(engine: Any, client: Client) -> None:
    engine.answers["GET", ""] = (200, {"product_info": {"version": {"major": "4", "minor": "4", "build": "10"}}})
    assert client.version == (4, 4, 10)


# -- the session -----------------------------------------------------------------------------------------------------------


def test_a_wrong_password_is_told_with_what_the_engine_says_and_without_the_password(engine: Any) -> None:
    client = Client(engine.login(password="wrong-secret"), timeout=10)
    with pytest.raises(AuthFailed, match=r"'admin@internal': Cannot authenticate user") as caught:
        client.get("vms")
    assert "wrong-secret" not in str(caught.value) + repr(client.login)


def test_a_token_that_ended_is_renewed_once_and_the_call_repeated(engine: Any, client: Client) -> None:
    engine.answers["POST", "/vms/1/start"] = (200, {})
    client.action("vms/1/start")
    engine.tokens.clear()
    client.action("vms/1/start")
    assert engine.given == 2
    assert engine.calls("POST") == ["/vms/1/start"] * 3


def test_many_threads_renew_one_token(engine: Any, client: Client) -> None:
    engine.answers["GET", "/vms"] = (200, {})
    client.get("vms")
    engine.tokens.clear()
    threads = [threading.Thread(target=client.get, args=("vms",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert engine.given == 2


def test_a_user_who_is_refused_again_with_a_new_token_is_told(engine: Any, client: Client) -> None:
    engine.answers["GET", "/vms"] = (401, "")
    with pytest.raises(AuthFailed):
        client.get("vms")
    assert (engine.given, len(engine.calls())) == (2, 2)


def test_closing_revokes_the_token_and_the_next_call_logs_in_again(engine: Any, client: Client) -> None:
    engine.answers["GET", "/vms"] = (200, {})
    client.get("vms")
    client.close()
    assert not engine.tokens
    client.get("vms")
    assert len(engine.tokens) == 1


# -- faults ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "status, body, expected, words",
    [
        (400, fault("Cannot back up. Disk is raw."), Refused, "Operation Failed: Cannot back up. Disk is raw."),
        (400, {"fault": fault("wrapped")}, Refused, "Operation Failed: wrapped"),
        (403, fault("no permission"), Denied, "no permission"),
        (404, "", NotFound, "snapshot 's' was not found"),
        (409, fault("Cannot remove: VM is locked."), Busy, "Cannot remove: VM is locked."),
        (500, "<html>oops</html>", Busy, "HTTP 500"),
        (503, "", Unreachable, "HTTP 503"),
        (302, "", Unreachable, "HTTP 302"),
        (200, "<html>a portal</html>", Unreachable, "not JSON"),
    ],
)
def test_faults(engine: Any, client: Client, status: int, body: Any, expected: type[Exception], words: str) -> None:
    engine.answers["DELETE", "/vms/1/snapshots/s"] = (status, body)
    with pytest.raises(expected, match=words) as caught:
        client.delete("vms/1/snapshots/s")
    assert type(caught.value) is expected


def test_what_a_missing_path_was_about() -> None:
    assert subject("vms/1/snapshots/2") == ("snapshot", "2")
    assert subject("vms/1/start") == ("VM", "1")
    assert subject("storagedomains/7/disksnapshots") == ("storage domain", "7")
    assert subject("imagetransfers/9/finalize") == ("imagetransfer", "9")


def test_an_address_without_an_engine(engine: Any) -> None:
    client = Client(Login.of(engine.url.replace("/ovirt-engine", "/elsewhere"), {"cacert": engine.ca}), timeout=10)
    with pytest.raises(Unreachable, match="no token"):
        client.get("vms")


def test_a_broken_connection_is_repeated_for_reads_only(engine: Any, client: Client) -> None:
    answers = iter([None, (200, {"id": "1"}), None])
    engine.answers["GET", "/vms/1"] = lambda request: next(answers)
    assert client.get("vms/1") == {"id": "1"}
    engine.answers["POST", "/vms/1/start"] = lambda request: next(answers)
    with pytest.raises(Unreachable, match="POST vms/1/start"):
        client.action("vms/1/start")
    assert engine.calls() == ["/vms/1", "/vms/1", "/vms/1/start"]


def test_an_answer_that_does_not_come(engine: Any) -> None:
    client = Client(engine.login(), timeout=0.3)
    client.connect()
    done = threading.Event()

    def never(request: Any) -> None:
        done.wait(20)

    engine.answers["GET", "/vms"] = never
    with pytest.raises(TimedOut, match="GET vms"):
        client.get("vms")
    done.set()


def test_nobody_there(engine: Any) -> None:
    client = Client(Login.of("https://localhost:1/ovirt-engine/api", {"cacert": engine.ca}), timeout=2)
    with pytest.raises(Unreachable, match="localhost:1"):
        client.get("vms")


# -- trust -----------------------------------------------------------------------------------------------------------------


def test_a_certificate_that_nobody_vouches_for_is_refused_with_the_way_to_its_ca(engine: Any) -> None:
    client = Client(Login.of(engine.url, {"user": "u", "password": "p"}), timeout=10)
    with pytest.raises(Untrusted) as caught:
        client.get("vms")
    assert "/ovirt-engine/services/pki-resource?resource=ca-certificate" in caught.value.suggestion
    assert not engine.requests


def test_the_ca_can_be_fetched_shown_and_then_trusted(engine: Any) -> None:
    engine.answers["GET", "/vms"] = (200, {})
    shown = fetch_ca(engine.url)
    assert shown.subject == "CN=engine.test"
    assert shown.not_before < shown.not_after
    assert len(shown.sha256) == 95
    for secret in (
        {"cacert": shown.pem},
        {"ca.crt": shown.pem},
        {"thumbprint": shown.sha1},
        {"thumbprint": shown.sha256},
    ):
        client = Client(engine.login(**secret), timeout=10)
        client.get("vms")
        assert client.sha1 == shown.sha1
        client.close()


def test_a_pin_that_does_not_fit_is_refused_even_when_insecure_is_asked_for(engine: Any) -> None:
    client = Client(engine.login(thumbprint="00" * 20, insecureSkipVerify="true"), timeout=10)
    with pytest.raises(Untrusted, match="not the pinned one"):
        client.get("vms")


def test_insecure_has_to_be_asked_for(engine: Any) -> None:
    engine.answers["GET", "/vms"] = (200, {})
    client = Client(engine.login(insecureSkipVerify="true"), timeout=10)
    assert client.get("vms") == {}
    client.close()


def test_no_ca_where_none_is_offered(engine: Any) -> None:
    engine.ca = "not a certificate"
    with pytest.raises(Unreachable, match="no CA"):
        fetch_ca(engine.url)
    with pytest.raises(Unreachable):
        fetch_ca("https://localhost:1/ovirt-engine/api", timeout=2)


def test_a_ca_that_is_none(engine: Any, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"ca\.crt"):
        Client(engine.login(cacert="nothing"), timeout=10).get("vms")
    with pytest.raises(Invalid, match=r"spec\.url"):
        Login.of("http://engine/ovirt-engine/api", {})


# -- settings and values -----------------------------------------------------------------------------------------------


def test_the_time_limit_is_a_setting() -> None:
    assert timeout_of({"ovirtClientTimeout": "30m"}) == 1800
    assert timeout_of({}) > 0
    for wrong in ("soon", "0", "0s"):
        with pytest.raises(Invalid, match="ovirtClientTimeout"):
            timeout_of({"ovirtClientTimeout": wrong})


def test_values() -> None:
    vm = {
        "memory": "1024",
        "bios": {"boot_menu": {"enabled": "true"}},
        "nics": {"nic": [{"id": "n"}]},
        "stateless": True,
    }
    assert integer(vm, "memory") == 1024
    assert integer(vm, "cpu", "cores", default=1) == 1
    assert boolean(vm, "bios", "boot_menu", "enabled")
    assert boolean(vm, "stateless")
    assert text(vm, "bios") == ""
    assert many(vm, "nics") == [{"id": "n"}]
    assert many(vm, "disks") == []
