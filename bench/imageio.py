"""How fast a disk comes from an oVirt host, next to oVirt's own client.

    python bench/imageio.py [--size 2G] [--runs 5] [--folder FOLDER] [--local]

The genuine ovirt-imageio daemon serves, over TLS, an image in memory that qemu-nbd has open. The contestants take turns within
each run, because a machine that others use drifts: our mover as a controller starts it (process start, digests and journal
included; the reading back is told apart), and what `ovirt-img download-disk` runs, as a process of its own, to a raw file. Of
two images: random bytes all over, and a quarter of them. Printed are medians, their ratio to oVirt's client, and the CPU
seconds of client and servers together. `--local`: by the daemon's unix socket, which both clients find by themselves.
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

from nbd_to_file import UNITS, _call, _fill, _warm, memory

from tranship.lab.certificates import make_identity
from tranship.lab.ovirt.imageio import Imageio
from tranship.transfer import channel
from tranship.transfer.address import DiskAddress
from tranship.transfer.channel import Job, State

GOAL = 1.3
CLIENT = """
import sys
from ovirt_imageio import client
url, target, ca = sys.argv[1:]
client.download(url, target, ca, fmt="raw")
"""


def main() -> int:
    options = _options()
    size = int(options.size[:-1]) * UNITS[options.size[-1]]
    ratios = []
    with memory(options.folder, size) as folder:
        make_identity(folder / "certificates")
        for name, filled in (("random bytes", size), ("a quarter of it data", size // 4)):
            _image(folder / "source", size, filled)
            with serve(folder, size, local=options.local) as (url, servers):
                seconds, cpu = race(folder, url, size, servers, options)
            ratios.append(_table(name, seconds, cpu, size))
            (folder / "source").unlink()
    return 0 if ratios[0] >= GOAL else 1


def race(
    folder: Path, url: str, size: int, servers: tuple[int, ...], options: argparse.Namespace
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    ca = folder / "certificates" / "ca.pem"
    contestants: dict[str, Callable[[], None]] = {
        "tranship": lambda: move(folder, url, size, options, verify=False),
        "tranship, read back": lambda: move(folder, url, size, options, verify=True),
        "oVirt's client": lambda: _call(sys.executable, "-c", CLIENT, url, str(folder / "target"), str(ca)),
    }
    seconds: dict[str, list[float]] = {who: [] for who in contestants}
    cpu: dict[str, list[float]] = {who: [] for who in contestants}
    for run in range(options.runs):
        for who, copy in contestants.items():
            _warm(folder / "target", size)
            began, used = time.perf_counter(), cpu_of(servers)
            copy()
            seconds[who].append(time.perf_counter() - began)
            cpu[who].append(cpu_of(servers) - used)
            if run == 0:
                _call("cmp", str(folder / "source"), str(folder / "target"))
    return seconds, cpu


def move(folder: Path, url: str, size: int, options: argparse.Namespace, *, verify: bool) -> None:
    work = Path(tempfile.mkdtemp(dir=folder))
    job = Job(
        disk="bench",
        source=DiskAddress(f"imageio+{url}", {"ca": (folder / "certificates" / "ca.pem").read_text()}),
        target=DiskAddress(f"file://{folder / 'target'}"),
        size=size,
        round="1",
        point="bench",
        state=work / "state",
        verify=verify,
        connections=options.connections,
        depth=options.depth,
    )
    channel.start(work / "job", job)
    os.waitpid(int((work / "job" / "lock").read_text()), 0)
    report = channel.look(work / "job")
    if report.state is not State.DONE:
        raise SystemExit(f"the mover failed: {report}")


@contextmanager
def serve(folder: Path, size: int, *, local: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(URL of the image, PIDs)"""
    place, pid = folder / "nbd", folder / "nbd.pid"
    argv = ["qemu-nbd", "-r", "-t", "-e", "16", "-f", "raw", "-x", "disk", "-k", str(place), "--pid-file", str(pid)]
    server = subprocess.Popen([*argv, str(folder / "source")])
    certificates = folder / "certificates"
    daemon = Imageio(folder, *(certificates / name for name in ("server.pem", "server.key", "ca.pem")), local=local)
    try:
        deadline = time.monotonic() + 10
        while not pid.exists():
            if time.monotonic() > deadline or server.poll() is not None:
                raise SystemExit("qemu-nbd does not start")
            time.sleep(0.01)
        daemon.start()
        export = f"nbd:unix:{place}:exportname=disk"
        daemon.add_ticket("bench", size, export, timeout=3600, inactivity_timeout=3600, dirty=False)
        yield f"https://localhost:{daemon.port}/images/bench", (server.pid, daemon.pid)
    finally:
        daemon.close()
        server.terminate()
        server.wait(10)
        pid.unlink(missing_ok=True)


def _image(path: Path, size: int, filled: int) -> None:
    """Data in parts of 8 MiB, evenly spread."""
    _fill(path, filled)
    if filled < size:
        whole, step = path.with_suffix(".whole"), 8 << 20
        with path.open("rb") as data, whole.open("wb") as file:
            for at in range(0, filled, step):
                file.seek(at * size // filled)
                file.write(data.read(step))
            file.truncate(size)
        whole.replace(path)


def cpu_of(servers: tuple[int, ...]) -> float:
    """Seconds of the servers and of all clients that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = children.ru_utime + children.ru_stime
    for server in servers:
        fields = Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def _table(name: str, seconds: dict[str, list[float]], cpu: dict[str, list[float]], size: int) -> float:
    """Prints it; our ratio to oVirt's client."""
    base = statistics.median(seconds["oVirt's client"])
    print(f"{name:24}{'seconds':>9}{'GB/s':>8}{'x client':>11}{'CPU s/GB':>10}   all runs")
    for who, times in seconds.items():
        middle = statistics.median(times)
        every = " ".join(f"{t:.2f}" for t in times)
        work = statistics.median(cpu[who]) / size * 1e9
        print(f"{who:24}{middle:9.2f}{size / middle / 1e9:8.2f}{base / middle:11.2f}{work:10.2f}   {every}")
    return base / statistics.median(seconds["tranship"])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="2G", help="such as 512M or 4G")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", default="", help="on a file system in memory; default: one of its own, or /dev/shm")
    parser.add_argument("--local", action="store_true", help="by the daemon's unix socket")
    parser.add_argument("--connections", type=int, default=0, help="of our mover; 0 = it chooses")
    parser.add_argument("--depth", type=int, default=0, help="leaves in flight on each connection; 0 = it chooses")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
