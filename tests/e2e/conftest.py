"""A site for end-to-end tests: the lab's vCenter, an application on a directory of its own, and manifests between them."""

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from os import kill
from pathlib import Path
from typing import Any

import pytest
import structlog

from tranship.app import App, running
from tranship.lab.vsphere import VCenter
from tranship.lab.vsphere.machine import LabVM
from tranship.resources.conditions import Condition
from tranship.resources.meta import KINDS, MIGRATION, PLAN, parse
from tranship.resources.migration import Migration
from tranship.resources.plan import Plan
from tranship.store.base import Object

MIB = 1 << 20
API = "forklift.konveyor.io/v1beta1"


structlog.configure(  # one line an event: what pytest shows of a failure stays readable
    processors=[
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S.%f"),
        structlog.processors.format_exc_info,
        structlog.processors.LogfmtRenderer(key_order=("timestamp", "level", "event")),
    ]
)


class Site:
    """directory: of the application. vms: where machines end up, <vms>/<namespace>/<name>/."""

    def __init__(self, lab: VCenter, directory: Path) -> None:
        self.lab, self.directory = lab, directory
        self.vms = directory / "vms" / "here"

    @asynccontextmanager
    async def app(self, **options: Any) -> AsyncIterator[App]:
        async with running(self.directory / "home", poll=0.05, **options) as app:
            yield app

    def providers(self, *, vddk: bool, **secret: str) -> list[Object]:
        data = {"user": self.lab.user, "password": self.lab.password, "ca.crt": self.lab.ca_pem, **secret}
        settings = {"vddkDirectory": str(self.lab.vddk_directory)} if vddk else {}
        return [
            document("Secret", "vcenter", stringData=data),
            document(
                "Provider",
                "vcenter",
                spec={"type": "vsphere", "url": self.lab.url, "secret": {"name": "vcenter"}, "settings": settings},
            ),
            document(
                "Provider",
                "here",
                spec={"type": "local", "secret": {}, "settings": {"directory": str(self.vms), "shutdownDeadline": "2"}},
            ),
            document("NetworkMap", "net", spec={"provider": BETWEEN, "map": [pair("VM Network", {"type": "pod"})]}),
            document(
                "StorageMap",
                "store",
                spec={
                    "provider": BETWEEN,
                    "map": [
                        pair("datastore1", {"storageClass": "default"}),
                        pair("datastore2", {"storageClass": "default"}),
                    ],
                },
            ),
        ]

    def plan(self, *vms: LabVM, warm: bool, **spec: Any) -> Object:
        body = {
            "provider": BETWEEN,
            "map": {"network": {"name": "net"}, "storage": {"name": "store"}},
            "targetNamespace": "moved",
            "type": "warm" if warm else "cold",
            "vms": [{"id": vm.moref} for vm in vms],
            "shutdown": {"deadline": "20s"},
            "precopy": {"interval": "1s"},
            **spec,
        }
        return document("Plan", "plan", spec=body)

    async def apply(self, app: App, *documents: Object) -> None:
        for one in documents:
            await app.store.create(KINDS[one["kind"]], one)

    async def ready(self, app: App, deadline: float = 60.0) -> Plan:
        return await self.until(
            app, PLAN, "plan", lambda plan: any(c.type == "Ready" for c in plan.status.conditions), deadline
        )

    async def start(self, app: App, **spec: Any) -> None:
        await app.store.create(MIGRATION, document("Migration", "run", spec={"plan": {"name": "plan"}, **spec}))

    async def ended(self, app: App, deadline: float = 120.0) -> Migration:
        return await self.until(app, MIGRATION, "run", lambda run: run.status.completed is not None, deadline)

    async def precopied(self, app: App, rounds: int, deadline: float = 60.0) -> Migration:
        """As soon as that many precopies of each VM have ended."""
        return await self.until(
            app,
            MIGRATION,
            "run",
            lambda run: (
                run.status.vms
                and all(vm.warm and len([p for p in vm.warm.precopies if p.end]) >= rounds for vm in run.status.vms)
            ),
            deadline,
        )

    async def cut_over(self, app: App) -> None:
        """Now, as `tranship cutover --now` asks for it."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        await app.store.patch(MIGRATION, "default", "run", {"spec": {"cutover": now}})

    async def until(self, app: App, kind: Any, name: str, holds: Callable[[Any], Any], deadline: float) -> Any:
        """The object, as soon as it fits. What it looks like when it does not in time is in the failure."""
        last: Any = None
        try:
            async with asyncio.timeout(deadline):
                async for event in app.store.watch(kind):
                    if event.object["metadata"].get("name") == name:
                        last = parse(event.object)
                        if holds(last):
                            return last
        except TimeoutError:
            tales = [f"{vm.name} {vm.phase}: {vm.why}" for vm in getattr(last.status, "vms", [])] if last else []
            conditions = [f"{c.type}: {c.message} {c.suggestion}" for c in last.status.conditions] if last else []
            raise AssertionError(f"{kind} {name} after {deadline} s: {tales} {conditions}") from None
        raise AssertionError("the watch ended")

    async def says(self, app: App, kind: Any, name: str, type: str, *words: str, deadline: float = 20.0) -> Condition:
        """The condition of that type, as soon as the object has it and its message or items hold all the words."""

        def fitting(one: Any) -> list[Condition]:
            conditions = [c for c in one.status.conditions if c.type == type]
            return [c for c in conditions if all(word in c.message or word in c.items for word in words)]

        return fitting(await self.until(app, kind, name, fitting, deadline))[0]

    def target(self, vm: LabVM, disk: int = 0) -> bytes:
        return self.target_path(vm, disk).read_bytes()

    @staticmethod
    async def eventually(what: str, look: Callable[[], Any], deadline: float = 60.0) -> Any:
        """What `look` finds, as soon as it finds anything: for files and processes that nobody announces."""
        until = time.monotonic() + deadline
        while not (found := look()):
            if time.monotonic() > until:
                raise AssertionError(f"no {what} within {deadline} s")
            await asyncio.sleep(0.005)
        return found

    def home(self, vm: LabVM) -> Path:
        """The moved machine's directory."""
        return self.vms / "moved" / vm.name

    def target_path(self, vm: LabVM, disk: int = 0) -> Path:
        return self.home(vm) / f"{vm.name}-disk-{disk}.raw"

    def add_vm(self, name: str, *sizes: int, seed: int = 1, **options: Any) -> LabVM:
        """Disks with random data in half of their MiBs, a VM without a real guest."""
        source = random.Random(seed)
        disks = [
            b"".join(source.randbytes(MIB) if n % 2 == 0 else bytes(MIB) for n in range(size // MIB)) for size in sizes
        ]
        return self.lab.add_vm(name, disks, **options)

    def stop_machines(self) -> None:
        for pid in self.vms.glob("*/*/qemu.pid"):
            try:
                kill(int(pid.read_text()), signal.SIGKILL)
            except (ProcessLookupError, ValueError):
                continue


BETWEEN = {"source": {"name": "vcenter"}, "destination": {"name": "here"}}


def pair(source: str, destination: dict[str, str]) -> dict[str, Any]:
    return {"source": {"name": source}, "destination": destination}


def document(kind: str, name: str, **parts: Any) -> Object:
    version = "v1" if kind == "Secret" else API
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": "default"}, **parts}


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VCenter]:
    with VCenter(tmp_path_factory.mktemp("lab"), cbt_page=3, lease_timeout=10.0) as center:
        yield center


@pytest.fixture
def site(lab: VCenter, tmp_path: Path) -> Iterator[Site]:
    made = Site(lab, tmp_path)
    lab.faults.clear()
    yield made
    made.stop_machines()
