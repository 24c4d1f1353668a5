"""What a cluster says of itself, who it lets in, and what it would refuse of a plan."""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tranship.cluster.kubeconfig import Access, from_kubeconfig
from tranship.controllers.manager import Key
from tranship.controllers.providers import ProviderController
from tranship.errors import AuthFailed, Denied, Invalid, TranshipError, Unreachable, Untrusted
from tranship.lab.certificates import make_identity
from tranship.migration.checks import Finding
from tranship.migration.mapping import MachineOrder, NicOrder
from tranship.providers.kubevirt.access import missing
from tranship.providers.kubevirt.connect import connection, own_cluster
from tranship.providers.kubevirt.target import KubevirtTarget
from tranship.resources.meta import PROVIDER, SECRET
from tranship.resources.provider import Provider
from tranship.store.memory import MemoryStore

API = "forklift.konveyor.io/v1beta1"


def test_who_answers(cluster: Any, target: KubevirtTarget) -> None:
    identity = target.identify()
    assert identity.product == "Kubernetes with KubeVirt"
    assert identity.version.startswith("v1.")
    assert identity.uuid == cluster.read("namespace", "kube-system")["metadata"]["uid"]
    assert identity.missing_privileges == ()


def test_missing_rights_are_listed(connect: Callable[..., KubevirtTarget], cluster: Any) -> None:
    cluster.kubectl("create", "serviceaccount", "few", "-n", "accounts")
    cluster.kubectl("create", "clusterrole", "few", "--verb=get", "--resource=namespaces")
    cluster.kubectl("create", "clusterrolebinding", "few", "--clusterrole=few", "--serviceaccount=accounts:few")
    missing = connect("few").identify().missing_privileges
    assert "get namespaces" not in missing
    assert {"create virtualmachines.kubevirt.io", "create jobs.batch", "get pods/log", "delete secrets"} <= set(missing)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"token": "wrong"}, AuthFailed),
        ({"cacert": ""}, Untrusted),
        ({"cacert": "another"}, Untrusted),
        ({"thumbprint": "00" * 32}, Untrusted),
        ({"cacert": "garbage"}, Invalid),
    ],
)
def test_who_is_not_let_in(cluster: Any, tmp_path: Path, change: dict[str, str], error: type[TranshipError]) -> None:
    if change.get("cacert") == "another":
        change = {"cacert": make_identity(tmp_path).ca_pem}
    secret = {"token": cluster.token("mover", "accounts"), "cacert": cluster.ca} | change
    with pytest.raises(error) as raised:
        KubevirtTarget(connection(cluster.url, secret)).identify()
    assert raised.value.suggestion
    assert secret["token"] not in str(raised.value)


def test_nobody_there_and_nothing_to_go_in_with() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(Unreachable):
            KubevirtTarget(connection(f"https://127.0.0.1:{free.getsockname()[1]}", {"token": "t"})).identify()
    with pytest.raises(Invalid, match="token"):
        connection("https://cluster:6443", {})
    with pytest.raises(Invalid, match="https"):
        connection("cluster:6443", {"token": "t"})


def test_the_cluster_that_a_pod_runs_in(cluster: Any, tmp_path: Path) -> None:
    """As the kubelet mounts it, and renews the token in place."""
    (tmp_path / "ca.crt").write_text(cluster.ca)
    (tmp_path / "namespace").write_text("accounts")
    (tmp_path / "token").write_text("not yet")
    url = urlsplit(cluster.url)
    told = {"KUBERNETES_SERVICE_HOST": str(url.hostname), "KUBERNETES_SERVICE_PORT_HTTPS": str(url.port)}
    target = KubevirtTarget(lambda: own_cluster(tmp_path, told))
    with pytest.raises(AuthFailed):
        target.identify()
    (tmp_path / "token").write_text(cluster.token("mover", "accounts"))
    assert target.identify().product == "Kubernetes with KubeVirt"
    with pytest.raises(Invalid, match=r"spec\.url"):
        KubevirtTarget(lambda: own_cluster(tmp_path / "none", told)).identify()
    with pytest.raises(Invalid, match="KUBERNETES_SERVICE_HOST"):
        KubevirtTarget(lambda: own_cluster(tmp_path, {})).identify()


