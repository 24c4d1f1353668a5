"""Volumes on this machine, one folder each: what `provisioner.py` hands out as local PersistentVolumes.

    <volume>/files      Filesystem: a directory, or an ext4 of the volume's own size mounted there
    <volume>/image      the sparse file behind a Block volume or an ext4
    <volume>/device     Block: a link to the loop device; it keeps its name when another device is taken after a restart

Making, attaching, detaching and removing may each be done again after a crash, and find what is there. Needs root.
"""

import os
import shutil
import subprocess
from pathlib import Path

from tranship.errors import ToolFailed, ToolMissing

FILES, IMAGE, DEVICE = "files", "image", "device"
TIMEOUT = 60.0


def make(volume: Path, size: int, *, block: bool, ext4: bool = False) -> Path:
    """Its place: a device or a directory. size: bytes. Raises ToolFailed, ToolMissing."""
    volume.mkdir(parents=True, exist_ok=True)
    image = volume / IMAGE
    if (block or ext4) and not image.exists():
        draft = volume / f"{IMAGE}.draft"
        with draft.open("wb") as file:
            file.truncate(size)
        if ext4:
            _run("mkfs.ext4", "-q", "-F", "-m", "0", str(draft))
        draft.rename(image)
    elif not block:
        (volume / FILES).mkdir(exist_ok=True)
    return attach(volume, block=block)


def attach(volume: Path, *, block: bool) -> Path:
    """As `make` left it, also after this machine was started again."""
    image = volume / IMAGE
    if block:
        link, target = volume / DEVICE, _loop(image) or _run("losetup", "--find", "--show", str(image))
        if not link.is_symlink() or str(link.readlink()) != target:
            link.unlink(missing_ok=True)
            link.symlink_to(target)
        return link
    files = volume / FILES
    files.mkdir(exist_ok=True)
    if image.exists() and not files.is_mount():
        _run("mount", "-o", "loop", str(image), str(files))
    return files


def detach(volume: Path) -> None:
    """Its content stays."""
    if (volume / FILES).is_mount():
        _run("umount", str(volume / FILES))
    if device := _loop(volume / IMAGE):
        if held := _loop(Path(device)):  # by the kubelet, which locks a device so, and may have died meanwhile
            _run("losetup", "--detach", held)
        _run("losetup", "--detach", device)
    (volume / DEVICE).unlink(missing_ok=True)


def remove(volume: Path) -> None:
    if volume.exists():
        detach(volume)
        shutil.rmtree(volume)


def _loop(image: Path) -> str:
    """The device that the file or device is attached to, "" if none."""
    if not image.exists():
        return ""
    found = _run("losetup", "--associated", str(image), "--noheadings", "--output", "NAME")
    return found.splitlines()[0] if found else ""


def _run(*argv: str) -> str:
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=TIMEOUT, check=True, env={**os.environ, "LC_ALL": "C"}
        )
    except FileNotFoundError as error:
        raise ToolMissing("install util-linux and e2fsprogs", tool=argv[0]) from error
    except subprocess.TimeoutExpired as error:
        raise ToolFailed(argv=" ".join(argv), code=-1, output=f"it did not end within {TIMEOUT} s") from error
    except subprocess.CalledProcessError as error:
        raise ToolFailed(argv=" ".join(argv), code=error.returncode, output=error.stderr[-500:]) from error
    return done.stdout.strip()
