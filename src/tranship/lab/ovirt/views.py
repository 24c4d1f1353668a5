"""How the things of a data centre look on the wire, except for VMs and what hangs on them (vmviews.py).

One function for each kind of resource; routes.py and follow.py call them, render.py writes what they return.
"""

from typing import Any

from tranship.lab.ovirt.events import Event
from tranship.lab.ovirt.model import (
    Cluster,
    DataCenter,
    Disk,
    DiskProfile,
    Host,
    Network,
    StorageDomain,
    VnicProfile,
)
from tranship.lab.ovirt.render import Many, Node, reference
from tranship.lab.ovirt.state import Job, State


def version(text: str) -> dict[str, Any]:
    major, minor = text.split(".")[:2]
    return {"major": major, "minor": minor}


def ref(tag: str, collection: str, thing: Any) -> Node | None:
    """A reference to a thing, or nothing if there is none."""
    return reference(tag, collection, thing if isinstance(thing, str) else thing.id) if thing else None


def root(state: State) -> Node:
    major, minor, build = state.numbers
    full = f"{state.version}-1.el8"
    numbers = {"build": build, "full_version": full, "major": major, "minor": minor, "revision": 0}
    info = {"name": "oVirt Engine", "vendor": "ovirt.org", "version": numbers}
    running = sum(vm.on for vm in state.vms.values())
    summary = {
        "hosts": {"active": sum(host.status == "up" for host in state.hosts.values()), "total": len(state.hosts)},
        "storage_domains": {"active": len(state.storage), "total": len(state.storage)},
        "vms": {"active": running, "total": len(state.vms)},
    }
    names = ("clusters", "data_centers", "disks", "events", "hosts", "jobs", "networks", "storage_domains", "vms")
    links = {name: lambda: Many("link", []) for name in (*names, "vnic_profiles", "image_transfers", "disk_profiles")}
    return Node("api", fields={"product_info": info, "summary": summary}, links=links)


def data_center(thing: DataCenter, state: State) -> Node:
    fields = {"name": thing.name, "local": False, "status": "up", "version": version(thing.version)}

    def storage() -> Many:
        return Many(
            "storage_domain", [storage_domain(s, state) for s in state.storage.values() if s.data_center is thing]
        )

    return Node("data_center", thing.id, f"datacenters/{thing.id}", fields, {"storage_domains": storage})


def cluster(thing: Cluster) -> Node:
    fields = {
        "name": thing.name,
        "bios_type": thing.bios_type,
        "cpu": {"architecture": "x86_64", "type": thing.cpu_type},
        "ha_reservation": thing.ha_reservation,
        "ksm": {"enabled": thing.ksm, "merge_across_nodes": True},
        "version": version(thing.version),
        "data_center": ref("data_center", "datacenters", thing.data_center),
    }
    return Node("cluster", thing.id, f"clusters/{thing.id}", fields)


def host(thing: Host) -> Node:
    path = f"hosts/{thing.id}"
    fields = {
        "name": thing.name,
        "address": thing.address,
        "cpu": {"name": thing.cluster.cpu_type, "topology": {"cores": 8, "sockets": 2, "threads": 1}},
        "hardware_information": {"uuid": thing.hardware},
        "memory": 64 << 30,
        "os": {"type": "RHEL", "version": {"full_version": "8.10 - 1.el8", "major": 8}},
        "ssh": {"port": 22, "thumbprint": "SHA256:lab"},
        "status": thing.status,
        "type": "rhel",
        "cluster": ref("cluster", "clusters", thing.cluster),
    }
    links = {
        "nics": lambda: Many("host_nic", host_nics(thing), "host_nics"),
        "network_attachments": lambda: Many("network_attachment", network_attachments(thing)),
    }
    return Node("host", thing.id, path, fields, links, ("activate", "deactivate"))


def host_nics(thing: Host) -> list[Node]:
    """One physical NIC, and on it one for each VLAN."""
    base = f"{thing.id[:-2]}e0"
    found = []
    for number, item in enumerate([None, *(net for net in thing.networks if net.vlan)]):
        id = base if item is None else f"{thing.id[:-2]}{number:02x}"
        name = "eth0" if item is None else f"eth0.{item.vlan}"
        fields = {
            "name": name,
            "mac": {"address": "52:54:00:10:00:01"},
            "mtu": item.mtu if item else 1500,
            "speed": thing.nic_speed,
            "status": "up",
            "vlan": {"id": item.vlan} if item else None,
            "network": ref("network", "networks", item),
        }
        found.append(Node("host_nic", id, f"hosts/{thing.id}/nics/{id}", fields))
    return found


