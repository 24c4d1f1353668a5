"""Into a genuine cluster: claims, Jobs that a kubelet runs from our image, and the VirtualMachine that is made in the end.
KubeVirt itself is not there; its kinds are, by their genuine schemas."""

import asyncio
import json
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tranship.lab.kubevirt.schemas import definitions
from tranship.lab.vsphere import VCenter
from tranship.providers.kubevirt.target import IMAGE
from tranship.resources.crds import all_crds

from .conftest import MIB, Site, document, pair

ROOT = Path(__file__).parents[2]
TAG = "docker.io/library/tranship:test"
NAMESPACE = "moved"
OURS = "app.kubernetes.io/managed-by=tranship"
Object = dict[str, Any]


@dataclass
class Cluster:
    plane: Any
    node: Any
    folder: Path
    volumes: list[Path] = field(default_factory=list)
    loops: list[str] = field(default_factory=list)

    def kubectl(self, *words: str, given: object = None) -> str:
        return str(self.plane.kubectl(*words, given=given))

    def objects(self, kind: str) -> list[Object]:
        return list(json.loads(self.kubectl("get", kind, "-n", NAMESPACE, "-o", "json"))["items"])

    def add_volume(self, mode: str, size: int) -> None:
        """A local one, empty, that no claim has bound yet."""
        place = self.folder / f"volume-{len(self.volumes)}"
        self.volumes.append(place)
        path = str(place)
        if mode == "Block":
            place.touch()
            os.truncate(place, size)
            path = self._loop(place)
        else:
            place.mkdir()
        spec = {
            "capacity": {"storage": str(size)},
            "accessModes": ["ReadWriteOnce"],
            "volumeMode": mode,
            "storageClassName": mode.lower(),
            "persistentVolumeReclaimPolicy": "Retain",
            "local": {"path": path},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [HERE]}]}},
        }
        volume = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": place.name}, "spec": spec}
        self.kubectl("create", "-f", "-", given=volume)

    def _loop(self, place: Path) -> str:
        device = subprocess.check_output(["losetup", "--find", "--show", str(place)], text=True, timeout=30).strip()
        self.loops.append(device)
        return device

    def content(self, claim: str, size: int) -> bytes:
        volume = json.loads(self.kubectl("get", "pvc", claim, "-n", NAMESPACE, "-o", "json"))["spec"]["volumeName"]
        place = self.folder / volume
        return ((place / "disk.img") if place.is_dir() else place).read_bytes()[:size]

    def close(self) -> None:
        self.node.stop()
        self.plane.stop()
        for device in self.loops:
            subprocess.run(["losetup", "--detach", device], timeout=30, check=False)


HERE = {"key": "kubernetes.io/hostname", "operator": "In", "values": ["node"]}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    plane = runpy.run_path(str(ROOT / "tests" / "cluster" / "control_plane.py"))["ControlPlane"](
        folder / "plane", for_pods=True
    )
    plane.start()
    node = runpy.run_path(str(ROOT / "tests" / "cluster" / "node.py"))["Node"](plane)
    made = Cluster(plane, node, folder)
    try:
        node.start()
        image = runpy.run_path(str(ROOT / "scripts" / "image"))
        image["archive"](folder / "image.tar", TAG, image["contents"](), ["tranship"])
        node.load_image(folder / "image.tar")
        plane.serve([*definitions(), *all_crds()])
        made.kubectl("create", "namespace", NAMESPACE)
        made.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
        made.kubectl("create", "serviceaccount", "tranship", "-n", "default")
        binding = ["clusterrolebinding", "tranship", "--clusterrole=cluster-admin", "--serviceaccount=default:tranship"]
        made.kubectl("create", *binding)
        for mode in ("block", "filesystem"):
            late = {"provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"}
            storage = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": mode}, **late}
            made.kubectl("create", "-f", "-", given=storage)
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def center(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VCenter]:
    """Where the cluster's pods reach it."""
    with VCenter(tmp_path_factory.mktemp("lab"), host=cluster.node.address, cbt_page=3, lease_timeout=60.0) as lab:
        yield lab


class ClusterSite(Site):
    def __init__(self, lab: Any, directory: Path, cluster: Cluster, mode: str) -> None:
        super().__init__(lab, directory)
        self.cluster, self.mode = cluster, mode

    def providers(self, **options: Any) -> list[Object]:
        token = self.cluster.kubectl("create", "token", "tranship", "-n", "default").strip()
        data = {"token": token, "ca.crt": self.cluster.plane.ca.read_text()}
        spec = {"type": "openshift", "url": self.cluster.plane.url, "secret": {"name": "here"}}
        store = {"storageClass": self.mode.lower(), "volumeMode": self.mode, "accessMode": "ReadWriteOnce"}
        documents = [one for one in super().providers(**options) if one["metadata"]["name"] != "here"]
        for one in documents:
            if one["kind"] == "StorageMap":
                one["spec"]["map"] = [pair(name, store) for name in self.storages]
        return [*documents, document("Secret", "here", stringData=data), document("Provider", "here", spec=spec)]


