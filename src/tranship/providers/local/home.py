"""A machine's directory on this host and the owner mark in it.

Whoever makes something for a machine claims its directory first: the mark (`owner.json`) is durable before any other
file exists there, so that whatever a crash leaves behind bears its owner's name. A directory with another mark, or with
files and no mark, is somebody else's: it is refused and never changed. Files appear whole or not at all. Used by
target.py for the machine's own directory and for its directory in each storage pool.
"""

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tranship.errors import AlreadyExists, Busy, Denied, Refused, Side, TranshipError

MARK = "owner.json"
TEMPORARY = ".new"  # suffix of a file that is being written; a crash may leave one, the next writer replaces it
LOCK_SECONDS = 30.0


def file_error(error: OSError, what: str) -> TranshipError:
    if isinstance(error, PermissionError):
        return Denied(
            error.strerror or "",
            what=what,
            side=Side.TARGET,
            remedy="Give the user that runs tranship write access there.",
        )
    fault = errno.errorcode.get(error.errno or 0, "error")
    return Refused(f"{error.strerror} ({error.filename})", what=what, fault=fault, side=Side.TARGET)


@contextmanager
def file_errors(what: str) -> Iterator[None]:
    """Whatever the file system refuses is raised as an error of ours."""
    try:
        yield
    except OSError as error:
        raise file_error(error, what) from error


def sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_directory(path: Path) -> None:
    """With its parents; each new name is durable."""
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(exist_ok=True)
    sync_directory(path.parent)


def write_whole(path: Path, data: bytes, *, size: int | None = None) -> None:
    """Put a durable file in place at once. size: extend it (sparse) to that many bytes."""
    temporary = path.with_name(f".{path.name}{TEMPORARY}")
    temporary.unlink(missing_ok=True)
    with open(temporary, "xb") as file:
        file.write(data)
        if size is not None:
            file.truncate(size)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    sync_directory(path.parent)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """One change at a time below a directory, also between processes: space is checked and taken in one step."""
    with file_errors(f"use of {directory}"):
        make_directory(directory)
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise Busy(
                        "another process holds the directory's lock",
                        what=f"use of {directory}",
                        fault="locked",
                        side=Side.TARGET,
                    ) from error
                time.sleep(0.05)
        yield
    finally:
        os.close(handle)


def owner_of(path: Path) -> str:
    """The owner in a machine directory's mark; "" = none, or one that cannot be read."""
    return Home(path, "")._marked() or ""


@dataclass(frozen=True, slots=True)
class Home:
    """A directory that belongs to `owner`, once claimed."""

    path: Path
    owner: str

    def _entries(self) -> list[str]:
        """What is there, but for the traces that an interrupted claim leaves."""
        try:
            return [path.name for path in self.path.iterdir() if path.name != f".{MARK}{TEMPORARY}"]
        except FileNotFoundError:
            return []

    def _marked(self) -> str | None:
        """The owner in the mark; None = no mark; "" = a mark that cannot be read."""
        try:
            text = (self.path / MARK).read_text()
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return str(json.loads(text)["owner"])
        except (ValueError, KeyError, TypeError):
            return ""

    def foreign(self) -> str:
        """Whose it is in words, if it is not ours; "" = ours, or free."""
        with file_errors(f"look into {self.path}"):
            if self.path.is_symlink() or (self.path.exists() and not self.path.is_dir()):
                return f"{self.path} is not a directory"
            owner = self._marked()
            if owner is None:
                return f"{self.path} has files and no owner mark" if self._entries() else ""
        if owner == self.owner:
            return ""
        return f"{self.path} belongs to {owner!r}" if owner else f"{self.path} has an owner mark that cannot be read"

    def owned(self) -> bool:
        with file_errors(f"look into {self.path}"):
            return not self.path.is_symlink() and self._marked() == self.owner

    def refuse_foreign(self, what: str) -> None:
        if foreign := self.foreign():
            raise AlreadyExists(
                f": {foreign}",
                what=what,
                name=str(self.path),
                side=Side.TARGET,
                remedy="Give the VM another target name, or remove what is there if nobody needs it.",
            )

    def claim(self, what: str) -> None:
        """Make it ours, durably. Call it locked. Raises AlreadyExists when it is somebody else's."""
        self.refuse_foreign(what)
        if self.owned():
            return
        with file_errors(f"make {self.path}"):
            make_directory(self.path)
            mark = {"owner": self.owner, "created": datetime.now(UTC).isoformat(timespec="seconds")}
            write_whole(self.path / MARK, json.dumps(mark).encode() + b"\n")

    def remove(self, names: Iterable[str]) -> None:
        """Remove files of ours, in the given order, and then the directory itself if nothing but the mark is left."""
        if not self.owned():
            return
        with file_errors(f"remove from {self.path}"):
            for name in names:
                (self.path / f".{name}{TEMPORARY}").unlink(missing_ok=True)
                (self.path / name).unlink(missing_ok=True)
            sync_directory(self.path)
            if self._entries() == [MARK]:
                (self.path / f".{MARK}{TEMPORARY}").unlink(missing_ok=True)
                (self.path / MARK).unlink()
                self.path.rmdir()
                sync_directory(self.path.parent)
