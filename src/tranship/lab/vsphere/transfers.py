"""Export leases (HttpNfcLease): a whole disk as a genuine streamOptimized VMDK over HTTPS.

ExportVm (off) and ExportSnapshot make a Lease; server.py asks `download` for GET /nfc/TICKET/disk-N.vmdk. The VMDK is
made by qemu-img when it is first asked for, from the frozen content, and sent in chunks because nobody knows its size
before. A lease whose holder is silent for leaseTimeout seconds dies, and running downloads die with it.
"""

import hashlib
import struct
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from os import SEEK_END
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any, BinaryIO
from uuid import uuid4

from tranship.errors import ToolFailed
from tranship.lab.storage import Volume
from tranship.lab.vsphere import soap
from tranship.lab.vsphere.calls import Call, Dropped
from tranship.lab.vsphere.machine import Disk, Hold, LabVM, Snapshot
from tranship.lab.vsphere.power import vm_of, wrong_power
from tranship.lab.vsphere.state import State
from tranship.lab.vsphere.vmomi import Fault, vim

PIECE = 1 << 18
SECTOR = 512
GD_OFFSET, OVERHEAD = slice(56, 64), slice(64, 72)  # of a VMDK's header
AT_END = b"\xff" * 8
END, FOOTER = 0, 3  # kinds of markers


@dataclass
class Answer:
    """A plain HTTP answer. length None: the body is sent in chunks."""

    status: int
    body: Iterable[bytes] = ()
    length: int | None = 0
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Export:
    """One disk of a lease. The file and its facts are there once somebody has asked for it."""

    name: str
    disk: Disk
    point: str | None
    path: Path
    lock: threading.Lock = field(default_factory=threading.Lock)
    sha1: str = ""
    size: int = 0

    def make(self) -> None:
        with self.lock:
            if self.sha1:
                return
            raw = _raw(self.disk.volume, self.point, self.path.with_suffix(".raw"))
            run = ["qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized"]
            argv = [*run, str(raw), str(self.path)]
            done = subprocess.run(argv, capture_output=True, text=True, timeout=600, check=False)
            if raw != self.disk.volume.base_path:
                raw.unlink()
            if done.returncode:
                raise ToolFailed(argv=argv, code=done.returncode, output=done.stderr[-500:])
            _end_as_esxi(self.path)
            with self.path.open("rb") as file:
                self.sha1 = hashlib.file_digest(file, "sha1").hexdigest()
            self.size = self.path.stat().st_size


def _end_as_esxi(path: Path) -> None:
    """What qemu-img leaves out and ESXi sends: the grain directory's place stands in a footer, and a marker ends the
    stream, so that a receiver can tell a whole disk from one that broke off."""
    with path.open("r+b") as file:
        header = bytearray(file.read(SECTOR))
        footer = bytes(header)
        if header[GD_OFFSET] != AT_END:
            header[GD_OFFSET] = AT_END
            file.seek(0)
            file.write(header)
            file.truncate(_last_grain(file, int.from_bytes(header[OVERHEAD], "little") * SECTOR))
            file.seek(0, SEEK_END)
            file.write(_marker(1, FOOTER) + footer + _marker(0, END))


