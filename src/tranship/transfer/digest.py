"""The proof of a copy: one digest for each leaf, one root over them all, and the reading back.

`Leaves` is a file beside the journal, 32 bytes for each leaf, that outlives the rounds of a disk; it is read and
written in place and never held in memory. Thirty-two zero bytes stand for a leaf that reads as zeros, so a fresh file is
the truth about a fresh disk and a sparse disk of many terabytes costs nothing. The root is blake3 over the true digests of
all leaves, the zero ones included. `verify` reads leaves back from the target and names the first that differs.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from blake3 import blake3

from tranship.errors import CopyFailed, Side, VerifyFailed
from tranship.transfer.buffers import ZEROS, Buffer
from tranship.transfer.plan import LEAF, leaf_count, leaf_length
from tranship.transfer.writers.base import Writer

DIGEST = 32
BLANK = bytes(DIGEST)
_CHUNK = 2048  # digests at a time


@lru_cache(maxsize=8)
def zero_digest(length: int) -> bytes:
    """The digest of a leaf of zeros."""
    hasher = blake3()
    for start in range(0, length, len(ZEROS)):
        hasher.update(ZEROS[: min(len(ZEROS), length - start)])
    return hasher.digest()


class Leaves:
    """Digests by leaf number. Safe to use from several threads: everything is pread and pwrite. whole: they are those of
    all leaves; else only of the ones that were put here, the file of the earlier ones being lost."""

    def __init__(self, path: Path, size: int) -> None:
        self.size = size
        self.count = leaf_count(size)
        self.whole = path.exists()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if os.fstat(self._fd).st_size != self.count * DIGEST:
            os.ftruncate(self._fd, self.count * DIGEST)

    def reset(self) -> None:
        """Forget everything: all leaves are zeros."""
        os.ftruncate(self._fd, 0)
        os.ftruncate(self._fd, self.count * DIGEST)
        self.whole = True

    def get(self, index: int) -> bytes:
        stored = os.pread(self._fd, DIGEST, index * DIGEST)
        return zero_digest(leaf_length(index, self.size)) if stored == BLANK else stored

    def put(self, index: int, digest: bytes) -> None:
        os.pwrite(self._fd, digest, index * DIGEST)

    def put_zeros(self, first: int, count: int) -> None:
        for start in range(first, first + count, _CHUNK):
            part = min(_CHUNK, first + count - start) * DIGEST
            if os.pread(self._fd, part, start * DIGEST) != bytes(part):
                os.pwrite(self._fd, bytes(part), start * DIGEST)

    def first_nonzero(self, first: int, count: int) -> int | None:
        """The first of these leaves that is not known to read as zeros."""
        for start in range(first, first + count, _CHUNK):
            part = os.pread(self._fd, min(_CHUNK, first + count - start) * DIGEST, start * DIGEST)
            if part.count(0) == len(part):
                continue
            for at in range(0, len(part), DIGEST):
                index, stored = start + at // DIGEST, part[at : at + DIGEST]
                if stored not in (BLANK, zero_digest(leaf_length(index, self.size))):
                    return index
        return None

    def flush(self) -> None:
        os.fdatasync(self._fd)

    def root(self) -> str:
        """blake3 over the digests of all leaves, in hexadecimal."""
        hasher, zeros = blake3(), zero_digest(LEAF) * _CHUNK
        for start in range(0, self.count, _CHUNK):
            part = os.pread(self._fd, _CHUNK * DIGEST, start * DIGEST)
            full = start + _CHUNK < self.count
            if full and part.count(0) == len(part):
                hasher.update(zeros)
                continue
            for at in range(0, len(part), DIGEST):
                stored = part[at : at + DIGEST]
                hasher.update(stored if stored != BLANK else self.get(start + at // DIGEST))
        return hasher.hexdigest()

    def close(self) -> None:
        os.close(self._fd)


def verify(
    writer: Writer,
    leaves: Leaves,
    touched: Iterable[tuple[int, int]],
    *,
    disk: str,
    threads: int = 2,
    report: Callable[[int], None] = lambda _bytes: None,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Read the touched leaves, runs of (first, count), back from the target's storage, not from its cache, and compare.
    report is told the bytes as they are proved. Raises VerifyFailed that names the first difference found."""
    writer.drop_cache()
    work, lock, failures = _to_read(writer, leaves, touched, disk, report), threading.Lock(), list[BaseException]()

    def read_back() -> None:
        with Buffer(LEAF) as buffer:
            try:
                while not failures and not stopped():
                    with lock:
                        index = next(work, None)
                    if index is None:
                        return
                    _compare(writer, leaves, index, buffer, disk)
                    report(leaf_length(index, leaves.size))
            except BaseException as error:
                failures.append(error)

    readers = [threading.Thread(target=read_back, name=f"verify-{n}", daemon=True) for n in range(threads)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    if failures:
        raise failures[0]


def _compare(writer: Writer, leaves: Leaves, index: int, buffer: Buffer, disk: str) -> None:
    start, length = index * LEAF, leaf_length(index, leaves.size)
    view = buffer.view[:length]
    try:
        writer.read(start, view)
    except OSError as error:
        raise CopyFailed(f"reading back at {start}: {error.strerror}", side=Side.TARGET, disk=disk) from error
    writer.forget(start, length)
    if buffer.digest(length) != leaves.get(index):
        raise VerifyFailed(side=Side.TARGET, disk=disk, offset=start, length=length)


def _to_read(
    writer: Writer, leaves: Leaves, touched: Iterable[tuple[int, int]], disk: str, report: Callable[[int], None]
) -> Iterator[int]:
    """The touched leaves that hold anything. A hole of the target reads as zeros by definition, so only its digests are
    looked at: else a sparse disk of 64 TiB would take hours."""
    for first, count in touched:
        index = first
        while index < first + count:
            data = min(writer.data_from(index * LEAF) // LEAF, first + count)
            if data > index:
                wrong = leaves.first_nonzero(index, data - index)
                if wrong is not None:
                    length = leaf_length(wrong, leaves.size)
                    raise VerifyFailed(side=Side.TARGET, disk=disk, offset=wrong * LEAF, length=length)
                report(min(data * LEAF, leaves.size) - index * LEAF)
                index = data
            else:
                yield index
                index += 1
