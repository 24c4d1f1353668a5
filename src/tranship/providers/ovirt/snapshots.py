"""Own snapshots of a VM: made, removed, and what lies between two of them. Users' ones are counted and never touched.

Called by the source where the Engine tells no changes. An own snapshot is found by its description, which is the name that
the caller made unique to migration, VM and round. It holds disks only, no memory.

What a snapshot calls its disk is the volume that it froze: that volume holds what was written since the snapshot before.
Removing a snapshot merges the volume above into its own, so volumes' ids wander: every answer here is from a fresh look.
"""

import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tranship.errors import Busy, NotFound, Refused, Side
from tranship.inventory.vm import VM
from tranship.providers.ovirt.client import Client
from tranship.providers.ovirt.events import about
from tranship.providers.ovirt.power import machine
from tranship.providers.ovirt.values import Entity, many, text
from tranship.providers.ovirt.waits import Patience

OWN = "tranship-"
BUDGET = 28
_MADE_WITHIN, _REMOVED_WITHIN = 900.0, 600.0  # seconds
_PASSING = ("active", "preview")  # entries of the list that are no snapshots


@dataclass(frozen=True, slots=True)
class Layer:
    """One disk in a snapshot. image: the volume, as an image transfer wants it. below: the snapshot of the volume under it,
    "" = none of the VM's."""

    image: str
    below: str


def regular(said: Entity) -> list[Entity]:
    """The snapshots of a VM that was asked with `follow=snapshots`, oldest first."""
    found = (one for one in many(said, "snapshots") if text(one, "snapshot_type") not in _PASSING)
    return sorted(found, key=lambda one: text(one, "date"))


