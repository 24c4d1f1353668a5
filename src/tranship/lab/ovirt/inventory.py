"""Rows of the routing table for what can only be looked at, and for hosts in and out of maintenance."""

from collections.abc import Callable, Mapping
from typing import Any

from tranship.lab.ovirt import views, vmviews
from tranship.lab.ovirt.events import Events
from tranship.lab.ovirt.render import Many, Node
from tranship.lab.ovirt.routes import Reply, Request, Row
from tranship.lab.ovirt.state import State, conflict, missing, refused

View = Callable[[Any], Node]


class Inventory:
    def __init__(self, state: State, events: Events) -> None:
        self.state = state
        self.events = events

    def rows(self) -> list[Row]:
        state = self.state
        return [
            ("GET", "", lambda request: Reply(views.root(state))),
            *self._collection(
                "datacenters", "data_center", state.data_centers, lambda dc: views.data_center(dc, state)
            ),
            *self._collection("clusters", "cluster", state.clusters, views.cluster),
            *self._collection("hosts", "host", state.hosts, views.host),
            *self._collection("networks", "network", state.networks, lambda net: views.network(net, state)),
            *self._collection("vnicprofiles", "vnic_profile", state.profiles, views.profile),
            *self._collection("storagedomains", "storage_domain", state.storage, self._storage),
            *self._collection("diskprofiles", "disk_profile", state.disk_profiles, views.disk_profile),
            *self._collection("disks", "disk", state.disks, lambda disk: views.disk(disk, state)),
            *self._collection("vms", "vm", state.vms, lambda vm: vmviews.vm(vm, state)),
            *self._collection("jobs", "job", state.jobs, views.job),
            *self._below("hosts", ("nics", "network_attachments"), state.hosts, views.host),
            *self._below("networks", ("vnic_profiles",), state.networks, lambda net: views.network(net, state)),
            *self._below("storagedomains", ("disks", "disk_profiles", "disk_snapshots"), state.storage, self._storage),
            *self._below("disks", ("vms",), state.disks, lambda disk: views.disk(disk, state)),
            *self._below("vms", VM_COLLECTIONS, state.vms, lambda vm: vmviews.vm(vm, state)),
            *self._below("vms/*/nics", ("reported_devices",), {}, lambda nic: nic),
            ("GET", "events", self.list_events),
            ("GET", "events/*", self.get_event),
            ("GET", "options/*", lambda request, name: Reply(views.option(name))),
            ("POST", "hosts/*/deactivate", self.deactivate),
            ("POST", "hosts/*/activate", self.activate),
        ]

    def _storage(self, thing: Any) -> Node:
        return views.storage_domain(thing, self.state)

    def _collection(self, path: str, tag: str, things: Mapping[str, Any], view: View) -> list[Row]:
        def listing(request: Request) -> Reply:
            with self.state.lock:
                return Reply(Many(tag, [view(thing) for thing in things.values()]))

        def one(request: Request, id: str) -> Reply:
            with self.state.lock:
                if id not in things:
                    raise missing(tag, id)
                return Reply(view(things[id]))

        return [("GET", path, listing), ("GET", f"{path}/*", one)]

    def _below(self, path: str, names: tuple[str, ...], things: Mapping[str, Any], view: View) -> list[Row]:
        """The collections below a resource, and their members."""

        def listing(name: str) -> Callable[..., Reply]:
            def handler(request: Request, *ids: str) -> Reply:
                with self.state.lock:
                    return Reply(self._parent(path, ids, things, view).links[name]())

            return handler

        def one(name: str) -> Callable[..., Reply]:
            def handler(request: Request, *ids: str) -> Reply:
                with self.state.lock:
                    members = self._parent(path, ids[:-1], things, view).links[name]().items
                    found = next((item for item in members if item.id == ids[-1]), None)
                    if found is None:
                        raise missing(name, ids[-1])
                    return Reply(found)

            return handler

        rows: list[Row] = []
        for name in names:
            below = f"{path}/*/{name.replace('_', '')}"
            rows += [("GET", below, listing(name)), ("GET", f"{below}/*", one(name))]
        return rows

    def _parent(self, path: str, ids: tuple[str, ...], things: Mapping[str, Any], view: View) -> Node:
        if path == "vms/*/nics":
            vm = self.state.find_vm(ids[0])
            nic = next((item for item in vm.nics if item.id == ids[1]), None)
            if nic is None:
                raise missing("nic", ids[1])
            return vmviews.nic(vm, nic)
        if ids[0] not in things:
            raise missing(path.rstrip("s"), ids[0])
        return view(things[ids[0]])

    # events

    def list_events(self, request: Request) -> Reply:
        """Newest first. `from`: only those after that number."""
        after = request.query.get("from", "")
        if after and not after.isdigit():
            raise refused(f"from={after}")
        found = [event for event in reversed(self.events.log) if event.number > int(after or 0)]
        return Reply(Many("event", [views.event(event) for event in found]))

    def get_event(self, request: Request, id: str) -> Reply:
        found = next((event for event in self.events.log if str(event.number) == id), None)
        if found is None:
            raise missing("event", id)
        return Reply(views.event(found))

    # hosts

    def deactivate(self, request: Request, id: str) -> Reply:
        with self.state.lock:
            if id not in self.state.hosts:
                raise missing("host", id)
            host = self.state.hosts[id]
            if any(vm.host is host for vm in self.state.vms.values()):
                raise conflict("Cannot switch Host to Maintenance mode. VMs run on it.")
            if any(item.open and item.host is host for item in self.state.transfers.values()):
                raise conflict("Cannot switch Host to Maintenance mode. Image transfer is in progress.")
            host.status = "maintenance"
        return Reply()

    def activate(self, request: Request, id: str) -> Reply:
        with self.state.lock:
            if id not in self.state.hosts:
                raise missing("host", id)
            self.state.hosts[id].status = "up"
        return Reply()


VM_COLLECTIONS = (
    *("disk_attachments", "nics", "snapshots", "cdroms", "host_devices", "watchdogs", "numa_nodes"),
    *("reported_devices", "backups", "checkpoints"),
)
