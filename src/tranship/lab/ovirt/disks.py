"""Disks and their attachments: add, extend, the flag for incremental backup, attach, detach, remove."""

from typing import Any

from tranship.lab.ovirt import views, vmviews
from tranship.lab.ovirt.events import Code, Events
from tranship.lab.ovirt.model import Attachment, Disk, Home, LabVM, StorageDomain
from tranship.lab.ovirt.render import identity, items, truth
from tranship.lab.ovirt.routes import Reply, Request, Row
from tranship.lab.ovirt.state import State, conflict, missing, refused


class Disks:
    def __init__(self, state: State, events: Events) -> None:
        self.state = state
        self.events = events

    def rows(self) -> list[Row]:
        return [
            ("POST", "disks", self.add),
            ("PUT", "disks/*", self.update),
            ("DELETE", "disks/*", self.remove),
            ("POST", "vms/*/diskattachments", self.attach),
            ("PUT", "vms/*/diskattachments/*", self.plug),
            ("DELETE", "vms/*/diskattachments/*", self.detach),
        ]

    def make(self, name: str, size: int, storage: StorageDomain | None, home: Home, **facts: Any) -> Disk:
        with self.state.lock:
            profile = next((p for p in self.state.disk_profiles.values() if p.storage is storage), None)
            disk = Disk(self.state.uuid(), name, size, storage, home, profile=profile, **facts)
            disk.chain.append(self.state.uuid())
            self.state.disks[disk.id] = disk
            home.add(disk)
            return disk

    def add(self, request: Request) -> Reply:
        disk = self._new(request.body, None)
        self.events.add(Code.DISK_ADDED, f"The disk '{disk.name}' was successfully added.", disk=("disks", disk.id))
        return Reply(views.disk(disk, self.state), 202)

    def _new(self, body: dict[str, Any], vm: LabVM | None) -> Disk:
        asked = items(body, "storage_domains", "storage_domain")
        storage = next((s for s in self.state.storage.values() if asked and self._is(s, asked[0])), None)
        if storage is None:
            raise refused("Cannot add Virtual Disk. The storage domain does not exist.")
        size = int(body.get("provisioned_size") or 0)
        if size <= 0:
            raise refused("Cannot add Virtual Disk. The size is missing.")
        home = vm.home if vm else Home(self.state.directory / "floating" / self.state.uuid())
        format, backup = body.get("format") or "cow", body.get("backup") or "none"
        if format == "raw" and backup == "incremental":
            raise conflict("Cannot add Virtual Disk. Incremental backup needs the format QCOW2.")
        name = body.get("alias") or body.get("name") or "disk"
        shareable = truth(body.get("shareable", ""))
        return self.make(name, size, storage, home, format=format, backup=backup, shareable=shareable)

    @staticmethod
    def _is(storage: StorageDomain, asked: dict[str, Any]) -> bool:
        return asked.get("id") == storage.id or asked.get("name") == storage.name

    def update(self, request: Request, id: str) -> Reply:
        """Alias, description, backup flag, size (only up)."""
        body = request.body
        with self.state.lock:
            disk = self.state.disk(id)
            if disk.status != "ok":
                raise conflict(f"Cannot edit Virtual Disk. Disk {disk.name} is {disk.status}.")
            backup = body.get("backup") or disk.backup
            if backup == "incremental" and disk.format == "raw":
                raise conflict("Cannot edit Virtual Disk. Incremental backup needs the format QCOW2.")
            size = int(body.get("provisioned_size") or disk.size)
            if size < disk.size:
                raise conflict("Cannot edit Virtual Disk. A disk cannot be made smaller.")
            disk.backup = backup
            disk.name = body.get("alias") or body.get("name") or disk.name
            disk.description = body.get("description", disk.description)
        if size > disk.size:
            self.extend(disk, size)
        self.updated(disk, request.correlation)
        return Reply(views.disk(disk, self.state))

    def updated(self, disk: Disk, correlation: str = "") -> None:
        owners: list[LabVM | None] = [*self.state.owners(disk)]
        for vm in owners or [None]:
            self.events.add(Code.DISK_UPDATED, f"Disk {disk.name} was updated.", vm, correlation=correlation)

    def extend(self, disk: Disk, size: int) -> None:
        disk.home.metal.extend(disk.id, size)
        disk.size = size

    def remove(self, request: Request, id: str) -> Reply:
        with self.state.lock:
            disk = self.state.disk(id)
            if disk.locks or disk.locked or any(vm.on for vm in self.state.owners(disk)):
                raise conflict("Cannot remove Virtual Disk. It is in use.")
            for vm in self.state.owners(disk):
                vm.attachments = [item for item in vm.attachments if item.disk is not disk]
            del self.state.disks[id]
        self.events.add(Code.DISK_REMOVED, f"Disk {disk.name} was successfully removed.")
        return Reply()

    # attachments

    def attach(self, request: Request, id: str) -> Reply:
        """An existing disk by its id, or a new one."""
        body = request.body
        described = body.get("disk") or {}
        with self.state.lock:
            vm = self.state.find_vm(id)
            known = identity(body, "disk")
            disk = self.state.disk(known) if known else self._new(described, vm)
            if disk in vm.disks or (self.state.owners(disk) and not disk.shareable):
                raise conflict("Cannot attach Virtual Disk. The disk is already attached.")
            active = truth(body.get("active", "true"))
            interface, bootable = body.get("interface") or "virtio_scsi", truth(body.get("bootable", ""))
            item = Attachment(disk, interface, bootable, active)
            vm.attachments.append(item)
        code = Code.DISK_ATTACHED if known else Code.DISK_ADDED_TO_VM
        self.events.add(code, f"Disk {disk.name} was attached to VM {vm.name}.", vm, correlation=request.correlation)
        return Reply(vmviews.attachment(vm, item), 201 if known else 202)

    def plug(self, request: Request, id: str, disk_id: str) -> Reply:
        with self.state.lock:
            vm = self.state.find_vm(id)
            item = self._attachment(vm, disk_id)
            if "active" in request.body:
                item.active = truth(request.body["active"])
            item.interface = request.body.get("interface") or item.interface
        self.events.vm_changed(vm)
        return Reply(vmviews.attachment(vm, item))

    def detach(self, request: Request, id: str, disk_id: str) -> Reply:
        with self.state.lock:
            vm = self.state.find_vm(id)
            item = self._attachment(vm, disk_id)
            if item.disk.locks:
                raise conflict("Cannot detach Virtual Disk. The disk is locked.")
            if vm.on and item.active and item.disk.storage_type == "image" and vm.has_guest:
                raise conflict("Cannot detach Virtual Disk. The lab unplugs no disk of a guest that runs.")
            vm.attachments.remove(item)
        self.events.add(Code.DISK_DETACHED, f"Disk {item.disk.name} was detached from VM {vm.name}.", vm)
        if truth(request.query.get("detach_only", "true")) or self.state.owners(item.disk):
            return Reply()
        return self.remove(request, disk_id)

    @staticmethod
    def _attachment(vm: LabVM, disk_id: str) -> Attachment:
        found = next((item for item in vm.attachments if item.disk.id == disk_id), None)
        if found is None:
            raise missing("disk attachment", disk_id)
        return found
