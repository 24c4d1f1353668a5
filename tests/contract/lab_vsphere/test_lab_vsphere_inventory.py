"""Retrievals, paging, traversals, views and incremental updates; the types that values carry."""

import threading
import time
from typing import Any

import pytest
from pyVmomi import vim, vmodl

from tranship.lab.vsphere import VCenter

Query = vmodl.query.PropertyCollector
VM_PATHS = [
    "name",
    "config.uuid",
    "config.instanceUuid",
    "config.firmware",
    "config.bootOptions",
    "config.changeTrackingEnabled",
    "config.extraConfig",
    "config.hardware.numCPU",
    "config.hardware.memoryMB",
    "config.hardware.device",
    "guest.net",
    "guest.toolsStatus",
    "guest.toolsRunningStatus",
    "summary.config",
    "storage",
    "runtime.host",
    "runtime.powerState",
    "runtime.connectionState",
    "runtime.consolidationNeeded",
    "snapshot",
    "network",
    "datastore",
]


def drain(client: Any, version: str = "", size: int = 0) -> tuple[str, list[Any]]:
    """All updates that are due now."""
    found: list[Any] = []
    while True:
        update = client.collector.WaitForUpdatesEx(version, Query.WaitOptions(maxWaitSeconds=0, maxObjectUpdates=size))
        if update is None:
            return version, found
        version = update.version
        assert not size or sum(len(part.objectSet) for part in update.filterSet) <= size
        found += [item for part in update.filterSet for item in part.objectSet]


