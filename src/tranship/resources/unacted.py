"""Fields that a user set and tranship does not act on: nothing is silently ignored.

Called by controllers after parsing. `unacted` gives what an Advisory condition FieldsNotActedOn names; `blocking_unacted`
gives what changes which programs run or which data is moved, so that the plan must not run (Critical, NotSupported).

Every field of every spec stands in exactly one of the tables, or below one that does; a test sees to it. A field that
nobody knows is reported too. An empty or false value asks for nothing and is not reported, except where a false
asks for something (QUIET has the value that asks for nothing).
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tranship.resources import meta
from tranship.resources.meta import Kind, ObjectReference, Resource
from tranship.resources.model import Model
from tranship.resources.plan import Plan


class Unacted(NamedTuple):
    """path: as the user wrote it, such as spec.vms[0].luks."""

    path: str
    why: str


ACTED: Mapping[Kind, frozenset[str]] = {
    meta.PROVIDER: frozenset(
        {
            "spec.type",
            "spec.url",
            "spec.secret",
            "spec.settings.vddkDirectory",
            "spec.settings.vddkInitImage",
            "spec.settings.vddkVolumeClaim",
            "spec.settings.ovirtClientTimeout",
            "spec.settings.directory",
        }
    ),
    meta.NETWORK_MAP: frozenset(
        {
            "spec.provider",
            "spec.map[].source",
            "spec.map[].destination.type",
            "spec.map[].destination.name",
            "spec.map[].destination.namespace",
        }
    ),
    meta.STORAGE_MAP: frozenset(
        {
            "spec.provider",
            "spec.map[].source",
            "spec.map[].destination",
        }
    ),
    meta.PLAN: frozenset(
        {
            "spec.description",
            "spec.archived",
            "spec.provider",
            "spec.map",
            "spec.targetNamespace",
            "spec.transferNetwork",
            "spec.type",
            "spec.warm",
            "spec.targetPowerState",
            "spec.deleteVmOnFailMigration",
            "spec.skipGuestConversion",
            "spec.useCompatibilityMode",
            "spec.targetLabels",
            "spec.targetNodeSelector",
            "spec.targetAffinity",
            "spec.enableNestedVirtualization",
            "spec.vms[].enableNestedVirtualization",
            "spec.vms[].instanceType",
            "spec.precopy.interval",
            "spec.precopy.targetDowntime",
            "spec.shutdown.deadline",
            "spec.shutdown.hardPowerOff",
            "spec.verify",
            "spec.vms[].id",
            "spec.vms[].name",
            "spec.vms[].namespace",
            "spec.vms[].type",
            "spec.vms[].targetName",
            "spec.vms[].targetPowerState",
            "spec.vms[].deleteVmOnFailMigration",
            "spec.vms[].rootDisk",
            "spec.serviceAccount",
            "spec.pvcNameTemplate",
            "spec.pvcNameTemplateUseGenerateName",
            "spec.volumeNameTemplate",
            "spec.networkNameTemplate",
            "spec.vms[].pvcNameTemplate",
            "spec.vms[].volumeNameTemplate",
            "spec.vms[].networkNameTemplate",
        }
    ),
    meta.HOST: frozenset({"spec.provider", "spec.id", "spec.name", "spec.ipAddress", "spec.secret"}),
    meta.MIGRATION: frozenset({"spec.plan", "spec.cutover", "spec.cancel", "spec.vmCutover"}),
    meta.FORKLIFT_CONTROLLER: frozenset(
        {
            "spec.controller_max_vm_inflight",
            "spec.controller_precopy_interval",
            "spec.controller_snapshot_removal_timeout_minuts",
            "spec.controller_snapshot_removal_timeout_minutes",
            "spec.controller_filesystem_overhead",
            "spec.controller_block_overhead",
            "spec.controller_pvc_name_template",
            "spec.controller_migration_service_account",
            "spec.vddk_image",
            "spec.controller_transfer_network",
        }
    ),
}
"""Acted on, with everything below. An item of a list is written []."""

_NO_POD = "guest conversion does not run in a pod of its own"
_SHARED = "shared disks are moved like any other"
_LUN = "raw device mappings are not attached as LUNs"

NOTES: Mapping[Kind, Mapping[str, str]] = {
    meta.PROVIDER: {
        "spec.settings.sdkEndpoint": "what answers at the address, vCenter or ESXi, is found out by asking it",
        "spec.settings.useVddkAioOptimization": "the buffers of VDDK are left as they are",
        "spec.settings.vddkConfig": "VDDK's own configuration is left as it is",
        "spec.settings.esxiCloneMethod": "copies are not offloaded to the storage",
        "spec.settings": "this setting is not known",
    },
    meta.NETWORK_MAP: {},
    meta.STORAGE_MAP: {
        "spec.map[].offloadPlugin": "copies are not offloaded to the storage: the disk is copied over the network",
    },
    meta.PLAN: {
        "spec.preserveStaticIPs": "addresses inside the guest are left as they are",
        "spec.preserveClusterCpuModel": "the target's default CPU model is used",
        "spec.convertorLabels": _NO_POD,
        "spec.convertorNodeSelector": _NO_POD,
        "spec.convertorAffinity": _NO_POD,
        "spec.conversionTempStorageClass": _NO_POD,
        "spec.conversionTempStorageSize": _NO_POD,
        "spec.deleteGuestConversionPod": _NO_POD,
        "spec.virtV2vImage": _NO_POD,
        "spec.migrateSharedDisks": _SHARED,
        "spec.rdmAsLun": _LUN,
        "spec.scsiReservation": _LUN,
        "spec.installLegacyDrivers": "drivers are chosen by the guest's system",
        "spec.xfsCompatibility": "there is one way to convert a guest, whatever its file system",
        "spec.runPreflightInspection": "guests are not inspected before they move",
        "spec.tagMapping": "tags of the source are not carried over",
        "spec.skipZoneNodeSelector": "it means something for EC2 only",
        "spec.diskBus": "it is deprecated; the bus follows useCompatibilityMode",
        "spec.precopy": "tranship knows no such option of precopies",
        "spec.shutdown": "tranship knows no such option of the shutdown",
        "spec.vms[].migrateSharedDisks": _SHARED,
        "spec.vms[].rdmAsLun": _LUN,
        "spec.vms[].scsiReservation": _LUN,
    },
    meta.MIGRATION: {},
    meta.HOOK: {"spec": "hooks are not run"},
    meta.HOST: {"spec": "it says nothing of an ESXi host"},
    meta.CONVERSION: {"spec": "guests are converted as a part of their migration"},
    meta.FORKLIFT_CONTROLLER: {"spec": "this setting is kept and has no effect"},
}
"""Not acted on, and what happens instead. The longest path that fits is taken."""

BLOCKING: Mapping[Kind, Mapping[str, str]] = {
    meta.PLAN: {
        "spec.customizationScripts": "scripts are not run in the guest",
        "spec.vms[].hooks": "hooks are not run",
        "spec.vms[].luks": "encrypted guest disks cannot be opened",
        "spec.vms[].nbdeClevis": "encrypted guest disks cannot be opened",
    },
    meta.MIGRATION: {"spec.resumeConversion": "a conversion cannot be resumed by itself: start the migration again"},
}
"""Not acted on, and leaving it out would change what runs."""

_TYPES = {
    "live": "a VM is moved cold or warm, its memory is never moved",
    "conversion": "a guest is converted only as a part of moving it",
}

QUIET: Mapping[str, Any] = {"spec.migrateSharedDisks": True, "spec.vms[].migrateSharedDisks": True}
"""Fields of which a false asks for something, and the value that asks for nothing."""

_UNKNOWN = "tranship does not know this field"


def unacted(resource: Resource) -> list[Unacted]:
    """What the user set without effect. Paths are unique, in the order of the schema."""
    notes, blocking = NOTES.get(resource.KIND), BLOCKING.get(resource.KIND, {})
    if notes is None:
        return []
    found = [Unacted(path, _note(notes, pattern)) for path, pattern in _unacted(resource) if pattern not in blocking]
    return found + [Unacted(name, _UNKNOWN) for name in resource.model_extra or {}]


def blocking_unacted(resource: Resource) -> list[Unacted]:
    """What the user set and must not be left out: the object cannot be acted on at all."""
    notes = BLOCKING.get(resource.KIND, {})
    found = [Unacted(path, notes[pattern]) for path, pattern in _unacted(resource) if pattern in notes]
    if isinstance(resource, Plan) and (why := _TYPES.get(resource.spec.migration_type)):
        found.insert(0, Unacted("spec.type", why))
    return found


def _note(notes: Mapping[str, str], pattern: str) -> str:
    """The note on the field, else on the nearest thing around it."""
    while pattern not in notes and "." in pattern:
        pattern = pattern.rpartition(".")[0]
    return notes.get(pattern, _UNKNOWN)


def _unacted(resource: Resource) -> Iterator[tuple[str, str]]:
    return _walk(resource.KIND, getattr(resource, "spec", None), "spec", known=True, acted=False)


def _walk(kind: Kind, value: Any, path: str, *, known: bool, acted: bool) -> Iterator[tuple[str, str]]:
    """(path, pattern) of everything that asks for something nobody does. Looks into what is acted on, for unknown fields,
    and into what is acted on in part; anything else is one thing."""
    pattern = re.sub(r"\[\d+\]", "[]", path)
    if _asks_nothing(value, pattern):
        return
    acted = known and (acted or pattern in ACTED.get(kind, ()))
    if acted or pattern == "spec" or _in_part(kind, pattern):
        for name, part, part_known in _parts(value):
            yield from _walk(kind, part, f"{path}{name}", known=part_known, acted=acted)
    else:
        yield path, pattern


def _in_part(kind: Kind, pattern: str) -> bool:
    return any(path.startswith((f"{pattern}.", f"{pattern}[]")) for path in ACTED.get(kind, ()))


def _parts(value: Any) -> Iterator[tuple[str, Any, bool]]:
    """(how it is written behind the path, value, whether the schema knows it)."""
    if isinstance(value, Model):
        for name, field in type(value).model_fields.items():
            if name in value.model_fields_set:
                yield f".{field.alias or name}", getattr(value, name), True
        for name, extra in (value.model_extra or {}).items():
            yield f".{name}", extra, False
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield f".{name}", item, True
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield f"[{index}]", item, True


def _asks_nothing(value: Any, pattern: str) -> bool:
    if pattern in QUIET:
        return bool(value == QUIET[pattern])
    if isinstance(value, ObjectReference):
        return not value and not value.model_extra
    return value is None or value is False or value in ("", [], {})
