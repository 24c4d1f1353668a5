"""How a VM, and what hangs on it, looks on the wire: attachments, NICs, snapshots, backups, checkpoints, transfers."""

from typing import Any

from tranship.lab.ovirt import views
from tranship.lab.ovirt.model import Attachment, Backup, Checkpoint, Disk, LabVM, Nic, Snapshot, Transfer
from tranship.lab.ovirt.render import Many, Node, reference
from tranship.lab.ovirt.state import State
from tranship.lab.ovirt.views import ref

ACTIONS = ("start", "stop", "shutdown", "previewsnapshot", "commitsnapshot", "undosnapshot")
ACTIVE = "Active VM"


def vm(thing: LabVM, state: State) -> Node:
    path = f"vms/{thing.id}"
    fields = _general(thing) | _compute(thing) | _policies(thing)
    links = {
        "disk_attachments": lambda: Many("disk_attachment", [attachment(thing, a) for a in thing.attachments]),
        "nics": lambda: Many("nic", [nic(thing, item) for item in thing.nics]),
        "snapshots": lambda: Many("snapshot", snapshots(thing, state)),
        "cdroms": lambda: Many("cdrom", [cdrom(thing)]),
        "host_devices": lambda: Many("host_device", host_devices(thing)),
        "watchdogs": lambda: Many("watchdog", watchdogs(thing)),
        "numa_nodes": lambda: Many("vm_numa_node", numa_nodes(thing)),
        "reported_devices": lambda: Many("reported_device", reported_devices(thing)),
        "backups": lambda: Many("backup", [backup(thing, item, state) for item in thing.backup_list]),
        "checkpoints": lambda: Many("checkpoint", [checkpoint(thing, c, state) for c in thing.checkpoint_list]),
    }
    return Node("vm", thing.id, path, fields, links, ACTIONS)


def _general(thing: LabVM) -> dict[str, Any]:
    made = thing.hardware
    return {
        "name": thing.name,
        "description": thing.description,
        "comment": "",
        "creation_time": thing.created,
        "start_time": thing.started,
        "status": thing.status,
        "stateless": made.stateless,
        "type": "server",
        "origin": "ovirt",
        "delete_protected": False,
        "fqdn": (made.fqdn or f"{thing.name}.lab") if thing.status == "up" else None,
        "guest_operating_system": _guest_system(thing) if thing.status == "up" else None,
        "has_illegal_images": thing.illegal_images,
        "next_run_configuration_exists": False,
        "cluster": ref("cluster", "clusters", thing.cluster),
        "host": ref("host", "hosts", thing.host),
        "template": reference("template", "templates", "00000000-0000-0000-0000-000000000000"),
    }


def _guest_system(thing: LabVM) -> dict[str, Any]:
    made = thing.hardware
    return {
        "architecture": "x86_64",
        "distribution": made.guest_distribution,
        "family": "Linux",
        "version": {"full_version": made.guest_version, "major": made.guest_version.split(".")[0]},
    }


def _compute(thing: LabVM) -> dict[str, Any]:
    made = thing.hardware
    pins = [{"cpu_set": cpus, "vcpu": cpu} for cpu, cpus in made.cpu_pins.items()]
    cpu: dict[str, Any] = {
        "architecture": "x86_64",
        "topology": {"cores": made.cores, "sockets": made.sockets, "threads": made.threads},
    }
    if pins:
        cpu["cpu_tune"] = {"vcpu_pins": Many("vcpu_pin", pins)}
    return {
        "bios": {"boot_menu": {"enabled": made.boot_menu}, "type": made.bios_type},
        "cpu": cpu,
        "cpu_shares": made.cpu_shares,
        "cpu_pinning_policy": made.cpu_pinning_policy,
        "custom_cpu_model": made.custom_cpu_model or None,
        "display": {"type": made.display, "monitors": 1},
        "io": {"threads": made.io_threads},
        "memory": made.memory,
        "memory_policy": {
            "ballooning": made.ballooning,
            "guaranteed": made.guaranteed_memory or made.memory,
            "max": made.memory * 4,
        },
        "os": {"type": made.os_type, "boot": {"devices": Many("device", ["hd"])}},
        "tpm_enabled": made.tpm,
    }


