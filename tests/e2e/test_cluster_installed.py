"""Installed as an administrator does it, by `kubectl apply -k` from our image: the controllers are pods of a genuine cluster
under nothing but the shipped rights, manifests are in upstream's form, and whatever can die dies on the way."""

import json
import os
import signal
import ssl
import time
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx2
import pytest
import yaml

from tranship.lab.ovirt import Engine
from tranship.lab.vsphere import VCenter

from .conftest import MIB, OvirtSite, Site, document, pair
from .in_cluster import OURS, ROOT, TAG, VDDK, Cluster, Object

SYSTEM = "tranship"  # the namespace of the installation
CHECK = r"TRANSHIP CHECK last=(\d+) valid=(\d+) bad=(\d+)"


class Installation:
    """In the cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.kubectl = cluster, cluster.kubectl
        self.system = replace(cluster, namespace=SYSTEM)

    def apply(self, folder: Path) -> None:
        """An overlay as README tells to write one."""
        folder.mkdir()
        shipped = ROOT / "deploy" / "overlays" / "kubernetes"
        overlay = yaml.safe_load((shipped / "kustomization.yaml").read_text())
        overlay["resources"] = [os.path.relpath(shipped, folder)]
        name, _, tag = TAG.rpartition(":")
        overlay["images"] = [{"name": "tranship", "newName": name, "newTag": tag}]
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
        self.kubectl("apply", "--server-side", "-k", str(folder))
        self.available()

    def remove(self) -> None:
        """The controllers: other tests on this cluster have their own."""
        self.kubectl("delete", "deployment", "tranship", "-n", SYSTEM, "--cascade=foreground", "--timeout=150s")
        self.cluster.until("the controllers' end", lambda: not self.pods(), 150)

    def available(self) -> None:
        self.kubectl("rollout", "status", "deployment/tranship", "-n", SYSTEM, "--timeout=120s")

    def pods(self) -> list[Object]:
        words = ["get", "pod", "-n", SYSTEM, "-l", "app.kubernetes.io/name=tranship", "-o", "json"]
        return list(json.loads(self.kubectl(*words))["items"])

    def leader(self) -> Object:
        """The pod that acts."""
        return self.cluster.until("a leader", self._leader)  # type: ignore[no-any-return]

    def _leader(self) -> Object | None:
        holder = self.system.read("lease", "tranship")["spec"].get("holderIdentity") or ""
        return next((pod for pod in self.pods() if holder and holder.startswith(pod["metadata"]["name"])), None)

    def signal(self, pod: Object, number: int) -> None:
        """To the container's first process, as the kernel sends it."""
        (container,) = pod["status"]["containerStatuses"]
        os.kill(self.cluster.node.pid(container["containerID"].rpartition("/")[2]), number)


