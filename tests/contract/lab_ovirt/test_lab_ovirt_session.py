"""Sign-on: the token and its end, the wrong password, basic authentication, the CA that is handed out."""

import base64
import socket
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tranship.lab.ovirt import Engine

from .conftest import Client


def test_a_token_is_given_for_the_password(client: Any) -> None:
    said = client.login().json()
    assert said["token_type"] == "bearer" and said["scope"] == "ovirt-app-api"
    assert int(said["exp"]) > time.time() * 1000
    assert client.get("")["product_info"]["version"]["major"] == "4"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"password": "wrong"}, "access_denied"),
        ({"username": "nobody@internal"}, "access_denied"),
        ({"grant_type": "code"}, "unsupported_grant_type"),
        ({"scope": "other"}, "invalid_scope"),
    ],
)
def test_what_is_wrong_is_400_and_not_401(client: Any, change: dict[str, str], code: str) -> None:
    answer = client.login(**change)
    assert answer.status_code == 400
    assert answer.json()["error_code"] == code and answer.json()["error"]


def test_nothing_is_shown_without_a_session(client: Any) -> None:
    client.token = "invented"
    assert client.send("GET", "vms").status_code == 401
    assert client.http.get("/api").status_code == 401


def test_basic_authentication(client: Any) -> None:
    def ask(password: str) -> int:
        told = base64.b64encode(f"{client.engine.user}:{password}".encode()).decode()
        return int(client.http.get("/api", headers={"Authorization": f"Basic {told}"}).status_code)

    assert (ask(client.engine.password), ask("wrong")) == (200, 401)


def test_a_token_that_is_not_used_expires(engine: Engine, client: Any) -> None:
    engine.session_timeout = 0.0
    try:
        assert client.send("GET", "vms").status_code == 401
    finally:
        engine.session_timeout = 1800.0
    assert client.send("GET", "vms").status_code == 401, "it does not come back"
    client.token = client.login().json()["access_token"]
    assert client.send("GET", "vms").status_code == 200


def test_logout_ends_the_token(client: Any) -> None:
    assert client.http.post("/services/sso-logout", data={"token": client.token}).json() == {}
    assert client.send("GET", "vms").status_code == 401


def test_the_ca_is_for_everybody(client: Any) -> None:
    query = {"resource": "ca-certificate", "format": "X509-PEM-CA"}
    assert client.http.get("/services/pki-resource", params=query).text == client.engine.ca_pem


def test_called_by_another_address(tmp_path: Path) -> None:
    """Engine and daemon listen there and nowhere else, and their certificate says so."""
    with Engine(tmp_path, host="127.0.0.2") as engine:
        vm = engine.add_vm("elsewhere", [b"x" * 4096])
        client = Client(engine)
        transfer = client.transfer({"direction": "download", "format": "raw", "disk": {"id": vm.disks[0].id}})
        assert urlsplit(engine.url).hostname == urlsplit(transfer["transfer_url"]).hostname == "127.0.0.2"
        assert client.read(transfer) == b"x" * 4096
        for port in (engine.port, urlsplit(transfer["transfer_url"]).port):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), 5)
        assert client.end(transfer) == "finished_success"
