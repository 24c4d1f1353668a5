"""The genuine ovirt-imageio daemon as a process, as a host of the lab's Engine runs it.

transfers.py opens and closes tickets over the daemon's control socket, which speaks plain HTTP. The kernel ends the daemon
when the process that started it ends; since it means the starting *thread*, one that lives as long as the process does it.
The daemon is GPL: it is run, and never imported.
"""

import http.client
import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from tranship.errors import Refused, TimedOut, ToolFailed, ToolMissing, Unreachable

DAEMON = "ovirt-imageio"
STARTS_WITHIN, TICKET_WITHIN = 30.0, 20.0  # seconds
LISTENS = re.compile(r"remote\.service listening on \('[^']+', (\d+)\)")

_launcher = ThreadPoolExecutor(max_workers=1, thread_name_prefix="imageio-launcher")


class Imageio:
    """Thread-safe after `start`. directory: configuration and log. certificate, key, ca: PEM files. local: it listens on a
    unix socket too, as it does for programs on an oVirt host. host: the name or address that it listens on. Sockets are in a
    temporary directory, whose path is short."""

    def __init__(
        self,
        directory: Path,
        certificate: Path,
        key: Path,
        ca: Path,
        *,
        local: bool = False,
        host: str = "localhost",
    ) -> None:
        self.directory = directory
        self._tls = {"key_file": key, "cert_file": certificate, "ca_file": ca}
        self._process: subprocess.Popen[bytes] | None = None
        self._sockets: Path | None = None
        self.local = local
        self._host = socket.gethostbyname(host)  # the daemon itself takes a name's first address, which may be ::1
        self.port = 0

    @property
    def unix_socket(self) -> Path:
        return Path(f"{self._sockets}/daemon")

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def start(self) -> None:
        """Returns when it answers. Raises ToolMissing, ToolFailed, TimedOut."""
        beside = Path(sys.executable).with_name(DAEMON)
        program = str(beside) if beside.exists() else shutil.which(DAEMON) or ""
        if not program or not shutil.which("setpriv"):
            raise ToolMissing("it is not installed", tool="setpriv" if program else DAEMON)
        self._sockets = Path(mkdtemp(prefix="imageio-"))
        self._configure()
        self._process = _launcher.submit(self._spawn, program).result(30)
        try:
            self._wait()
        except BaseException:
            self.close()
            raise
        found = LISTENS.search(self._log())
        if found is None:
            raise ToolFailed(argv=DAEMON, code=0, output="it does not say on which port it listens")
        self.port = int(found[1])

    def _configure(self) -> None:
        folder = self.directory / "conf.d"
        folder.mkdir(parents=True, exist_ok=True)
        sections: dict[str, dict[str, Any]] = {
            "daemon": {"systemd_enable": "false", "drop_privileges": "false", "run_dir": self._sockets},
            "tls": self._tls,
            "remote": {"host": self._host, "port": 0},
            "local": {"enable": str(self.local).lower(), "socket": self.unix_socket},
            "control": {"transport": "unix", "socket": f"{self._sockets}/control", "remove_timeout": "10"},
            "handlers": {"keys": "stderr"},
            "logger_root": {"level": "INFO", "handlers": "stderr"},
        }
        lines = [f"[{name}]\n" + "".join(f"{k} = {v}\n" for k, v in facts.items()) for name, facts in sections.items()]
        (folder / "50-lab.conf").write_text("\n".join(lines))

    def _spawn(self, program: str) -> "subprocess.Popen[bytes]":
        argv = ["setpriv", "--pdeathsig", "KILL", "--", program, "-c", str(self.directory)]
        with (self.directory / "imageio.log").open("wb") as log:
            return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)

    def _wait(self) -> None:
        until = time.monotonic() + STARTS_WITHIN
        while True:
            try:
                self._control("GET", "none", allowed=(404,))  # the control service starts last
                return
            except Unreachable as error:
                assert self._process is not None
                if (code := self._process.poll()) is not None:
                    raise ToolFailed(argv=DAEMON, code=code, output=self._log()[-500:]) from error
                if time.monotonic() > until:
                    raise TimedOut(self._log()[-500:], what=f"the start of {DAEMON}", seconds=STARTS_WITHIN) from error
            time.sleep(0.02)

    def _log(self) -> str:
        return (self.directory / "imageio.log").read_text(errors="replace")

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(20)
            self._process = None
        if self._sockets is not None:
            shutil.rmtree(self._sockets, ignore_errors=True)

    # tickets

    def add_ticket(
        self,
        id: str,
        size: int,
        url: str,
        *,
        timeout: int,
        inactivity_timeout: int,
        dirty: bool,
        ops: Sequence[str] = ("read",),
    ) -> None:
        """url: as in metal.Export. Times in seconds."""
        body = {"uuid": id, "size": size, "url": url, "timeout": timeout, "ops": list(ops), "dirty": dirty}
        self._control("PUT", id, {**body, "inactivity_timeout": inactivity_timeout, "sparse": True})

    def extend_ticket(self, id: str, timeout: int) -> None:
        self._control("PATCH", id, {"timeout": timeout})

    def remove_ticket(self, id: str) -> None:
        """Waits for requests that are being served; one that is gone already is fine."""
        until = time.monotonic() + TICKET_WITHIN
        while self._control("DELETE", id, allowed=(204, 404, 409))[0] == 409:
            if time.monotonic() > until:
                raise TimedOut(what=f"the end of ticket {id}", seconds=TICKET_WITHIN)
            time.sleep(0.05)

    def ticket(self, id: str) -> dict[str, Any] | None:
        """What the daemon says of it: active, canceled, idle_time, transferred, connections."""
        status, body = self._control("GET", id, allowed=(200, 404))
        return json.loads(body) if status == 200 else None

    def _control(
        self, method: str, id: str, body: dict[str, Any] | None = None, allowed: Sequence[int] = (200, 204)
    ) -> tuple[int, bytes]:
        connection = _Control(f"{self._sockets}/control")
        try:
            connection.request(method, f"/tickets/{id}", json.dumps(body) if body else None)
            answer = connection.getresponse()
            said = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(str(error) or type(error).__name__, address="the imageio daemon") from error
        finally:
            connection.close()
        if answer.status not in allowed:
            raise Refused(
                said.decode(errors="replace")[:300], what=f"{method} ticket {id}", fault=f"HTTP {answer.status}"
            )
        return answer.status, said


class _Control(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=30.0)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30.0)
        self.sock.connect(self._path)
