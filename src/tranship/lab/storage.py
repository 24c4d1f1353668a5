"""One virtual disk of the lab: a flat file, snapshot layers on top of it, and changed block tracking.

The simulated vCenter makes snapshots here and asks what changed, the NBD server lets a guest write here, and the block
service and the datastore folder read here. Only what is written through `Volume` counts.

How it works. Layer 0 is the flat file; every snapshot puts a new layer above the present one and from then on only
that top layer is written. A layer holds whole grains of 64 KiB (a partial write copies the rest of the grain up first)
and a map beside it says which. The content at snapshot i is what layers 0 to i show. Removing a snapshot merges the
layer above it into the layer below it, so the flat file stays where it is. Tracking stamps every written grain with the
present sequence number; a snapshot freezes a copy of the stamps, its change id is (uuid, sequence), and the sequence
goes up by one. What changed since an id is then every grain with a later stamp.

Maps and stamps are shared mappings of files, so a lab that is killed and opened again has lost nothing written.
"""

import json
import mmap
import os
import threading
import uuid
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tranship.errors import AlreadyExists, Invalid, NotFound

GRAIN = 64 * 1024
SECTOR = 512

Extents = list[tuple[int, int]]


class Layer:
    """A sparse file and a byte per grain: 1 where the layer holds it."""

    def __init__(self, path: Path, capacity: int) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self.fd, capacity)
        self.held = _mapped(path.with_suffix(".map"), -(-capacity // GRAIN))

    def close(self) -> None:
        os.close(self.fd)
        self.held.release()

    def delete(self) -> None:
        self.close()
        self.path.unlink()
        self.path.with_suffix(".map").unlink()


@dataclass
class Snapshot:
    """A frozen point. `tracker` is empty where tracking was not active."""

    id: str
    tracker: str
    sequence: int
    stamps: str
    """Name of the file with the frozen stamps."""


@dataclass
class Tracking:
    """`enabled` is what was asked for; `tracker` is the uuid of the running tracking, empty while there is none."""

    enabled: bool = False
    tracker: str = ""
    sequence: int = 1


class Volume:
    """A disk in directory `path`. Offsets, lengths and `capacity` are bytes. Any thread may call any method."""

    def __init__(self, path: Path, capacity: int) -> None:
        if capacity <= 0 or capacity % SECTOR:
            raise Invalid(f"{capacity} is not a multiple of {SECTOR}", field="capacity")
        self.path = path
        self.capacity = capacity
        self.lock = threading.RLock()
        path.mkdir(parents=True, exist_ok=True)
        self._grains = -(-capacity // GRAIN)
        self._points: list[Snapshot] = []
        self._tracking = Tracking()
        self._serial = 0
        names = self._load()
        self._layers = [Layer(path / name, capacity) for name in names]
        self._stamps = _mapped(path / "stamps", 4 * self._grains).cast("I")
        self._save()

    def close(self) -> None:
        with self.lock:
            for layer in self._layers:
                layer.close()
            self._layers = []
            self._stamps.release()

    # content

    @property
    def base_path(self) -> Path:
        """The flat file. It is the present content only while no snapshot exists (`chained` is false)."""
        return self.path / "base.img"

    @property
    def chained(self) -> bool:
        return len(self._layers) > 1

    def read(self, offset: int, length: int, snapshot: str | None = None) -> bytes:
        buffer = bytearray(length)
        self.read_into(offset, memoryview(buffer), snapshot)
        return bytes(buffer)

    def read_into(self, offset: int, buffer: memoryview, snapshot: str | None = None) -> None:
        self._within(offset, len(buffer))
        with self.lock:
            depth = self._depth(snapshot)
            for layer, start, end in self._runs(offset, offset + len(buffer), depth):
                _read_full(layer.fd, buffer[start - offset : end - offset], start)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        length = len(data)
        self._within(offset, length)
        if not length:
            return
        with self.lock:
            first, last = offset // GRAIN, (offset + length - 1) // GRAIN
            if self.chained:
                if offset % GRAIN:
                    self._copy_up(first)
                if (offset + length) % GRAIN and offset + length < self.capacity:
                    self._copy_up(last)
            top = self._layers[-1]
            _write_full(top.fd, memoryview(data), offset)
            count = last + 1 - first
            top.held[first : last + 1] = b"\1" * count
            if self._tracking.tracker:
                self._stamps[first : last + 1] = memoryview(array("I", [self._tracking.sequence]) * count)

    def zero(self, offset: int, length: int) -> None:
        """Write zeroes. Grains that were never written are zero already and stay unallocated."""
        self._within(offset, length)
        with self.lock:
            for start, size in self._allocated(len(self._layers) - 1):
                at, end = max(start, offset), min(start + size, offset + length)
                while at < end:
                    step = min(end - at, 16 * GRAIN)
                    self.write(at, bytes(step))
                    at += step

    def flush(self) -> None:
        """Nothing to do: a write is in the page cache, which outlives any process that the tests kill, and a guest
        whose firmware flushes after each write would wait for the host's disk all day."""

    def allocated(self, snapshot: str | None = None) -> Extents:
        with self.lock:
            return self._allocated(self._depth(snapshot))

    # snapshots

    @property
    def snapshots(self) -> list[str]:
        with self.lock:
            return [point.id for point in self._points]

    def snapshot(self, id: str) -> None:
        """Freeze the present content under `id`."""
        with self.lock:
            if id in self.snapshots:
                raise AlreadyExists(what="snapshot", name=id)
            self.stun()
            self._serial += 1
            name = f"layer-{self._serial}.img"
            stamps = f"stamps-{self._serial}"
            (self.path / stamps).write_bytes(self._stamps.tobytes())
            self._layers.append(Layer(self.path / name, self.capacity))
            self._points.append(Snapshot(id, self._tracking.tracker, self._tracking.sequence, stamps))
            self._tracking.sequence += 1
            self._save()

    def remove(self, id: str) -> None:
        """Forget a snapshot; the content of the present and of every other snapshot stays."""
        with self.lock:
            at = self._index(id)
            self.stun()
            lower, upper = self._layers[at], self._layers[at + 1]
            buffer = memoryview(bytearray(GRAIN))
            for grain in range(self._grains):
                if upper.held[grain]:
                    start = grain * GRAIN
                    part = buffer[: min(GRAIN, self.capacity - start)]
                    _read_full(upper.fd, part, start)
                    _write_full(lower.fd, part, start)
                    lower.held[grain] = 1
            del self._layers[at + 1]
            self._drop(at)
            self._save()
            upper.delete()

    def revert(self, id: str) -> None:
        """Make the present what it was at `id`. Later snapshots go; tracking starts anew, as after a revert on ESXi."""
        with self.lock:
            at = self._index(id)
            gone = self._layers[at + 1 :]
            del self._layers[at + 1 :]
            while len(self._points) > at + 1:
                self._drop(at + 1)
            self._serial += 1
            self._layers.append(Layer(self.path / f"layer-{self._serial}.img", self.capacity))
            self.stun()
            self.reset_tracking()
            for layer in gone:
                layer.delete()

    # changed block tracking

    @property
    def tracking_enabled(self) -> bool:
        return self._tracking.enabled

    @property
    def tracking_active(self) -> bool:
        return bool(self._tracking.tracker)

    def enable_tracking(self) -> None:
        """Ask for tracking; it begins at the next `stun`."""
        self._ask_tracking(True)

    def disable_tracking(self) -> None:
        self._ask_tracking(False)

    def stun(self) -> None:
        """The moment at which a change of tracking takes effect: power on, snapshot create, remove, revert."""
        with self.lock:
            if self._tracking.enabled != self.tracking_active:
                self._track(str(uuid.uuid4()) if self._tracking.enabled else "")

    def reset_tracking(self) -> None:
        """Lose the history, as after a power loss: every change id given so far means nothing any more."""
        with self.lock:
            if self.tracking_active:
                self._track(str(uuid.uuid4()))
            self._save()

    def change_id(self, snapshot: str | None = None) -> str:
        """The point's change id, empty where tracking was not active. The present has no frozen stamps, so it answers
        with the id of the last frozen point: too many changes are reported since then, never too few."""
        with self.lock:
            if snapshot is None:
                return _change_id(self._tracking.tracker, self._tracking.sequence - 1)
            point = self._points[self._index(snapshot)]
            return _change_id(point.tracker, point.sequence)

    def changed(self, since: str, snapshot: str | None = None) -> Extents:
        """What may differ between `since` and `snapshot` (or the present): sorted, merged, whole grains.
        `*` stands for everything allocated. KeyError: the id is not of this tracking or later than the point."""
        with self.lock:
            if snapshot is None:
                tracker, sequence, stamps = self._tracking.tracker, self._tracking.sequence, self._stamps
            else:
                point = self._points[self._index(snapshot)]
                tracker, sequence = point.tracker, point.sequence
                stamps = memoryview((self.path / point.stamps).read_bytes()).cast("I")
            if not tracker:
                raise KeyError(since)
            if since == "*":
                return self._allocated(self._depth(snapshot))
            known, _, number = since.rpartition("/")
            if known != _spaced(tracker) or not number.isdigit() or int(number) > sequence:
                raise KeyError(since)
            return self._extents(stamp > int(number) for stamp in stamps)

    # inside

    def _ask_tracking(self, enabled: bool) -> None:
        with self.lock:
            self._tracking.enabled = enabled
            self._save()

    def _track(self, tracker: str) -> None:
        self._tracking.tracker = tracker
        self._tracking.sequence = 1
        self._stamps[:] = memoryview(array("I", [0]) * self._grains)
        self._save()

    def _within(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.capacity:
            raise Invalid(f"{offset}+{length} is beyond {self.capacity}", field="offset")

    def _index(self, id: str) -> int:
        for at, point in enumerate(self._points):
            if point.id == id:
                return at
        raise NotFound(what="snapshot", name=id)

    def _depth(self, snapshot: str | None) -> int:
        return len(self._layers) - 1 if snapshot is None else self._index(snapshot)

    def _holder(self, grain: int, depth: int) -> int:
        while depth and not self._layers[depth].held[grain]:
            depth -= 1
        return depth

    def _runs(self, start: int, end: int, depth: int) -> Iterator[tuple[Layer, int, int]]:
        """Cut [start, end) into runs that one layer holds."""
        if depth == 0:
            yield self._layers[0], start, end
            return
        while start < end:
            holder = self._holder(start // GRAIN, depth)
            stop = min(end, (start // GRAIN + 1) * GRAIN)
            while stop < end and self._holder(stop // GRAIN, depth) == holder:
                stop = min(end, stop + GRAIN)
            yield self._layers[holder], start, stop
            start = stop

    def _copy_up(self, grain: int) -> None:
        top = self._layers[-1]
        if not top.held[grain]:
            start = grain * GRAIN
            _write_full(top.fd, memoryview(self.read(start, min(GRAIN, self.capacity - start))), start)
            top.held[grain] = 1

    def _allocated(self, depth: int) -> Extents:
        layers = self._layers[: depth + 1]
        return self._extents(any(layer.held[grain] for layer in layers) for grain in range(self._grains))

    def _extents(self, flags: Iterable[bool]) -> Extents:
        found: Extents = []
        for grain, flag in enumerate(flags):
            if not flag:
                continue
            start = grain * GRAIN
            length = min(GRAIN, self.capacity - start)
            if found and sum(found[-1]) == start:
                found[-1] = (found[-1][0], found[-1][1] + length)
            else:
                found.append((start, length))
        return found

    def _drop(self, at: int) -> None:
        (self.path / self._points[at].stamps).unlink()
        del self._points[at]

    def _load(self) -> list[str]:
        file = self.path / "volume.json"
        if not file.exists():
            return ["base.img"]
        state = json.loads(file.read_text())
        if state["capacity"] != self.capacity:
            raise Invalid(f"{self.path} has {state['capacity']} bytes, not {self.capacity}", field="capacity")
        self._points = [Snapshot(**point) for point in state["snapshots"]]
        self._tracking = Tracking(**state["tracking"])
        self._serial = state["serial"]
        return list(state["layers"])

    def _save(self) -> None:
        state = {
            "capacity": self.capacity,
            "serial": self._serial,
            "layers": [layer.path.name for layer in self._layers],
            "snapshots": [asdict(point) for point in self._points],
            "tracking": asdict(self._tracking),
        }
        draft = self.path / "volume.json.new"
        draft.write_text(json.dumps(state, indent=1))
        draft.replace(self.path / "volume.json")


@contextmanager
def quiet(volumes: Sequence[Volume]) -> Iterator[None]:
    """Hold all I/O of several volumes, so that what the caller does inside happens at one point in time on all."""
    with ExitStack() as held:
        for volume in sorted(volumes, key=lambda volume: str(volume.path)):
            held.enter_context(volume.lock)
        yield


def _mapped(path: Path, length: int) -> memoryview:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, length)
        return memoryview(mmap.mmap(fd, length))
    finally:
        os.close(fd)


def _read_full(fd: int, buffer: memoryview, offset: int) -> None:
    while buffer:
        count = os.preadv(fd, [buffer], offset)
        if not count:
            raise OSError(f"the file ends at {offset}")
        buffer, offset = buffer[count:], offset + count


def _write_full(fd: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(fd, data, offset)
        data, offset = data[count:], offset + count


def _spaced(tracker: str) -> str:
    """A uuid as vSphere writes it: `52 3c a1 ...-..`, eight bytes, a dash, eight bytes."""
    plain = uuid.UUID(tracker).bytes
    return f"{plain[:8].hex(' ')}-{plain[8:].hex(' ')}"


def _change_id(tracker: str, sequence: int) -> str:
    return f"{_spaced(tracker)}/{sequence}" if tracker else ""
