"""A plain HTTP client of the simulated Engine, with the certificate verified."""

import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from xml.etree import ElementTree as ET

import httpx2
import pytest

from tranship.lab.ovirt import Engine, LabVM

_Found = TypeVar("_Found")


class Refusal(Exception):
    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(f"{status} {body}")
        self.status = status
        fault = body.get("fault", body)
        self.detail = str(fault.get("detail", ""))


class Client:
    """JSON, and `xml` where a test wants the other form. `http` is the bare client without a token."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.context = ssl.create_default_context(cadata=engine.ca_pem)
        self.http = httpx2.Client(
            verify=self.context, base_url=engine.url.removesuffix("/api"), timeout=30, trust_env=False
        )
        self.token = self.login().json()["access_token"]

    def login(self, **changes: str) -> httpx2.Response:
        form = {"grant_type": "password", "scope": "ovirt-app-api", "username": self.engine.user}
        return self.http.post("/sso/oauth/token", data={**form, "password": self.engine.password, **changes})

    def send(self, method: str, path: str, body: Any = None, **query: Any) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {self.token}", "Accept": "application/json", "Version": "4"}
        words = {key.rstrip("_"): str(value) for key, value in query.items()}
        return self.http.request(method, f"/api/{path}".rstrip("/"), json=body, params=words, headers=headers)

    def call(self, method: str, path: str, body: Any = None, **query: Any) -> dict[str, Any]:
        answer = self.send(method, path, body, **query)
        if answer.status_code >= 300:
            raise Refusal(answer.status_code, answer.json())
        found = answer.json()
        assert isinstance(found, dict)
        return found

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        return self.call("GET", path, **query)

    def many(self, path: str, tag: str, **query: Any) -> list[dict[str, Any]]:
        return list(self.get(path, **query).get(tag, []))

    def post(self, path: str, body: Any = None, **query: Any) -> dict[str, Any]:
        return self.call("POST", path, body or {}, **query)

    def refused(self, method: str, path: str, body: Any = None, **query: Any) -> Refusal:
        with pytest.raises(Refusal) as caught:
            self.call(method, path, body, **query)
        return caught.value

    def xml(self, path: str, **query: Any) -> ET.Element:
        headers = {"Authorization": f"Bearer {self.token}", "Accept": "application/xml"}
        answer = self.http.get(f"/api/{path}", params=query, headers=headers)
        assert answer.headers["Content-Type"].startswith("application/xml")
        return ET.fromstring(answer.content)

    def codes(self, search: str = "") -> list[str]:
        """Of the events, oldest first."""
        return [event["code"] for event in reversed(self.many("events", "event", search=search))]

    # work and its end

    def until(self, look: Callable[[], _Found | None], what: str, seconds: float = 30) -> _Found:
        return until(look, what, seconds)

    def snapshot(self, vm: LabVM, description: str, **body: Any) -> str:
        asked = {"description": description, "persist_memorystate": "false", **body}
        id = str(self.post(f"vms/{vm.id}/snapshots", asked)["id"])
        path = f"vms/{vm.id}/snapshots/{id}"
        until(lambda: self.send("GET", path).json().get("snapshot_status") != "locked", f"snapshot {description}")
        return id

    def remove_snapshot(self, vm: LabVM, id: str) -> None:
        self.call("DELETE", f"vms/{vm.id}/snapshots/{id}")
        path = f"vms/{vm.id}/snapshots/{id}"
        until(lambda: self.send("GET", path).status_code == 404, f"the end of snapshot {id}")

    def backup(self, vm: LabVM, since: str = "", disks: Any = None, **query: Any) -> dict[str, Any]:
        """A backup in phase ready, or whatever it ended as."""
        body: dict[str, Any] = {"disks": {"disk": [{"id": disk.id} for disk in disks or vm.disks]}}
        made = self.post(f"vms/{vm.id}/backups", {**body, **({"from_checkpoint_id": since} if since else {})}, **query)
        path = f"vms/{vm.id}/backups/{made['id']}"
        return until(lambda: _past(self.get(path), "initializing", "starting"), f"backup {made['id']}")

    def finalize(self, vm: LabVM, backup: dict[str, Any]) -> str:
        path = f"vms/{vm.id}/backups/{backup['id']}"
        self.post(f"{path}/finalize")
        return str(until(lambda: _past(self.get(path), "finalizing"), f"the end of {path}")["phase"])

    def transfer(self, body: dict[str, Any]) -> dict[str, Any]:
        made = self.post("imagetransfers", {"direction": "download", "format": "raw", **body})
        path = f"imagetransfers/{made['id']}"
        return until(lambda: _past(self.get(path), "initializing"), path)

    def end(self, transfer: dict[str, Any]) -> str:
        path = f"imagetransfers/{transfer['id']}"
        self.post(f"{path}/finalize")
        return str(until(lambda: _past(self.get(path), "finalizing_success"), path)["phase"])

    def extents(self, transfer: dict[str, Any], context: str = "zero") -> list[dict[str, Any]]:
        answer = self.http.get(f"{transfer['transfer_url']}/extents", params={"context": context})
        answer.raise_for_status()
        return list(answer.json())

    def read(self, transfer: dict[str, Any]) -> bytes:
        answer = self.http.get(transfer["transfer_url"])
        answer.raise_for_status()
        return bytes(answer.content)

    def download(self, body: dict[str, Any]) -> bytes:
        transfer = self.transfer(body)
        try:
            return self.read(transfer)
        finally:
            assert self.end(transfer) == "finished_success"


def _past(resource: dict[str, Any], *phases: str) -> dict[str, Any] | None:
    return None if resource["phase"] in phases else resource


def until(look: Callable[[], _Found | None], what: str, seconds: float = 30) -> _Found:
    deadline = time.monotonic() + seconds
    beat = threading.Event()
    while time.monotonic() < deadline:
        if found := look():
            return found
        beat.wait(0.02)
    raise AssertionError(f"no {what} within {seconds} s")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(tmp_path_factory.mktemp("engine")) as engine:
        yield engine


@pytest.fixture
def engine(shared: Engine) -> Iterator[Engine]:
    """One for a whole module; scripts of faults end with the test."""
    yield shared
    shared.faults.clear()


@pytest.fixture
def client(engine: Engine) -> Iterator[Client]:
    client = Client(engine)
    yield client
    client.http.close()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Callable[..., tuple[Engine, Client]]]:
    """An Engine of other settings."""
    made: list[tuple[Engine, Client]] = []

    def make(**settings: Any) -> tuple[Engine, Client]:
        engine = Engine(tmp_path / f"engine-{len(made)}", **settings).start()
        made.append((engine, Client(engine)))
        return made[-1]

    yield make
    for engine, client in made:
        client.http.close()
        engine.close()
