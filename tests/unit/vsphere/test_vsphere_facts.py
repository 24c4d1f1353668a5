"""Devices as the wire has them become disks and NICs; names and paths come from the surroundings."""

from typing import Any

import pytest

from tranship.inventory.vm import Power
from tranship.providers.vsphere.facts import VM_PROPERTIES, World, datastore, network, read_vm, settle
from tranship.providers.vsphere.wire import Node, Ref, properties, read

DISK = "VirtualDiskFlatVer2BackingInfo"
CONTROLLERS = """
<d xsi:type="ParaVirtualSCSIController"><key>1000</key><busNumber>0</busNumber><sharedBus>noSharing</sharedBus></d>
<d xsi:type="VirtualLsiLogicSASController"><key>1001</key><busNumber>1</busNumber><sharedBus>virtualSharing</sharedBus></d>
<d xsi:type="VirtualAHCIController"><key>15000</key><busNumber>0</busNumber></d>
<d xsi:type="VirtualNVMEController"><key>31000</key><busNumber>2</busNumber></d>
<d xsi:type="VirtualIDEController"><key>200</key><busNumber>0</busNumber></d>"""


def node(body: str) -> Any:
    """The properties of one object whose device list is this."""
    taken: list[Node] = []
    answer = f"""<e xmlns:xsi="x"><Body><RetrievePropertiesExResponse><returnval><objects>
    <obj type="VirtualMachine">vm-1</obj>{body}</objects></returnval></RetrievePropertiesExResponse></Body></e>"""
    read(iter([answer.encode()]), taken.append)
    return properties(taken[0])[1]


def devices(xml: str, *more: tuple[str, str]) -> dict[str, Any]:
    values = [("config.hardware.device", f'<val xsi:type="ArrayOfVirtualDevice">{xml}</val>'), *more]
    return dict(node("".join(f"<propSet><name>{name}</name>{value}</propSet>" for name, value in values)))


def extra(**flags: str) -> tuple[str, str]:
    options = "".join(
        f"<o><key>{k.replace('_', ':', 1).replace('_', '.')}</key><value>{v}</value></o>" for k, v in flags.items()
    )
    return ("config.extraConfig", f'<val xsi:type="ArrayOfOptionValue">{options}</val>')


def disk(key: int, controller: int, unit: int, kind: str = DISK, more: str = "") -> str:
    return f"""<d xsi:type="VirtualDisk"><key>{key}</key><deviceInfo><label>Hard disk</label></deviceInfo>
    <backing xsi:type="{kind}"><fileName>[ds] a/{key}.vmdk</fileName><datastore type="Datastore">datastore-1</datastore>
    <uuid>6000C29a-1</uuid>{more}</backing><controllerKey>{controller}</controllerKey><unitNumber>{unit}</unitNumber>
    <capacityInKB>1024</capacityInKB></d>"""


@pytest.mark.parametrize(
    ("controller", "place"),
    [(1000, ("scsi", 0)), (1001, ("scsi", 1)), (15000, ("sata", 0)), (31000, ("nvme", 2)), (200, ("ide", 0))],
)
def test_buses(controller: int, place: tuple[str, int]) -> None:
    (found,) = read_vm("vm-1", devices(CONTROLLERS + disk(2000, controller, 1))).disks
    assert (found.bus, found.controller, found.unit) == (*place, 1)
    assert found.shared is (controller == 1001)
    assert (found.capacity, found.datastore, found.path) == (1 << 20, "datastore-1", "[ds] a/2000.vmdk")


def test_change_tracking_is_told_for_each_disk() -> None:
    said = devices(
        CONTROLLERS + disk(2000, 1000, 0) + disk(2001, 1000, 1) + disk(16000, 15000, 0),
        extra(scsi0_0_ctkEnabled="TRUE", scsi0_1_ctkEnabled="FALSE", sata0_0_ctkEnabled="true"),
        ("config.changeTrackingEnabled", '<val xsi:type="xsd:boolean">true</val>'),
    )
    vm = read_vm("vm-1", said)
    assert vm.change_tracking
    assert {found.key: found.change_tracking for found in vm.disks} == {"2000": True, "2001": False, "16000": True}


def test_unread_extra_config_says_nothing() -> None:
    assert read_vm("vm-1", devices(CONTROLLERS + disk(2000, 1000, 0))).disks[0].change_tracking is None


def test_backings() -> None:
    rdm = "VirtualDiskRawDiskMappingVer1BackingInfo"
    xml = (
        disk(2000, 1000, 0, rdm, "<compatibilityMode>physicalMode</compatibilityMode>")
        + disk(2001, 1000, 1, rdm, "<compatibilityMode>virtualMode</compatibilityMode>")
        + disk(2002, 1000, 2, DISK, "<diskMode>independent_persistent</diskMode>")
        + disk(2003, 1000, 3, DISK, "<diskMode>persistent</diskMode><sharing>sharingMultiWriter</sharing>")
        + disk(2004, 1000, 4, "VirtualDiskSeSparseBackingInfo")
    )
    a, b, c, d, e = read_vm("vm-1", devices(CONTROLLERS + xml)).disks
    assert (a.rdm, b.rdm, c.rdm) == ("physical", "virtual", "")
    assert c.independent
    assert not d.independent
    assert (d.shared, e.shared) == (True, False)


