"""A genuine API server that knows KubeVirt's kinds by their genuine schemas, kubectl as a second opinion, and namespaces.

The target's account has the rights of deploy/'s ClusterRole tranship-target and no others: what passes here needs no more."""

import json
import runpy
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tranship.lab.kubevirt.schemas import definitions
from tranship.migration.mapping import DiskOrder, MachineOrder, NicOrder
from tranship.providers.kubevirt.connect import connection
from tranship.providers.kubevirt.target import KubevirtTarget

CONTROL_PLANE = Path(__file__).parents[2] / "cluster" / "control_plane.py"
RIGHTS = Path(__file__).parents[3] / "src" / "tranship" / "deploy" / "base" / "rights.yaml"
MIB = 1 << 20
Object = dict[str, Any]


@dataclass(frozen=True)
class Cluster:
    plane: Any

    @property
    def url(self) -> str:
        return str(self.plane.url)

    @property
    def ca(self) -> str:
        return str(self.plane.ca.read_text())

    def kubectl(self, *arguments: str, given: object = None, fails: bool = False) -> str:
        """Its output; with `fails` what it complains of."""
        return str(self.plane.kubectl(*arguments, given=given, fails=fails))

    def make(self, obj: Object) -> Object:
        made: Object = json.loads(self.kubectl("create", "-o", "json", "-f", "-", given=obj))
        return made

    def read(self, kind: str, name: str, namespace: str = "") -> Object:
        where = ("-n", namespace) if namespace else ()
        found: Object = json.loads(self.kubectl("get", kind, name, *where, "-o", "json"))
        return found

    def names(self, kind: str, namespace: str) -> list[str]:
        items = json.loads(self.kubectl("get", kind, "-n", namespace, "-o", "json"))["items"]
        return [item["metadata"]["name"] for item in items]

    def status(self, kind: str, name: str, namespace: str, status: Object) -> None:
        """As the one does whose kind it is."""
        where = ("-n", namespace) if namespace else ()
        patch = json.dumps({"status": status})
        self.kubectl("patch", kind, name, *where, "--subresource=status", "--type=merge", "-p", patch)

    def token(self, account: str, namespace: str) -> str:
        return self.kubectl("create", "token", account, "-n", namespace).strip()

    def until(self, holds: Callable[[], object], deadline: float = 20.0) -> None:
        end = time.monotonic() + deadline
        while not holds():
            assert time.monotonic() < end, "it did not come to be in time"
            time.sleep(0.05)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    plane = runpy.run_path(str(CONTROL_PLANE))["ControlPlane"](tmp_path_factory.mktemp("control-plane"))
    plane.start()
    try:
        made = Cluster(plane)
        plane.serve(definitions())
        made.kubectl("create", "namespace", "accounts")
        made.kubectl("create", "serviceaccount", "mover", "-n", "accounts")
        made.kubectl("create", "serviceaccount", "nobody", "-n", "accounts")
        made.kubectl("apply", "-f", str(RIGHTS), "-l", "tranship.io/part=target")
        binding = ["clusterrolebinding", "mover", "--clusterrole=tranship-target", "--serviceaccount=accounts:mover"]
        made.kubectl("create", *binding)
        for name in ("plain", "ceph"):
            late = {"provisioner": "example.com/none", "volumeBindingMode": "WaitForFirstConsumer"}
            made.make({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name}, **late})
        yield made
    finally:
        plane.stop()


@pytest.fixture(scope="session")
def connect(cluster: Cluster) -> Callable[..., KubevirtTarget]:
    """connect(account="mover"): a target with that account's token."""

    def target(account: str = "mover") -> KubevirtTarget:
        secret = {"token": cluster.token(account, "accounts") + "\n", "cacert": cluster.ca}
        return KubevirtTarget(connection(cluster.url, secret))

    return target


@pytest.fixture(scope="session")
def target(connect: Callable[..., KubevirtTarget]) -> Iterator[KubevirtTarget]:
    made = connect()
    yield made
    made.close()


@pytest.fixture
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> str:
    """One of the test's own. It is not removed: the API server goes with the session."""
    name = f"test-{abs(hash(request.node.nodeid)):x}"[:40]
    cluster.kubectl("create", "namespace", name)
    return name


ORDER = MachineOrder(
    owner="plan-uid/vm-42",
    name="web.01",
    namespace="",
    uuid="420f8a31-6c5e-7d0b-0c35-2f7a9f1b7b11",
    sockets=1,
    cores=2,
    memory=64 * MIB,
    disks=(
        DiskOrder(source="2000", name="web-disk-0", pool="plain", size=10 * MIB, boot=1, volume="vol-0"),
        DiskOrder(source="2001", name="web-disk-1", pool="plain", size=10 * MIB, volume_mode="Block", volume="vol-1"),
    ),
    nics=(NicOrder(mac="00:50:56:aa:bb:01", kind="pod", name="net-0"),),
    labels={"plan": "plan-uid", "vmID": "vm-42"},
    annotations={"original-ID": "vm-42"},
)


@pytest.fixture
def order(namespace: str) -> MachineOrder:
    return replace(ORDER, namespace=namespace)


@pytest.fixture
def claim_of_others(cluster: Cluster, namespace: str) -> Callable[..., Object]:
    def make(name: str, annotations: Mapping[str, str] | None = None) -> Object:
        meta = {"name": name, "namespace": namespace, "annotations": dict(annotations or {})}
        spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
        return cluster.make({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": spec})

    return make
