"""Follows the inventory: one sweep, then every change, as Estates.

Called by the provider's source with a Client of its own, because it waits for minutes on the wire and its filter lives and
dies with its session.

Theory of operation. One ContainerView over everything and one filter on it. The first WaitForUpdatesEx answers bring every
object (enter), later ones tell of changes. A change names a path that may lie below what was asked for
(`config.hardware.device[2000].backing`); instead of patching a copy of the server's tree, the objects that changed are
read again in one call: nothing raw is kept of a VM, and a missed patch cannot make a wrong fact.
When the session ends, the view and filter are gone: a new sweep begins.
"""

from collections.abc import Callable, Iterable
from threading import Event
from typing import Any

from tranship.errors import NotFound, Refused
from tranship.inventory.estate import Estate
from tranship.inventory.vm import VM
from tranship.providers.vsphere import facts, wire
from tranship.providers.vsphere.client import Client
from tranship.providers.vsphere.sdk import collector, vim

_PAGE = 500  # objects in one answer
_KINDS = {
    "VirtualMachine": vim.VirtualMachine,
    "Folder": vim.Folder,
    "Datacenter": vim.Datacenter,
    "VirtualApp": vim.VirtualApp,
    "ComputeResource": vim.ComputeResource,
    "HostSystem": vim.HostSystem,
    "Datastore": vim.Datastore,
    "Network": vim.Network,
    "DistributedVirtualPortgroup": vim.dvs.DistributedVirtualPortgroup,
}
# A view takes subclasses along; asking for both kinds of network would list port groups twice.
_VIEWED = [kind for name, kind in _KINDS.items() if name != "DistributedVirtualPortgroup"]
_GENERAL = {"ClusterComputeResource": "ComputeResource", "OpaqueNetwork": "Network", "StoragePod": "Folder"}


def _property_specs(kinds: Iterable[str] = tuple(_KINDS)) -> list[object]:
    return [collector.PropertySpec(type=_KINDS[kind], pathSet=list(facts.PROPERTIES[kind])) for kind in kinds]


class _Batch:
    """What the server told since the last complete answer."""

    def __init__(self) -> None:
        self.entered: list[tuple[wire.Ref, dict[str, Any]]] = []
        self.changed: dict[str, wire.Ref] = {}
        self.left: set[str] = set()
        self.touched = False

    def take(self, update: wire.Node) -> None:
        self.touched = True
        ref, said = wire.properties(update)
        match wire.text(update, "kind"):
            case "enter":
                self.entered.append((ref, said))
                self.left.discard(ref.id)
            case "modify":
                self.changed[ref.id] = ref
            case "leave":
                self.left.add(ref.id)
                self.changed.pop(ref.id, None)


class Gone(Exception):
    """The server forgot our filter or our session."""


class Inventory:
    """wait: seconds that one WaitForUpdatesEx may rest on the server; also how late `stop` may be noticed."""

    def __init__(self, client: Client, wait: int = 5) -> None:
        self._client = client
        self._wait = wait
        self._version = 0
        self._vms: dict[str, VM] = {}  # as read
        self._settled: dict[str, VM] = {}
        self._world = facts.World()

    def follow(self, publish: Callable[[Estate], None], stop: Event) -> None:
        """Publish now and after every change, until stop. Raises tranship.errors; a lost session alone is no trouble."""
        while not stop.is_set():
            try:
                self._follow_session(publish, stop)
            except Gone:
                continue

    def _follow_session(self, publish: Callable[[Estate], None], stop: Event) -> None:
        self._vms, self._settled, self._world = {}, {}, facts.World()
        manager, root = self._client.content.viewManager, self._client.content.rootFolder
        view = self._client.call("open a view", lambda: manager.CreateContainerView(root, _VIEWED, True))
        mine = None
        try:
            central = self._client.content.propertyCollector
            mine = self._client.call("open a collector", central.CreatePropertyCollector)
            self._client.call("open a filter", lambda: mine.CreateFilter(self._filter(view), False))
            self._updates(mine, publish, stop)
        finally:
            if mine is not None:
                self._client.quietly(mine.Destroy)
            self._client.quietly(view.Destroy)

    def _filter(self, view: object) -> object:
        through = collector.TraversalSpec(type=vim.view.ContainerView, path="view", skip=False)
        start = collector.ObjectSpec(obj=view, skip=True, selectSet=[through])
        return collector.FilterSpec(objectSet=[start], propSet=_property_specs())

    def _updates(self, mine: Any, publish: Callable[[Estate], None], stop: Event) -> None:
        version, batch = "", _Batch()
        options = collector.WaitOptions(maxWaitSeconds=self._wait, maxObjectUpdates=_PAGE)
        while not stop.is_set():
            try:
                answer = self._client.bulk(mine, "WaitForUpdatesEx", (version, options), batch.take)
            except (NotFound, Refused) as error:
                if version and error.fault in ("ManagedObjectNotFound", "InvalidCollectorVersion"):
                    raise Gone from error
                raise
            for ref, said in batch.entered:
                self._put(ref, said)
            batch.entered.clear()
            version = wire.text(answer, "returnval", "version") or version
            if wire.flag(answer, "returnval", "truncated"):
                continue
            if batch.touched:
                for id in batch.left:
                    self._drop(id)
                self._read_again(batch.changed)
                publish(self._estate())
            batch = _Batch()

    def _read_again(self, changed: dict[str, wire.Ref]) -> None:
        """One bulk read of the objects that changed. One that vanished meanwhile fails the whole call: leave it out."""
        wanted = dict(changed)
        while wanted:
            objects = [collector.ObjectSpec(obj=self._handle(ref)) for ref in wanted.values()]
            kinds = {_general(ref.kind) for ref in wanted.values()}
            spec = collector.FilterSpec(objectSet=objects, propSet=_property_specs(sorted(kinds)))
            try:
                self._client.sweep([spec], lambda item: self._put(*wire.properties(item)), _PAGE)
                return
            except NotFound as error:
                if error.name not in wanted:
                    raise
                del wanted[error.name]

    def _handle(self, ref: wire.Ref) -> object:
        return self._client.object(_KINDS[_general(ref.kind)], ref.id)

    def _put(self, ref: wire.Ref, said: dict[str, object]) -> None:
        if ref.kind == "VirtualMachine":
            self._vms[ref.id] = facts.read_vm(ref.id, said)
            self._settled.pop(ref.id, None)
        else:
            self._world.put(ref, said)
            self._settled.clear()

    def _drop(self, id: str) -> None:
        self._vms.pop(id, None)
        self._settled.pop(id, None)
        if self._world.objects.pop(id, None):
            self._settled.clear()

    def _estate(self) -> Estate:
        self._version += 1
        for id, vm in self._vms.items():
            if id not in self._settled:
                self._settled[id] = facts.settle(vm, self._world, self._version)
        refs = [ref for ref, _ in self._world.objects.values()]
        world = self._world
        return Estate(
            vms=dict(self._settled),
            networks={ref.id: facts.network(ref, world) for ref in refs if _is_network(ref)},
            datastores={ref.id: facts.datastore(ref, world) for ref in refs if ref.kind == "Datastore"},
            hosts={ref.id: facts.host(ref, world) for ref in refs if ref.kind == "HostSystem"},
            version=self._version,
        )


def _general(kind: str) -> str:
    return _GENERAL.get(kind, kind)


def _is_network(ref: wire.Ref) -> bool:
    return ref.kind in ("DistributedVirtualPortgroup", "OpaqueNetwork", "Network")
