"""A genuine cluster for end-to-end tests, and sites that move into it. conftest.py hands the fixtures on to the tests.
Of KubeVirt the lab's stand-in is there: it makes volumes, and runs in QEMU what a VirtualMachine says."""

import json
import re
import runpy
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tranship.lab.kubevirt import KubeVirt, StorageClass
from tranship.lab.kubevirt.schemas import definitions
from tranship.lab.ovirt import Engine
from tranship.lab.vsphere import VCenter
from tranship.providers.kubevirt.target import IMAGE
from tranship.resources.crds import all_crds

from .conftest import Site, document, pair

ROOT = Path(__file__).parents[2]
RIGHTS = ROOT / "src" / "tranship" / "deploy" / "base" / "rights.yaml"
TAG = "localhost/tranship:test"
NAMESPACE = "moved"
DISTRIBUTION = "vmware-vix-disklib-distrib"
VDDK = "localhost/vddk:8.0.3"
EMPTY_VDDK = "localhost/vddk-empty:1"
BARE_VDDK = "localhost/vddk-bare:1"
OURS = "app.kubernetes.io/managed-by=tranship"
Object = dict[str, Any]


CLASSES = (
    StorageClass("block", volume_mode="Block", default=True),
    StorageClass("filesystem"),
    StorageClass("ext4", filesystem="ext4"),
    StorageClass("block-now", volume_mode="Block", binding="Immediate"),
    StorageClass("ext4-now", filesystem="ext4", binding="Immediate"),
)


@dataclass(frozen=True)
class Cluster:
    """namespace: where objects are made and looked for."""

    plane: Any
    node: Any
    kubevirt: KubeVirt
    namespace: str = NAMESPACE

    def kubectl(self, *words: str, given: object = None) -> str:
        return str(self.plane.kubectl(*words, given=given))

    def make(self, obj: Object) -> None:
        self.kubectl("create", "-n", self.namespace, "--validate=strict", "-f", "-", given=obj)

    def objects(self, kind: str, namespace: str = "") -> list[Object]:
        return list(json.loads(self.kubectl("get", kind, "-n", namespace or self.namespace, "-o", "json"))["items"])

    def read(self, kind: str, name: str) -> Object:
        found: Object = json.loads(self.kubectl("get", kind, name, "-n", self.namespace, "-o", "json"))
        return found

    def until(self, what: str, look: Callable[[], Any], deadline: float = 60.0) -> Any:
        """What `look` finds, as soon as it finds anything."""
        end = time.monotonic() + deadline
        while not (found := look()):
            assert time.monotonic() < end, f"{what}: not within {deadline} s"
            time.sleep(0.05)
        return found

    def place(self, claim: str) -> Path:
        """Of the disk in the claim's volume, on this machine."""
        bound = self.read("pvc", claim)["spec"]
        path = Path(self.read("pv", bound["volumeName"])["spec"]["local"]["path"])
        return path if bound["volumeMode"] == "Block" else path / "disk.img"

    def content(self, claim: str, size: int) -> bytes:
        with self.place(claim).open("rb") as file:
            return file.read(size)

    def console(self, machine: str, pattern: str, deadline: float = 60.0) -> re.Match[str]:
        """The last line that it printed and that fits, as soon as there is one."""
        path = self.kubevirt.console(f"{self.namespace}/{machine}")

        def look() -> re.Match[str] | None:
            text = path.read_text(errors="replace") if path.exists() else ""
            return next(iter(reversed(list(re.finditer(pattern, text)))), None)

        found: re.Match[str] = self.until(f"{pattern} on the console of {machine}", look, deadline)
        return found


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    image = runpy.run_path(str(ROOT / "scripts" / "image"))
    plane = runpy.run_path(str(ROOT / "tests" / "cluster" / "control_plane.py"))["ControlPlane"](
        folder / "plane", for_pods=True
    )
    with ExitStack() as stack:
        stack.callback(plane.stop)
        plane.start()
        plane.serve([*definitions(), *all_crds()])
        # before the node, so that it is closed when nobody holds its volumes any more
        kubevirt = stack.enter_context(KubeVirt(plane.kubeconfig, folder / "kubevirt", classes=CLASSES))
        node = runpy.run_path(str(ROOT / "tests" / "cluster" / "node.py"))["Node"](plane)
        stack.callback(node.stop)
        node.start()
        image["archive"](folder / "image.tar", TAG, image["contents"](), ["tranship"])
        node.load_image(folder / "image.tar")
        made = Cluster(plane, node, kubevirt)
        made.kubectl("create", "namespace", NAMESPACE)
        made.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
        made.kubectl("create", "serviceaccount", "tranship", "-n", "default")
        made.kubectl("apply", "-f", str(RIGHTS), "-l", "tranship.io/part=target")  # and no right that this role lacks
        role = "--clusterrole=tranship-target"
        binding = ["clusterrolebinding", "tranship", role, "--serviceaccount=default:tranship"]
        made.kubectl("create", *binding)
        yield made
    assert str(folder) not in subprocess.check_output(["ps", "-e", "-o", "args"], text=True, timeout=30)
    assert str(folder) not in Path("/proc/mounts").read_text()
    assert str(folder) not in subprocess.check_output(["losetup", "--all"], text=True, timeout=30)


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


@pytest.fixture(scope="session")
def vddk_images(cluster: Cluster, center: VCenter, tmp_path_factory: pytest.TempPathFactory) -> None:
    """As upstream has them built: the unpacked library, and an entrypoint that copies it to /opt. EMPTY_VDDK: the folder
    without the library. BARE_VDDK: not even the folder."""
    folder = tmp_path_factory.mktemp("images")
    program = folder / "copy"
    source = str(ROOT / "tests" / "cluster" / "copy.c")
    subprocess.run(["gcc", "-O2", "-static", "-o", str(program), source], check=True, timeout=120, capture_output=True)
    library = [
        (f"{DISTRIBUTION}/lib64/{path.name}", path) for path in sorted((center.vddk_directory / "lib64").iterdir())
    ]
    contents: dict[str, list[tuple[str, Path | bytes]]] = {
        VDDK: [*library],
        EMPTY_VDDK: [(f"{DISTRIBUTION}/README", b"nothing here")],
        BARE_VDDK: [],
    }
    archive = runpy.run_path(str(ROOT / "scripts" / "image"))["archive"]
    for number, (tag, files) in enumerate(contents.items()):
        path = folder / f"{number}.tar"
        archive(path, tag, [("copy", program), *files], ["/copy", "-r", f"/{DISTRIBUTION}", "/opt"])
        cluster.node.load_image(path)


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
        assert cluster.content(claim, size) == site.content(vm, number, size)
    assert_nothing_of_ours(cluster)
    site.assert_nothing_left(vm)


def assert_nothing_of_ours(cluster: Cluster) -> None:
    """Beside machines and claims."""
    words = ["get", "job,pod,secret,configmap", "-n", NAMESPACE, "-l", OURS, "-o", "name"]
    until = time.monotonic() + 20.0
    while left := cluster.kubectl(*words):  # the cluster's collector takes the pods of a Job a moment later
        assert time.monotonic() < until, left