def test_the_cluster_whose_objects_the_controllers_work_on(cluster: Any, tmp_path: Path) -> None:
    """Outside of any pod: an empty address is the very cluster that the kubeconfig leads to, with the kubeconfig's rights."""
    access = from_kubeconfig(cluster.plane.kubeconfig)
    target = KubevirtTarget(connection("", {}, access))
    assert target.identify().uuid == cluster.read("namespace", "kube-system")["metadata"]["uid"]
    assert not target.identify().insecure
    conditions, phase = look(tmp_path, {"type": "openshift", "url": "", "secret": {}}, own=access)
    assert phase == "Ready", conditions
    conditions, phase = look(tmp_path, {"type": "openshift", "url": "", "secret": {}})
    assert phase == "ConnectionFailed"
    assert "--kubeconfig" in conditions["UrlNotValid"].suggestion


def test_what_is_there(cluster: Any, connect: Callable[..., KubevirtTarget], order: MachineOrder) -> None:
    target = connect()
    target.create_disks(order)
    target.create_machine(order)
    nad = {"name": "br0", "namespace": order.namespace}
    cluster.make(
        {"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition", "metadata": nad, "spec": {}}
    )
    estate = target.estate()
    assert {"plain", "ceph"} <= estate.datastores.keys()
    assert estate.networks["pod"].kind == "pod"
    assert estate.networks[f"{order.namespace}/br0"].name == "br0"
    there = estate.vms[f"{order.namespace}/web.01"]
    assert there.traits["owner"] == order.owner
    assert (there.cpus, there.memory, [nic.mac for nic in there.nics]) == (2, 64 << 20, ["00:50:56:aa:bb:01"])


def test_what_else_is_there(cluster: Any, connect: Callable[..., KubevirtTarget], namespace: str) -> None:
    mark = "storageclass.kubevirt.io/is-default-virt-class=true"
    cluster.kubectl("annotate", "storageclass", "ceph", mark, "--overwrite")
    cluster.kubectl(
        "annotate", "storageclass", "plain", "storageclass.kubernetes.io/is-default-class=true", "--overwrite"
    )
    profile = {
        "apiVersion": "cdi.kubevirt.io/v1beta1",
        "kind": "StorageProfile",
        "metadata": {"name": "ceph"},
        "spec": {},
    }
    cluster.make(profile)
    sets = [{"accessModes": ["ReadWriteMany", "ReadWriteOnce"], "volumeMode": "Block"}]
    cluster.status("storageprofile", "ceph", "", {"claimPropertySets": sets})
    types = "instancetype.kubevirt.io/v1beta1"
    spec = {"cpu": {"guest": 2}, "memory": {"guest": "4Gi"}}
    own = {"name": "own", "namespace": namespace}
    cluster.make({"apiVersion": types, "kind": "VirtualMachineInstancetype", "metadata": own, "spec": spec})
    cluster.make(
        {"apiVersion": types, "kind": "VirtualMachineClusterInstancetype", "metadata": {"name": "u1"}, "spec": spec}
    )
    try:
        others = connect().estate().others
    finally:
        cluster.kubectl("delete", "storageprofile/ceph", "virtualmachineclusterinstancetype/u1")
        cluster.kubectl("annotate", "storageclass", "plain", "storageclass.kubernetes.io/is-default-class-")
    assert {namespace, "kube-system"} <= others["namespaces"].keys()
    assert "managedFields" not in others["namespaces"][namespace].object["metadata"]
    ceph, plain = (others["storageclasses"][name].facts for name in ("ceph", "plain"))
    assert ceph == {
        "default": False,
        "defaultForVirtualization": True,
        "accessMode": "ReadWriteMany",
        "volumeMode": "Block",
        "bindsLate": True,
        "profile": ["ReadWriteMany/Block", "ReadWriteOnce/Block"],
    }
    assert (plain["default"], plain["accessMode"], plain["volumeMode"]) == (True, "ReadWriteOnce", "Filesystem")
    assert others["instancetypes"][f"{namespace}/own"].facts == {"cpus": 2, "memory": "4Gi"}
    assert others["clusterinstancetypes"]["u1"].namespace == ""


