"""What a cluster holds, from its objects to facts: storage classes, networks, machines. Pure; called by target.py.

Objects are read as they come: a field that is missing is taken for what Kubernetes or CDI take it for.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tranship.inventory.estate import Network, Thing
from tranship.inventory.vm import VM, Nic, Power
from tranship.migration.mapping import DiskOrder
from tranship.migration.seen import MachineState
from tranship.providers.kubevirt.marks import owner_of
from tranship.providers.kubevirt.volumes import FILESYSTEM, StorageClass, choose_modes, quantity

Object = Mapping[str, Any]

POD = "pod"
ALWAYS, HALTED, MANUAL = "Always", "Halted", "Manual"
ENDED = ("Succeeded", "Failed")


def storage_class(obj: Object, profile: Object | None, config: Object | None) -> StorageClass:
    """profile: CDI's StorageProfile of that name; config: CDI's CDIConfig; None = the cluster has none."""
    name = obj["metadata"]["name"]
    marks = obj["metadata"].get("annotations") or {}
    return StorageClass(
        name=name,
        profile=tuple(_property_sets(profile)),
        overhead=_overhead(name, config),
        default=marks.get("storageclass.kubernetes.io/is-default-class") == "true",
        default_virt=marks.get("storageclass.kubevirt.io/is-default-virt-class") == "true",
        late=obj.get("volumeBindingMode") == "WaitForFirstConsumer",
    )


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


def things(
    objects: Iterable[Object], facts: Callable[[Object], Mapping[str, Any]] = lambda obj: {}
) -> dict[str, Thing]:
    """By name, or by namespace/name."""
    return {one.id: one for one in (_thing(obj, facts(obj)) for obj in objects)}


def _thing(obj: Object, facts: Mapping[str, Any]) -> Thing:
    meta = {name: value for name, value in obj["metadata"].items() if name != "managedFields"}
    namespace, name = meta.get("namespace", ""), meta["name"]
    id = f"{namespace}/{name}" if namespace else name
    whole = {**obj, "metadata": meta}
    return Thing(id=id, name=name, path=id, namespace=namespace, uid=meta.get("uid", ""), facts=facts, object=whole)


def class_facts(storage: StorageClass) -> dict[str, Any]:
    """What a disk gets in a volume of the class when the storage map leaves it open, and what else CDI knows to work."""
    modes = choose_modes(DiskOrder(source="", name="", pool=storage.name, size=0), storage)
    return {
        "default": storage.default,
        "defaultForVirtualization": storage.default_virt,
        "accessMode": modes.access,
        "volumeMode": modes.volume,
        "bindsLate": storage.late,
        "profile": [f"{mode}/{volume}" for access, volume in storage.profile for mode in access],
    }


def instance_type_facts(obj: Object) -> dict[str, Any]:
    spec = obj.get("spec", {})
    return {"cpus": (spec.get("cpu") or {}).get("guest"), "memory": (spec.get("memory") or {}).get("guest")}


def vm(obj: Object) -> VM:
    meta = obj["metadata"]
    id = f"{meta['namespace']}/{meta['name']}"
    inside = ((obj.get("spec") or {}).get("template") or {}).get("spec") or {}
    domain = inside.get("domain") or {}
    cpu = domain.get("cpu") or {}
    sockets, cores, threads = (int(cpu.get(name) or 1) for name in ("sockets", "cores", "threads"))
    memory = (domain.get("memory") or {}).get("guest") or 0
    status = str((obj.get("status") or {}).get("printableStatus", ""))
    power = Power.ON if status in ("Running", "Migrating", "Paused") else Power.OFF
    traits = {"owner": owner_of(obj), "status": status}
    return VM(
        id=id,
        name=meta["name"],
        instance_uuid=meta.get("uid", ""),
        uuid=str((domain.get("firmware") or {}).get("uuid") or ""),
        path=id,
        power=power,
        cpus=sockets * cores * threads,
        cores_per_socket=cores * threads,
        threads=threads,
        memory=quantity(memory),
        native=True,
        nics=tuple(_nics(inside, domain)),
        traits=traits,
    )


def _nics(inside: Object, domain: Object) -> Iterable[Nic]:
    networks = {
        one.get("name"): (one.get("multus") or {}).get("networkName", POD) for one in inside.get("networks") or ()
    }
    for one in (domain.get("devices") or {}).get("interfaces") or ():
        name = str(one.get("name", ""))
        mac, model = str(one.get("macAddress") or "").lower(), str(one.get("model") or "virtio")
        network = str(networks.get(name, ""))
        yield Nic(key=name, label=name, mac=mac, network=network, model=model, connected=one.get("state") != "down")


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