def network_attachments(thing: Host) -> list[Node]:
    found = []
    for number, item in enumerate(thing.networks):
        id = f"{thing.id[:-2]}a{number:x}"[:36]
        fields = {"in_sync": True, "network": ref("network", "networks", item)}
        found.append(Node("network_attachment", id, f"hosts/{thing.id}/networkattachments/{id}", fields))
    return found


def network(thing: Network, state: State) -> Node:
    fields = {
        "name": thing.name,
        "mtu": thing.mtu,
        "status": "operational",
        "stp": False,
        "usages": Many("usage", list(thing.usages)),
        "vlan": {"id": thing.vlan} if thing.vlan else None,
        "data_center": ref("data_center", "datacenters", thing.data_center),
    }
    links = {"vnic_profiles": lambda: Many("vnic_profile", [profile(item) for item in profiles_of(thing, state)])}
    return Node("network", thing.id, f"networks/{thing.id}", fields, links)


def profiles_of(thing: Network, state: State) -> list[VnicProfile]:
    return [item for item in state.profiles.values() if item.network is thing]


def profile(thing: VnicProfile) -> Node:
    properties = [{"name": name, "value": value} for name, value in thing.custom_properties.items()]
    fields = {
        "name": thing.name,
        "pass_through": {"mode": thing.pass_through},
        "port_mirroring": thing.port_mirroring,
        "custom_properties": Many("custom_property", properties, "custom_properties") if properties else None,
        "network": ref("network", "networks", thing.network),
        "network_filter": ref("network_filter", "networkfilters", thing.network_filter),
        "qos": ref("qos", f"datacenters/{thing.network.data_center.id}/qoss", thing.qos),
    }
    return Node("vnic_profile", thing.id, f"vnicprofiles/{thing.id}", fields)


def storage_domain(thing: StorageDomain, state: State) -> Node:
    fields = {
        "name": thing.name,
        "available": thing.available,
        "used": thing.used,
        "master": True,
        "status": thing.status,
        "storage": {"type": thing.storage_type, "address": "storage.lab", "path": f"/{thing.name}"},
        "storage_format": "v5",
        "type": thing.type,
        "data_centers": Many("data_center", [ref("data_center", "datacenters", thing.data_center)]),
    }
    links = {
        "disks": lambda: Many("disk", [disk(item, state) for item in state.disks.values() if item.storage is thing]),
        "disk_profiles": lambda: Many("disk_profile", [disk_profile(p) for p in profiles_on(thing, state)]),
        "disk_snapshots": lambda: Many("disk_snapshot", disk_snapshots(thing, state)),
    }
    return Node("storage_domain", thing.id, f"storagedomains/{thing.id}", fields, links)


def profiles_on(thing: StorageDomain, state: State) -> list[DiskProfile]:
    return [item for item in state.disk_profiles.values() if item.storage is thing]


def disk_profile(thing: DiskProfile) -> Node:
    qos = ref("qos", f"datacenters/{thing.storage.data_center.id}/qoss", thing.qos)
    fields = {"name": thing.name, "storage_domain": ref("storage_domain", "storagedomains", thing.storage), "qos": qos}
    return Node("disk_profile", thing.id, f"diskprofiles/{thing.id}", fields)


