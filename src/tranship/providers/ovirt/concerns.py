"""What an administrator should know about an oVirt VM before it is moved: one row per concern, pure.

Called by the inventory (warm unknown) and by whoever knows the migration type. The ids and categories are Forklift's, so
that filters and waivers carry over; where its rule looks at the wrong fact or its text misleads, ours is stricter.
`warm` is None while nobody has chosen: then everything that would matter for either choice is told.
"""

from collections.abc import Callable

from tranship.inventory.vm import VM, Category, Concern, Disk, Nic
from tranship.providers import rules
from tranship.providers.rules import MOST_DISKS, Findings, Rule, bad_name, trait, when

NEEDS_TPM = ("windows_2022", "windows_11")
"""Operating systems, as os.type says them, that do not run without a TPM."""

_DISK_BUSES = ("sata", "virtio_scsi", "virtio")
_CARD_MODELS = ("e1000", "rtl8139", "virtio", "pci_passthrough")


def concerns(vm: VM, warm: bool | None = None) -> tuple[Concern, ...]:
    """Every concern that applies, in the table's order. warm None = the migration type is not chosen yet."""
    return rules.judge(RULES, "ovirt", vm, warm)


def _listed(name: str) -> Callable[[VM, bool | None], Findings]:
    """For a trait that is a tuple of names."""
    return lambda vm, warm: [item or "unnamed" for item in vm.traits.get(name, ())]


def _disks(tell: Callable[[Disk, VM], str]) -> Callable[[VM, bool | None], Findings]:
    """tell: what is wrong with a disk, "" = nothing."""
    return lambda vm, warm: [f"{disk.label}: {said}" for disk in vm.disks if (said := tell(disk, vm))]


def _disk(disk: Disk, vm: VM, name: str) -> str:
    return str(vm.traits.get("disks", {}).get(disk.key, {}).get(name, ""))


def _status(disk: Disk, vm: VM) -> str:
    return said if (said := _disk(disk, vm, "status")) in ("illegal", "locked") else ""


def _storage_type(disk: Disk, vm: VM) -> str:
    said = _disk(disk, vm, "storage_type")
    return "direct LUN" if said == "lun" else said if said != "image" else ""


def _interface(disk: Disk, vm: VM) -> str:
    said = _disk(disk, vm, "interface")
    return said if said not in _DISK_BUSES else ""


def _reservation(vm: VM, warm: bool | None) -> Findings:
    disks = vm.traits.get("disks", {})
    return [disk.label for disk in vm.disks if disks.get(disk.key, {}).get("scsi_reservation")]


def _shared(vm: VM, warm: bool | None) -> Findings:
    found = [disk.label for disk in vm.disks if disk.shared]
    return [*found, "it takes part in no backup and no snapshot"] if found and warm is not False else found


def _cards(bad: Callable[[Nic, dict[str, object]], object]) -> Callable[[VM, bool | None], Findings]:
    return lambda vm, warm: [nic.label for nic in vm.nics if bad(nic, vm.traits.get("nics", {}).get(nic.key, {}))]


def _card_model(vm: VM, warm: bool | None) -> Findings:
    return [f"{nic.label}: {nic.model}" for nic in vm.nics if nic.model not in _CARD_MODELS]


def _one_of(name: str, *values: str) -> Callable[[VM, bool | None], Findings]:
    return lambda vm, warm: [vm.traits[name]] if vm.traits.get(name) in values else ()


_C, _W, _I = Category.CRITICAL, Category.WARNING, Category.INFORMATION

