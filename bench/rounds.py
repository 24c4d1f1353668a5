"""What a round adds beyond its bytes when movers are Jobs of a cluster.

    python bench/rounds.py [--vms 4]

A genuine cluster of one node (tests/cluster), our image, volumes by KubeVirt's stand-in, and the lab's vCenter. The machines
are moved one after the other, warm and without VDDK: two rounds for each. Printed is, per round, the time from the Job's
creation to its removal, as a watch tells of them, and how much of that the mover spent on bytes and on reading them back, as
it says itself. The difference is the scheduler's, the kubelet's, Python's start and the controllers' looks. Ends with 1 when
the median difference is above GOAL.
"""

import argparse
import asyncio
import json
import os
import random
import runpy
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tranship.app import App, running
from tranship.cluster.api import CONFIG_MAP, JOB
from tranship.cluster.kubeconfig import from_kubeconfig
from tranship.lab.kubevirt import KubeVirt, StorageClass
from tranship.lab.kubevirt.schemas import definitions
from tranship.lab.vsphere import VCenter
from tranship.resources.meta import KINDS, MIGRATION, PLAN
from tranship.store.base import EventType, Object
from tranship.store.kubernetes import KubernetesStore

GOAL = 5.0  # seconds
MIB = 1 << 20
SIZE = 64 * MIB
ROOT = Path(__file__).parents[1]
TAG = "localhost/tranship:bench"
API = "forklift.konveyor.io/v1beta1"
BETWEEN = {"source": {"name": "source"}, "destination": {"name": "here"}}
PAST = "2020-01-01T00:00:00Z"


def main() -> int:
    parser = argparse.ArgumentParser(description="What a round adds beyond its bytes in a cluster.")
    parser.add_argument("--vms", type=int, default=4, help="Machines to be moved, two rounds each.")
    options = parser.parse_args()
    os.environ["TRANSHIP_IMAGE"] = TAG
    with tempfile.TemporaryDirectory(prefix="tranship-rounds-") as name, ExitStack() as stack:
        folder = Path(name)
        plane, node = cluster(folder, stack)
        lab = stack.enter_context(VCenter(folder / "lab", host=node.address))
        rounds = asyncio.run(measure(folder, plane, lab, options.vms))
    print(f"{'round':28} {'whole':>7} {'bytes':>7} {'beyond':>7}  (seconds)")
    for one in rounds:
        print(f"{one.name[:28]:28} {one.whole:7.2f} {one.bytes:7.2f} {one.beyond:7.2f}")
    beyond = statistics.median(one.beyond for one in rounds)
    print(f"a round adds {beyond:.1f} s beyond its bytes (median of {len(rounds)}); {GOAL:.0f} s are the goal")
    return 1 if beyond > GOAL else 0


def cluster(folder: Path, stack: ExitStack) -> tuple[Any, Any]:
    image = runpy.run_path(str(ROOT / "scripts" / "image"))
    control = runpy.run_path(str(ROOT / "tests" / "cluster" / "control_plane.py"))
    plane = control["ControlPlane"](folder / "plane", for_pods=True)
    stack.callback(plane.stop)
    plane.start()
    plane.serve(definitions())
    classes = (StorageClass("files", default=True),)
    stack.enter_context(KubeVirt(plane.kubeconfig, folder / "kubevirt", classes=classes))
    node = runpy.run_path(str(ROOT / "tests" / "cluster" / "node.py"))["Node"](plane)
    stack.callback(node.stop)
    node.start()
    image["archive"](folder / "image.tar", TAG, image["contents"](), ["tranship"])
    node.load_image(folder / "image.tar")
    plane.kubectl("create", "namespace", "moved")
    plane.kubectl("create", "serviceaccount", "tranship", "-n", "default")
    binding = ["clusterrolebinding", "tranship", "--clusterrole=cluster-admin", "--serviceaccount=default:tranship"]
    plane.kubectl("create", *binding)
    return plane, node


@dataclass
class Round:
    """Seconds. bytes: copying and reading back."""

    name: str
    made: float
    whole: float = 0.0
    bytes: float = 0.0

    @property
    def beyond(self) -> float:
        return self.whole - self.bytes


