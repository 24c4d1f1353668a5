"""The simulated vCenter: `VCenter(directory).start()`, then add virtual machines and hand its url to a client.

Used by tests, by `tranship lab` and by the demo. It wires the services together; what a method does stands in the module
of its subject. Everything it needs on disk is under `directory`.
"""

import random
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from tranship.lab.certificates import make_identity
from tranship.lab.guest.records import prepare
from tranship.lab.vsphere import facts
from tranship.lab.vsphere.blocks import Blocks
from tranship.lab.vsphere.calls import Call
from tranship.lab.vsphere.collector import PropertyCollector
from tranship.lab.vsphere.estate import DATACENTER, Estate, Nic
from tranship.lab.vsphere.esxi import Esxi
from tranship.lab.vsphere.faults import Call as Record
from tranship.lab.vsphere.folder import DatastoreFolder
from tranship.lab.vsphere.guests import QemuMachinery
from tranship.lab.vsphere.instance import VCENTER, Instance
from tranship.lab.vsphere.machine import Disk, LabVM, per_disk
from tranship.lab.vsphere.power import Power, vm_of, wrong_power
from tranship.lab.vsphere.privileges import Privileges
from tranship.lab.vsphere.server import Server, Services
from tranship.lab.vsphere.sessions import Sessions
from tranship.lab.vsphere.snapshots import Snapshots
from tranship.lab.vsphere.state import State
from tranship.lab.vsphere.tasks import Tasks
from tranship.lab.vsphere.tracking import Tracking
from tranship.lab.vsphere.transfers import Transfers
from tranship.lab.vsphere.views import Views
from tranship.lab.vsphere.world import Managed


