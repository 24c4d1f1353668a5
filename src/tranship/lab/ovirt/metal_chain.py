"""A disk's chain of volumes in the storage daemon: what QEMU is asked for when a snapshot is made, merged or reverted to.

metal.py holds one Chain per disk, does the locking, and puts the disks of a VM into common transactions.

A checkpoint is a persistent dirty bitmap of its name, always enabled, on every volume from the one that was active when
it was made up to the active one. So what changed since is the union of those bitmaps; a new volume begins with empty ones,
and when two volumes become one, their bitmaps do too. A raw file can store none, nor can bitmaps of unequal sizes be
united: then the checkpoint is lost for this disk, as it is on a real host.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tranship.errors import NotFound, TranshipError
from tranship.lab.ovirt.storage_daemon import StorageDaemon, action, create_image


@dataclass(eq=False)
class Layer:
    """One volume. node: its name in QEMU. bitmaps: the checkpoints that it has bits of. size: bytes."""

    volume: str
    node: str
    path: Path
    format: str
    size: int
    bitmaps: set[str] = field(default_factory=set)


class Chain:
    """Base first. `fresh` gives names that QEMU has not seen."""

    def __init__(self, disk: str, daemon: StorageDaemon, base: Layer, fresh: Callable[[str], str]) -> None:
        self.disk = disk
        self.export = f"guest-{disk}"
        self.daemon = daemon
        self.layers = [base]
        self._fresh = fresh
        daemon.add_image(base.node, base.path, base.format)
        self.show()

    @property
    def active(self) -> Layer:
        return self.layers[-1]

    def find(self, volume: str) -> Layer:
        """volume: "" means the active one."""
        for layer in self.layers:
            if volume in ("", layer.volume):
                return layer if volume else self.active
        raise NotFound(what=f"volume of disk {self.disk}", name=volume)

    def show(self) -> None:
        """Let the guest in. This export follows the active volume, because QEMU moves it."""
        self.daemon.add_export(self.export, self.active.node, writable=True)

    def hide(self) -> None:
        self.daemon.withdraw_export(self.export)

    # snapshots

    def draft(self, volume: str, backing: str | None = None) -> Layer:
        """An open empty volume that may become the next active one. backing: the node below, where nobody else puts it
        there."""
        below = self.active
        layer = Layer(volume, self._fresh("n"), below.path.with_name(volume), "cow", below.size, set(below.bitmaps))
        create_image(layer.path, layer.size, base=below.path, base_format=below.format)
        try:
            self.daemon.add_image(layer.node, layer.path, layer.format, backing)
        except TranshipError:
            layer.path.unlink()
            raise
        return layer

    def delete(self, layer: Layer) -> None:
        """One that is no longer, or not yet, part of the chain."""
        self.daemon.remove_image(layer.node)
        layer.path.unlink()

    def snapshot_actions(self, layer: Layer) -> list[dict[str, Any]]:
        bitmaps = [_add_bitmap(layer, name) for name in sorted(layer.bitmaps)]
        return [*bitmaps, action("blockdev-snapshot", node=self.active.node, overlay=layer.node)]

    def merge(self, volume: str) -> None:
        """Commit the volume above into `volume`."""
        lower, upper = self.pair(volume)
        if lower.format == "raw":
            self.drop(upper.bitmaps)
        job = self._fresh("merge")
        self.daemon.execute(
            "block-commit",
            job_id=job,
            device=self.active.node,
            top_node=upper.node,
            base_node=lower.node,
            auto_dismiss=False,
        )
        # The active volume's job is ready when it waits for the order to put `lower` in its place. From the union of the
        # bitmaps until then the guest's writes go to both, and mark the bitmaps of `lower` too: no change is missed.
        if self.daemon.wait_job(job, "ready", "concluded") == "ready":
            self._unite(lower, upper)
            self.daemon.execute("block-job-complete", device=job)
            self.daemon.wait_job(job, "concluded")
        self.daemon.dismiss_job(job)
        if upper is not self.active:
            with self._writable(lower):
                self._unite(lower, upper)
        lower.size = max(lower.size, upper.size)
        self._discard(upper)

    def pair(self, volume: str) -> tuple[Layer, Layer]:
        """`volume` and the one above it."""
        index = self.layers.index(self.find(volume))
        if index + 1 == len(self.layers):
            raise NotFound(what="volume above", name=volume)
        return self.layers[index], self.layers[index + 1]

    def revert(self, volume: str, new: str) -> None:
        """Drop all that is above `volume`; `new` is the active one then. No guest may be connected."""
        lower = self.find(volume)
        self.hide()
        try:
            self.drop(set().union(*(layer.bitmaps for layer in self.layers)))
            while self.active is not lower:
                self._discard(self.active)
            self.layers.append(self.draft(new, lower.node))
        finally:
            self.show()

    def extend(self, size: int) -> None:
        """No guest may be connected: NBD cannot tell it."""
        self.hide()
        try:
            self.drop(set().union(*(layer.bitmaps for layer in self.layers[:-1])))
            self.daemon.execute("block_resize", node_name=self.active.node, size=size)
            self.active.size = size
        finally:
            self.show()

    def _discard(self, layer: Layer) -> None:
        self.layers.remove(layer)
        self.delete(layer)

    # checkpoints

    def checkpoint_actions(self, checkpoint: str) -> list[dict[str, Any]]:
        return [] if self.active.format == "raw" else [_add_bitmap(self.active, checkpoint)]

    def difference_actions(self, checkpoint: str, target: str) -> list[dict[str, Any]]:
        """A bitmap `target` at the active volume that has what changed since the checkpoint."""
        if checkpoint not in self.active.bitmaps:
            raise NotFound(what=f"checkpoint of disk {self.disk}", name=checkpoint)
        sources = [{"node": layer.node, "name": checkpoint} for layer in self.layers if checkpoint in layer.bitmaps]
        return [
            action("block-dirty-bitmap-add", node=self.active.node, name=target, disabled=True),
            action("block-dirty-bitmap-merge", node=self.active.node, target=target, bitmaps=sources),
        ]

    def drop(self, checkpoints: Iterable[str]) -> None:
        """Forget them, on all volumes."""
        for checkpoint in sorted(checkpoints):
            for layer in self.layers:
                if checkpoint not in layer.bitmaps:
                    continue
                with self._writable(layer):
                    self.daemon.execute("block-dirty-bitmap-remove", node=layer.node, name=checkpoint)
                layer.bitmaps.remove(checkpoint)

    @contextmanager
    def _writable(self, layer: Layer) -> Iterator[None]:
        """QEMU makes a volume read-only, its bitmaps included, when a snapshot is put above it."""
        if layer is self.active:
            yield
            return
        below = self.layers[: self.layers.index(layer)]
        image = (layer.node, layer.path, layer.format, below[-1].node if below else None)
        self.daemon.reopen_image(*image, read_only=False)
        try:
            yield
        finally:
            self.daemon.reopen_image(*image, read_only=True)

    def _unite(self, lower: Layer, upper: Layer) -> None:
        new = [_add_bitmap(lower, name) for name in sorted(upper.bitmaps - lower.bitmaps)]
        merges = [
            action(
                "block-dirty-bitmap-merge", node=lower.node, target=name, bitmaps=[{"node": upper.node, "name": name}]
            )
            for name in sorted(upper.bitmaps)
        ]
        if merges:
            self.daemon.transaction([*new, *merges])
        lower.bitmaps |= upper.bitmaps


def _add_bitmap(layer: Layer, name: str) -> dict[str, Any]:
    return action("block-dirty-bitmap-add", node=layer.node, name=name, persistent=True)
