"""The volume claim of a disk: its size, access mode and volume mode, and the object. Pure; called by target.py.

Modes are what the StorageMap says, else what CDI's StorageProfile of the class puts first, else ReadWriteOnce and
Filesystem. A block volume holds the disk from its first byte; a file system holds the one file disk.img, raw and sparse, and
has to be larger by what a file system takes for itself.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from tranship.errors import Invalid, Side
from tranship.migration.mapping import DiskOrder, MachineOrder
from tranship.providers.kubevirt.marks import marked

BLOCK, FILESYSTEM = "Block", "Filesystem"
READ_WRITE_ONCE, READ_ONLY_MANY = "ReadWriteOnce", "ReadOnlyMany"
MIB = 1 << 20

Object = dict[str, Any]


class Modes(NamedTuple):
    """How a volume is used; why: where that comes from."""

    access: str
    volume: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageClass:
    """profile: (access modes, volume mode) as CDI recommends them, the best first; empty without CDI. overhead: the share of
    a file system that CDI counts as lost, None = it does not say. default: of the cluster, default_virt: of KubeVirt, which
    prefers it. late: volumes are bound when they are used first."""

    name: str
    default: bool = False
    default_virt: bool = False
    late: bool = False
    profile: tuple[tuple[tuple[str, ...], str], ...] = ()
    overhead: float | None = None


def choose_modes(disk: DiskOrder, storage: StorageClass) -> Modes:
    """Raises Invalid for modes that nobody could write a disk through."""
    if disk.access_mode == READ_ONLY_MANY:
        remedy = "Write ReadWriteOnce or ReadWriteMany."
        field = "spec.map[].destination.accessMode"
        raise Invalid("a disk cannot be copied into a volume that is read-only", field=field, remedy=remedy)
    if disk.access_mode and disk.volume_mode:
        return Modes(disk.access_mode, disk.volume_mode, "the storage map says so")
    for access, volume in storage.profile:
        writable = [mode for mode in access if mode != READ_ONLY_MANY]
        if disk.volume_mode in ("", volume) and (disk.access_mode in writable or (not disk.access_mode and writable)):
            return Modes(disk.access_mode or writable[0], volume, f"the StorageProfile of {storage.name} says so")
    why = "neither storage map nor StorageProfile say otherwise"
    return Modes(disk.access_mode or READ_WRITE_ONCE, disk.volume_mode or FILESYSTEM, why)


def claim_size(order: MachineOrder, disk: DiskOrder, modes: Modes, storage: StorageClass) -> int:
    """Bytes, whole MiB. A file system loses a share to itself: what CDI says, else the controller's setting."""
    if modes.volume == BLOCK:
        return _up(disk.size + order.block_overhead)
    overhead = order.filesystem_overhead if storage.overhead is None else storage.overhead
    return _up(math.ceil(_up(disk.size) / (1 - overhead)))


def _up(size: int) -> int:
    return -(-size // MIB) * MIB


def claim(order: MachineOrder, disk: DiskOrder, storage: StorageClass) -> Object:
    """The PersistentVolumeClaim. Raises Invalid."""
    if disk.size <= 0:
        raise Invalid(f"{disk.size} bytes", field=f"disk {disk.name}: size", side=Side.TARGET)
    modes = choose_modes(disk, storage)
    size = claim_size(order, disk, modes, storage)
    spec: Object = {
        "accessModes": [modes.access],
        "volumeMode": modes.volume,
        "resources": {"requests": {"storage": f"{size // MIB}Mi"}},
        "storageClassName": storage.name,
    }
    annotations = {"forklift.konveyor.io/disk-source": disk.origin or disk.source, "tranship.io/disk": disk.source}
    labels = {key: order.labels[key] for key in ("plan", "vmID", "migration") if key in order.labels}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": marked(order, disk.name, labels=labels, annotations=annotations),
        "spec": spec,
    }


# --- quantities and quotas -----------------------------------------------------------------------------------------------

_UNITS: Mapping[str, int] = {
    **{letter: 1000**power for power, letter in enumerate(("", "k", "M", "G", "T", "P", "E"))},
    **{f"{letter}i": 1024**power for power, letter in enumerate(("K", "M", "G", "T", "P", "E"), 1)},
}


def quantity(text: str | int, scale: int = 1) -> int:
    """A Kubernetes quantity in whole units: 10Gi, 512, 2e9, 1500m. scale: how many of what is wanted are one of those, 1000
    for thousandths of a processor."""
    text = str(text)
    unit = text.lstrip("+-.0123456789")
    if unit.startswith(("e", "E")) and unit[1:]:
        return math.ceil(float(text) * scale)
    if unit == "m":
        return math.ceil(float(text.removesuffix("m")) * scale / 1000)
    if unit not in _UNITS:
        raise Invalid(f"{text!r} is no quantity", field="quantity", side=Side.TARGET)
    number = text.removesuffix(unit)
    return math.ceil(float(number) * _UNITS[unit] * scale) if "." in number else int(number) * _UNITS[unit] * scale


def over_quota(quota: Mapping[str, Any], wanted: Iterable[Object]) -> list[str]:
    """What of a ResourceQuota the claims would pass, as sentences. quota: the object."""
    claims = list(wanted)
    used, said = quota.get("status", {}).get("used", {}), []
    for name, hard in quota.get("status", {}).get("hard", quota.get("spec", {}).get("hard", {})).items():
        storage_class, _, what = name.rpartition(".storageclass.storage.k8s.io/")
        counted = [one for one in claims if storage_class in ("", one["spec"].get("storageClassName", ""))]
        match what:
            case "requests.storage":
                needed = sum(quantity(one["spec"]["resources"]["requests"]["storage"]) for one in counted)
            case "persistentvolumeclaims" | "count/persistentvolumeclaims":
                needed = len(counted)
            case _:
                continue
        free = quantity(hard) - quantity(used.get(name, 0))
        if needed > free:
            said.append(f"{name}: {needed} needed, {max(free, 0)} of {hard} are left")
    return said


def pod_over_quota(quota: Mapping[str, Any], resources: Object) -> list[tuple[str, bool]]:
    """What of a ResourceQuota one pod with these resources would pass, and whether it would even if nothing else were there.
    quota: the object."""
    spec, used, found = quota.get("spec", {}), quota.get("status", {}).get("used", {}), []
    if spec.get("scopeSelector") or not set(spec.get("scopes") or ()) <= {"NotTerminating", "NotBestEffort"}:
        return []  # it does not count such a pod, or not surely
    for name, hard in quota.get("status", {}).get("hard", spec.get("hard", {})).items():
        group, _, what = name.rpartition(".")
        if name in ("pods", "count/pods", "count/jobs.batch"):
            needed: str | int | None = 1
        elif what in ("cpu", "memory") and group in ("", "requests", "limits"):
            needed = resources.get(group or "requests", {}).get(what)
        else:
            continue
        if needed is None:
            found.append((f"{name} is counted, and a mover's pod sets none: it needs a LimitRange that does", False))
            continue
        free = quantity(hard, 1000) - quantity(used.get(name, 0), 1000)
        if quantity(needed, 1000) > free:
            text = f"{name}: a mover's pod needs {needed}, {used.get(name, 0)} of {hard} are used"
            found.append((text, quantity(needed, 1000) > quantity(hard, 1000)))
    return found
