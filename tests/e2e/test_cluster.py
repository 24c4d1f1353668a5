"""Into a genuine cluster: claims, Jobs that a kubelet runs from our image, and the VirtualMachine that is made in the end."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tranship.providers.kubevirt import jobs

from .conftest import MIB, document
from .in_cluster import NAMESPACE, OURS, ClusterSite, Object, assert_moved


def test_cold(cluster_site: ClusterSite) -> None:
    site, size = cluster_site, 24 * MIB
    vm = site.add_vm(f"cold-{site.mode.lower()}", size, size)
    migration = asyncio.run(site.move(vm, warm=False, deadline=120))
    (status,) = migration.status.vms
    assert status.outcome == "succeeded", status.error
    assert_moved(site, vm, size)


def test_warm_without_vddk_a_guest_that_writes_and_it_boots_there(
    cluster_site: ClusterSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, cluster, size, name = cluster_site, cluster_site.cluster, 24 * MIB, f"warm-{cluster_site.mode.lower()}"
    monkeypatch.setattr(site.lab, "cbt_page", 50)  # a guest changes hundreds of areas
    vm = site.lab.add_vm(name, (size,), guest=True, running=True, memory=64, slots=64, cbt=True)
    migration = asyncio.run(site.move(vm, warm=True, deadline=180))
    (status,) = migration.status.vms
    assert status.outcome == "succeeded", status.error
    assert_moved(site, vm, size)

    last = int(vm.guest.wait_line(r"TRANSHIP BYE last=(\d+)", 10)[1])
    start = json.dumps({"spec": {"runStrategy": "RerunOnFailure"}})  # and stay off when it shuts itself down
    cluster.kubectl("patch", "vm", name, "-n", NAMESPACE, "--type=merge", "-p", start)
    found = cluster.console(name, r"TRANSHIP CHECK last=(\d+) valid=(\d+) bad=(\d+)", 120)
    assert [int(word) for word in found.groups()] == [last, min(last, 64), 0]
    cluster.kubectl("wait", f"vm/{name}", "-n", NAMESPACE, "--for=condition=Ready", "--timeout=30s")
    cluster.kubevirt.type(f"{NAMESPACE}/{name}", b"q")
    stopped = "--for=jsonpath={.status.printableStatus}=Stopped"
    cluster.kubectl("wait", f"vm/{name}", "-n", NAMESPACE, stopped, "--timeout=60s")


def lose(site: ClusterSite) -> None:
    """With its node's memory of it."""
    site.cluster.kubectl("delete", "pod", "-n", NAMESPACE, "-l", OURS, "--force", "--grace-period=0")


def hang(site: ClusterSite) -> None:
    """As a whole: nobody in it ends the mover."""
    for pod in site.cluster.objects("pod"):
        for container in pod["status"]["containerStatuses"]:
            first = site.cluster.node.pid(container["containerID"].rpartition("/")[2])
            children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
            for process in (first, *map(int, children)):
                os.kill(process, signal.SIGSTOP)


def drain(site: ClusterSite) -> None:
    """The node, which is the only one: the next pod waits until it may be used again."""
    node = site.cluster.node.name
    site.cluster.kubectl("drain", node, "--force", "--delete-emptydir-data", "--pod-selector", OURS, "--timeout=60s")
    site.cluster.kubectl("uncordon", node)


@pytest.mark.parametrize(
    ("cluster_site", "trouble"),
    [("Block", lose), ("Filesystem", hang), ("Filesystem", drain)],
    indirect=["cluster_site"],
    ids=["lost", "hangs", "drained"],
)
def test_a_pod_in_trouble_is_replaced_and_the_next_goes_on(
    cluster_site: ClusterSite, trouble: Callable[[ClusterSite], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one reads only what no journal names."""
    monkeypatch.setattr(jobs, "SILENT", 10.0)
    site, size = cluster_site, 96 * MIB
    vm = site.add_vm(trouble.__name__, size)
    site.lab.faults.add("GET /folder", vm=vm.name, count=0, delay=0.4)

    def journal() -> Object:
        memory = [one for one in site.cluster.objects("configmap") if vm.name in one["metadata"]["name"]]
        return json.loads((memory[0].get("data") or {}).get("journal", "{}")) if memory else {}

    async def during(_: Any) -> None:
        await site.eventually("journal", lambda: journal().get("done"), 90)
        await asyncio.to_thread(trouble, site)

    migration = asyncio.run(site.move(vm, warm=False, during=during, deadline=180))
    (status,) = migration.status.vms
    assert status.outcome == "succeeded", status.error
    assert_moved(site, vm, size)


@contextmanager
def controllers(site: ClusterSite) -> Iterator["subprocess.Popen[bytes]"]:
    """`tranship serve` as a process of its own, on the cluster's objects."""
    log = site.directory / "serve.log"
    argv = [sys.executable, "-m", "tranship", "serve", "--kubeconfig", str(site.cluster.plane.kubeconfig)]
    with log.open("a") as told:
        process = subprocess.Popen([*argv, "--directory", str(site.directory / "home")], stderr=told, stdout=told)
        try:
            yield process
        except BaseException as error:
            error.add_note(log.read_text()[-5000:])
            raise
        finally:
            process.terminate()
            process.wait(30)


@pytest.mark.parametrize("cluster_site", ["Filesystem"], indirect=True)
def test_on_the_clusters_own_objects_with_kubectl(cluster_site: ClusterSite) -> None:
    """Manifests by apply, the cutover by patch, the end by wait. The leader is killed on the way, and a second takes over."""
    site, size = cluster_site, 24 * MIB
    kubectl = site.cluster.kubectl
    vm = site.add_vm(f"kubectl-{site.mode.lower()}", size, cbt=True, running=True)
    space = f"plans-{site.mode.lower()}"
    kubectl("create", "namespace", space)
    plan = site.plan(vm, warm=True, targetPowerState="off")
    documents = [*site.providers(), plan, document("Migration", "run", spec={"plan": {"name": "plan"}})]
    for one in documents:
        one["metadata"]["namespace"] = space
    with controllers(site) as first:
        for one in documents[:-1]:
            kubectl("apply", "--validate=strict", "-f", "-", given=one)
        kubectl("wait", "plan/plan", "-n", space, "--for=condition=Ready", "--timeout=60s")
        kubectl("apply", "-f", "-", given=documents[-1])
        paused = "--for=jsonpath={.status.vms[0].phase}=CopyingPaused"
        kubectl("wait", "migration/run", "-n", space, paused, "--timeout=90s")
        first.kill()
    with controllers(site):
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        cutover = json.dumps({"spec": {"cutover": now}})
        kubectl("patch", "migration", "run", "-n", space, "--type=merge", "-p", cutover)
        kubectl("wait", "migration/run", "-n", space, "--for=condition=Succeeded", "--timeout=120s")
        assert_moved(site, vm, size)
