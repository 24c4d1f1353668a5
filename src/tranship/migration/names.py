"""Names of what a machine is made of on the target: volume claims, volumes, networks. By the plan's templates, or our own.

Called by mapping.py. A name is the same whenever it is made again for the same plan, VM and disk: that is how a repeated
call finds what an earlier one made. Where upstream lets the cluster add a random ending (pvcNameTemplateUseGenerateName,
true when absent) the ending here is therefore made from the owner mark and the disk.
"""

import re
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import PurePosixPath

from tranship.errors import Invalid
from tranship.inventory.vm import VM, Disk
from tranship.migration.gotemplate import Value, render
from tranship.resources.plan import Plan
from tranship.resources.vm import PlanVM

LONGEST = 63  # a DNS label
LONGEST_BASE = 40  # of a machine's name, in the names of its disks
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LETTERS = "bcdfghjklmnpqrstvwxz2456789"  # none that could make a word


def ending(*parts: str) -> str:
    """Five letters that stand for the parts."""
    number = int.from_bytes(blake2b("\0".join(parts).encode(), digest_size=8).digest())
    text = ""
    for _ in range(5):
        number, digit = divmod(number, len(_LETTERS))
        text += _LETTERS[digit]
    return text


def claim_name(
    plan: Plan, entry: PlanVM, vm: VM, machine: str, number: int, root: int, owner: str, default: str = ""
) -> str:
    """number: of the disk; root: number of the boot disk; machine: name on the target; default: the template of the
    whole installation. Raises Invalid."""
    template, field = _chosen(entry, plan, "pvc_name_template", "pvcNameTemplate")
    if not template and not default:
        return f"{_base(machine)}-disk-{number}"
    if not template:  # its braces may be written \{ \}, because the setting passes through a template itself
        template, field = re.sub(r"\\([{}])", r"\1", default), "controller_pvc_name_template"
    disk = vm.disks[number]
    exact = plan.spec.pvc_name_template_use_generate_name is False
    name = render(template, _disk_variables(plan, vm, machine, number, root), field).strip("-")
    name = name if exact else f"{name[: LONGEST - 6].rstrip('-')}-{ending(owner, disk.key)}"
    return _label(name, field)


def volume_name(plan: Plan, entry: PlanVM, claim: str, number: int) -> str:
    template, field = _chosen(entry, plan, "volume_name_template", "volumeNameTemplate")
    if not template:
        return f"vol-{number}"
    return _label(render(template, {"PVCName": claim, "VolumeIndex": number}, field), field)


def network_name(plan: Plan, entry: PlanVM, kind: str, name: str, namespace: str, number: int) -> str:
    """kind: pod or multus; number: of the NIC among those that the machine gets."""
    template, field = _chosen(entry, plan, "network_name_template", "networkNameTemplate")
    if not template:
        return f"net-{number}"
    type = {"pod": "Pod", "multus": "Multus"}.get(kind, kind)
    variables: Mapping[str, Value] = {
        "NetworkName": name,
        "NetworkNamespace": namespace,
        "NetworkType": type,
        "NetworkIndex": number,
    }
    return _label(render(template, variables, field), field)


def _chosen(entry: PlanVM, plan: Plan, attribute: str, field: str) -> tuple[str, str]:
    """The template, the VM's own first, and where it stands; ("", ...) = none."""
    own = str(getattr(entry, attribute))
    return (own, f"spec.vms[].{field}") if own else (str(getattr(plan.spec, attribute)), f"spec.{field}")


def _disk_variables(plan: Plan, vm: VM, machine: str, number: int, root: int) -> Mapping[str, Value]:
    disk = vm.disks[number]
    return {
        "VmName": vm.name,
        "VmId": vm.id,
        "TargetVmName": machine,
        "PlanName": plan.name,
        "DiskIndex": number,
        "DiskId": disk.key,
        "RootDiskIndex": root,
        "Shared": disk.shared,
        "FileName": _file_name(disk),
        "WinDriveLetter": _drive(vm, disk),
    }


def _file_name(disk: Disk) -> str:
    """Of a VMDK that was there before any snapshot: `[fast] web/web_1-000002.vmdk` is web_1.vmdk."""
    return re.sub(r"-\d{6}(?=\.vmdk$)", "", PurePosixPath(disk.path.rpartition("] ")[2]).name)


def _drive(vm: VM, disk: Disk) -> str:
    """c, where the guest's tools say that drive C: is on the disk; else nothing."""
    for guest_disk in vm.traits.get("guest_disks", ()):
        if str(disk.key) in map(str, guest_disk["keys"]) and (drive := re.match(r"([A-Za-z]):", guest_disk["path"])):
            return drive[1].lower()
    return ""


def _base(machine: str) -> str:
    """The machine's name as the beginning of a label; one that had to be changed is told from its like by an ending."""
    fit = machine.replace(".", "-")
    if fit == machine and len(fit) <= LONGEST_BASE:
        return fit
    return f"{fit[: LONGEST_BASE - 6].rstrip('-')}-{ending(machine)}"


def _label(name: str, field: str) -> str:
    if len(name) <= LONGEST and _LABEL.fullmatch(name):
        return name
    remedy = (
        "Change the template: lower case letters, digits and '-', a letter or digit at both ends, at most 63 in all."
    )
    raise Invalid(f"it gives {name!r}, which is no DNS label", field=field, remedy=remedy)
