"""The disks of one VM on QEMU: chains of images, dirty bitmaps, backups and read-only views, all of QEMU's own making.

The Engine gives each VM a Metal; one qemu-storage-daemon holds its images for as long as the lab lives, whether the guest
runs or not. Guests attach by NBD to an export that follows the active image through snapshots and merges, because QEMU moves
an image's users along. A checkpoint is a persistent bitmap in every image that was active since; a backup is what libvirt
makes of one: a scratch image that keeps what the guest overwrites, exported with the merged bitmap of the chain.
"""

import itertools
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from tranship.errors import Invalid, NotFound, Refused
from tranship.lab.ovirt.metal_client import Client
from tranship.lab.ovirt.storage_daemon import StorageDaemon, action, create_image


@dataclass(frozen=True, slots=True)
class Export:
    """url: as an imageio ticket wants it. dirty: with the bitmap of what changed."""

    id: str
    url: str
    size: int
    dirty: bool = False


@dataclass(slots=True)
class Volume:
    """One image of a chain. node: QEMU's name of it. bitmaps: checkpoints that are counted in it."""

    id: str
    node: str
    path: Path
    format: str
    bitmaps: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Chain:
    """volumes: base first, the active one last."""

    disk: str
    size: int
    volumes: list[Volume]

    @property
    def active(self) -> Volume:
        return self.volumes[-1]

    @property
    def guest(self) -> str:
        return f"guest-{self.disk}"

    def place(self, volume: str) -> int:
        for number, one in enumerate(self.volumes):
            if one.id == volume:
                return number
        raise NotFound(what="volume", name=volume)


@dataclass(slots=True)
class Scratch:
    disk: str
    node: str
    path: Path
    job: str
    export: str
    work: str  # bitmap on the disk's active image, "" = a full backup


