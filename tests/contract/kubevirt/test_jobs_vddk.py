"""VMware's library in movers' pods, as a genuine API server has it; what a kubelet would say is written into a pod's status."""

import base64
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tranship.errors import NotFound, Unsupported
from tranship.migration.mapping import MachineOrder
from tranship.migration.seen import CopySeen, CopyState
from tranship.providers.base import Library, Movers, Reading
from tranship.providers.kubevirt import jobs
from tranship.providers.kubevirt.target import KubevirtTarget
from tranship.transfer.address import DiskAddress

from .conftest import ORDER, Cluster, Object
from .test_jobs import DISK, IMAGE, end_pod, only

LIBRARY = Library(image="registry.example.com/vddk:8")
READING = Reading(
    DiskAddress("vddk://vc:443/?moref=vm-42&disk=[ds] a/a.vmdk", {"cookie": "c", "key": "k", "user": "u"})
)


@pytest.fixture
def order(cluster: Cluster, namespace: str, target: KubevirtTarget) -> MachineOrder:
    cluster.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    order = replace(ORDER, namespace=namespace)
    target.create_disks(order)
    return order


@pytest.fixture
def movers(target: KubevirtTarget, order: MachineOrder, monkeypatch: pytest.MonkeyPatch) -> Movers:
    monkeypatch.setattr(target, "_image", IMAGE)
    return target.movers(order, Path("/nowhere"))


@pytest.fixture
def start(target: KubevirtTarget, order: MachineOrder, movers: Movers) -> Callable[..., None]:
    def start(library: Library = LIBRARY) -> None:
        source, address = replace(READING, library=library), target.address(order, DISK)
        movers.start(DISK, 1, source=source, target=address, size=10 << 20, point="1/s/", verify=True)

    return start


def pod_of(cluster: Cluster, namespace: str) -> Object:
    cluster.until(lambda: cluster.names("pod", namespace))
    return only(cluster, "pod", namespace)


def say(cluster: Cluster, namespace: str, state: Object, phase: str = "Pending") -> None:
    """As the kubelet does of the init container."""
    pod = pod_of(cluster, namespace)
    base: dict[str, Any] = {"imageID": "", "ready": False, "restartCount": 0}
    status = {
        "phase": phase,
        "initContainerStatuses": [{**base, "name": "vddk", "image": LIBRARY.image, "state": state}],
        "containerStatuses": [
            {**base, "name": "mover", "image": IMAGE, "state": {"waiting": {"reason": "PodInitializing"}}}
        ],
    }
    cluster.status("pod", pod["metadata"]["name"], namespace, status)


def until_failed(cluster: Cluster, movers: Movers) -> CopySeen:
    cluster.until(lambda: movers.look(DISK, 1).state is CopyState.FAILED)
    return movers.look(DISK, 1)


def test_an_image_is_run_to_copy_it(cluster: Cluster, order: MachineOrder, start: Callable[..., None]) -> None:
    start()
    spec = pod_of(cluster, order.namespace)["spec"]
    (init,), (mover,) = spec["initContainers"], spec["containers"]
    assert init["image"] == LIBRARY.image and "command" not in init and "args" not in init
    assert init["securityContext"] == mover["securityContext"]
    assert init["securityContext"]["readOnlyRootFilesystem"]
    assert [one["mountPath"] for one in init["volumeMounts"]] == ["/opt"]
    assert {"name": "vddk", "mountPath": "/vddk", "readOnly": True} in mover["volumeMounts"]
    secret = cluster.kubectl("get", "secret", "-n", order.namespace, "-o", "jsonpath={.items[0].data.job\\.json}")
    assert "&libdir=/vddk" in base64.b64decode(secret).decode()


def test_a_claim_is_mounted_and_left_as_it_is(
    cluster: Cluster, order: MachineOrder, start: Callable[..., None], claim_of_others: Callable[..., Object]
) -> None:
    claim_of_others("vddk")
    start(Library(claim="vddk"))
    spec = pod_of(cluster, order.namespace)["spec"]
    assert "initContainers" not in spec
    volume = next(one for one in spec["volumes"] if one["name"] == "vddk")
    assert volume["persistentVolumeClaim"] == {"claimName": "vddk", "readOnly": True}


