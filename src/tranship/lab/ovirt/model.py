"""What exists in the simulated data centre: plain data, shown by views.py and changed by the services.

Names are the API's. Tests may change any of these facts while the Engine runs; what needs work behind it (power,
snapshots, backups) goes through the services.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

MIB = 1 << 20


def now() -> datetime:
    return datetime.now(UTC)


@dataclass(eq=False)
class Entity:
    id: str
    name: str


@dataclass(eq=False)
class DataCenter(Entity):
    version: str = "4.6"


@dataclass(eq=False)
class Cluster(Entity):
    """version: the compatibility level, which decides what backups can do."""

    data_center: DataCenter
    version: str = "4.6"
    ha_reservation: bool = False
    ksm: bool = False
    cpu_type: str = "Intel Haswell Family"
    bios_type: str = "q35_sea_bios"


@dataclass(eq=False)
class Network(Entity):
    data_center: DataCenter
    vlan: int = 0
    usages: tuple[str, ...] = ("vm",)
    mtu: int = 1500


@dataclass(eq=False)
class VnicProfile(Entity):
    """pass_through: disabled or enabled. network_filter, qos: ids, or "" for none."""

    network: Network
    pass_through: str = "disabled"
    port_mirroring: bool = False
    network_filter: str = ""
    qos: str = ""
    custom_properties: dict[str, str] = field(default_factory=dict)


@dataclass(eq=False)
class Host(Entity):
    """status: up, maintenance, non_responsive ... hardware: the id that a client on this host would know itself by."""

    cluster: Cluster
    networks: list[Network]
    hardware: str
    address: str
    status: str = "up"
    nic_speed: int = 10_000_000_000


@dataclass(eq=False)
class StorageDomain(Entity):
    data_center: DataCenter
    type: str = "data"
    storage_type: str = "nfs"
    status: str = "active"
    available: int = 1 << 40
    used: int = 1 << 38


@dataclass(eq=False)
class DiskProfile(Entity):
    storage: StorageDomain
    qos: str = ""


class Home:
    """Where the bytes of some disks are: one Metal, made when somebody first touches one of them, so that a large estate
    costs no processes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.disks: list[Disk] = []
        self._metal: Any = None
        self._making = threading.Lock()

    @property
    def metal(self) -> Any:
        from tranship.lab.ovirt.metal import Metal

        with self._making:
            if self._metal is None:
                metal = Metal(self.directory)
                for disk in self.disks:
                    _put(metal, disk)
                self._metal = metal
            return self._metal

    def add(self, disk: "Disk") -> None:
        with self._making:
            self.disks.append(disk)
            if self._metal is not None:
                _put(self._metal, disk)

    def close(self) -> None:
        if self._metal is not None:
            self._metal.close()


def _put(metal: Any, disk: "Disk") -> None:
    content = disk.content.read_bytes() if isinstance(disk.content, Path) else disk.content
    metal.add(disk.id, disk.size, format=disk.format, content=content)
    disk.content = None


@dataclass(eq=False)
class Disk(Entity):
    """name: the alias. format: of the active volume, cow or raw. backup: none or incremental. chain: the ids of its
    volumes, base first; the last one is what a VM writes. locks: who holds it. lun: facts of a direct LUN."""

    size: int
    storage: StorageDomain | None
    home: Home
    format: str = "cow"
    backup: str = "none"
    content: bytes | Path | None = None
    storage_type: str = "image"
    shareable: bool = False
    illegal: bool = False
    locked: bool = False
    profile: DiskProfile | None = None
    chain: list[str] = field(default_factory=list)
    locks: set[str] = field(default_factory=set)
    reading: set[str] = field(default_factory=set)  # volumes of snapshots that are transferred
    modes: dict[str, str] = field(default_factory=dict)  # backup id -> full or incremental
    lun: dict[str, Any] = field(default_factory=dict)
    description: str = ""
    home_format: str = ""  # of the base volume, which keeps it when a snapshot makes the active one cow

    def __post_init__(self) -> None:
        self.home_format = self.format

    @property
    def status(self) -> str:
        return "illegal" if self.illegal else "locked" if self.locks or self.locked else "ok"

    @property
    def volume(self) -> str:
        return self.chain[-1]

    def metal_volume(self, volume: str) -> str:
        """Its name in the metal, which chose that of the base itself."""
        return str(self.home.metal.volumes(self.id)[0]) if volume == self.chain[0] else volume

    def follow_metal(self) -> None:
        """After the chain changed below."""
        self.chain[1:] = self.home.metal.volumes(self.id)[1:]

    def read(self) -> bytes:
        """The whole present content."""
        return bytes(self.home.metal.read(self.id))


@dataclass(eq=False)
class Attachment:
    disk: Disk
    interface: str = "virtio_scsi"
    bootable: bool = False
    active: bool = True
    read_only: bool = False
    uses_scsi_reservation: bool = False


@dataclass(eq=False)
class Nic(Entity):
    mac: str
    profile: VnicProfile | None
    interface: str = "virtio"
    plugged: bool = True
    linked: bool = True
    ips: tuple[str, ...] = ()


@dataclass(eq=False)
class Snapshot:
    """volumes: disk id -> the volume that this snapshot froze. status: ok, locked, in_preview."""

    id: str
    description: str
    created: datetime = field(default_factory=now)
    status: str = "ok"
    memory: bool = False
    volumes: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)