class Move:
    """One VM's way into the cluster, in namespaces of its own. site: of the source."""

    def __init__(self, cluster: Cluster, site: Site, vm: Any, *, warm: bool, **source: Any) -> None:
        self.site, self.vm, self.warm, self._source = site, vm, warm, source
        self.plans, self.target = f"plans-{vm.name}", f"moved-{vm.name}"
        self.cluster = replace(cluster, namespace=self.target)

    def prepare(self, **spec: Any) -> None:
        """Everything but the Migration. The plan is ready when this returns."""
        kubectl = self.cluster.kubectl
        for namespace in (self.plans, self.target):
            kubectl("create", "namespace", namespace)
        kubectl("label", "namespace", self.target, "pod-security.kubernetes.io/enforce=restricted")
        stores = dict(zip(self.site.storages, ("filesystem", "block"), strict=True))
        storages = [pair(name, {"storageClass": kind}) for name, kind in stores.items()]
        between = {"source": {"name": "source"}, "destination": {"name": "here"}}
        plan = self.site.plan(self.vm, warm=self.warm, targetNamespace=self.target, targetPowerState="off", **spec)
        self.apply(
            *self.site.source(**self._source),
            document("Provider", "here", spec={"type": "openshift", "url": "", "secret": {}}),
            document(
                "NetworkMap", "net", spec={"provider": between, "map": [pair(self.site.network, {"type": "pod"})]}
            ),
            document("StorageMap", "store", spec={"provider": between, "map": storages}),
            plan,
        )
        kubectl("wait", "plan/plan", "-n", self.plans, "--for=condition=Ready", "--timeout=90s")

    def apply(self, *documents: Object) -> None:
        for one in documents:
            one["metadata"]["namespace"] = self.plans
            self.cluster.kubectl("apply", "--validate=strict", "-f", "-", given=one)

    def start(self, **spec: Any) -> None:
        self.apply(document("Migration", "run", spec={"plan": {"name": "plan", "namespace": self.plans}, **spec}))

    def cut_over(self) -> None:
        cutover = json.dumps({"spec": {"cutover": rfc3339(datetime.now(UTC))}})
        self.cluster.kubectl("patch", "migration", "run", "-n", self.plans, "--type=merge", "-p", cutover)

    def status(self) -> Object:
        """Of the VM in the Migration."""
        run = replace(self.cluster, namespace=self.plans).read("migration", "run")
        return dict(next(iter(run.get("status", {}).get("vms") or []), {}))

    def until_phase(self, *phases: str) -> None:
        self.cluster.until(f"{self.vm.name} in {phases}", lambda: self.status().get("phase") in phases, 120)

    def until_pod(self) -> None:
        """A mover runs."""

        def running() -> list[Object]:
            return [one for one in self.cluster.objects("pod") if one["status"]["phase"] == "Running"]

        self.cluster.until("mover", running, 90)

    def until_off(self) -> None:
        self.cluster.until("power-off", lambda: not self.vm.on, 60)

    def until_precopied(self, rounds: int) -> None:
        def ended() -> bool:
            precopies = self.status().get("warm", {}).get("precopies", [])
            return len([one for one in precopies if one.get("end")]) >= rounds

        self.cluster.until(f"{rounds} precopies of {self.vm.name}", ended, 300)

    def until_next_in(self, minutes: int) -> None:
        """The next precopy comes so long after the last one."""

        def said() -> bool:
            status = self.status()
            if status.get("phase") != "CopyingPaused":
                return False
            ended = datetime.fromisoformat(status["warm"]["precopies"][-1]["end"])
            return f"the next at {ended + timedelta(minutes=minutes):%H:%M:%S} UTC" in status["why"]

        self.cluster.until(f"{minutes} minutes between precopies", said, 90)

    def succeeded(self, seconds: int = 300) -> None:
        wait = ["--for=condition=Succeeded", f"--timeout={seconds}s"]
        self.cluster.kubectl("wait", "migration/run", "-n", self.plans, *wait)

    def assert_moved(self, *sizes: int) -> None:
        """Bytes are equal, the source is as it should be, and of ours only the machine and its claims are left."""
        volumes = self.cluster.read("vm", self.vm.name)["spec"]["template"]["spec"]["volumes"]
        claims = [one["persistentVolumeClaim"]["claimName"] for one in volumes]
        modes = [self.cluster.read("pvc", claim)["spec"]["volumeMode"] for claim in claims]
        assert modes == ["Filesystem", "Block"][: len(sizes)]
        for number, (claim, size) in enumerate(zip(claims, sizes, strict=True)):
            assert self.cluster.content(claim, size) == self.vm.read(number)[:size], f"disk {number}"
        words = ["get", "job,pod,secret,configmap", "-n", self.target, "-l", OURS, "-o", "name"]
        end = time.monotonic() + 120.0  # a busy cluster's collector takes its time with the pods of a Job
        while left := self.cluster.kubectl(*words):
            assert time.monotonic() < end, left
            time.sleep(0.5)
        self.site.assert_nothing_left(self.vm)
        assert not self.vm.on

    def boot(self) -> tuple[int, int, int]:
        """What the moved machine finds when it checks its records: the last one's number, how many are as they must be, and
        how many are not."""
        start = json.dumps({"spec": {"runStrategy": "Always"}})
        self.cluster.kubectl("patch", "vm", self.vm.name, "-n", self.target, "--type=merge", "-p", start)
        last, valid, bad = self.cluster.console(self.vm.name, CHECK, 240).groups()
        self.cluster.kubectl("delete", "namespace", self.target, "--wait=false")
        return int(last), int(valid), int(bad)