class Snapshots:
    def __init__(self, client: Client, patience: Patience) -> None:
        self._client = client
        self._patience = patience

    def create(self, vm: VM, name: str, disks: Iterable[str]) -> None:
        """Returns when its disks can be read. One of that name is adopted."""
        _own(name)
        existing = regular(machine(self._client, vm, follow="snapshots"))
        id = next((text(one, "id") for one in existing if text(one, "description") == name), "")
        correlation = f"tranship-{secrets.token_hex(8)}"
        if not id:
            if len(existing) >= BUDGET:
                raise Refused(
                    f"the VM has {len(existing)} snapshots already, {BUDGET} are the most",
                    what=f"a snapshot of {vm.name}",
                    fault="SnapshotBudget",
                    side=Side.SOURCE,
                    remedy="Remove snapshots of the VM.",
                )
            attached = [{"disk": {"id": disk}} for disk in disks]
            body = {
                "description": name,
                "persist_memorystate": "false",
                "disk_attachments": {"disk_attachment": attached},
            }
            id = text(self._client.post(f"vms/{vm.id}/snapshots", body, correlation_id=correlation), "id")
        what = f"snapshot {name} of {vm.name}"

        def look() -> bool | None:
            status = self._status(vm, id)
            if not status:
                raise self._failure(what, correlation, "it was not made")
            return status == "ok" or None

        self._patience.until(what, _MADE_WITHIN, look)

    def remove(self, vm: VM, name: str, others: Iterable[str] = ()) -> None:
        """Returns when it is gone and merged. Its neighbours stay. others: ids of what the Engine made for the same and left
        behind. Raises TimedOut or Busy (temporary): call again."""
        _own(name)
        for one in regular(machine(self._client, vm, follow="snapshots")):
            if text(one, "description") == name or text(one, "id") in others:
                self._remove(vm, name, text(one, "id"))

    def _remove(self, vm: VM, name: str, id: str) -> None:
        """A 409 only says that something else works on the VM; the snapshot is locked while it is merged, and when that
        fails it is there again as before."""
        what, correlation = f"removing snapshot {name} of {vm.name}", f"tranship-{secrets.token_hex(8)}"
        asked = merging = False

        def look() -> bool | None:
            nonlocal asked, merging
            status = self._status(vm, id)
            if not status:
                return True
            if status == "ok" and asked and (merging or any(one.grave for one in about(self._client, correlation))):
                raise self._failure(what, correlation, "it is still there")
            merging = merging or status == "locked"
            if status != "ok" or asked:
                return None
            try:
                self._client.delete(f"vms/{vm.id}/snapshots/{id}", correlation_id=correlation)
                asked, merging = True, False
            except Busy:
                pass
            except NotFound:
                return True
            return None

        self._patience.until(what, _REMOVED_WITHIN, look)

    def _status(self, vm: VM, id: str) -> str:
        """ "" when there is no such snapshot."""
        try:
            return text(self._client.get(f"vms/{vm.id}/snapshots/{id}"), "snapshot_status") or "ok"
        except NotFound:
            return ""

    def _failure(self, what: str, correlation: str, otherwise: str) -> Busy:
        told = next((event.text for event in about(self._client, correlation) if event.text), otherwise)
        remedy = "Look at the events of the VM in the Administration Portal."
        return Busy(told, what=what, fault="SnapshotFailed", side=Side.SOURCE, remedy=remedy)

    # -- layers --------------------------------------------------------------------------------------------------------

    def required(self, vm: VM, name: str) -> str:
        """Id of the own snapshot of that name. Raises NotFound, Busy."""
        for one in regular(machine(self._client, vm, follow="snapshots")):
            if text(one, "description") == name:
                if text(one, "snapshot_status") not in ("ok", ""):
                    status = text(one, "snapshot_status")
                    raise Busy(f"it is {status}", what=f"snapshot {name}", fault=status, side=Side.SOURCE)
                return text(one, "id")
        raise NotFound(f" on VM {vm.name}", what="snapshot", name=name, side=Side.SOURCE)

    def layers(self, vm: VM, snapshot: str, disks: Iterable[str]) -> dict[str, Layer]:
        """What the snapshot holds, by disk. Only the disks' own storage domains are asked."""
        wanted = set(disks)
        said = machine(self._client, vm, follow="disk_attachments.disk,snapshots")
        domains = {domain for disk in _disks(said) if text(disk, "id") in wanted for domain in _domains(disk)}
        order = [text(one, "id") for one in regular(said)]
        volumes: dict[str, list[Entity]] = {}
        for domain in sorted(domains):
            for one in self._client.list(f"storagedomains/{domain}/disksnapshots", "disk_snapshot"):
                volumes.setdefault(text(one, "disk", "id"), []).append(one)
        found = ((disk, _layer(volumes.get(disk, []), snapshot, order)) for disk in wanted)
        return {disk: layer for disk, layer in found if layer is not None}


def _layer(volumes: list[Entity], snapshot: str, order: list[str]) -> Layer | None:
    """volumes: all of one disk, without the one that is written now. order: ids of the VM's snapshots, oldest first; it
    counts only where an Engine (before 4.4.3) does not tell what lies under a volume."""
    owner = {text(one, "id"): text(one, "snapshot", "id") for one in volumes}
    mine = next((one for one in volumes if text(one, "snapshot", "id") == snapshot), None)
    if mine is None:
        return None
    if any(text(one, "parent", "id") for one in volumes):
        below = owner.get(text(mine, "parent", "id"), "")
    else:
        there = [id for id in order if id in owner.values()]
        place = there.index(snapshot) if snapshot in there else 0
        below = there[place - 1] if place else ""
    return Layer(text(mine, "id"), below)


def _disks(said: Entity) -> Iterator[Entity]:
    for attachment in many(said, "disk_attachments"):
        disk = attachment.get("disk")
        if isinstance(disk, dict):
            yield disk


def _domains(disk: Entity) -> list[str]:
    return [text(domain, "id") for domain in many(disk, "storage_domains")]


def _own(name: str) -> None:
    if not name.startswith(OWN):
        raise Refused(f"own ones begin with {OWN!r}", what=f"touching snapshot {name!r}", fault="NotOurs")
