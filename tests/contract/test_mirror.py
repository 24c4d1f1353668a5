"""The controllers' picture of the objects stays true, whatever becomes of the watches behind it."""

import asyncio
import base64
import runpy
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tranship.cluster.kubeconfig import from_kubeconfig
from tranship.controllers.manager import Manager, Watch, everything
from tranship.controllers.mirror import Key, Mirror, key_of
from tranship.resources.crds import all_crds
from tranship.resources.meta import HOOK, SECRET, Kind
from tranship.store.base import Object, Store
from tranship.store.kubernetes import KubernetesStore
from tranship.store.memory import MemoryStore
from tranship.store.sqlite import SqliteStore
from tranship.store.table import Keep
from tranship.testing.store_suite import Bench

KEEP = Keep(changes=100)


class Seeing:
    """A controller that notes which keys it is called for, and how the mirror has them."""

    name = "seeing"

    def __init__(self, mirror: Mirror, matters: Callable[[Object], Any] | None = None) -> None:
        self._mirror, self._matters = mirror, matters
        self.seen: list[tuple[str, bool]] = []
        self._news = asyncio.Event()

    @property
    def watches(self) -> Mapping[Kind, Watch]:
        def own(obj: Object) -> list[Key]:
            return [key_of(obj)]

        return {HOOK: Watch(own, self._matters) if self._matters else Watch(own)}

    async def reconcile(self, key: Key) -> float | None:
        self.seen.append((key.name, key in self._mirror.objects(HOOK)))
        self._news.set()
        return None

    async def sees(self, name: str, there: bool, seconds: float = 60.0) -> None:
        async with asyncio.timeout(seconds):
            while (name, there) not in self.seen:
                self._news.clear()
                await self._news.wait()
        self.seen.clear()


@asynccontextmanager
async def seeing(store: Store, matters: Callable[[Object], Any] | None = None) -> AsyncIterator[Seeing]:
    mirror = Mirror(store)
    controller = Seeing(mirror, matters)
    work = asyncio.create_task(Manager(mirror, [controller]).run())
    try:
        yield controller
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


async def follow(store: Store) -> None:
    """What every store must give."""
    bench = Bench(store, "default")
    await bench.create("before")
    async with seeing(store) as controller:
        await controller.sees("before", True)
        await bench.create("later")
        await controller.sees("later", True)
        await bench.patch({"spec": {"deadline": 7}}, "before")
        await controller.sees("before", True)
        await bench.patch({"status": {"observedGeneration": 2}}, "before", subresource="status")
        await bench.delete("later")
        await controller.sees("later", False)
        assert controller.seen == []  # the status alone woke nobody
    async with seeing(store, everything) as controller:
        await controller.sees("before", True)
        await bench.patch({"status": {"observedGeneration": 3}}, "before", subresource="status")
        await controller.sees("before", True)
    await bench.delete("before")


def test_memory() -> None:
    asyncio.run(follow(MemoryStore()))


def test_sqlite(tmp_path: Path) -> None:
    async def run() -> None:
        store = await SqliteStore.open(tmp_path / "store.db")
        await follow(store)
        await store.close()

    asyncio.run(run())


def test_deleted_while_the_watch_was_behind() -> None:
    """More is written than the store remembers: the watch is told to list again, and the list lacks one."""

    async def run() -> None:
        store = MemoryStore(keep=KEEP)
        bench = Bench(store, "default")
        await bench.create("kept")
        await bench.create("deleted")
        async with seeing(store) as controller:
            await controller.sees("deleted", True)
            await bench.delete("deleted")
            for number in range(2 * KEEP.changes):  # nothing here gives the watch a turn
                await bench.patch({"status": {"observedGeneration": number}}, "kept", subresource="status")
            controller.seen.clear()
            await controller.sees("deleted", False)
            await bench.create("deleted")
            await controller.sees("deleted", True)

    asyncio.run(run())


def test_made_anew_under_the_same_name_while_the_watch_was_behind() -> None:
    async def run() -> None:
        store = MemoryStore(keep=KEEP)
        bench = Bench(store, "default")
        await bench.create("kept")
        await bench.create("again")
        async with seeing(store) as controller:
            await controller.sees("again", True)
            await bench.delete("again")
            await bench.create("again")
            for number in range(2 * KEEP.changes):
                await bench.patch({"status": {"observedGeneration": number}}, "kept", subresource="status")
            controller.seen.clear()
            await controller.sees("again", True)

    asyncio.run(run())


def test_keeps_no_secret() -> None:
    async def run() -> None:
        store = MemoryStore()
        secret = {"metadata": {"namespace": "default", "name": "key"}, "stringData": {"password": "hunter2"}}
        await store.create(SECRET, {"apiVersion": "v1", "kind": "Secret", **secret})
        mirror = Mirror(store)
        mirror.follow(SECRET, lambda was, now: None)
        work = asyncio.create_task(mirror.run())
        await mirror.complete()
        (kept,) = mirror.objects(SECRET).values()
        assert not kept.keys() & {"data", "stringData"}
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)

    asyncio.run(run())


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    path = Path(__file__).parents[1] / "cluster" / "control_plane.py"
    plane = runpy.run_path(str(path))["ControlPlane"](tmp_path_factory.mktemp("plane"))
    plane.start()
    try:
        plane.serve(all_crds())
        yield plane
    finally:
        plane.stop()


def test_cluster(plane: Any) -> None:
    async def run() -> None:
        store = KubernetesStore(from_kubeconfig(plane.kubeconfig).client())
        await follow(store)
        await store.close()

    asyncio.run(run())


def test_the_api_server_goes_and_comes_back(plane: Any) -> None:
    """What is deleted while no watch is open is noticed all the same, and so is what comes afterwards."""

    async def run() -> None:
        store = KubernetesStore(from_kubeconfig(plane.kubeconfig).client())
        bench = Bench(store, "default")
        await bench.create("stays")
        await bench.create("goes")
        async with seeing(store) as controller:
            await controller.sees("goes", True)
            plane._processes.end(
                "kube-controller-manager", signal.SIGKILL
            )  # it may still start, and does not bear this
            await asyncio.to_thread(plane.kill_api_server)
            key = b"/registry/forklift.konveyor.io/hooks/default/goes"
            url = f"http://127.0.0.1:{plane.etcd_port}/v3/kv/deleterange"
            deleted = httpx2.post(url, json={"key": base64.b64encode(key).decode()}, timeout=10).json()
            assert deleted["deleted"] == "1"
            await asyncio.to_thread(plane.start_api_server)
            await controller.sees("goes", False)
            await bench.patch({"spec": {"deadline": 7}}, "stays")
            await controller.sees("stays", True)
        await bench.delete("stays")
        await store.close()

    asyncio.run(run())
