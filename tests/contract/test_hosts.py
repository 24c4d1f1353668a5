"""The conditions of Hosts, by the controllers at work on the lab's vCenter and its hosts."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tranship.app import App, running
from tranship.lab.vsphere import VCenter
from tranship.resources.conditions import Category, Condition, Conditions
from tranship.resources.host import Host
from tranship.resources.meta import HOST, PROVIDER, SECRET
from tranship.store.base import Object

API = "forklift.konveyor.io/v1beta1"
KEY = (HOST, "default", "esx")


@pytest.fixture(scope="module")
def center(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VCenter]:
    with VCenter(tmp_path_factory.mktemp("lab")) as made:
        yield made


def document(kind: str, name: str, **parts: Any) -> Object:
    version = "v1" if kind == "Secret" else API
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": "default"}, **parts}


class Desk:
    """An application with the vCenter as its provider, and one Host."""

    def __init__(self, app: App, center: VCenter) -> None:
        self.app, self.center, self.host = app, center, center.esxi()

    async def begin(self, spec: dict[str, Any] | None = None, **secret: str) -> None:
        center, store = self.center, self.app.store
        data = {"user": center.user, "password": center.password, "ca.crt": center.ca_pem}
        provider = {"type": "vsphere", "url": center.url, "secret": {"name": "center"}}
        await store.create(SECRET, document("Secret", "center", stringData=data))
        await store.create(PROVIDER, document("Provider", "center", spec=provider))
        own = {"user": self.host.user, "password": self.host.password, "thumbprint": self.host.thumbprint, **secret}
        own = {name: value for name, value in own.items() if value}
        await store.create(SECRET, document("Secret", "esx", stringData=own))
        full = {
            "provider": {"name": "center"},
            "id": self.host.moref,
            "ipAddress": self.host.address,
            "secret": {"name": "esx"},
            **(spec or {}),
        }
        await store.create(HOST, document("Host", "esx", spec=full))

    async def says(self, type: str, *words: str, seconds: float = 20.0) -> Condition:
        last: list[Condition] = []
        try:
            async with asyncio.timeout(seconds):
                async for event in self.app.store.watch(HOST):
                    host = Host.read(event.object)
                    last = host.status.conditions
                    found = Conditions(last).get(type)
                    if found and all(word in found.message for word in words):
                        return found
        except TimeoutError:
            raise AssertionError(f"no {type} {words}: {[(c.type, c.message) for c in last]}") from None
        raise AssertionError("the watch ended")

    async def not_ready(self) -> None:
        host = Host.read(await self.app.store.get(*KEY))
        assert not Conditions(host.status.conditions).ready


def at_desk(directory: Path, center: VCenter, do: Callable[[Desk], Awaitable[None]]) -> None:
    async def run() -> None:
        async with running(directory, poll=0.05) as app:
            await do(Desk(app, center))

    asyncio.run(run())
    assert not center.esxi().sessions.live, "a session is left on the host"


@pytest.mark.parametrize("way", ["thumbprint", "sha256", "ca", "insecure"])
def test_one_that_is_ready(center: VCenter, tmp_path: Path, way: str) -> None:
    host = center.esxi()
    trust = {
        "thumbprint": {},
        "sha256": {"thumbprint": host.identity.sha256},
        "ca": {"thumbprint": "", "ca.crt": host.ca_pem},
        "insecure": {"thumbprint": ""},
    }[way]
    before = host.faults.count("Login")

    async def do(desk: Desk) -> None:
        await desk.begin(**trust)
        if way == "insecure":
            failed = await desk.says("ConnectionTestFailed", "not trusted")
            assert "thumbprint" in failed.suggestion
            inherited = {"stringData": {"insecureSkipVerify": "true"}}
            await desk.app.store.patch(SECRET, "default", "center", inherited)
            await desk.says("ConnectionInsecure", "provider's secret")
        await desk.says("Ready")
        tested = await desk.says("ConnectionTestSucceeded", "VMware ESXi 8.0.3")
        assert tested.category == Category.REQUIRED.value
        assert (await desk.says("Validated")).category == Category.ADVISORY.value

    at_desk(tmp_path, center, do)
    assert host.faults.count("Login") > before


def test_by_name(center: VCenter, tmp_path: Path) -> None:
    async def do(desk: Desk) -> None:
        await desk.begin({"id": "", "name": desk.host.name})
        await desk.says("Ready")

    at_desk(tmp_path, center, do)


@pytest.mark.parametrize(
    ("spec", "type", "words"),
    [
        ({"id": "host-99"}, "RefNotValid", ["host-99"]),
        ({"id": ""}, "RefNotValid", ["neither id nor name"]),
        ({"provider": {"name": "nobody"}}, "RefNotValid", ["nobody"]),
        ({"provider": {}}, "RefNotValid", ["spec.provider", "missing"]),
        ({"ipAddress": ""}, "IpNotValid", ["spec.ipAddress", "missing"]),
        ({"ipAddress": "https://esx1/"}, "IpNotValid", ["https://esx1/"]),
        ({"ipAddress": "192.0.2.1:99999"}, "IpNotValid", ["99999"]),
        ({"secret": {}}, "SecretNotValid", ["spec.secret"]),
        ({"secret": {"name": "nothing"}}, "SecretNotValid", ["nothing"]),
    ],
)
def test_what_is_wrong_is_said(
    center: VCenter, tmp_path: Path, spec: dict[str, Any], type: str, words: list[str]
) -> None:
    async def do(desk: Desk) -> None:
        await desk.begin(spec)
        found = await desk.says(type, *words)
        assert found.category == Category.CRITICAL.value and found.suggestion
        await desk.not_ready()

    at_desk(tmp_path, center, do)


@pytest.mark.parametrize(
    ("secret", "type", "words"),
    [
        ({"password": ""}, "SecretNotValid", ["password"]),
        ({"thumbprint": "AA:BB"}, "SecretNotValid", ["secret.thumbprint"]),
        ({"password": "wrong"}, "ConnectionTestFailed", ["refused user", "root"]),
        ({"thumbprint": "0" * 40}, "ConnectionTestFailed", ["not trusted"]),
    ],
)
def test_a_secret_that_does_not_fit(
    center: VCenter, tmp_path: Path, secret: dict[str, str], type: str, words: list[str]
) -> None:
    async def do(desk: Desk) -> None:
        await desk.begin(**secret)
        found = await desk.says(type, *words)
        assert found.category == Category.CRITICAL.value and found.suggestion
        assert desk.host.password not in found.message + found.suggestion
        await desk.app.store.patch(
            SECRET,
            "default",
            "esx",
            {"stringData": {"password": desk.host.password, "thumbprint": desk.host.thumbprint}},
        )
        await desk.says("Ready")

    at_desk(tmp_path, center, do)


def test_a_provider_of_another_type(center: VCenter, tmp_path: Path) -> None:
    async def do(desk: Desk) -> None:
        await desk.app.store.create(PROVIDER, document("Provider", "here", spec={"type": "local", "secret": {}}))
        await desk.begin({"provider": {"name": "here"}})
        found = await desk.says("TypeNotValid", "local")
        assert found.category == Category.CRITICAL.value and "vsphere" in found.suggestion

    at_desk(tmp_path, center, do)


def test_one_that_does_not_answer(center: VCenter, tmp_path: Path) -> None:
    async def do(desk: Desk) -> None:
        await desk.begin({"ipAddress": "localhost:1"})
        found = await desk.says("ConnectionTestFailed", "localhost:1 does not answer")
        assert found.reason == "Unreachable" and "delete Host default/esx" in found.suggestion
        await desk.app.store.patch(*KEY, {"spec": {"ipAddress": desk.host.address}})
        await desk.says("Ready")

    at_desk(tmp_path, center, do)


@pytest.mark.parametrize(
    ("property", "value", "type", "category"),
    [
        ("runtime", {"inMaintenanceMode": True}, "InMaintenance", Category.CRITICAL),
        ("overallStatus", "red", "NotHealthy", Category.CRITICAL),
        ("overallStatus", "yellow", "HostStatusNotGreen", Category.WARN),
    ],
)
def test_the_state_of_the_host(
    center: VCenter, tmp_path: Path, property: str, value: Any, type: str, category: Category
) -> None:
    """Told as it changes, and taken back."""
    item = center.estate.hosts[0]
    before = item.properties[property]

    def change() -> Any:
        made = before()
        for name, new in value.items():
            setattr(made, name, new)
        return made

    def put(what: Any) -> None:
        with center.world.lock:
            item.properties[property] = what
            center.world.touch(item)

    async def do(desk: Desk) -> None:
        await desk.begin()
        await desk.says("Ready")
        put(change if isinstance(value, dict) else value)
        found = await desk.says(type, desk.host.name)
        assert found.category == category.value
        host = Host.read(await desk.app.store.get(*KEY))
        assert Conditions(host.status.conditions).ready == (category is Category.WARN)
        put(before)
        async with asyncio.timeout(20):
            async for event in desk.app.store.watch(HOST):
                if not Conditions(Host.read(event.object).status.conditions).has(type):
                    break
        await desk.says("Ready")

    try:
        at_desk(tmp_path, center, do)
    finally:
        put(before)


def test_fields_without_effect_are_named(center: VCenter, tmp_path: Path) -> None:
    async def do(desk: Desk) -> None:
        await desk.begin({"type": "esxi", "color": "blue"})
        found = await desk.says("FieldsNotActedOn", "spec.type", "spec.color")
        assert found.category == Category.ADVISORY.value
        await desk.says("Ready")

    at_desk(tmp_path, center, do)


def test_hosts_are_not_logged_into_at_every_change(center: VCenter, tmp_path: Path) -> None:
    """They count failed logins, and the inventory changes all the time."""

    async def do(desk: Desk) -> None:
        await desk.begin(password="wrong")
        await desk.says("ConnectionTestFailed")
        logins = desk.host.faults.count("Login")
        estate = next(iter(desk.app.providers._connections.values())).estate
        for number in range(3):
            center.add_vm(f"more-{number}", [1 << 20])
        assert estate is not None
        async with asyncio.timeout(10):
            while len(next(iter(desk.app.providers._connections.values())).estate.vms) < len(estate.vms) + 3:  # type: ignore[union-attr]
                await asyncio.sleep(0.05)
        assert desk.host.faults.count("Login") == logins

    at_desk(tmp_path, center, do)