def brief(updates: list[Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(item.kind, item.obj._moId, {c.name: c.val for c in item.changeSet}) for item in updates]


def test_every_property_can_be_read(center: VCenter, client: Any) -> None:
    center.add_vm("a", [1 << 20, 2 << 20], running=True, cbt=True, networks=["VM Network", "DPortGroup"])
    view = client.content.viewManager.CreateContainerView(client.content.rootFolder, [], True)
    kinds = {type(item) for item in view.view}
    assert {vim.VirtualMachine, vim.HostSystem, vim.Datastore, vim.Network, vim.ClusterComputeResource} <= kinds
    for kind in kinds:
        spec = client.view_spec(kind, [])
        spec.propSet[0].all = True
        for item in client.collector.RetrieveContents([spec]):
            assert {"name", "overallStatus"} <= {prop.name for prop in item.propSet}
    view.Destroy()


def test_vm_as_a_migration_reads_it(center: VCenter, client: Any) -> None:
    store = center.add_datastore("slow", capacity=1 << 40, free=1 << 30)
    vm = center.add_vm(
        "a",
        [1 << 20, 2 << 20, 1 << 20],
        disk_mode=["persistent", "independent_persistent", "persistent"],
        rdm=["", "", "physical"],
        shared=["", "", "multiwriter"],
        datastore=["datastore1", "slow", "datastore1"],
        networks=["VM Network", "DPortGroup"],
        cpus=4,
        memory=2048,
        firmware="efi",
        cbt=True,
    )
    (found,) = client.collector.RetrievePropertiesEx(
        [client.view_spec(vim.VirtualMachine, VM_PATHS)], Query.RetrieveOptions()
    ).objects
    facts = {prop.name: prop.val for prop in found.propSet}
    assert (facts["config.hardware.numCPU"], facts["config.hardware.memoryMB"]) == (4, 2048)
    assert facts["config.firmware"] == "efi" and facts["runtime.powerState"] == "poweredOff"
    assert "snapshot" not in facts and "guest.net" not in facts
    disks = [d for d in facts["config.hardware.device"] if isinstance(d, vim.vm.device.VirtualDisk)]
    assert [d.capacityInBytes for d in disks] == [1 << 20, 2 << 20, 1 << 20]
    assert [d.backing.fileName for d in disks] == [
        "[datastore1] a/a.vmdk",
        "[slow] a/a_1.vmdk",
        "[datastore1] a/a_2.vmdk",
    ]
    assert disks[1].backing.diskMode == "independent_persistent" and disks[1].backing.datastore._moId == store.moid
    assert isinstance(disks[2].backing, vim.vm.device.VirtualDisk.RawDiskMappingVer1BackingInfo)
    assert disks[2].backing.compatibilityMode == "physicalMode" and disks[2].backing.sharing == "sharingMultiWriter"
    assert [d.backing.changeId for d in disks] == [None] * 3
    nics = [d for d in facts["config.hardware.device"] if isinstance(d, vim.vm.device.VirtualEthernetCard)]
    assert nics[0].backing.network == facts["network"][0]
    assert nics[1].backing.port.portgroupKey == facts["network"][1]._moId
    pairs = {option.key: option.value for option in facts["config.extraConfig"]}
    assert pairs["ctkEnabled"] == "TRUE" and "scsi0:1.ctkEnabled" not in pairs
    assert vm.moref == found.obj._moId


def test_values_carry_their_declared_types(center: VCenter, client: Any) -> None:
    """What pyVmomi forgives and the Go client does not."""
    vm = center.add_vm("a", [1 << 20], networks=["VM Network"], running=True)
    xml = {path: vm.xml(path, "vim.version.v8_0_3_0") for path in VM_PATHS}
    assert xml["runtime.host"].startswith('<val xsi:type="ManagedObjectReference" type="HostSystem">')
    assert xml["runtime.powerState"] == '<val xsi:type="VirtualMachinePowerState">poweredOn</val>'
    assert xml["config.hardware.device"].startswith('<val xsi:type="ArrayOfVirtualDevice"><VirtualDevice xsi:type=')
    assert xml["network"].startswith('<val xsi:type="ArrayOfManagedObjectReference"><ManagedObjectReference type=')
    assert xml["config.hardware.memoryMB"] == '<val xsi:type="xsd:int">512</val>'
    assert vm.xml("summary.storage.committed", "vim.version.v8_0_3_0") == f'<val xsi:type="xsd:long">{1 << 20}</val>'


def test_walks_by_named_and_recursive_selections(center: VCenter, client: Any) -> None:
    center.add_vm("a")
    center.add_vm("b")
    named = Query.SelectionSpec
    walk = [
        Query.TraversalSpec(
            name="folder", type=vim.Folder, path="childEntity", selectSet=[named(name="folder"), named(name="dc")]
        ),
        Query.TraversalSpec(name="dc", type=vim.Datacenter, path="vmFolder", selectSet=[named(name="folder")]),
    ]
    start = Query.ObjectSpec(obj=client.content.rootFolder, skip=True, selectSet=walk)
    spec = Query.FilterSpec(objectSet=[start], propSet=[Query.PropertySpec(type=vim.VirtualMachine, pathSet=["name"])])
    assert [o.propSet[0].val for o in client.collector.RetrieveContents([spec])] == ["a", "b"]
    spec.propSet = [Query.PropertySpec(type=vim.ManagedEntity, pathSet=["name"])]
    names = [o.propSet[0].val for o in client.collector.RetrieveContents([spec])]
    assert names == ["Datacenter", "vm", "a", "b"]
    spec.propSet[0].pathSet = ["nonsense"]
    with pytest.raises(vmodl.query.InvalidProperty):
        client.collector.RetrieveContents([spec])
    walk[0].selectSet.append(named(name="nowhere"))
    spec.propSet[0].pathSet = ["name"]
    with pytest.raises(vmodl.fault.InvalidArgument):
        client.collector.RetrieveContents([spec])


def test_thousand_vms_in_pages(center: VCenter, client: Any) -> None:
    began = time.monotonic()
    for number in range(1000):
        center.add_vm(f"vm-{number}", [10 << 30, 1 << 30], networks=["VM Network"])
    assert time.monotonic() - began < 5
    spec = client.view_spec(vim.VirtualMachine, ["name", "runtime.powerState", "config.hardware.device"])
    page = client.collector.RetrievePropertiesEx([spec], Query.RetrieveOptions(maxObjects=300))
    names, tokens = [], []
    while True:
        names += [prop.val for item in page.objects for prop in item.propSet if prop.name == "name"]
        if not page.token:
            break
        tokens.append(page.token)
        page = client.collector.ContinueRetrievePropertiesEx(page.token)
    assert names == [f"vm-{number}" for number in range(1000)]
    with pytest.raises(vmodl.fault.InvalidArgument):
        client.collector.ContinueRetrievePropertiesEx(tokens[0])
    page = client.collector.RetrievePropertiesEx([spec], Query.RetrieveOptions(maxObjects=1))
    client.collector.CancelRetrievePropertiesEx(page.token)
    with pytest.raises(vmodl.fault.InvalidArgument):
        client.collector.ContinueRetrievePropertiesEx(page.token)
    assert not list(center.directory.glob("disks/*"))


def test_updates_enter_modify_leave(center: VCenter, client: Any) -> None:
    a, b = center.add_vm("a", [1 << 20]), center.add_vm("b")
    chosen = client.collector.CreateFilter(
        client.view_spec(vim.VirtualMachine, ["name", "runtime.powerState", "snapshot"]), True
    )
    version, updates = drain(client)
    off = {"runtime.powerState": "poweredOff"}
    assert brief(updates) == [("enter", a.moref, {"name": "a", **off}), ("enter", b.moref, {"name": "b", **off})]
    client.wait(client.vm(a).PowerOnVM_Task())
    center.add_vm("c")
    version, updates = drain(client, version)
    kinds = [(kind, values) for kind, moid, values in brief(updates) if moid.startswith("vm-")]
    assert ("modify", {"runtime.powerState": "poweredOn"}) in kinds
    assert ("enter", {"name": "c", **off}) in kinds and len(kinds) == 2
    client.snapshot(a, "one")
    client.wait(a_snapshot := client.vm(a).snapshot.currentSnapshot.RemoveSnapshot_Task(False))
    assert a_snapshot._moId.startswith("task-")
    client.wait(client.vm(b).Destroy_Task())
    version, updates = drain(client, version)
    assert brief(updates) == [("leave", b.moref, {})]
    client.snapshot(a, "two")
    version, updates = drain(client, version)
    assert updates[0].changeSet[0].val.rootSnapshotList[0].name == "two"
    client.wait(client.vm(a).RemoveAllSnapshots_Task())
    version, updates = drain(client, version)
    (change,) = updates[0].changeSet
    assert (change.name, change.op, change.val) == ("snapshot", "assign", None)
    chosen.Destroy()
    assert drain(client, version) == (version, [])


def test_updates_are_cut_and_a_lost_answer_is_repeated(center: VCenter, client: Any) -> None:
    for number in range(7):
        center.add_vm(f"vm-{number}")
    client.collector.CreateFilter(client.view_spec(vim.VirtualMachine, ["name"]), True)
    first = client.collector.WaitForUpdatesEx("", Query.WaitOptions(maxObjectUpdates=3))
    assert first.truncated
    version, updates = drain(client, first.version, 3)
    names = [u.changeSet[0].val for u in [*first.filterSet[0].objectSet, *updates]]
    assert names == [f"vm-{number}" for number in range(7)]
    center.vm("vm-3").name = "renamed"
    center.world.touch(center.vm("renamed"))
    lost = client.collector.CheckForUpdates(version)
    again = client.collector.CheckForUpdates(version)
    assert brief(lost.filterSet[0].objectSet) == brief(again.filterSet[0].objectSet)
    assert lost.version == again.version
    with pytest.raises(vmodl.query.InvalidCollectorVersion):
        client.collector.CheckForUpdates("999")
    assert len(drain(client)[1]) == 7


def test_a_wait_wakes_up_and_can_be_cancelled(center: VCenter, client: Any) -> None:
    client.collector.CreateFilter(client.view_spec(vim.VirtualMachine, ["name"]), True)
    threading.Timer(0.05, center.add_vm, ("late",)).start()
    update = client.collector.WaitForUpdatesEx("", Query.WaitOptions(maxWaitSeconds=10))
    assert update.filterSet[0].objectSet[0].changeSet[0].val == "late"
    threading.Timer(0.05, client.collector.CancelWaitForUpdates).start()
    with pytest.raises(vmodl.fault.RequestCanceled):
        client.collector.WaitForUpdatesEx(update.version, Query.WaitOptions(maxWaitSeconds=10))
    assert client.collector.WaitForUpdatesEx(update.version, Query.WaitOptions(maxWaitSeconds=0)) is None


def test_search_index(center: VCenter, client: Any) -> None:
    vm = center.add_vm("a")
    index = client.content.searchIndex
    assert index.FindByUuid(None, vm.instance_uuid, True, True)._moId == vm.moref
    assert index.FindByUuid(None, vm.uuid, True, False)._moId == vm.moref
    assert index.FindByUuid(None, vm.uuid, True, True) is None
    assert index.FindByInventoryPath("Datacenter/vm/a")._moId == vm.moref
    assert index.FindByInventoryPath("Datacenter/vm/none") is None
    assert client.vm(vm).name == "a"
    center.remove_vm(vm)
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        _ = client.vm(vm).name
