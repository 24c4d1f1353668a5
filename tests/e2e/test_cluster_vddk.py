"""Warm by VDDK into a genuine cluster: movers' pods get the library from an image or a claim, and a session."""

import asyncio
import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tranship.app import App
from tranship.resources.meta import MIGRATION, PLAN, PROVIDER

from .conftest import MIB, document
from .in_cluster import (
    BARE_VDDK,
    EMPTY_VDDK,
    NAMESPACE,
    VDDK,
    Cluster,
    ClusterSite,
    Object,
    assert_moved,
    assert_nothing_of_ours,
)

SIZE = 24 * MIB


@pytest.fixture
def place(center: Any, tmp_path: Path) -> Path:
    """With the unpacked library in it."""
    place = tmp_path / "vddk"
    subprocess.run(["cp", "-rL", str(center.vddk_directory), str(place)], check=True, timeout=60)
    return place


@pytest.fixture
def claim(cluster: Cluster, place: Path) -> Iterator[str]:
    """On a volume that is that place."""
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [cluster.node.name]}
    size = {"storage": "64Mi"}
    common = {"accessModes": ["ReadOnlyMany"], "storageClassName": ""}
    volume = {
        **common,
        "capacity": size,
        "local": {"path": str(place)},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
    }
    wanted = {**common, "volumeName": "vddk", "resources": {"requests": size}}
    for kind, spec in (("PersistentVolume", volume), ("PersistentVolumeClaim", wanted)):
        where = ["-n", NAMESPACE] * (kind == "PersistentVolumeClaim")
        made = {"apiVersion": "v1", "kind": kind, "metadata": {"name": "vddk"}, "spec": spec}
        cluster.kubectl("create", *where, "-f", "-", given=made)
    yield "vddk"
    cluster.kubectl("delete", "pvc", "vddk", "-n", NAMESPACE)
    cluster.kubectl("delete", "pv", "vddk")


class Scan:
    """Looks into everything of the target namespace while movers run."""

    def __init__(self, site: ClusterSite, vm: Any) -> None:
        self.site, self.vm = site, vm
        self.found = 0

    def __call__(self, where: str) -> None:
        if where != "after StartCopies":
            return
        site = self.site
        lent = [one.cookie for one in site.lent(self.vm)]
        others = [one.cookie for one in site.lab.sessions.live.values() if one.cookie not in lent]
        text = site.cluster.kubectl("get", "secret,configmap,job,pod", "-n", NAMESPACE, "-o", "json")
        for one in json.loads(text)["items"]:
            values = [base64.b64decode(value).decode() for value in (one.get("data") or {}).values()] * (
                one["kind"] == "Secret"
            )
            said = json.dumps(one) + "".join(values)
            assert site.lab.password not in said, one["metadata"]["name"]
            assert not [cookie for cookie in others if cookie in said], one["metadata"]["name"]
            self.found += any(cookie in value for cookie in lent for value in values)


def documents(site: ClusterSite, **settings: str) -> list[Object]:
    made = site.providers()
    source = next(one for one in made if one["kind"] == "Provider" and one["metadata"]["name"] == "source")
    source["spec"]["settings"] = settings
    return made


def add(site: ClusterSite, name: str) -> Any:
    return site.add_vm(f"{name}-{site.mode.lower()}", SIZE, running=True, cbt=True)


