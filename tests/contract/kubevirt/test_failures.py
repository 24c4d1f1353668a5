"""What a cluster can do to a plan or to movers, and the reason that comes of it: object, cause, remedy; and nothing is left.

What needs a kubelet is in tests/e2e/test_cluster_failures.py."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tranship.errors import Denied, NotFound, TimedOut, Unreachable
from tranship.migration.checks import Finding
from tranship.migration.mapping import MachineOrder
from tranship.migration.seen import CopySeen, CopyState
from tranship.providers.base import Movers
from tranship.providers.kubevirt import jobs
from tranship.providers.kubevirt.target import KubevirtTarget
from tranship.resources.conditions import Category

from .conftest import ORDER, Cluster
from .test_jobs import DISK, IMAGE, READING, end_pod, only

Start = Callable[..., None]


@pytest.fixture
def order(namespace: str, target: KubevirtTarget) -> MachineOrder:
    order = replace(ORDER, namespace=namespace)
    target.create_disks(order)
    return order


@pytest.fixture
def movers(target: KubevirtTarget, order: MachineOrder, monkeypatch: pytest.MonkeyPatch) -> Movers:
    monkeypatch.setattr(target, "_image", IMAGE)
    return target.movers(order, Path("/nowhere"))


def begin(target: KubevirtTarget, order: MachineOrder, movers: Movers) -> None:
    address = target.address(order, DISK)
    movers.start(DISK, 1, source=READING, target=address, size=10 << 20, point="1/s/", verify=True)


@pytest.fixture
def start(target: KubevirtTarget, order: MachineOrder, movers: Movers) -> Start:
    return lambda: begin(target, order, movers)


def quota(cluster: Cluster, namespace: str, **hard: str) -> None:
    spec = {"hard": {name.replace("_", "."): value for name, value in hard.items()}}
    meta = {"name": "tight", "namespace": namespace}
    cluster.make({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": meta, "spec": spec})
    cluster.until(lambda: "used" in cluster.read("quota", "tight", namespace).get("status", {}))


def not_started(movers: Movers, *words: str) -> CopySeen:
    seen = movers.look(DISK, 1)
    assert seen.state is CopyState.RUNNING  # it may still come up, so it has to be stopped
    assert seen.reason == "MoverNotStarted"
    assert all(word in seen.message for word in words), seen.message
    assert seen.suggestion
    return seen


def assert_stopped(cluster: Cluster, order: MachineOrder, movers: Movers) -> None:
    movers.stop(DISK, 1)
    assert cluster.names("job", order.namespace) == cluster.names("pod", order.namespace) == []
    movers.forget()
    cluster.until(lambda: not cluster.names("secret", order.namespace))
    assert set(cluster.names("configmap", order.namespace)) <= {"kube-root-ca.crt"}


# --- movers that do not start ---------------------------------------------------------------------------------------------


def test_a_quota_that_lets_no_pod_in(
    cluster: Cluster, order: MachineOrder, movers: Movers, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    quota(cluster, order.namespace, pods="0")
    start()
    cluster.until(lambda: "exceeded quota: tight" in movers.look(DISK, 1).message)
    assert movers.look(DISK, 1).reason == ""
    monkeypatch.setattr(jobs, "START_DEADLINE", 0.0)
    not_started(movers, "exceeded quota: tight", f"job {order.namespace}/web-disk-0-")
    assert_stopped(cluster, order, movers)


@pytest.mark.parametrize(("reason", "at_once"), [("ErrImageNeverPull", True), ("ImagePullBackOff", False)])
def test_an_image_that_is_nowhere(
    cluster: Cluster,
    order: MachineOrder,
    movers: Movers,
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    reason: str,
    at_once: bool,
) -> None:
    start()
    cluster.until(lambda: cluster.names("pod", order.namespace))
    pod = only(cluster, "pod", order.namespace)
    waiting = {"waiting": {"reason": reason, "message": f"no {IMAGE} here"}}
    container = {"name": "mover", "image": IMAGE, "imageID": "", "ready": False, "restartCount": 0, "state": waiting}
    status = {"phase": "Pending", "containerStatuses": [container]}
    cluster.status("pod", pod["metadata"]["name"], order.namespace, status)
    assert (movers.look(DISK, 1).reason == "MoverNotStarted") is at_once
    assert f"{reason}: no {IMAGE} here" in movers.look(DISK, 1).message
    monkeypatch.setattr(jobs, "START_DEADLINE", 0.0)
    assert IMAGE in not_started(movers, reason).suggestion
    assert_stopped(cluster, order, movers)


def test_a_claim_that_nobody_makes_a_volume_for(
    cluster: Cluster, order: MachineOrder, movers: Movers, start: Start
) -> None:
    """As its provisioner says it of the claim; of the pod the scheduler knows only that it waits."""
    start()
    claim = cluster.read("pvc", "web-disk-0", order.namespace)
    about = {key: claim["metadata"][key] for key in ("name", "namespace", "uid")}
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "failed", "namespace": order.namespace},
        "involvedObject": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", **about},
        "type": "Warning",
        "reason": "ProvisioningFailed",
        "message": "the pool is out of space",
        "lastTimestamp": "2099-01-01T00:00:00Z",
    }
    cluster.make(event)
    cluster.until(lambda: "claim" in movers.look(DISK, 1).message)
    said = movers.look(DISK, 1).message
    assert f"claim {order.namespace}/web-disk-0 has no volume: the pool is out of space" in said


# --- movers that end ------------------------------------------------------------------------------------------------------


def test_a_volume_that_is_full_is_named(cluster: Cluster, order: MachineOrder, movers: Movers, start: Start) -> None:
    start()
    cluster.until(lambda: cluster.names("pod", order.namespace))
    word = {"state": "failed", "reason": "NoSpace", "message": "/disk/disk.img has 0 bytes free", "side": "target"}
    end_pod(cluster, order.namespace, 1, word)
    cluster.until(lambda: movers.look(DISK, 1).state is CopyState.FAILED)
    seen = movers.look(DISK, 1)
    assert seen.message == f"claim {order.namespace}/web-disk-0: /disk/disk.img has 0 bytes free"
    assert "controller_filesystem_overhead" in seen.suggestion
    assert not seen.temporary


def test_a_pod_that_outlives_its_job_is_waited_for(
    cluster: Cluster, order: MachineOrder, movers: Movers, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its node does not answer, so it may still write: neither is it lost nor is another one started beside it."""
    start()
    cluster.until(lambda: cluster.names("pod", order.namespace))
    (name,) = cluster.names("pod", order.namespace)

    def finalizers(*names: str) -> None:
        patch = json.dumps({"metadata": {"finalizers": list(names)}})
        cluster.kubectl("patch", "pod", name, "-n", order.namespace, "--type=merge", "-p", patch)

    finalizers("tests/held")
    monkeypatch.setattr(jobs, "STOP_DEADLINE", 0.5)
    with pytest.raises(TimedOut) as raised:
        movers.stop(DISK, 1)
    assert "kubectl get pod" in raised.value.suggestion
    cluster.until(lambda: not cluster.names("job", order.namespace))
    seen = movers.look(DISK, 1)
    assert seen.state is CopyState.RUNNING
    assert f"pod {order.namespace}/{name} of an earlier try has not ended" in seen.message
    with pytest.raises(TimedOut):
        start()
    assert cluster.names("job", order.namespace) == []
    finalizers()
    movers.stop(DISK, 1)
    assert movers.look(DISK, 1).state is CopyState.LOST


