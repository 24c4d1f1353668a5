"""Power of the source VM. Idempotent: already there is fine. Every call checks the machine's identity first.

Called by the source; the itinerary decides when, and what follows a guest that does not go down.
"""

from collections.abc import Callable
from typing import Any

from tranship.errors import Busy
from tranship.inventory.vm import VM, Power
from tranship.providers.vsphere.client import Client
from tranship.providers.vsphere.sdk import vim
from tranship.providers.vsphere.snapshots import POWER, checked

_WITHIN = 300.0  # seconds


def power_of(client: Client, vm: VM) -> Power:
    return POWER[str(checked(client, vm, ("runtime.powerState",)).get("runtime.powerState", ""))]


def shut_down_guest(client: Client, vm: VM) -> None:
    """Ask the guest; returns at once. Raises Refused (ToolsUnavailable) when there is nobody to ask."""
    if power_of(client, vm) is Power.OFF:
        return
    handle = client.object(vim.VirtualMachine, vm.id)
    _unless(client, vm, Power.OFF, lambda: client.call(f"shutting down {vm.name}", handle.ShutdownGuest))


def power_off(client: Client, vm: VM) -> None:
    if power_of(client, vm) is Power.OFF:
        return
    handle = client.object(vim.VirtualMachine, vm.id)
    _unless(client, vm, Power.OFF, lambda: client.run(f"powering off {vm.name}", handle.PowerOff, _WITHIN))


def power_on(client: Client, vm: VM) -> None:
    if power_of(client, vm) is Power.ON:
        return
    handle = client.object(vim.VirtualMachine, vm.id)
    _unless(client, vm, Power.ON, lambda: client.run(f"powering on {vm.name}", handle.PowerOn, _WITHIN))


def _unless(client: Client, vm: VM, wanted: Power, do: Callable[[], Any]) -> None:
    """InvalidPowerState because somebody was faster is success; otherwise the VM is busy changing."""
    try:
        do()
    except Busy as error:
        if error.fault != "InvalidPowerState" or power_of(client, vm) is not wanted:
            raise
