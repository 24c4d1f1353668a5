"""The simulated oVirt Engine: `with Engine(directory) as engine`, then add virtual machines and hand its url to a client.

Used by tests, by `tranship lab` and by the demo. It wires the services together; what a request does stands in the module
of its subject. Behind it are the genuine ovirt-imageio daemon (imageio.py) and QEMU, which holds the disks (metal.py).
Everything it needs on disk is under `directory`.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tranship.lab.certificates import make_identity
from tranship.lab.guest.records import prepare
from tranship.lab.ovirt.backups import Backups
from tranship.lab.ovirt.checkpoints import Checkpoints
from tranship.lab.ovirt.disks import Disks
from tranship.lab.ovirt.events import Code, Event, Events
from tranship.lab.ovirt.faults import Call
from tranship.lab.ovirt.inventory import Inventory
from tranship.lab.ovirt.model import (
    MIB,
    Attachment,
    Cluster,
    DataCenter,
    Disk,
    DiskProfile,
    Home,
    Host,
    LabVM,
    Network,
    Nic,
    StorageDomain,
    VnicProfile,
)
from tranship.lab.ovirt.power import Power
from tranship.lab.ovirt.routes import Routes
from tranship.lab.ovirt.server import Dispatcher, Server
from tranship.lab.ovirt.snapshots import Snapshots
from tranship.lab.ovirt.sso import Sso
from tranship.lab.ovirt.state import State
from tranship.lab.ovirt.transfers import Transfers

FIRMWARE = {"bios": "q35_sea_bios", "efi": "q35_ovmf", "uefi": "q35_ovmf"}


class Engine(State):
    """Settings as in State, which may be changed while it runs. host: the name or address that Engine and imageio daemon
    listen on and are called by. version: of the Engine; cluster_level: 4.4 to 4.8 (from 4.7 on backups are hybrid).
    transfer_timeout: seconds that an image transfer's client may be idle."""

    def __init__(
        self,
        directory: Path,
        port: int = 0,
        *,
        host: str = "localhost",
        version: str = "4.5.6",
        cluster_level: str = "4.6",
        user: str = "admin@internal",
        password: str = "lab-password",
        transfer_timeout: int = 60,
        session_timeout: float = 1800.0,
        hosts: int = 2,
        seed: int = 1,
    ) -> None:
        super().__init__(directory, make_identity(directory / "certificates", host), user, password, version, seed)
        self.host = host
        self.transfer_timeout = transfer_timeout
        self.session_timeout = session_timeout
        self.homes: list[Home] = []
        self.events = Events(self)
        self.sso = Sso(self)
        self.power = Power(self, self.events)
        self.disk_service = Disks(self, self.events)
        self.snapshot_service = Snapshots(self, self.events)
        self.transfer_service = Transfers(self, self.events, host)
        self.backup_service = Backups(self, self.events, self.snapshot_service)
        self.power.went_down.append(self.backup_service.vm_went_down)
        services: list[Any] = [
            *(Inventory(self, self.events), self.power, self.disk_service, self.snapshot_service),
            *(self.transfer_service, self.backup_service, Checkpoints(self, self.events)),
        ]
        routes = Routes([row for service in services for row in service.rows()])
        self._server = Server(self, Dispatcher(self, self.sso, routes), host, port)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="engine", daemon=True)
        self._furnish(cluster_level, hosts)

    def _furnish(self, level: str, hosts: int) -> None:
        """One data centre, one cluster, hosts, the management network and a second one, two storage domains."""
        self.data_center = DataCenter(self.uuid(), "Default", level)
        self.data_centers[self.data_center.id] = self.data_center
        self.cluster = self.add_cluster("Default", level)
        for name, vlan, usages in (("ovirtmgmt", 0, ("vm", "management", "display")), ("vlan10", 10, ("vm",))):
            self.add_network(name, vlan=vlan, usages=usages)
        for number in range(hosts):
            self.add_host(f"host{number + 1}")
        for name in ("data", "data2"):
            self.add_storage(name)

    # life

    def start(self) -> "Engine":
        self._thread.start()
        return self

    def close(self) -> None:
        """Ends the server, the work that runs, the daemon, the guests and their disks."""
        self.closing.set()
        self.faults.clear()
        if self._thread.is_alive():
            self._server.close()
        else:
            self._server.server_close()
        self.join(10)
        self.transfer_service.close()
        self.power.close()
        for home in {id(disk.home): disk.home for disk in self.disks.values()}.values():
            home.close()
        for home in self.homes:
            home.close()

    def __enter__(self) -> "Engine":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def drop_connections(self) -> None:
        """As if the Engine's front end restarted: whoever is connected has to come again."""
        self._server.drop_connections()

    # what a client needs

    @property
    def port(self) -> int:
        return self._server.port

    @property
    def url(self) -> str:
        return f"https://{self.host}:{self.port}/ovirt-engine/api"

    @property
    def ca_pem(self) -> str:
        return self.identity.ca_pem

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the server's certificate, in upper-case hex pairs with colons."""
        return self.identity.sha256

    @property
    def calls(self) -> list[Call]:
        return self.faults.calls

    @property
    def event_log(self) -> list[Event]:
        """Oldest first."""
        return self.events.log

    # inventory

    def add_cluster(self, name: str, level: str = "4.6") -> Cluster:
        cluster = Cluster(self.uuid(), name, self.data_center, level)
        self.clusters[cluster.id] = cluster
        return cluster

    def add_host(self, name: str, cluster: Cluster | None = None) -> Host:
        host = Host(self.uuid(), name, cluster or self.cluster, list(self.networks.values()), self.uuid(), self.host)
        self.hosts[host.id] = host
        return host

    def add_network(self, name: str, *, vlan: int = 0, usages: tuple[str, ...] = ("vm",)) -> VnicProfile:
        """With a vNIC profile of the same name, which is returned."""
        network = Network(self.uuid(), name, self.data_center, vlan, usages)
        self.networks[network.id] = network
        profile = VnicProfile(self.uuid(), name, network)
        self.profiles[profile.id] = profile
        return profile

    def add_storage(self, name: str, *, kind: str = "nfs") -> StorageDomain:
        storage = StorageDomain(self.uuid(), name, self.data_center, storage_type=kind)
        self.storage[storage.id] = storage
        profile = DiskProfile(self.uuid(), name, storage)
        self.disk_profiles[profile.id] = profile
        return storage

    def add_vm(
        self,
        name: str,
        disks: Sequence[bytes | int] = (),
        *,
        running: bool = False,
        guest: bool = False,
        incremental: bool | Sequence[bool] = True,
        format: str | Sequence[str] = "cow",
        interface: str | Sequence[str] = "virtio_scsi",
        storage: str | Sequence[str] = "data",
        memory: int = 64,
        cpus: int = 1,
        firmware: str = "bios",
        network: str | Sequence[str] = "ovirtmgmt",
        cluster: Cluster | None = None,
        rate: int = 200,
        slots: int = 2048,
        qemu: Sequence[str] = (),
    ) -> LabVM:
        """disks: initial bytes, or a size for a disk of zeroes. memory: MiB. Per disk or one for all: incremental (the
        disk's backup flag; raw disks never have it), format (cow, raw), interface, storage. network: names of vNIC
        profiles. guest: a QEMU guest boots from the first disk when the VM is started; else the test writes by vm.write.
        Where all disks are given as sizes it is the writing guest of lab/guest with `rate` and `slots`; `qemu` are
        further arguments for QEMU."""
        with self.lock:
            id = self.uuid()
            home = Home(self.directory / "disks" / id)
            self.homes.append(home)
            vm = LabVM(id, name, cluster or self.cluster, home)
            vm.active_id, vm.has_guest, vm.qemu = self.uuid(), guest, qemu
            made = vm.hardware
            made.memory, made.sockets, made.bios_type = memory * MIB, cpus, FIRMWARE.get(firmware, firmware)
            contents = self._contents(id, disks, guest, rate, slots)
            choices = [_per_disk(value, len(disks)) for value in (incremental, format, interface, storage)]
            for number, size in enumerate(disks):
                backup, kind, bus, place = (choice[number] for choice in choices)
                disk = self.disk_service.make(
                    f"{name}_Disk{number + 1}",
                    size if isinstance(size, int) else len(size),
                    self.storage_named(place),
                    home,
                    format=kind,
                    backup="incremental" if backup and kind == "cow" else "none",
                    content=contents[number],
                )
                vm.attachments.append(Attachment(disk, bus, bootable=number == 0))
            for number, wanted in enumerate(_listed(network)):
                vm.nics.append(self._nic(number, wanted))
            self.vms[vm.id] = vm
            self.events.add(Code.VM_ADDED, f"VM {name} was created by {self.user}.", vm)
        if running:
            self.power.switch_on(vm)
        return vm

    def _contents(
        self, id: str, disks: Sequence[bytes | int], guest: bool, rate: int, slots: int
    ) -> list[bytes | Path | None]:
        if not (guest and disks and all(isinstance(item, int) for item in disks)):
            return [item if isinstance(item, bytes) else None for item in disks]
        directory = self.directory / "prepared" / id
        directory.mkdir(parents=True)
        paths = [directory / f"disk-{number}" for number in range(len(disks))]
        for path, size in zip(paths, disks, strict=True):
            with path.open("wb") as file:
                file.truncate(size if isinstance(size, int) else 0)
        prepare(paths, self.directory / "program", rate=rate, slots=slots)
        return list(paths)

    def _nic(self, number: int, profile: str) -> Nic:
        index = len(self.vms)
        mac = f"56:6f:1a:{(index >> 8) & 0xFF:02x}:{index & 0xFF:02x}:{number:02x}"
        found = next(item for item in self.profiles.values() if item.name == profile)
        address = f"10.{(index >> 8) & 0xFF}.{index & 0xFF}.{number + 10}"
        return Nic(self.uuid(), f"nic{number + 1}", mac, found, ips=(address,))

    def add_disk(
        self, vm: LabVM, content: bytes | int, *, incremental: bool = True, format: str = "cow", **facts: Any
    ) -> Disk:
        """One more disk for a VM, as its owner might add it. facts: of model.Disk, such as shareable or storage_type with
        lun={...} for a direct LUN."""
        with self.lock:
            size = content if isinstance(content, int) else len(content)
            name = f"{vm.name}_Disk{len(vm.attachments) + 1}"
            lun = facts.get("storage_type") == "lun"
            disk = self.disk_service.make(
                name,
                size,
                None if lun else self.storage_named("data"),
                vm.home,
                format="raw" if lun else format,
                backup="incremental" if incremental and format == "cow" and not lun else "none",
                content=content if isinstance(content, bytes) else None,
                **facts,
            )
            vm.attachments.append(Attachment(disk, "virtio_scsi"))
            self.events.add(Code.DISK_ADDED_TO_VM, f"Disk {name} was added to VM {vm.name}.", vm)
            return disk

    def extend_disk(self, disk: Disk, size: int) -> None:
        """As its owner might: larger, while the VM runs or not."""
        self.disk_service.extend(disk, size)
        self.disk_service.updated(disk)

    def touch(self, vm: LabVM) -> None:
        """Tell clients by an event that a VM's facts were changed."""
        self.events.vm_changed(vm)

    def remove_vm(self, vm: LabVM) -> None:
        self.power.switch_off(vm, "hard-off")
        self.power.forget(vm)

    def vm(self, name: str) -> LabVM:
        return next(vm for vm in self.vms.values() if vm.name == name)

    def storage_named(self, name: str) -> StorageDomain:
        return next(item for item in self.storage.values() if item.name == name)


def _per_disk(value: Any, count: int) -> Sequence[Any]:
    """One value for all disks, or one for each."""
    return [value] * count if isinstance(value, str | bool) else list(value)


def _listed(value: str | Sequence[str]) -> Sequence[str]:
    return ([value] if value else []) if isinstance(value, str) else value
