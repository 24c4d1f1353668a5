"""Sites for end-to-end tests: a lab (vCenter or oVirt Engine), an application on a directory of its own, manifests between."""

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from os import kill
from pathlib import Path
from typing import Any

import pytest
import structlog

from tranship.app import App, running
from tranship.lab.ovirt import Engine
from tranship.lab.vsphere import VCenter
from tranship.providers.ovirt.client import Client, Login
from tranship.resources.conditions import Condition
from tranship.resources.meta import KINDS, MIGRATION, PLAN, parse
from tranship.resources.migration import Migration
from tranship.resources.plan import Plan
from tranship.resources.vm import VMStatus
from tranship.store.base import Object

MIB = 1 << 20
API = "forklift.konveyor.io/v1beta1"
PAST = "2020-01-01T00:00:00Z"


structlog.configure(  # one line an event: what pytest shows of a failure stays readable
    processors=[
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S.%f"),
        structlog.processors.format_exc_info,
        structlog.processors.LogfmtRenderer(key_order=("timestamp", "level", "event")),
    ]
)


class Moments:
    """Does something when a walk passes a boundary: `at("after StartCopies", act)`, by default the first time."""

    def __init__(self) -> None:
        self._acts: dict[tuple[str, int], Callable[[], None]] = {}
        self.passed: Counter[str] = Counter()

    def at(self, where: str, act: Callable[[], None], nth: int = 1) -> None:
        self._acts[where, nth] = act

    def __call__(self, where: str) -> None:
        self.passed[where] += 1
        if act := self._acts.get((where, self.passed[where])):
            act()


class Site:
    """directory: of the application. vms: where machines end up, <vms>/<namespace>/<name>/. The source here is vSphere."""

    network, storages = "VM Network", ("datastore1", "datastore2")

    def __init__(self, lab: Any, directory: Path) -> None:
        self.lab, self.directory = lab, directory
        self.vms = directory / "vms" / "here"

    @asynccontextmanager
    async def app(self, **options: Any) -> AsyncIterator[App]:
        async with running(self.directory / "home", poll=0.05, **options) as app:
            yield app

    def id(self, vm: Any) -> str:
        """What the inventory calls it."""
        return str(vm.moref)

    def source(self, *, vddk: bool = False, settings: dict[str, str] | None = None, **secret: str) -> list[Object]:
        data = {"user": self.lab.user, "password": self.lab.password, "ca.crt": self.lab.ca_pem, **secret}
        settings = {"vddkDirectory": str(self.lab.vddk_directory)} if vddk else settings or {}
        return [
            document("Secret", "source", stringData=data),
            document(
                "Provider",
                "source",
                spec={"type": "vsphere", "url": self.lab.url, "secret": {"name": "source"}, "settings": settings},
            ),
        ]

    def hosts(self, *numbers: int) -> list[Object]:
        """Hosts of the vCenter that disks are to be read from directly."""
        made = []
        for host in map(self.lab.esxi, numbers):
            name = host.name.partition(".")[0]
            login = {"user": host.user, "password": host.password, "thumbprint": host.thumbprint}
            spec = {
                "provider": {"name": "source"},
                "id": host.moref,
                "ipAddress": host.address,
                "secret": {"name": name},
            }
            made += [document("Secret", name, stringData=login), document("Host", name, spec=spec)]
        return made

    def providers(self, **options: Any) -> list[Object]:
        """Of source and target, and the maps between them."""
        target = {"directory": str(self.vms), "shutdownDeadline": "2"}
        stores = [pair(name, {"storageClass": "default"}) for name in self.storages]
        return [
            *self.source(**options),
            document(
                "Provider",
                "here",
                spec={"type": "local", "secret": {}, "settings": target},
            ),
            document("NetworkMap", "net", spec={"provider": BETWEEN, "map": [pair(self.network, {"type": "pod"})]}),
            document("StorageMap", "store", spec={"provider": BETWEEN, "map": stores}),
        ]

    def plan(self, *vms: Any, warm: bool, **spec: Any) -> Object:
        body = {
            "provider": BETWEEN,
            "map": {"network": {"name": "net"}, "storage": {"name": "store"}},
            "targetNamespace": "moved",
            "type": "warm" if warm else "cold",
            "vms": [{"id": self.id(vm)} for vm in vms],
            "shutdown": {"deadline": "20s"},
            "precopy": {"interval": "1s"},
            **spec,
        }
        return document("Plan", "plan", spec=body)

    def assert_nothing_left(self, vm: Any) -> None:
        """On the source: no snapshot, nothing lent."""
        assert vm.snapshots == []
        self.assert_nothing_lent(vm)

    def assert_nothing_lent(self, vm: Any) -> None:
        assert vm.lease is None or not vm.lease.live
        assert self.lent(vm) == []
        assert not [one for host in self.lab.direct.values() for one in host.sessions.live]

    def lent(self, vm: Any) -> list[Any]:
        """The vCenter's sessions that movers of that VM have."""
        return [one for one in self.lab.sessions.live.values() if one.agent.startswith(f"tranship-mover/{vm.moref}-")]

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

    async def move(
        self,
        vm: Any,
        boundary: Callable[[str], None] = lambda where: None,
        *,
        warm: bool,
        cutover: str | None = PAST,
        during: Callable[[App], Any] | None = None,
        documents: list[Any] | None = None,
        deadline: float = 30.0,
        **spec: Any,
    ) -> Migration:
        """The migration of that VM, from the manifests to its end. during: what the user does meanwhile."""
        power = {"targetPowerState": "off"} | spec
        async with self.app(boundary=boundary) as app:
            await self.apply(app, *(documents or self.providers()), self.plan(vm, warm=warm, **power))
            await self.ready(app, 20)
            await self.start(app, **({"cutover": cutover} if cutover else {}))
            if during:
                await during(app)
            return await self.ended(app, deadline)

    @staticmethod
    def failed_for(status: VMStatus, phase: str, *words: str) -> None:
        assert status.error is not None
        assert status.error.phase == phase
        assert len(status.error.reasons) == 2, f"no remedy: {status.error.reasons}"
        for word in words:
            assert word in status.error.reasons[0], f"{word!r} is not in {status.error.reasons[0]!r}"
        condition = next(one for one in status.conditions if one.type == "Failed")
        assert condition.message == status.error.reasons[0]
        assert condition.suggestion == status.error.reasons[1]

    async def until(self, app: App, kind: Any, name: str, holds: Callable[[Any], Any], deadline: float) -> Any:
        """The object, as soon as it fits. What it looks like when it does not in time is in the failure."""
        last: Any = None
        try:
            async with asyncio.timeout(deadline):
                async for event in app.store.watch(kind):
                    meta = event.object["metadata"]  # a cluster's store holds other tests' objects too
                    if (meta.get("namespace"), meta.get("name")) == ("default", name):
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

    def target(self, vm: Any, disk: int = 0) -> bytes:
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

    def home(self, vm: Any) -> Path:
        """The moved machine's directory."""
        return self.vms / "moved" / vm.name

    def target_path(self, vm: Any, disk: int = 0) -> Path:
        return self.home(vm) / f"{vm.name}-disk-{disk}.raw"

    def add_vm(self, name: str, *sizes: int, seed: int = 1, **options: Any) -> Any:
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


