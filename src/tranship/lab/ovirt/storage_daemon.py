"""One qemu-storage-daemon: the process, and the verbs that metal.py builds its chains of images from.

Nodes (open images), exports (nodes that NBD clients see) and jobs, all under names that the caller chooses. The monitor
is a socket pair, so there is no path and no waiting for one. The daemon ends when its parent does, however that ends: a
shell around it gets SIGTERM from the kernel then, passes it on, and takes the NBD socket away, which QEMU would leave. The
kernel means the starting *thread*, therefore one thread that lives as long as the process does all the starting.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryFile, mkdtemp
from typing import Any

from tranship.errors import Busy, Refused, ToolFailed, ToolMissing, TranshipError
from tranship.lab.ovirt.qmp import Qmp

DAEMON = "qemu-storage-daemon"
JOB = 600.0  # seconds that a merge may take
# $0 is the directory to remove, $@ the daemon.
AROUND = """trap 'rm -rf -- "$0"' EXIT; trap 'kill $! || exit' TERM; "$@" & wait $! || wait $!"""
LEAVE = 5.0  # seconds until a client that has hung up is out of the daemon's books
DRIVERS = {"cow": "qcow2", "raw": "raw"}

_launcher = ThreadPoolExecutor(max_workers=1, thread_name_prefix="metal-launcher")


class StorageDaemon:
    """Not thread-safe. The NBD socket is in a directory of its own in the system's temporary one, because a socket's
    path may not be longer than 107 bytes."""

    def __init__(self) -> None:
        for tool in (DAEMON, "qemu-img", "setpriv"):
            if not shutil.which(tool):
                raise ToolMissing("it is not installed", tool=tool)
        self.home = Path(mkdtemp(prefix="lab-"))
        self.socket = self.home / "nbd"
        self._log = TemporaryFile()  # noqa: SIM115
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = _launcher.submit(self._spawn, theirs.fileno()).result(30)
        try:
            self.qmp = Qmp(ours, DAEMON)
        except TranshipError as error:
            ours.close()
            code = self._end()
            self._log.seek(0)
            text = self._log.read().decode(errors="replace")[-500:]
            raise ToolFailed(argv=DAEMON, code=code, output=text) from error

    def _spawn(self, monitor: int) -> "subprocess.Popen[bytes]":
        argv = [
            *("setpriv", "--pdeathsig", "TERM", "--", "sh", "-c", AROUND, str(self.home), DAEMON),
            *("--nbd-server", f"addr.type=unix,addr.path={self.socket},max-connections=0"),
            *("--chardev", f"socket,id=qmp,fd={monitor}", "--monitor", "chardev=qmp"),
        ]
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            pass_fds=[monitor],
            start_new_session=True,
        )

    def close(self) -> None:
        """May be called by any thread: what another one waits for fails then."""
        self._end()
        self.qmp.close()
        self._log.close()

    def _end(self) -> int:
        self.process.terminate()
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            shutil.rmtree(self.home, ignore_errors=True)
            return self.process.wait(20)

    def execute(self, command: str, **arguments: Any) -> Any:
        """Keywords are written with _ for QEMU's -."""
        return self.qmp.execute(command, _named(arguments))

    def transaction(self, actions: Sequence[dict[str, Any]]) -> None:
        """All of `action(...)`, or none; between them nobody writes."""
        self.execute("transaction", actions=list(actions))

    # images

    def add_image(self, node: str, path: Path, format: str, backing: str | None = None, *, aside: bool = False) -> None:
        """Open it. aside: read-only, beside the node that has it open already; whoever asks has flushed that one."""
        options = _image(node, path, format, backing)
        if aside:
            options |= {"read-only": True, "force-share": True}
        self.qmp.execute("blockdev-add", options)

    def reopen_image(self, node: str, path: Path, format: str, backing: str | None, *, read_only: bool) -> None:
        self.execute("blockdev-reopen", options=[_image(node, path, format, backing) | {"read-only": read_only}])

    def remove_image(self, node: str) -> None:
        self.execute("blockdev-del", node_name=node)

    # exports

    def add_export(
        self, id: str, node: str, *, writable: bool = False, bitmaps: Sequence[str] = (), depth: bool = False
    ) -> None:
        """Its NBD name is its id. depth: of what is allocated; imageio tells a hole in a layer from zeroes by it."""
        self.execute(
            "block-export-add",
            type="nbd",
            id=id,
            name=id,
            node_name=node,
            writable=writable,
            bitmaps=list(bitmaps),
            allocation_depth=depth,
        )

    def remove_export(self, id: str) -> None:
        """Clients are cut off."""
        self.execute("block-export-del", id=id, mode="hard")
        self._wait_unexported(id)

    def withdraw_export(self, id: str) -> None:
        """Busy while a client is connected."""
        until = time.monotonic() + LEAVE
        while True:
            try:
                self.execute("block-export-del", id=id, mode="safe")
                break
            except Refused as error:
                if time.monotonic() > until:
                    raise Busy("it has a client", what=f"closing export {id}", fault="in use") from error
            time.sleep(0.02)
        self._wait_unexported(id)

    def _wait_unexported(self, id: str) -> None:
        wanted = lambda name, data: name == "BLOCK_EXPORT_DELETED" and data["id"] == id  # noqa: E731
        self.qmp.wait(wanted, f"the end of export {id}", 60)

    # jobs: all of them are started with auto-dismiss off, so that their end can be asked about

    def wait_job(self, id: str, *statuses: str) -> str:
        """The first of `statuses` that the job has."""

        def wanted(name: str, data: dict[str, Any]) -> bool:
            return name == "JOB_STATUS_CHANGE" and data["id"] == id and data["status"] in statuses

        return str(self.qmp.wait(wanted, f"job {id}", JOB)["status"])

    def dismiss_job(self, id: str) -> None:
        """Forget a concluded one. Refused with QEMU's reason if it has failed."""
        found = [job for job in self.execute("query-jobs") if job["id"] == id]
        self.execute("job-dismiss", id=id)
        self.qmp.forget(lambda data: data.get("id") == id or data.get("device") == id)
        if found and "error" in found[0]:
            raise Refused(found[0]["error"], what=id, fault="JobFailed")

    def cancel_job(self, id: str) -> None:
        """Also one that has failed already."""
        with contextlib.suppress(Refused):
            self.execute("block-job-cancel", device=id, force=True)
        self.wait_job(id, "concluded")
        with contextlib.suppress(Refused):
            self.dismiss_job(id)


def action(type: str, **data: Any) -> dict[str, Any]:
    """One step of a transaction."""
    return {"type": type, "data": _named(data)}


def _image(node: str, path: Path, format: str, backing: str | None) -> dict[str, Any]:
    options: dict[str, Any] = {"driver": DRIVERS[format], "node-name": node, "discard": "unmap"}
    # Nothing outlives the process that has the caches, so there is nothing to wait for the disk for.
    options["cache"] = {"no-flush": True}
    options["file"] = {"driver": "file", "filename": str(path)}
    return options | ({"backing": backing} if format == "cow" else {})


def create_image(path: Path, size: int, *, base: Path | None = None, base_format: str = "cow") -> None:
    """A new empty qcow2. base: what its header names as backing file; it is not opened."""
    backing = ["-u", "-b", str(base), "-F", DRIVERS[base_format]] if base else []
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", *backing, str(path), str(size)]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise ToolFailed(argv=" ".join(argv), code=done.returncode, output=done.stderr[-500:])


def _named(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("_", "-"): value for name, value in arguments.items()}
