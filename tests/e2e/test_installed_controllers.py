"""The controllers on a genuine API server as deploy/ installs them: with the rights of their service account, and beside
Forklift's own controller. The machines are moved from the lab to this host."""

import asyncio
import json
import re
import runpy
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from tranship.cli.serve import _lead
from tranship.cluster.kubeconfig import Access, from_kubeconfig
from tranship.controllers.foreign import Forklift
from tranship.controllers.leader import Leader
from tranship.resources.meta import MIGRATION, PLAN
from tranship.store.kubernetes import KubernetesStore

from .conftest import MIB, Site

ROOT = Path(__file__).parents[2]
BASE = ROOT / "src" / "tranship" / "deploy" / "base"
Object = dict[str, Any]
Right = tuple[str, str, str]  # group, resource with its part, verb


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    made = runpy.run_path(str(ROOT / "tests" / "cluster" / "control_plane.py"))["ControlPlane"]
    plane = made(tmp_path_factory.mktemp("plane"))
    plane.start()
    for name in ("namespace", "crds", "rights"):
        plane.kubectl("apply", "--validate=strict", "-f", str(BASE / f"{name}.yaml"))
    plane.kubectl("wait", "crd", "--all", "--for=condition=Established", "--timeout=60s")
    yield plane
    plane.stop()


@pytest.fixture(autouse=True)
def empty(plane: Any) -> Iterator[None]:
    yield
    for kind in ("migrations", "plans", "providers", "networkmaps", "storagemaps"):
        plane.kubectl("delete", kind, "--all", "-n", "default", "--wait=false")
    plane.kubectl("delete", "secrets", "--all", "-n", "default")


@dataclass(frozen=True)
class Recording(Access):
    """What was asked of the cluster, and what it refused."""

    asked: set[Right] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)

    def client(self, *, answer: float = 60.0, connect: float = 10.0) -> httpx2.AsyncClient:
        async def note(response: httpx2.Response) -> None:
            self.asked.add(right(response.request))
            if response.status_code in (401, 403):
                self.refused.append(f"{response.request.method} {response.request.url}")

        http = super().client(answer=answer, connect=connect)
        http.event_hooks = {"response": [note]}
        return http


def right(request: httpx2.Request) -> Right:
    path = re.fullmatch(
        r"(?:/api|/apis/(?P<group>[^/]+))/[^/]+(?:/namespaces/[^/]+)?/(?P<kind>[^/]+)(?:/(?P<name>[^/]+)(?:/(?P<part>.+))?)?",
        request.url.path,
    )
    assert path, request.url
    verbs = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete", "GET": "list"}
    verb = verbs[request.method]
    if verb == "list":
        verb = "get" if path["name"] else "watch" if request.url.params.get("watch") else "list"
    return path["group"] or "", path["kind"] + (f"/{path['part']}" if path["part"] else ""), verb


def account(plane: Any) -> Recording:
    """As the service account of deploy/."""
    config = json.loads(plane.kubectl("config", "view", "--raw", "-o", "json"))
    token = plane.kubectl("create", "token", "tranship", "-n", "tranship").strip()
    config["users"] = [{"name": "admin", "user": {"token": token}}]
    config["contexts"][0]["context"]["namespace"] = "tranship"
    path = plane.folder / "account"
    path.write_text(json.dumps(config))
    found = from_kubeconfig(path)
    return Recording(found.url, found.trust, found.auth, found.namespace)


class OnCluster(Site):
    """The application is whatever `tranship serve` runs on a cluster; objects are written by an administrator."""

    def __init__(self, lab: Any, directory: Path, plane: Any, access: Access) -> None:
        super().__init__(lab, directory)
        self.plane, self.access = plane, access
        self.forklift: Forklift | None = None

    @asynccontextmanager
    async def app(self, **_: Any) -> AsyncIterator[Any]:
        store = KubernetesStore(self.access.client())
        self.forklift = Forklift(store, every=0.1, gone=1.0)
        leader = Leader(store, "tranship", "tranship", self.directory.name)
        leads = asyncio.create_task(_lead(leader, self.forklift, self.directory / "home", self.access))
        admin = KubernetesStore(from_kubeconfig(self.plane.kubeconfig).client())
        try:
            yield type("Administrator", (), {"store": admin})
        finally:
            leads.cancel()
            (end,) = await asyncio.gather(leads, return_exceptions=True)
            assert isinstance(end, asyncio.CancelledError), end
            await store.close()
            await admin.close()


def test_no_right_is_missing_and_none_is_idle(plane: Any, lab: Any, tmp_path: Path) -> None:
    access = account(plane)
    site = OnCluster(lab, tmp_path, plane, access)
    vm = site.add_vm("rights", 4 * MIB, cbt=True, running=True)
    documents = [*site.providers(), *site.hosts(0)]
    migration = asyncio.run(site.move(vm, warm=True, deadline=90, documents=documents))
    assert migration.status.vms[0].outcome == "succeeded", migration.status.vms[0].error
    assert access.refused == []
    objects = yaml.safe_load_all((BASE / "rights.yaml").read_text())
    roles = {one["metadata"]["name"]: one for one in objects if "rules" in one}
    granted = {
        (group, resource, verb)
        for role in ("tranship-plans", "tranship-lease")
        for rule in roles[role]["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert access.asked == granted


def foreign(replicas: int) -> Object:
    container = {"name": "main", "image": "example.com/forklift-controller"}
    template = {"metadata": {"labels": {"app": "forklift"}}, "spec": {"containers": [container]}}
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": "forklift"}}, "template": template}
    meta = {"name": "forklift-controller", "namespace": "openshift-mtv"}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec}


def test_beside_forklifts_controller_nothing_is_done(plane: Any, lab: Any, tmp_path: Path) -> None:
    """It appears while a warm migration waits for its cutover. The cutover is given, and the VM runs on; when the other
    controller is gone, the migration goes on where it was."""
    site = OnCluster(lab, tmp_path, plane, account(plane))
    vm = site.add_vm("neighbours", 4 * MIB, cbt=True, running=True)
    plane.kubectl("create", "namespace", "openshift-mtv")

    async def during(app: Any) -> None:
        assert site.forklift
        await site.until(
            app, MIGRATION, "run", lambda run: run.status.vms and run.status.vms[0].phase == "CopyingPaused", 60
        )
        await asyncio.to_thread(plane.kubectl, "create", "-f", "-", given=foreign(1))
        said = await site.says(app, MIGRATION, "run", "ForeignController", "openshift-mtv/forklift-controller")
        assert said.category == "Critical"
        assert "--replicas=0" in said.suggestion
        await site.says(app, PLAN, "plan", "ForeignController")
        await site.cut_over(app)
        looks = await looked(site.forklift, 20)
        assert vm.power == "poweredOn"
        assert looks and site.forklift.alive
        await asyncio.to_thread(plane.kubectl, "delete", "deployment", "forklift-controller", "-n", "openshift-mtv")

    migration = asyncio.run(site.move(vm, warm=True, cutover=None, during=during, deadline=90))
    assert migration.status.vms[0].outcome == "succeeded", migration.status.vms[0].error
    assert "ForeignController" not in {one.type for one in migration.status.conditions}


async def looked(forklift: Forklift, times: int) -> bool:
    """After so many more looks."""
    for _ in range(times):
        before = forklift._asked
        await Site.eventually("look", lambda last=before: forklift._asked > last, 10)
    return True
