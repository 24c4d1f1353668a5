"""One ESXi host of the lab as a server of its own: `center.esxi(number)`.

It shows the machines that are on the host now, under ids that nobody else knows, and gives their bytes: by export leases, from
the datastore folder, by the disk library. Certificate, user, sessions and the record of calls are its own; the machines and
what holds them are the vCenter's, looked at anew with each call. What changes a machine is the vCenter's business: here it is
not offered. Where a machine's configuration names a datastore, and a lease its machine, it is by the vCenter's id.
"""

import threading
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from tranship.lab.certificates import make_identity
from tranship.lab.vsphere import facts
from tranship.lab.vsphere.calls import Call
from tranship.lab.vsphere.collector import PropertyCollector
from tranship.lab.vsphere.faults import Call as Record
from tranship.lab.vsphere.folder import DatastoreFolder
from tranship.lab.vsphere.instance import ESXI, Instance
from tranship.lab.vsphere.machine import LabVM, Snapshot
from tranship.lab.vsphere.privileges import Privileges
from tranship.lab.vsphere.server import Server, Services
from tranship.lab.vsphere.sessions import Sessions
from tranship.lab.vsphere.state import State
from tranship.lab.vsphere.transfers import Transfers
from tranship.lab.vsphere.views import Views, unsupported
from tranship.lab.vsphere.vmomi import vim
from tranship.lab.vsphere.world import Managed

ROOT, HOST, DATACENTER = "ha-folder-root", "ha-host", "ha-datacenter"


class Shown(Managed):
    """A machine or a snapshot under this host's id. origin: the vCenter's object."""

    def __init__(self, moid: str, origin: LabVM | Snapshot, properties: dict[str, Any]) -> None:
        super().__init__(origin.kind, moid, properties, cached=False)
        self.origin = origin
        self.vm = origin if isinstance(origin, LabVM) else origin.vm


class HostSessions(Sessions):
    """A host knows no clones of sessions."""

    def AcquireCloneTicket(self, call: Call) -> str:
        raise unsupported(call.method)

    def CloneSession(self, call: Call, cloneTicket: str) -> Any:
        raise unsupported(call.method)


class HostTransfers(Transfers):
    def ExportVm(self, call: Call) -> Any:
        return super().ExportVm(_original(call))

    def ExportSnapshot(self, call: Call) -> Any:
        return super().ExportSnapshot(_original(call))


def _original(call: Call) -> Call:
    return replace(call, this=call.this.origin) if isinstance(call.this, Shown) else call


class Esxi(State):
    """host: that of the vCenter. address: on which it listens."""

    def __init__(self, center: State, host: Managed, directory: Path, address: str) -> None:
        identity = make_identity(directory / "certificates", address)
        super().__init__(directory, "root", f"lab-{host.moid}", identity, DATACENTER, center.world)
        self.lease_timeout = center.lease_timeout
        self._center, self._host, self._name = center, host, address
        self._ids: dict[str, str] = {}  # the vCenter's id -> ours
        self._numbers = count(1)
        self.world.add(Managed(vim.Folder, ROOT, {"name": ROOT}))
        self.world.add(Managed(vim.HostSystem, HOST, {"name": host.value("name")}))
        self.sessions = HostSessions(self)
        privileges, transfers = Privileges(self), HostTransfers(self, directory / "exports")
        methods = (
            self.sessions,
            privileges,
            transfers,
            PropertyCollector(self, 0),
            Views(self),
            Instance(self, ESXI, ROOT),
        )
        services = Services(self.sessions, self, privileges, transfers, DatastoreFolder(self), methods)
        self._server = Server(self, services, address, 0)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name=host.moid, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """As if it lost its power; the vCenter goes on."""
        if not self.closing.is_set():
            self.closing.set()
            self._server.close()

    @property
    def address(self) -> str:
        """For a Host's ipAddress."""
        return f"{self._name}:{self._server.port}"

    @property
    def url(self) -> str:
        return f"https://{self.address}/sdk"

    @property
    def name(self) -> str:
        return str(self._host.value("name"))

    @property
    def moref(self) -> str:
        """The vCenter's id of the host."""
        return self._host.moid

    @property
    def ca_pem(self) -> str:
        return self.identity.ca_pem

    @property
    def calls(self) -> list[Record]:
        return self.faults.calls

    def sweep(self) -> None:
        """Before each call: show what is there now."""
        with self.world.lock:
            for moid in [moid for moid, item in self.world.objects.items() if isinstance(item, Shown)]:
                del self.world.objects[moid]
            self.vms = {}
            for vm in self._center.vms.values():
                if vm.host is self._host:
                    self._show(vm)

    def frozen(self, moref: str, snapshot: str) -> tuple[LabVM | None, str | None]:
        """Machine and snapshot of the vCenter that ids of ours mean; None: there is none."""
        with self.world.lock:
            self.sweep()
            found = self.world.objects.get(snapshot)
            point = found.origin.moid if isinstance(found, Shown) else "" if not snapshot else None
            return self.vms.get(moref), point

    def _show(self, vm: LabVM) -> None:
        id = self._id(vm, "")
        properties = facts.vm_properties(vm, None, None)
        shown = {name: properties[name] for name in ("name", "config", "guest")}
        shown["runtime"] = lambda: _moved(facts.runtime(vm), host=vim.HostSystem(HOST))
        shown["snapshot"] = lambda: self._tree(vm)
        self.vms[id] = vm
        self.world.objects[id] = Shown(id, vm, shown)
        for snapshot in vm.chain:
            own = self._id(snapshot, f"{id}-snapshot-")
            config = snapshot.properties["config"]
            self.world.objects[own] = Shown(own, snapshot, {"vm": vim.VirtualMachine(id), "config": config})

    def _tree(self, vm: LabVM) -> Any:
        info = facts.snapshots(vm)
        if info is None:
            return None
        info.currentSnapshot = vim.vm.Snapshot(self._ids[info.currentSnapshot._moId])
        pending = list(info.rootSnapshotList)
        for node in pending:
            node.snapshot, node.vm = (
                vim.vm.Snapshot(self._ids[node.snapshot._moId]),
                vim.VirtualMachine(self._ids[vm.moid]),
            )
            pending += node.childSnapshotList
        return info

    def _id(self, item: Managed, prefix: str) -> str:
        return self._ids.setdefault(item.moid, f"{prefix}{next(self._numbers)}")


def _moved(info: Any, **changes: Any) -> Any:
    for name, value in changes.items():
        setattr(info, name, value)
    return info
