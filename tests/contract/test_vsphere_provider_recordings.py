"""Our reader against answers of real vCenter servers (5.5 to 8.0): it reads what pyVmomi's own deserializer reads."""

import os
import runpy
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from pyVmomi.SoapAdapter import SoapResponseDeserializer, SoapStubAdapter
from pyVmomi.VmomiSupport import DataObject, ManagedObject

from tranship.inventory.vm import VM, Category, Power
from tranship.providers.vsphere.facts import PROPERTIES, World, datastore, host, read_vm, settle
from tranship.providers.vsphere.wire import Node, Ref, get, many, read, versions

RECORDINGS = runpy.run_path(str(Path(__file__).parent / "recordings.py"))


@pytest.fixture(scope="module")
def exchanges() -> list[Any]:
    try:
        return list(RECORDINGS["exchanges"]())
    except RECORDINGS["Unavailable"] as reason:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"the recordings cannot be fetched: {reason}")


def ours(answer: bytes) -> Any:
    taken: list[Node] = []
    rest = read(iter([answer]), taken.append)
    return taken or get(rest, "returnval")


def same(mine: Any, theirs: Any, where: str) -> None:
    """Every value that pyVmomi found is in ours, and ours has no more."""
    if theirs is None or (isinstance(theirs, list | bytes) and not theirs):
        assert mine == "", where
    elif isinstance(theirs, list):
        items = many(mine)
        assert len(items) == len(theirs), where
        for index, (one, other) in enumerate(zip(items, theirs, strict=True)):
            same(one, other, f"{where}[{index}]")
    elif isinstance(theirs, ManagedObject):
        assert mine.id == theirs._moId, where
    elif isinstance(theirs, DataObject):
        names = [prop.name for prop in theirs._GetPropertyList()]
        assert set(mine or ()) <= set(names), where
        for name in names:
            same(get(mine, name), getattr(theirs, name), f"{where}.{name}")
    elif isinstance(theirs, bool):
        assert mine == str(theirs).lower(), where
    elif isinstance(theirs, int):
        assert int(mine) == theirs, where
    elif isinstance(theirs, float):
        assert float(mine) == theirs, where
    elif not isinstance(theirs, datetime | bytes | type):
        assert mine == str(theirs), where


def test_reads_what_pyvmomi_reads(exchanges: list[Any]) -> None:
    stub = SoapStubAdapter(version="vim.version.v8_0_3_0")
    count = 0
    for exchange in exchanges:
        if exchange.method not in ("Fetch", "RetrieveServiceContent", "Login", "CreateContainerView", "FindByUuid"):
            continue
        if b":Fault" in exchange.answer:
            continue
        result = object
        if exchange.method == "RetrieveServiceContent":
            from pyVmomi import vim

            result = vim.ServiceInstanceContent
        if exchange.method not in ("Fetch", "RetrieveServiceContent"):
            read(iter([exchange.answer]), lambda _: None)
            continue
        theirs = SoapResponseDeserializer(stub).Deserialize(exchange.answer, result)
        same(ours(exchange.answer), theirs, f"{exchange.cassette}: {exchange.target}.{exchange.argument}")
        count += 1
    assert count > 250


def objects(exchanges: list[Any], cassette: str) -> dict[str, dict[str, Any]]:
    """The top-level properties of each object that a recording has read."""
    found: dict[str, dict[str, Any]] = {}
    for exchange in exchanges:
        if exchange.cassette == cassette and exchange.method == "Fetch":
            found.setdefault(exchange.target, {})[exchange.argument] = ours(exchange.answer)
    return found


def as_asked(kind: str, said: dict[str, Any]) -> dict[str, Any]:
    """The same as our PropertyCollector call would have brought it."""
    asked = ((path, path.split(".")) for path in PROPERTIES[kind])
    return {path: get(said[first], *rest) for path, (first, *rest) in asked if first in said}


def test_a_real_vm(exchanges: list[Any]) -> None:
    found = objects(exchanges, "test_json_vm_explode_default")
    (id, said) = next((id, said) for id, said in found.items() if id.startswith("vm-"))
    vm = settle(read_vm(id, as_asked("VirtualMachine", said)), World())
    assert isinstance(vm, VM)
    assert vm.name.startswith("vCLS-")
    assert vm.instance_uuid.count("-") == vm.uuid.count("-") == 4
    assert vm.power is Power.ON
    assert vm.tools_running
    assert vm.host.startswith("host-")
    (disk,) = vm.disks
    assert disk.key == "2000"
    assert disk.capacity == 2 << 30
    assert disk.bus == "scsi"
    assert disk.path.startswith("[vsanDatastore] ")
    assert disk.datastore.startswith("datastore-")
    assert disk.change_tracking is False
    assert disk.backing_uuid
    assert not vm.change_tracking
    assert vm.change_tracking_supported
    (critical,) = (concern for concern in vm.concerns if concern.category is Category.CRITICAL)
    assert critical.assessment.endswith("(/boot/efi has 8 MiB free, 10 are needed)")


def test_what_real_tools_say(exchanges: list[Any]) -> None:
    guests = {id: said for id, said in objects(exchanges, "vm_nic_data").items() if id.startswith("vm-")}
    vms = [read_vm(id, as_asked("VirtualMachine", said)) for id, said in guests.items()]
    assert len(vms) == 3
    for vm in vms:
        assert vm.name.startswith("vCLS-")
        assert vm.traits["guest_disks"][0] == {
            "path": "/",
            "capacity": 2058399744,
            "free": vm.traits["guest_disks"][0]["free"],
            "keys": ("2000",),
        }


def test_a_real_host_and_datastore(exchanges: list[Any]) -> None:
    world = World()
    for kind, cassette, prefix in [
        ("HostSystem", "test_json_host_explode", "host-"),
        ("Datastore", "test_json_datastore_explode", "datastore-"),
    ]:
        for id, said in objects(exchanges, cassette).items():
            if id.startswith(prefix) and "summary" in said:
                world.put(Ref(kind, id), as_asked(kind, said))
    refs = [ref for ref, _ in world.objects.values()]
    for ref in refs:
        if ref.kind == "HostSystem":
            assert host(ref, world).thumbprint.count(":") == 19
        else:
            assert datastore(ref, world).capacity > datastore(ref, world).free > 0
    assert {ref.kind for ref in refs} == {"HostSystem", "Datastore"}


def test_versions_of_real_servers(exchanges: list[Any]) -> None:
    offers = [versions(exchange.answer) for exchange in exchanges if b"<namespaces" in exchange.answer]
    assert offers
    assert all("5.5" in offered or "6.0" in offered for offered in offers)
