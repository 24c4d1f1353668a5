"""deploy/ on a genuine API server: everything is accepted, and the service account may do what it needs and nothing else."""

import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

ROOT = Path(__file__).parents[2]
SPACE = "tranship"
Object = dict[str, Any]


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    made = runpy.run_path(str(ROOT / "tests" / "cluster" / "control_plane.py"))["ControlPlane"]
    plane = made(tmp_path_factory.mktemp("plane"))
    plane.start()
    yield plane
    plane.stop()


@pytest.fixture(scope="module")
def installed(plane: Any) -> Any:
    """By kubectl, and nothing is left to do then."""
    overlay = str(ROOT / "deploy" / "overlays" / "kubernetes")
    plane.kubectl("apply", "--validate=strict", "-k", overlay)
    plane.kubectl("wait", "crd", "--all", "--for=condition=Established", "--timeout=60s")
    assert plane.kubectl("diff", "-k", overlay) == ""
    return plane


def test_openshifts_own_fit_as_well(installed: Any) -> None:
    overlay = str(ROOT / "deploy" / "overlays" / "openshift")
    installed.kubectl(
        "apply", "--server-side", "--dry-run=server", "--force-conflicts", "--validate=strict", "-k", overlay
    )


def test_the_pods_are_let_in(installed: Any) -> None:
    """The namespace enforces Pod Security "restricted"; there are as many pods as replicas, each with the account's token."""
    installed.kubectl(
        "wait", "deployment/tranship", "-n", SPACE, "--for=jsonpath={.status.replicas}=2", "--timeout=60s"
    )
    pods = json.loads(installed.kubectl("get", "pods", "-n", SPACE, "-o", "json"))["items"]
    assert len(pods) == 2
    for pod in pods:
        assert pod["spec"]["serviceAccountName"] == "tranship"
        assert any(name.get("projected") for name in pod["spec"]["volumes"])
    privileged = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "root", "namespace": SPACE},
        "spec": {"containers": [{"name": "root", "image": "tranship:0.1.0"}]},
    }
    assert "violates PodSecurity" in installed.kubectl("create", "-f", "-", given=privileged, fails=True)


def test_kubectl_shows_the_kinds_as_forklifts(installed: Any) -> None:
    pair = {"source": {"name": "a"}, "destination": {"name": "b"}}
    for short, kind, spec, headers in (
        ("prov", "Provider", {"type": "vsphere", "secret": {}}, "NAME TYPE STATUS READY CONNECTED INVENTORY URL AGE"),
        ("netmap", "NetworkMap", {"provider": pair, "map": []}, "NAME READY AGE"),
        ("stmap", "StorageMap", {"provider": pair, "map": []}, "NAME READY AGE"),
        ("mig", "Migration", {"plan": {"name": "x"}}, "NAME READY RUNNING SUCCEEDED FAILED AGE"),
        ("fc", "ForkliftController", {}, "NAME AGE"),
    ):
        meta = {"name": "shown", "namespace": "default"}
        body = {"apiVersion": "forklift.konveyor.io/v1beta1", "kind": kind, "metadata": meta, "spec": spec}
        installed.kubectl("create", "--validate=strict", "-f", "-", given=body)
        assert installed.kubectl("get", short).splitlines()[0].split() == headers.split()
        installed.kubectl("delete", short, "shown")


# --- rights ------------------------------------------------------------------------------------------------------------


def may(plane: Any, verb: str, resource: str, *words: str, account: str = f"{SPACE}:tranship") -> bool:
    asked = ["auth", "can-i", verb, resource, f"--as=system:serviceaccount:{account}", *words]
    argv = [str(Path(sys.executable).with_name("kubectl")), "--kubeconfig", str(plane.kubeconfig), *asked]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() in ("yes", "no"), done.stderr
    return done.stdout.strip() == "yes"


@pytest.mark.parametrize(
    ("verb", "resource", "words"),
    [
        ("watch", "plans.forklift.konveyor.io", ["-A"]),
        ("patch", "migrations.forklift.konveyor.io", ["-A"]),
        ("patch", "plans.forklift.konveyor.io", ["-A", "--subresource=status"]),
        ("watch", "secrets", ["-A"]),
        ("create", "jobs.batch", ["-n", "anywhere"]),
        ("get", "pods", ["-n", "anywhere", "--subresource=log"]),
        ("delete", "persistentvolumeclaims", ["-n", "anywhere"]),
        ("update", "leases.coordination.k8s.io/tranship", ["-n", SPACE]),
        ("list", "deployments.apps/forklift-controller", ["-A"]),
    ],
)
def test_what_the_controllers_may_do(installed: Any, verb: str, resource: str, words: list[str]) -> None:
    assert may(installed, verb, resource, *words)


