"""ContainerView, ListView and SearchIndex: the ways to the objects of the inventory. Called by server.py."""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

from tranship.lab.vsphere import soap
from tranship.lab.vsphere.calls import Call
from tranship.lab.vsphere.state import State
from tranship.lab.vsphere.vmomi import Fault, vim
from tranship.lab.vsphere.world import Managed, invalid_argument

_BELOW = {
    vim.Folder: ("childEntity",),
    vim.Datacenter: ("vmFolder", "hostFolder", "datastoreFolder", "networkFolder"),
    vim.ComputeResource: ("host", "resourcePool"),
    vim.ResourcePool: ("resourcePool", "vm"),
    vim.HostSystem: ("vm",),
}


class Views:
    def __init__(self, state: State) -> None:
        self.state = state
        self.world = state.world
        self.world.add(Managed(vim.view.ViewManager, "ViewManager", {"viewList": []}))
        self.world.add(Managed(vim.SearchIndex, "SearchIndex"))

    def _below(self, item: Managed) -> list[Managed]:
        names = next((names for kind, names in _BELOW.items() if issubclass(item.kind, kind)), ())
        found = []
        for name in names:
            value = item.value(name)
            refs = value if isinstance(value, list) else [value]
            found += [self.world.objects[ref._moId] for ref in refs if ref is not None]
        return found

    def _all_below(self, item: Managed, seen: set[str]) -> Iterator[Managed]:
        for child in self._below(item):
            if child.moid not in seen:
                seen.add(child.moid)
                yield child
                yield from self._all_below(child, seen)

    # ViewManager

    def CreateContainerView(self, call: Call, container: Any, recursive: bool, type: list[Any] | None = None) -> Any:
        start = self.world.find(container._moId)
        if not any(issubclass(start.kind, kind) for kind in _BELOW):
            raise invalid_argument("container")
        kinds = tuple(kind for kind in type or () if kind is not None)

        def view() -> list[Any]:
            items = self._all_below(start, {start.moid}) if recursive else iter(self._below(start))
            return [item.ref for item in items if not kinds or issubclass(item.kind, kinds)]

        facts = {"container": start.ref, "type": list(kinds), "recursive": recursive, "view": view}
        return self._keep(call, Managed(vim.view.ContainerView, f"session[{call.who.key[:8]}]{uuid4()}", facts, False))

    def CreateListView(self, call: Call, obj: list[Any] | None = None) -> Any:
        facts = {"view": list(obj or [])}
        return self._keep(call, Managed(vim.view.ListView, f"session[{call.who.key[:8]}]{uuid4()}", facts, False))

    def ModifyListView(self, call: Call, add: list[Any] | None = None, remove: list[Any] | None = None) -> list[Any]:
        gone = {ref._moId for ref in remove or []}
        kept = [ref for ref in call.this.value("view") if ref._moId not in gone]
        call.this.properties["view"] = kept + list(add or [])
        self.world.touch(call.this)
        return [ref for ref in add or [] if ref._moId not in self.world.objects]

    def DestroyView(self, call: Call) -> None:
        call.who.owned.remove(call.this)
        self.world.remove(call.this)

    def _keep(self, call: Call, view: Managed) -> Any:
        call.who.owned.append(view)
        self.world.add(view)
        return view.ref

    # SearchIndex

    def FindByUuid(
        self, call: Call, uuid: str, vmSearch: bool, datacenter: Any = None, instanceUuid: bool = False
    ) -> Any:
        found = self._by_uuid(uuid, vmSearch, instanceUuid)
        return found[0] if found else None

    def FindAllByUuid(
        self, call: Call, uuid: str, vmSearch: bool, datacenter: Any = None, instanceUuid: bool = False
    ) -> list[Any]:
        return self._by_uuid(uuid, vmSearch, instanceUuid)

    def _by_uuid(self, uuid: str, machines: bool, instance: bool) -> list[Any]:
        kind, path = (vim.VirtualMachine, "config.uuid") if machines else (vim.HostSystem, "hardware.systemInfo.uuid")
        if machines and instance:
            path = "config.instanceUuid"
        return [item.ref for item in self.world.of(kind) if str(item.value(path)).lower() == uuid.lower()]

    def FindByInventoryPath(self, call: Call, inventoryPath: str) -> Any:
        item = self.world.objects["group-d1"]
        for name in inventoryPath.strip("/").split("/"):
            child = next((child for child in self._below(item) if child.value("name") == name), None)
            if child is None:
                return None
            item = child
        return item.ref

    def FindChild(self, call: Call, entity: Any, name: str) -> Any:
        children = self._below(self.world.find(entity._moId))
        return next((child.ref for child in children if child.value("name") == name), None)

    def FindByDnsName(self, call: Call, dnsName: str, vmSearch: bool, datacenter: Any = None) -> Any:
        kind, path = (vim.VirtualMachine, "guest.hostName") if vmSearch else (vim.HostSystem, "name")
        return next((item.ref for item in self.world.of(kind) if item.value(path) == dnsName), None)


def unsupported(method: str) -> Fault:
    return soap.fault_named("NotSupported", f"The lab does not do {method}.")
