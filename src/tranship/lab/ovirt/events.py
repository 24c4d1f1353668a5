"""The Engine's audit log: numbered events that clients poll for, with the codes that tell them what changed.

Every service writes here. The codes are AuditLogType of oVirt Engine; only those that a migration reads are used.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import Any

from tranship.lab.ovirt.model import LabVM, now
from tranship.lab.ovirt.state import State


class Code(IntEnum):
    VM_STARTED = 32
    VM_STOPPED = 33
    VM_ADDED = 34
    VM_UPDATED = 35
    VM_DOWN = 61
    SHUTDOWN_ASKED = 73
    VM_DOWN_ERROR = 119
    VM_REMOVED = 113
    SNAPSHOT_STARTED = 45
    PREVIEW_STARTED = 46
    RESTORE = 47
    SNAPSHOT_CREATED = 68
    SNAPSHOT_FAILED = 69
    SNAPSHOT_REMOVAL_STARTED = 342
    SNAPSHOT_REMOVED = 356
    SNAPSHOT_REMOVAL_FAILED = 357
    DISK_UPDATED = 88
    DISK_ADDED_TO_VM = 97
    DISK_REMOVED = 2014
    DISK_ATTACHED = 2016
    DISK_DETACHED = 2018
    DISK_ADDED = 2021
    TRANSFER_STARTED = 1031
    TRANSFER_SUCCEEDED = 1032
    TRANSFER_CANCELLED = 1033
    TRANSFER_FAILED = 1034
    BACKUP_STARTED = 10790
    BACKUP_NEEDS_FULL = 10791
    BACKUP_FAILED = 10792
    BACKUP_SUCCEEDED = 10793
    BACKUP_FINALIZED = 10794
    BACKUP_FINALIZE_FAILED = 10795


@dataclass(frozen=True)
class Event:
    """about: tag -> (collection, id) of what it concerns."""

    number: int
    code: int
    severity: str
    description: str
    correlation: str = ""
    time: datetime = field(default_factory=now)
    about: dict[str, tuple[str, str]] = field(default_factory=dict)


class Events:
    """Oldest first in `log`; thread-safe."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.log: list[Event] = []

    def add(
        self,
        code: Code,
        description: str,
        vm: LabVM | None = None,
        *,
        correlation: str = "",
        severity: str = "normal",
        **about: tuple[str, str],
    ) -> None:
        places: dict[str, Any] = dict(about)
        if vm is not None:
            center = vm.cluster.data_center
            places |= {"vm": ("vms", vm.id), "cluster": ("clusters", vm.cluster.id)}
            places |= {"data_center": ("datacenters", center.id)}
            if vm.host is not None:
                places["host"] = ("hosts", vm.host.id)
        with self.state.lock:
            number = self.log[-1].number + 1 if self.log else 101
            self.log.append(Event(number, int(code), severity, description, correlation, about=places))

    def error(self, code: Code, description: str, vm: LabVM | None = None, *, correlation: str = "") -> None:
        self.add(code, description, vm, correlation=correlation, severity="error")

    def vm_changed(self, vm: LabVM) -> None:
        self.add(Code.VM_UPDATED, f"VM {vm.name} configuration was updated by {self.state.user}.", vm)
