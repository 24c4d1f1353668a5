"""The KubeVirt VirtualMachine of an order. Pure; used by the target `openshift`, which creates it, and by the target
`local`, which writes it beside the disks for those who take the machine to a cluster later.

Each disk is a PersistentVolumeClaim of the disk's name in the machine's namespace. Rules are Forklift's: what the guest
knows itself by (firmware, UUID, serial numbers, MACs) stays, what it has drivers for is the order's business.
"""

import re
from collections.abc import Mapping
from typing import Any

from tranship.migration.mapping import DiskOrder, MachineOrder, NicOrder

API_VERSION = "kubevirt.io/v1"
KIND = "VirtualMachine"
MIB = 1 << 20
CLUSTER_INSTANCE_TYPE = "VirtualMachineClusterInstancetype"
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

Object = dict[str, Any]


def virtual_machine(order: MachineOrder, instance_type_kind: str = CLUSTER_INSTANCE_TYPE) -> Object:
    """The object, as `kubectl apply` takes it. instance_type_kind: of the order's instance type, if it names one."""
    spec: Object = {"runStrategy": "Always" if order.start else "Halted"}
    if order.instance_type:
        spec["instancetype"] = {"kind": instance_type_kind, "name": order.instance_type}
    spec["template"] = {
        "metadata": {"labels": {**order.labels, "app": order.name}},
        "spec": _placed(order)
        | {
            "domain": _domain(order),
            "networks": [_network(number, nic) for number, nic in enumerate(order.nics)],
            "volumes": [
                {"name": volume_name(number, disk), "persistentVolumeClaim": {"claimName": disk.name}}
                for number, disk in enumerate(order.disks)
            ],
        },
    }
    metadata: Object = {"name": order.name, "namespace": order.namespace}
    metadata |= {"labels": dict(order.labels), "annotations": dict(order.annotations)}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}


def volume_name(number: int, disk: DiskOrder) -> str:
    """Within the machine: a DNS label, where a claim's name may be longer."""
    return disk.volume or f"vol-{number}"


def _placed(order: MachineOrder) -> Object:
    placed: Mapping[str, Any] = {"nodeSelector": dict(order.node_selector), "affinity": dict(order.affinity)}
    return {name: value for name, value in placed.items() if value}


def _domain(order: MachineOrder) -> Object:
    secure = order.firmware == "efi" and order.secure_boot
    domain: Object = {
        "machine": {"type": "q35"},
        "firmware": _firmware(order, secure),
        "features": {"acpi": {}} | ({"smm": {"enabled": True}} if secure else {}),
        "devices": {
            "disks": [_disk(number, disk) for number, disk in enumerate(order.disks)],
            "interfaces": [_interface(number, nic) for number, nic in enumerate(order.nics)],
            # upstream's is virtio unless in compatibility mode; every guest, converted or not, has a driver for USB
            "inputs": [{"name": "tablet", "type": "tablet", "bus": "usb"}],
            # said also where there is none: a preference of the cluster would give one, and Windows may not boot with it
            "tpm": {"persistent": True} if order.tpm else {"enabled": False},
        },
    }
    if order.timezone:
        domain["clock"] = {"timezone": order.timezone}
    if not order.instance_type:
        domain["cpu"] = _cpu(order)
        domain["memory"] = {"guest": f"{-(-order.memory // MIB)}Mi"}
    return domain


def _cpu(order: MachineOrder) -> Object:
    cpu: Object = {"sockets": order.sockets, "cores": order.cores, "threads": order.threads}
    if order.dedicated_cpus:
        cpu["dedicatedCpuPlacement"] = True
    if order.nested is not None:  # whichever of the two the node's processors have
        policy = "optional" if order.nested else "disable"
        cpu["features"] = [{"name": name, "policy": policy} for name in ("vmx", "svm")]
    return cpu


def _firmware(order: MachineOrder, secure: bool) -> Object:
    firmware: Object = {"uuid": order.uuid} if _UUID.fullmatch(order.uuid) else {}
    if order.serial:
        firmware["serial"] = order.serial
    firmware["bootloader"] = {"efi": {"secureBoot": secure}} if order.firmware == "efi" else {"bios": {}}
    return firmware


def _disk(number: int, disk: DiskOrder) -> Object:
    device: Object = {"name": volume_name(number, disk)}
    if disk.boot:
        device["bootOrder"] = disk.boot
    device["disk"] = {"bus": disk.bus}
    if disk.serial:
        device["serial"] = disk.serial
    if disk.shared:
        device |= {"shareable": True, "cache": "none"}
    return device


def _interface(number: int, nic: NicOrder) -> Object:
    binding = "masquerade" if nic.kind == "pod" else "sriov" if nic.pass_through else "bridge"
    interface: Object = {"name": network_name(number, nic), binding: {}}
    if not nic.pass_through:
        interface["model"] = nic.model
    told = {"macAddress": nic.mac, "pciAddress": nic.pci, "state": "" if nic.up or nic.pass_through else "down"}
    return interface | {name: value for name, value in told.items() if value}


def _network(number: int, nic: NicOrder) -> Object:
    if nic.kind == "pod":
        return {"name": network_name(number, nic), "pod": {}}
    name = f"{nic.namespace}/{nic.network}" if nic.namespace else nic.network
    return {"name": network_name(number, nic), "multus": {"networkName": name}}


def network_name(number: int, nic: NicOrder) -> str:
    return nic.name or f"net-{number}"
