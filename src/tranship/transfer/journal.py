"""What is finished, durably: a copy that is killed at any instant goes on where it was.

A file of checksummed lines, appended to. The first line is the identity of the round (target, size, round, source point,
plan); then come the ranges of finished leaves; at last the root digest. A torn tail is cut off. Another identity begins a
new file, which remembers the last completed round: that one is what a delta builds on.

The order is what makes it safe, and `Engine` keeps it: data is written, the target flushed, the digests flushed, and only
then the leaves are named here. So a leaf in the journal is on the target and its digest is known, whatever dies when.
"""

import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tranship.errors import Refused, Side
from tranship.transfer.plan import LeafSet, leaf_count

MOST_RUNS = 4000  # that are remembered: 80 KiB of text at most
_KINDS = ("identity", "completed"), ("done", "bytes"), ("complete",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Everything that must be equal for a copy to go on. point: snapshot or changeId that is read. plan: digest of what
    is to be copied. target: what the writer calls the very object behind the name (a recreated file is another)."""

    round: str
    point: str
    target: str
    size: int
    plan: str


class Journal:
    """Of one disk, over all its rounds. done: the leaves finished in this round. bytes: how much of the plan they were.
    resumed: this round was begun before. used: the target was written to before, so it is not fresh."""

    def __init__(self, path: Path, identity: Identity, base: str | None) -> None:
        """Open, and go on or begin anew. Raises Refused when `base` is not the last completed round of this target."""
        self._path = path
        self.done = LeafSet(leaf_count(identity.size))
        self.bytes = 0
        self.digest = ""
        header, completed = self._recover()
        self.used = header.get("identity", {}).get("target") == identity.target
        self.resumed = header.get("identity") == asdict(identity)
        if self.resumed:
            self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            self._replay()
            return
        if not self.used:
            completed = None
        if base is not None and (completed or {}).get("round") != base:
            raise Refused(
                f"the target does not hold round {base}",
                what="a delta round",
                fault="BaseMissing",
                side=Side.TARGET,
                remedy="Copy the disk fully again.",
            )
        self._begin({"identity": asdict(identity), "completed": completed})

    def add(self, ranges: Iterable[tuple[int, int]], changed: int) -> None:
        """Name finished leaves. Call only after target and digests are flushed. changed: bytes of the plan in them."""
        joined: list[list[int]] = []
        for first, count in sorted(ranges):
            if joined and joined[-1][0] + joined[-1][1] == first:
                joined[-1][1] += count
            else:
                joined.append([first, count])
            self.done.add(first, count)
        self.bytes += changed
        self._append({"done": joined, "bytes": changed})

    def complete(self, digest: str) -> None:
        """The round is whole. From now on a delta may build on it."""
        self.digest = digest
        self._append({"complete": digest})

    def close(self) -> None:
        os.close(self._fd)

    def _recover(self) -> tuple[dict[str, Any], dict[str, str] | None]:
        """Header and last completed round of the file as it is; a torn tail is cut off."""
        header: dict[str, Any] = {}
        completed: dict[str, str] | None = None
        good = 0
        for record, end in _records(self._path):
            good = end
            if "identity" in record:
                header, completed = record, record["completed"]
            elif "complete" in record:
                completed = {"round": header["identity"]["round"], "digest": record["complete"]}
        if self._path.exists() and self._path.stat().st_size > good:
            os.truncate(self._path, good)
        return header, completed

    def _replay(self) -> None:
        for record, _ in _records(self._path):
            for first, count in record.get("done", ()):
                self.done.add(first, count)
            self.bytes += record.get("bytes", 0)
            self.digest = record.get("complete", "")

    def _begin(self, header: Mapping[str, Any]) -> None:
        new = self._path.with_suffix(".new")
        self._fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._append(header)
        new.replace(self._path)
        sync_folder(self._path.parent)

    def _append(self, record: Mapping[str, Any]) -> None:
        line = _line(record)
        written = os.write(self._fd, line)
        while written < len(line):
            written += os.write(self._fd, line[written:])
        os.fdatasync(self._fd)


def remembered(path: Path) -> dict[str, Any]:
    """The journal in one small object, from which `restore` makes one again, somewhere else. Of very many ranges only the
    longest are in it: the others are copied again."""
    memory: dict[str, Any] = {}
    done = LeafSet(0)
    for record, _ in _records(path):
        if "identity" in record:
            memory, done = {**record, "bytes": 0}, LeafSet(leaf_count(record["identity"]["size"]))
        elif "complete" in record:
            memory["complete"] = record["complete"]
        else:
            memory["bytes"] += record["bytes"]
            for first, count in record["done"]:
                done.add(first, count)
    runs = list(done.runs())
    if len(runs) > MOST_RUNS:
        runs, memory["bytes"] = sorted(sorted(runs, key=lambda run: -run[1])[:MOST_RUNS]), 0
    return {**memory, "done": runs} if memory else {}


def restore(path: Path, memory: Mapping[str, Any]) -> None:
    """Nothing for an empty memory."""
    records = [{key: memory[key] for key in keys} for keys in _KINDS if keys[0] in memory]
    path.write_bytes(b"".join(map(_line, records)))


def _line(record: Mapping[str, Any]) -> bytes:
    body = json.dumps(record, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


def _records(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """(record, offset behind it) up to the first line that is not whole."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        end = 0
        for line in file:
            body = line[9:-1]
            if not line.endswith(b"\n") or line[:9] != b"%08x " % zlib.crc32(body):
                return
            end += len(line)
            yield json.loads(body), end


def sync_folder(folder: Path) -> None:
    """A new name in a folder is durable only when the folder is."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
