"""What an administrator should know about a vSphere VM before it is moved: one row per concern, pure.

Called by the inventory (warm unknown) and by plan validation (warm known). The ids and categories are Forklift's, so that
filters and waivers carry over; where its rule fires for the wrong migrations or its text misleads, ours is stricter.
`warm` is None while nobody has chosen: then everything that would matter for either choice is told.
"""

import re
from collections.abc import Callable

from tranship.inventory.vm import VM, Category, Concern, Disk
from tranship.providers import rules
from tranship.providers.rules import MOST_DISKS, Findings, Rule, bad_name, trait, when

_LEAST_FREE = {"/": 100 << 20, "/boot": 50 << 20, "C:": 100 << 20}  # bytes that virt-v2v needs to work in
_LEAST_FREE_ELSEWHERE = 10 << 20
_SUPPORTED_IDS = re.compile(
    r"(rhel([789]|10)_64Guest|windows9(_64)?Guest|windows11_64Guest|windows9Server64Guest"
    r"|windows2019srv(Next)?_64Guest|windows2022srvNext_64Guest|windows12(_64)?Guest)"
)
_SUPPORTED_NAMES = re.compile(
    r"Red Hat Enterprise Linux ([789]|10)\b|Microsoft Windows (10|11)\b|Microsoft Windows Server (2016|2019|2022|2025)\b"
)


def concerns(vm: VM, warm: bool | None = None) -> tuple[Concern, ...]:
    """Every concern that applies, in the table's order. warm None = the migration type is not chosen yet."""
    return rules.judge(RULES, "vmware", vm, warm)


def _disks(bad: Callable[[Disk], object]) -> Callable[[VM, bool | None], Findings]:
    return lambda vm, warm: [where(disk) for disk in vm.disks if bad(disk)]


def where(disk: Disk) -> str:
    """How a user finds the disk: its label and place, "Hard disk 2, scsi0:1"."""
    return f"{disk.label or disk.key}, {disk.bus}{disk.controller}:{disk.unit}"


def _no_tracking(vm: VM, warm: bool | None) -> Findings:
    return when(warm is not False and not vm.change_tracking)


def _disk_without_tracking(vm: VM, warm: bool | None) -> Findings:
    if warm is False:
        return ()
    return [where(disk) for disk in vm.disks if disk.change_tracking is False]


def _snapshot(vm: VM, warm: bool | None) -> Findings:
    return [f"{vm.snapshots}"] if vm.snapshots else ()


def _affinity(name: str) -> Callable[[VM, bool | None], Findings]:
    return lambda vm, warm: [",".join(map(str, vm.traits[name]))] if vm.traits.get(name) else ()


def _hot_add(vm: VM, warm: bool | None) -> Findings:
    told = {"cpu_hot_add": "add CPUs", "cpu_hot_remove": "remove CPUs", "memory_hot_add": "add memory"}
    return [phrase for trait, phrase in told.items() if vm.traits.get(trait)]


def _devices(fits: Callable[[str], object]) -> Callable[[VM, bool | None], Findings]:
    return lambda vm, warm: sorted({kind for kind in vm.traits.get("devices", ()) if fits(kind)})


def _little_space(vm: VM, warm: bool | None) -> Findings:
    for disk in vm.traits.get("guest_disks", ()):
        path = disk["path"]
        least = _LEAST_FREE.get(path.rstrip("\\") or path, _LEAST_FREE_ELSEWHERE)
        if disk["free"] < least:
            yield f"{path} has {disk['free'] >> 20} MiB free, {least >> 20} are needed"


def _drive_without_key(vm: VM, warm: bool | None) -> Findings:
    if "windows" not in (vm.guest_id + vm.guest_name).lower():
        return ()
    return [disk["path"] for disk in vm.traits.get("guest_disks", ()) if not any(disk["keys"])]


def _unsupported_system(vm: VM, warm: bool | None) -> Findings:
    if _SUPPORTED_IDS.fullmatch(vm.guest_id) or _SUPPORTED_NAMES.search(vm.guest_name):
        return ()
    return (vm.guest_name or vm.guest_id or "not known",)


