"""Provider-neutral facts about one virtual machine on a source. Sizes are bytes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Power(Enum):
    ON = "On"
    OFF = "Off"
    SUSPENDED = "Suspended"
    UNKNOWN = "Unknown"


class Category(Enum):
    """How grave a concern is; the words are Forklift's."""

    CRITICAL = "Critical"
    WARNING = "Warning"
    INFORMATION = "Information"


@dataclass(frozen=True, slots=True)
class Concern:
    """Something about a VM that the administrator should know before it is moved; remedy says what to do."""

    id: str
    category: Category
    label: str
    assessment: str
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """key: the source's stable id of the disk on this VM (vSphere: device key, "2000"). bus: virtio, scsi, sata, ide or nvme.
    change_tracking None = the platform does not say."""

    key: str
    label: str
    path: str
    datastore: str
    capacity: int
    bus: str
    controller: int = 0
    unit: int = 0
    mode: str = "persistent"
    shared: bool = False
    rdm: str = ""  # "", "physical" or "virtual"
    serial: str = ""
    backing_uuid: str = ""
    change_tracking: bool | None = None
    bootable: bool = False

    @property
    def independent(self) -> bool:
        return self.mode.startswith("independent")


@dataclass(frozen=True, slots=True, kw_only=True)
class Nic:
    key: str
    label: str
    mac: str
    network: str  # id of the source network
    model: str = "vmxnet3"
    connected: bool = True
    pci: str = ""  # where the guest sees it, as 0000:0b:00.0; "" = not told
    pass_through: bool = False  # a function of a host's card, given to the VM


@dataclass(frozen=True, slots=True, kw_only=True)
class VM:
    """id: what the provider's API calls it (vSphere: moref, "vm-42"). Found by id, checked against instance_uuid,
    never by BIOS uuid: duplicates of that one exist and the wrong VM has been powered off elsewhere.
    change_tracking None = the platform tells changes without it. cpus and cores_per_socket count the threads of cores too.
    nested: whether it may run VMs itself, None = the platform does not say. timezone: of its clock, as the tz database names
    it. serial: the machine's serial number, "" = the platform makes one of the uuid. dedicated_cpus: a processor each."""

    id: str
    name: str
    instance_uuid: str = ""
    uuid: str = ""
    path: str = ""
    power: Power = Power.UNKNOWN
    cpus: int = 1
    cores_per_socket: int = 1
    threads: int = 1
    dedicated_cpus: bool = False
    nested: bool | None = None
    timezone: str = ""
    serial: str = ""
    memory: int = 0
    firmware: str = "bios"  # bios or efi
    secure_boot: bool = False
    tpm: bool = False
    host: str = ""
    cluster: str = ""
    guest_id: str = ""
    guest_name: str = ""
    hostname: str = ""
    tools_running: bool = False
    template: bool = False
    native: bool = False  # it runs on KVM already: its guest has the drivers for the disks and NICs it has
    change_tracking: bool | None = False
    change_tracking_supported: bool = True
    consolidation_needed: bool = False
    snapshots: int = 0
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()
    concerns: tuple[Concern, ...] = ()
    traits: Mapping[str, Any] = field(default_factory=dict)  # provider-specific facts that concerns read
    revision: int = 0

    def disk(self, key: str) -> Disk:
        return next(disk for disk in self.disks if disk.key == key)
