"""A genuine node beside the control plane: containerd, runc, a CNI bridge and the kubelet, as root, on this machine.

Everything lives in one short directory below /run and ends with `stop`; names and addresses are of its own, so that several
checkouts can run at a time. Pods reach this machine at `Node.address`, and images come from archives: there is no registry.
`python tests/cluster/node.py` runs plane, node and the lab's stand-in for KubeVirt until Ctrl-C.
"""

import json
import os
import runpy
import secrets
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
_plane = runpy.run_path(str(HERE / "control_plane.py"))
CNI = ("/usr/lib/cni", "/usr/libexec/cni")
PAUSE = "localhost/pause:1"


class Node:
    """plane: a started ControlPlane, for pods."""

    name = "node"

    def __init__(self, plane: Any) -> None:
        self._plane = plane
        self.folder = Path(tempfile.mkdtemp(prefix="tranship-node-", dir="/run"))
        self._bridge = f"trn{secrets.token_hex(4)}"
        self._subnet = f"10.{100 + secrets.randbelow(100)}.{secrets.randbelow(255)}"
        self.address = f"{self._subnet}.1"
        self._socket = self.folder / "containerd.sock"
        self._port = _plane["free_port"]()
        self._processes = _plane["Processes"](self.folder)

    def start(self) -> None:
        """And wait until it is ready."""
        self._make_network()
        self._start_containerd()
        self._load_pause()
        self.start_kubelet()
        self._processes.wait("the node to be ready", self._ready)

    def stop(self) -> None:
        self._processes.stop()
        self._kill_containers()
        for line in reversed(Path("/proc/mounts").read_text().splitlines()):
            place = line.split()[1]
            if place.startswith(str(self.folder)):
                subprocess.run(["umount", "-l", place], timeout=30, check=False)
        subprocess.run(["ip", "link", "delete", self._bridge], timeout=30, check=False, capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def load_image(self, archive: Path) -> None:
        self._ctr("images", "import", str(archive))

    def pid(self, container: str) -> int:
        """On this machine, of what runs in a container."""
        return int((self.folder / "c/state/io.containerd.runtime.v2.task/k8s.io" / container / "init.pid").read_text())

    def kill_kubelet(self) -> None:
        self._processes.end("kubelet", signal.SIGKILL)

    def start_kubelet(self) -> None:
        configuration = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "address": self.address,
            "port": self._port,
            "healthzPort": 0,
            "readOnlyPort": 0,
            "cgroupDriver": "cgroupfs",
            "cgroupsPerQOS": False,
            "enforceNodeAllocatable": [],
            "failSwapOn": False,
            "failCgroupV1": False,
            "localStorageCapacityIsolation": False,
            "makeIPTablesUtilChains": False,
            "containerRuntimeEndpoint": f"unix://{self._socket}",
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
            "podLogsDir": str(self.folder / "logs"),  # the usual one is shared: other kubelets here tidy it up
            "resolvConf": "/dev/null",
            "syncFrequency": "1s",
            "fileCheckFrequency": "1s",
        }
        path = self.folder / "kubelet.yaml"
        path.write_text(yaml.safe_dump(configuration))
        self._processes.run(
            "kubelet",
            str(_plane["programs"]() / "kubelet"),
            *("--config", str(path), "--kubeconfig", str(self._plane.kubeconfig), "--root-dir", str(self.folder / "k")),
            *("--cert-dir", str(self.folder / "certs"), "--hostname-override", self.name, "--node-ip", self.address),
        )

    def _make_network(self) -> None:
        for words in (
            ["link", "add", self._bridge, "type", "bridge"],
            ["address", "add", f"{self.address}/24", "dev", self._bridge],
            ["link", "set", self._bridge, "up"],
        ):
            subprocess.run(["ip", *words], check=True, timeout=30, capture_output=True)
        bridge = {
            "type": "bridge",
            "bridge": self._bridge,
            "isGateway": True,
            "ipam": {
                "type": "host-local",
                "dataDir": str(self.folder / "ipam"),
                "ranges": [[{"subnet": f"{self._subnet}.0/24"}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }
        folder = self.folder / "cni"
        folder.mkdir()
        listing = {"cniVersion": "0.4.0", "name": "tests", "plugins": [bridge]}
        (folder / "10-tests.conflist").write_text(json.dumps(listing))

    def _start_containerd(self) -> None:
        plugins = next(place for place in CNI if Path(place).is_dir())
        path = self.folder / "containerd.toml"
        path.write_text(f"""
version = 2
root = "{self.folder}/c/root"
state = "{self.folder}/c/state"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs"]
[grpc]
address = "{self._socket}"
[plugins."io.containerd.internal.v1.opt"]
path = "{self.folder}/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
restrict_oom_score_adj = true
disable_apparmor = true
device_ownership_from_security_context = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{self.folder}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "{self._snapshotter()}"
""")
        self._processes.run("containerd", "containerd", "--config", str(path))
        self._processes.wait("containerd", lambda: self._socket.exists() and self._ctr("version", fails=True))

    def _snapshotter(self) -> str:
        """Overlay does not lie on every file system: in a container that is one itself, files are copied."""
        lower, upper, work, there = (self.folder / "try" / name for name in ("lower", "upper", "work", "there"))
        for one in (lower, upper, work, there):
            one.mkdir(parents=True)
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        argv = ["mount", "-t", "overlay", "overlay", "-o", options, str(there)]
        works = subprocess.run(argv, timeout=30, check=False, capture_output=True).returncode == 0
        if works:
            subprocess.run(["umount", str(there)], timeout=30, check=True)
        return "overlayfs" if works else "native"

    def _load_pause(self) -> None:
        program, archive = self.folder / "pause", self.folder / "pause.tar"
        compile_ = ["gcc", "-O2", "-static", "-o", str(program), str(HERE / "pause.c")]
        subprocess.run(compile_, check=True, timeout=120, capture_output=True)
        image = runpy.run_path(str(HERE.parent.parent / "scripts" / "image"))
        image["archive"](archive, f"{PAUSE}", [("pause", program)], ["/pause"])
        self.load_image(archive)

    def _ready(self) -> bool:
        nodes = json.loads(self._plane.kubectl("get", "node", "-o", "json"))["items"]
        conditions = [one for node in nodes for one in node["status"].get("conditions", ())]
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    def _ctr(self, *words: str, fails: bool = False) -> bool:
        argv = ["ctr", "--address", str(self._socket), "-n", "k8s.io", *words]
        return subprocess.run(argv, timeout=120, check=not fails, capture_output=True).returncode == 0

    def _kill_containers(self) -> None:
        """Their shims outlive containerd; each is a process that names our folder."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    line = (entry / "cmdline").read_bytes().decode(errors="replace")
                    if "containerd-shim" in line and str(self.folder) in line:
                        for child in _children(int(entry.name)):
                            os.kill(child, signal.SIGKILL)
                        os.kill(int(entry.name), signal.SIGKILL)
                except OSError:
                    continue


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(one) for one in text.split()]


def _by_hand() -> None:
    from tranship.lab.kubevirt import KubeVirt, StorageClass
    from tranship.lab.kubevirt.schemas import definitions

    classes = (StorageClass("files", default=True), StorageClass("block", volume_mode="Block"))
    with tempfile.TemporaryDirectory() as scratch:
        plane = _plane["ControlPlane"](Path(scratch, "plane"), for_pods=True)
        kubevirt = KubeVirt(plane.kubeconfig, Path(scratch, "kubevirt"), node=Node.name, image=PAUSE, classes=classes)
        plane.start()
        node = Node(plane)
        for number in (signal.SIGINT, signal.SIGTERM):  # a shell that puts it into the background has Ctrl-C ignored
            signal.signal(number, signal.default_int_handler)
        try:
            plane.serve(definitions())
            kubevirt.start()
            node.start()
            print(f"export KUBECONFIG={plane.kubeconfig}", flush=True)
            signal.pause()
        except KeyboardInterrupt:
            print("ending")
        finally:
            node.stop()
            kubevirt.close()
            plane.stop()


if __name__ == "__main__":
    _by_hand()
