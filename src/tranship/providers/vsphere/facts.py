"""From properties as the server sends them to inventory facts. Pure.

Called by the inventory for each object of a sweep or an update. A VM is made in two steps: `read_vm` takes what the VM
itself says, `settle` adds what only its surroundings know (paths, cluster, the ids of its networks), so that a renamed
folder costs no second read of its VMs.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote

from tranship.inventory.estate import Datastore, Host, Network
from tranship.inventory.vm import VM, Disk, Nic, Power
from tranship.providers.vsphere.concerns import concerns
from tranship.providers.vsphere.wire import Node, Ref, flag, get, many, number, text

# Only properties that every API version since 5.5 has: one unknown name fails the whole call.
VM_PROPERTIES = (
    "name",
    "parent",
    "parentVApp",
    "config.changeVersion",
    "config.uuid",
    "config.instanceUuid",
    "config.template",
    "config.firmware",
    "config.bootOptions",
    "config.guestId",
    "config.guestFullName",
    "config.cpuAffinity",
    "config.memoryAffinity",
    "config.cpuHotAddEnabled",
    "config.cpuHotRemoveEnabled",
    "config.memoryHotAddEnabled",
    "config.nestedHVEnabled",
    "config.ftInfo",
    "config.changeTrackingEnabled",
    "config.extraConfig",
    "config.hardware.numCPU",
    "config.hardware.numCoresPerSocket",
    "config.hardware.memoryMB",
    "config.hardware.device",
    "capability.changeTrackingSupported",
    "guest.hostName",
    "guest.guestFullName",
    "guest.toolsRunningStatus",
    "guest.net",
    "guest.disk",
    "guest.ipStack",
    "runtime.host",
    "runtime.powerState",
    "runtime.connectionState",
    "runtime.consolidationNeeded",
    "snapshot",
    "network",
    "datastore",
)
PROPERTIES: Mapping[str, tuple[str, ...]] = {
    "VirtualMachine": VM_PROPERTIES,
    "Folder": ("name", "parent"),
    "Datacenter": ("name", "parent"),
    "VirtualApp": ("name", "parent", "parentFolder"),
    "ComputeResource": ("name", "parent", "configurationEx"),
    "HostSystem": (
        "name",
        "parent",
        "overallStatus",
        "runtime.inMaintenanceMode",
        "runtime.connectionState",
        "summary.config.sslThumbprint",
        "config.dateTimeInfo",
    ),
    "Datastore": ("name", "parent", "summary"),
    "Network": ("name", "parent", "summary"),
    "DistributedVirtualPortgroup": ("name", "parent", "summary", "key", "config.defaultPortConfig"),
}

_POWER = {"poweredOn": Power.ON, "poweredOff": Power.OFF, "suspended": Power.SUSPENDED}
_BUSES = (
    ("NVME", "nvme"),
    ("IDE", "ide"),
    ("AHCI", "sata"),
    ("SATA", "sata"),
    ("SCSI", "scsi"),
    ("Lsi", "scsi"),
    ("Bus", "scsi"),
)


@dataclass(slots=True)
class World:
    """Everything but the VMs: properties by id, and what is looked up by another name than the id."""

    objects: dict[str, tuple[Ref, Mapping[str, Any]]] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)  # "portgroup:KEY" or "opaque:ID" -> network id

    def put(self, ref: Ref, properties: Mapping[str, Any]) -> None:
        self.objects[ref.id] = (ref, properties)
        if key := text(properties.get("key", "")):
            self.aliases[f"portgroup:{key}"] = ref.id
        if opaque := text(properties.get("summary", ""), "opaqueNetworkId"):
            self.aliases[f"opaque:{opaque}"] = ref.id

    def name(self, id: str) -> str:
        return plain(self.objects[id][1].get("name", "")) if id in self.objects else ""

    def parent(self, id: str) -> str:
        properties = self.objects[id][1] if id in self.objects else {}
        return text(properties.get("parent", "")) or text(properties.get("parentFolder", ""))

    def path(self, parent: str, name: str) -> str:
        """/DC/vm/folder/name: the invisible root folder has no parent and no part in it."""
        parts = [name]
        while parent in self.objects and self.parent(parent) and len(parts) < 100:
            parts.append(self.name(parent))
            parent = self.parent(parent)
        return "/" + "/".join(reversed(parts))

    def datacenter(self, id: str) -> str:
        """Path of the datacenter that the object is in, without the first slash: what /folder calls dcPath."""
        for _ in range(100):
            if id not in self.objects:
                return ""
            if self.objects[id][0].kind == "Datacenter":
                return self.path(self.parent(id), self.name(id)).lstrip("/")
            id = self.parent(id)
        return ""


def plain(name: Any) -> str:
    """vSphere escapes %, / and \\ in names."""
    return unquote(name) if isinstance(name, str) else ""


# -- the VM's own part ----------------------------------------------------------------------------------------------------


def read_vm(id: str, said: Mapping[str, Any]) -> VM:
    devices = many(said.get("config.hardware.device", ""))
    extra = {text(option, "key"): text(option, "value") for option in many(said.get("config.extraConfig", ""))}
    power = _POWER.get(text(said.get("runtime.powerState", "")), Power.UNKNOWN)
    tracking = flag(said.get("config.changeTrackingEnabled", ""))
    boot = said.get("config.bootOptions", "")
    return VM(
        id=id,
        name=plain(said.get("name", "")),
        instance_uuid=text(said.get("config.instanceUuid", "")),
        uuid=text(said.get("config.uuid", "")),
        power=power,
        cpus=number(said.get("config.hardware.numCPU", "")) or 1,
        cores_per_socket=number(said.get("config.hardware.numCoresPerSocket", "")) or 1,
        memory=number(said.get("config.hardware.memoryMB", "")) << 20,
        firmware=text(said.get("config.firmware", "")) or "bios",
        secure_boot=flag(boot, "efiSecureBootEnabled"),
        tpm=any(device.kind == "VirtualTPM" for device in devices),
        host=text(said.get("runtime.host", "")),
        guest_id=text(said.get("config.guestId", "")),
        guest_name=text(said.get("guest.guestFullName", "")) or text(said.get("config.guestFullName", "")),
        hostname=text(said.get("guest.hostName", "")),
        tools_running=text(said.get("guest.toolsRunningStatus", "")) == "guestToolsRunning",
        nested=flag(said.get("config.nestedHVEnabled", "")),
        template=flag(said.get("config.template", "")),
        change_tracking=tracking,
        change_tracking_supported=flag(said.get("capability.changeTrackingSupported", "true")),
        consolidation_needed=flag(said.get("runtime.consolidationNeeded", "")),
        snapshots=len(list(snapshot_names(said.get("snapshot", "")))),
        disks=tuple(read_disks(devices, extra)),
        nics=tuple(read_nics(devices, power)),
        traits=_traits(said, devices, extra),
    )


def read_disks(devices: Iterable[Node], extra: Mapping[str, str]) -> Iterable[Disk]:
    devices = list(devices)
    controllers = {text(device, "key"): device for device in devices if "busNumber" in device}
    for device in devices:
        if device.kind != "VirtualDisk":
            continue
        controller = controllers.get(text(device, "controllerKey"), Node())
        bus, number_, unit = bus_of(controller.kind), number(controller, "busNumber"), number(device, "unitNumber")
        backing = get(device, "backing")
        uuid = text(backing, "uuid")
        sharing = text(controller, "sharedBus") in ("physicalSharing", "virtualSharing")
        tracked = extra.get(f"{bus}{number_}:{unit}.ctkEnabled", "").lower()
        yield Disk(
            key=text(device, "key"),
            label=text(device, "deviceInfo", "label"),
            path=text(backing, "fileName"),
            datastore=text(backing, "datastore"),
            capacity=number(device, "capacityInBytes") or number(device, "capacityInKB") << 10,
            bus=bus,
            controller=number_,
            unit=unit,
            mode=text(backing, "diskMode") or "persistent",
            shared=sharing or text(backing, "sharing") == "sharingMultiWriter",
            rdm=_rdm(backing),
            serial=uuid.replace("-", ""),
            backing_uuid=uuid,
            change_tracking=tracked == "true" if extra else None,
        )


def bus_of(controller: str) -> str:
    return next((bus for part, bus in _BUSES if part in controller), "scsi")


def _rdm(backing: Any) -> str:
    if not isinstance(backing, Node) or "RawDisk" not in backing.kind:
        return ""
    return "virtual" if text(backing, "compatibilityMode") == "virtualMode" else "physical"


def read_nics(devices: Iterable[Node], power: Power) -> Iterable[Nic]:
    for device in devices:
        if "macAddress" not in device:
            continue
        state = get(device, "connectable")
        plugged = flag(state, "connected") if power is Power.ON else flag(state, "startConnected")
        yield Nic(
            key=text(device, "key"),
            label=text(device, "deviceInfo", "label"),
            mac=text(device, "macAddress").lower(),
            network=_network(get(device, "backing")),
            model=device.kind.removeprefix("Virtual").removesuffix("EthernetCard").lower(),
            connected=plugged or state == "",
            pci=_pci_address(text(device, "slotInfo", "pciSlotNumber")),
        )


def _pci_address(slot: str) -> str:
    """On which bus a guest sees what is in a slot of VMware's PCI Express ports, four of eight functions: slot 192 is on
    0b, 1216 (192 in the second function) on 0c. "" for the old bus behind a bridge, which no other machine has."""
    if not slot.isascii() or not slot.isdigit():
        return ""
    function, rest = divmod(int(slot), 1 << 10)
    port, device = divmod(rest, 1 << 5)
    if device or not 5 <= port <= 8 or function > 7:
        return ""
    return f"0000:{3 + (port - 5) * 8 + function:02x}:00.0"


def _network(backing: Any) -> str:
    """Id of the network, or a name that `settle` looks up."""
    if portgroup := text(backing, "port", "portgroupKey"):
        return f"portgroup:{portgroup}"
    if opaque := text(backing, "opaqueNetworkId"):
        return f"opaque:{opaque}"
    return text(backing, "network") or f"name:{text(backing, 'deviceName')}"


def snapshot_names(snapshot: Any) -> Iterable[str]:
    """Names of the whole tree, parents first."""
    pending = many(snapshot, "rootSnapshotList")
    while pending:
        node = pending.pop(0)
        yield text(node, "name")
        pending = many(node, "childSnapshotList") + pending


def _traits(said: Mapping[str, Any], devices: list[Node], extra: Mapping[str, str]) -> dict[str, Any]:
    """What concerns (and later the target's network set-up) read and the neutral facts have no place for."""
    numa = extra.get("numa.nodeAffinity", "")
    affinity = many(said.get("config.memoryAffinity", ""), "affinitySet")
    return {
        "parent": text(said.get("parentVApp", "")) or text(said.get("parent", "")),
        "networks": tuple(item.id for item in many(said.get("network", "")) if isinstance(item, Ref)),
        "datastores": tuple(item.id for item in many(said.get("datastore", "")) if isinstance(item, Ref)),
        "connection_state": text(said.get("runtime.connectionState", "")),
        "cpu_affinity": tuple(many(said.get("config.cpuAffinity", ""), "affinitySet")),
        "numa_affinity": tuple(affinity) or tuple(node for node in numa.split(",") if node),
        "cpu_hot_add": flag(said.get("config.cpuHotAddEnabled", "")),
        "cpu_hot_remove": flag(said.get("config.cpuHotRemoveEnabled", "")),
        "memory_hot_add": flag(said.get("config.memoryHotAddEnabled", "")),
        "nested_hv": flag(said.get("config.nestedHVEnabled", "")),
        "fault_tolerance": isinstance(said.get("config.ftInfo"), Node),
        "disk_enable_uuid": extra.get("disk.EnableUUID", "").lower() in ("true", "1"),
        "devices": tuple(device.kind for device in devices),
        "guest_disks": tuple(
            {
                "path": text(disk, "diskPath"),
                "capacity": number(disk, "capacity"),
                "free": number(disk, "freeSpace"),
                "keys": tuple(text(mapping, "key") for mapping in many(disk, "mappings")),
            }
            for disk in many(said.get("guest.disk", ""))
        ),
        "guest_networks": tuple(_guest_networks(many(said.get("guest.net", "")))),
        "gateways": tuple(
            text(route, "gateway", "ipAddress")
            for stack in many(said.get("guest.ipStack", ""))
            for route in many(stack, "ipRouteConfig", "ipRoute")
            if text(route, "network") in ("0.0.0.0", "::")  # noqa: S104 - the default route's name
        ),
    }


def _guest_networks(cards: Iterable[Any]) -> Iterable[dict[str, Any]]:
    for card in cards:
        dns = tuple(many(card, "dnsConfig", "ipAddress"))
        for address in many(card, "ipConfig", "ipAddress"):
            yield {
                "mac": text(card, "macAddress").lower(),
                "ip": text(address, "ipAddress"),
                "prefix": number(address, "prefixLength"),
                "origin": text(address, "origin"),
                "network": text(card, "network"),
                "device": text(card, "deviceConfigId"),
                "dns": dns,
            }


# -- what the surroundings add --------------------------------------------------------------------------------------------


def settle(vm: VM, world: World, revision: int = 0) -> VM:
    host = world.objects.get(vm.host)
    cluster = world.parent(vm.host) if host else ""
    by_name = {world.name(id): id for id in vm.traits["networks"]}
    nics = tuple(replace(nic, network=_resolve(nic.network, world, by_name)) for nic in vm.nics)
    known = world.objects[cluster][1].get("configurationEx", "") if cluster in world.objects else ""
    traits = {
        **vm.traits,
        "drs": flag(known, "drsConfig", "enabled"),
        "dpm": flag(known, "dpmConfigInfo", "enabled"),
        "host_affinity": vm.id in _host_affine(known),
    }
    whole = replace(
        vm,
        path=world.path(vm.traits["parent"], vm.name),
        timezone=text(host[1].get("config.dateTimeInfo", ""), "timeZone", "key") if host else "",
        cluster=world.name(cluster),
        nics=nics,
        traits=traits,
        revision=revision,
    )
    return replace(whole, concerns=concerns(whole))


def _resolve(network: str, world: World, by_name: Mapping[str, str]) -> str:
    kind, _, name = network.partition(":")
    if kind == "name":
        return by_name.get(name, name)
    return world.aliases.get(network, name if kind in ("portgroup", "opaque") else network)


def _host_affine(cluster: Any) -> set[str]:
    """VMs that a rule of the cluster ties to hosts."""
    tied = {text(rule, "vmGroupName") for rule in many(cluster, "rule") if get(rule, "affineHostGroupName") != ""}
    groups = [group for group in many(cluster, "group") if text(group, "name") in tied]
    return {text(vm) for group in groups for vm in many(group, "vm")}


def network(ref: Ref, world: World) -> Network:
    said = world.objects[ref.id][1]
    kinds = {"DistributedVirtualPortgroup": "dvportgroup", "OpaqueNetwork": "opaque"}
    vlan = get(said.get("config.defaultPortConfig", ""), "vlan", "vlanId")
    return Network(
        id=ref.id,
        name=world.name(ref.id),
        path=world.path(world.parent(ref.id), world.name(ref.id)),
        kind=kinds.get(ref.kind, "standard"),
        vlan=vlan if isinstance(vlan, str) and vlan != "0" else "",
    )


def datastore(ref: Ref, world: World) -> Datastore:
    summary = world.objects[ref.id][1].get("summary", "")
    return Datastore(
        id=ref.id,
        name=world.name(ref.id),
        path=world.path(world.parent(ref.id), world.name(ref.id)),
        kind=text(summary, "type"),
        capacity=number(summary, "capacity"),
        free=number(summary, "freeSpace"),
        datacenter=world.datacenter(ref.id),
    )


def host(ref: Ref, world: World) -> Host:
    said = world.objects[ref.id][1]
    cluster = world.parent(ref.id)
    return Host(
        id=ref.id,
        name=world.name(ref.id),
        path=world.path(cluster, world.name(ref.id)),
        cluster=world.name(cluster),
        in_maintenance=flag(said.get("runtime.inMaintenanceMode", "")),
        status=text(said.get("overallStatus", "")),
        thumbprint=text(said.get("summary.config.sslThumbprint", "")),
    )
