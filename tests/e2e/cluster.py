"""A genuine cluster of one node with KubeVirt's stand-in, our image on it and our kinds, for the tests that move into one."""

import json
import runpy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tranship.lab.kubevirt import KubeVirt, StorageClass
from tranship.lab.kubevirt.schemas import definitions
from tranship.resources.crds import all_crds

ROOT = Path(__file__).parents[2]
TAG = "docker.io/library/tranship:test"
NAMESPACE = "moved"
Object = dict[str, Any]


@dataclass
class Cluster:
    plane: Any
    node: Any
    kubevirt: KubeVirt

    def kubectl(self, *words: str, given: object = None) -> str:
        return str(self.plane.kubectl(*words, given=given))

    def make(self, obj: Object, namespace: str = NAMESPACE) -> None:
        self.kubectl("create", "-n", namespace, "--validate=strict", "-f", "-", given=obj)

    def objects(self, kind: str, namespace: str = NAMESPACE) -> list[Object]:
        return list(json.loads(self.kubectl("get", kind, "-n", namespace, "-o", "json"))["items"])

    def read(self, kind: str, name: str, namespace: str = NAMESPACE) -> Object:
        found: Object = json.loads(self.kubectl("get", kind, name, "-n", namespace, "-o", "json"))
        return found

    def until(self, what: str, look: Callable[[], Any], deadline: float = 60.0) -> Any:
        """What `look` finds, as soon as it finds anything."""
        end = time.monotonic() + deadline
        while not (found := look()):
            assert time.monotonic() < end, f"{what}: not within {deadline} s"
            time.sleep(0.05)
        return found

    def place(self, claim: str, namespace: str = NAMESPACE) -> Path:
        """Of the disk in the claim's volume, on this machine."""
        bound = self.read("pvc", claim, namespace)["spec"]
        volume = json.loads(self.kubectl("get", "pv", bound["volumeName"], "-o", "json"))["spec"]
        path = Path(volume["local"]["path"])
        return path if bound["volumeMode"] == "Block" else path / "disk.img"

    def content(self, claim: str, size: int, namespace: str = NAMESPACE) -> bytes:
        with self.place(claim, namespace).open("rb") as file:
            return file.read(size)


@contextmanager
def running(folder: Path, classes: Sequence[StorageClass]) -> Iterator[Cluster]:
    genuine = runpy.run_path(str(ROOT / "tests" / "cluster" / "control_plane.py"))
    plane = genuine["ControlPlane"](folder / "plane", for_pods=True)
    image = runpy.run_path(str(ROOT / "scripts" / "image"))
    with ExitStack() as stack:
        stack.callback(plane.stop)
        plane.start()
        plane.serve([*definitions(), *all_crds()])
        # before the node, so that it is closed when nobody holds its volumes any more
        kubevirt = stack.enter_context(KubeVirt(plane.kubeconfig, folder / "kubevirt", classes=classes))
        node = runpy.run_path(str(ROOT / "tests" / "cluster" / "node.py"))["Node"](plane)
        stack.callback(node.stop)
        node.start()
        image["archive"](folder / "image.tar", TAG, image["contents"](), ["tranship"])
        node.load_image(folder / "image.tar")
        plane.kubectl("create", "namespace", NAMESPACE)
        plane.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
        yield Cluster(plane, node, kubevirt)