def test_what_may_not_be_listed_is_left_out(cluster: Any, connect: Callable[..., KubevirtTarget]) -> None:
    account = "without"
    cluster.kubectl("create", "serviceaccount", account, "-n", "accounts")
    needed = (
        "storageclasses.storage.k8s.io,virtualmachines.kubevirt.io,storageprofiles.cdi.kubevirt.io,cdiconfigs.cdi.kubevirt.io,"
        "network-attachment-definitions.k8s.cni.cncf.io"
    )
    cluster.kubectl("create", "clusterrole", account, "--verb=list,get", f"--resource={needed}")
    cluster.kubectl(
        "create", "clusterrolebinding", account, f"--clusterrole={account}", f"--serviceaccount=accounts:{account}"
    )
    target = connect(account)
    estate = target.estate()
    assert estate.others["namespaces"] == estate.others["instancetypes"] == {}
    assert "plain" in estate.datastores
    lacking = missing(target._api)
    assert {"list namespaces", "list virtualmachineinstancetypes.instancetype.kubevirt.io"} <= set(lacking)


# --- what would fail is said before -------------------------------------------------------------------------------------


def wrong(target: KubevirtTarget, *orders: MachineOrder) -> list[tuple[str, str]]:
    findings: list[Finding] = target.check(orders)
    assert all(finding.suggestion for finding in findings), findings
    return [(finding.type, finding.reason) for finding in findings]


def other(order: MachineOrder, name: str) -> MachineOrder:
    disks = tuple(replace(disk, name=f"{name}-{disk.name}") for disk in order.disks)
    return replace(order, name=name, owner=f"plan-uid/{name}", disks=disks)


def test_orders_that_would_do(cluster: Any, target: KubevirtTarget, order: MachineOrder) -> None:
    assert wrong(target) == []
    assert wrong(target, order, other(order, "mail")) == []
    assert cluster.names("pvc", order.namespace) == []
    assert cluster.names("vm", order.namespace) == []
    target.create_disks(order)
    target.create_machine(order)
    assert wrong(target, order) == []


def test_names(cluster: Any, target: KubevirtTarget, order: MachineOrder, claim_of_others: Callable[..., Any]) -> None:
    assert wrong(target, replace(order, namespace="nowhere")) == [("NamespaceNotValid", "NotFound")]
    assert wrong(target, order, replace(order, name="mail")) == [("NotValid", "NotUnique")] * 2
    claim_of_others("web-disk-0")
    assert wrong(target, order) == [("NotValid", "NotUnique")]
    target.create_disks(other(order, "mail"))
    target.create_machine(other(order, "mail"))
    taken = replace(other(order, "mail"), owner="plan-2/vm-1")
    assert ("VMAlreadyExists", "NotUnique") in wrong(target, taken)


def test_classes_networks_and_types(cluster: Any, target: KubevirtTarget, order: MachineOrder) -> None:
    lost = replace(order, disks=(replace(order.disks[0], pool="gold"),))
    assert wrong(target, lost) == [("NotValid", "NotFound")]
    assert wrong(target, replace(order, instance_type="u9.none")) == [("NotValid", "NotFound")]
    two = (*order.nics, replace(order.nics[0], name="net-1"))
    assert wrong(target, replace(order, nics=two)) == [("VMMultiplePodNetworkMappings", "NotValid")]
    multus = replace(order, nics=(NicOrder(mac="", kind="multus", network="br7", name="net-0"),))
    assert wrong(target, multus) == [("NetMapDestinationNADNotValid", "NotFound")]
    nad = {"name": "br7", "namespace": order.namespace}
    cluster.make(
        {"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition", "metadata": nad, "spec": {}}
    )
    assert wrong(target, multus) == []
    cluster.kubectl("label", "namespace", order.namespace, "k8s.ovn.org/primary-user-defined-network=")
    assert wrong(target, order) == [("UnsupportedUserDefinedNetwork", "NotSupported")]