def card(kind: str, backing: str) -> str:
    return f"""<d xsi:type="{kind}"><key>4000</key><backing>{backing}</backing><connectable>
    <startConnected>true</startConnected><connected>false</connected></connectable><macAddress>00:50:56:AA:00:01</macAddress></d>"""


@pytest.mark.parametrize(
    ("backing", "expected"),
    [
        ("<port><portgroupKey>dvportgroup-9</portgroupKey></port>", "dvportgroup-90"),
        ("<opaqueNetworkId>nsx-1</opaqueNetworkId>", "network-3"),
        ('<deviceName>VM Network</deviceName><network type="Network">network-1</network>', "network-1"),
        ("<deviceName>VM Network</deviceName>", "network-1"),
    ],
)
def test_networks(backing: str, expected: str) -> None:
    world = World()
    world.put(Ref("Network", "network-1"), {"name": "VM Network"})
    world.put(Ref("DistributedVirtualPortgroup", "dvportgroup-90"), {"name": "dv", "key": "dvportgroup-9"})
    summary = Node()
    summary.add("opaqueNetworkId", "nsx-1")
    world.put(Ref("OpaqueNetwork", "network-3"), {"name": "nsx", "summary": summary})
    said = devices(card("VirtualVmxnet3", backing))
    refs = '<val xsi:type="A"><r type="Network">network-1</r><r type="OpaqueNetwork">network-3</r></val>'
    said |= devices(
        card("VirtualVmxnet3", backing), ("network", refs.replace('"A"', '"ArrayOfManagedObjectReference"'))
    )
    (nic,) = settle(read_vm("vm-1", said), world).nics
    assert (nic.network, nic.mac, nic.model, nic.connected) == (expected, "00:50:56:aa:00:01", "vmxnet3", True)
    assert network(Ref("OpaqueNetwork", "network-3"), world).kind == "opaque"


@pytest.mark.parametrize(
    ("slot", "address"),
    [
        ("160", "0000:03:00.0"),
        ("192", "0000:0b:00.0"),
        ("1216", "0000:0c:00.0"),
        ("256", "0000:1b:00.0"),
        ("33", ""),
        ("161", ""),
        ("", ""),
        ("-1", ""),
    ],
)
def test_where_the_guest_sees_a_nic(slot: str, address: str) -> None:
    """As Linux tells it of such slots: ens192 is at 0b:00.0. Slot 33 is on the old bus, which no other machine has."""
    told = f"<slotInfo><pciSlotNumber>{slot}</pciSlotNumber></slotInfo>" if slot else ""
    (nic,) = read_vm("vm-1", devices(card("VirtualVmxnet3", "").replace("<backing>", f"{told}<backing>"))).nics
    assert nic.pci == address


def test_the_clock_is_in_the_hosts_zone_and_nesting_is_told() -> None:
    world, zone, info = World(), Node(), Node()
    zone.add("key", "Europe/Berlin")
    info.add("timeZone", zone)
    world.put(Ref("HostSystem", "host-1"), {"name": "esx1", "config.dateTimeInfo": info})
    vm = settle(read_vm("vm-1", {"runtime.host": Ref("HostSystem", "host-1"), "config.nestedHVEnabled": "true"}), world)
    assert (vm.timezone, vm.nested) == ("Europe/Berlin", True)
    assert settle(read_vm("vm-1", {}), World()).timezone == ""


def test_paths() -> None:
    world = World()
    for kind, id, name, parent in [
        ("Folder", "group-d1", "Datacenters", ""),
        ("Folder", "group-d2", "Europe", "group-d1"),
        ("Datacenter", "datacenter-3", "DC%2f1", "group-d2"),
        ("Folder", "group-v4", "vm", "datacenter-3"),
        ("Folder", "group-v5", "web", "group-v4"),
        ("Folder", "group-s6", "datastore", "datacenter-3"),
        ("Datastore", "datastore-7", "fast", "group-s6"),
    ]:
        world.put(Ref(kind, id), {"name": name, **({"parent": Ref("ManagedEntity", parent)} if parent else {})})
    vm = settle(read_vm("vm-1", {"name": "a%25b", "parent": Ref("Folder", "group-v5")}), world)
    assert (vm.name, vm.path) == ("a%b", "/Europe/DC/1/vm/web/a%b")
    assert datastore(Ref("Datastore", "datastore-7"), world).datacenter == "Europe/DC/1"


def test_a_vm_that_says_nothing_is_still_a_vm() -> None:
    vm = settle(read_vm("vm-1", {}), World())
    assert (vm.power, vm.disks, vm.firmware) == (Power.UNKNOWN, (), "bios")


def test_properties_exist_in_the_oldest_api() -> None:
    assert "summary.config.tpmPresent" not in VM_PROPERTIES
