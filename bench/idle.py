"""What idle migrations cost the controllers on a Kubernetes API server.

    python bench/idle.py [--plans 200] [--vms 10] [--seconds 120] [--story N]

A genuine control plane (tests/cluster), the lab's vCenter with plans x vms machines of one disk, and the product's own command,
`tranship serve --kubeconfig`, in a process of its own. One machine really walks to its pause between two precopies. The
others get the Plan and Migration that such a walk leaves behind, with their own ids and names, straight into the API server:
what a controller finds that starts anew. Printed are how long the start takes until nothing moves any more, then the CPU
and memory of the controller's process while all pause and an inventory changes now and then, and, lest it sleep too well,
how soon a cancel of one of the machines is through. Ends with 1 when more than GOAL_CPU or GOAL_MEMORY is needed.
"""

import argparse
import asyncio
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tranship.cluster.kubeconfig import from_kubeconfig
from tranship.lab.vsphere import VCenter
from tranship.resources.crds import all_crds
from tranship.resources.meta import KINDS, MIGRATION, PLAN, PROVIDER
from tranship.store.base import Object, Store
from tranship.store.kubernetes import KubernetesStore
from tranship.units import format_time

GOAL_CPU = 0.10  # of one core
GOAL_MEMORY = 300_000_000  # bytes resident
MIB = 1 << 20
API = "forklift.konveyor.io/v1beta1"
BETWEEN = {"source": {"name": "source"}, "destination": {"name": "here"}}
TICK = 1.0  # seconds between two looks at the process's CPU time
CALM = 5  # such seconds in a row without much CPU: the start is over
PATIENCE = 300.0  # seconds for that
CHURN = 5.0  # seconds between two changes of the inventory


def main() -> int:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="tranship-idle-") as name:
        folder = Path(name)
        control = runpy.run_path(str(Path(__file__).parents[1] / "tests" / "cluster" / "control_plane.py"))
        plane = control["ControlPlane"](folder / "plane")
        plane.start()
        try:
            plane.serve(all_crds())
            with VCenter(folder / "lab") as lab:
                return asyncio.run(measure(folder, plane, lab, options))
        finally:
            plane.stop()


async def measure(folder: Path, plane: Any, lab: VCenter, options: argparse.Namespace) -> int:
    store = KubernetesStore(from_kubeconfig(plane.kubeconfig).client())
    try:
        first = lab.add_vm("first", [MIB], running=True, cbt=True)
        await apply(store, providers(lab, folder / "vms"))
        with controller(folder, plane.kubeconfig):
            plan, migration = await precopied(store, first)
        names = [lab.add_vm(f"vm-{n}", [MIB], running=True, cbt=True) for n in range(options.plans * options.vms)]
        began = time.monotonic()
        await fill(store, Template(plan, migration, first, options.story), names, options)
        print(f"{len(names)} VMs in {options.plans} plans written in {time.monotonic() - began:.1f} s")
        await store.patch(PROVIDER, "default", "source", {"status": {"conditions": []}}, subresource="status")
        with controller(folder, plane.kubeconfig) as process:
            return await watch(store, process, lab, names, options)
    finally:
        await store.close()


async def watch(store: Store, process: "Process", lab: VCenter, vms: list[Any], options: argparse.Namespace) -> int:
    began = time.monotonic()
    await until(store, PROVIDER, "source", lambda provider: "Ready" in conditions(provider), PATIENCE)
    loaded = time.monotonic() - began
    while process.log.count("VMs under way") < options.plans:  # noqa: ASYNC110 - another process's log
        await asyncio.sleep(TICK)
    calm_since = await calm(process)
    burst = calm_since - began
    print(
        f"start: {loaded:.0f} s for the inventory, {burst:.0f} s until nothing moves, {process.cpu:.1f} CPU seconds in all"
    )
    async with changing(lab, vms):
        spent, began, most = process.cpu, time.monotonic(), 0
        while time.monotonic() - began < options.seconds:
            await asyncio.sleep(TICK)
            most = max(most, process.memory)
        share = (process.cpu - spent) / (time.monotonic() - began)
    print(f"idle: {share:.2%} of one core, {most / 1e6:.0f} MB resident, over {options.seconds} s")
    began = time.monotonic()
    await store.patch(MIGRATION, "default", "run-0", {"spec": {"cancel": [{"id": vms[0].moref}]}})
    await until(store, MIGRATION, "run-0", lambda run: outcome(run, vms[0].moref) == "canceled")
    print(f"cancel of one VM: through in {time.monotonic() - began:.1f} s")
    missed = [text for text, good in goals(share, most) if not good]
    print("\n".join(f"MISSED: {text}" for text in missed) or "both goals are met")
    return 1 if missed else 0


