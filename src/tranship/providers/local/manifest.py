"""The KubeVirt VirtualMachine of a machine, for those who take it to a cluster later. Called by target.py.

Each disk is expected as a PersistentVolumeClaim of the disk's name in the machine's namespace. Volumes have names of their
own: KubeVirt takes only DNS labels (63 characters, no dots) for them, a claim may be called more than that.
"""

from typing import Any

import yaml

from tranship.migration.mapping import DiskOrder, MachineOrder, NicOrder

MIB = 1 << 20


def virtual_machine(order: MachineOrder) -> dict[str, Any]:
    """The object, as `kubectl apply` takes it."""
    return {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {
            "name": order.name,
            "namespace": order.namespace,
            "labels": dict(order.labels),
            "annotations": dict(order.annotations),
        },
        "spec": {
            "runStrategy": "Always" if order.start else "Halted",
            "template": {
                "metadata": {"labels": dict(order.labels)},
                "spec": {
                    "domain": _domain(order),
                    "networks": [_network(number, nic) for number, nic in enumerate(order.nics)],
                    "volumes": [
                        {"name": f"disk-{number}", "persistentVolumeClaim": {"claimName": disk.name}}
                        for number, disk in enumerate(order.disks)
                    ],
                },
            },
        },
    }


def manifest_yaml(order: MachineOrder) -> str:
    return yaml.safe_dump(virtual_machine(order), sort_keys=False)


def _domain(order: MachineOrder) -> dict[str, Any]:
    efi = order.firmware == "efi"
    secure = efi and order.secure_boot
    bootloader = {"efi": {"secureBoot": secure}} if efi else {"bios": {}}
    firmware: dict[str, Any] = {"uuid": order.uuid} if order.uuid else {}
    devices: dict[str, Any] = {
        "disks": [_disk(number, disk) for number, disk in enumerate(order.disks)],
        "interfaces": [_interface(number, nic) for number, nic in enumerate(order.nics)],
        "inputs": [{"name": "tablet", "type": "tablet", "bus": "usb"}],
    }
    if order.tpm:
        devices["tpm"] = {"persistent": True}
    return {
        "machine": {"type": "q35"},
        "cpu": {"sockets": order.sockets, "cores": order.cores, "threads": 1},
        "memory": {"guest": f"{-(-order.memory // MIB)}Mi"},
        "firmware": firmware | {"bootloader": bootloader},
        "features": {"acpi": {}} | ({"smm": {"enabled": True}} if secure else {}),
        "devices": devices,
    }


def _disk(number: int, disk: DiskOrder) -> dict[str, Any]:
    order = {"bootOrder": disk.boot} if disk.boot else {}
    return {"name": f"disk-{number}", **order, "disk": {"bus": disk.bus}}


def _interface(number: int, nic: NicOrder) -> dict[str, Any]:
    binding = "masquerade" if nic.kind == "pod" else "bridge"
    return {"name": f"net-{number}", "model": nic.model, "macAddress": nic.mac, binding: {}}


def _network(number: int, nic: NicOrder) -> dict[str, Any]:
    if nic.kind == "pod":
        return {"name": f"net-{number}", "pod": {}}
    name = f"{nic.namespace}/{nic.network}" if nic.namespace else nic.network
    return {"name": f"net-{number}", "multus": {"networkName": name}}