_C, _W, _I = Category.CRITICAL, Category.WARNING, Category.INFORMATION

RULES: tuple[Rule, ...] = (
    Rule(
        "changed_block_tracking.disabled",
        _W,
        "Changed block tracking is off",
        "A warm migration reads only what changed, and the VM does not keep track of that",
        "Let the plan switch it on, or set ctkEnabled on the VM; a cold migration does not need it.",
        _no_tracking,
    ),
    Rule(
        "changed_block_tracking.disk.disabled",
        _W,
        "Changed block tracking is off for a disk",
        "A warm migration cannot follow the changes of some disks",
        "Let the plan switch it on, or set <bus>X:Y.ctkEnabled for each disk that is named.",
        _disk_without_tracking,
    ),
    Rule(
        "cpu_affinity.detected",
        _W,
        "CPU affinity",
        "The VM is tied to processors of its host; the tie is not carried over",
        "Use dedicated CPU placement on the target if the VM needs it.",
        _affinity("cpu_affinity"),
    ),
    Rule(
        "numa_affinity.detected",
        _W,
        "NUMA affinity",
        "The VM is tied to memory nodes of its host; the tie is not carried over",
        "Configure NUMA on the target if the VM needs it.",
        _affinity("numa_affinity"),
    ),
    Rule(
        "host_affinity.detected",
        _W,
        "Host affinity",
        "A rule of the cluster ties the VM to hosts; it is not carried over",
        "Use node selectors or affinity of the plan instead.",
        trait("host_affinity"),
    ),
    Rule(
        "cpu_memory.hotplug.enabled",
        _W,
        "CPU or memory hot plug",
        "The running VM may be given resources; this is not carried over",
        "Size the VM for what it needs before the migration.",
        _hot_add,
    ),
    Rule(
        "datastore.missing",
        _C,
        "Disk without datastore",
        "The datastore of a disk is not known, so it can be neither mapped nor read",
        "Reconnect the datastore or remove the disk from the VM.",
        _disks(lambda disk: not disk.datastore),
    ),
    Rule(
        "disk.capacity.invalid",
        _C,
        "Disk without size",
        "A disk says that its size is zero or less",
        "Repair or remove the disk on the source.",
        _disks(lambda disk: disk.capacity <= 0),
    ),
    Rule(
        "disk.count.exceeds.limit",
        _W,
        "Too many disks",
        f"The VM has more than {MOST_DISKS} disks, more than a target machine can be given",
        "Join or remove disks before the migration.",
        lambda vm, warm: [str(len(vm.disks))] if len(vm.disks) > MOST_DISKS else (),
    ),
    Rule(
        "consolidation_needed",
        _W,
        "Disks need consolidation",
        "Parts of a removed snapshot are still in use; further snapshots make it worse",
        "Run 'Consolidate' on the VM before the migration.",
        lambda vm, warm: when(vm.consolidation_needed),
    ),
    Rule(
        "disk_serial.truncated",
        _I,
        "Disk serial numbers may be shortened",
        "The guest sees disk identifiers (disk.EnableUUID), and a SCSI serial number on the target may be shorter",
        "Check what in the guest refers to disks by serial number.",
        lambda vm, warm: when(vm.traits.get("disk_enable_uuid") and any(disk.bus == "scsi" for disk in vm.disks)),
    ),
    Rule(
        "disk_mode.independent",
        _W,
        "Independent disk",
        "Independent disks are left out of snapshots: they cannot be copied while the VM runs",
        "Change the mode to dependent, or migrate cold.",
        _disks(lambda disk: disk.independent),
    ),
    Rule(
        "disk.rdm.detected",
        _W,
        "Raw device mapping",
        "A disk is a LUN of its own; its content is copied, the mapping is not carried over",
        "Migrate cold, or move the LUN by hand; a physical mapping has no snapshots.",
        _disks(lambda disk: disk.rdm),
    ),
    Rule(
        "disk.shared.detected",
        _W,
        "Shared disk",
        "Several VMs may write to the disk; it takes part in no snapshot",
        "Migrate cold with all its VMs off, and copy the disk with one of them only.",
        _disks(lambda disk: disk.shared),
    ),
    Rule(
        "dpm.enabled",
        _I,
        "Power management of hosts",
        "The cluster switches hosts off and on; the target platform decides differently",
        "",
        trait("dpm"),
    ),
    Rule(
        "drs.enabled",
        _I,
        "Automatic placement",
        "The cluster may move the VM to another host during the migration",
        "Set the VM's automation level to manual while it is migrated warm.",
        trait("drs"),
    ),
    Rule(
        "fault_tolerance.enabled",
        _I,
        "Fault tolerance",
        "A second VM follows this one; there is nothing like it on the target",
        "Switch fault tolerance off: it also forbids snapshots.",
        trait("fault_tolerance"),
    ),
    Rule(
        "guestDisks.freespace",
        _C,
        "Too little free space in the guest",
        "The conversion of the guest needs room to work in",
        "Free space in the guest's file system.",
        _little_space,
    ),
    Rule(
        "guestDisks.key.not_found",
        _I,
        "Drive without a disk",
        "The Tools do not say on which virtual disk a drive is, so its letter cannot be used in names",
        "Update VMware Tools, or use a name template without the drive letter.",
        _drive_without_key,
    ),
    Rule(
        "hostname.empty",
        _W,
        "No host name",
        "The guest does not tell its host name",
        "Set one in the guest, or start VMware Tools.",
        lambda vm, warm: when(not vm.hostname),
    ),
    Rule(
        "hostname.default",
        _W,
        "Default host name",
        "The guest is called localhost.localdomain",
        "Set a host name in the guest.",
        lambda vm, warm: when(vm.hostname == "localhost.localdomain"),
    ),
    Rule(
        "vm_missing_ip.detected",
        _W,
        "No IP address",
        "The guest does not tell its addresses, so static ones cannot be kept",
        "Start VMware Tools in the running guest before the migration.",
        lambda vm, warm: when(not vm.traits.get("guest_networks")),
    ),
    Rule(
        "vm.name.invalid",
        _W,
        "Name has to change",
        "The name is no DNS name of at most 63 characters; the target VM gets one that is",
        "Nothing, or set targetName in the plan.",
        bad_name,
    ),
    Rule(
        "passthrough_device.detected",
        _C,
        "Passed-through device",
        "A PCI or SCSI device of the host belongs to the VM; it cannot be moved, and it forbids snapshots",
        "Remove the device from the VM.",
        _devices(lambda kind: kind in ("VirtualPCIPassthrough", "VirtualSCSIPassthrough")),
    ),
    Rule(
        "device.sriov.detected",
        _W,
        "SR-IOV network card",
        "The card becomes an ordinary virtual one",
        "Map its network to an SR-IOV network of the target afterwards.",
        _devices(lambda kind: kind == "VirtualSriovEthernetCard"),
    ),
    Rule(
        "usb_controller.detected",
        _W,
        "USB controller",
        "Devices connected by USB are not carried over",
        "Remove the controller if nothing needs it.",
        _devices(lambda kind: kind in ("VirtualUSBController", "VirtualUSBXHCIController")),
    ),
    Rule(
        "tpm.detected",
        _W,
        "TPM",
        "The target gets a new, empty TPM: what is sealed in this one is lost",
        "Suspend BitLocker and the like and keep the recovery keys at hand.",
        lambda vm, warm: when(vm.tpm),
    ),
    Rule(
        "snapshot.detected",
        _I,
        "Snapshots",
        "The present state is copied, the snapshots are not; a warm migration is refused while they exist",
        "Remove the snapshots, or migrate cold.",
        _snapshot,
    ),
    Rule(
        "os.unsupported",
        _W,
        "Operating system not in the tested list",
        "The conversion of this system is not tested",
        "Try it with a copy of the VM first.",
        _unsupported_system,
    ),
)