def _last_grain(file: BinaryIO, at: int) -> int:
    """Where it ends, `at` being where the first begins. What qemu-img leaves behind it, room for a grain that does not
    shrink, reads as an end marker."""
    while True:
        file.seek(at)
        marker = file.read(12)
        size = int.from_bytes(marker[8:], "little")
        if not size:
            return at
        at += -(-(12 + size) // SECTOR) * SECTOR


def _marker(sectors: int, kind: int) -> bytes:
    return struct.pack("<QII", sectors, 0, kind).ljust(SECTOR, b"\0")


def _raw(volume: Volume, point: str | None, draft: Path) -> Path:
    """A raw file with the content: the flat file itself where it is frozen, else a copy of the view."""
    if point == next(iter(volume.snapshots), None):
        return volume.base_path
    with draft.open("wb") as file:
        file.truncate(volume.capacity)
        for start, length in volume.allocated(point):
            for at in range(start, start + length, 1 << 20):
                file.seek(at)
                file.write(volume.read(at, min(1 << 20, start + length - at), point))
    return draft


class Lease(Hold):
    """state: initializing, ready, done or error. locks_power: of ExportVm, whose machine must stay off."""

    def __init__(self, moid: str, shared: State, vm: LabVM, exports: list[Export], locks_power: bool) -> None:
        super().__init__(vim.HttpNfcLease, moid)
        self.shared = shared
        self.vm = vm
        self.exports = exports
        self.locks_power = locks_power
        self.ticket = str(uuid4())
        self.state = "initializing"
        self.error: Fault | None = None
        self.percent = 0
        self.deadline = time.monotonic() + shared.lease_timeout
        self.properties = {
            "initializeProgress": lambda: 0 if self.state == "initializing" else 100,
            "transferProgress": lambda: self.percent,
            "mode": "pushOrGet",
            "capabilities": lambda: vim.HttpNfcLease.Capabilities(pullModeSupported=False, corsSupported=False),
            "info": lambda: self._info() if self.state == "ready" else None,
            "state": lambda: self.state,
            "error": lambda: self.error,
        }

    @property
    def live(self) -> bool:
        return self.state in ("initializing", "ready")

    def _info(self) -> Any:
        urls = [
            vim.HttpNfcLease.DeviceUrl(
                key=f"/{self.vm.moid}/ParaVirtualSCSIController0:{export.disk.unit}",
                importKey="",
                url=f"https://{self.shared.nfc_host}/nfc/{self.ticket}/{export.name}",
                sslThumbprint=self.shared.thumbprint,
                disk=True,
                targetId=export.name,
                datastoreKey=export.disk.datastore.moid,
                fileSize=export.disk.capacity,
            )
            for export in self.exports
        ]
        return vim.HttpNfcLease.Info(
            lease=self.ref,
            entity=self.vm.ref,
            deviceUrl=urls,
            totalDiskCapacityInKB=sum(export.disk.capacity for export in self.exports) // 1024,
            leaseTimeout=int(self.shared.lease_timeout),
        )

    def end(self, state: str, error: Fault | None = None) -> None:
        with self.shared.world.lock:
            self.state, self.error, self.done_at = state, error, time.monotonic()
            if self.vm.lease is self:
                self.vm.lease = None
            for export in self.exports[:1]:
                rmtree(export.path.parent, ignore_errors=True)
            self.shared.world.touch(self, self.vm)


class Transfers:
    """The methods of leases. `directory` holds VMDK files while their lease lives."""

    def __init__(self, state: State, directory: Path) -> None:
        self.state = state
        self.world = state.world
        self.directory = directory

    # making a lease

    def ExportVm(self, call: Call) -> Any:
        vm = vm_of(call)
        if vm.on:
            raise wrong_power(vm, "poweredOff")
        return self._lease(vm, vm.disks, None)

    def ExportSnapshot(self, call: Call) -> Any:
        if not isinstance(call.this, Snapshot):
            raise soap.fault_named("NotSupported", "ExportSnapshot is for snapshots.")
        vm = call.this.vm
        return self._lease(vm, [disk for disk in vm.disks if disk.snapshotted], call.this.moid)

    def _lease(self, vm: LabVM, disks: list[Disk], point: str | None) -> Any:
        if vm.task is not None:
            raise soap.fault_named("TaskInProgress", "Another task is already in progress.", task=vm.task.ref)
        if vm.lease is not None:
            raise soap.fault_named("InvalidState", "The virtual machine is being exported already.")
        self.directory.mkdir(parents=True, exist_ok=True)
        home = Path(mkdtemp(dir=self.directory))
        exports = [
            Export(f"disk-{number}.vmdk", disk, point, home / f"disk-{number}.vmdk")
            for number, disk in enumerate(disks)
        ]
        lease = Lease(f"session[{uuid4()}]nfc", self.state, vm, exports, locks_power=point is None)
        vm.lease = lease
        self.world.add(lease, vm)
        threading.Thread(target=self._watch, args=(lease,), name="lease", daemon=True).start()
        return lease.ref

    def _watch(self, lease: Lease) -> None:
        """Make it ready after a while, end it when its holder is silent for too long."""
        self.state.pause(self.state.lease_delay)
        with self.world.lock:
            if lease.state == "initializing":
                lease.state = "ready"
                self.world.touch(lease)
            while lease.live and not self.state.closing.is_set():
                left = lease.deadline - time.monotonic()
                if left <= 0:
                    lease.end("error", soap.fault_named("Timedout", "The lease has timed out."))
                    break
                self.world.changed.wait(left)

    # HttpNfcLease

    def _live(self, call: Call, *states: str) -> Lease:
        lease = call.this
        assert isinstance(lease, Lease)
        if lease.state == "error" and lease.error is not None:
            raise soap.fault_named("Timedout", "The lease has timed out.")
        if lease.state not in states:
            raise soap.fault_named("InvalidState", f"The lease is {lease.state}.")
        return lease

    def HttpNfcLeaseProgress(self, call: Call, percent: int) -> None:
        if not 0 <= percent <= 100:
            raise soap.fault_named("InvalidArgument", "percent", invalidProperty="percent")
        lease = self._live(call, "initializing", "ready")
        lease.percent = percent
        lease.deadline = time.monotonic() + self.state.lease_timeout
        self.world.touch(lease)

    def HttpNfcLeaseComplete(self, call: Call) -> None:
        self._live(call, "ready").end("done")

    def HttpNfcLeaseAbort(self, call: Call, fault: Any = None) -> None:
        lease = self._live(call, "initializing", "ready")
        error = getattr(fault, "fault", fault) or soap.fault_named("RequestCanceled", "The lease was aborted.")
        lease.end("error", error)

    def HttpNfcLeaseGetManifest(self, call: Call) -> list[Any]:
        lease = self._live(call, "ready")
        return [
            vim.HttpNfcLease.ManifestEntry(
                key=f"/{lease.vm.moid}/ParaVirtualSCSIController0:{export.disk.unit}",
                sha1=export.sha1,
                checksum=export.sha1,
                checksumType="sha1",
                size=export.size,
                disk=True,
                capacity=export.disk.capacity,
                populatedSize=sum(length for _, length in export.disk.volume.allocated(export.point)),
            )
            for export in lease.exports
            if export.sha1
        ]

    # HTTP

    def download(self, path: str, head: bool) -> Answer:
        """GET or HEAD of /nfc/TICKET/NAME. The ticket in the path is the permission. Ranges are ignored, as by ESXi."""
        _, _, rest = path.partition("/nfc/")
        ticket, _, name = rest.partition("/")
        with self.world.lock:
            leases = (item for item in self.world.of(vim.HttpNfcLease) if isinstance(item, Lease))
            lease = next((item for item in leases if item.ticket == ticket), None)
        if lease is None or lease.state != "ready":
            return Answer(404)
        export = next((export for export in lease.exports if export.name == name), None)
        if export is None:
            return Answer(404)
        kind = {"Content-Type": "application/x-vnd.vmware-streamVmdk"}
        if head:
            return Answer(200, length=None, headers=kind)
        export.make()
        return Answer(200, _stream(lease, export), None, kind)


def _stream(lease: Lease, export: Export) -> Iterator[bytes]:
    with export.path.open("rb") as file:
        while piece := file.read(PIECE):
            if not lease.live:
                raise Dropped
            yield piece
