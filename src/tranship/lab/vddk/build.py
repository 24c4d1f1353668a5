"""Builds the lab's libvixDiskLib.so and lays it out as VMware's distribution is: lib64/ with the versioned names.

Called at set-up by whoever starts the lab and by the tests; the directory is what a provider's settings name.
"""

import subprocess
from pathlib import Path

from tranship.errors import ToolFailed, ToolMissing

VERSION = "8.0.3"


def build_library(directory: Path, address: str) -> Path:
    """Compile into `directory`, for the block service at `address` (its `BlockService.address`). Returns `directory`."""
    lib = directory / "lib64"
    lib.mkdir(parents=True, exist_ok=True)
    target = lib / f"libvixDiskLib.so.{VERSION}"
    source = Path(__file__).with_name("vixdisklib.c")
    if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
        draft = target.with_suffix(".new")
        _compile(source, draft)
        draft.replace(target)
    for name in ("libvixDiskLib.so", f"libvixDiskLib.so.{VERSION.partition('.')[0]}"):
        link = lib / name
        link.unlink(missing_ok=True)
        link.symlink_to(target.name)
    (lib / "lab-service").write_text(address + "\n")
    return directory


def _compile(source: Path, target: Path) -> None:
    soname = f"-Wl,-soname,libvixDiskLib.so.{VERSION.partition('.')[0]}"
    options = ["-std=gnu11", "-O2", "-fPIC", "-fvisibility=hidden", "-shared", "-pthread"]
    argv = ["gcc", *options, soname, "-o", str(target), str(source), "-ldl"]
    try:
        subprocess.run(argv, check=True, capture_output=True, text=True, timeout=120)
    except FileNotFoundError as error:
        raise ToolMissing("install gcc", tool="gcc") from error
    except subprocess.CalledProcessError as error:
        raise ToolFailed(argv=" ".join(argv), code=error.returncode, output=error.stderr[-1000:]) from error
