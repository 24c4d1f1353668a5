"""A running guest: QEMU with the lab's disks, a serial console and a monitor.

The simulated vCenter starts one when a VM is powered on, the tests start one on a migrated disk. Emulation (TCG) is the
default: it works wherever QEMU does, and these guests mostly sleep. QEMU's serial port is its own stdin and stdout. It is
killed by the kernel when the process that started it ends: `setpriv --pdeathsig` asks for that, and since the kernel
means the starting *thread*, one thread that lives as long as the process does all the starting.
"""

import contextlib
import json
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from tranship.errors import Broken, NotFound, TimedOut, ToolFailed, ToolMissing, Unreachable, Unsupported

QEMU = "qemu-system-x86_64"
OVMF = Path("/usr/share/ovmf/OVMF.fd")
MIB = 1024 * 1024

_launcher = ThreadPoolExecutor(max_workers=1, thread_name_prefix="guest-launcher")
_Found = TypeVar("_Found")
_LAST = re.compile(r"TRANSHIP (?:LAST |BYE last=|CHECK last=)(\d+)")


class Guest:
    """One machine. disks: NBD URLs or raw files, in the order of their BIOS numbers. memory: bytes.
    extra: further QEMU arguments (a kernel to boot, say)."""

    def __init__(
        self,
        run_dir: Path,
        disks: Sequence[str | Path],
        *,
        memory: int = 64 * MIB,
        cpus: int = 1,
        firmware: str = "bios",
        macs: Sequence[str] = (),
        accel: str = "tcg",
        extra: Sequence[str] = (),
    ) -> None:
        if firmware not in ("bios", "uefi"):
            raise Unsupported(firmware, what="firmware")
        self.run_dir = run_dir
        self.qmp_path = run_dir / "qmp.sock"
        self._arguments = [*_machine(accel, memory, cpus, firmware, self.qmp_path), *_devices(disks, macs), *extra]
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._text = ""
        self._news = threading.Condition(threading.RLock())
        self._ended = True

    def start(self) -> None:
        """Power on. A guest that has exited can be started again; its console begins anew."""
        if self.running:
            raise Broken("the guest runs already")
        for tool in (QEMU, "setpriv"):
            if not shutil.which(tool):
                raise ToolMissing("it is not installed", tool=tool)
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self.qmp_path.unlink(missing_ok=True)
        self._text = ""
        self._ended = False
        with (self.run_dir / "qemu.log").open("wb") as errors:
            self._process = _launcher.submit(
                subprocess.Popen[bytes],
                ["setpriv", "--pdeathsig", "KILL", "--", QEMU, *self._arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            ).result(30)
        self._reader = threading.Thread(target=self._listen, args=[self._process], name="guest-console", daemon=True)
        self._reader.start()

    def request_shutdown(self) -> None:
        """Ask the guest to finish what it does and power off. Does not wait."""
        self.send(b"q")

    def send(self, data: bytes) -> None:
        """Type on the serial console."""
        if self._process and self._process.stdin:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(data)
                self._process.stdin.flush()

    def kill(self) -> None:
        """Power off hard, at once."""
        if self._process:
            self._process.kill()
            self._process.wait(30)
            self._end()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """QEMU's, 0 before the first start."""
        return self._process.pid if self._process else 0

    def wait_exit(self, deadline: float) -> None:
        """Wait at most `deadline` seconds for the guest to power off. TimedOut, or ToolFailed if QEMU failed."""
        if not self._process:
            return
        try:
            code = self._process.wait(deadline)
        except subprocess.TimeoutExpired as error:
            raise TimedOut(self._tail(), what="the guest's shutdown", seconds=deadline) from error
        self._end()
        if code > 0:
            raise ToolFailed(argv=QEMU, code=code, output=self._errors())

    @property
    def console(self) -> str:
        with self._news:
            return self._text

    def wait_line(self, pattern: str, deadline: float) -> re.Match[str]:
        """Wait at most `deadline` seconds for a whole console line in which the pattern is found."""
        expression = re.compile(pattern)

        def look() -> re.Match[str] | None:
            whole = self._text[: self._text.rfind("\n") + 1]
            return next(filter(None, map(expression.search, whole.splitlines())), None)

        return self._wait(look, f"console line {pattern!r}", deadline)

    def wait_number(self, number: int, deadline: float) -> int:
        """Wait at most `deadline` seconds until the guest has told a record number this high; what it told."""
        return self._wait(lambda: self.last if self.last >= number else None, f"record {number}", deadline)

    @property
    def last(self) -> int:
        """The highest record number that the guest told so far."""
        return max((int(number) for number in _LAST.findall(self.console)), default=0)

    def qmp(self, command: str, **arguments: Any) -> Any:
        """One monitor command, such as `stop`, `cont`, `query-status`."""
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.settimeout(10)
            try:
                monitor.connect(str(self.qmp_path))
                with monitor.makefile("rw") as stream:
                    stream.readline()
                    _exchange(stream, "qmp_capabilities", {})
                    return _exchange(stream, command, arguments)
            except (OSError, ValueError) as error:
                raise Unreachable(str(error), address=str(self.qmp_path)) from error

    def _wait(self, look: Callable[[], _Found | None], what: str, deadline: float) -> _Found:
        until = time.monotonic() + deadline
        with self._news:
            while True:
                if (found := look()) is not None:
                    return found
                rest = until - time.monotonic()
                if self._ended:
                    raise NotFound(self._tail() + self._errors(), what="up to the guest's end", name=what)
                if rest <= 0:
                    raise TimedOut(self._tail(), what=f"the wait for {what}", seconds=deadline)
                self._news.wait(rest)

    def _listen(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdout
        with (self.run_dir / "console.log").open("ab") as log:
            while data := process.stdout.read1(65536):  # type: ignore[attr-defined]
                log.write(data)
                log.flush()
                with self._news:
                    self._text += data.decode(errors="replace").replace("\r", "")
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def _end(self) -> None:
        if self._reader:
            self._reader.join(10)
        if self._process:
            for stream in (self._process.stdin, self._process.stdout):
                if stream:
                    with contextlib.suppress(OSError):
                        stream.close()

    def _tail(self) -> str:
        return f"; the console ends: {self.console[-300:]!r}"

    def _errors(self) -> str:
        return (self.run_dir / "qemu.log").read_text(errors="replace")[-500:]


def _machine(accel: str, memory: int, cpus: int, firmware: str, qmp: Path) -> list[str]:
    return [
        *("-accel", accel, "-machine", "pc", "-m", str(memory // MIB), "-smp", str(cpus)),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-chardev", "stdio,id=com1,signal=off", "-serial", "chardev:com1"),
        *("-qmp", f"unix:{qmp},server=on,wait=off"),
        *(("-bios", str(OVMF)) if firmware == "uefi" else ()),
    ]


def _devices(disks: Sequence[str | Path], macs: Sequence[str]) -> list[str]:
    """Disks in order. The NBD driver and raw files keep nothing in QEMU: what the guest was told is written, is."""
    arguments: list[str] = []
    for number, disk in enumerate(disks):
        drive = f"file={str(disk).replace(',', ',,')},if=none,id=disk{number},format=raw,cache=writeback,discard=unmap"
        device = f"virtio-blk-pci,drive=disk{number},bootindex={number + 1}"
        arguments += ["-drive", drive, "-device", device]
    for number, mac in enumerate(macs):
        arguments += ["-netdev", f"user,id=net{number},restrict=on"]
        arguments += ["-device", f"virtio-net-pci,netdev=net{number},mac={mac},romfile="]
    return arguments


def _exchange(stream: Any, command: str, arguments: dict[str, Any]) -> Any:
    stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
    stream.flush()
    while True:
        line = stream.readline()
        if not line:
            raise OSError("the monitor hung up")
        answer = json.loads(line)
        if "error" in answer:
            raise OSError(answer["error"]["desc"])
        if "return" in answer:
            return answer["return"]