def _policies(thing: LabVM) -> dict[str, Any]:
    made = thing.hardware
    properties = [{"name": name, "value": value} for name, value in made.custom_properties.items()]
    lease = {"storage_domain": reference("storage_domain", "storagedomains", made.lease)} if made.lease else None
    return {
        "custom_properties": Many("custom_property", properties, "custom_properties") if properties else None,
        "high_availability": {"enabled": made.ha, "priority": 1},
        "lease": lease,
        "placement_policy": {"affinity": made.affinity},
        "serial_number": {"policy": "custom", "value": made.serial_number} if made.serial_number else None,
        "storage_error_resume_behaviour": made.resume_behaviour,
        "time_zone": {"name": made.timezone},
        "usb": {"enabled": made.usb},
    }


def attachment(thing: LabVM, item: Attachment) -> Node:
    fields = {
        "active": item.active,
        "bootable": item.bootable,
        "interface": item.interface,
        "logical_name": None,
        "pass_discard": False,
        "read_only": item.read_only,
        "uses_scsi_reservation": item.uses_scsi_reservation,
        "disk": ref("disk", "disks", item.disk),
        "vm": ref("vm", "vms", thing),
    }
    return Node("disk_attachment", item.disk.id, f"vms/{thing.id}/diskattachments/{item.disk.id}", fields)


def nic(thing: LabVM, item: Nic) -> Node:
    path = f"vms/{thing.id}/nics/{item.id}"
    fields = {
        "name": item.name,
        "interface": item.interface,
        "linked": item.linked,
        "mac": {"address": item.mac},
        "plugged": item.plugged,
        "vm": ref("vm", "vms", thing),
        "vnic_profile": ref("vnic_profile", "vnicprofiles", item.profile),
    }
    links = {"reported_devices": lambda: Many("reported_device", [reported_device(thing, item)] if thing.on else [])}
    return Node("nic", item.id, path, fields, links)


def reported_device(thing: LabVM, item: Nic) -> Node:
    addresses = [{"address": ip, "version": "v6" if ":" in ip else "v4"} for ip in item.ips]
    fields = {
        "name": item.name.replace("nic", "eth"),
        "ips": Many("ip", addresses),
        "mac": {"address": item.mac},
        "type": "network",
        "vm": ref("vm", "vms", thing),
    }
    return Node("reported_device", item.id, f"vms/{thing.id}/nics/{item.id}/reporteddevices/{item.id}", fields)


def reported_devices(thing: LabVM) -> list[Node]:
    return [reported_device(thing, item) for item in thing.nics] if thing.on else []


def cdrom(thing: LabVM) -> Node:
    file = {"id": thing.hardware.cdrom} if thing.hardware.cdrom else None
    return Node("cdrom", thing.id, f"vms/{thing.id}/cdroms/{thing.id}", {"file": file, "vm": ref("vm", "vms", thing)})


def host_devices(thing: LabVM) -> list[Node]:
    found = []
    for number, (capability, vendor, product) in enumerate(thing.hardware.host_devices):
        fields = {
            "name": f"{capability}_{number}",
            "capability": capability,
            "product": {"id": f"0x{number:04x}", "name": product},
            "vendor": {"id": "0x1af4", "name": vendor},
        }
        found.append(Node("host_device", f"{number:02d}", f"vms/{thing.id}/hostdevices/{number:02d}", fields))
    return found


def watchdogs(thing: LabVM) -> list[Node]:
    if not thing.hardware.watchdog:
        return []
    fields = {"action": thing.hardware.watchdog, "model": "i6300esb", "vm": ref("vm", "vms", thing)}
    return [Node("watchdog", thing.id, f"vms/{thing.id}/watchdogs/{thing.id}", fields)]


def numa_nodes(thing: LabVM) -> list[Node]:
    found = []
    for number, pin in enumerate(thing.hardware.numa_pins):
        pins = Many("numa_node_pin", [{"index": pin, "pinned": True}])
        fields = {"index": number, "memory": thing.hardware.memory >> 20, "numa_node_pins": pins}
        found.append(Node("vm_numa_node", f"{number}", f"vms/{thing.id}/numanodes/{number}", fields))
    return found


# snapshots


