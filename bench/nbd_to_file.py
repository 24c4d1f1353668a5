"""How fast a disk goes from NBD to a file, next to the tools that others use for it.

    python bench/nbd_to_file.py [--size 4G] [--runs 5] [--folder FOLDER]

A file of random bytes in memory is served by nbdkit on a unix socket. The contestants take turns within each run, because
a machine that others use drifts: our mover as a controller starts it (process start, digests and journal included; the
reading back is told apart), nbdcopy, and qemu-img convert. Printed are medians and their ratio to nbdcopy's, and the CPU
seconds of client and server together: the truer number on a machine that is not alone.

The folder is a file system in memory; root gets one of its own with huge pages, because in a virtual machine the first
touch of every small page may cost more than the copy.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tranship.transfer import channel
from tranship.transfer.address import DiskAddress
from tranship.transfer.channel import Job, State

UNITS = {"M": 1 << 20, "G": 1 << 30}


def main() -> int:
    options = _options()
    size = int(options.size[:-1]) * UNITS[options.size[-1]]
    seconds: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    with memory(options.folder, size) as folder:
        _fill(folder / "source", size)
        socket, server = serve(folder)
        contestants: dict[str, Callable[[], None]] = {
            "tranship": lambda: move(folder, socket, size, verify=False),
            "tranship, read back": lambda: move(folder, socket, size, verify=True),
            "nbdcopy": lambda: _call("nbdcopy", f"nbd+unix:///?socket={socket}", str(folder / "target")),
            "qemu-img -W -m 16": lambda: _qemu(folder, socket, size),
        }
        try:
            for run in range(options.runs):
                for who, copy in contestants.items():
                    _warm(folder / "target", size)
                    began, used = time.perf_counter(), _cpu(server.pid)
                    copy()
                    seconds.setdefault(who, []).append(time.perf_counter() - began)
                    cpu.setdefault(who, []).append(_cpu(server.pid) - used)
                    if run == 0:
                        _call("cmp", str(folder / "source"), str(folder / "target"))
        finally:
            server.terminate()
            server.wait(10)
    return _table(seconds, cpu, size)


@contextmanager
def memory(folder: str, size: int) -> Iterator[Path]:
    """A folder in memory for source and target."""
    with tempfile.TemporaryDirectory(dir=folder or ("/dev/shm" if os.geteuid() else None)) as name:
        options = f"huge=always,size={3 * size}"
        mounted = not folder and not os.geteuid()
        if mounted:
            _call("mount", "-t", "tmpfs", "-o", options, "tmpfs", name)
        try:
            yield Path(name)
        finally:
            if mounted:
                _call("umount", name)


def serve(folder: Path) -> tuple[Path, subprocess.Popen[bytes]]:
    socket, pid = folder / "socket", folder / "pid"
    argv = ["nbdkit", "-f", "-U", str(socket), "-P", str(pid), "file", str(folder / "source")]
    server = subprocess.Popen(argv)
    deadline = time.monotonic() + 10
    while not pid.exists():
        if time.monotonic() > deadline or server.poll() is not None:
            raise SystemExit("nbdkit does not start")
        time.sleep(0.01)
    return socket, server


def move(folder: Path, socket: Path, size: int, *, verify: bool) -> None:
    work = Path(tempfile.mkdtemp(dir=folder))
    job = Job(
        disk="bench",
        source=DiskAddress(f"nbd+unix:///?socket={socket}"),
        target=DiskAddress(f"file://{folder / 'target'}"),
        size=size,
        round="1",
        point="bench",
        state=work / "state",
        verify=verify,
    )
    channel.start(work / "job", job)
    pid = int((work / "job" / "lock").read_text())
    os.waitpid(pid, 0)
    report = channel.look(work / "job")
    if report.state is not State.DONE:
        raise SystemExit(f"the mover failed: {report}")


def _qemu(folder: Path, socket: Path, size: int) -> None:
    (folder / "target").touch()
    os.truncate(folder / "target", size)
    source = f"nbd+unix:///?socket={socket}"
    raw = ("-f", "raw", "-O", "raw")
    _call("qemu-img", "convert", "-n", "-W", "-m", "16", *raw, source, str(folder / "target"))


def _fill(path: Path, size: int) -> None:
    block = os.urandom(64 << 20)
    with path.open("wb") as file:
        for at in range(0, size, len(block)):
            turned = at // len(block) * 4099 % len(block)  # no two parts alike, and quickly made
            file.write((block[turned:] + block[:turned])[: size - at])


def _warm(target: Path, size: int) -> None:
    """Take the memory that the target will need, and give it back, so that the host has it at hand for everybody. All begin
    without a target."""
    target.unlink(missing_ok=True)
    _fill(target, size)
    target.unlink()


def _call(*argv: str) -> None:
    subprocess.run(argv, check=True, timeout=600)


def _cpu(server: int) -> float:
    """Seconds of the server and of all clients that have ended."""
    fields = Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") + children.ru_utime + children.ru_stime


def _table(seconds: dict[str, list[float]], cpu: dict[str, list[float]], size: int) -> int:
    base = statistics.median(seconds["nbdcopy"])
    print(f"{'':24}{'seconds':>9}{'GB/s':>8}{'x nbdcopy':>11}{'CPU s/GB':>10}   all runs")
    for who, times in seconds.items():
        middle = statistics.median(times)
        every = " ".join(f"{t:.2f}" for t in times)
        work = statistics.median(cpu[who]) / size * 1e9
        print(f"{who:24}{middle:9.2f}{size / middle / 1e9:8.2f}{base / middle:11.2f}{work:10.2f}   {every}")
    return 0 if base / statistics.median(seconds["tranship"]) >= 1.2 else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="4G", help="such as 512M or 4G")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", default="", help="on a file system in memory; default: one of its own, or /dev/shm")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