def test_a_quota_is_counted_over_all_vms(cluster: Any, target: KubevirtTarget, order: MachineOrder) -> None:
    """Each of them would fit; the cluster's dry run sees one claim at a time."""
    meta = {"name": "small", "namespace": order.namespace}
    spec = {"hard": {"requests.storage": "30Mi", "persistentvolumeclaims": "9"}}
    cluster.make({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": meta, "spec": spec})
    cluster.until(lambda: cluster.read("quota", "small", order.namespace)["status"].get("hard"))
    assert wrong(target, order) == []
    assert wrong(target, order, other(order, "mail")) == [("NotValid", "ExceededQuota")]


def test_what_admission_refuses(cluster: Any, target: KubevirtTarget, order: MachineOrder) -> None:
    """A policy of the cluster, as KubeVirt's own checks are one, and a label that Kubernetes does not take."""
    rule = {
        "apiGroups": ["kubevirt.io"],
        "apiVersions": ["*"],
        "operations": ["CREATE"],
        "resources": ["virtualmachines"],
    }
    policy = {
        "matchConstraints": {"resourceRules": [rule]},
        "validations": [{"expression": "object.metadata.name != 'evil'", "message": "no such machine here"}],
    }
    group = "admissionregistration.k8s.io/v1"
    cluster.make({"apiVersion": group, "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "p"}, "spec": policy})
    binding = {"policyName": "p", "validationActions": ["Deny"]}
    cluster.make(
        {"apiVersion": group, "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": "p"}, "spec": binding}
    )
    evil = other(order, "evil")
    cluster.until(lambda: target.check([evil]))
    (finding,) = target.check([evil, order])
    assert "no such machine here" in finding.message
    for label in ({"bad label": "x"}, {"team": "not a value!"}):
        (finding,) = target.check([replace(order, labels={**order.labels, **label})])
        assert finding.reason == "Refused"
        assert "label" in finding.message


def test_missing_rights_stop_the_check(connect: Callable[..., KubevirtTarget], order: MachineOrder) -> None:
    with pytest.raises(Denied, match="namespaces"):
        connect("nobody").check([order])


# --- as a provider ------------------------------------------------------------------------------------------------------


def look(folder: Path, spec: dict[str, Any], secret: dict[str, str] | None = None, own: Access | None = None) -> Any:
    """The provider's conditions and phase after one look."""

    async def run() -> Any:
        store = MemoryStore()
        controller = ProviderController(store, folder, print, print, own)
        meta = {"name": "cluster", "namespace": "default"}
        if secret is not None:
            await store.create(SECRET, {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": secret})
        await store.create(PROVIDER, {"apiVersion": API, "kind": "Provider", "metadata": meta, "spec": spec})
        await controller.reconcile(Key("default", "cluster"))
        read = Provider.read(await store.get(PROVIDER, "default", "cluster"))
        controller.close()
        return {one.type: one for one in read.status.conditions}, read.status.phase

    return asyncio.run(run())


@pytest.fixture
def provider_of(cluster: Any, tmp_path: Path) -> Callable[..., Any]:
    spec = {"type": "openshift", "url": cluster.url, "secret": {"name": "cluster"}}
    return lambda secret: look(tmp_path, spec, secret)


def test_a_provider_becomes_ready(cluster: Any, provider_of: Callable[..., Any]) -> None:
    conditions, phase = provider_of({"token": cluster.token("mover", "accounts"), "ca.crt": cluster.ca})
    assert phase == "Ready"
    assert "Kubernetes with KubeVirt" in conditions["ConnectionTestSucceeded"].message
    assert "InventoryCreated" in conditions


@pytest.mark.parametrize(
    ("secret", "type"),
    [
        ({"token": "wrong"}, "ConnectionAuthFailed"),
        ({}, "SecretNotValid"),
        ({"ca.crt": ""}, "ConnectionTestFailed"),
        ({"ca.crt": "another"}, "ConnectionTestFailed"),
    ],
)
def test_a_provider_says_what_is_wrong(
    cluster: Any, provider_of: Callable[..., Any], tmp_path: Path, secret: dict[str, str], type: str
) -> None:
    if secret.get("ca.crt") == "another":
        secret = {"ca.crt": make_identity(tmp_path / "another").ca_pem}
    good = {"token": cluster.token("mover", "accounts"), "ca.crt": cluster.ca}
    conditions, phase = provider_of(good | secret if secret else {"ca.crt": cluster.ca})
    assert phase == "ConnectionFailed"
    assert conditions[type].suggestion
