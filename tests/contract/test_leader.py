"""Who leads, on a genuine API server: one at a time, whatever becomes of it."""

import asyncio
import itertools
import runpy
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tranship.cluster.kubeconfig import from_kubeconfig
from tranship.controllers.leader import LEASES, Leader
from tranship.errors import Broken
from tranship.store.kubernetes import KubernetesStore

FAST = {"lease": 3.0, "renew": 2.0, "every": 0.2}
numbers = itertools.count()


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    path = Path(__file__).parents[1] / "cluster" / "control_plane.py"
    plane = runpy.run_path(str(path))["ControlPlane"](tmp_path_factory.mktemp("plane"))
    plane.start()
    yield plane
    plane.stop()


Story = Callable[[KubernetesStore, Callable[[str], Leader]], Awaitable[None]]


def play(plane: Any, story: Story) -> None:
    async def run() -> None:
        name = f"lease-{next(numbers)}"
        store = KubernetesStore(from_kubeconfig(plane.kubeconfig).client())
        await story(store, lambda who: Leader(store, "default", name, who, **FAST))
        await store.close()

    asyncio.run(run())


async def holds(leader: Leader, ready: asyncio.Event, end: asyncio.Event) -> None:
    async with leader.leading():
        leader.check()
        ready.set()
        await end.wait()


def test_one_leads_and_gives_it_on_when_it_ends(plane: Any) -> None:
    async def story(store: KubernetesStore, make: Callable[[str], Leader]) -> None:
        ready, end, second, never = (asyncio.Event() for _ in range(4))
        other = make("b")
        first = asyncio.create_task(holds(make("a"), ready, end))
        await asyncio.wait_for(ready.wait(), 10)
        waiting = asyncio.create_task(holds(other, second, never))
        with pytest.raises(TimeoutError):  # longer than a lease: it is renewed
            await asyncio.wait_for(second.wait(), 4)
        with pytest.raises(Broken, match="not leading"):
            other.check("power off")
        end.set()
        await first
        await asyncio.wait_for(second.wait(), 2)  # given back, not run out
        (lease,) = (await store.list(LEASES, "default", limit=0)).items[-1:]
        assert lease["spec"]["leaseTransitions"] == 1
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    play(plane, story)


def test_frozen_beyond_its_lease_it_does_nothing_more(plane: Any) -> None:
    """Stopped as by SIGSTOP: nothing of it runs, its clock goes on."""

    async def story(store: KubernetesStore, make: Callable[[str], Leader]) -> None:
        frozen, ready, end, taken = make("a"), asyncio.Event(), asyncio.Event(), asyncio.Event()
        first = asyncio.create_task(holds(frozen, ready, end))
        await asyncio.wait_for(ready.wait(), 10)

        def other_process() -> None:
            async def live() -> None:
                own = KubernetesStore(from_kubeconfig(plane.kubeconfig).client())
                name = frozen._name  # the same lease
                task = asyncio.create_task(holds(Leader(own, "default", name, "b", **FAST), taken, asyncio.Event()))
                await asyncio.wait_for(taken.wait(), 20)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await own.close()

            asyncio.run(live())

        with ThreadPoolExecutor(1) as threads:
            taking = threads.submit(other_process)
            until = time.monotonic() + 20
            while not taking.done() and time.monotonic() < until:
                time.sleep(0.05)  # this loop stands still: that is the point
            taking.result(0)
        with pytest.raises(Broken):
            frozen.check("power off")
        end.set()
        await asyncio.wait_for(first, 10)

    play(plane, story)


def test_without_the_api_server_it_steps_down(plane: Any) -> None:
    async def story(store: KubernetesStore, make: Callable[[str], Leader]) -> None:
        leader, ready, end = make("a"), asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(holds(leader, ready, end))
        await asyncio.wait_for(ready.wait(), 10)
        await asyncio.to_thread(plane.kill_api_server)
        try:
            await asyncio.wait_for(leader.lost.wait(), 10)
            with pytest.raises(Broken):
                leader.check()
        finally:
            await asyncio.to_thread(plane.start_api_server)
        end.set()
        await asyncio.wait_for(task, 10)

    play(plane, story)
