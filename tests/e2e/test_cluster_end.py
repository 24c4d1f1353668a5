"""What is left when a VM has moved, on the cluster's own objects: the machine owns its volumes, and both outlive the plan."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from tranship.cluster.kubeconfig import from_kubeconfig
from tranship.resources.meta import MIGRATION, NETWORK_MAP, PLAN, PROVIDER, STORAGE_MAP
from tranship.resources.migration import Migration

from .conftest import MIB
from .in_cluster import NAMESPACE, ClusterSite, assert_moved


def until(holds: Callable[[], object], deadline: float = 60.0) -> None:
    end = time.monotonic() + deadline
    while not holds():
        assert time.monotonic() < end, "it did not come to be in time"
        time.sleep(0.2)


@pytest.mark.parametrize("cluster_site", ["Filesystem"], indirect=True)
def test_machine_and_volumes_outlive_plan_and_migration(cluster_site: ClusterSite) -> None:
    """The provider is the cluster itself, without an address. The garbage collector is the genuine one."""
    site, cluster, size = cluster_site, cluster_site.cluster, 8 * MIB
    vm = site.add_vm("outlives", size, running=True)
    documents = site.providers()
    for one in documents:
        if one["kind"] == "Provider" and one["metadata"]["name"] == "here":
            one["spec"] = {"type": "openshift", "url": "", "secret": {}}
    plan = site.plan(vm, warm=False, targetPowerState="off", targetLabels={"tier": "web", "plan": "mine"})

    async def story() -> Migration:
        async with site.app(cluster=from_kubeconfig(cluster.plane.kubeconfig)) as app:
            await site.apply(app, *documents, plan)
            owner = await site.ready(app)
            run = {
                "apiVersion": "forklift.konveyor.io/v1beta1",
                "kind": "Migration",
                "spec": {"plan": {"name": "plan"}},
            }
            reference = {"apiVersion": run["apiVersion"], "kind": "Plan", "name": "plan", "uid": owner.uid}
            run["metadata"] = {"name": "run", "namespace": "default", "ownerReferences": [reference]}
            await app.store.create(MIGRATION, run)
            ended = await site.ended(app)
            await app.store.patch(PLAN, "default", "plan", {"spec": {"archived": True}})
            await site.says(app, PLAN, "plan", "Archived")
            await asyncio.to_thread(cluster.kubectl, "delete", "plan", "plan", "-n", "default")
            await asyncio.to_thread(
                until, lambda: not cluster.kubectl("get", "migration", "-n", "default", "-o", "name")
            )
            return ended

    try:
        ended = asyncio.run(story())
    finally:
        for kind in (PROVIDER, NETWORK_MAP, STORAGE_MAP):
            cluster.kubectl("delete", kind.plural, "--all", "-n", "default")
        cluster.kubectl("delete", "secret", "source", "here", "-n", "default", "--ignore-not-found")
    (status,) = ended.status.vms
    assert status.outcome == "succeeded", status.error
    assert vm.power == "poweredOff"  # the source stays off; nothing else marks it, as upstream has it
    machine = json.loads(cluster.kubectl("get", "vm", "outlives", "-n", NAMESPACE, "-o", "json"))
    labels, marks = machine["metadata"]["labels"], machine["metadata"]["annotations"]
    uid = ended.status.vms[0].order["owner"].split("/")[0]
    expected = {"tier": "web", "plan": uid, "vmID": site.id(vm), "migration": ended.uid, "guestConverted": "false"}
    assert expected.items() <= labels.items()
    assert machine["spec"]["template"]["metadata"]["labels"]["app"] == "outlives"
    assert (marks["original-ID"], marks["openshift.io/display-name"]) == (site.id(vm), "outlives")
    assert "ownerReferences" not in machine["metadata"]

    def claims() -> list[Any]:
        found = json.loads(cluster.kubectl("get", "pvc", "-n", NAMESPACE, "-l", f"vmID={site.id(vm)}", "-o", "json"))
        return [one for one in found["items"] if not one["metadata"].get("deletionTimestamp")]

    (claim,) = claims()
    assert [one["uid"] for one in claim["metadata"]["ownerReferences"]] == [machine["metadata"]["uid"]]
    noted = {(entry.kind, entry.uid) for entry in status.ledger if entry.side == "target"}
    assert noted == {("disk", claim["metadata"]["uid"]), ("machine", machine["metadata"]["uid"])}
    assert "disk-source" in " ".join(claim["metadata"]["annotations"])
    assert_moved(site, vm, size)
    cluster.kubectl("delete", "vm", "outlives", "-n", NAMESPACE)
    until(lambda: not claims())


@pytest.mark.parametrize("cluster_site", ["Filesystem"], indirect=True)
def test_a_cancel_removes_our_volumes_and_nobody_elses(cluster_site: ClusterSite) -> None:
    """Not even one that bears all our marks, as a clone or a restored backup does."""
    site, cluster = cluster_site, cluster_site.cluster
    vm = site.add_vm("given-up", 64 * MIB)
    site.lab.faults.add("GET /folder", vm=vm.name, count=0, delay=0.3)

    def named(name: str) -> Any:
        return json.loads(cluster.kubectl("get", "pvc", name, "-n", NAMESPACE, "-o", "json"))

    async def cancel(app: Any) -> None:
        def copying(run: Any) -> bool:
            return any(one.phase == "CopyDisks" and one.why.startswith("copying") for one in run.status.vms)

        await site.until(app, MIGRATION, "run", copying, 60)
        ours = await asyncio.to_thread(named, "given-up-disk-0")
        meta = {key: ours["metadata"][key] for key in ("namespace", "labels", "annotations")}
        spec = {key: value for key, value in ours["spec"].items() if key != "volumeName"}
        clone = {**ours, "metadata": {**meta, "name": "given-up-clone"}, "spec": spec}
        del clone["status"]
        await asyncio.to_thread(cluster.kubectl, "create", "-f", "-", given=clone)
        await app.store.patch(MIGRATION, "default", "run", {"spec": {"cancel": [{"id": site.id(vm)}]}})

    ended = asyncio.run(site.move(vm, warm=False, during=cancel, deadline=120))
    try:
        assert ended.status.vms[0].outcome == "canceled"
        until(lambda: not cluster.kubectl("get", "pvc", "given-up-disk-0", "-n", NAMESPACE, "--ignore-not-found"))
        assert named("given-up-clone")["metadata"].get("deletionTimestamp") is None
        assert cluster.kubectl("get", "vm", "given-up", "-n", NAMESPACE, "--ignore-not-found") == ""
    finally:
        cluster.kubectl("delete", "pvc", "given-up-clone", "-n", NAMESPACE)
