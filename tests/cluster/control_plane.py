"""A genuine Kubernetes control plane on this machine: etcd, API server, controller manager and scheduler, built from their Go
modules once into the user's cache.

    python tests/cluster/control_plane.py            builds the programs and prints where they are

Tests load it with runpy. It listens on free ports of 127.0.0.1; for pods, which know the API server by the address of its
service only, the API server listens on that very address, so that no kube-proxy is needed. Whatever runs ends with the
thread that started it.
"""

import hashlib
import json
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import yaml

GO = Path(__file__).parent / "go"
KUBERNETES = "1.34.4"
MANAGERS = ("kube-controller-manager", "kube-scheduler")
PROGRAMS = ("kube-apiserver", *MANAGERS, "kubelet")
BUILD_SECONDS = 2400
TOKEN = "the-administrator-of-a-test"
BEFORE, AFTER = 90.0, 30.0  # seconds to become ready, and to end


class Unavailable(Exception):
    """It cannot be built here; the text says why."""


def programs() -> Path:
    """The folder with the programs, built when sources or versions changed. Raises Unavailable without Go."""
    mark = hashlib.sha256()
    for path in sorted(GO.rglob("*.*")):
        mark.update(path.read_bytes())
    base = Path(os.environ.get("TRANSHIP_CACHE") or Path.home() / ".cache" / "tranship")
    made = base / f"cluster-{mark.hexdigest()[:12]}"
    if not made.exists():
        if shutil.which("go") is None:
            raise Unavailable("Go is not installed")
        base.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix="cluster-draft-", dir=base))
        _build("etcd", draft, ["./cmd/etcd"])
        _build("kubernetes", draft, [f"./cmd/{name}" for name in PROGRAMS])
        draft.chmod(0o755)
        draft.rename(made)
    return made


def _build(module: str, into: Path, packages: list[str]) -> None:
    major, minor, _ = KUBERNETES.split(".")
    version = "k8s.io/component-base/version"
    told = {"gitVersion": f"v{KUBERNETES}", "gitMajor": major, "gitMinor": minor}
    flags = " ".join(["-s -w", *(f"-X {version}.{name}={value}" for name, value in told.items())])
    argv = ["go", "build", "-trimpath", "-ldflags", flags, "-o", f"{into}/", *packages]
    environment = {**os.environ, "CGO_ENABLED": "0"}
    done = subprocess.run(argv, cwd=GO / module, env=environment, capture_output=True, text=True, timeout=BUILD_SECONDS)
    if done.returncode:
        raise Unavailable(f"go build of {module} ended with {done.returncode}: {done.stderr[-2000:]}")