@pytest.mark.parametrize(
    ("verb", "resource", "words"),
    [
        ("create", "plans.forklift.konveyor.io", ["-A"]),
        ("patch", "plans.forklift.konveyor.io", ["-A"]),
        ("delete", "migrations.forklift.konveyor.io", ["-A"]),
        ("patch", "providers.forklift.konveyor.io", ["-A"]),
        ("patch", "forkliftcontrollers.forklift.konveyor.io", ["-A"]),
        ("get", "hooks.forklift.konveyor.io", ["-A"]),
        ("update", "secrets", ["-A"]),
        ("watch", "configmaps", ["-A"]),
        ("create", "pods", ["-n", "anywhere"]),
        ("delete", "pods", ["-n", SPACE]),
        ("create", "pods", ["-n", "anywhere", "--subresource=exec"]),
        ("create", "serviceaccounts", ["-n", "anywhere", "--subresource=token"]),
        ("get", "nodes", []),
        ("watch", "namespaces", []),
        ("create", "namespaces", []),
        ("delete", "namespaces", []),
        ("list", "deployments.apps", ["-A"]),
        ("patch", "deployments.apps", ["-n", SPACE]),
        ("patch", "deployments.apps/forklift-controller", ["-A"]),
        ("update", "leases.coordination.k8s.io/another", ["-n", SPACE]),
        ("get", "leases.coordination.k8s.io/tranship", ["-n", "kube-system"]),
        ("delete", "leases.coordination.k8s.io/tranship", ["-n", SPACE]),
        ("create", "clusterrolebindings.rbac.authorization.k8s.io", []),
        ("update", "customresourcedefinitions.apiextensions.k8s.io", []),
        ("impersonate", "users", []),
    ],
)
def test_what_they_may_not(installed: Any, verb: str, resource: str, words: list[str]) -> None:
    assert not may(installed, verb, resource, *words)


def test_what_people_may(installed: Any) -> None:
    installed.kubectl("create", "namespace", "team")
    for who, role in (("viewer", "view"), ("writer", "tranship-edit"), ("chief", "tranship-admin"), ("editor", "edit")):
        installed.kubectl("create", "serviceaccount", who, "-n", "team")
        account = f"--serviceaccount=team:{who}"
        installed.kubectl("create", "rolebinding", who, "-n", "team", f"--clusterrole={role}", account)

    def can(who: str, verb: str, kind: str, *words: str) -> bool:
        return may(installed, verb, f"{kind}.forklift.konveyor.io", *(words or ("-n", "team")), account=f"team:{who}")

    until = time.monotonic() + 30  # the cluster's own controller adds ours to `view`
    while not can("viewer", "list", "plans"):
        assert time.monotonic() < until
    assert can("editor", "get", "migrations") and not can("editor", "create", "plans")
    assert not can("viewer", "create", "migrations")
    assert can("writer", "create", "plans") and can("writer", "patch", "migrations")
    assert can("writer", "get", "forkliftcontrollers") and not can("writer", "update", "forkliftcontrollers")
    assert can("chief", "update", "forkliftcontrollers")
    assert not can("chief", "list", "plans", "-n", "default")


# --- a process -----------------------------------------------------------------------------------------------------------


class Process:
    """`tranship serve` on the cluster, as the given kubeconfig's user."""

    def __init__(self, kubeconfig: Path, home: Path, *words: str, **environment: str) -> None:
        home.mkdir()
        self.log = home / "log"
        argv = [sys.executable, "-m", "tranship", "serve", "--kubeconfig", str(kubeconfig), "--probes", "0", *words]
        with self.log.open("w") as log:
            told = {**os.environ, **environment}
            self._process = subprocess.Popen([*argv, "--directory", str(home)], stdout=log, stderr=log, env=told)

    def until(self, holds: Callable[[], object], seconds: float = 40.0) -> None:
        end = time.monotonic() + seconds
        while not holds():
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.05)

    def told(self, pattern: str) -> list[str]:
        return re.findall(pattern, self.log.read_text())

    def ask(self, path: str) -> tuple[int, str]:
        (port,) = self.told(r"probes are answered on port (\d+)")
        answer = httpx2.get(f"http://127.0.0.1:{port}{path}", timeout=5)
        return answer.status_code, answer.text.strip()

    def ended(self) -> int:
        return self._process.wait(30)

    def end(self, number: int = signal.SIGTERM) -> int:
        self._process.send_signal(number)
        return self._process.wait(60)