class OvirtSite(Site):
    network, storages = "ovirtmgmt", ("data",)

    def id(self, vm: Any) -> str:
        return str(vm.id)

    RUN, RUN_KEY = (MIGRATION, "run"), (MIGRATION, "default", "run")

    def assert_nothing_left(self, vm: Any) -> None:
        assert (vm.snapshots, vm.backups, vm.checkpoints, vm.transfers) == ([], [], [], [])

    def source(self, *, settings: dict[str, str] | None = None, **secret: str) -> list[Object]:
        data = {"user": self.lab.user, "password": self.lab.password, "cacert": self.lab.ca_pem, **secret}
        spec = {"type": "ovirt", "url": self.lab.url, "secret": {"name": "source"}, "settings": settings or {}}
        return [document("Secret", "source", stringData=data), document("Provider", "source", spec=spec)]

    # what a user, or another tool, does at the Engine meanwhile

    def snapshot(self, vm: Any, description: str) -> None:
        path = f"vms/{vm.id}/snapshots"
        with self._engine() as engine:
            id = engine.post(path, {"description": description, "persist_memorystate": "false"})["id"]
            self._wait(lambda: engine.get(f"{path}/{id}").get("snapshot_status") == "ok")

    def backup(self, vm: Any) -> str:
        """Open when this returns."""
        path = f"vms/{vm.id}/backups"
        with self._engine() as engine:
            disks = {"disk": [{"id": disk.id} for disk in vm.disks]}
            id = str(engine.post(path, {"disks": disks})["id"])
            self._wait(lambda: engine.get(f"{path}/{id}").get("phase") == "ready")
            return id

    def end_backup(self, vm: Any, id: str) -> None:
        with self._engine() as engine:
            engine.action(f"vms/{vm.id}/backups/{id}/finalize")

    def invalidate(self, vm: Any) -> None:
        """As a reverted snapshot leaves them."""
        for checkpoint in vm.checkpoint_list:
            checkpoint.state = "invalid"

    def _engine(self) -> Any:
        secret = {"user": self.lab.user, "password": self.lab.password, "cacert": self.lab.ca_pem}
        return closing(Client(Login.of(self.lab.url, secret)))

    @staticmethod
    def _wait(holds: Callable[[], bool], seconds: float = 20.0) -> None:
        until = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < until, "the Engine does not come to an end"
            time.sleep(0.02)


BETWEEN = {"source": {"name": "source"}, "destination": {"name": "here"}}


def pair(source: str, destination: dict[str, str]) -> dict[str, Any]:
    return {"source": {"name": source}, "destination": destination}


def document(kind: str, name: str, **parts: Any) -> Object:
    version = "v1" if kind == "Secret" else API
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": "default"}, **parts}


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VCenter]:
    with VCenter(tmp_path_factory.mktemp("lab"), cbt_page=3, lease_timeout=10.0) as made:
        yield made


@pytest.fixture
def site(lab: VCenter, tmp_path: Path) -> Iterator[Site]:
    made = Site(lab, tmp_path)
    lab.faults.clear()
    yield made
    made.stop_machines()


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(tmp_path_factory.mktemp("engine")) as made:
        yield made


@pytest.fixture
def ovirt(engine: Engine, tmp_path: Path) -> Iterator[OvirtSite]:
    made = OvirtSite(engine, tmp_path)
    engine.faults.clear()
    yield made
    made.stop_machines()


@pytest.fixture
def moments() -> Moments:
    return Moments()


# The cluster's fixtures stand in a file of their own, which needs what is above.
from .in_cluster import center, cluster, cluster_engine, cluster_site, vddk_images  # noqa: E402, F401