# --- rights, quotas, connections ------------------------------------------------------------------------------------------


def granted(cluster: Cluster, namespace: str, name: str, *rules: dict[str, Any]) -> None:
    """A service account that may read classes and the namespace, and what the rules say inside of it."""
    cluster.kubectl("create", "serviceaccount", name, "-n", "accounts")
    meta = {"name": name, "namespace": namespace}
    group = "rbac.authorization.k8s.io/v1"
    cluster.make({"apiVersion": group, "kind": "Role", "metadata": meta, "rules": list(rules)})
    cluster.kubectl(
        "create", "rolebinding", name, "-n", namespace, f"--role={name}", f"--serviceaccount=accounts:{name}"
    )
    kinds = "namespaces,storageclasses,storageprofiles.cdi.kubevirt.io,cdiconfigs.cdi.kubevirt.io"
    cluster.kubectl("create", "clusterrole", name, "--verb=get,list", f"--resource={kinds}")
    cluster.kubectl("create", "clusterrolebinding", name, f"--clusterrole={name}", f"--serviceaccount=accounts:{name}")


WHATEVER = [
    {"apiGroups": [""], "resources": ["persistentvolumeclaims", "secrets", "configmaps"], "verbs": ["*"]},
    {"apiGroups": [""], "resources": ["pods", "pods/log", "events", "resourcequotas"], "verbs": ["get", "list"]},
    {"apiGroups": ["kubevirt.io"], "resources": ["*"], "verbs": ["*"]},
]
JOBS = {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "list"]}
JOBS_TOO = {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["create", "delete", "patch"]}