def test_warm_by_an_image(cluster_site: ClusterSite, vddk_images: None) -> None:
    """Two precopies, and what changed until the cutover; each round has a session of its own."""
    site = cluster_site
    vm = add(site, "vddk-image")
    scan = Scan(site, vm)
    sessions: set[str] = set()

    async def during(app: App) -> None:
        for number in (1, 2):
            await site.precopied(app, number, 120)
            vm.write(number * 5 * MIB + 4096, bytes([number]) * 8192)
        await site.cut_over(app)

    def boundary(where: str) -> None:
        scan(where)
        sessions.update(one.key for one in site.lent(vm))

    options = {"documents": documents(site, vddkInitImage=VDDK), "during": during, "deadline": 180}
    run = asyncio.run(site.move(vm, boundary, warm=True, cutover=None, **options))
    (status,) = run.status.vms
    assert status.outcome == "succeeded", status.error
    assert status.disks[0].way == "vddk" and VDDK in status.disks[0].why
    assert status.warm is not None and len(status.warm.precopies) >= 3
    assert not any(one.full for one in status.warm.precopies)
    assert all((one.bytes or 0) < SIZE // 4 for one in status.warm.precopies[1:])
    assert scan.found >= 6, "a job and a handle of each round hold the lent cookie"
    assert len(sessions) >= 3
    assert_moved(site, vm, SIZE)


def owners(folder: Path) -> list[tuple[str, int, int, int]]:
    found = ((path, path.stat()) for path in folder.rglob("*"))
    return sorted((str(path), stat.st_uid, stat.st_gid, stat.st_mode) for path, stat in found)


def test_warm_by_a_claim(cluster_site: ClusterSite, claim: str, place: Path) -> None:
    """Which stays as it is: a volume that is mounted for writing would be given to the pod's group."""
    site = cluster_site
    vm = add(site, "vddk-claim")
    before = owners(place)
    run = asyncio.run(site.move(vm, warm=True, documents=documents(site, vddkVolumeClaim=claim), deadline=180))
    (status,) = run.status.vms
    assert status.outcome == "succeeded", status.error
    assert status.disks[0].way == "vddk"
    assert owners(place) == before
    assert_moved(site, vm, SIZE)


def test_a_session_is_terminated_under_a_pod(cluster_site: ClusterSite, vddk_images: None) -> None:
    """The next try gets another. The installation's setting names the image here."""
    site = cluster_site
    vm = add(site, "vddk-ended")
    ended: list[Any] = []

    def terminate(where: str) -> None:
        if where == "after StartCopies" and not ended:
            ended.extend(site.lent(vm))
            for one in ended:
                site.lab.sessions.end(one)

    made = [*documents(site), document("ForkliftController", "settings", spec={"vddk_image": VDDK})]
    run = asyncio.run(site.move(vm, terminate, warm=True, documents=made, deadline=180))
    (status,) = run.status.vms
    assert status.outcome == "succeeded", status.error
    assert ended and status.disks[0].way == "vddk"
    assert_moved(site, vm, SIZE)


@pytest.mark.parametrize("image", [EMPTY_VDDK, BARE_VDDK], ids=["no-library", "no-folder"])
def test_an_image_without_the_library(cluster_site: ClusterSite, vddk_images: None, image: str) -> None:
    """The VM fails for it; its source runs on, and nothing is left anywhere."""
    site = cluster_site
    vm = add(site, f"vddk-bad-{'empty' if image == EMPTY_VDDK else 'bare'}")
    run = asyncio.run(site.move(vm, warm=True, documents=documents(site, vddkInitImage=image), deadline=120))
    (status,) = run.status.vms
    assert status.outcome == "failed"
    site.failed_for(status, "CopyDisks", "VDDKInvalid", image)
    assert vm.on and vm.power_causes() == ["on"]
    site.assert_nothing_left(vm)
    assert_nothing_of_ours(site.cluster)


def test_an_image_that_nobody_has(cluster_site: ClusterSite) -> None:
    """Said while the pod waits for it. Cancelled, the source runs as before, and nothing is left."""
    site = cluster_site
    vm = add(site, "vddk-nowhere")
    image = "localhost:1/nowhere:1"

    async def cancel(app: App) -> None:
        words = ("waiting: ", "ImagePull", image)
        told = lambda run: any(all(word in one.why for word in words) for one in run.status.vms)  # noqa: E731
        await site.until(app, MIGRATION, "run", told, 60)
        await app.store.patch(MIGRATION, "default", "run", {"spec": {"cancel": [{"id": vm.moref}]}})

    options = {"documents": documents(site, vddkInitImage=image), "during": cancel, "deadline": 120}
    (status,) = asyncio.run(site.move(vm, warm=True, **options)).status.vms
    assert status.outcome == "canceled"
    assert vm.on and vm.power_causes() == ["on"]
    site.assert_nothing_left(vm)
    assert_nothing_of_ours(site.cluster)


def test_what_the_plan_says_before(cluster_site: ClusterSite) -> None:
    """A claim that is not there blocks it. With no library for pods at all it is ready, by the ways that need none."""
    site = cluster_site
    vm = add(site, "vddk-before")

    async def go() -> None:
        async with site.app() as app:
            made = documents(site, vddkVolumeClaim="nowhere", vddkDirectory="/opt/vddk")
            await site.apply(app, *made, site.plan(vm, warm=True))
            missing = await site.says(app, PLAN, "plan", "VDDKInvalid", deadline=60)
            assert "nowhere" in missing.message and "vddkVolumeClaim" in missing.suggestion
            patch = {"spec": {"settings": {"vddkVolumeClaim": None}}}
            await app.store.patch(PROVIDER, "default", "source", patch)
            plan = await site.ready(app)
            conditions = {one.type: one for one in plan.status.conditions}
            assert "VDDKInvalid" not in conditions
            assert any("by nfc" in item and "vddkInitImage" in item for item in conditions["DiskWays"].items)
            assert vm.power_causes() == ["on"]

    asyncio.run(go())
