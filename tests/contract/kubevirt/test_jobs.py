"""Movers as Jobs: what a genuine API server, Job controller, scheduler and garbage collector make of them. There is no node
here, so no pod ever runs by itself; what a kubelet would say of one is written into its status."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tranship.errors import AlreadyExists
from tranship.migration.mapping import MachineOrder
from tranship.migration.seen import CopyState
from tranship.providers.base import Movers, Reading
from tranship.providers.kubevirt.jobs import coarse
from tranship.providers.kubevirt.target import KubevirtTarget
from tranship.transfer.address import DiskAddress, Extent

from .conftest import ORDER, Cluster, Object

DISK, OTHER = "2000", "2001"
READING = Reading(DiskAddress("imageio+https://host:54322/images/ticket", {"cookie": "s3cret"}))
IMAGE = "tranship:test"


@pytest.fixture
def order(cluster: Cluster, namespace: str, target: KubevirtTarget) -> MachineOrder:
    """Its claims are there, in a namespace that enforces what a careful administrator enforces."""
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
    def start(disk: str = DISK, round_: int = 1, source: Reading = READING) -> None:
        address = target.address(order, disk)
        movers.start(disk, round_, source=source, target=address, size=10 << 20, point="1/s/", verify=True)

    return start


def only(cluster: Cluster, kind: str, namespace: str) -> Object:
    (name,) = [name for name in cluster.names(kind, namespace) if name != "kube-root-ca.crt"]
    return cluster.read(kind, name, namespace)


def end_pod(cluster: Cluster, namespace: str, code: int, word: object) -> None:
    """As the kubelet does when the container has ended."""
    pod = only(cluster, "pod", namespace)
    ended = {
        "exitCode": code,
        "reason": "Completed" if not code else "Error",
        "message": json.dumps(word) if word else "",
    }
    container = {"name": "mover", "image": IMAGE, "imageID": "", "ready": False, "restartCount": 0}
    status = {
        "phase": "Failed" if code else "Succeeded",
        "containerStatuses": [{**container, "state": {"terminated": ended}}],
    }
    cluster.status("pod", pod["metadata"]["name"], namespace, status)


def test_a_job_is_accepted_strictly_and_gets_its_pod(
    cluster: Cluster, order: MachineOrder, movers: Movers, start: Callable[..., None]
) -> None:
    assert movers.look(DISK, 1).state is CopyState.ABSENT
    start(OTHER)  # a block device
    job = only(cluster, "job", order.namespace)
    bare = {**job, "metadata": {"name": "again", "namespace": order.namespace}, "status": None}
    for name in ("selector", "suspend"):
        bare["spec"].pop(name)
    bare["spec"]["template"]["metadata"] = {}
    cluster.kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", given=bare)
    cluster.until(lambda: cluster.names("pod", order.namespace))
    pod = only(cluster, "pod", order.namespace)
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert pod["spec"]["containers"][0]["volumeDevices"] == [{"name": "disk", "devicePath": "/disk"}]
    cluster.until(lambda: "no nodes available to schedule pods" in movers.look(OTHER, 1).message)
    assert movers.look(OTHER, 1).state is CopyState.RUNNING
    secret = only(cluster, "secret", order.namespace)
    assert secret["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]
    start(OTHER)  # adopted
    assert only(cluster, "job", order.namespace)["metadata"]["uid"] == job["metadata"]["uid"]


def test_the_pods_account_is_the_plans(
    cluster: Cluster, target: KubevirtTarget, order: MachineOrder, movers: Movers, start: Callable[..., None]
) -> None:
    """What policies of the cluster allow it; one that is not there is told."""
    start()
    cluster.until(lambda: cluster.names("pod", order.namespace))
    assert only(cluster, "pod", order.namespace)["spec"]["serviceAccountName"] == "default"
    movers.stop(DISK, 1)
    theirs = target.movers(replace(order, service_account="moving"), Path("/nowhere"))
    address = target.address(order, DISK)
    theirs.start(DISK, 2, source=READING, target=address, size=10 << 20, point="2/s/", verify=True)
    cluster.until(lambda: 'serviceaccount "moving" not found' in theirs.look(DISK, 2).message)
    cluster.kubectl("create", "serviceaccount", "moving", "-n", order.namespace)
    cluster.until(lambda: cluster.names("pod", order.namespace), 90)  # the Job's controller tries again by and by
    pod = only(cluster, "pod", order.namespace)
    assert pod["spec"]["serviceAccountName"] == "moving"
    assert not [one for one in pod["spec"]["volumes"] if "projected" in one]


def test_stopped_nothing_of_it_is_left_but_the_memory(
    cluster: Cluster, order: MachineOrder, movers: Movers, start: Callable[..., None]
) -> None:
    start()
    cluster.until(lambda: cluster.names("pod", order.namespace))
    movers.stop(DISK, 1)
    movers.stop(DISK, 1)
    assert cluster.names("job", order.namespace) == cluster.names("pod", order.namespace) == []
    cluster.until(lambda: not cluster.names("secret", order.namespace))
    assert movers.look(DISK, 1).state is CopyState.LOST
    movers.remember_handle(2, "lease 7")
    movers.forget()
    assert cluster.names("configmap", order.namespace) in ([], ["kube-root-ca.crt"])
    assert cluster.names("secret", order.namespace) == []
    assert len(cluster.names("pvc", order.namespace)) == 2


def test_a_failure_is_told_and_the_next_start_makes_another_job(
    cluster: Cluster, order: MachineOrder, movers: Movers, start: Callable[..., None]
) -> None:
    start()
    first = only(cluster, "job", order.namespace)
    cluster.until(lambda: cluster.names("pod", order.namespace))
    word = {"state": "failed", "reason": "NoSpace", "message": "the volume is full", "suggestion": "Make it larger."}
    end_pod(cluster, order.namespace, 1, word)
    cluster.until(lambda: movers.look(DISK, 1).state is CopyState.FAILED)
    seen = movers.look(DISK, 1)
    assert (seen.reason, seen.message, seen.suggestion) == ("NoSpace", "the volume is full", "Make it larger.")
    start(source=replace(READING, address=replace(READING.address, credentials={"cookie": "fresh"})))
    second = only(cluster, "job", order.namespace)
    assert second["metadata"]["uid"] != first["metadata"]["uid"]
    cluster.until(lambda: len(cluster.names("secret", order.namespace)) == 1)
    assert movers.look(DISK, 1).state is CopyState.RUNNING


def test_a_pod_that_dies_without_a_word_is_made_again_by_the_job(
    cluster: Cluster, order: MachineOrder, movers: Movers, start: Callable[..., None]
) -> None:
    start()
    cluster.until(lambda: cluster.names("pod", order.namespace))
    end_pod(cluster, order.namespace, 137, None)
    cluster.until(lambda: len(cluster.names("pod", order.namespace)) == 2, 60)
    assert movers.look(DISK, 1).state is CopyState.RUNNING


def test_begun_and_not_let_go_it_is_taken_up(
    cluster: Cluster, order: MachineOrder, movers: Movers, start: Callable[..., None]
) -> None:
    """A controller died when it had made the Job: no pod was ever made of it."""
    start()
    made = only(cluster, "job", order.namespace)
    movers.stop(DISK, 1)
    bare = {**made, "status": None, "spec": {**made["spec"], "suspend": True}}
    bare["metadata"] = {key: made["metadata"][key] for key in ("name", "namespace", "labels", "annotations")}
    del bare["spec"]["selector"], bare["spec"]["template"]["metadata"]
    cluster.make(bare)
    assert movers.look(DISK, 1).state is CopyState.ABSENT
    start()
    cluster.until(lambda: cluster.names("pod", order.namespace))
    assert len(cluster.names("job", order.namespace)) == 1


def test_why_no_pod_is_made_is_told(
    cluster: Cluster, order: MachineOrder, movers: Movers, start: Callable[..., None]
) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "spec": {"hard": {"pods": "0"}}}
    cluster.make({**quota, "metadata": {"name": "none", "namespace": order.namespace}})
    cluster.until(lambda: "used" in cluster.read("quota", "none", order.namespace).get("status", {}))
    start()
    cluster.until(lambda: "exceeded quota: none" in movers.look(DISK, 1).message)


def test_a_job_of_somebody_else_is_left_alone(
    cluster: Cluster, order: MachineOrder, movers: Movers, start: Callable[..., None]
) -> None:
    start()
    job = only(cluster, "job", order.namespace)
    cluster.kubectl(
        "annotate", "job", job["metadata"]["name"], "-n", order.namespace, "--overwrite", "tranship.io/owner=x"
    )
    with pytest.raises(AlreadyExists, match="belongs to 'x'"):
        movers.stop(DISK, 1)
    movers.forget()
    assert only(cluster, "job", order.namespace)["metadata"]["uid"] == job["metadata"]["uid"]


def test_handles_are_kept_until_they_are_forgotten(movers: Movers) -> None:
    assert movers.handle(1) == ""
    movers.remember_handle(1, "transfer 1")
    movers.remember_handle(1, "transfer 1, transfer 2")
    assert movers.handle(1) == "transfer 1, transfer 2"
    movers.forget_handle(1)
    movers.forget_handle(1)
    assert movers.handle(1) == ""


def test_very_many_areas_become_fewer_that_cover_them() -> None:
    areas = tuple(Extent(at, 10) for at in (0, 20, 100, 115, 1000))
    assert coarse(areas, 5) == areas
    assert coarse(areas, 3) == (Extent(0, 30), Extent(100, 25), Extent(1000, 10))
    assert coarse(areas, 1) == (Extent(0, 1010),)
