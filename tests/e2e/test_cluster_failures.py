"""What a genuine cluster does to a migration: either the run gets over it, or the VM fails, with a reason that names object,
cause and remedy, and the world is as before: the source runs again, and of ours nothing is left in the cluster.

What shows without a kubelet is in tests/contract/kubevirt/test_failures.py."""

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tranship.app import App
from tranship.lab.vsphere import VCenter
from tranship.providers.kubevirt import jobs
from tranship.providers.kubevirt.target import IMAGE
from tranship.resources.meta import MIGRATION, SECRET
from tranship.resources.migration import Migration
from tranship.resources.vm import VMStatus

from .conftest import MIB, Moments, pair
from .in_cluster import OURS, TAG, Cluster, ClusterSite, Object

SIZE = 8 * MIB
RUN = (MIGRATION, "run")
KINDS = "vm,pvc,job,pod,secret,configmap"


class Place(ClusterSite):
    """A namespace of the test's own."""

    def __init__(self, lab: VCenter, directory: Path, cluster: Cluster, namespace: str) -> None:
        super().__init__(lab, directory, cluster, "Filesystem")
        self.space = namespace
        cluster.kubectl("create", "namespace", namespace)
        cluster.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")

    def machine(self, *sizes: int) -> Any:
        """A VM that runs."""
        return self.add_vm(self.space, *(sizes or (SIZE,)), running=True)

    def into(self, storage_class: str) -> list[Object]:
        """The manifests, with this class in the storage map."""
        documents = self.providers()
        for one in documents:
            if one["kind"] == "StorageMap":
                stores = {name: {**self.store(name), "storageClass": storage_class} for name in self.storages}
                one["spec"]["map"] = [pair(name, store) for name, store in stores.items()]
        return documents

    def go(self, vm: Any, boundary: Callable[[str], None] = lambda where: None, **options: Any) -> Migration:
        options = {"warm": False, "deadline": 180.0, "targetNamespace": self.space, **options}
        return asyncio.run(self.move(vm, boundary, **options))

    def quota(self, **hard: str) -> None:
        spec = {"hard": {name.replace("_", "."): value for name, value in hard.items()}}
        meta = {"name": "tight", "namespace": self.space}
        quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": meta, "spec": spec}
        self.cluster.kubectl("create", "-f", "-", given=quota)
        used = "--for=jsonpath={.status.used}"
        self.cluster.kubectl("wait", "quota/tight", "-n", self.space, used, "--timeout=20s")

    def names(self, kinds: str) -> list[str]:
        return self.cluster.kubectl("get", kinds, "-n", self.space, "-l", OURS, "-o", "name").split()

    async def working(self) -> Object:
        """The pod that copies, as soon as a journal tells of it."""

        def look() -> bool:
            memories = self.cluster.objects("configmap", self.space)
            return any(json.loads((one.get("data") or {}).get("journal", "{}")).get("done") for one in memories)

        await self.eventually("journal", lambda: look() or None, 150.0)
        return self.cluster.objects("pod", self.space)[-1]

    def content_of(self, claim: Object, size: int) -> bytes:
        """What the claim's volume holds."""
        volume = json.loads(self.cluster.kubectl("get", "pv", claim["spec"]["volumeName"], "-o", "json"))
        return (Path(volume["spec"]["local"]["path"]) / "disk.img").read_bytes()[:size]

    def slow(self, vm: Any) -> None:
        """Until the faults are cleared."""
        self.lab.faults.add("GET /folder", vm=vm.name, nth=9, count=0, delay=2.0)

    def as_before(self, vm: Any, run: Migration, outcome: str = "failed", *, kept: int = 0) -> VMStatus:
        """kept: claims that the plan wants kept."""
        (status,) = run.status.vms
        assert status.outcome == outcome, status.error
        assert vm.on
        self.assert_nothing_left(vm)
        assert "LeftBehind" not in [one.type for one in status.conditions]
        until = time.monotonic() + 20.0
        while len(left := self.names(KINDS)) > kept:  # the cluster's collector comes a moment later
            assert time.monotonic() < until, left
        assert all(one.startswith("persistentvolumeclaim/") for one in left)
        return status


@pytest.fixture
def place(
    cluster: Cluster, center: VCenter, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Place:
    monkeypatch.setenv(IMAGE, TAG)
    center.faults.clear()
    name = request.node.name.removeprefix("test_").replace("[", "-").replace("]", "").replace("_", "-")
    return Place(center, tmp_path, cluster, name[:50].strip("-"))


@pytest.fixture
def storage_class(cluster: Cluster, place: Place) -> Iterator[Callable[..., str]]:
    """One without a volume in it."""
    name = f"class-of-{place.space}"

    def make(provisioner: str = "kubernetes.io/no-provisioner") -> str:
        late = {"provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer"}
        made = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name}, **late}
        cluster.kubectl("create", "-f", "-", given=made)
        return name

    yield make
    cluster.kubectl("delete", "storageclass", name, "--ignore-not-found")


