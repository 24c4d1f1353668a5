"""Power and configuration of virtual machines: on, off, guest shutdown, ReconfigVM, rename.

A real guest is a QEMU process that a thread waits for, so a guest that ends by itself is seen as off at once. VMs without
one only change state. Every transition and its cause goes into `LabVM.power_log`.
"""

import threading
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from tranship.errors import TranshipError
from tranship.lab.guest.machine import Guest
from tranship.lab.vsphere import soap
from tranship.lab.vsphere.calls import Call
from tranship.lab.vsphere.machine import LabVM
from tranship.lab.vsphere.state import State
from tranship.lab.vsphere.tasks import Tasks
from tranship.lab.vsphere.vmomi import Fault, vim
from tranship.lab.vsphere.world import invalid_argument

FOREVER = 1e8


def wrong_power(vm: LabVM, wanted: str) -> Fault:
    words = {"poweredOn": "Powered on", "poweredOff": "Powered off"}
    message = f"The attempted operation cannot be performed in the current state ({words[vm.power]})."
    return soap.fault_named("InvalidPowerState", message, requestedState=wanted, existingState=vm.power)


def vm_of(call: Call) -> LabVM:
    if not isinstance(call.this, LabVM):
        raise soap.fault_named("NotSupported", f"{call.method} is for virtual machines.")
    return call.this


class Power:
    def __init__(self, state: State, tasks: Tasks) -> None:
        self.state = state
        self.tasks = tasks
        self.world = state.world

    def switch_on(self, vm: LabVM) -> None:
        """Also the stun that makes a change of tracking active."""
        with self.world.lock:
            if vm.on:
                raise wrong_power(vm, "poweredOn")
            if vm.template:
                raise soap.fault_named("NotSupported", "A template cannot be powered on.")
            if vm.lease is not None and vm.lease.locks_power:
                raise soap.fault_named("InvalidState", "The virtual machine is being exported.")
            if vm.machinery is not None:
                vm.guest = vm.machinery.boot()
                threading.Thread(target=self._watch, args=(vm, vm.guest), daemon=True).start()
            vm.stun()
            vm.power, vm.booted, vm.shutdown_asked = "poweredOn", datetime.now(UTC), False
            vm.log_power("on", "on")
            self.world.touch(vm)

    def switch_off(self, vm: LabVM, cause: str) -> None:
        """Kills a real guest. Without effect where the machine is off already: its guest may have ended just now."""
        with self.world.lock:
            if not vm.on:
                return
            vm.power = "poweredOff"
            vm.log_power("off", cause)
            guest = vm.guest
            if cause == "hard-off" and vm.loses_tracking:
                for disk in vm.disks:
                    disk.volume.reset_tracking()
            self.world.touch(vm)
        if guest is not None and guest.running:
            guest.kill()

    def _watch(self, vm: LabVM, guest: Guest) -> None:
        with suppress(TranshipError):  # a QEMU that failed is a guest that crashed
            guest.wait_exit(FOREVER)
        with self.world.lock:
            if vm.guest is guest:
                self.switch_off(vm, "guest-shutdown" if vm.shutdown_asked else "crash")

    # VirtualMachine

    def PowerOnVM_Task(self, call: Call, host: Any = None) -> Any:
        vm = vm_of(call)
        return self.tasks.start(call, vm, lambda task: self.switch_on(vm))

    def PowerOffVM_Task(self, call: Call) -> Any:
        vm = vm_of(call)

        def work(task: Any) -> None:
            if not vm.on:
                raise wrong_power(vm, "poweredOff")
            self.switch_off(vm, "hard-off")

        return self.tasks.start(call, vm, work)

    def ShutdownGuest(self, call: Call) -> None:
        """Returns at once; the machine is off when its guest is done, which may be never."""
        vm = vm_of(call)
        if not vm.on:
            raise wrong_power(vm, "poweredOn")
        if not vm.tools_running:
            raise soap.fault_named("ToolsUnavailable", "VMware Tools is not running in this virtual machine.")
        vm.shutdown_asked = True
        if vm.shutdown_seconds is None:
            return
        if vm.machinery is not None and vm.guest is not None:
            vm.guest.request_shutdown()
            return
        timer = threading.Timer(vm.shutdown_seconds, self._shut_down, (vm, len(vm.power_log)))
        timer.daemon = True
        timer.start()

    def _shut_down(self, vm: LabVM, changes: int) -> None:
        with self.world.lock:
            if len(vm.power_log) == changes:  # else it was switched off, perhaps on again, in the meantime
                self.switch_off(vm, "guest-shutdown")

    def ReconfigVM_Task(self, call: Call, spec: Any) -> Any:
        vm = vm_of(call)
        return self.tasks.start(call, vm, lambda task: self._reconfigure(vm, spec))

    def _reconfigure(self, vm: LabVM, spec: Any) -> None:
        unknown = _set_fields(spec) - {"changeTrackingEnabled", "annotation", "name", "numCPUs", "memoryMB"}
        if unknown:
            raise soap.fault_named("NotSupported", f"The lab does not reconfigure {', '.join(sorted(unknown))}.")
        with self.world.lock:
            if (spec.numCPUs or spec.memoryMB) and vm.on:
                raise wrong_power(vm, "poweredOff")
            if spec.changeTrackingEnabled is not None:
                self._track(vm, spec.changeTrackingEnabled)
            vm.annotation = vm.annotation if spec.annotation is None else spec.annotation
            vm.name = spec.name or vm.name
            vm.cpus = spec.numCPUs or vm.cpus
            vm.memory = spec.memoryMB or vm.memory
            vm.change_version = datetime.now(UTC)
            self.world.touch(vm)

    def _track(self, vm: LabVM, wanted: bool) -> None:
        vm.cbt = wanted
        for disk in vm.disks:
            volume = disk.volume  # made before `tracking` is set, else it would be born with tracking and need no stun
            disk.tracking = wanted
            if disk.snapshotted:
                (volume.enable_tracking if wanted else volume.disable_tracking)()

    def Rename_Task(self, call: Call, newName: str) -> Any:
        vm = vm_of(call)
        if not newName:
            raise soap.fault_named("InvalidName", "A name is needed.", name=newName)
        return self.tasks.start(call, vm, lambda task: self._reconfigure(vm, vim.vm.ConfigSpec(name=newName)))

    def AnswerVM(self, call: Call, questionId: str, answerChoice: str) -> None:
        raise invalid_argument("questionId")


def _set_fields(spec: Any) -> set[str]:
    names = (info.name for info in spec._GetPropertyList())
    return {name for name in names if getattr(spec, name) not in (None, [])}