def rfc3339(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


class Watchman:
    """Reads whatever can be read in the target namespaces, over and over, logs too, and remembers what contained a secret."""

    KINDS = (
        *(f"api/v1/{kind}" for kind in ("secrets", "configmaps", "pods", "events", "persistentvolumeclaims")),
        "apis/batch/v1/jobs",
        "apis/kubevirt.io/v1/virtualmachines",
    )

    def __init__(self, cluster: Cluster, secrets: list[str]) -> None:
        trust = ssl.create_default_context(cafile=cluster.plane.ca)
        token = cluster.kubectl("config", "view", "--raw", "-o", "jsonpath={.users[0].user.token}")
        headers = {"Authorization": f"Bearer {token}"}
        self._http = httpx2.Client(base_url=cluster.plane.url, verify=trust, headers=headers, timeout=10.0)
        self._secrets = secrets
        self.found: list[str] = []
        self.looks: Counter[str] = Counter()
        self._stop = Event()
        self._thread = Thread(target=self._watch, name="watchman", daemon=True)

    def __enter__(self) -> "Watchman":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)
        self._http.close()

    def _watch(self) -> None:
        while not self._stop.wait(0.3):
            for kind in self.KINDS:
                with suppress(httpx2.HTTPError, ValueError):  # while the API server is away
                    self._look(kind)

    def _look(self, kind: str) -> None:
        for one in self._http.get(f"/{kind}").json().get("items") or ():
            meta = one["metadata"]
            if meta["namespace"].startswith("moved-"):
                texts = [json.dumps(one)]
                if kind.endswith("/secrets"):
                    texts += [b64decode(text).decode(errors="replace") for text in (one.get("data") or {}).values()]
                if kind.endswith("/pods"):
                    texts.append(self._http.get(f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/log").text)
                self.looks[kind] += 1
                where = f"{kind} {meta['namespace']}/{meta['name']}"
                self.found += [where for text in texts for secret in self._secrets if secret in text]


@pytest.fixture(scope="module")
def installation(
    cluster: Cluster, center: VCenter, cluster_engine: Engine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """Nobody ever finds a provider's password in a target namespace, whatever the tests do."""
    made = Installation(cluster)
    made.apply(tmp_path_factory.mktemp("installed") / "overlay")
    with Watchman(cluster, [center.password, cluster_engine.password]) as watchman:
        yield made
    made.remove()
    assert set(watchman.looks) == set(watchman.KINDS), "it did not see all there was"
    assert not watchman.found


@dataclass(frozen=True)
class Way:
    """How a VM is moved. source: options of the provider. vm: of the machine."""

    platform: str
    warm: bool
    source: Mapping[str, Any] = field(default_factory=dict)
    vm: Mapping[str, Any] = field(default_factory=dict)


WAYS = {
    "datastore": Way("vsphere", warm=False),
    "vddk": Way("vsphere", warm=True, source={"settings": {"vddkInitImage": VDDK}}, vm={"cbt": True}),
    "nfc": Way("vsphere", warm=True, vm={"cbt": True}),
    "imageio": Way("ovirt", warm=False),
    "backup": Way("ovirt", warm=True),
    "snapshot": Way("ovirt", warm=True, vm={"incremental": False}),
}
SIZES, SLOTS = (24 * MIB, 16 * MIB), 64


@pytest.mark.parametrize("platform", ["vsphere", "ovirt"])
def test_every_way_at_once(
    platform: str,
    installation: Installation,
    center: VCenter,
    cluster_engine: Engine,
    vddk_images: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Guests that write throughout, one disk into a file system and one into a block device. One cutover stands in its
    Migration from the beginning, the others come by `kubectl patch`."""
    monkeypatch.setattr(center, "cbt_page", 50)  # a guest changes hundreds of areas
    names = [name for name, way in WAYS.items() if way.platform == platform]
    moves = {name: _move(installation, name, center, cluster_engine, tmp_path) for name in names}
    for move in moves.values():
        move.prepare()
    for name, move in moves.items():
        planned = {"cutover": rfc3339(datetime.now(UTC) + timedelta(seconds=30))} if name == PLANNED else {}
        move.start(**planned)
    for name, move in moves.items():
        if move.warm and name != PLANNED:
            move.until_precopied(2 if name != "nfc" else 1)
            move.cut_over()
    for name, move in moves.items():
        move.succeeded()
        last = int(move.vm.guest.wait_line(r"TRANSHIP BYE last=(\d+)", 10)[1])
        status = move.status()
        assert {disk["way"] for disk in status["disks"]} == {name}
        assert not [one["round"] for one in status.get("warm", {}).get("precopies", ())[1:] if one.get("full")]
        move.assert_moved(*SIZES)
        assert move.boot() == (last, min(last, SLOTS * len(SIZES)), 0), name


PLANNED = "backup"  # the way whose cutover stands in the Migration


def _move(installation: Installation, name: str, center: VCenter, engine: Engine, folder: Path) -> Move:
    way = WAYS[name]
    site = Site(center, folder) if way.platform == "vsphere" else OvirtInto(engine, folder)
    stores = {"datastore" if way.platform == "vsphere" else "storage": site.storages}
    options = {"memory": 64, "slots": SLOTS, "rate": 50, **stores, **way.vm}
    vm = site.lab.add_vm(f"way-{name}", SIZES, guest=True, running=True, **options)
    vm.guest.wait_number(50, 60)
    if not way.warm:
        vm.guest.request_shutdown()
        vm.guest.wait_exit(30)
    return Move(installation.cluster, site, vm, warm=way.warm, **way.source)


class OvirtInto(OvirtSite):
    """One storage domain for files, one for block devices."""

    storages = ("data", "data2")


def test_intervals_of_deployment_and_settings_reach_a_plan_that_waits(
    installation: Installation, center: VCenter, vddk_images: None, tmp_path: Path
) -> None:
    site, kubectl = Site(center, tmp_path), installation.kubectl
    vm = site.add_vm("intervals", 8 * MIB, cbt=True, running=True)
    move = Move(installation.cluster, site, vm, warm=True, settings={"vddkInitImage": VDDK})
    move.prepare(precopy={})
    move.start()
    move.until_next_in(60)
    kubectl("set", "env", "deployment/tranship", "-n", SYSTEM, "PRECOPY_INTERVAL=45")
    installation.available()
    move.until_next_in(45)
    settings = document("ForkliftController", "settings", spec={"controller_precopy_interval": 30})
    move.apply(settings)
    move.until_next_in(30)
    patch = json.dumps({"spec": {"controller_precopy_interval": "20"}})
    kubectl("patch", "forkliftcontroller", "settings", "-n", move.plans, "--type=merge", "-p", patch)
    move.until_next_in(20)
    kubectl("delete", "forkliftcontroller", "settings", "-n", move.plans)
    move.until_next_in(45)
    kubectl("set", "env", "deployment/tranship", "-n", SYSTEM, "PRECOPY_INTERVAL=60")
    installation.available()
    move.until_next_in(60)
    move.cut_over()
    move.succeeded()
    move.assert_moved(8 * MIB)


# --- whatever can die dies -----------------------------------------------------------------------------------------------


def kill_leader(installation: Installation, move: Move) -> None:
    installation.signal(installation.leader(), signal.SIGKILL)


def kill_controllers(installation: Installation, move: Move) -> None:
    for pod in installation.pods():
        installation.signal(pod, signal.SIGKILL)


def kill_mover(installation: Installation, move: Move) -> None:
    def running() -> list[Object]:
        pods = move.cluster.objects("pod")
        return [one for one in pods if one["status"]["phase"] == "Running"]

    for pod in installation.cluster.until("mover", running):
        installation.signal(pod, signal.SIGKILL)


def restart_api_server(installation: Installation, move: Move) -> None:
    installation.cluster.plane.kill_api_server()
    installation.cluster.plane.start_api_server()


def restart_kubelet(installation: Installation, move: Move) -> None:
    installation.cluster.node.kill_kubelet()
    installation.cluster.node.start_kubelet()


def freeze_leader(installation: Installation, move: Move) -> None:
    """Beyond its lease. When it is thawed it does nothing more, and begins anew as one that waits."""
    frozen = installation.leader()
    installation.signal(frozen, signal.SIGSTOP)
    name = frozen["metadata"]["name"]
    installation.cluster.until("another leader", lambda: installation.leader()["metadata"]["name"] != name)
    installation.signal(frozen, signal.SIGCONT)

    def again() -> bool:
        (container,) = installation.system.read("pod", name)["status"]["containerStatuses"]
        before = frozen["status"]["containerStatuses"][0]["restartCount"]
        return bool(container["restartCount"] > before)

    installation.cluster.until("end of the process that was frozen", again)


DEATHS: dict[str, Callable[[Installation, Move], None]] = {
    "leader": kill_leader,
    "controllers": kill_controllers,
    "mover": kill_mover,
    "api-server": restart_api_server,
    "kubelet": restart_kubelet,
    "frozen": freeze_leader,
}


@pytest.mark.parametrize("when", ["copy", "cutover"])
@pytest.mark.parametrize("death", DEATHS)
def test_killed_on_the_way(installation: Installation, center: VCenter, tmp_path: Path, death: str, when: str) -> None:
    """During the first copy, and while the source is off and its last changes are copied: the same end as ever."""
    center.faults.clear()
    site, size = Site(center, tmp_path), 64 * MIB
    vm = site.add_vm(f"{death}-{when}", size, cbt=True, running=True)
    move = Move(installation.cluster, site, vm, warm=True)
    move.prepare()
    if when == "copy":
        center.faults.add("GET /nfc", vm=vm.name, count=0, delay=3.0)
        move.start()
        move.until_phase("CopyDisks")
        move.until_pod()
        DEATHS[death](installation, move)
        move.until_phase("CopyingPaused")
        move.cut_over()
    else:
        move.start()
        move.until_phase("CopyingPaused")
        vm.write(5 * MIB + 512, b"after the first copy" * 512)
        center.faults.add("GET /folder", vm=vm.name, count=0, delay=3.0)
        move.cut_over()
        move.until_off()
        move.until_pod()
        DEATHS[death](installation, move)
    move.succeeded()
    installation.available()
    move.assert_moved(size)
    assert [cause for cause in vm.power_causes() if cause != "on"] == ["guest-shutdown"]