@dataclass(eq=False)
class Backup:
    """disks: those that take part. hybrid: the id of its temporary snapshot, for that kind of backup."""

    id: str
    description: str
    disks: list[Disk]
    phase: str = "initializing"
    from_checkpoint: str = ""
    to_checkpoint: str = ""
    live: bool = False
    hybrid: str = ""
    created: datetime = field(default_factory=now)
    modified: datetime = field(default_factory=now)
    ended: float = 0.0
    exports: dict[str, Any] = field(default_factory=dict)

    @property
    def open(self) -> bool:
        return self.phase not in ("succeeded", "failed")


@dataclass(eq=False)
class Checkpoint:
    id: str
    description: str
    disks: list[Disk]
    parent: str = ""
    state: str = "created"
    created: datetime = field(default_factory=now)


@dataclass(eq=False)
class Transfer:
    """Of a disk, of a disk snapshot (`volume` is set then), or of a disk inside a backup."""

    id: str
    disk: Disk
    host: Host | None
    inactivity_timeout: int
    timeout_policy: str
    vm: "LabVM | None" = None
    volume: str = ""
    backup: Backup | None = None
    shallow: bool = False
    format: str = "raw"
    phase: str = "initializing"
    ticket: str = ""
    url: str = ""
    size: int = 0
    active: bool = False
    transferred: int = 0
    export: Any = None
    complete: float = 0.0  # since when it is read through, time.monotonic()
    ended: float = 0.0

    @property
    def open(self) -> bool:
        return not self.phase.startswith("finished")


@dataclass
class Hardware:
    """What a VM is made of, as far as a migration cares. Sizes in bytes."""

    memory: int = 1024 * MIB
    sockets: int = 1
    cores: int = 1
    threads: int = 1
    cpu_shares: int = 0
    cpu_pinning_policy: str = "none"
    cpu_pins: dict[int, str] = field(default_factory=dict)
    custom_cpu_model: str = ""
    bios_type: str = "q35_sea_bios"
    boot_menu: bool = False
    os_type: str = "other_linux"
    ballooning: bool = True
    guaranteed_memory: int = 0
    display: str = "vnc"
    io_threads: int = 1
    resume_behaviour: str = "auto_resume"
    ha: bool = False
    usb: bool = False
    tpm: bool = False
    affinity: str = "migratable"
    custom_properties: dict[str, str] = field(default_factory=dict)
    host_devices: Sequence[tuple[str, str, str]] = ()  # capability, vendor, product
    watchdog: str = ""  # its action
    cdrom: str = ""
    numa_pins: Sequence[int] = ()
    lease: str = ""
    stateless: bool = False
    timezone: str = "Etc/GMT"
    guest_distribution: str = "Debian GNU/Linux"
    guest_version: str = "12"
    fqdn: str = ""
    serial_number: str = ""


class LabVM:
    """A virtual machine. Tests and the demo hold it in their hands: write, read, snapshots, backups, power_causes.

    `guest`: the QEMU guest of the last power-on, where it has a real one. `hardware`: may be changed at any time."""

    def __init__(self, id: str, name: str, cluster: Cluster, home: Home) -> None:
        self.id = id
        self.name = name
        self.cluster = cluster
        self.home = home
        self.description = ""
        self.hardware = Hardware()
        self.attachments: list[Attachment] = []
        self.nics: list[Nic] = []
        self.status = "down"
        self.host: Host | None = None
        self.created = now()
        self.started: datetime | None = None
        self.chain: list[Snapshot] = []
        self.active_id = ""
        self.preview = ""  # id of the snapshot
        self.before_preview = ""
        self.backup_list: list[Backup] = []
        self.checkpoint_list: list[Checkpoint] = []
        self.transfer_list: list[Transfer] = []
        self.lock = ""  # the command that has it alone
        self.guest: Any = None
        self.has_guest = False
        self.qemu: Sequence[str] = ()
        self.shutdown_asked = False
        self.shutdown_seconds: float | None = 0.0  # None: ignores the request; a real guest takes its own time
        self._causes: list[str] = []

    @property
    def on(self) -> bool:
        return self.status != "down"

    @property
    def disks(self) -> list[Disk]:
        return [attachment.disk for attachment in self.attachments]

    @property
    def snapshots(self) -> list[str]:
        """Descriptions, oldest first, without "Active VM"."""
        return [snapshot.description for snapshot in self.chain]

    @property
    def backups(self) -> list[str]:
        """Ids of the open ones."""
        return [backup.id for backup in self.backup_list if backup.open]

    @property
    def checkpoints(self) -> list[str]:
        return [checkpoint.id for checkpoint in self.checkpoint_list]

    @property
    def transfers(self) -> list[str]:
        """Ids of the open ones."""
        return [transfer.id for transfer in self.transfer_list if transfer.open]

    @property
    def illegal_images(self) -> bool:
        return any(disk.illegal for disk in self.disks)

    def write(self, offset: int, data: bytes, disk: int = 0) -> None:
        """What a guest would write."""
        target = self.disks[disk]
        target.home.metal.write(target.id, offset, data)

    def read(self, disk: int = 0) -> bytes:
        """The whole present content of a disk."""
        return self.disks[disk].read()

    def log_power(self, cause: str) -> None:
        self._causes.append(cause)

    def power_causes(self) -> list[str]:
        """In order: on, guest-shutdown, hard-off, crash."""
        return list(self._causes)
