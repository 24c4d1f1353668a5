"""A real Linux for the lab: Debian's cloud kernel and a busybox initramfs that keeps writing to ext4 on the first disk.

File n holds the numbers n to n + 2000, a line each. The guest (`init.sh`) writes it, fsyncs it, adds its md5 to the file
SUMS, fsyncs that, and only then prints `TRANSHIP LAST n`. So whatever was announced must be on the disk, whole, at any
later point in time, and the file system must be sound. The guest checks itself by SUMS; `inspect_files` checks from
outside, by e2fsck and by the content that is known from the number.

Nothing is installed: kernel and busybox are taken from Debian packages into a cache directory. Serial protocol and
machine are those of the small guest (`machine.Guest`).
"""

import gzip
import hashlib
import lzma
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tranship.errors import ToolFailed, ToolMissing
from tranship.lab.guest.machine import MIB, Guest
from tranship.lab.guest.records import Report
from tranship.lab.storage import Volume

PACKAGE = "linux-image-cloud-amd64"
MODULES = ("virtio_pci", "virtio_blk")
SPAN = 2000
APPEND = "console=ttyS0 quiet panic=-1 rdinit=/init"


@dataclass(frozen=True)
class Kernel:
    """image: the bzImage. modules: the directory of its modules."""

    image: Path
    modules: Path


def linux_guest(
    run_dir: Path, disks: Sequence[str | Path], cache_dir: Path, *, pause: float = 0.1, **options: Any
) -> Guest:
    """A guest that runs Linux on `disks`, the first of which `format_disk` has made. options: as of `Guest`."""
    return Guest(run_dir, disks, extra=linux_boot(cache_dir, pause), **({"memory": 192 * MIB} | options))


def linux_boot(cache_dir: Path, pause: float = 0.1) -> list[str]:
    """The QEMU arguments that boot it, for `Guest(extra=...)` with at least 128 MiB. pause: seconds between two files."""
    kernel = fetch_kernel(cache_dir)
    script = Path(__file__).with_name("init.sh").read_text().replace("SPAN", str(SPAN)).replace("PAUSE", f"{pause:.3f}")
    return ["-kernel", str(kernel.image), "-initrd", str(build_initramfs(cache_dir, script)), "-append", APPEND]


def format_disk(disk: Volume | Path) -> None:
    """Make ext4 on a whole empty disk. A raw file must have its size already."""
    if isinstance(disk, Path):
        _run("mkfs.ext4", "-q", "-F", "-E", "nodiscard", str(disk))
        return
    with tempfile.NamedTemporaryFile() as file:
        file.truncate(disk.capacity)
        format_disk(Path(file.name))
        for offset in range(0, disk.capacity, MIB):
            file.seek(offset)
            data = file.read(MIB)
            if any(data):
                disk.write(offset, data)


def inspect_files(image: Path) -> Report:
    """Check a disk of the Linux guest from outside, on a copy: journal replay, e2fsck, and every file's content.
    ToolFailed if the file system is not sound. A Report's `last` counts files that SUMS announces."""
    with tempfile.TemporaryDirectory() as directory:
        copy, out = Path(directory) / "disk", Path(directory) / "files"
        out.mkdir()
        _run("cp", "--sparse=always", str(image), str(copy))
        _run("e2fsck", "-y", "-E", "journal_only", str(copy), good=(0, 1))
        _run("e2fsck", "-fn", str(copy))
        _run("debugfs", "-R", f"rdump / {out}", str(copy))
        sums = (out / "SUMS").read_text() if (out / "SUMS").exists() else ""
        last = sums.rpartition("\n")[0].count("\n") + 1 if "\n" in sums else 0
        valid = sum(_content(out / str(number)) == _expected(number) for number in range(1, last + 1))
        return Report(last, valid, last - valid)