class Metal:
    """Thread-safe. Sizes and offsets are bytes."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._daemon = StorageDaemon()
        self._chains: dict[str, Chain] = {}
        self._backups: dict[str, list[Scratch]] = {}
        self._asides: dict[str, str] = {}  # export -> node that was opened for it
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()

    def close(self) -> None:
        self._daemon.close()

    # -- disks -------------------------------------------------------------------------------------------------------

    def add(self, disk: str, size: int, *, format: str = "cow", content: bytes | None = None) -> None:
        if format not in ("cow", "raw"):
            raise Invalid(f"{format!r} is neither cow nor raw", field="format")
        with self._lock:
            volume = self._volume(str(uuid4()), format)
            if format == "cow":
                create_image(volume.path, size)
            else:
                with volume.path.open("wb") as file:
                    file.truncate(size)
            self._daemon.add_image(volume.node, volume.path, format)
            chain = self._chains[disk] = Chain(disk, size, [volume])
            self._daemon.add_export(chain.guest, volume.node, writable=True)
        if content:
            self._fill(disk, content)

    def _fill(self, disk: str, content: bytes) -> None:
        """Zeros stay holes."""
        step = 64 << 10
        with self._client(disk) as client:
            for start in range(0, len(content), step):
                part = content[start : start + step]
                if part.count(0) != len(part):
                    client.write(start, part)

    def guest_url(self, disk: str) -> str:
        return f"nbd+unix:///{self._chain(disk).guest}?socket={self._daemon.socket}"

    def write(self, disk: str, offset: int, data: bytes) -> None:
        with self._client(disk) as client:
            client.write(offset, data)

    def read(self, disk: str) -> bytes:
        with self._client(disk) as client:
            return client.read(0, self._chain(disk).size)

    def extend(self, disk: str, size: int) -> None:
        """Raises Busy while a guest has the disk: QEMU's NBD server tells nobody of a new size."""
        with self._lock:
            chain = self._chain(disk)
            self._daemon.withdraw_export(chain.guest)
            self._daemon.execute("block_resize", node_name=chain.active.node, size=size)
            self._daemon.add_export(chain.guest, chain.active.node, writable=True)
            chain.size = size

    def volumes(self, disk: str) -> tuple[str, ...]:
        return tuple(volume.id for volume in self._chain(disk).volumes)

    def format(self, disk: str, volume: str) -> str:
        chain = self._chain(disk)
        return chain.volumes[chain.place(volume)].format

    # -- chains ------------------------------------------------------------------------------------------------------

    def snapshot(self, layers: Mapping[str, str]) -> None:
        """disk -> id of its new active image, for all at one point in time. What is counted goes on being counted."""
        with self._lock:
            steps: list[dict[str, Any]] = []
            made: list[tuple[Chain, Volume]] = []
            for disk, id in layers.items():
                chain = self._chain(disk)
                volume = self._volume(id, "cow", set(self._counted(chain)))
                create_image(volume.path, chain.size, base=chain.active.path, base_format=chain.active.format)
                self._daemon.add_image(volume.node, volume.path, "cow")
                steps += [_bitmap(volume.node, name) for name in sorted(volume.bitmaps)]
                steps.append(action("blockdev-snapshot", node=chain.active.node, overlay=volume.node))
                made.append((chain, volume))
            self._daemon.transaction(steps)
            for chain, volume in made:
                chain.volumes.append(volume)

    def merge(self, disk: str, volume: str) -> None:
        """Take away the snapshot whose image is `volume`: what lies above goes into it."""
        with self._lock:
            chain = self._chain(disk)
            place = chain.place(volume)
            if place + 1 >= len(chain.volumes):
                raise Refused("it is the active one", what=f"merging volume {volume}", fault="NoSnapshot")
            base, top = chain.volumes[place], chain.volumes[place + 1]
            only_above = sorted(top.bitmaps - base.bitmaps) if base.format == "cow" else []
            for name in only_above:
                self._daemon.transaction([_bitmap(base.node, name, disabled=True)])
            self._commit(chain, base, top, only_above)
            base.bitmaps |= set(only_above)
            chain.volumes.remove(top)
            self._daemon.remove_image(top.node)
            top.path.unlink()

    def _commit(self, chain: Chain, base: Volume, top: Volume, bitmaps: Sequence[str]) -> None:
        """The base counts what is written into it by itself, but for what began to be counted only above: that is carried
        over. Under an active image it begins to count before, so that nothing falls between."""
        job = self._name("merge")
        options = {"job_id": job, "device": chain.active.node, "base_node": base.node, "auto_dismiss": False}
        if top is chain.active:
            self._daemon.execute("block-commit", **options)
            self._daemon.wait_job(job, "ready", "concluded")
            self._enable(base, bitmaps)
            self._carry(base, top, bitmaps)
            self._daemon.execute("block-job-complete", device=job)
            self._daemon.end_job(job)
        else:
            self._carry(base, top, bitmaps)  # afterwards the base is read-only again, its bitmaps too
            self._daemon.execute("block-commit", **options, top_node=top.node)
            self._daemon.end_job(job)
            self._enable(base, bitmaps)

    def _enable(self, base: Volume, bitmaps: Sequence[str]) -> None:
        for name in bitmaps:
            self._daemon.execute("block-dirty-bitmap-enable", node=base.node, name=name)

    def _carry(self, base: Volume, top: Volume, bitmaps: Sequence[str]) -> None:
        for name in bitmaps:
            source = [{"node": top.node, "name": name}]
            self._daemon.execute("block-dirty-bitmap-merge", node=base.node, target=name, bitmaps=source)

    def revert(self, disk: str, volume: str) -> None:
        """Everything above `volume` is dropped, a new empty active image stands on it. The guest is off."""
        with self._lock:
            chain = self._chain(disk)
            place = chain.place(volume)
            self._daemon.remove_export(chain.guest)
            for one in reversed(chain.volumes[place + 1 :]):
                self._daemon.remove_image(one.node)
                one.path.unlink()
            del chain.volumes[place + 1 :]
            fresh = self._volume(str(uuid4()), "cow")
            create_image(fresh.path, chain.size, base=chain.active.path, base_format=chain.active.format)
            self._daemon.add_image(fresh.node, fresh.path, "cow", chain.active.node)
            chain.volumes.append(fresh)
            self._daemon.add_export(chain.guest, fresh.node, writable=True)

    # -- backups -----------------------------------------------------------------------------------------------------

    def start_backup(self, id: str, disks: Mapping[str, str], checkpoint: str) -> dict[str, Export]:
        """disks: disk -> checkpoint to count from, "" = all of it. checkpoint: that begins with this backup, "" = none."""
        with self._lock:
            steps: list[dict[str, Any]] = []
            scratches = []
            for disk, since in disks.items():
                chain = self._chain(disk)
                steps += self._counting(chain, since, checkpoint, work := self._name("work") if since else "")
                scratch = self._scratch(chain, work)
                steps.append(
                    action(
                        "blockdev-backup",
                        job_id=scratch.job,
                        device=chain.active.node,
                        target=scratch.node,
                        sync="none",
                        auto_dismiss=False,
                    )
                )
                scratches.append(scratch)
            self._daemon.transaction(steps)
            self._backups[id] = scratches
            if checkpoint:
                for disk in disks:
                    if self._chain(disk).active.format == "cow":
                        self._chain(disk).active.bitmaps.add(checkpoint)
            return {scratch.disk: self._offer(scratch) for scratch in scratches}

    def _counting(self, chain: Chain, since: str, checkpoint: str, work: str) -> list[dict[str, Any]]:
        node, steps = chain.active.node, []
        if checkpoint and chain.active.format == "cow":
            steps.append(_bitmap(node, checkpoint))
        if since:
            parts = [{"node": one.node, "name": since} for one in chain.volumes if since in one.bitmaps]
            if not parts:
                raise NotFound(f" in disk {chain.disk}", what="checkpoint", name=since)
            steps.append(_bitmap(node, work, disabled=True, persistent=False))
            steps.append(action("block-dirty-bitmap-merge", node=node, target=work, bitmaps=parts))
        return steps

    def _scratch(self, chain: Chain, work: str) -> Scratch:
        name = self._name("scratch")
        path = self._directory / f"{name}.qcow2"
        create_image(path, chain.size, base=chain.active.path, base_format=chain.active.format)
        self._daemon.add_image(name, path, "cow", chain.active.node)
        return Scratch(chain.disk, name, path, self._name("backup"), self._name("export"), work)

    def _offer(self, scratch: Scratch) -> Export:
        self._daemon.add_export(scratch.export, scratch.node, bitmaps=[scratch.work] if scratch.work else [])
        return self._export(scratch.export, self._chain(scratch.disk).size, bool(scratch.work))

    def stop_backup(self, id: str) -> None:
        with self._lock:
            for scratch in self._backups.pop(id, []):
                self._daemon.remove_export(scratch.export)
                self._daemon.cancel_job(scratch.job)
                self._daemon.remove_image(scratch.node)
                scratch.path.unlink()
                if scratch.work:
                    node = self._chain(scratch.disk).active.node
                    self._daemon.execute("block-dirty-bitmap-remove", node=node, name=scratch.work)

    def has_checkpoint(self, disk: str, checkpoint: str) -> bool:
        return checkpoint in self._counted(self._chain(disk))

    def remove_checkpoint(self, checkpoint: str) -> None:
        with self._lock:
            for chain in self._chains.values():
                for volume in chain.volumes:
                    if checkpoint in volume.bitmaps:
                        self._daemon.execute("block-dirty-bitmap-remove", node=volume.node, name=checkpoint)
                        volume.bitmaps.remove(checkpoint)

    # -- views -------------------------------------------------------------------------------------------------------

    def export(self, disk: str, volume: str = "", *, shallow: bool = False) -> Export:
        """volume "" = the active one. shallow: that image alone, without what lies under it."""
        with self._lock:
            chain = self._chain(disk)
            one = chain.volumes[chain.place(volume)] if volume else chain.active
            export, node = self._name("export"), one.node
            if shallow:
                with self._client(disk) as client:
                    client.flush()
                node = self._name("aside")
                self._daemon.add_image(node, one.path, one.format, aside=True)
                self._asides[export] = node
            self._daemon.add_export(export, node)
            return self._export(export, chain.size)

    def unexport(self, export: Export) -> None:
        with self._lock:
            self._daemon.remove_export(export.id)
            if node := self._asides.pop(export.id, ""):
                self._daemon.remove_image(node)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _export(self, id: str, size: int, dirty: bool = False) -> Export:
        return Export(id, f"nbd:unix:{self._daemon.socket}:exportname={id}", size, dirty)

    def _chain(self, disk: str) -> Chain:
        if disk not in self._chains:
            raise NotFound(what="disk", name=disk)
        return self._chains[disk]

    def _counted(self, chain: Chain) -> frozenset[str]:
        """Checkpoints of which no change can be missing: they are counted in the active image."""
        return frozenset(chain.active.bitmaps)

    def _volume(self, id: str, format: str, bitmaps: set[str] | None = None) -> Volume:
        node = self._name("image")
        return Volume(id, node, self._directory / f"{node}.{format}", format, bitmaps or set())

    def _name(self, kind: str) -> str:
        return f"{kind}{next(self._numbers)}"

    def _client(self, disk: str) -> Client:
        return Client(self._daemon.socket, self._chain(disk).guest)


def _bitmap(node: str, name: str, *, disabled: bool = False, persistent: bool = True) -> dict[str, Any]:
    return action("block-dirty-bitmap-add", node=node, name=name, disabled=disabled, persistent=persistent)