def disk(thing: Disk, state: State, prefix: str = "disks", backup: str = "") -> Node:
    """backup: the id of the backup inside which it is shown, with the mode that it has there."""
    common = {
        "alias": thing.name,
        "name": thing.name,
        "description": thing.description,
        "propagate_errors": False,
        "shareable": thing.shareable,
        "storage_type": thing.storage_type,
        "wipe_after_delete": False,
    }
    mode = thing.modes.get(backup) if backup else next(iter(thing.modes.values()), None)
    if thing.storage_type == "lun":
        fields: dict[str, Any] = common | {"lun_storage": lun(thing)}
    else:
        fields = common | {
            "actual_size": thing.size,
            "backup": thing.backup,
            "backup_mode": mode,
            "content_type": "data",
            "disk_profile": ref("disk_profile", "diskprofiles", thing.profile),
            "format": thing.format,
            "image_id": thing.volume,
            "provisioned_size": thing.size,
            "qcow_version": "qcow2_v3" if thing.format == "cow" else None,
            "sparse": True,
            "status": thing.status,
            "storage_domains": Many("storage_domain", [ref("storage_domain", "storagedomains", thing.storage)]),
            "total_size": thing.size,
        }
    owners = [ref("vm", "vms", vm) for vm in state.owners(thing)]
    links = {} if backup else {"vms": lambda: Many("vm", owners)}
    return Node("disk", thing.id, f"{prefix}/{thing.id}", fields, links)


def lun(thing: Disk) -> dict[str, Any]:
    facts = {"address": "10.0.0.9", "port": 3260, "target": "iqn.2026-01.lab:target", "lun_mapping": 0} | thing.lun
    unit = {"id": f"36001405{thing.id.replace('-', '')[:24]}", "size": thing.size, "status": "used"} | facts
    return {"id": unit["id"], "type": "iscsi", "logical_units": Many("logical_unit", [unit])}


def disk_snapshots(domain: StorageDomain, state: State) -> list[Node]:
    """Every volume that a snapshot froze, on one domain."""
    found = []
    for vm in list(state.vms.values()):
        for snapshot in vm.chain:
            for item in vm.disks:
                volume = snapshot.volumes.get(item.id)
                if volume is not None and item.storage is domain:
                    found.append(disk_snapshot(domain, item, volume, vm.id, snapshot))
    return found


def disk_snapshot(domain: StorageDomain, item: Disk, volume: str, vm: str, snapshot: Any) -> Node:
    path = f"storagedomains/{domain.id}/disksnapshots"
    at = item.chain.index(volume) if volume in item.chain else 0
    parent = item.chain[at - 1] if at > 0 else ""
    fields = {
        "alias": item.name,
        "description": snapshot.description,
        "actual_size": item.size,
        "content_type": "data",
        "format": "raw" if at == 0 and item.home_format == "raw" else "cow",
        "image_id": volume,
        "provisioned_size": snapshot.sizes.get(item.id, item.size),
        "shareable": item.shareable,
        "sparse": True,
        "status": "illegal"
        if item.illegal
        else "locked"
        if volume in item.reading or snapshot.status == "locked"
        else "ok",
        "storage_type": "image",
        "disk": ref("disk", "disks", item),
        "parent": reference("disk_snapshot", path, parent) if parent else None,
        "snapshot": reference("snapshot", f"vms/{vm}/snapshots", snapshot.id),
        "storage_domain": ref("storage_domain", "storagedomains", domain),
        "storage_domains": Many("storage_domain", [ref("storage_domain", "storagedomains", domain)]),
    }
    return Node("disk_snapshot", volume, f"{path}/{volume}", fields)


def event(thing: Event) -> Node:
    fields = {
        "code": thing.code,
        "correlation_id": thing.correlation or None,
        "custom_id": -1,
        "description": thing.description,
        "flood_rate": 30,
        "index": thing.number,
        "origin": "oVirt",
        "severity": thing.severity,
        "time": thing.time,
        **{tag: reference(tag, collection, id) for tag, (collection, id) in thing.about.items()},
    }
    return Node("event", str(thing.number), f"events/{thing.number}", fields)


def job(thing: Job) -> Node:
    fields = {
        "auto_cleared": True,
        "description": thing.description,
        "external": False,
        "last_updated": thing.ended or thing.started,
        "start_time": thing.started,
        "end_time": thing.ended,
        "status": thing.status,
    }
    return Node("job", thing.id, f"jobs/{thing.id}", fields, keys={"correlation_id": thing.correlation})


def option(name: str) -> Node:
    """The one option that a migration asks for: which CPU names a cluster's type stands for."""
    value = "3:Intel Haswell Family:vmx,nx,model_Haswell:Haswell,+spec-ctrl:x86_64"
    values = [{"value": value, "version": level} for level in ("4.4", "4.5", "4.6", "4.7")]
    return Node("system_option", name, f"options/{name}", {"name": name, "values": Many("system_option_value", values)})
