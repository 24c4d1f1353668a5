"""What is listed: both forms, links and what is followed, searches and pages, events."""

from typing import Any

import pytest

from tranship.lab.ovirt import Engine, LabVM

FOLLOW = "disk_attachments.disk,host_devices,snapshots,watchdogs,cdroms,nics.reported_devices"


@pytest.fixture(scope="module")
def web(shared: Engine) -> LabVM:
    vm = shared.add_vm("web", [1 << 20, 2 << 20], running=True, network=["ovirtmgmt", "vlan10"])
    vm.hardware.watchdog, vm.hardware.numa_pins = "reset", (0, 1)
    vm.hardware.host_devices = (("pci", "Mellanox", "ConnectX"),)
    vm.hardware.cpu_pins, vm.hardware.custom_properties = {0: "2-3"}, {"hugepages": "2048"}
    for number in range(5):
        shared.add_vm(f"db{number}", [1 << 20], format="raw")
    shared.add_disk(vm, 3 << 20, storage_type="lun", lun={"address": "10.1.1.1", "product_id": "LIO"})
    return vm


def test_json_has_strings_lists_in_objects_and_references(client: Any, web: LabVM) -> None:
    said = client.get(f"vms/{web.id}")
    assert said["memory"] == str(64 << 20) and said["bios"]["boot_menu"]["enabled"] == "false"
    assert said["cpu"]["cpu_tune"]["vcpu_pins"]["vcpu_pin"] == [{"cpu_set": "2-3", "vcpu": "0"}]
    assert said["custom_properties"]["custom_property"] == [{"name": "hugepages", "value": "2048"}]
    assert said["cluster"]["href"] == f"/ovirt-engine/api/clusters/{said['cluster']['id']}"
    assert {"rel": "diskattachments", "href": f"/ovirt-engine/api/vms/{web.id}/diskattachments"} in said["link"]
    assert client.get("disks", search="name=none") == {}


def test_xml_says_the_same(client: Any, web: LabVM) -> None:
    root = client.xml("vms", search=f"id={web.id}", follow="disk_attachments.disk")
    assert root.tag == "vms" and [child.tag for child in root] == ["vm"]
    vm = root[0]
    assert vm.get("id") == web.id and vm.findtext("status") == "up"
    sizes = [vm.findtext(f"disk_attachments/disk_attachment[{n}]/disk/provisioned_size") for n in (1, 2)]
    assert sizes == [str(1 << 20), str(2 << 20)]
    assert vm.findtext("creation_time", "").endswith("+00:00")


def test_follow_puts_content_in_the_place_of_links(client: Any, web: LabVM) -> None:
    said = client.get(f"vms/{web.id}", follow=FOLLOW)
    attachments = said["disk_attachments"]["disk_attachment"]
    assert [item["disk"]["backup"] for item in attachments[:2]] == ["incremental", "incremental"]
    assert attachments[2]["disk"]["lun_storage"]["logical_units"]["logical_unit"][0]["product_id"] == "LIO"
    devices = [nic["reported_devices"]["reported_device"][0] for nic in said["nics"]["nic"]]
    assert [device["ips"]["ip"][0]["version"] for device in devices] == ["v4", "v4"]
    assert said["watchdogs"]["watchdog"][0]["action"] == "reset"
    assert said["host_devices"]["host_device"][0]["product"]["name"] == "ConnectX"
    assert [item["snapshot_type"] for item in said["snapshots"]["snapshot"]] == ["active"]
    assert "file" not in said["cdroms"]["cdrom"][0]
    rels = [link["rel"] for link in said["link"]]
    assert "nics" not in rels and "numanodes" in rels


def test_collections_below_a_resource(client: Any, web: LabVM) -> None:
    nodes = client.many(f"vms/{web.id}/numanodes", "vm_numa_node")
    assert [node["numa_node_pins"]["numa_node_pin"][0]["index"] for node in nodes] == ["0", "1"]
    nic = client.many(f"vms/{web.id}/nics", "nic")[1]
    assert client.get(f"vms/{web.id}/nics/{nic['id']}") == nic
    profile = client.get(f"vnicprofiles/{nic['vnic_profile']['id']}", follow="network")
    assert profile["network"]["vlan"] == {"id": "10"}
    assert client.refused("GET", f"vms/{web.id}/nics/nope").status == 404
    assert client.refused("GET", "vms/nope").status == 404


def test_the_estate(client: Any, web: LabVM) -> None:
    host = client.many("hosts", "host", follow="network_attachments,nics")[0]
    assert [nic["name"] for nic in host["nics"]["host_nic"]] == ["eth0", "eth0.10"]
    networks = {network["id"]: network for network in client.many("networks", "network", follow="vnic_profiles")}
    attached = [item["network"]["id"] for item in host["network_attachments"]["network_attachment"]]
    assert {networks[id]["name"] for id in attached} == {"ovirtmgmt", "vlan10"}
    assert networks[attached[0]]["vnic_profiles"]["vnic_profile"][0]["port_mirroring"] == "false"
    cluster = client.many("clusters", "cluster")[0]
    assert cluster["version"] == {"major": "4", "minor": "6"} and cluster["ksm"]["enabled"] == "false"
    center = client.many("datacenters", "data_center", search="storage.name=data2")[0]
    domain = client.many("storagedomains", "storage_domain", search="name=data")[0]
    assert domain["data_centers"]["data_center"][0]["id"] == center["id"]
    assert client.many("diskprofiles", "disk_profile")[0]["storage_domain"]["id"] == domain["id"]
    assert len(client.many(f"storagedomains/{domain['id']}/disks", "disk")) == 7
    assert "Haswell" in client.get("options/ServerCPUList")["values"]["system_option_value"][0]["value"]


