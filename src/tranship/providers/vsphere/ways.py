"""By which way the bytes of each disk come, and why. Pure, but for a look at VDDK's directory.

Called by the source when a plan is validated and when a round starts. Warm needs reads of a running VM's changes, which only
VDDK gives; without it the full copy is an export of a snapshot, and the one delta is read from the datastore when the VM
is off. That last way is documented piece by piece and unproven as a whole on real hardware: the probe tries it first.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from tranship.errors import Invalid, Side, Unsupported
from tranship.inventory.vm import VM, Disk
from tranship.providers.base import DiskWay, Library
from tranship.providers.vsphere.concerns import where
from tranship.transfer.library import folders

WAYS = VDDK, NFC, DATASTORE = "vddk", "nfc", "datastore"
_LIBRARY = "libvixDiskLib.so"
_IMAGE = re.compile(r"([a-zA-Z0-9][a-zA-Z0-9.-]*(:[0-9]+)?/)?[a-z0-9][a-z0-9._/-]*(:[\w.-]+)?(@[a-z0-9]+:[0-9a-f]+)?|")
_OBJECT_STORES = ("vsan", "vvol")  # have no flat file to read


def configured(settings: Mapping[str, str]) -> Library:
    """What the provider's settings say of VDDK. Raises Invalid."""
    found = Library(
        directory=settings.get("vddkDirectory", ""),
        image=settings.get("vddkInitImage", ""),
        claim=settings.get("vddkVolumeClaim", ""),
    )
    if found.image and found.claim:
        remedy = "Leave one of the two out."
        raise Invalid("vddkInitImage is set too", field="spec.settings.vddkVolumeClaim", remedy=remedy)
    if not _IMAGE.fullmatch(found.image):
        remedy = "Write it as a pod's container would: registry.example.com/vddk:8.0.3."
        raise Invalid(f"{found.image!r} names no image", field="spec.settings.vddkInitImage", remedy=remedy)
    return found


def library(directory: str) -> Path:
    """The VDDK library below the directory. Raises Unsupported, naming the directory."""
    for folder in folders(directory):
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


def choose(
    vm: VM, *, warm: bool, vddk: Library, on_this_host: bool, kinds: Iterable[tuple[str, str]] = ()
) -> tuple[DiskWay, ...]:
    """vddk: where movers have it. on_this_host: of the movers. kinds: (datastore id, its type), where VDDK does not reach
    them. Raises Unsupported naming the disk."""
    known = dict(kinds)
    if vddk.reaches(on_this_host=on_this_host):
        if on_this_host:
            library(vddk.directory)
        return tuple(_with_vddk(vm, disk, warm, vddk, on_this_host) for disk in vm.disks)
    hint = _out_of_reach(vddk)
    return tuple(_without(vm, disk, warm, known.get(disk.datastore, "").lower(), hint) for disk in vm.disks)


def _with_vddk(vm: VM, disk: Disk, warm: bool, vddk: Library, on_this_host: bool) -> DiskWay:
    if warm:
        _no_warm(vm, disk, "", vddk=True)
    where = vddk.directory if on_this_host else f"image {vddk.image}" if vddk.image else f"volume claim {vddk.claim}"
    return DiskWay(disk.key, VDDK, f"VDDK is configured: {where}", library=vddk)


def _without(vm: VM, disk: Disk, warm: bool, kind: str, hint: str) -> DiskWay:
    if warm:
        _no_warm(vm, disk, kind, vddk=False)
        why = "without VDDK the running VM is exported from a snapshot; the final changes come by datastore"
        return DiskWay(disk.key, NFC, why + hint)
    if why := _no_folder(vm, disk, kind):
        return DiskWay(disk.key, NFC, f"exported as a stream, because {why}{hint}")
    return DiskWay(disk.key, DATASTORE, f"the VM is off and its flat file is read in ranges{hint}")


def _out_of_reach(vddk: Library) -> str:
    if vddk.directory:
        return " (vddkDirectory is for movers on this host: in a cluster vddkInitImage or vddkVolumeClaim are)"
    if vddk.image or vddk.claim:
        return " (vddkInitImage and vddkVolumeClaim are for movers in a cluster: on this host vddkDirectory is)"
    return ""


def _no_folder(vm: VM, disk: Disk, kind: str) -> str:
    if vm.snapshots:
        return "the VM has snapshots"
    if disk.rdm:
        return "a raw device mapping has no flat file"
    return f"a datastore of type {kind} has no flat files" if kind in _OBJECT_STORES else ""


def _no_warm(vm: VM, disk: Disk, kind: str, *, vddk: bool) -> None:
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
