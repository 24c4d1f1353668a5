"""Image transfers: a ticket at the genuine imageio daemon for as long as a client needs it.

Of a disk (its VM is down, and the disk is locked), of a disk snapshot, or of a disk inside a backup. A watch looks at the
open ones as the Engine does: renews their tickets, tells how much was read, and ends those whose client is idle, whose
ticket is gone or whose host has left. Phases are oVirt's, also the detour of a cancelled one by `finished_cleanup`.
"""

import threading
import time
from http.client import HTTPException
from pathlib import Path
from typing import Any

from tranship.errors import TranshipError
from tranship.lab.ovirt import vmviews
from tranship.lab.ovirt.events import Code, Events
from tranship.lab.ovirt.model import Backup, Disk, Host, LabVM, Transfer
from tranship.lab.ovirt.render import Many, identity, truth
from tranship.lab.ovirt.routes import Reply, Request, Row
from tranship.lab.ovirt.state import State, StepFailed, conflict, missing, refused

POLL = 0.2  # seconds; the Engine itself looks every 10
PAUSED = ("paused_user", "paused_system")
FORGETFUL = (4, 4, 7)  # before it the Engine dropped a transfer as soon as it was finished


class Transfers:
    def __init__(self, state: State, events: Events, host: str) -> None:
        """host: that the daemon listens on."""
        self.state = state
        self.events = events
        self._listens = host
        self._daemon: Any = None
        self._renewed: dict[str, float] = {}
        self._watch = threading.Thread(target=self._look, name="engine-transfers", daemon=True)

    def rows(self) -> list[Row]:
        path = "imagetransfers"
        return [
            ("GET", path, self.list),
            ("POST", path, self.add),
            ("GET", f"{path}/*", self.get),
            *(("POST", f"{path}/*/{name}", getattr(self, name)) for name in ("extend", "cancel", "pause", "resume")),
            ("POST", f"{path}/*/finalize", self.finalize),
        ]

    @property
    def daemon(self) -> Any:
        """Started when the first transfer needs it."""
        from tranship.lab.ovirt.imageio import Imageio

        with self.state.lock:
            if self._daemon is None:
                certificates = self.state.directory / "certificates"
                names = [certificates / name for name in ("server.pem", "server.key", "ca.pem")]
                self._daemon = Imageio(self._home(), *names, host=self._listens)
                self._daemon.start()
                self._watch.start()
            return self._daemon

    def _home(self) -> Path:
        home = self.state.directory / "imageio"
        home.mkdir(parents=True, exist_ok=True)
        return home

    # the API

    def list(self, request: Request) -> Reply:
        with self.state.lock:
            return Reply(Many("image_transfer", [vmviews.transfer(item) for item in self.state.transfers.values()]))

    def get(self, request: Request, id: str) -> Reply:
        with self.state.lock:
            return Reply(vmviews.transfer(self._find(id)))

    def _find(self, id: str) -> Transfer:
        if id not in self.state.transfers:
            raise missing("ImageTransfer", id)
        return self.state.transfers[id]

    def add(self, request: Request) -> Reply:
        body = request.body
        if body.get("direction") != "download":
            raise refused("Cannot transfer Virtual Disk. The lab serves downloads only.")
        with self.state.lock:
            item = self._described(body)
            self._validate(item)
            self.state.transfers[item.id] = item
            if item.vm:
                item.vm.transfer_list.append(item)
            if item.volume:
                item.disk.reading.add(item.volume)
            elif not item.backup:
                item.disk.locks.add(item.id)
        name = f"Image Download with disk {item.disk.name} was initiated by {self.state.user}."
        self.events.add(Code.TRANSFER_STARTED, name, item.vm, correlation=request.correlation)
        asked = identity(body, "host")
        work = lambda: self._start(item, asked)  # noqa: E731
        self.state.run_job("Transferring image", request.correlation, work, lambda why: self._system_ends(item, why))
        return Reply(vmviews.transfer(item), 201)

    def _described(self, body: dict[str, Any]) -> Transfer:
        disk, volume, vm = self._image(body)
        timeout = int(body.get("inactivity_timeout") or self.state.transfer_timeout)
        item = Transfer(self.state.uuid(), disk, None, timeout, body.get("timeout_policy") or "legacy", vm, volume)
        item.shallow = truth(body.get("shallow", ""))
        item.format = body.get("format") or disk.format
        item.size = disk.size
        wanted = identity(body, "backup")
        if wanted:
            item.vm, item.backup = self._backup(wanted)
        if item.format != "raw":
            if item.backup:
                raise conflict("Cannot transfer Virtual Disk. The format is not applicable for a backup.")
            raise refused("Cannot transfer Virtual Disk. The lab serves the format raw only.")
        return item

    def _image(self, body: dict[str, Any]) -> tuple[Disk, str, LabVM | None]:
        wanted = identity(body, "snapshot")
        if not wanted:
            disk = self.state.disk(identity(body, "disk") or identity(body, "image"))
            return disk, "", next(iter(self.state.owners(disk)), None)
        for vm in self.state.vms.values():
            for snapshot in vm.chain:
                for disk in vm.disks:
                    if snapshot.volumes.get(disk.id) == wanted:
                        return disk, wanted, vm
        raise missing("DiskSnapshot", wanted)

    def _backup(self, id: str) -> tuple[LabVM, Backup]:
        for vm in self.state.vms.values():
            for backup in vm.backup_list:
                if backup.id == id:
                    return vm, backup
        raise conflict("Cannot transfer Virtual Disk. The specified backup does not exist.")

    def _validate(self, item: Transfer) -> None:
        disk, what = item.disk, "Cannot transfer Virtual Disk."
        if disk.storage_type != "image":
            raise conflict(f"{what} Disk {disk.name} is a direct LUN.")
        if disk.illegal:
            raise conflict(f"{what} The following disks are ILLEGAL: {disk.name}.")
        if disk.storage and disk.storage.status != "active":
            raise conflict(f"{what} The relevant Storage Domain's status is {disk.storage.status}.")
        if item.backup:
            if item.backup.phase != "ready":
                raise conflict(f"{what} The backup is not ready, its phase is {item.backup.phase}.")
            if disk not in item.backup.disks:
                raise conflict(f"{what} Disk {disk.name} is not part of the backup.")
            return
        others = [t for t in self.state.transfers.values() if t.open and t.disk is disk and not t.backup]
        if disk.status == "locked" or others:
            raise conflict(f"{what} Disk {disk.name} is locked.")
        if not item.volume and any(vm.on for vm in self.state.owners(disk)):
            raise conflict(f"{what} Disk {disk.name} is plugged to a VM that is not down.")
        if item.vm and item.vm.lock:
            raise conflict(f"{what} VM {item.vm.name} is locked.")

    def extend(self, request: Request, id: str) -> Reply:
        """Keeps nothing alive: since imageio 1.3 the Engine goes by what the daemon says of the client."""
        self._find(id)
        return Reply()

    def pause(self, request: Request, id: str) -> Reply:
        self._find(id)
        raise conflict("Cannot pause image transfer. Downloads cannot be paused.")

    def resume(self, request: Request, id: str) -> Reply:
        with self.state.lock:
            item = self._find(id)
            if item.phase not in PAUSED:
                raise conflict("Cannot resume image transfer. It is not paused.")
            item.phase = "transferring"
        return Reply()

    def finalize(self, request: Request, id: str) -> Reply:
        with self.state.lock:
            item = self._find(id)
            if item.phase in ("finalizing_success", "finished_success"):
                return Reply()
            if item.phase not in ("transferring", *PAUSED):
                raise conflict(f"Cannot finalize image transfer. Its phase is {item.phase}.")
            item.phase = "finalizing_success"
        self._end(item, request.correlation)
        return Reply()

    def cancel(self, request: Request, id: str) -> Reply:
        with self.state.lock:
            item = self._find(id)
            if item.phase not in ("initializing", "transferring", *PAUSED):
                raise conflict(f"Cannot cancel image transfer. Its phase is {item.phase}.")
            begun = item.phase != "initializing"
            item.phase = "cancelled_user"
        if begun:
            self._end(item, request.correlation)
        return Reply()

    # what happens behind it

    def _start(self, item: Transfer, asked: str) -> None:
        self.state.step("transfer", item.vm)
        item.host = self._host(item, asked)
        if item.host is None:
            raise StepFailed("there is no active host for the transfer")
        daemon = self.daemon
        item.export = self._export(item)
        item.size = item.export.size
        ticket = self.state.uuid()
        timeout, idle = self.state.ticket_timeout, item.inactivity_timeout
        daemon.add_ticket(
            ticket, item.size, item.export.url, timeout=timeout, inactivity_timeout=idle, dirty=item.export.dirty
        )
        with self.state.lock:
            item.ticket, item.url = ticket, f"https://{item.host.address}:{daemon.port}/images/{ticket}"
            self._renewed[item.id] = time.monotonic()
            cancelled = item.phase == "cancelled_user"
            if not cancelled:
                item.phase = "transferring"
        if cancelled:
            self._finish(item)

    def _host(self, item: Transfer, asked: str) -> Host | None:
        if item.backup and item.backup.live and item.vm:
            return item.vm.host
        hosts = [host for host in self.state.hosts.values() if host.status == "up" and asked in ("", host.id)]
        return hosts[0] if hosts else None

    def _export(self, item: Transfer) -> Any:
        if item.backup:
            return item.backup.exports[item.disk.id]
        volume = item.disk.metal_volume(item.volume) if item.volume else ""
        return item.disk.home.metal.export(item.disk.id, volume, shallow=item.shallow)

    def _system_ends(self, item: Transfer, why: str) -> None:
        item.phase = "cancelled_system"
        self.events.error(
            Code.TRANSFER_CANCELLED, f"Transfer of {item.disk.name} was stopped by system: {why}.", item.vm
        )
        self._end(item, "")

    def _end(self, item: Transfer, correlation: str) -> None:
        self.state.run_job("Ending image transfer", correlation, lambda: self._finish(item), lambda why: None)

    def _finish(self, item: Transfer) -> None:
        """Take the ticket back, then the export, then the locks. A daemon that still answers a request makes it wait."""
        self._pass(item, {"cancelled_user": "finalizing_cleanup", "cancelled_system": "finalizing_failure"})
        failed = False
        try:
            self.state.step("close", item.vm)
        except StepFailed:
            failed = True
        while item.ticket and not self.state.closing.is_set():
            try:
                self.daemon.remove_ticket(item.ticket)
                break
            except (TranshipError, OSError, HTTPException):
                self.state.pause(1.0)  # the Engine tries again at its next look
        if item.export is not None and not item.backup:
            item.disk.home.metal.unexport(item.export)
        with self.state.lock:
            item.disk.locks.discard(item.id)
            item.disk.reading.discard(item.volume)
            item.active, item.url = False, ""
            self._pass(item, {"finalizing_cleanup": "finished_cleanup", "finalizing_success": "finished_success"})
            if item.phase != "finished_success" or failed:
                item.phase = "finished_failure"
            item.ended = time.monotonic()
            good = item.phase == "finished_success"
            code = Code.TRANSFER_SUCCEEDED if good else Code.TRANSFER_FAILED
            self.events.add(code, f"Image Download with disk {item.disk.name} ended: {item.phase}.", item.vm)
            if self.state.numbers < FORGETFUL:
                del self.state.transfers[item.id]

    def _pass(self, item: Transfer, phases: dict[str, str]) -> None:
        with self.state.lock:
            item.phase = phases.get(item.phase, item.phase)

    def forget(self) -> None:
        """Finished ones that were kept for long enough."""
        for item in list(self.state.transfers.values()):
            kept = self.state.kept_success if item.phase == "finished_success" else self.state.kept_failure
            if item.ended and time.monotonic() - item.ended > kept:
                self.state.transfers.pop(item.id, None)

    # the watch

    def renewed(self, id: str) -> float:
        """When a ticket was last renewed, time.monotonic()."""
        return self._renewed[id]

    def _look(self) -> None:
        while not self.state.closing.wait(POLL):
            for item in list(self.state.transfers.values()):
                if item.phase == "transferring":
                    try:
                        self._examine(item)
                    except (TranshipError, OSError, HTTPException) as error:
                        self._lost(item, str(error))
            with self.state.lock:
                self.forget()

    def _examine(self, item: Transfer) -> None:
        for script in self.state.faults.due("poll", item.vm.name if item.vm else ""):
            if script.ticket:
                self.daemon.remove_ticket(item.ticket)
            if script.pause:
                self._paused(item, "a script says so")
                return
            if script.fail:
                self._lost(item, script.detail or "a script says so")
                return
        told = self.daemon.ticket(item.ticket)
        if told is None:
            self._lost(item, "its ticket is missing")
            return
        item.active, item.transferred = bool(told.get("active")), int(told.get("transferred") or 0)
        if item.host is None or item.host.status not in ("up", "maintenance"):
            self._lost(item, "its host has left")
        elif item.inactivity_timeout > 0 and not item.active and told.get("idle_time", 0) > item.inactivity_timeout:
            self._idle(item)
        elif item.transferred == item.size and not item.active:
            self._complete(item)
        elif time.monotonic() - self._renewed[item.id] > self.state.ticket_timeout / 5:
            self.daemon.extend_ticket(item.ticket, self.state.ticket_timeout)
            self._renewed[item.id] = time.monotonic()

    def _complete(self, item: Transfer) -> None:
        """As many bytes were read as the disk has: after a while the Engine ends it by itself."""
        item.complete = item.complete or time.monotonic()
        if time.monotonic() - item.complete < self.state.complete_timeout:
            return
        with self.state.lock:
            if item.phase == "transferring":
                item.phase = "finalizing_success"
                self._end(item, "")

    def _idle(self, item: Transfer) -> None:
        if item.timeout_policy == "pause":
            self._paused(item, "its client was idle")
        else:
            self._lost(item, "its client was idle")

    def _paused(self, item: Transfer, why: str) -> None:
        with self.state.lock:
            if item.phase == "transferring":
                item.phase = "paused_system"
                name = f"Transfer of {item.disk.name} was paused by system: {why}."
                self.events.error(Code.TRANSFER_FAILED, name, item.vm)

    def _lost(self, item: Transfer, why: str) -> None:
        with self.state.lock:
            if item.phase == "transferring":
                self._system_ends(item, why)

    def close(self) -> None:
        if self._watch.is_alive():
            self._watch.join(10)
        if self._daemon is not None:
            self._daemon.close()