def test_a_claim_that_is_not_there(
    cluster: Cluster, order: MachineOrder, target: KubevirtTarget, movers: Movers, start: Callable[..., None]
) -> None:
    """Told by the check, and when it went since."""
    (finding,) = [one for one in target.check([order], {Library(claim="vddk")}) if one.type == "VDDKInvalid"]
    assert finding.category.value == "Critical" and "vddk" in finding.message and finding.suggestion
    assert not [one for one in target.check([order], {LIBRARY}) if one.type == "VDDKInvalid"]
    with pytest.raises(NotFound, match=f"{order.namespace}/vddk") as caught:
        start(Library(claim="vddk"))
    assert "vddkVolumeClaim" in caught.value.suggestion and not caught.value.temporary
    assert cluster.names("job", order.namespace) == []
    with pytest.raises(Unsupported, match="vddkInitImage"):
        start(Library(directory="/opt/vddk"))


def test_an_image_that_cannot_be_pulled(
    cluster: Cluster,
    order: MachineOrder,
    movers: Movers,
    start: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Said at once; given up after a while."""
    start()
    say(cluster, order.namespace, {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}})
    cluster.until(lambda: "Back-off pulling image" in movers.look(DISK, 1).message)
    assert movers.look(DISK, 1).waits and not movers.look(DISK, 1).stuck
    monkeypatch.setattr(jobs, "START_DEADLINE", 0.0)
    assert_unavailable(movers.look(DISK, 1), "ImagePullBackOff")


def test_an_image_that_never_will_be(
    cluster: Cluster, order: MachineOrder, movers: Movers, start: Callable[..., None]
) -> None:
    start()
    say(cluster, order.namespace, {"waiting": {"reason": "InvalidImageName", "message": "couldn't parse"}})
    cluster.until(lambda: movers.look(DISK, 1).stuck)
    assert_unavailable(movers.look(DISK, 1), "InvalidImageName")


def assert_unavailable(seen: CopySeen, why: str) -> None:
    assert seen.stuck and seen.reason == "VDDKInitImageUnavailable"
    assert LIBRARY.image in seen.message and why in seen.message
    assert "vddkInitImage" in seen.suggestion


def test_an_image_that_is_none_of_vddk(
    cluster: Cluster, order: MachineOrder, movers: Movers, start: Callable[..., None]
) -> None:
    """Its program fails: at once, for good, and with what it said."""
    start()
    said = "cp: cannot stat '/vmware-vix-disklib-distrib'"
    say(cluster, order.namespace, {"terminated": {"exitCode": 1, "reason": "Error", "message": said}}, "Failed")
    seen = until_failed(cluster, movers)
    assert (seen.reason, seen.temporary) == ("VDDKInvalid", False)
    assert said in seen.message and LIBRARY.image in seen.message
    assert len(cluster.names("pod", order.namespace)) == 1


def test_a_copier_that_was_killed_is_started_again(
    cluster: Cluster, order: MachineOrder, movers: Movers, start: Callable[..., None]
) -> None:
    start()
    say(cluster, order.namespace, {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}, "Failed")
    cluster.until(lambda: len(cluster.names("pod", order.namespace)) == 2, 60)
    assert movers.look(DISK, 1).state is CopyState.RUNNING


def test_an_image_without_the_library(
    cluster: Cluster, order: MachineOrder, movers: Movers, start: Callable[..., None]
) -> None:
    """The mover looks for it, and knows only where."""
    start()
    pod_of(cluster, order.namespace)
    word = {"state": "failed", "reason": "ToolMissing", "message": "VixDiskLib in '/vddk' is missing"}
    end_pod(cluster, order.namespace, 1, word)
    seen = until_failed(cluster, movers)
    assert seen.reason == "VDDKInvalid"
    assert LIBRARY.image in seen.message and "'/vddk'" in seen.message and seen.suggestion
