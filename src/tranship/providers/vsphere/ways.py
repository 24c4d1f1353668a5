"""By which way the bytes of each disk come, and why. Pure, but for a look at VDDK's directory.

Called by the source when a plan is validated and when a round starts. Warm needs reads of a running VM's changes, which only
VDDK gives; without it the full copy is an export of a snapshot, and the one delta is read from the datastore when the VM
is off. That last way is documented piece by piece and unproven as a whole on real hardware: the probe tries it first.
"""

from collections.abc import Iterable
from pathlib import Path

from tranship.errors import Side, Unsupported
from tranship.inventory.vm import VM, Disk
from tranship.providers.base import DiskWay
from tranship.providers.vsphere.concerns import where

WAYS = VDDK, NFC, DATASTORE = "vddk", "nfc", "datastore"
_LIBRARY = "libvixDiskLib.so"
_OBJECT_STORES = ("vsan", "vvol")  # have no flat file to read


def library(directory: str) -> Path:
    """The VDDK library below the directory. Raises Unsupported, naming the directory."""
    for folder in (Path(directory), Path(directory, "lib64")):
        try:
            for path in sorted(folder.glob(f"{_LIBRARY}*")):
                return path
        except OSError:
            continue
    raise Unsupported(
        f"{directory} holds no {_LIBRARY}",
        what="reading by VDDK",
        remedy="Unpack VMware's VDDK there and point the provider's setting vddkDirectory at its lib64 or the directory above, "
        "or remove the setting to go without VDDK.",
    )


def choose(vm: VM, *, warm: bool, vddk: str, kinds: Iterable[tuple[str, str]] = ()) -> tuple[DiskWay, ...]:
    """vddk: VDDK's directory or "". kinds: (datastore id, its type). Raises Unsupported naming the disk."""
    if vddk:
        library(vddk)
    known = dict(kinds)
    return tuple(_choose(vm, disk, warm, bool(vddk), known.get(disk.datastore, "").lower()) for disk in vm.disks)


def _choose(vm: VM, disk: Disk, warm: bool, vddk: bool, kind: str) -> DiskWay:
    if warm:
        _no_warm(vm, disk, kind, vddk)
    if vddk:
        return DiskWay(disk.key, VDDK, "VDDK is configured", library=True)
    if warm:
        return DiskWay(
            disk.key,
            NFC,
            "without VDDK the running VM is exported from a snapshot; the final changes come by datastore",
        )
    if why := _no_folder(vm, disk, kind):
        return DiskWay(disk.key, NFC, f"exported as a stream, because {why}")
    return DiskWay(disk.key, DATASTORE, "the VM is off and its flat file is read in ranges")


def _no_folder(vm: VM, disk: Disk, kind: str) -> str:
    if vm.snapshots:
        return "the VM has snapshots"
    if disk.rdm:
        return "a raw device mapping has no flat file"
    return f"a datastore of type {kind} has no flat files" if kind in _OBJECT_STORES else ""


def _no_warm(vm: VM, disk: Disk, kind: str, vddk: bool) -> None:
    why = ""
    if disk.rdm == "physical":
        why = "a physical raw device mapping takes part in no snapshot"
    elif disk.independent:
        why = "an independent disk takes part in no snapshot"
    elif disk.shared:
        why = "a shared disk takes part in no snapshot"
    elif not vddk and (disk.rdm or kind in _OBJECT_STORES):
        why = "without VDDK its changes could not be read: it has no flat file on its datastore"
    if why:
        raise Unsupported(
            why,
            what=f"warm migration of disk {where(disk)} of {vm.name}",
            side=Side.SOURCE,
            remedy="Migrate the VM cold, or change the disk.",
        )