async def measure(folder: Path, plane: Any, lab: VCenter, vms: int) -> list[Round]:
    rounds: dict[str, Round] = {}
    store = KubernetesStore(from_kubeconfig(plane.kubeconfig).client())
    watches = [asyncio.create_task(one(store, rounds)) for one in (watch_jobs, watch_reports)]
    try:
        async with running(folder / "home") as app:
            for one in providers(plane, lab):
                await app.store.create(KINDS[one["kind"]], one)
            for number in range(vms):
                await move(app, lab, f"vm-{number}")
    finally:
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)
        await store.close()
    return list(rounds.values())


async def watch_jobs(store: KubernetesStore, rounds: dict[str, Round]) -> None:
    async for event in store.watch(JOB, "moved"):
        now, name = time.monotonic(), event.object["metadata"].get("name", "")
        if event.type is EventType.ADDED:
            rounds[name] = Round(name, now)
        elif event.type is EventType.DELETED:
            rounds[name].whole = now - rounds[name].made


async def watch_reports(store: KubernetesStore, rounds: dict[str, Round]) -> None:
    async for event in store.watch(CONFIG_MAP, "moved"):
        told = json.loads((event.object.get("data") or {}).get("rounds", "{}"))
        for number, memory in told.items():
            name = f"{event.object['metadata']['name']}-r{number}"
            if (report := memory.get("report")) and name in rounds:
                rounds[name].bytes = report.get("seconds", 0.0) + report.get("verify_seconds", 0.0)


async def move(app: App, lab: VCenter, name: str) -> None:
    chance = random.Random(name)
    content = b"".join(chance.randbytes(MIB) if n % 2 else bytes(MIB) for n in range(SIZE // MIB))
    vm = lab.add_vm(name, [content], running=True, cbt=True)
    plan = {
        "provider": BETWEEN,
        "map": {"network": {"name": "net"}, "storage": {"name": "store"}},
        "targetNamespace": "moved",
        "type": "warm",
        "vms": [{"id": vm.moref}],
        "targetPowerState": "off",
        "precopy": {"interval": "1s"},
    }
    await app.store.create(PLAN, document("Plan", name, plan))
    await until(app, PLAN, name, "Ready")
    await app.store.create(MIGRATION, document("Migration", name, {"plan": {"name": name}, "cutover": PAST}))
    await until(app, MIGRATION, name, "Succeeded")


async def until(app: App, kind: Any, name: str, condition: str) -> None:
    async with asyncio.timeout(180):
        async for event in app.store.watch(kind):
            conditions = event.object.get("status", {}).get("conditions") or ()
            if event.object["metadata"].get("name") == name and any(one["type"] == condition for one in conditions):
                return


def providers(plane: Any, lab: VCenter) -> list[Object]:
    token = plane.kubectl("create", "token", "tranship", "-n", "default").strip()
    source = {"user": lab.user, "password": lab.password, "ca.crt": lab.ca_pem}
    networks = [{"source": {"name": "VM Network"}, "destination": {"type": "pod"}}]
    storages = [{"source": {"name": "datastore1"}, "destination": {"storageClass": "files"}}]
    return [
        secret("source", source),
        secret("here", {"token": token, "ca.crt": plane.ca.read_text()}),
        document("Provider", "source", {"type": "vsphere", "url": lab.url, "secret": {"name": "source"}}),
        document("Provider", "here", {"type": "openshift", "url": plane.url, "secret": {"name": "here"}}),
        document("NetworkMap", "net", {"provider": BETWEEN, "map": networks}),
        document("StorageMap", "store", {"provider": BETWEEN, "map": storages}),
    ]


def secret(name: str, values: dict[str, str]) -> Object:
    meta = {"name": name, "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": values}


def document(kind: str, name: str, spec: Object) -> Object:
    return {"apiVersion": API, "kind": kind, "metadata": {"name": name, "namespace": "default"}, "spec": spec}


if __name__ == "__main__":
    sys.exit(main())
