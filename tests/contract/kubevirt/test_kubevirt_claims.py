"""Volume claims on a genuine API server: made, adopted, refused, found again and removed."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tranship.cluster.api import CLAIM
from tranship.errors import AlreadyExists, Busy, Denied, NotFound, Refused
from tranship.migration.mapping import MachineOrder
from tranship.providers.kubevirt.target import KubevirtTarget

KIND = "PersistentVolumeClaim"


def test_made_once_and_unbound(cluster: Any, target: KubevirtTarget, order: MachineOrder) -> None:
    """Nobody waits for a volume of a class that binds late."""
    assert target.observe(order).disks == frozenset()
    target.create_disks(order)
    first = cluster.read(KIND, "web-disk-0", order.namespace)
    assert first["spec"]["volumeMode"] == "Filesystem"
    assert first["spec"]["storageClassName"] == "plain"
    assert first["spec"]["resources"]["requests"]["storage"] == "12Mi"  # 10 / 0.9
    assert first["status"]["phase"] == "Pending"
    assert first["metadata"]["annotations"]["tranship.io/owner"] == order.owner
    assert cluster.read(KIND, "web-disk-1", order.namespace)["spec"]["resources"]["requests"]["storage"] == "10Mi"
    target.create_disks(order)
    assert cluster.read(KIND, "web-disk-0", order.namespace)["metadata"]["uid"] == first["metadata"]["uid"]
    seen = target.observe(order)
    assert (seen.disks, seen.foreign) == (frozenset({"2000", "2001"}), "")


def test_what_a_crash_left_is_completed(cluster: Any, target: KubevirtTarget, order: MachineOrder) -> None:
    target.create_disks(replace(order, disks=order.disks[:1]))
    uid = cluster.read(KIND, "web-disk-0", order.namespace)["metadata"]["uid"]
    assert target.observe(order).disks == frozenset({"2000"})
    target.create_disks(order)
    assert cluster.read(KIND, "web-disk-0", order.namespace)["metadata"]["uid"] == uid
    assert target.observe(order).disks == frozenset({"2000", "2001"})


def test_addresses_say_where_and_how(target: KubevirtTarget, order: MachineOrder) -> None:
    target.create_disks(order)
    assert target.address(order, "2000").url == f"pvc://{order.namespace}/web-disk-0?mode=Filesystem"
    assert target.address(order, "2001").url == f"pvc://{order.namespace}/web-disk-1?mode=Block"


def test_the_storage_profile_decides_what_the_map_leaves_open(
    cluster: Any, target: KubevirtTarget, order: MachineOrder
) -> None:
    cluster.make(
        {"apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "StorageProfile", "metadata": {"name": "ceph"}, "spec": {}}
    )
    sets = [{"accessModes": ["ReadWriteMany"], "volumeMode": "Block"}]
    cluster.status("storageprofile", "ceph", "", {"claimPropertySets": sets})
    cluster.make(
        {"apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "CDIConfig", "metadata": {"name": "config"}, "spec": {}}
    )
    told = {"filesystemOverhead": {"global": "0.06", "storageClass": {"ceph": "0.5"}}}
    cluster.status("cdiconfig", "config", "", told)
    try:
        open_, told_ = (
            replace(disk, pool="ceph", volume_mode=mode)
            for disk, mode in zip(order.disks, ("", "Filesystem"), strict=True)
        )
        target.create_disks(replace(order, disks=(open_, told_)))
        block = cluster.read(KIND, "web-disk-0", order.namespace)["spec"]
        assert (block["volumeMode"], block["accessModes"]) == ("Block", ["ReadWriteMany"])
        files = cluster.read(KIND, "web-disk-1", order.namespace)["spec"]
        assert (files["volumeMode"], files["accessModes"]) == ("Filesystem", ["ReadWriteOnce"])
        assert files["resources"]["requests"]["storage"] == "20Mi"
    finally:
        cluster.kubectl("delete", "storageprofile/ceph", "cdiconfig/config")


@pytest.mark.parametrize("annotations", [{}, {"tranship.io/owner": "plan-2/vm-42"}], ids=["unmarked", "another plan's"])
def test_somebody_elses_is_refused_and_kept(
    cluster: Any, target: KubevirtTarget, order: MachineOrder, claim_of_others: Callable[..., Any], annotations: Any
) -> None:
    theirs = claim_of_others("web-disk-1", annotations)
    assert "web-disk-1" in target.observe(order).foreign
    assert target.observe(order).disks == frozenset()
    for call in (
        target.create_disks,
        target.create_machine,
        lambda order: target.address(order, "2001"),
    ):
        with pytest.raises((AlreadyExists, NotFound)) as raised:
            call(order)
        assert raised.value.suggestion or isinstance(raised.value, NotFound)
    assert cluster.names(KIND, order.namespace) == ["web-disk-1"]  # what is refused is seen before anything is made
    assert target.observe(order).uids == {}
    target.delete_disks(order, {"2001": theirs["metadata"]["uid"]})
    assert cluster.read(KIND, "web-disk-1", order.namespace) == theirs


def test_a_claim_that_is_too_small_is_no_disk(target: KubevirtTarget, order: MachineOrder) -> None:
    target.create_disks(order)
    grown = replace(order, disks=tuple(replace(disk, size=1 << 30) for disk in order.disks))
    assert target.observe(grown).disks == frozenset()
    with pytest.raises(AlreadyExists, match="are needed"):
        target.create_disks(grown)


def test_only_the_wanted_disks_go(cluster: Any, target: KubevirtTarget, order: MachineOrder) -> None:
    target.create_disks(order)
    target.delete_disks(order, made(target, order, "2000"))
    cluster.until(lambda: cluster.names(KIND, order.namespace) == ["web-disk-1"])
    target.delete_disks(order, made(target, order, "2000", "2001"))
    cluster.until(lambda: cluster.names(KIND, order.namespace) == [])
    target.delete_disks(order, made(target, order, "2000", "2001"))


def test_a_claim_that_is_going_is_not_used(cluster: Any, target: KubevirtTarget, order: MachineOrder) -> None:
    target.create_disks(order)
    hold = '{"metadata": {"finalizers": ["example.com/hold"]}}'
    cluster.kubectl("patch", "pvc", "web-disk-0", "-n", order.namespace, "--type=merge", "-p", hold)
    target.delete_disks(order, made(target, order, "2000"))
    assert target.observe(order).disks == frozenset({"2001"})
    with pytest.raises(Busy):
        target.create_disks(order)
    cluster.kubectl(
        "patch", "pvc", "web-disk-0", "-n", order.namespace, "--type=merge", "-p", '{"metadata": {"finalizers": null}}'
    )
    cluster.until(lambda: cluster.names(KIND, order.namespace) == ["web-disk-1"])
    target.create_disks(order)
    assert target.observe(order).disks == frozenset({"2000", "2001"})


def test_one_that_took_the_name_meanwhile_stays(
    cluster: Any, target: KubevirtTarget, order: MachineOrder, claim_of_others: Callable[..., Any]
) -> None:
    """A deletion is of what was looked at, not of a name, and of what the ledger knows, whatever marks another one bears."""
    target.create_disks(order)
    looked_at = target._api.get(CLAIM, "web-disk-0", order.namespace)
    target.delete_disks(order, made(target, order, "2000"))
    cluster.until(lambda: "web-disk-0" not in cluster.names(KIND, order.namespace))
    theirs = claim_of_others("web-disk-0", looked_at["metadata"]["annotations"])
    target._api.delete(CLAIM, looked_at)
    target.delete_disks(order, {"2000": looked_at["metadata"]["uid"]})
    assert cluster.read(KIND, "web-disk-0", order.namespace)["metadata"]["uid"] == theirs["metadata"]["uid"]


def test_an_unknown_class_and_a_missing_namespace(target: KubevirtTarget, order: MachineOrder) -> None:
    lost = replace(order, disks=(replace(order.disks[0], pool="gold"),))
    with pytest.raises(NotFound, match="gold") as raised:
        target.create_disks(lost)
    assert "plain" in raised.value.suggestion
    with pytest.raises(NotFound, match="nowhere"):
        target.create_disks(replace(order, namespace="nowhere"))


def test_a_quota_is_said_with_its_name(cluster: Any, target: KubevirtTarget, order: MachineOrder) -> None:
    give_quota(cluster, order.namespace, {"requests.storage": "15Mi"})
    with pytest.raises(Refused, match="exceeded quota: small") as raised:
        target.create_disks(order)
    assert "ResourceQuota" in raised.value.suggestion
    assert len(cluster.names(KIND, order.namespace)) == 1  # the next call adopts it, or cleanup finds it
    assert target.observe(order).disks == frozenset({"2000"})


def test_a_missing_right_is_named(order: MachineOrder, connect: Callable[..., KubevirtTarget]) -> None:
    with pytest.raises(Denied, match="storageclasses") as raised:
        connect("nobody").create_disks(order)
    assert "list" in str(raised.value)


def made(target: KubevirtTarget, order: MachineOrder, *disks: str) -> dict[str, str]:
    """Of the disks that are there and ours, the uids: what a ledger has noted."""
    uids, names = target.observe(order).uids, {disk.source: disk.name for disk in order.disks}
    return {disk: uids[place] for disk in disks if (place := ("disk", names[disk])) in uids}


def give_quota(cluster: Any, namespace: str, hard: dict[str, str]) -> None:
    meta = {"name": "small", "namespace": namespace}
    cluster.make({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": meta, "spec": {"hard": hard}})
    cluster.until(lambda: cluster.read("quota", "small", namespace)["status"].get("hard"))