def test_rights_in_the_namespace_are_enough_and_each_that_lacks_is_named(
    cluster: Cluster, connect: Callable[..., KubevirtTarget], namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = replace(ORDER, namespace=namespace)
    granted(cluster, namespace, "almost", *WHATEVER, JOBS)
    granted(cluster, namespace, "enough", *WHATEVER, JOBS, JOBS_TOO)
    cluster.until(lambda: not connect("enough").check([order]))
    target = connect("almost")
    (finding,) = target.check([order])
    assert (finding.type, finding.category, finding.reason) == ("NotValid", Category.CRITICAL, "Denied")
    assert "create jobs.batch, patch jobs.batch, delete jobs.batch" in finding.message
    assert namespace in finding.message
    assert finding.suggestion
    monkeypatch.setattr(target, "_image", IMAGE)
    target.create_disks(order)
    movers = target.movers(order, Path("/nowhere"))
    with pytest.raises(Denied, match=r'cannot create resource "jobs" in API group "batch" in the namespace') as raised:
        begin(target, order, movers)
    assert f"creating Job {namespace}/web-disk-0-" in str(raised.value)
    assert raised.value.suggestion
    movers.forget()


@pytest.mark.parametrize("hard", [{"pods": "0"}, {"count/jobs.batch": "0"}, {"limits.memory": "512Mi"}])
def test_a_quota_that_lets_no_mover_in_is_told_before(
    cluster: Cluster, target: KubevirtTarget, namespace: str, hard: dict[str, str]
) -> None:
    quota(cluster, namespace, **hard)
    findings: list[Finding] = target.check([replace(ORDER, namespace=namespace)])
    (finding,) = findings
    assert (finding.type, finding.reason, finding.item) == ("NotValid", "ExceededQuota", "tight")
    assert next(iter(hard)) in finding.message
    assert finding.category is Category.CRITICAL


def test_a_quota_that_is_used_up_for_now_is_a_warning(
    cluster: Cluster, target: KubevirtTarget, order: MachineOrder, movers: Movers, start: Start
) -> None:
    quota(cluster, order.namespace, pods="1")
    start()
    cluster.until(lambda: cluster.read("quota", "tight", order.namespace)["status"]["used"]["pods"] == "1")
    (finding,) = target.check([order])
    assert (finding.type, finding.category) == ("QuotaUsedUp", Category.WARN)


def test_a_connection_that_is_replaced_is_a_passing_trouble(
    connect: Callable[..., KubevirtTarget], order: MachineOrder
) -> None:
    target = connect()
    target.observe(order)
    target.close()
    with pytest.raises(Unreachable, match="connected anew"):
        target.observe(order)


# --- transfer networks ----------------------------------------------------------------------------------------------------


def network(cluster: Cluster, namespace: str, route: str | None) -> str:
    annotations = {} if route is None else {"forklift.konveyor.io/route": route}
    meta = {"name": "fast", "namespace": namespace, "annotations": annotations}
    group = "k8s.cni.cncf.io/v1"
    cluster.make({"apiVersion": group, "kind": "NetworkAttachmentDefinition", "metadata": meta, "spec": {}})
    return f"{namespace}/fast"


@pytest.mark.parametrize(
    ("route", "found"),
    [
        ("10.0.0.1", None),
        ("none", None),
        (None, ("TransferNetworkMissingDefaultRoute", Category.WARN, "NotSet")),
        ("gateway", ("TransferNetworkNotValid", Category.CRITICAL, "NotValid")),
        ("missing", ("TransferNetworkNotValid", Category.CRITICAL, "NotFound")),
    ],
)
def test_a_transfer_network_is_checked_with_the_plan(
    cluster: Cluster,
    target: KubevirtTarget,
    namespace: str,
    route: str | None,
    found: tuple[str, Category, str] | None,
) -> None:
    id = f"{namespace}/none" if route == "missing" else network(cluster, namespace, route)
    findings = target.check([replace(ORDER, namespace=namespace, transfer_network=id)])
    assert [(one.type, one.category, one.reason) for one in findings] == ([found] if found else [])
    assert all(one.suggestion and id in one.message for one in findings)


def test_movers_are_attached_to_it(
    cluster: Cluster, target: KubevirtTarget, order: MachineOrder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, "_image", IMAGE)
    order = replace(order, transfer_network=f"{order.namespace}/fast")
    movers = target.movers(order, Path("/nowhere"))
    with pytest.raises(NotFound, match="fast"):
        begin(target, order, movers)
    assert cluster.names("job", order.namespace) == []
    network(cluster, order.namespace, "10.0.0.1")
    begin(target, order, movers)
    cluster.until(lambda: cluster.names("pod", order.namespace))
    said = only(cluster, "pod", order.namespace)["metadata"]["annotations"]["k8s.v1.cni.cncf.io/networks"]
    assert json.loads(said) == [{"name": "fast", "namespace": order.namespace, "default-route": ["10.0.0.1"]}]
    movers.stop(DISK, 1)
