"""Sites that move into a genuine cluster. conftest.py hands the fixtures on to the tests."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tranship.lab.kubevirt import StorageClass
from tranship.lab.ovirt import Engine
from tranship.lab.vsphere import VCenter
from tranship.providers.kubevirt.target import IMAGE

from .cluster import NAMESPACE, TAG, Cluster, Object, running
from .conftest import OvirtSite, Site, document, pair

OURS = "app.kubernetes.io/managed-by=tranship"
CLASSES = (StorageClass("block", volume_mode="Block"), StorageClass("filesystem"))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("cluster"), CLASSES) as made:
        made.kubectl("create", "serviceaccount", "tranship", "-n", "default")
        binding = ["clusterrolebinding", "tranship", "--clusterrole=cluster-admin", "--serviceaccount=default:tranship"]
        made.kubectl("create", *binding)
        yield made


@pytest.fixture(scope="session")
def center(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VCenter]:
    """Where the cluster's pods reach it."""
    with VCenter(tmp_path_factory.mktemp("lab"), host=cluster.node.address, cbt_page=3, lease_timeout=60.0) as lab:
        yield lab


@pytest.fixture(scope="session")
def cluster_engine(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """It and its hosts' daemon, where the cluster's pods reach them."""
    with Engine(tmp_path_factory.mktemp("engine"), host=cluster.node.address) as made:
        yield made


class ClusterSite(Site):
    def __init__(self, lab: Any, directory: Path, cluster: Cluster, mode: str) -> None:
        super().__init__(lab, directory)
        self.cluster, self.mode = cluster, mode

    def providers(self, **options: Any) -> list[Object]:
        token = self.cluster.kubectl("create", "token", "tranship", "-n", "default").strip()
        data = {"token": token, "ca.crt": self.cluster.plane.ca.read_text()}
        spec = {"type": "openshift", "url": self.cluster.plane.url, "secret": {"name": "here"}}
        documents = [one for one in super().providers(**options) if one["metadata"]["name"] != "here"]
        for one in documents:
            if one["kind"] == "StorageMap":
                one["spec"]["map"] = [pair(name, self.store(name)) for name in self.storages]
        return [*documents, document("Secret", "here", stringData=data), document("Provider", "here", spec=spec)]

    def store(self, storage: str) -> dict[str, str]:
        """Where the disks of a storage of the source go to."""
        return {"storageClass": self.mode.lower(), "volumeMode": self.mode, "accessMode": "ReadWriteOnce"}

    def content(self, vm: Any, disk: int, size: int) -> bytes:
        """What the source's disk holds."""
        return bytes(vm.disks[disk].volume.read(0, size))


class OvirtClusterSite(ClusterSite, OvirtSite):
    """One storage domain becomes block devices, the other one files."""

    storages = ("data", "data2")

    def store(self, storage: str) -> dict[str, str]:
        mode = "Block" if storage == "data" else self.mode
        return {"storageClass": mode.lower(), "volumeMode": mode, "accessMode": "ReadWriteOnce"}

    def content(self, vm: Any, disk: int, size: int) -> bytes:
        return bytes(vm.read(disk)[:size])


@pytest.fixture(params=["Filesystem", "Block"])
def cluster_site(
    cluster: Cluster, center: VCenter, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> ClusterSite:
    monkeypatch.setenv(IMAGE, TAG)
    center.faults.clear()
    return ClusterSite(center, tmp_path, cluster, request.param)


@pytest.fixture
def ovirt_cluster_site(
    cluster: Cluster, cluster_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> OvirtClusterSite:
    monkeypatch.setenv(IMAGE, TAG)
    cluster_engine.faults.clear()
    return OvirtClusterSite(cluster_engine, tmp_path, cluster, "Filesystem")


def assert_moved(site: ClusterSite, vm: Any, size: int) -> None:
    """Bytes are equal, and of ours only the machine and its claims are left."""
    cluster = site.cluster
    (machine,) = [one for one in cluster.objects("vm") if one["metadata"]["name"] == vm.name]
    volumes = machine["spec"]["template"]["spec"]["volumes"]
    claims = [one["persistentVolumeClaim"]["claimName"] for one in volumes]
    for number, claim in enumerate(claims):
        assert cluster.content(claim, size) == site.content(vm, number, size)
    assert_nothing_of_ours(cluster)
    site.assert_nothing_left(vm)


def assert_nothing_of_ours(cluster: Cluster) -> None:
    """Beside machines and claims."""
    words = ["get", "job,pod,secret,configmap", "-n", NAMESPACE, "-l", OURS, "-o", "name"]
    until = time.monotonic() + 20.0
    while left := cluster.kubectl(*words):  # the cluster's collector takes the pods of a Job a moment later
        assert time.monotonic() < until, left
