"""What keeps a plan from running, and what its owner should know: pure checks that give conditions.

Called by the plan controller with the plan, its maps and both inventories. One finding names object, field, cause and
remedy; the controller writes them as conditions, one per type. Critical ones block the plan.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from tranship.errors import Invalid
from tranship.inventory.estate import Estate
from tranship.inventory.vm import VM, Power
from tranship.inventory.vm import Category as Gravity
from tranship.migration.mapping import DEFAULTS, MachineOrder, network_for, order, target_name, told, unmapped
from tranship.resources.conditions import Category
from tranship.resources.controller import Settings
from tranship.resources.networkmap import NetworkMapSpec
from tranship.resources.plan import Plan
from tranship.resources.storagemap import StorageMapSpec
from tranship.resources.vm import PlanVM

MOST_SNAPSHOTS = 28
MOST_DISKS = 165
# bytes that a Migration may come to, for etcd refuses 1.5 MiB; and what its status has of each VM and disk beside the order
LARGEST, EACH_VM, EACH_DISK = 1280 << 10, 1500, 850


@dataclass(frozen=True, slots=True)
class Finding:
    """type and reason are Forklift's where it has one; item: what it concerns."""

    type: str
    category: Category
    message: str
    suggestion: str = ""
    reason: str = ""
    item: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """no_way: why a VM has no way to its bytes, and the remedy, by VM id. succeeded: ids of VMs that were moved already.
    transfer_network: as of an order."""

    source: Estate
    target: Estate
    networks: NetworkMapSpec
    storages: StorageMapSpec
    no_way: Mapping[str, tuple[str, str]]
    succeeded: frozenset[str] = frozenset()
    settings: Settings = DEFAULTS
    transfer_network: str = ""


def check(plan: Plan, vms: Sequence[tuple[PlanVM, VM]], facts: Facts) -> Iterator[Finding]:
    """vms: the plan's entries with what they mean in the inventory."""
    names: dict[str, str] = {}
    ids: set[str] = set()
    for number, (entry, vm) in enumerate(vms):
        field = f"spec.vms[{number}]"
        if vm.id in ids:
            yield Finding(
                "DuplicateVM", Category.CRITICAL, f"{field} names {vm.name} again", "Remove one entry.", item=vm.name
            )
        ids.add(vm.id)
        if vm.id in facts.succeeded:
            continue
        yield from _name(plan, field, entry, vm, facts, names)
        yield from _maps(vm, facts) or _order(plan, entry, vm, facts)
        yield from _addresses(plan, vm, facts)
        yield from _disks(plan, vm, facts)
        yield from _concerns(vm)
        if plan.warm:
            yield from _warm(plan, vm)


def _name(plan: Plan, field: str, entry: PlanVM, vm: VM, facts: Facts, names: dict[str, str]) -> Iterator[Finding]:
    try:
        name = target_name(entry.target_name, vm.name, vm.id)
    except Invalid as error:
        message = f"{field}.targetName: {error.detail}"
        yield Finding("TargetNameNotValid", Category.CRITICAL, message, error.suggestion, "NotValid", vm.name)
        return
    if name in names:
        message = f"{vm.name} and {names[name]} would both be named {name} on the target"
        yield Finding("DuplicateVM", Category.CRITICAL, message, f"Set {field}.targetName.", "NotUnique", vm.name)
    names[name] = vm.name
    taken = facts.target.vms.get(f"{plan.spec.target_namespace}/{name}")
    if taken is not None and taken.traits.get("owner") != f"{plan.uid}/{vm.id}":
        message = f"the target has a VM {name} in {plan.spec.target_namespace} already"
        suggestion = f"Remove it, or set {field}.targetName."
        yield Finding("VMAlreadyExists", Category.CRITICAL, message, suggestion, "NotUnique", vm.name)


