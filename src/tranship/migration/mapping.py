"""From a source VM, a plan and its maps to an order for the target: what machine is to be made.

Pure. Called when a plan is validated and when a migration starts; target providers read the MachineOrder.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskOrder:
    """source: key of the source disk. name: unique per machine, safe in a file name. pool: destination storage (class or
    directory). size in bytes, a multiple of 512. bus: virtio, sata, scsi. boot: 1 = boot disk, 0 = not booted from."""

    source: str
    name: str
    pool: str
    size: int
    bus: str = "virtio"
    boot: int = 0
    access_mode: str = ""
    volume_mode: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NicOrder:
    """kind: pod (NAT), multus (a named network: bridge on a KVM host) ; ignored NICs are not in the order."""

    mac: str
    kind: str
    network: str = ""
    namespace: str = ""
    model: str = "virtio"


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineOrder:
    """owner: "<migration-independent plan uid>/<vm id>", the mark by which the target adopts or refuses. memory in bytes."""

    owner: str
    name: str
    namespace: str
    uuid: str
    sockets: int
    cores: int
    memory: int
    firmware: str = "bios"
    secure_boot: bool = False
    tpm: bool = False
    disks: tuple[DiskOrder, ...] = ()
    nics: tuple[NicOrder, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    start: bool = False