def snapshots(thing: LabVM, state: State) -> list[Node]:
    """The present state counts as a snapshot too, the last one; during a preview also what it was before."""
    found = [snapshot(thing, item, state) for item in thing.chain]
    if thing.preview:
        found.append(_present(thing, thing.before_preview, "preview", f"{ACTIVE} before the preview"))
    return [*found, _present(thing, thing.active_id, "active", ACTIVE)]


def _present(thing: LabVM, id: str, kind: str, description: str) -> Node:
    fields = {
        "date": thing.created,
        "description": description,
        "persist_memorystate": False,
        "snapshot_status": "ok",
        "snapshot_type": kind,
        "vm": ref("vm", "vms", thing),
    }
    return Node("snapshot", id, f"vms/{thing.id}/snapshots/{id}", fields)


def snapshot(thing: LabVM, item: Snapshot, state: State) -> Node:
    path = f"vms/{thing.id}/snapshots/{item.id}"
    fields = {
        "date": item.created,
        "description": item.description,
        "persist_memorystate": item.memory,
        "snapshot_status": item.status,
        "snapshot_type": "regular",
        "vm": ref("vm", "vms", thing),
    }

    def disks() -> Many:
        return Many("disk", [_disk_in(item, disk, state) for disk in thing.disks if disk.id in item.volumes])

    return Node("snapshot", item.id, path, fields, {"disks": disks}, ("restore",))


def _disk_in(item: Snapshot, disk: Disk, state: State) -> Node:
    shown = views.disk(disk, state)
    shown.fields |= {"image_id": item.volumes[disk.id], "provisioned_size": item.sizes[disk.id]}
    return shown


# backups


def backup(thing: LabVM, item: Backup, state: State) -> Node:
    path = f"vms/{thing.id}/backups/{item.id}"
    snapshot = reference("snapshot", f"vms/{thing.id}/snapshots", item.hybrid) if item.hybrid else None
    fields = {
        "creation_date": item.created,
        "modification_date": item.modified,
        "description": item.description or None,
        "from_checkpoint_id": item.from_checkpoint or None,
        "to_checkpoint_id": item.to_checkpoint or None,
        "phase": item.phase,
        "host": ref("host", "hosts", thing.host) if item.live else None,
        "snapshot": snapshot,
        "vm": ref("vm", "vms", thing),
    }

    def disks() -> Many:
        return Many("disk", [views.disk(disk, state, f"{path}/disks", item.id) for disk in item.disks])

    return Node("backup", item.id, path, fields, {"disks": disks}, ("finalize",))


def checkpoint(thing: LabVM, item: Checkpoint, state: State) -> Node:
    path = f"vms/{thing.id}/checkpoints/{item.id}"
    fields = {
        "creation_date": item.created,
        "description": item.description or None,
        "parent_id": item.parent or None,
        "state": item.state,
        "vm": ref("vm", "vms", thing),
    }

    def disks() -> Many:
        return Many("disk", [views.disk(disk, state, f"{path}/disks") for disk in item.disks])

    return Node("checkpoint", item.id, path, fields, {"disks": disks})


def transfer(thing: Transfer) -> Node:
    path = f"imagetransfers/{thing.id}"
    snapshot = None
    if thing.volume and thing.disk.storage:
        path_of = f"storagedomains/{thing.disk.storage.id}/disksnapshots"
        snapshot = reference("disk_snapshot", path_of, thing.volume)
    backup = None
    if thing.backup and thing.vm:
        backup = reference("backup", f"vms/{thing.vm.id}/backups", thing.backup.id)
    fields = {
        "active": thing.active,
        "direction": "download",
        "format": thing.format,
        "inactivity_timeout": thing.inactivity_timeout,
        "phase": thing.phase,
        "shallow": thing.shallow,
        "timeout_policy": thing.timeout_policy,
        "transferred": thing.transferred,
        "transfer_url": thing.url or None,
        "proxy_url": thing.url or None,
        "backup": backup,
        "disk": ref("disk", "disks", thing.disk),
        "host": ref("host", "hosts", thing.host),
        "image": reference("image", "images", thing.disk.id),
        "snapshot": snapshot,
    }
    return Node("image_transfer", thing.id, path, fields, actions=("cancel", "extend", "finalize", "pause", "resume"))