def test_pages(client: Any, web: LabVM) -> None:
    def page(number: int) -> list[str]:
        return [vm["name"] for vm in client.many("vms", "vm", search=f"sortby name page {number}", max=4)]

    assert [page(1), page(2), page(3)] == [["db0", "db1", "db2", "db3"], ["db4", "web"], []]
    assert len(client.many("vms", "vm", max=2)) == 2


@pytest.mark.parametrize(
    ("search", "names"),
    [
        ("name=db1", ["db1"]),
        ("name=w* and status=up", ["web"]),
        ("name=w* and status=down", []),
        ("name=db1 or name=db2 sortby name desc", ["db2", "db1"]),
        ('name="web"', ["web"]),
        ("status!=down", ["web"]),
        ("cluster=Default and name=db3", ["db3"]),
        ("memory>1 and name=db4", ["db4"]),
    ],
)
def test_searches(client: Any, web: LabVM, search: str, names: list[str]) -> None:
    found = [vm["name"] for vm in client.many("vms", "vm", search=search)]
    assert found == names


def test_searches_that_make_no_sense(client: Any) -> None:
    assert [client.refused("GET", "vms", search=text).status for text in ("name=", "page x")] == [400, 400]
    assert client.refused("GET", "vms", max="many").status == 400


def test_hosts_are_found_as_the_sdk_looks_for_them(engine: Engine, client: Any) -> None:
    host = next(iter(engine.hosts.values()))
    query = f"hw_id={host.hardware} and datacenter=Default and status=Up"
    assert [item["name"] for item in client.many("hosts", "host", search=query)] == [host.name]


def test_events_are_a_cursor(engine: Engine, client: Any, web: LabVM) -> None:
    last = client.many("events", "event", max=1)[0]
    assert client.many("events", "event", from_=last["id"]) == []
    engine.touch(web)
    engine.touch(web)
    fresh = client.many("events", "event", from_=last["id"])
    assert [event["id"] for event in fresh] == [str(int(last["id"]) + 2), str(int(last["id"]) + 1)]
    assert {event["vm"]["id"] for event in fresh} == {web.id} and {event["code"] for event in fresh} == {"35"}
    assert (
        client.many("events", "event", search="type=35 or type=34", from_=last["id"], max=1)[0]["id"] == fresh[0]["id"]
    )
    assert client.many("events", "event", search="vm.name=web and type=34")[0]["vm"]["id"] == web.id
    assert client.get(f"events/{last['id']}") == last


def test_disks_change_and_say_so(engine: Engine, client: Any) -> None:
    vm = engine.add_vm("disks", [1 << 20], incremental=False)
    disk = vm.disks[0].id
    assert client.get(f"disks/{disk}")["backup"] == "none"
    assert client.call("PUT", f"disks/{disk}", {"backup": "incremental"})["backup"] == "incremental"
    raw = engine.add_vm("rawdisk", [1 << 20], format="raw").disks[0].id
    assert client.refused("PUT", f"disks/{raw}", {"backup": "incremental"}).status == 409
    assert client.refused("PUT", f"disks/{disk}", {"provisioned_size": "4096"}).status == 409
    storage = client.many("storagedomains", "storage_domain", max=1)[0]["id"]
    body = {"provisioned_size": str(1 << 20), "storage_domains": {"storage_domain": [{"id": storage}]}, "name": "more"}
    made = client.post(f"vms/{vm.id}/diskattachments", {"disk": body, "interface": "virtio", "bootable": "false"})
    assert [a["interface"] for a in client.many(f"vms/{vm.id}/diskattachments", "disk_attachment")] == [
        "virtio_scsi",
        "virtio",
    ]
    client.call("PUT", f"vms/{vm.id}/diskattachments/{made['id']}", {"active": "false"})
    assert client.get(f"vms/{vm.id}/diskattachments/{made['id']}")["active"] == "false"
    client.call("DELETE", f"vms/{vm.id}/diskattachments/{made['id']}")
    assert client.get(f"disks/{made['id']}")["alias"] == "more", "detached, not removed"
    client.call("DELETE", f"disks/{made['id']}")
    assert client.codes("vm.name=disks")[-3:] == ["97", "35", "2018"]
    assert client.refused("GET", f"disks/{made['id']}").status == 404


def test_a_disk_that_is_illegal_or_locked(engine: Engine, client: Any) -> None:
    vm = engine.add_vm("sick", [1 << 20])
    vm.disks[0].illegal = True
    assert client.get(f"vms/{vm.id}")["has_illegal_images"] == "true"
    assert client.get(f"disks/{vm.disks[0].id}")["status"] == "illegal"
    assert "illegal" in client.refused("POST", f"vms/{vm.id}/start", {}).detail
    vm.disks[0].illegal, vm.disks[0].locked = False, True
    assert client.get(f"disks/{vm.disks[0].id}")["status"] == "locked"