@pytest.fixture
def process(installed: Any, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """As that service account of our namespace, with its token."""
    began: list[Process] = []

    def start(*words: str, account: str = "tranship", **environment: str) -> Process:
        config = json.loads(installed.kubectl("config", "view", "--raw", "-o", "json"))
        token = installed.kubectl("create", "token", account, "-n", SPACE).strip()
        config["users"] = [{"name": "admin", "user": {"token": token}}]
        config["contexts"][0]["context"]["namespace"] = SPACE
        kubeconfig = tmp_path / account
        kubeconfig.write_text(json.dumps(config))
        made = Process(kubeconfig, tmp_path / str(len(began)), *words, **environment)
        began.append(made)
        return made

    yield start
    for one in began:
        one.end(signal.SIGKILL)


def holder(plane: Any) -> str:
    return str(plane.kubectl("get", "lease", "tranship", "-n", SPACE, "-o", "jsonpath={.spec.holderIdentity}"))


def test_probes_and_a_gentle_end(installed: Any, process: Callable[..., Process]) -> None:
    """Both replicas are ready; the one that ends gives its lease back, and the other leads at once."""
    first = process()
    first.until(lambda: first.told("event=leading"))
    assert first.ask("/healthz") == (200, "alive")
    assert first.ask("/readyz") == (200, "leading")
    second = process()
    second.until(lambda: second.told("probes") and second.ask("/readyz")[0] == 200)
    assert second.ask("/readyz") == (200, "waiting for its turn")
    assert first.end() == 0
    assert not first.told("Traceback|level=error")
    second.until(lambda: second.told("event=leading"), 6)  # a lease that is not given back stands for 15 seconds
    assert second.end() == 0
    assert holder(installed) == ""


def test_without_the_api_server_it_is_not_ready_and_then_ends(installed: Any, process: Callable[..., Process]) -> None:
    leads = process()
    leads.until(lambda: leads.told("event=leading"))
    waits = process()
    waits.until(lambda: waits.told("probes") and waits.ask("/readyz")[0] == 200)
    installed.kill_api_server()
    try:
        waits.until(lambda: waits.ask("/readyz")[0] == 503, 60)
        assert "has not answered" in waits.ask("/readyz")[1]
        assert waits.ask("/healthz") == (200, "alive")
        assert leads.ended() == 1
        assert leads.told("the lease was lost")
    finally:
        installed.start_api_server()
    waits.until(lambda: waits.told("event=leading"))
    assert waits.ask("/readyz") == (200, "leading")
    assert waits.end() == 0


# --- beside Forklift -----------------------------------------------------------------------------------------------------


@pytest.fixture
def forklift(installed: Any) -> Iterator[None]:
    """Its controller's Deployment, with a pod."""
    container = {"name": "main", "image": "example.com/forklift-controller"}
    template = {"metadata": {"labels": {"app": "forklift"}}, "spec": {"containers": [container]}}
    spec = {"selector": {"matchLabels": {"app": "forklift"}}, "template": template}
    place = ["-n", "konveyor-forklift"]
    installed.kubectl("create", "namespace", "konveyor-forklift")
    meta = {"name": "forklift-controller", "namespace": "konveyor-forklift"}
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec}
    installed.kubectl("create", "-f", "-", given=deployment)
    replicas = "--for=jsonpath={.status.replicas}=1"
    installed.kubectl("wait", "deployment/forklift-controller", *place, replicas, "--timeout=60s")
    yield
    installed.kubectl("delete", "deployment", "forklift-controller", *place)


def test_beside_forklift_it_keeps_still_unless_it_is_told(
    installed: Any, process: Callable[..., Process], forklift: None
) -> None:
    careful = process()
    careful.until(lambda: careful.told("keeping still"))
    assert careful.told("konveyor-forklift/forklift-controller")
    assert careful.told("kubectl scale deployment/forklift-controller -n konveyor-forklift --replicas=0")
    code, state = careful.ask("/readyz")
    assert code == 200
    assert state.startswith("leading; Forklift's own controller runs")
    assert not careful.told("works on the objects")
    assert careful.end() == 0
    bold = process(TRANSHIP_BESIDE_FORKLIFT="true")
    bold.until(lambda: bold.told("works on the objects"))
    assert bold.end() == 0


def test_who_cannot_see_whether_forklift_runs_does_not_act(installed: Any, process: Callable[..., Process]) -> None:
    installed.kubectl("create", "serviceaccount", "blind", "-n", SPACE)
    binding = ["rolebinding", "blind", "-n", SPACE, "--role=tranship-lease", f"--serviceaccount={SPACE}:blind"]
    installed.kubectl("create", *binding)
    blind = process(account="blind")
    assert blind.ended() == 1
    assert blind.told("error: not allowed: to see whether Forklift's controller runs")
    assert blind.told("fix: Let it list Deployments named forklift-controller")
