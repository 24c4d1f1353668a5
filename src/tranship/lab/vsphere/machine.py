"""One virtual machine of the lab: its disks, its power, its snapshots and what was done to it.

center.py makes it; power.py, snapshots.py, tracking.py and transfers.py act on it under the world's lock; facts.py shows
it to clients. Tests hold it in their hands: `vm.write`, `vm.volumes`, `vm.power_log`.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tranship.lab.guest.machine import Guest
from tranship.lab.storage import Volume
from tranship.lab.vsphere.vmomi import vim
from tranship.lab.vsphere.world import Managed

PIECE = 1 << 20


class PowerChange(NamedTuple):
    """state: on or off. cause: on, guest-shutdown, hard-off, crash or revert. at: time.monotonic()."""

    at: float
    state: str
    cause: str


class Hold(Managed):
    """An export of the machine. locks_power: it must stay off as long."""

    locks_power = False


class Machinery(Protocol):
    """What boots the machine's real guest."""

    def boot(self) -> Guest: ...

    def close(self) -> None: ...


@dataclass
class Disk:
    """A virtual disk. The volume is made when somebody first touches it, so that a large estate costs no files.

    files: numbers of the chain's files; 0 is the base, the last one is what the machine writes. content: the initial
    bytes. rdm: "", virtual or physical; sharing: "", multiwriter or bus."""

    key: int
    unit: int
    capacity: int
    path: Path
    stem: str
    datastore: Managed
    uuid: str
    content: bytes = b""
    mode: str = "persistent"
    rdm: str = ""
    sharing: str = ""
    tracking: bool = False
    files: list[int] = field(default_factory=lambda: [0])
    made: Volume | None = None
    _making: threading.Lock = field(default_factory=threading.Lock)

    @property
    def volume(self) -> Volume:
        with self._making:
            if self.made is None:
                self.made = self._make()
            return self.made

    def _make(self) -> Volume:
        fresh = not (self.path / "volume.json").exists()
        volume = Volume(self.path, self.capacity)
        for start in range(0, len(self.content) if fresh else 0, PIECE):
            piece = self.content[start : start + PIECE]
            if piece.count(0) != len(piece):
                volume.write(start, piece)
        self.content = b""
        if self.tracking and self.snapshotted:
            volume.enable_tracking()
            volume.stun()
        return volume

    @property
    def snapshotted(self) -> bool:
        """Independent disks and physical raw mappings take no part in snapshots, and so none in change tracking."""
        return not self.mode.startswith("independent") and self.rdm != "physical"

    def file(self, number: int) -> str:
        """The datastore path of one file of the chain."""
        suffix = f"-{number:06d}" if number else ""
        return f"[{self.datastore.value('name')}] {self.stem}{suffix}.vmdk"


class Snapshot(Managed):
    """A snapshot. `config` is the machine's configuration as it was, and the one place where change ids are shown."""

    def __init__(self, moid: str, vm: "LabVM", number: int, name: str, description: str, quiesced: bool) -> None:
        super().__init__(vim.vm.Snapshot, moid, {"vm": vm.ref, "config": lambda: self.config, "customValue": []})
        self.properties["childSnapshot"] = self._child
        self.vm = vm
        self.number = number
        self.name = name
        self.description = description
        self.quiesced = quiesced
        self.created = datetime.now(UTC)
        self.power = vm.power
        self.config: Any = None

    def _child(self) -> list[Any]:
        at = self.vm.chain.index(self)
        return [item.ref for item in self.vm.chain[at + 1 : at + 2]]


class LabVM(Managed):
    """`guest`: the QEMU guest of the last power-on where the VM has a real one. `power`: "poweredOn" or "poweredOff"."""

    def __init__(self, moid: str, name: str) -> None:
        super().__init__(vim.VirtualMachine, moid)
        self.name = name
        self.power = "poweredOff"
        self.power_log: list[PowerChange] = []
        self.disks: list[Disk] = []
        self.nics: list[Any] = []
        self.chain: list[Snapshot] = []
        self.task: Managed | None = None  # the one that runs
        self.lease: Hold | None = None
        self.guest: Guest | None = None
        self.machinery: Machinery | None = None  # what boots the real guest
        self.booted: datetime | None = None
        self.shutdown_asked = False
        self.snapshot_count = 0
        self.unconsolidated: list[str] = []  # removed snapshots whose disks are not merged yet
        self.cbt = False
        # what a test or the demo may change at any time
        self.tools = True
        self.shutdown_seconds: float | None = (
            0.0  # None: the guest ignores the request; real guests take their own time
        )
        self.loses_tracking = False  # a hard power-off loses the change tracking, as a power loss may
        self.cpus = 1
        self.cores_per_socket = 1
        self.memory = 512  # MiB
        self.firmware = "bios"
        self.secure_boot = False
        self.template = False
        self.annotation = ""
        self.guest_id = "debian12_64Guest"
        self.guest_name = "Debian GNU/Linux 12 (64-bit)"
        self.uuid = ""
        self.instance_uuid = ""
        self.host: Managed | None = None
        self.consolidation_needed = False
        self.change_version = datetime.now(UTC)

    @property
    def moref(self) -> str:
        return self.moid

    @property
    def on(self) -> bool:
        return self.power == "poweredOn"

    @property
    def tools_running(self) -> bool:
        return self.tools and self.on

    @property
    def volumes(self) -> list[Volume]:
        return [disk.volume for disk in self.disks]

    @property
    def snapshots(self) -> list[str]:
        """Names, oldest first."""
        return [snapshot.name for snapshot in self.chain]

    @property
    def base(self) -> str:
        """Directory on the datastore."""
        return self.disks[0].stem.partition("/")[0] if self.disks else self.name

    def disk(self, key: int) -> Disk | None:
        return next((disk for disk in self.disks if disk.key == key), None)

    def write(self, offset: int, data: bytes, disk: int = 0) -> None:
        """What a guest would write. Only for VMs without a real guest."""
        self.disks[disk].volume.write(offset, data)

    def read(self, disk: int = 0) -> bytes:
        """The present content of a disk."""
        volume = self.disks[disk].volume
        return volume.read(0, volume.capacity)

    def stun(self) -> None:
        """The moment that activates (or ends) change tracking."""
        for disk in self.disks:
            if disk.made is not None:
                disk.made.stun()

    def log_power(self, state: str, cause: str) -> None:
        self.power_log.append(PowerChange(time.monotonic(), state, cause))

    def power_causes(self) -> list[str]:
        """The causes in order: ["on", "guest-shutdown"]."""
        return [change.cause for change in self.power_log]


def per_disk(value: Any, count: int) -> Sequence[Any]:
    """One value for all disks, or one for each."""
    return [value] * count if isinstance(value, str) else list(value)