class Processes:
    """Programs that run with their logs in a folder, and end with the thread that started them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def run(self, name: str, *argv: str) -> None:
        whole = ["setpriv", "--pdeathsig", "KILL", "--", *argv]
        with (self._folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(whole, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def wait(self, what: str, holds: Callable[[], object]) -> None:
        """Until it holds. Raises TimeoutError, or RuntimeError with the end of its log when a program has ended."""
        until = time.monotonic() + BEFORE
        while not holds():
            for name, process in self._running.items():
                if process.poll() is not None:
                    text = (self._folder / f"{name}.log").read_text(errors="replace")[-3000:]
                    raise RuntimeError(f"{name} ended with {process.returncode}: {text}")
            if time.monotonic() > until:
                raise TimeoutError(f"waiting for {what}; see {self._folder}")
            time.sleep(0.1)

    def end(self, name: str, number: int) -> None:
        process = self._running.pop(name, None)
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(AFTER)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(AFTER)

    def stop(self) -> None:
        """The last first."""
        for name in reversed(list(self._running)):
            self.end(name, signal.SIGTERM)


class ControlPlane:
    """One control plane in a folder. for_pods: pods reach the API server too (root is needed). kubeconfig: of its
    administrator, for kubectl."""

    def __init__(self, folder: Path, *, for_pods: bool = False) -> None:
        self.folder, self._for_pods = folder, for_pods
        self.etcd_port, self.peer_port = free_port(), free_port()
        self._services = f"10.{200 + secrets.randbelow(50)}.{secrets.randbelow(255)}"
        self.address, self.port = (f"{self._services}.1", 443) if for_pods else ("127.0.0.1", free_port())
        self.url = f"https://{self.address}:{self.port}"
        self.kubeconfig = folder / "kubeconfig"
        self.ca = folder / "certs" / "apiserver.crt"
        self._processes = Processes(folder)

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        key = ["openssl", "genrsa", "-out", str(self.folder / "accounts.key"), "2048"]
        subprocess.run(key, check=True, capture_output=True, timeout=60)
        (self.folder / "tokens.csv").write_text(f'{TOKEN},admin,admin,"system:masters"\n')
        cluster = {"server": self.url, "certificate-authority": str(self.ca)}
        configuration = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "admin", "user": {"token": TOKEN}}],
        }
        self.kubeconfig.write_text(yaml.safe_dump(configuration))
        if self._for_pods:
            self._own_address("add", check=True)
        self._start_etcd()
        self.start_api_server()

    def kubectl(self, *words: str, given: object = None, fails: bool = False) -> str:
        """Its output; with `fails` what it complains of. given: an object for its input."""
        kubectl = str(Path(sys.executable).with_name("kubectl"))
        argv = [kubectl, "--kubeconfig", str(self.kubeconfig), "--request-timeout=20s", *words]
        text = json.dumps(given) if given is not None else None
        done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=360, check=False)
        assert bool(done.returncode) == fails, f"{words}: {done.stdout}{done.stderr}"
        return done.stderr if fails else done.stdout

    def serve(self, definitions: list[dict[str, Any]]) -> None:
        """These kinds too, from now on."""
        crds = {"apiVersion": "v1", "kind": "List", "items": definitions}
        self.kubectl("apply", "--server-side", "-f", "-", given=crds)
        self._processes.wait("the kinds", self._serves_all)

    def _serves_all(self) -> bool:
        """`kubectl wait` fails at once for a definition that has no conditions yet."""
        found = json.loads(self.kubectl("get", "crd", "-o", "json"))["items"]
        conditions = [one.get("status", {}).get("conditions") or () for one in found]
        return all(any((one["type"], one["status"]) == ("Established", "True") for one in few) for few in conditions)

    def stop(self) -> None:
        self._processes.stop()
        if self._for_pods:
            self._own_address("delete", check=False)

    def _own_address(self, what: str, *, check: bool) -> None:
        argv = ["ip", "address", what, f"{self.address}/32", "dev", "lo"]
        subprocess.run(argv, check=check, timeout=30, capture_output=True)

    def kill_api_server(self) -> None:
        """And end its managers, which may or may not outlive it: whoever runs a control plane starts them again."""
        self._processes.end("kube-apiserver", signal.SIGKILL)
        for name in MANAGERS:
            self._processes.end(name, signal.SIGKILL)

    def start_api_server(self) -> None:
        """And its managers. Returns when it is ready."""
        accounts = str(self.folder / "accounts.key")
        self._run(
            "kube-apiserver",
            *("--etcd-servers", f"http://127.0.0.1:{self.etcd_port}"),
            *("--bind-address", self.address, "--secure-port", str(self.port), "--cert-dir", str(self.ca.parent)),
            *("--service-cluster-ip-range", f"{self._services}.0/24", "--allow-privileged"),
            *("--service-account-issuer", self.url, "--api-audiences", self.url),
            *("--service-account-key-file", accounts, "--service-account-signing-key-file", accounts),
            *("--kubelet-preferred-address-types", "InternalIP"),
            *("--authorization-mode", "Node,RBAC", "--token-auth-file", str(self.folder / "tokens.csv")),
        )
        self._processes.wait("the API server", self._ready)
        self._start_managers()

    def _start_etcd(self) -> None:
        clients, peers = (f"http://127.0.0.1:{port}" for port in (self.etcd_port, self.peer_port))
        self._run(
            "etcd",
            *("--data-dir", str(self.folder / "etcd"), "--unsafe-no-fsync", "--initial-cluster", f"default={peers}"),
            *("--listen-client-urls", clients, "--advertise-client-urls", clients),
            *("--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers),
        )

    def _start_managers(self) -> None:
        common = ["--kubeconfig", str(self.kubeconfig), "--leader-elect=false", "--secure-port", "0"]
        accounts = ["--service-account-private-key-file", str(self.folder / "accounts.key")]
        trust = ["--root-ca-file", str(self.ca), "--use-service-account-credentials"]
        self._run("kube-controller-manager", *common, *accounts, *trust)
        self._run("kube-scheduler", *common)

    def _ready(self) -> bool:
        try:
            headers = {"Authorization": f"Bearer {TOKEN}"}
            trust = ssl.create_default_context(cafile=self.ca)
            return httpx2.get(f"{self.url}/readyz", headers=headers, verify=trust, timeout=5).status_code == 200
        except (httpx2.HTTPError, OSError):
            return False

    def _run(self, program: str, *arguments: str) -> None:
        self._processes.run(program, str(programs() / program), *arguments)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    print(programs())