RULES: tuple[Rule, ...] = (
    Rule(
        "memory.ballooning.enabled",
        _I,
        "Memory ballooning",
        "The host may take memory back from the VM; on the target it has all of its memory always",
        "",
        trait("ballooning"),
    ),
    Rule(
        "display_type.spice.enabled",
        _I,
        "SPICE display",
        "The console becomes VNC, without SPICE's clipboard, USB and file transfer",
        "Use remote desktop software in the guest where these are needed.",
        lambda vm, warm: when(vm.traits.get("display") == "spice"),
    ),
    Rule(
        "iothreads.configured",
        _I,
        "I/O threads",
        "The disks are served by several threads; the number is not carried over",
        "Set an I/O thread policy on the target VM if its disks are busy.",
        lambda vm, warm: [str(vm.traits["io_threads"])] if vm.traits.get("io_threads", 0) > 1 else (),
    ),
    Rule(
        "storage.resume_behavior.unsupported",
        _I,
        "Behaviour after storage errors",
        "What happens to the paused VM when its storage is back is set; the target resumes it always",
        "",
        _one_of("resume_behaviour", "leave_paused", "kill"),
    ),
    Rule(
        "disk.capacity.invalid",
        _C,
        "Disk without size",
        "A disk says that its size is zero or less",
        "Repair the disk on the source, or remove it from the VM.",
        lambda vm, warm: [disk.label for disk in vm.disks if disk.capacity <= 0],
    ),
    Rule(
        "disk.storage_type.unsupported",
        _C,
        "Disk that the Engine does not hold itself",
        "The Engine lends for reading only disk images on its storage domains",
        "Copy the disk into an image, or detach it and attach its LUN or volume to the target VM by hand.",
        _disks(_storage_type),
    ),
    Rule(
        "disk.illegal_or_locked_status",
        _C,
        "Disk illegal or locked",
        "A disk cannot be read as it is",
        "Wait until what locks it has ended; repair or remove an illegal disk.",
        _disks(_status),
    ),
    Rule(
        "disk.illegal_images.detected",
        _C,
        "Illegal images",
        "The Engine knows of broken images in the VM's snapshots: neither snapshots nor the VM's start will work",
        "Remove or repair the snapshots concerned; the events of the VM name them.",
        trait("has_illegal_images"),
    ),
    Rule(
        "bios.boot_menu.enabled",
        _W,
        "Boot menu",
        "The VM offers a boot menu when it starts; this is not carried over",
        "",
        trait("boot_menu"),
    ),
    Rule(
        "cpu.custom_model.detected",
        _W,
        "Own CPU model",
        "The VM has a CPU model other than its cluster's; it is not carried over",
        "Set the CPU model of the target VM if the guest depends on it.",
        lambda vm, warm: [vm.traits["custom_cpu_model"]] if vm.traits.get("custom_cpu_model") else (),
    ),
    Rule(
        "cpu.shares.defined",
        _W,
        "CPU shares",
        "The VM's weight against other VMs is set; it is not carried over",
        "Use CPU requests of the target platform.",
        lambda vm, warm: [str(vm.traits["cpu_shares"])] if vm.traits.get("cpu_shares", 0) > 0 else (),
    ),
    Rule(
        "cpu.tuning.detected",
        _W,
        "Pinned CPUs",
        "Virtual CPUs are tied to processors of the host; which ones is not carried over",
        "Use dedicated CPU placement on the target if the VM needs it.",
        _listed("cpu_pins"),
    ),
    Rule(
        "cpu.pinning_policy.unsupported",
        _W,
        "CPU pinning policy",
        "The Engine lays the VM out over the host's processors by a policy that the target does not have",
        "Set the number of CPUs that the VM is to have, and use dedicated CPU placement on the target.",
        _one_of("cpu_pinning_policy", "resize_and_pin_numa", "isolate_threads"),
    ),
    Rule(
        "vm.custom_properties.detected",
        _W,
        "Custom properties",
        "Hooks on the hosts act on properties of the VM; neither is carried over",
        "Find out what the hooks do and set it up on the target.",
        _listed("custom_properties"),
    ),
    Rule(
        "host_devices.mapped",
        _W,
        "Devices of the host",
        "Devices of its host belong to the VM; they are not carried over",
        "Give the target VM devices of its own there.",
        _listed("host_devices"),
    ),
    Rule(
        "watchdog.enabled",
        _W,
        "Watchdog",
        "A watchdog device resets or stops the VM when its guest hangs; it is not carried over",
        "Add a watchdog to the target VM, and check that its guest does not wait for the old one.",
        _listed("watchdogs"),
    ),
    Rule(
        "usb.enabled",
        _W,
        "USB",
        "Devices connected by USB are not carried over",
        "Switch USB off if nothing needs it.",
        trait("usb"),
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
        "disk.interface_type.unsupported",
        _W,
        "Disk bus that changes",
        "The target has no such bus: IDE becomes SATA, any other becomes VirtIO",
        "Check that the guest has the driver and finds its disks by UUID or label.",
        _disks(_interface),
    ),
    Rule(
        "disk.scsi_reservation.enabled",
        _W,
        "SCSI reservations",
        "The guest may reserve a disk against other VMs; the target VM gets the disk without this",
        "Set up persistent reservations on the target for a cluster that needs them.",
        _reservation,
    ),
    Rule(
        "disk.shared.detected",
        _W,
        "Shared disk",
        "Several VMs may write to a disk",
        "Migrate cold with all its VMs off, and copy the disk with one of them only.",
        _shared,
    ),
    Rule(
        "ha.enabled",
        _W,
        "High availability",
        "The Engine restarts the VM when its host fails, also one that the migration has powered off unexpectedly",
        "The target restarts VMs by its run strategy.",
        trait("ha"),
    ),
    Rule(
        "ha.reservation.enabled",
        _W,
        "Reserve for high availability",
        "The cluster keeps room to restart VMs in; this is not carried over",
        "Keep room on the target's nodes.",
        trait("ha_reservation"),
    ),
    Rule(
        "cluster.ksm_enabled",
        _W,
        "Memory shared between VMs",
        "The cluster's hosts keep equal memory pages once (KSM): the VMs may need more memory on the target",
        "Plan for the full memory of all VMs on the target's nodes.",
        trait("ksm"),
    ),
    Rule(
        "name.invalid",
        _W,
        "Name has to change",
        "The name is no DNS name of at most 63 characters; the target VM gets one that is",
        "Nothing, or set targetName in the plan.",
        bad_name,
    ),
    Rule(
        "vm.status_invalid",
        _W,
        "VM neither up nor down",
        "In its present state the VM can be neither backed up nor shut down",
        "Resume it, or wait until it is up or down.",
        lambda vm, warm: (
            [vm.traits.get("status") or "no status"] if vm.traits.get("status") not in ("up", "down") else ()
        ),
    ),
    Rule(
        "os.unsupported",
        _W,
        "Operating system without support",
        "The guest's system is too old for the target platform's support",
        "Try it with a copy of the VM first, or upgrade the guest.",
        lambda vm, warm: [vm.guest_id] if vm.guest_id.startswith("rhel_6") else (),
    ),
    Rule(
        "nic.custom_properties.detected",
        _W,
        "Network card with custom properties",
        "The card's vNIC profile has properties for hooks on the hosts; they are not carried over",
        "Find out what the hooks do and set it up on the target's network.",
        _cards(lambda nic, said: said.get("custom_properties")),
    ),
    Rule(
        "nic.network_filter.detected",
        _W,
        "Network filter",
        "The card's vNIC profile filters traffic, such as false MAC addresses; this is not carried over",
        "Use the target network's filter or network policies.",
        _cards(lambda nic, said: said.get("network_filter")),
    ),
    Rule(
        "nic.qos.detected",
        _W,
        "Network quality of service",
        "The card's vNIC profile limits its traffic; this is not carried over",
        "Limit the traffic on the target's network.",
        _cards(lambda nic, said: said.get("qos")),
    ),
    Rule(
        "nic.port_mirroring.detected",
        _W,
        "Port mirroring",
        "The card sees all the traffic of its network; on the target it sees its own",
        "Set up mirroring on the target's network for a VM that watches traffic.",
        _cards(lambda nic, said: said.get("port_mirroring")),
    ),
    Rule(
        "nic.interface_type.unsupported",
        _W,
        "Network card model that changes",
        "The target has no such model: the card becomes VirtIO",
        "Check that the guest has the driver.",
        _card_model,
    ),
    Rule(
        "nic.pci_passthrough.detected",
        _W,
        "Passed-through network card",
        "The card is a part of one of the host's; on the target it becomes a virtual one",
        "Map its network to an SR-IOV network of the target afterwards.",
        _cards(lambda nic, said: nic.model == "pci_passthrough" or said.get("pass_through")),
    ),
    Rule(
        "nic.unplugged.detected",
        _W,
        "Unplugged network card",
        "The card is not plugged in on the source; on the target it is",
        "Remove the card, or map its network to 'ignored' if no other card needs it.",
        _cards(lambda nic, said: said.get("plugged") is False),
    ),
    Rule(
        "numa.tuning.detected",
        _W,
        "NUMA tuning",
        "Parts of the VM's memory are tied to memory nodes of its host; the tie is not carried over",
        "Configure NUMA on the target if the VM needs it.",
        _listed("numa_pins"),
    ),
    Rule(
        "placement_policy.affinity_set",
        _W,
        "Live migration",
        "The Engine may move the running VM to another host at any time; on the target this needs shared storage",
        "Map its disks to storage with ReadWriteMany, or do without live migration.",
        _one_of("affinity", "migratable"),
    ),
    Rule(
        "secure_boot.detected",
        _W,
        "Secure boot",
        "The target VM boots with secure boot too, but with new firmware variables: own keys and boot entries are lost",
        "Enrol own keys again; keep a way to boot from the disk's default loader.",
        lambda vm, warm: when(vm.secure_boot),
    ),
    Rule(
        "snapshot.online_memory.detected",
        _W,
        "Snapshot with memory",
        "A snapshot holds the memory of a running VM; the present state is copied, snapshots are not",
        "Remove the snapshot before the migration if nobody needs to go back to it.",
        _listed("memory_snapshots"),
    ),
    Rule(
        "tpm.required_by_os",
        _W,
        "Operating system that needs a TPM",
        "The target VM gets a new, empty TPM: what is sealed in the old one is lost",
        "Suspend BitLocker and the like and keep the recovery keys at hand.",
        lambda vm, warm: [vm.guest_id] if vm.guest_id in NEEDS_TPM else (),
    ),
)