def _addresses(plan: Plan, vm: VM, facts: Facts) -> Iterator[Finding]:
    """Two machines with one hardware address disturb each other as soon as both run."""
    own = f"{plan.uid}/{vm.id}"
    others = [one for one in facts.target.vms.values() if one.traits.get("owner") != own]
    taken = {nic.mac: one.id for one in others for nic in one.nics if nic.mac}
    for nic in vm.nics:
        destination = network_for(nic, facts.networks, facts.source)
        if nic.mac in taken and destination is not None and destination.type != "ignored":
            message = f"{vm.name}: {nic.label} has the address {nic.mac}, which {taken[nic.mac]} on the target has too"
            remedy = "Remove that VM or change its address, or map the NIC's network to type ignored."
            yield Finding("MacConflicts", Category.CRITICAL, message, remedy, "NotUnique", vm.name)


def orders(plan: Plan, vms: Sequence[tuple[PlanVM, VM]], facts: Facts) -> list[MachineOrder]:
    """What the plan comes to, of VMs that were not moved yet. Raises Invalid where a check has found something."""
    left = [(entry, vm) for entry, vm in vms if vm.id not in facts.succeeded]
    maps = facts.networks, facts.storages, facts.source
    more: dict[str, Any] = {"settings": facts.settings, "transfer_network": facts.transfer_network}
    return [order(plan, entry, vm, *maps, **more) for entry, vm in left]


def _order(plan: Plan, entry: PlanVM, vm: VM, facts: Facts) -> list[Finding]:
    """Templates that give no names, a root disk that is none: all that making the order finds."""
    try:
        orders(plan, [(entry, vm)], facts)
    except Invalid as error:
        if error.field == "spec.vms[].targetName":  # told by _name
            return []
        message = f"{vm.name}: {error}"
        return [Finding("NotValid", Category.CRITICAL, message, error.suggestion, "NotValid", vm.name)]
    return []


def _maps(vm: VM, facts: Facts) -> list[Finding]:
    return list(_unmapped(vm, facts))


def _unmapped(vm: VM, facts: Facts) -> Iterator[Finding]:
    for what, id, name, used_by in unmapped(vm, facts.networks, facts.storages, facts.source):
        kind, map_name = ("Networks", "NetworkMap") if what == "network" else ("Storage", "StorageMap")
        message = f"{vm.name}: {what} {name} ({id}) of {used_by} is not mapped"
        suggestion = f"Add it to the {map_name}'s spec.map."
        yield Finding(f"VM{kind}NotMapped", Category.CRITICAL, message, suggestion, "NotValid", vm.name)


def _disks(plan: Plan, vm: VM, facts: Facts) -> Iterator[Finding]:
    if vm.template:
        message = f"{vm.name} is a template"
        yield Finding(
            "VMMigrationTypeUnsupported", Category.CRITICAL, message, "Convert it to a VM.", "NotSupported", vm.name
        )
    if vm.power is Power.SUSPENDED:
        suggestion = "Resume it or power it off."
        yield Finding("VMPowerStateUnsupported", Category.CRITICAL, f"{vm.name} is suspended", suggestion, item=vm.name)
    for disk in vm.disks:
        if disk.capacity <= 0 or disk.capacity % 512:
            message = f"{vm.name}: {disk.label} has the size {disk.capacity}"
            suggestion = "Repair the disk on the source, or detach it."
            yield Finding("InvalidDiskSizes", Category.CRITICAL, message, suggestion, "NotValid", vm.name)
        if disk.rdm:
            category = Category.CRITICAL if disk.rdm == "physical" else Category.WARN
            message = f"{vm.name}: {disk.label} is a {disk.rdm} RDM"
            suggestion = "Detach it from the VM and attach the LUN to the target, or convert it to a virtual disk."
            yield Finding("RDMDiskWarning", category, message, suggestion, "NotSupported", vm.name)
        if disk.independent:
            message = f"{vm.name}: {disk.label} is independent: it takes part in no snapshot"
            suggestion = "Make it dependent in vCenter while the VM is off, or migrate the VM cold."
            category = Category.CRITICAL if plan.warm else Category.WARN
            yield Finding("IndependentDiskWarning", category, message, suggestion, item=vm.name)
        if disk.shared and plan.warm:
            message = f"{vm.name}: {disk.label} is shared with other VMs"
            yield Finding(
                "SharedDisks", Category.CRITICAL, message, "Migrate the VMs that share it cold.", item=vm.name
            )
    if vm.id in facts.no_way:
        message, suggestion = facts.no_way[vm.id]
        yield Finding("VMStorageNotSupported", Category.CRITICAL, message, suggestion, "NotSupported", vm.name)