def fetch_kernel(cache_dir: Path) -> Kernel:
    """Debian's newest cloud kernel, downloaded once."""
    home = cache_dir / "kernel"
    if not home.exists():
        depends = _run("apt-cache", "depends", PACKAGE)
        names = [line.split()[-1] for line in depends.splitlines() if "Depends: linux-image-" in line]
        if not names:
            raise ToolMissing(f"the package lists do not know {PACKAGE}; run apt-get update", tool="apt")
        with _draft(home) as draft:
            draft.mkdir(parents=True)
            _run("apt-get", "-q", "download", names[0], cwd=draft, seconds=600)
            (package,) = draft.glob("*.deb")
            _run("dpkg", "-x", str(package), str(draft))
            package.unlink()
    (image,) = (home / "boot").glob("vmlinuz-*")
    (modules,) = (home / "lib/modules").iterdir()
    return Kernel(image, modules)


def build_initramfs(cache_dir: Path, init_script: str, kernel_modules: Sequence[str] = MODULES) -> Path:
    """An initramfs of busybox, the named kernel modules with what they depend on, and `init_script` as /init, which
    finds the modules' file names, in order of insertion, in /modules/order."""
    kernel = fetch_kernel(cache_dir)
    busybox = shutil.which("busybox")
    if not busybox:
        raise ToolMissing("install busybox-static", tool="busybox")
    order = list(_with_dependencies(kernel.modules, kernel_modules))
    names = "".join(f"{path.name.removesuffix('.xz')}\n" for path in order)
    files = {f"modules/{path.name.removesuffix('.xz')}": (0o100644, _module(path)) for path in order}
    files |= {
        "modules/order": (0o100644, names.encode()),
        "init": (0o100755, init_script.encode()),
        "bin/busybox": (0o100755, Path(busybox).read_bytes()),
    }
    folders = dict.fromkeys(("bin", "dev", "proc", "disk", "modules"), (0o040755, b""))
    archive = gzip.compress(_cpio(folders | files), 1, mtime=0)
    target = cache_dir / f"initramfs-{hashlib.sha256(archive).hexdigest()[:16]}"
    if not target.exists():
        with _draft(target) as draft:
            draft.write_bytes(archive)
    return target


def _with_dependencies(modules: Path, names: Sequence[str], done: set[str] | None = None) -> Iterator[Path]:
    """The modules' files, each after those that it needs. A name that is no file is built into the kernel."""
    done = set() if done is None else done
    for name in names:
        if name in done:
            continue
        done.add(name)
        for path in modules.rglob("*.ko*"):
            if path.name.partition(".")[0].replace("-", "_") == name.replace("-", "_"):
                needed = _module(path).partition(b"\0depends=")[2].partition(b"\0")[0].decode()
                yield from _with_dependencies(modules, [item for item in needed.split(",") if item], done)
                yield path


def _module(path: Path) -> bytes:
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def _cpio(files: dict[str, tuple[int, bytes]]) -> bytes:
    """The newc format: thirteen numbers of eight hex digits, the name, the data, each padded to four bytes."""
    out = bytearray()
    for inode, (name, (mode, data)) in enumerate([*files.items(), ("TRAILER!!!", (0, b""))], 1):
        numbers = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        out += b"070701" + b"".join(b"%08X" % number for number in numbers) + name.encode() + b"\0"
        out += bytes(-len(out) % 4) + data
        out += bytes(-len(out) % 4)
    return bytes(out)


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _expected(number: int) -> bytes:
    return b"".join(b"%d\n" % line for line in range(number, number + SPAN + 1))


@contextmanager
def _draft(target: Path) -> Iterator[Path]:
    """A path to build at, which becomes `target` when it is complete; the first of several builders wins."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f"{target.name}.{secrets.token_hex(4)}")
    try:
        yield draft
        if not target.exists():
            draft.rename(target)
    finally:
        if draft.is_dir():
            shutil.rmtree(draft)
        else:
            draft.unlink(missing_ok=True)


def _run(*argv: str, good: tuple[int, ...] = (0,), cwd: Path | None = None, seconds: float = 120) -> str:
    tool = shutil.which(argv[0], path="/usr/sbin:/sbin:/usr/bin:/bin")
    if not tool:
        raise ToolMissing("it is not installed", tool=argv[0])
    done = subprocess.run([tool, *argv[1:]], capture_output=True, text=True, cwd=cwd, timeout=seconds)
    if done.returncode not in good:
        raise ToolFailed(argv=" ".join(argv), code=done.returncode, output=(done.stdout + done.stderr)[-500:])
    return done.stdout
