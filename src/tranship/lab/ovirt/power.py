"""Power: start, stop, shutdown, as phases that a client can watch, and the guests behind them.

A real guest is a QEMU process that a thread waits for, so a guest that ends by itself is seen as down at once. VMs without
one only change state.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

from tranship.errors import TranshipError
from tranship.lab.guest.machine import Guest
from tranship.lab.ovirt import views
from tranship.lab.ovirt.events import Code, Events
from tranship.lab.ovirt.model import Host, LabVM, now
from tranship.lab.ovirt.render import Node, truth
from tranship.lab.ovirt.routes import Reply, Request, Row
from tranship.lab.ovirt.state import State, conflict

FOREVER = 1e8


class Power:
    """went_down: called under the lock when a VM has gone off, for whom that matters (a backup of it, say)."""

    def __init__(self, state: State, events: Events) -> None:
        self.state = state
        self.events = events
        self.went_down: list[Callable[[LabVM], None]] = []
        self._homes: list[Path] = []

    def rows(self) -> list[Row]:
        return [
            ("POST", "vms/*/start", self.start),
            ("POST", "vms/*/stop", self.stop),
            ("POST", "vms/*/shutdown", self.shutdown),
            ("DELETE", "vms/*", self.remove),
        ]

    # the API

    def start(self, request: Request, id: str) -> Reply:
        with self.state.lock:
            vm = self.state.find_vm(id)
            self._may_start(vm)
            vm.status = "wait_for_launch"
        self.state.run_job(
            "Launching VM", request.correlation, lambda: self._launch(vm), lambda why: self._unlaunched(vm, why)
        )
        return Reply(self._status(vm))

    def _may_start(self, vm: LabVM) -> None:
        if vm.status != "down":
            raise conflict("Cannot run VM. VM is running.")
        if vm.lock or any(item.volume and item.open for item in vm.transfer_list):
            raise conflict("Cannot run VM. VM is locked by another operation.")
        if vm.preview:
            raise conflict("Cannot run VM. The lab runs no VM whose snapshot is previewed.")
        for attachment in vm.attachments:
            disk = attachment.disk
            if attachment.active and disk.status != "ok":
                raise conflict(f"Cannot run VM. The following disks are {disk.status}: {disk.name}.")
        if self.host_for(vm) is None:
            raise conflict("Cannot run VM. There is no host that satisfies current scheduling constraints.")

    def host_for(self, vm: LabVM) -> Host | None:
        return next((h for h in self.state.hosts.values() if h.status == "up" and h.cluster is vm.cluster), None)

    def stop(self, request: Request, id: str) -> Reply:
        vm = self.state.find_vm(id)
        with self.state.lock:
            self._may_stop(vm, request, "stop")
        self.switch_off(vm, "hard-off", request.correlation)
        return Reply(self._status(vm))

    def shutdown(self, request: Request, id: str) -> Reply:
        """Returns at once; the VM is down when its guest is done, which may be never."""
        with self.state.lock:
            vm = self.state.find_vm(id)
            self._may_stop(vm, request, "shut down")
            if vm.status != "up":
                raise conflict(f"Cannot shutdown VM. VM is {vm.status}.")
            vm.status = "powering_down"
            vm.shutdown_asked = True
            boot = len(vm.power_causes())
        self.events.add(Code.SHUTDOWN_ASKED, f"VM shutdown initiated by {self.state.user} on VM {vm.name}.", vm)
        self.state.run_job(
            "Shutting down VM", request.correlation, lambda: self._ask(vm, boot), lambda why: self._stays(vm)
        )
        return Reply(self._status(vm))

    def _may_stop(self, vm: LabVM, request: Request, what: str) -> None:
        if vm.status == "down":
            raise conflict(f"Cannot {what} VM. VM is not running.")
        if vm.backups and not truth(request.body.get("force", "")):
            raise conflict(f"Cannot {what} VM. The VM is during a backup operation.")

    def remove(self, request: Request, id: str) -> Reply:
        with self.state.lock:
            vm = self.state.find_vm(id)
            if vm.on or vm.lock or vm.backups or vm.transfers:
                raise conflict("Cannot remove VM. VM is running or locked.")
            self.forget(vm)
        return Reply()

    def forget(self, vm: LabVM) -> None:
        """Without a trace, except for the disks of others."""
        with self.state.lock:
            del self.state.vms[vm.id]
            for disk in vm.disks:
                if not self.state.owners(disk):
                    del self.state.disks[disk.id]
            self.events.add(Code.VM_REMOVED, f"VM {vm.name} was removed by {self.state.user}.", vm)

    def _status(self, vm: LabVM) -> Node:
        return Node("action", fields={"status": "complete", "vm": views.ref("vm", "vms", vm)})

    # what happens behind it

    def switch_on(self, vm: LabVM) -> None:
        """At once, as engine.add_vm(running=True) wants it."""
        with self.state.lock:
            self._may_start(vm)
            vm.status = "wait_for_launch"
        self._launch(vm)

    def _launch(self, vm: LabVM) -> None:
        self.state.step("start", vm)
        guest = self._boot(vm) if vm.has_guest else None
        with self.state.lock:
            vm.host, vm.guest = self.host_for(vm), guest
            vm.started, vm.shutdown_asked, vm.status = now(), False, "powering_up"
            vm.log_power("on")
            if guest is not None:
                threading.Thread(target=self._watch, args=(vm, guest), name=f"watch-{vm.name}", daemon=True).start()
            if vm.status == "powering_up":
                vm.status = "up"
            self.events.add(Code.VM_STARTED, f"VM {vm.name} started on Host {vm.host.name if vm.host else ''}", vm)

    def _unlaunched(self, vm: LabVM, why: str) -> None:
        vm.status = "down"
        self.events.error(Code.VM_DOWN_ERROR, f"VM {vm.name} is down with error. Exit message: {why}.", vm)

    def _boot(self, vm: LabVM) -> Guest:
        """On the disks that are plugged, by NBD. Sockets want short paths, so they are in the temporary directory."""
        home = Path(mkdtemp(prefix="lab-"))
        self._homes.append(home)
        guest = Guest(
            home,
            [item.disk.home.metal.guest_url(item.disk.id) for item in vm.attachments if item.active],
            memory=vm.hardware.memory,
            cpus=vm.hardware.sockets * vm.hardware.cores * vm.hardware.threads,
            firmware="uefi" if "ovmf" in vm.hardware.bios_type or "secure" in vm.hardware.bios_type else "bios",
            macs=[nic.mac for nic in vm.nics if nic.plugged],
            extra=vm.qemu,
        )
        guest.start()
        return guest

    def switch_off(self, vm: LabVM, cause: str, correlation: str = "") -> None:
        """Kills a real guest. Without effect where the VM is down already: its guest may have ended just now."""
        with self.state.lock:
            if not vm.on:
                return
            guest = vm.guest
            vm.status = "powering_down"
        if cause == "hard-off" and guest is not None and guest.running:
            guest.kill()
        with self.state.lock:
            if not vm.on or (guest is not None and vm.guest is not guest):
                return
            vm.log_power(cause)
            code = Code.VM_STOPPED if cause == "hard-off" else Code.VM_DOWN
            self.events.add(code, f"VM {vm.name} is down. Exit message: {cause}.", vm, correlation=correlation)
            if code is not Code.VM_DOWN:
                self.events.add(Code.VM_DOWN, f"VM {vm.name} is down. Exit message: {cause}.", vm)
            vm.status, vm.host, vm.started = "down", None, None
            for told in self.went_down:
                told(vm)

    def _watch(self, vm: LabVM, guest: Guest) -> None:
        with suppress(TranshipError):  # a QEMU that failed is a guest that crashed
            guest.wait_exit(FOREVER)
        with self.state.lock:
            if vm.guest is not guest or vm.status == "down":
                return
            cause = "guest-shutdown" if vm.shutdown_asked else "crash"
        self.switch_off(vm, cause)

    def _ask(self, vm: LabVM, boot: int) -> None:
        """Ask the guest, or where there is none, be it."""
        self.state.step("shutdown", vm)
        if vm.shutdown_seconds is None:
            return
        if vm.guest is not None:
            vm.guest.request_shutdown()
            return
        self.state.pause(vm.shutdown_seconds)
        if len(vm.power_causes()) == boot:  # else it was switched off, perhaps on again, in the meantime
            self.switch_off(vm, "guest-shutdown")

    def _stays(self, vm: LabVM) -> None:
        """The request came to nothing: the VM is up as before."""
        if vm.status == "powering_down":
            vm.status, vm.shutdown_asked = "up", False

    def close(self) -> None:
        for vm in list(self.state.vms.values()):
            if vm.guest is not None and vm.guest.running:
                vm.guest.kill()
        for home in self._homes:
            rmtree(home, ignore_errors=True)
