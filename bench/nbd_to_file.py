"""How fast a disk goes from NBD to a file, next to the tools that others use for it.

    python bench/nbd_to_file.py [--size 4G] [--runs 5] [--folder /dev/shm]

A file of random bytes in memory is served by nbdkit on a unix socket. The contestants take turns within each run, because
a machine that others use drifts: our mover as a controller starts it (process start, digests and journal included; the
reading back is told apart), nbdcopy, and qemu-img convert. Printed are medians and their ratio to nbdcopy's.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tranship.transfer import channel
from tranship.transfer.address import DiskAddress
from tranship.transfer.channel import Job, State

UNITS = {"M": 1 << 20, "G": 1 << 30}


def main() -> int:
    options = _options()
    size = int(options.size[:-1]) * UNITS[options.size[-1]]
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
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
                    began = time.perf_counter()
                    copy()
                    seconds.setdefault(who, []).append(time.perf_counter() - began)
                    if run == 0:
                        _call("cmp", str(folder / "source"), str(folder / "target"))
        finally:
            server.terminate()
            server.wait(10)
    return _table(seconds, size)


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
    while (report := channel.look(work / "job")).state is State.RUNNING:
        time.sleep(0.002)
    if report.state is not State.DONE:
        raise SystemExit(f"the mover failed: {report}")


def _qemu(folder: Path, socket: Path, size: int) -> None:
    os.truncate(os.open(folder / "target", os.O_WRONLY | os.O_CREAT, 0o600), size)
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
    """Take the memory that the target will need, and give it back: in a virtual machine the first touch of a page may cost
    ten times the copy, and would fall on whoever comes first. Everybody begins without a target."""
    target.unlink(missing_ok=True)
    _fill(target, size)
    target.unlink()


def _call(*argv: str) -> None:
    subprocess.run(argv, check=True, timeout=600)


def _table(seconds: dict[str, list[float]], size: int) -> int:
    base = statistics.median(seconds["nbdcopy"])
    print(f"{'':24}{'seconds':>9}{'GB/s':>8}{'x nbdcopy':>11}   all runs")
    for who, times in seconds.items():
        middle = statistics.median(times)
        every = " ".join(f"{t:.2f}" for t in times)
        print(f"{who:24}{middle:9.2f}{size / middle / 1e9:8.2f}{base / middle:11.2f}   {every}")
    return 0 if base / statistics.median(seconds["tranship"]) >= 1.2 else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="4G", help="such as 512M or 4G")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", default="/dev/shm", help="on a file system in memory")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