def _concerns(vm: VM) -> Iterator[Finding]:
    for concern in vm.concerns:
        if concern.category is Gravity.CRITICAL:
            message = f"{vm.name}: {concern.label}: {concern.assessment}"
            yield Finding("VMCriticalConcerns", Category.CRITICAL, message, concern.remedy, concern.id, vm.name)


def _warm(plan: Plan, vm: VM) -> Iterator[Finding]:
    if vm.snapshots >= MOST_SNAPSHOTS:
        message = f"{vm.name} has {vm.snapshots} snapshots; one more of ours would leave no reserve"
        yield Finding("VMHasSnapshots", Category.CRITICAL, message, "Remove snapshots of the VM.", item=vm.name)
    if vm.change_tracking is not None:
        yield from _tracking(plan, vm)


def _tracking(plan: Plan, vm: VM) -> Iterator[Finding]:
    """Where changes are told only by tracking that has to be on, and that a reverted snapshot makes wrong."""
    allowed = plan.spec.precopy is not None and plan.spec.precopy.enable_change_tracking
    without = [disk.label for disk in vm.disks if disk.change_tracking is False or not vm.change_tracking]
    if not vm.change_tracking_supported:
        message = f"{vm.name}: its virtual hardware knows no changed block tracking"
        suggestion = "Upgrade the VM's hardware version to 7 or later, or migrate it cold."
        yield Finding("VMMissingChangedBlockTracking", Category.CRITICAL, message, suggestion, item=vm.name)
    elif without:
        message = f"{vm.name}: changed block tracking is off for {', '.join(without)}"
        suggestion = "Enable it in vCenter, or set spec.precopy.enableChangeTracking, or migrate the VM cold."
        category = Category.ADVISORY if allowed else Category.CRITICAL
        if allowed:
            suggestion = (
                "tranship switches it on when the migration starts, as spec.precopy.enableChangeTracking allows."
            )
        reason = "MissingChangedBlockTracking"
        yield Finding("VMMissingChangedBlockTracking", category, message, suggestion, reason, vm.name)
    if 0 < vm.snapshots < MOST_SNAPSHOTS:
        message = (
            f"{vm.name} has {vm.snapshots} snapshots; reverting to one during the migration would make increments wrong"
        )
        suggestion = "Remove them in vCenter, or migrate the VM cold."
        yield Finding("VMHasSnapshots", Category.CRITICAL, message, suggestion, item=vm.name)
    if vm.consolidation_needed:
        message = f"{vm.name}: its disks need consolidation"
        suggestion = "Consolidate the VM's disks in vCenter."
        yield Finding("VMConsolidationNeeded", Category.CRITICAL, message, suggestion, "ConsolidationNeeded", vm.name)


def too_large(orders: Sequence[MachineOrder]) -> Iterator[Finding]:
    """A migration's whole memory is one object, and one that has grown too large can save nothing any more."""
    sizes = [len(msgspec.json.encode(told(one))) + EACH_VM + EACH_DISK * len(one.disks) for one in orders]
    if sum(sizes) > LARGEST:
        text = f"a migration of {len(orders)} VMs does not fit into an object of the API"
        remedy = f"Split the plan: of such VMs at most {LARGEST * len(sizes) // sum(sizes)} fit into one."
        yield Finding("PlanTooLarge", Category.CRITICAL, text, remedy, "NotSupported", "spec.vms")
