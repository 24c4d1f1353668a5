"""The vCenter behind the lab's libvixDiskLib: who may read, and which volume a datastore path of a snapshot means.

center.py starts the block service the first time that somebody asks for the library's directory.
"""

import socket
from functools import partial
from pathlib import Path

from tranship.errors import Busy, Denied, NotFound
from tranship.lab.storage import Volume
from tranship.lab.vddk.build import build_library
from tranship.lab.vddk.service import BlockService
from tranship.lab.vsphere.esxi import Esxi
from tranship.lab.vsphere.machine import LabVM
from tranship.lab.vsphere.privileges import Privileges
from tranship.lab.vsphere.sessions import Sessions
from tranship.lab.vsphere.state import State

READ = "VirtualMachine.Provisioning.DiskRandomRead"


class Blocks:
    """`service.faults` is where tests ask for latency and broken reads; `directory` is what a provider's settings name."""

    def __init__(self, state: State, sessions: Sessions, privileges: Privileges, directory: Path, host: str) -> None:
        """host: where the vCenter is called; the library's clients may be in pods."""
        self.state = state
        self.privileges = privileges
        self.service = BlockService(
            sessions.check,
            self._find,
            session=sessions.reads,
            thumbprint=state.thumbprint,
            host=socket.gethostbyname(host),
        )
        self.service.start()
        self.directory = build_library(directory, self.service.address)

    def _find(self, moref: str, snapshot: str, path: str) -> tuple[Volume, str | None]:
        """Any file of the chain up to the snapshot is a good name for the disk at that snapshot."""
        if not self.privileges.granted(READ):
            raise Denied("the privilege is missing", what=READ)
        with self.state.world.lock:
            vm = self.state.vms.get(moref)
            if vm is None:
                raise NotFound(what="vm", name=moref)
            self.state.faults.record("VDDK open", vm.name)
            return self._volume(vm, snapshot, path)

    def serve(self, host: Esxi) -> None:
        """That host's clients too: they are known by the certificate that they expect."""
        self.service.serve(host.thumbprint, host.sessions.check, partial(self._find_on, host), host.sessions.reads)

    def _find_on(self, host: Esxi, moref: str, snapshot: str, path: str) -> tuple[Volume, str | None]:
        with self.state.world.lock:
            vm, point = host.frozen(moref, snapshot)
            if vm is None:
                raise NotFound(what="vm", name=moref)
            host.faults.record("VDDK open", vm.name)
            if point is None:
                raise NotFound(what="snapshot", name=snapshot)
            return self._volume(vm, point, path)

    def _volume(self, vm: LabVM, snapshot: str, path: str) -> tuple[Volume, str | None]:
        chain = [item.moid for item in vm.chain]
        if snapshot and snapshot not in chain:
            raise NotFound(what="snapshot", name=snapshot)
        for disk in vm.disks:
            at = disk.volume.snapshots.index(snapshot) + 1 if snapshot and disk.snapshotted else len(disk.files)
            if path in (disk.file(number) for number in disk.files[:at]):
                if vm.on and not (snapshot and disk.snapshotted):
                    raise Busy("the machine runs", what=f"reading {path}", fault="FileLocked")
                return disk.volume, snapshot if snapshot and disk.snapshotted else None
        raise NotFound(what="disk", name=path)
