"""Power of the source VM. Idempotent: already there is fine. Every call looks at the machine first.

Called by the source; the itinerary decides when, and what follows a guest that does not go down. The Engine finds a VM by its
id only, which no other VM ever gets: an id that the inventory does not confirm as the machine's identity is refused.
"""

import secrets

from tranship.errors import Busy, Refused, Side
from tranship.inventory.vm import VM, Power
from tranship.providers.ovirt.client import Client
from tranship.providers.ovirt.events import about
from tranship.providers.ovirt.facts import POWER
from tranship.providers.ovirt.values import Entity, text
from tranship.providers.ovirt.waits import Patience

_WITHIN = 300.0  # seconds
_LISTENING = ("up", "powering_up", "powering_down", "reboot_in_progress")


def power(said: Entity) -> Power:
    return POWER.get(text(said, "status"), Power.UNKNOWN)


def listening(said: Entity) -> bool:
    """Whether a guest can be asked to shut down: by its agent, or by ACPI where none runs."""
    return text(said, "status") in _LISTENING


def machine(client: Client, vm: VM, **query: str) -> Entity:
    """The VM as it is now. Raises NotFound, and Refused when it is not the one of the inventory: no call that changes
    anything is made before this."""
    said = client.get(f"vms/{vm.id}", **query)
    actual = text(said, "id")
    if not vm.instance_uuid or actual != vm.instance_uuid:
        detail = f"the Engine answers with VM {actual or '?'}, the inventory says {vm.instance_uuid or 'nothing'}"
        raise Refused(detail, what=f"VM {vm.name}", fault="AnotherMachine", side=Side.SOURCE)
    return said


def shut_down_guest(client: Client, vm: VM) -> None:
    """Ask the guest; returns at once."""
    said = machine(client, vm)
    if power(said) is not Power.OFF and text(said, "status") != "powering_down":
        _unless(client, vm, Power.OFF, "shutdown")


def power_off(client: Client, vm: VM, patience: Patience) -> None:
    if power(machine(client, vm)) is not Power.OFF:
        _unless(client, vm, Power.OFF, "stop")
        what = f"powering off {vm.name}"
        patience.until(what, _WITHIN, lambda: power(machine(client, vm)) is Power.OFF or None)


def power_on(client: Client, vm: VM, patience: Patience) -> None:
    """Returns when it runs. Raises Busy (temporary) when the Engine takes the start back: no host could do it."""
    if power(machine(client, vm)) is Power.ON:
        return
    correlation, what, launched = f"tranship-{secrets.token_hex(8)}", f"powering on {vm.name}", False
    _unless(client, vm, Power.ON, "start", correlation)

    def look() -> bool | None:
        nonlocal launched
        said = machine(client, vm)
        if launched and power(said) is Power.OFF:
            why = next((event.text for event in about(client, correlation) if event.grave), "it is down again")
            remedy = "Look at the events of the VM in the Administration Portal."
            raise Busy(why, what=what, fault="StartFailed", side=Side.SOURCE, remedy=remedy)
        launched = launched or power(said) is Power.ON
        return (text(said, "status") != "wait_for_launch" and power(said) is Power.ON) or None

    patience.until(what, _WITHIN, look)


def _unless(client: Client, vm: VM, wanted: Power, action: str, correlation: str = "") -> None:
    """A refusal because somebody was faster is success."""
    try:
        query = {"correlation_id": correlation} if correlation else {}
        client.post(f"vms/{vm.id}/{action}", {}, **query)
    except (Busy, Refused):
        if power(machine(client, vm)) is not wanted:
            raise