@pytest.fixture(params=["Filesystem", "Block"])
def cluster_site(
    cluster: Cluster, center: VCenter, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> ClusterSite:
    monkeypatch.setenv(IMAGE, TAG)
    center.faults.clear()
    return ClusterSite(center, tmp_path, cluster, request.param)


def assert_moved(site: ClusterSite, vm: Any, size: int) -> None:
    """Bytes are equal, and of ours only the machine and its claims are left."""
    cluster = site.cluster
    (machine,) = [one for one in cluster.objects("vm") if one["metadata"]["name"] == vm.name]
    volumes = machine["spec"]["template"]["spec"]["volumes"]
    claims = [one["persistentVolumeClaim"]["claimName"] for one in volumes]
    for number, claim in enumerate(claims):
        assert cluster.content(claim, size) == vm.disks[number].volume.read(0, size)
    words = ["get", "job,pod,secret,configmap", "-n", NAMESPACE, "-l", OURS, "-o", "name"]
    until = time.monotonic() + 20.0
    while left := cluster.kubectl(*words):  # the cluster's collector takes the pods of a Job a moment later
        assert time.monotonic() < until, left
    site.assert_nothing_left(vm)


def test_cold(cluster_site: ClusterSite) -> None:
    site, size = cluster_site, 24 * MIB
    vm = site.add_vm(f"cold-{site.mode.lower()}", size, size)
    for _ in range(2):
        site.cluster.add_volume(site.mode, 32 * MIB)
    migration = asyncio.run(site.move(vm, warm=False, deadline=120))
    (status,) = migration.status.vms
    assert status.outcome == "succeeded", status.error
    assert_moved(site, vm, size)


def test_warm_without_vddk(cluster_site: ClusterSite) -> None:
    site, size = cluster_site, 24 * MIB
    vm = site.add_vm(f"warm-{site.mode.lower()}", size, cbt=True, running=True)
    site.cluster.add_volume(site.mode, 32 * MIB)
    migration = asyncio.run(site.move(vm, warm=True, deadline=180))
    (status,) = migration.status.vms
    assert status.outcome == "succeeded", status.error
    assert_moved(site, vm, size)


def test_a_lost_pod_is_started_again_and_goes_on(cluster_site: ClusterSite) -> None:
    """Killed with its node's memory of it, while it copies: the next one reads only what no journal names."""
    site, size = cluster_site, 96 * MIB
    vm = site.add_vm(f"lost-{site.mode.lower()}", size)
    site.lab.faults.add("GET /folder", vm=vm.name, count=0, delay=0.4)
    site.cluster.add_volume(site.mode, 112 * MIB)

    def journal() -> Object:
        memory = [one for one in site.cluster.objects("configmap") if vm.name in one["metadata"]["name"]]
        return json.loads((memory[0].get("data") or {}).get("journal", "{}")) if memory else {}

    async def lose(_: Any) -> None:
        await site.eventually("journal", lambda: journal().get("done"))
        await asyncio.to_thread(
            site.cluster.kubectl,
            *("delete", "pod", "-n", NAMESPACE, "-l", OURS, "--force", "--grace-period=0"),
        )

    migration = asyncio.run(site.move(vm, warm=False, during=lose, deadline=150))
    (status,) = migration.status.vms
    assert status.outcome == "succeeded", status.error
    assert_moved(site, vm, size)


@contextmanager
def controllers(site: ClusterSite) -> Iterator["subprocess.Popen[bytes]"]:
    """`tranship serve` as a process of its own, on the cluster's objects."""
    log = site.directory / "serve.log"
    argv = [sys.executable, "-m", "tranship", "serve", "--kubeconfig", str(site.cluster.plane.kubeconfig)]
    with log.open("a") as told:
        process = subprocess.Popen([*argv, "--directory", str(site.directory / "home")], stderr=told, stdout=told)
        try:
            yield process
        except BaseException as error:
            error.add_note(log.read_text()[-5000:])
            raise
        finally:
            process.terminate()
            process.wait(30)


def test_on_the_clusters_own_objects_with_kubectl(cluster_site: ClusterSite) -> None:
    """Manifests by apply, the cutover by patch, the end by wait. The leader is killed on the way, and a second takes over."""
    site, size = cluster_site, 24 * MIB
    kubectl = site.cluster.kubectl
    vm = site.add_vm(f"kubectl-{site.mode.lower()}", size, cbt=True, running=True)
    site.cluster.add_volume(site.mode, 32 * MIB)
    space = f"plans-{site.mode.lower()}"
    kubectl("create", "namespace", space)
    plan = site.plan(vm, warm=True, targetPowerState="off")
    documents = [*site.providers(), plan, document("Migration", "run", spec={"plan": {"name": "plan"}})]
    for one in documents:
        one["metadata"]["namespace"] = space
    with controllers(site) as first:
        for one in documents[:-1]:
            kubectl("apply", "--validate=strict", "-f", "-", given=one)
        kubectl("wait", "plan/plan", "-n", space, "--for=condition=Ready", "--timeout=60s")
        kubectl("apply", "-f", "-", given=documents[-1])
        paused = "--for=jsonpath={.status.vms[0].phase}=CopyingPaused"
        kubectl("wait", "migration/run", "-n", space, paused, "--timeout=90s")
        first.kill()
    with controllers(site):
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        cutover = json.dumps({"spec": {"cutover": now}})
        kubectl("patch", "migration", "run", "-n", space, "--type=merge", "-p", cutover)
        kubectl("wait", "migration/run", "-n", space, "--for=condition=Succeeded", "--timeout=120s")
        assert_moved(site, vm, size)
