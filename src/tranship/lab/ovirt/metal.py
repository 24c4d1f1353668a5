"""The disks of one simulated VM, held by QEMU itself: chains of volumes, snapshots, checkpoints, backups and exports.

The simulated Engine calls this. One qemu-storage-daemon has the images open for as long as the lab lives, whether the
guest runs or not, and guests attach to it by NBD; so live and cold operations are the same ones. What an image transfer
reads is another NBD export, with a URL as the genuine ovirt-imageio daemon takes it.

A backup is what libvirt makes of it: each disk gets an empty scratch image on top of the active volume, one transaction
over all disks starts jobs that save to it what the guest is about to overwrite, notes the checkpoint, and unites the
bitmaps of what changed since the earlier one. The scratch images, exported read-only, then show that one point in time.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from tranship.errors import AlreadyExists, Broken, Busy, Invalid, NotFound, TranshipError
from tranship.lab.ovirt.metal_chain import Chain, Layer
from tranship.lab.ovirt.metal_client import Client
from tranship.lab.ovirt.storage_daemon import StorageDaemon, action, create_image

MIB = 1 << 20


@dataclass(frozen=True)
class Export:
    """url: as an imageio ticket wants it. size: bytes. dirty: it has one bitmap, of what changed."""

    url: str
    size: int
    dirty: bool = False

    @property
    def name(self) -> str:
        return self.url.partition(":exportname=")[2]


@dataclass(frozen=True)
class _Part:
    """One disk of a backup."""

    chain: Chain
    layer: Layer
    scratch: str
    path: Path
    job: str
    export: str
    bitmap: str


class Metal:
    """Thread-safe. The daemon starts when the first disk is added; `directory` is where the volumes are."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._chains: dict[str, Chain] = {}
        self._backups: dict[str, list[_Part]] = {}
        self._reading: dict[str, tuple[Layer, str]] = {}  # export -> what it shows, and its own node if it has one
        self._lock = threading.RLock()
        # Held while someone goes through the guest's export, and by those who have to take it away for a moment.
        self._doors: dict[str, threading.Lock] = {}
        self._starting = threading.Lock()
        self._count = 0
        self._daemon: StorageDaemon | None = None
        self._closed = False

    # disks

    def add(self, disk: str, size: int, *, format: str = "cow", content: bytes | None = None) -> None:
        """A disk of one volume. size: bytes. format: cow (qcow2) or raw. content: may be shorter than the disk."""
        if format not in ("cow", "raw") or size <= 0 or size % 512 or len(content or b"") > size:
            raise Invalid(f"{format}, {size} bytes, {len(content or b'')} of content", field=f"disk {disk}")
        with self._lock:
            if disk in self._chains:
                raise AlreadyExists(what="disk", name=disk)
            daemon = self._running()
            self.directory.mkdir(parents=True, exist_ok=True)
            volume = str(uuid4())
            base = Layer(volume, self._fresh("n"), self.directory / volume, format, size)
            if format == "cow":
                create_image(base.path, size)
            else:
                with base.path.open("xb") as file:
                    file.truncate(size)
            self._chains[disk] = Chain(disk, daemon, base, self._fresh)
            self._doors[disk] = threading.Lock()
        if content:
            self._fill(disk, content)

    def _fill(self, disk: str, content: bytes) -> None:
        with self._connect(disk) as client:
            for offset in range(0, len(content), MIB):
                piece = content[offset : offset + MIB]
                if any(piece):
                    client.write(offset, piece)

    def guest_url(self, disk: str) -> str:
        """Writable, for a guest. It stays valid whatever happens to the chain below."""
        chain = self._chain(disk)
        return f"nbd+unix:///{chain.export}?socket={chain.daemon.socket}"

    def write(self, disk: str, offset: int, data: bytes) -> None:
        """In place of a guest."""
        chain = self._chain(disk)
        with self._doors[disk], self._connect(disk) as client:
            if offset < 0 or offset + len(data) > client.size:
                raise Invalid(f"{len(data)} bytes at {offset}", field=f"disk {chain.disk}")
            client.write(offset, data)

    def read(self, disk: str) -> bytes:
        """The whole present content."""
        self._chain(disk)
        with self._doors[disk], self._connect(disk) as client:
            return client.read(0, client.size)

    def size(self, disk: str) -> int:
        return self._chain(disk).active.size

    def extend(self, disk: str, size: int) -> None:
        """Busy while a guest is connected, since NBD cannot tell it of a new size. Checkpoints older than the last
        snapshot are lost for this disk, because QEMU cannot unite bitmaps of unequal sizes."""
        with self._doors_of(disk), self._lock:
            chain = self._idle(disk)
            if size < chain.active.size or size % 512:
                raise Invalid(f"{size} bytes after {chain.active.size}", field=f"disk {disk}")
            chain.extend(size)

    # snapshots

    def volumes(self, disk: str) -> tuple[str, ...]:
        """Ids, base first, the active one last."""
        with self._lock:
            return tuple(layer.volume for layer in self._chain(disk).layers)

    def format(self, volume: str) -> str:
        """cow or raw."""
        with self._lock:
            for chain in self._chains.values():
                for layer in chain.layers:
                    if layer.volume == volume:
                        return layer.format
        raise NotFound(what="volume", name=volume)

    def snapshot(self, layers: Mapping[str, str]) -> None:
        """layers: disk -> id of its new active volume. All disks at one point in time. Checkpoints go on."""
        with self._lock:
            daemon = self._running()
            drafts: list[tuple[Chain, Layer]] = []
            try:
                for disk, volume in layers.items():
                    chain = self._idle(disk)
                    if volume in self.volumes(disk):
                        raise AlreadyExists(what="volume", name=volume)
                    drafts.append((chain, chain.draft(volume)))
                daemon.transaction([step for chain, draft in drafts for step in chain.snapshot_actions(draft)])
            except TranshipError:
                for chain, draft in drafts:
                    chain.delete(draft)
                raise
            for chain, draft in drafts:
                chain.layers.append(draft)

    def merge(self, disk: str, volume: str) -> None:
        """Remove a snapshot: the volume above `volume` is committed into it. Returns when that is done."""
        with self._lock:
            chain = self._idle(disk)
            self._unread(*chain.pair(volume))
            chain.merge(volume)

    def revert(self, disk: str, volume: str) -> None:
        """Drop all above `volume`, and with it all checkpoints of the disk; a new empty volume becomes the active one.
        Busy while a guest is connected."""
        with self._doors_of(disk), self._lock:
            chain = self._idle(disk)
            above = chain.layers[chain.layers.index(chain.find(volume)) + 1 :]
            self._unread(*above)
            chain.revert(volume, str(uuid4()))

    # backups

    def start_backup(self, id: str, disks: Mapping[str, str], checkpoint: str) -> dict[str, Export]:
        """disks: disk -> the checkpoint from which its changes count, "" for none. All of one point in time, at which
        `checkpoint` begins, except on raw volumes, which can store none; "" makes none anywhere."""
        with self._lock:
            if id in self._backups:
                raise AlreadyExists(what="backup", name=id)
            daemon = self._running()
            parts: list[_Part] = []
            started = False
            try:
                for disk, since in disks.items():
                    parts.append(self._part(id, self._idle(disk), since))
                daemon.transaction(
                    [step for part in parts for step in _begin(part, disks[part.chain.disk], checkpoint)]
                )
                started = True
                for part in parts:
                    if checkpoint and part.layer.format == "cow":
                        part.layer.bitmaps.add(checkpoint)
                for part in parts:
                    daemon.add_export(part.export, part.scratch, bitmaps=[part.bitmap] if part.bitmap else [])
            except TranshipError:
                for part in parts:
                    self._end(part, started=started)
                    if started:
                        part.chain.drop([checkpoint])
                raise
            self._backups[id] = parts
            return {
                part.chain.disk: self._export(part.export, part.layer.size, dirty=bool(part.bitmap)) for part in parts
            }

    def _part(self, id: str, chain: Chain, since: str) -> _Part:
        path = self.directory / f"scratch-{id}-{chain.disk}"
        node, job = self._fresh("s"), self._fresh("backup")
        create_image(path, chain.active.size)
        try:
            self._running().add_image(node, path, "cow", chain.active.node)
        except TranshipError:
            path.unlink()
            raise
        export = f"backup-{id}-{chain.disk}"
        return _Part(chain, chain.active, node, path, job, export, f"backup-{id}" if since else "")

    def stop_backup(self, id: str) -> None:
        """Clients that still read are cut off."""
        with self._lock:
            if id not in self._backups:
                raise NotFound(what="backup", name=id)
            for part in self._backups.pop(id):
                self._end(part, started=True)

    def _end(self, part: _Part, *, started: bool) -> None:
        daemon = self._running()
        if started:
            if part.export in {export["id"] for export in daemon.execute("query-block-exports")}:
                daemon.remove_export(part.export)
            daemon.cancel_job(part.job)
        daemon.remove_image(part.scratch)
        if started and part.bitmap:
            daemon.execute("block-dirty-bitmap-remove", node=part.layer.node, name=part.bitmap)
        part.path.unlink()

    def has_checkpoint(self, disk: str, checkpoint: str) -> bool:
        """Whether the disk's changes since then are known."""
        with self._lock:
            return checkpoint in self._chain(disk).active.bitmaps

    def remove_checkpoint(self, checkpoint: str) -> None:
        """Of all disks. An open backup that counts from it keeps what it knows."""
        with self._lock:
            for chain in self._chains.values():
                chain.drop([checkpoint])

    # image transfers

    def export(self, disk: str, volume: str = "", *, shallow: bool = False) -> Export:
        """A read-only view of a volume ("" = the active one) and what is below it; shallow: of that volume alone, with
        the rest as holes. Nobody may write a volume that is exported shallow."""
        with self._lock:
            chain = self._chain(disk)
            layer = chain.find(volume)
            name, node = self._fresh("transfer"), ""
            if shallow:
                node = self._beside(layer)
            try:
                chain.daemon.add_export(name, node or layer.node, depth=True)
            except TranshipError:
                if node:
                    chain.daemon.remove_image(node)
                raise
            self._reading[name] = (layer, node)
            return self._export(name, layer.size)

    def _beside(self, layer: Layer) -> str:
        """A second node of the same file, without what is below. It sees what the first one has put into the file, so
        that is flushed; the only way to ask for it is a client's flush."""
        daemon, node, name = self._running(), self._fresh("n"), self._fresh("flush")
        daemon.add_export(name, layer.node)
        try:
            with Client(daemon.socket, name) as client:
                client.flush()
        finally:
            daemon.remove_export(name)
        daemon.add_image(node, layer.path, layer.format, aside=True)
        return node

    def unexport(self, export: Export) -> None:
        """Clients that still read are cut off. Does nothing the second time."""
        with self._lock:
            _, node = self._reading.pop(export.name, (None, None))
            if node is None:
                return
            self._running().remove_export(export.name)
            if node:
                self._running().remove_image(node)

    def close(self) -> None:
        """End the daemon, also under the hands of another thread. The volumes stay, with their bitmaps."""
        with self._starting:
            self._closed = True
        if self._daemon:
            self._daemon.close()
        for part in [part for parts in list(self._backups.values()) for part in parts]:
            part.path.unlink(missing_ok=True)

    # help

    def _running(self) -> StorageDaemon:
        with self._starting:
            if self._closed:
                raise Broken("the metal is closed")
            if self._daemon is None:
                self._daemon = StorageDaemon()
            return self._daemon

    def _chain(self, disk: str) -> Chain:
        if disk not in self._chains:
            raise NotFound(what="disk", name=disk)
        return self._chains[disk]

    def _doors_of(self, disk: str) -> threading.Lock:
        self._chain(disk)
        return self._doors[disk]

    def _connect(self, disk: str) -> Client:
        chain = self._chain(disk)
        return Client(chain.daemon.socket, chain.export)

    def _idle(self, disk: str) -> Chain:
        for id, parts in self._backups.items():
            if any(part.chain.disk == disk for part in parts):
                raise Busy(f"backup {id} is open", what=f"changing disk {disk}", fault="backup")
        return self._chain(disk)

    def _unread(self, *layers: Layer) -> None:
        for layer, _ in self._reading.values():
            if layer in layers:
                raise Busy("it is read", what=f"changing volume {layer.volume}", fault="export")

    def _fresh(self, prefix: str) -> str:
        with self._lock:
            self._count += 1
            return f"{prefix}{self._count}"

    def _export(self, name: str, size: int, *, dirty: bool = False) -> Export:
        return Export(f"nbd:unix:{self._running().socket}:exportname={name}", size, dirty)


def _begin(part: _Part, since: str, checkpoint: str) -> list[dict[str, Any]]:
    backup = {"device": part.layer.node, "target": part.scratch, "sync": "none", "job_id": part.job}
    return [
        *(part.chain.difference_actions(since, part.bitmap) if since else []),
        *(part.chain.checkpoint_actions(checkpoint) if checkpoint else []),
        action("blockdev-backup", **backup, auto_dismiss=False),
    ]