def goals(share: float, memory: int) -> list[tuple[str, bool]]:
    return [
        (f"{share:.1%} of one core, {GOAL_CPU:.0%} are the goal", share < GOAL_CPU),
        (f"{memory / 1e6:.0f} MB resident, {GOAL_MEMORY / 1e6:.0f} are the goal", memory < GOAL_MEMORY),
    ]


async def calm(process: "Process") -> float:
    """Until the process is calm, or PATIENCE is over; the time when it became so."""
    quiet, since, spent = 0, time.monotonic(), process.cpu
    end = since + PATIENCE
    while quiet < CALM and time.monotonic() < end:
        await asyncio.sleep(TICK)
        now = process.cpu
        if now - spent > GOAL_CPU * TICK:
            quiet, since = 0, time.monotonic()
        else:
            quiet += 1
        spent = now
    return since


@asynccontextmanager
async def changing(lab: VCenter, vms: list[Any]) -> AsyncIterator[None]:
    """An inventory of this size never stands still."""

    async def change() -> None:
        for number in range(1 << 30):
            await asyncio.sleep(CHURN)
            lab.world.touch(vms[number * 7 % len(vms)])

    task = asyncio.create_task(change())
    try:
        yield
    finally:
        task.cancel()


# --- the controller's process ---------------------------------------------------------------------------------------