# --- the cluster changes after the plan was checked -----------------------------------------------------------------------


def test_a_quota_appears_and_the_second_claim_is_too_much(place: Place, moments: Moments) -> None:
    vm = place.machine(SIZE, SIZE)
    moments.at("before CreateDisks", lambda: place.quota(requests_storage="16Mi"))
    status = place.as_before(vm, place.go(vm, moments))
    place.failed_for(status, "CreateDataVolumes", "exceeded quota: tight", "creating PersistentVolumeClaim")
    assert "Raise the namespace's ResourceQuota" in status.error.reasons[1]  # type: ignore[union-attr]


def test_the_storage_class_goes(place: Place, moments: Moments, storage_class: Callable[..., str]) -> None:
    name = storage_class()
    vm = place.machine()
    moments.at("before CreateDisks", lambda: place.cluster.kubectl("delete", "storageclass", name))
    status = place.as_before(vm, place.go(vm, moments, documents=place.into(name)))
    place.failed_for(status, "CreateDataVolumes", "StorageClass", name)


def test_the_namespace_goes(place: Place, moments: Moments) -> None:
    vm = place.machine()
    moments.at("before CreateDisks", lambda: place.cluster.kubectl("delete", "namespace", place.space))
    status = place.as_before(vm, place.go(vm, moments))
    place.failed_for(status, "CreateDataVolumes", "namespaces", place.space)


def test_the_name_is_taken_before_the_machine_is_made(place: Place, moments: Moments) -> None:
    vm = place.machine()

    def take() -> None:
        template = {"spec": {"domain": {"devices": {}}}}
        spec = {"runStrategy": "Halted", "template": template}
        meta = {"name": vm.name, "namespace": place.space}
        theirs = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": meta, "spec": spec}
        place.cluster.kubectl("create", "-f", "-", given=theirs)

    moments.at("before CreateMachine", take)
    status = place.as_before(vm, place.go(vm, moments))
    place.failed_for(status, "CreateVM", "VirtualMachine", vm.name, "was not made by tranship")
    assert [one["metadata"]["name"] for one in place.cluster.objects("vm", place.space)] == [vm.name]


# --- movers that cannot start ---------------------------------------------------------------------------------------------


def cannot_start(place: Place, vm: Any, monkeypatch: pytest.MonkeyPatch, *words: str, **options: Any) -> VMStatus:
    monkeypatch.setattr(jobs, "START_DEADLINE", 4.0)
    status = place.as_before(vm, place.go(vm, **options))
    place.failed_for(status, "CopyDisks", "MoverNotStarted", f"job {place.space}/", *words)
    assert f"kubectl describe job,pod,pvc -n {place.space}" in status.error.reasons[1]  # type: ignore[union-attr]
    return status


@pytest.mark.parametrize(
    ("provisioner", "words"),
    [
        ("kubernetes.io/no-provisioner", ["Unschedulable", "persistent volumes to bind"]),
        ("example.com/nobody", ["claim", "has no volume", "external provisioner 'example.com/nobody'"]),
    ],
    ids=["no-volume", "no-provisioner"],
)
def test_a_claim_is_never_bound(
    place: Place,
    storage_class: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    provisioner: str,
    words: list[str],
) -> None:
    name = storage_class(provisioner)
    vm = place.machine()
    cannot_start(place, vm, monkeypatch, *words, documents=place.into(name))