class VCenter(State):
    """Settings as in State, which may be changed while it runs; page is the most objects of one retrieval (0: as the
    client asks). host: the name or address that it listens on and is called by."""

    def __init__(
        self,
        directory: Path,
        *,
        user: str = "administrator@vsphere.local",
        password: str = "lab-password",
        host: str = "localhost",
        port: int = 0,
        session_timeout: float = 1800.0,
        cbt_page: int = 2000,
        task_delay: float = 0.0,
        task_expiry: float = 600.0,
        lease_timeout: float = 300.0,
        lease_delay: float = 0.0,
        page: int = 0,
        seed: int = 1,
    ) -> None:
        super().__init__(directory, user, password, make_identity(directory / "certificates", host), DATACENTER)
        self.host = host
        self.session_timeout = session_timeout
        self.cbt_page = cbt_page
        self.task_delay = task_delay
        self.task_expiry = task_expiry
        self.lease_timeout = lease_timeout
        self.lease_delay = lease_delay
        self._random = random.Random(seed)
        self._blocks: Blocks | None = None
        self.direct: dict[str, Esxi] = {}
        self.estate = Estate(self.world, directory, lambda: [vm.ref for vm in self.vms.values()])
        for name in ("datastore1", "datastore2"):
            self.estate.add_datastore(name)
        self.estate.add_network("VM Network")
        self.estate.add_network("DPortGroup", distributed=True)
        self._server = Server(self, self._wire(page), host, port)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="vcenter", daemon=True)

    def _wire(self, page: int) -> Services:
        self.sessions = Sessions(self)
        self.privileges = Privileges(self)
        self.tasks = Tasks(self)
        self.power = Power(self, self.tasks)
        self.snapshots = Snapshots(self, self.tasks, self.power)
        self.transfers = Transfers(self, self.directory / "exports")
        return Services(
            self.sessions,
            self.tasks,
            self.privileges,
            self.transfers,
            DatastoreFolder(self),
            methods=(
                self,
                Instance(self, VCENTER, "group-d1"),
                self.sessions,
                self.privileges,
                self.tasks,
                self.power,
                self.snapshots,
                Tracking(self),
                self.transfers,
                PropertyCollector(self, page),
                Views(self),
            ),
        )

    # life

    def start(self) -> "VCenter":
        self._thread.start()
        return self

    def close(self) -> None:
        """Ends the server, the waits, the running tasks' pauses and every guest."""
        self.closing.set()
        for host in self.direct.values():
            host.close()
        if self._thread.is_alive():
            self._server.close()
        else:
            self._server.server_close()
        self.world.touch()
        if self._blocks is not None:
            self._blocks.service.close()
        for vm in list(self.vms.values()):
            self.power.switch_off(vm, "hard-off")
            if vm.machinery is not None:
                vm.machinery.close()
            for disk in vm.disks:
                if disk.made is not None:
                    disk.made.close()

    def __enter__(self) -> "VCenter":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    # what a client needs

    @property
    def port(self) -> int:
        return self._server.port

    @property
    def url(self) -> str:
        return f"https://{self.host}:{self.port}/sdk"

    @property
    def ca_pem(self) -> str:
        return self.identity.ca_pem

    @property
    def server_pem(self) -> str:
        return self.identity.server_pem

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the server's certificate, in the same form."""
        return self.identity.sha256

    @property
    def blocks(self) -> Blocks:
        """The service behind the library. Made, and the library built by gcc, when first asked for."""
        with self.world.lock:
            if self._blocks is None:
                self._blocks = Blocks(self, self.sessions, self.privileges, self.directory / "vddk", self.host)
                for host in self.direct.values():
                    self._blocks.serve(host)
            return self._blocks

    def esxi(self, number: int = 0) -> Esxi:
        """The host as a server of its own, with an address, a certificate and a user that the vCenter knows nothing of. Begins
        to answer when it is first asked for."""
        with self.world.lock:
            host = self.estate.hosts[number]
            if host.moid not in self.direct:
                made = self.direct[host.moid] = Esxi(self, host, self.directory / host.moid, self.host)
                made.start()
                if self._blocks is not None:
                    self._blocks.serve(made)
            return self.direct[host.moid]

    def migrate(self, vm: LabVM, number: int) -> None:
        """Have it run on another host from now on (vMotion)."""
        with self.world.lock:
            before, vm.host = vm.host, self.estate.hosts[number]
            self.world.touch(vm, vm.host, *([before] if before else []))

    @property
    def vddk_directory(self) -> Path:
        """A libvixDiskLib that serves this vCenter's snapshots: what a provider's settings name."""
        return self.blocks.directory

    @property
    def calls(self) -> list[Record]:
        return self.faults.calls

    # inventory

    def add_datastore(self, name: str, *, capacity: int | None = None, free: int | None = None) -> Managed:
        with self.world.lock:
            return self.estate.add_datastore(name, capacity, free)

    def add_network(self, name: str, *, distributed: bool = False, vlan: int = 0) -> Managed:
        with self.world.lock:
            return self.estate.add_network(name, distributed, vlan)

    def add_vm(
        self,
        name: str,
        disks: Sequence[bytes | int] = (),
        *,
        running: bool = False,
        guest: bool = False,
        tools: bool = True,
        cpus: int = 1,
        memory: int = 512,
        firmware: str = "bios",
        cbt: bool = False,
        networks: Sequence[str] = ("VM Network",),
        datastore: str | Sequence[str] = "datastore1",
        disk_mode: str | Sequence[str] = "persistent",
        rdm: str | Sequence[str] = "",
        shared: str | Sequence[str] = "",
        host: int | None = None,
        rate: int = 200,
        slots: int = 2048,
        qemu: Sequence[str] = (),
    ) -> LabVM:
        """disks: initial bytes, or a size for a disk of zeroes. memory: MiB. Per disk or one for all: datastore (name),
        disk_mode (persistent, independent_persistent, ...), rdm ("", virtual, physical), shared ("", multiwriter, bus).
        guest: a QEMU guest boots from the first disk when the VM is powered on; else the test writes by vm.write. Where
        all disks are given as sizes it is the writing guest of lab/guest with `rate` and `slots` (lab/guest/records.py);
        `qemu` are further arguments for QEMU."""
        with self.world.lock:
            vm = LabVM(self.world.new_id("vm-"), name)
            vm.tools, vm.cpus, vm.memory, vm.firmware, vm.cbt = tools, cpus, memory, firmware, cbt
            vm.uuid, vm.instance_uuid = f"4223{self._uuid()[4:]}", f"5023{self._uuid()[4:]}"
            number = len(self.vms)
            vm.host = self.estate.hosts[(number if host is None else host) % len(self.estate.hosts)]
            count = len(disks)
            choices = [per_disk(value, count) for value in (datastore, disk_mode, rdm, shared)]
            for index, content in enumerate(disks):
                vm.disks.append(self._disk(vm, index, content, *(choice[index] for choice in choices)))
            for index, network in enumerate(networks):
                vm.nics.append(self._nic(number, index, network))
            vm.properties = facts.vm_properties(vm, self.estate.pool.ref, self.estate.folder.ref)
            self.vms[vm.moid] = vm
            self.world.add(vm, *self._holders(vm))
        if guest:
            vm.machinery = QemuMachinery(vm, qemu)
            if all(isinstance(content, int) for content in disks):
                prepare(vm.volumes, self.directory / "program", rate=rate, slots=slots)
        if running:
            self.power.switch_on(vm)
        return vm

    def remove_vm(self, vm: LabVM) -> None:
        """Without a trace, as Destroy_Task does."""
        with self.world.lock:
            holders = self._holders(vm)
            del self.vms[vm.moid]
            for snapshot in vm.chain:
                self.world.remove(snapshot)
            self.world.remove(vm, *holders)

    def Destroy_Task(self, call: Call) -> Any:
        """The method of a virtual machine."""
        vm = vm_of(call)

        def work(task: Any) -> None:
            if vm.on:
                raise wrong_power(vm, "poweredOff")
            self.remove_vm(vm)

        return self.tasks.start(call, vm, work)

    def vm(self, name: str) -> LabVM:
        return next(vm for vm in self.vms.values() if vm.name == name)

    def _holders(self, vm: LabVM) -> list[Managed]:
        stores = [disk.datastore for disk in vm.disks]
        networks = [nic.network for nic in vm.nics]
        hosts = [vm.host] if vm.host else []
        return [self.estate.folder, self.estate.pool, *hosts, *stores, *networks]

    def _disk(self, vm: LabVM, index: int, content: bytes | int, store: str, mode: str, rdm: str, sharing: str) -> Disk:
        capacity = content if isinstance(content, int) else len(content)
        unit = index if index < 7 else index + 1  # 7 is the controller's own
        stem = f"{vm.name}/{vm.name}" + (f"_{index}" if index else "")
        return Disk(
            key=2000 + index,
            unit=unit,
            capacity=capacity,
            path=self.directory / "disks" / vm.moid / f"disk-{index}",
            stem=stem,
            datastore=self.estate.datastores[store],
            uuid=f"6000c29{self._uuid()[7:]}",
            content=b"" if isinstance(content, int) else content,
            mode=mode,
            rdm=rdm,
            sharing=sharing,
            tracking=vm.cbt,
        )

    def _nic(self, number: int, index: int, network: str) -> Nic:
        mac = f"00:50:56:{(number >> 8) & 0x3F:02x}:{number & 0xFF:02x}:{index:02x}"
        return Nic(4000 + index, self.estate.networks[network], mac, f"10.{number >> 8}.{number & 0xFF}.{index + 10}")

    def _uuid(self) -> str:
        return str(UUID(int=self._random.getrandbits(128), version=4))
