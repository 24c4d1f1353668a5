"""Memory, SQLite and a genuine API server keep the contract of stores."""

import asyncio
import itertools
import runpy
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tranship.cluster.kubeconfig import from_kubeconfig
from tranship.resources.crds import all_crds
from tranship.resources.meta import HOOK
from tranship.store.kubernetes import KubernetesStore
from tranship.store.memory import MemoryStore
from tranship.store.sqlite import SqliteStore
from tranship.store.table import Keep
from tranship.testing.store_suite import CHECKS, Bench

Check = Callable[[Bench], Awaitable[None]]
KEEP = Keep(changes=1000)
each_check = pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)


async def write_much(bench: Bench) -> None:
    """More than the log keeps."""
    await bench.create("much")
    numbers = range(KEEP.changes + KEEP.changes // 8 + 1)
    await asyncio.gather(*(bench.patch({"spec": {"deadline": number}}, "much") for number in numbers))


@each_check
def test_memory(check: Check) -> None:
    async def run() -> None:
        bench = Bench(MemoryStore(keep=KEEP), "default")
        bench.forget = lambda: write_much(bench)
        await check(bench)
        await bench.store.close()

    asyncio.run(run())


@each_check
def test_sqlite(check: Check, tmp_path: Path) -> None:
    async def run() -> None:
        path = tmp_path / "data" / "store.db"

        async def reopen() -> SqliteStore:
            await bench.store.close()
            return await SqliteStore.open(path, keep=KEEP)

        bench = Bench(await SqliteStore.open(path, keep=KEEP), "default", reopen=reopen)
        bench.forget = lambda: write_much(bench)
        await check(bench)
        await bench.store.close()
        # whatever the check did: the file tells the same as the store did
        reopened = await SqliteStore.open(path, keep=KEEP)
        assert (await reopened.list(HOOK)).items == (await bench.store.list(HOOK)).items
        await reopened.close()

    asyncio.run(run())


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A genuine control plane that serves our kinds."""
    path = Path(__file__).parents[1] / "cluster" / "control_plane.py"
    plane = runpy.run_path(str(path))["ControlPlane"](tmp_path_factory.mktemp("plane"))
    plane.start()
    try:
        plane.serve(all_crds())
        yield plane
    finally:
        plane.stop()


numbers = itertools.count()


@each_check
def test_cluster(check: Check, plane: Any) -> None:
    namespace = f"check-{next(numbers)}"
    plane.kubectl("create", "namespace", namespace)

    async def run() -> None:
        async def reopen() -> KubernetesStore:
            await bench.store.close()
            return KubernetesStore(from_kubeconfig(plane.kubeconfig).client())

        bench = Bench(KubernetesStore(from_kubeconfig(plane.kubeconfig).client()), namespace, reopen=reopen)
        await check(bench)
        await bench.store.close()

    asyncio.run(run())