class Process:
    def __init__(self, pid: int, log: Path) -> None:
        self._proc, self._log = Path(f"/proc/{pid}"), log

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def cpu(self) -> float:
        """Seconds so far."""
        fields = (self._proc / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def memory(self) -> int:
        return self._kib("VmRSS") << 10

    def _kib(self, name: str) -> int:
        found = re.search(rf"{name}:\s+(\d+)", (self._proc / "status").read_text())
        assert found is not None
        return int(found[1])


@contextmanager
def controller(folder: Path, kubeconfig: Path) -> Iterator[Process]:
    argv = [sys.executable, "-m", "tranship", "serve", "--directory", str(folder / "home"), "--kubeconfig"]
    with (folder / "controller.log").open("wb") as log:
        process = subprocess.Popen([*argv, str(kubeconfig)], stdout=log, stderr=log)
    try:
        yield Process(process.pid, folder / "controller.log")
    except BaseException:
        print((folder / "controller.log").read_text()[-3000:], file=sys.stderr)
        raise
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


# --- what it works on ------------------------------------------------------------------------------------------------


def document(kind: str, name: str, **parts: Any) -> Object:
    version = "v1" if kind == "Secret" else API
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": "default"}, **parts}


def providers(lab: VCenter, vms: Path) -> list[Object]:
    def pair(source: str, destination: dict[str, str]) -> Object:
        return {"source": {"name": source}, "destination": destination}

    login = {"user": lab.user, "password": lab.password, "ca.crt": lab.ca_pem}
    settings = {"vddkDirectory": str(lab.vddk_directory)}
    source = {"type": "vsphere", "url": lab.url, "secret": {"name": "source"}, "settings": settings}
    here = {"type": "local", "secret": {}, "settings": {"directory": str(vms)}}
    return [
        document("Secret", "source", stringData=login),
        document("Provider", "source", spec=source),
        document("Provider", "here", spec=here),
        document("NetworkMap", "net", spec={"provider": BETWEEN, "map": [pair("VM Network", {"type": "pod"})]}),
        document(
            "StorageMap", "store", spec={"provider": BETWEEN, "map": [pair("datastore1", {"storageClass": "default"})]}
        ),
    ]


def plan_of(name: str, vms: list[Any]) -> Object:
    spec = {
        "provider": BETWEEN,
        "map": {"network": {"name": "net"}, "storage": {"name": "store"}},
        "targetNamespace": "moved",
        "type": "warm",
        "skipGuestConversion": True,
        "vms": [{"id": vm.moref} for vm in vms],
    }
    return document("Plan", name, spec=spec)


async def apply(store: Store, documents: list[Object]) -> None:
    for one in documents:
        await store.create(KINDS[one["kind"]], one)


async def precopied(store: Store, vm: Any) -> tuple[Object, Object]:
    """Plan and Migration of a machine after its first precopy."""
    await apply(store, [plan_of("first", [vm])])
    await until(store, PLAN, "first", lambda plan: "Ready" in conditions(plan))
    await apply(store, [document("Migration", "first", spec={"plan": {"name": "first"}})])
    migration = await until(store, MIGRATION, "first", lambda run: why(run).startswith("1 precopies done"))
    return await store.get(PLAN, "default", "first"), migration


def conditions(obj: Object) -> set[str]:
    return {one["type"] for one in obj.get("status", {}).get("conditions", []) if one["status"] == "True"}


def why(run: Object) -> str:
    return "".join(vm.get("why", "") for vm in run.get("status", {}).get("vms", []))


def outcome(run: Object, id: str) -> str:
    return next(
        (str(vm.get("outcome", "")) for vm in run["status"]["vms"] if vm["id"] == id and vm.get("completed")), ""
    )


async def until(store: Store, kind: Any, name: str, holds: Callable[[Object], bool], deadline: float = 120.0) -> Object:
    end = time.monotonic() + deadline
    while not holds(found := await store.get(kind, "default", name)):
        if time.monotonic() > end:
            raise SystemExit(f"{kind} {name} is not as it should be after {deadline:.0f} s: {json.dumps(found)[:2000]}")
        await asyncio.sleep(0.2)
    return found


class Template:
    """What the first machine's walk left behind, told of other machines. story: entries of each story, 0 = as it is."""

    def __init__(self, plan: Object, migration: Object, first: Any, story: int) -> None:
        (status,) = migration["status"]["vms"]
        if story:
            status["story"] = [status["story"][n % len(status["story"])] for n in range(story)]
        self._vm = json.dumps(status)
        self._first, self._plan, self._migration = first, plan, migration

    def vm(self, vm: Any, run: str, plan: str, ended: datetime) -> Object:
        text = self._vm.replace(self._migration["metadata"]["uid"][:8], run[:8])
        text = text.replace(self._plan["metadata"]["uid"], plan)
        text = re.sub(rf"\b{self._first.moref}\b", vm.moref, text).replace("first", vm.name)
        status: Object = json.loads(text)
        last = status["warm"]["precopies"][-1]
        last["end"] = format_time(ended)
        following = ended + timedelta(hours=1)
        status["warm"]["nextPrecopyAt"] = format_time(following)
        told = re.sub(r"the next at [\d:]+", f"the next at {following:%H:%M:%S}", status["why"])
        return json.loads(json.dumps(status).replace(status["why"], told))  # type: ignore[no-any-return]

    def statuses(self, vms: list[Object], plan: Object, run: Object) -> tuple[Object, Object]:
        """Of a plan and its migration."""
        own = {key: value for key, value in self._migration["status"].items() if key != "vms"}
        theirs = json.loads(json.dumps(self._plan["status"]))
        theirs["migration"]["vms"] = vms
        for entry in theirs["migration"]["history"]:
            entry["plan"] |= {"name": plan["metadata"]["name"], "uid": plan["metadata"]["uid"]}
            entry["migration"] |= {"name": run["metadata"]["name"], "uid": run["metadata"]["uid"]}
        return theirs, {**own, "vms": vms}


async def fill(store: Store, template: Template, vms: list[Any], options: argparse.Namespace) -> None:
    slots, now = asyncio.Semaphore(8), datetime.now(UTC)

    async def one(number: int) -> int:
        mine = vms[number * options.vms : (number + 1) * options.vms]
        async with slots:
            plan = await store.create(PLAN, plan_of(f"plan-{number}", mine))
            run = document("Migration", f"run-{number}", spec={"plan": {"name": f"plan-{number}"}})
            run["metadata"]["finalizers"] = ["tranship/migration"]
            run = await store.create(MIGRATION, run)
            uids = run["metadata"]["uid"], plan["metadata"]["uid"]
            told = [template.vm(vm, *uids, now + timedelta(minutes=n % 20)) for n, vm in enumerate(mine)]
            for_plan, for_run = template.statuses(told, plan, run)
            await store.patch(MIGRATION, "default", f"run-{number}", {"status": for_run}, subresource="status")
            await store.patch(PLAN, "default", f"plan-{number}", {"status": for_plan}, subresource="status")
            return len(json.dumps(for_run))

    sizes = await asyncio.gather(*(one(number) for number in range(options.plans)))
    print(f"a Migration of {options.vms} VMs has {max(sizes) / 1024:.0f} KiB")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plans", type=int, default=200)
    parser.add_argument("--vms", type=int, default=10, help="of each plan")
    parser.add_argument("--seconds", type=int, default=120, help="that are measured")
    parser.add_argument("--story", type=int, default=0, help="entries of each story; 0 = those of a first precopy")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