def test_the_image_cannot_be_pulled(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    image = "127.0.0.1:1/tranship:none"
    monkeypatch.setenv(IMAGE, image)
    status = cannot_start(place, place.machine(), monkeypatch, "Image", image)
    assert f"Put the image {image} where the cluster's nodes find it" in status.error.reasons[1]  # type: ignore[union-attr]


def test_a_quota_appears_that_lets_no_pod_in(place: Place, moments: Moments, monkeypatch: pytest.MonkeyPatch) -> None:
    moments.at("before StartCopies", lambda: place.quota(pods="0"))
    cannot_start(place, place.machine(), monkeypatch, "exceeded quota: tight", boundary=moments)


# --- movers that end ------------------------------------------------------------------------------------------------------


@pytest.fixture
def too_small(cluster: Cluster, place: Place, storage_class: Callable[..., str], tmp_path: Path) -> Iterator[str]:
    """A class with a volume that has less room than it promises."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], check=True, timeout=10)
    name = storage_class()
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": ["node"]}
    spec = {
        "capacity": {"storage": "64Mi"},
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": name,
        "local": {"path": str(folder)},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
    }
    meta = {"name": f"small-of-{place.space}"}
    volume = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": meta, "spec": spec}
    cluster.kubectl("create", "-f", "-", given=volume)
    yield name
    cluster.kubectl("delete", "pv", meta["name"], "--wait=false")
    subprocess.run(["umount", "-l", str(folder)], check=True, timeout=10)


def test_the_volume_is_full(place: Place, too_small: str) -> None:
    vm = place.machine()
    status = place.as_before(vm, place.go(vm, documents=place.into(too_small)))
    place.failed_for(status, "CopyDisks", "NoSpace", f"claim {place.space}/", "bytes free")
    assert "controller_filesystem_overhead" in status.error.reasons[1]  # type: ignore[union-attr]


def kill(pod: Object) -> None:
    """The container's first process, as the kernel does when memory runs out: exit code 137."""
    container = pod["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
    inside = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and container in (entry / "cgroup").read_text():
                inside.append(int(entry.name))
    assert inside, f"no process of container {container}"
    os.kill(min(inside), signal.SIGKILL)


def test_a_mover_that_the_kernel_kills_is_started_again(place: Place) -> None:
    size = 64 * MIB
    vm = place.machine(size)
    place.slow(vm)
    ends: list[Object] = []

    async def during(_: Any) -> None:
        pod = await place.working()
        kill(pod)
        name = pod["metadata"]["name"]

        def ended() -> Object | None:
            (found,) = [one for one in place.cluster.objects("pod", place.space) if one["metadata"]["name"] == name]
            state: Object = found["status"]["containerStatuses"][0]["state"]
            return state.get("terminated")

        ends.append(await place.eventually("end of the pod", ended))
        place.lab.faults.clear()

    run = place.go(vm, during=during)
    (status,) = run.status.vms
    assert status.outcome == "succeeded", status.error
    assert [end["exitCode"] for end in ends] == [137]
    (claim,) = place.cluster.objects("pvc", place.space)
    assert place.content_of(claim, size) == place.content(vm, 0, size)


# --- the cluster lets nobody in for a while -------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["token", "rights"])
def test_what_opens_the_cluster_is_renewed_under_way(place: Place, trouble: str) -> None:
    """The pods copy meanwhile; the VM waits with the reason, and goes on."""
    size = 96 * MIB
    vm = place.machine(size)
    place.slow(vm)
    kubectl, account = place.cluster.kubectl, f"brief-{trouble}"
    bind = ["create", "clusterrolebinding", account, "--clusterrole=cluster-admin"]
    bind.append(f"--serviceaccount=default:{account}")
    kubectl("create", "serviceaccount", account, "-n", "default")
    kubectl(*bind)
    documents = place.providers()

    def token() -> str:
        return kubectl("create", "token", account, "-n", "default").strip()

    secret = next(one for one in documents if (one["kind"], one["metadata"]["name"]) == ("Secret", "here"))
    secret["stringData"]["token"] = token()

    async def during(app: App) -> None:
        await place.working()
        if trouble == "token":  # tokens of an account that is gone are worth nothing
            kubectl("delete", "serviceaccount", account, "-n", "default")
            kubectl("create", "serviceaccount", account, "-n", "default")
        else:
            kubectl("delete", "clusterrolebinding", account)
        said = "refused user 'of the token'" if trouble == "token" else "not allowed: reading"
        await place.until(app, *RUN, lambda run: said in run.status.vms[0].why, 60)
        place.lab.faults.clear()
        if trouble == "token":
            await app.store.patch(SECRET, "default", "here", {"stringData": {"token": token()}})
        else:
            kubectl(*bind)

    run = place.go(vm, documents=documents, during=during)
    (status,) = run.status.vms
    assert status.outcome == "succeeded", status.error
    (claim,) = place.cluster.objects("pvc", place.space)
    assert place.content_of(claim, size) == place.content(vm, 0, size)


# --- cancel ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [False, True], ids=["removed", "kept"])
def test_cancelled_during_the_copy(place: Place, moments: Moments, kept: bool) -> None:
    """Jobs and pods are gone within ten seconds, all disks' at once; claims go if the plan says so."""
    vm = place.machine(64 * MIB, 64 * MIB)
    place.slow(vm)
    clock: list[float] = []
    left: list[str] = []

    def stopped() -> None:
        clock.append(time.monotonic())
        left.extend(place.names("job,pod"))

    moments.at("before StopCopies", lambda: clock.append(time.monotonic()))
    moments.at("after StopCopies", stopped)

    async def during(app: App) -> None:
        await place.working()
        await app.store.patch(MIGRATION, "default", "run", {"spec": {"cancel": [{"id": place.id(vm)}]}})

    run = place.go(vm, moments, during=during, deleteVmOnFailMigration=not kept)
    place.as_before(vm, run, "canceled", kept=2 if kept else 0)
    assert len(place.names("pvc")) == (2 if kept else 0)
    assert left == []
    assert clock[1] - clock[0] < 10.0
    print(f"stopped after {clock[1] - clock[0]:.1f} s")
