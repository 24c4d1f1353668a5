"""What a cluster holds, from its objects to facts: storage classes, networks, machines. Pure; called by target.py.

Objects are read as they come: a field that is missing is taken for what Kubernetes or CDI take it for.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from tranship.inventory.estate import Network
from tranship.inventory.vm import VM, Power
from tranship.migration.seen import MachineState
from tranship.providers.kubevirt.marks import owner_of
from tranship.providers.kubevirt.volumes import FILESYSTEM, StorageClass

Object = Mapping[str, Any]

POD = "pod"
ALWAYS, HALTED, MANUAL = "Always", "Halted", "Manual"
ENDED = ("Succeeded", "Failed")


def storage_class(obj: Object, profile: Object | None, config: Object | None) -> StorageClass:
    """profile: CDI's StorageProfile of that name; config: CDI's CDIConfig; None = the cluster has none."""
    name = obj["metadata"]["name"]
    return StorageClass(name=name, profile=tuple(_property_sets(profile)), overhead=_overhead(name, config))


def _property_sets(profile: Object | None) -> Iterable[tuple[tuple[str, ...], str]]:
    for one in ((profile or {}).get("status") or {}).get("claimPropertySets") or ():
        yield tuple(one.get("accessModes") or ()), one.get("volumeMode") or FILESYSTEM


def _overhead(name: str, config: Object | None) -> float | None:
    told = ((config or {}).get("status") or {}).get("filesystemOverhead") or {}
    text = (told.get("storageClass") or {}).get(name) or told.get("global")
    return float(text) if text else None


def networks(attachments: Iterable[Object]) -> dict[str, Network]:
    """The pod network, and NetworkAttachmentDefinitions as namespace/name."""
    found = {POD: Network(id=POD, name=POD, kind="pod")}
    for one in attachments:
        namespace, name = one["metadata"]["namespace"], one["metadata"]["name"]
        id = f"{namespace}/{name}"
        found[id] = Network(id=id, name=name, path=id, kind="multus")
    return found


def vm(obj: Object) -> VM:
    meta = obj["metadata"]
    id = f"{meta['namespace']}/{meta['name']}"
    status = str((obj.get("status") or {}).get("printableStatus", ""))
    power = Power.ON if status in ("Running", "Migrating", "Paused") else Power.OFF
    traits = {"owner": owner_of(obj), "status": status}
    return VM(id=id, name=meta["name"], instance_uuid=meta.get("uid", ""), path=id, power=power, traits=traits)


def run_strategy(machine: Object) -> str:
    spec = machine.get("spec", {})
    if "runStrategy" in spec:
        return str(spec["runStrategy"])
    return ALWAYS if spec.get("running") else HALTED


def machine_state(machine: Object | None, instance: Object | None) -> MachineState:
    """From the VirtualMachine and its VirtualMachineInstance, both read now. Whatever may still come up, or may not have
    gone down yet, is STARTING: the source must not run beside it. One that is being deleted and has no instance
    is gone but for its name: nothing starts it any more."""
    phase = (instance.get("status") or {}).get("phase", "") if instance is not None else ""
    if machine is None:
        return MachineState.ABSENT if instance is None or phase in ENDED else MachineState.STARTING
    if instance is not None and phase not in ENDED:
        return MachineState.RUNNING if phase == "Running" else MachineState.STARTING
    if machine.get("metadata", {}).get("deletionTimestamp"):
        return MachineState.ABSENT
    strategy, status = run_strategy(machine), (machine.get("status") or {}).get("printableStatus", "")
    may_come_up = strategy == ALWAYS or (strategy not in (HALTED, MANUAL) and status != "Stopped")
    return MachineState.STARTING if may_come_up else MachineState.OFF
