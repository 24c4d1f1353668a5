"""Own backups of a VM and the checkpoints that they leave: what warm migration reads where the Engine tells changes.

Called by the source, which asks for them as if they were snapshots. Theory of operation:

- An open backup freezes all disks; a checkpoint tells the next one what changed since. A VM has one open backup at most,
  whoever made it.
- Ours are known by their id, which the Engine takes from the caller: the name's digits are in it, and it ends with "transh".
  The name is in the description too, for whoever looks at the Administration Portal.
- A checkpoint that the Engine cannot count from (a snapshot was reverted, a bitmap is broken: event 10791) is dropped, and
  the next backup is full. That costs time and never data, so it happens whenever there is doubt.
"""

import contextlib
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from tranship.errors import Busy, NotFound, Refused, Side, TimedOut, Unreachable, Unsupported
from tranship.inventory.vm import VM
from tranship.providers.ovirt.client import Client
from tranship.providers.ovirt.events import Event, about
from tranship.providers.ovirt.values import Entity, text
from tranship.providers.ovirt.waits import Patience

OLDEST = (4, 4)
"""Engines before this one know no backups."""

_TAIL = "7472616e7368"  # "transh"
_ID = re.compile(rf"([0-9a-f]{{8}})-([0-9a-f]{{4}})-4[0-9a-f]{{3}}-8[0-9a-f]{{3}}-{_TAIL}")
_NAME = re.compile(r"tranship-([0-9a-f]{8})-(.+)-(\d+)")
_READY_WITHIN, _FINAL_WITHIN, _GONE_WITHIN = 900.0, 600.0, 300.0  # seconds
_EARLY = 120.0  # seconds that a backup that is to be finalized may go on starting
_FULL_NEEDED = "10791"
_BROKEN_BASE = re.compile(r"bitmap|checkpoint|redefin|incremental", re.IGNORECASE)
_STARTING = ("initializing", "starting")


@dataclass(frozen=True, slots=True)
class Backup:
    """name: "" = another tool's. since: the checkpoint it counts from, to: the one it leaves; both "" if there is none.
    snapshot: id of the one that the Engine made for it (hybrid backups)."""

    id: str
    name: str
    phase: str
    since: str
    to: str
    snapshot: str

    @property
    def ready(self) -> bool:
        return self.phase == "ready"

    @property
    def over(self) -> bool:
        return self.phase in ("succeeded", "failed")


def name_of(id: str, description: str, vm: str) -> str:
    """What we call this backup of the VM, "" when it is none of ours."""
    if parts := _ID.fullmatch(id):
        return f"tranship-{parts[1]}-{vm}-{int(parts[2], 16)}"
    named = _NAME.fullmatch(description)
    return description if named and named[2] == vm else ""


def new_id(name: str, vm: str) -> str:
    """An id for a backup of that name; random in part, because the Engine remembers ids of failed ones. Raises Refused."""
    parts = _NAME.fullmatch(name)
    if parts is None or parts[2] != vm or int(parts[3]) > 0xFFFF:
        detail = f"it is to be called tranship-DIGITS-{vm}-ROUND"
        raise Refused(detail, what=f"a backup named {name!r}", fault="NotOurs", side=Side.OURS)
    noise = secrets.token_hex(3)
    return f"{parts[1]}-{int(parts[3]):04x}-4{noise[:3]}-8{noise[3:]}-{_TAIL}"


def backup_of(said: Entity, vm: str) -> Backup:
    return Backup(
        id=text(said, "id"),
        name=name_of(text(said, "id"), text(said, "description"), vm),
        phase=text(said, "phase"),
        since=text(said, "from_checkpoint_id"),
        to=text(said, "to_checkpoint_id"),
        snapshot=text(said, "snapshot", "id"),
    )


class Backups:
    def __init__(self, client: Client, patience: Patience) -> None:
        self._client = client
        self._patience = patience
        self._useless: dict[str, str] = {}  # checkpoint -> why the Engine could not count from it
        self._doubted: set[str] = set()

    # -- look ----------------------------------------------------------------------------------------------------------

    def all(self, vm: VM) -> list[Backup]:
        """Everybody's. Newer Engines keep those that are over for a while."""
        if self._client.version < OLDEST:
            return []
        return [backup_of(one, vm.id) for one in self._client.list(f"vms/{vm.id}/backups", "backup")]

    def open(self, vm: VM) -> list[Backup]:
        return [one for one in self.all(vm) if not one.over]

    def checkpoints(self, vm: VM) -> dict[str, str]:
        """Id -> state (created, invalid)."""
        if self._client.version < OLDEST:
            return {}
        found = self._client.list(f"vms/{vm.id}/checkpoints", "checkpoint")
        return {text(one, "id"): text(one, "state") for one in found}

    def required(self, vm: VM, name: str) -> Backup:
        """The own backup of that name, which has to be ready. Raises NotFound, Busy."""
        for one in self.open(vm):
            if one.name == name and one.ready:
                return one
            if one.name == name:
                raise Busy(f"it is {one.phase}", what=f"backup {name}", fault=one.phase, side=Side.SOURCE)
        raise NotFound(f" on VM {vm.name}", what="backup", name=name, side=Side.SOURCE)

    def incremental(self, vm: VM, backup: Backup) -> frozenset[str]:
        """The disks of which the backup knows changes only; the Engine decides it for each."""
        disks = self._client.list(f"vms/{vm.id}/backups/{backup.id}/disks", "disk")
        return frozenset(text(disk, "id") for disk in disks if text(disk, "backup_mode") == "incremental")

    def why_full(self, vm: VM, since: str) -> str:
        """Why a backup that was asked to count from this checkpoint does not."""
        if why := self._useless.get(since):
            return f"the source cannot tell changes since checkpoint {since}: {why}"
        state = self.checkpoints(vm).get(since, "gone")
        if state == "created":
            return f"the source gave a full copy although checkpoint {since} was named"
        return f"checkpoint {since} is {state}: a snapshot was reverted, or it was removed"

    # -- make and end --------------------------------------------------------------------------------------------------

    def create(self, vm: VM, name: str, disks: Iterable[str], since: str) -> None:
        """Returns when it can be read. One of that name is adopted. Raises Busy while another one is open, and after a
        start that failed (temporary: the next call begins anew, full if the checkpoint was the reason)."""
        others = self.open(vm)
        made = next((one for one in others if one.name == name), None)
        if made is None:
            if others:
                raise self._occupied(others[0], name)
            made = self._start(vm, name, disks, self._usable(vm, since))
        self._wait_ready(vm, made)

    def _usable(self, vm: VM, since: str) -> str:
        if not since or since in self._useless or self.checkpoints(vm).get(since) != "created":
            return ""
        return since

    def _start(self, vm: VM, name: str, disks: Iterable[str], since: str) -> Backup:
        id = new_id(name, vm.id)
        body: Entity = {"id": id, "description": name, "disks": {"disk": [{"id": disk} for disk in disks]}}
        if since:
            body["from_checkpoint_id"] = since
        try:
            made = backup_of(self._client.post(f"vms/{vm.id}/backups", body, correlation_id=id), vm.id)
        except (Busy, Refused) as error:
            others = [one for one in self.open(vm) if one.name != name]
            if others:
                raise self._occupied(others[0], name) from error
            told = about(self._client, id)
            if not since or not self._blames_base(error.detail, told):
                raise
            self._give_up(vm, since, _reason(told) or error.detail)
            detail = f"{_reason(told) or error.detail}; the next one will be full"
            raise Busy(detail, what=f"backup {name}", fault="BackupFailed", side=Side.SOURCE) from error
        if made.name != name:
            self._finalize(vm, made)
            detail = (
                f"Engine {'.'.join(map(str, self._client.version))} gives backups its own ids and keeps no descriptions"
            )
            remedy = "Update the Engine, or switch incremental backup off for the VM's disks: then snapshots are used."
            raise Unsupported(detail, what="warm migration by backup", side=Side.SOURCE, remedy=remedy)
        return made

    def _occupied(self, other: Backup, name: str) -> Busy:
        whose = other.name or "another tool"
        remedy = "Wait until it has ended, or end it with the tool that began it."
        detail = f"backup {other.id} of {whose} is open on the VM, and there can be one only"
        return Busy(detail, what=f"backup {name}", fault="DuringBackup", side=Side.SOURCE, remedy=remedy)

    def _wait_ready(self, vm: VM, backup: Backup) -> None:
        def look() -> bool | None:
            phase = self._phase(vm, backup.id)
            if phase in _STARTING:
                return None
            if phase != "ready":
                raise self._failure(vm, backup, phase)
            return True

        self._patience.until(f"starting backup {backup.name}", _READY_WITHIN, look)

    def _phase(self, vm: VM, id: str) -> str:
        try:
            return text(self._client.get(f"vms/{vm.id}/backups/{id}"), "phase")
        except NotFound:  # Engines before 4.4.7 forget it at once
            return "gone"

    def _failure(self, vm: VM, backup: Backup, phase: str) -> Busy:
        told = about(self._client, backup.id)
        reason = detail = _reason(told) or f"it is {phase}"
        if backup.since and (backup.since in self._doubted or self._blames_base(reason, told)):
            self._give_up(vm, backup.since, reason)
            detail = f"{reason}; the next one will be full"
        self._doubted.add(backup.since)
        remedy = "Look at the events of the VM in the Administration Portal."
        what = f"backup {backup.name}"
        return Busy(detail, what=what, fault="BackupFailed", side=Side.SOURCE, remedy=remedy)

    def _blames_base(self, reason: str, told: Iterable[Event]) -> bool:
        return any(event.code == _FULL_NEEDED for event in told) or bool(_BROKEN_BASE.search(reason))

    def _give_up(self, vm: VM, checkpoint: str, reason: str) -> None:
        """What cannot be counted from is of no more use. If it cannot be removed now, the itinerary does it later."""
        self._useless[checkpoint] = reason
        with contextlib.suppress(Busy, TimedOut, Unreachable):
            self.remove_checkpoint(vm, checkpoint)

    def remove(self, vm: VM, name: str) -> tuple[str, ...]:
        """Finalize it. Returns when the Engine has ended it, for a hybrid backup with its snapshot merged; or without, then
        that snapshot is left behind. Gives the ids of the snapshots that there were."""
        own = [one for one in self.all(vm) if one.name == name]
        for one in own:
            if not one.over:
                self._finalize(vm, one)
        return tuple(one.snapshot for one in own if one.snapshot)

    def _finalize(self, vm: VM, backup: Backup) -> None:
        """One that is still starting gets some time first: to end it early is an error to the Engine."""
        what, refusal = f"finalizing backup {backup.name or backup.id}", ""

        def look() -> bool | None:
            nonlocal refusal
            phase = self._phase(vm, backup.id)
            if phase in ("succeeded", "failed", "gone"):
                return True
            if phase != "finalizing":
                try:
                    self._client.action(f"vms/{vm.id}/backups/{backup.id}/finalize")
                except (Busy, Refused, NotFound) as error:
                    refusal = error.detail
            return None

        with contextlib.suppress(TimedOut):
            self._patience.until(what, _EARLY, lambda: self._phase(vm, backup.id) not in _STARTING or None)
        try:
            self._patience.until(what, _FINAL_WITHIN, look)
        except TimedOut as error:
            detail = f": {refusal}" if refusal else ""
            raise TimedOut(detail, what=what, seconds=_FINAL_WITHIN, side=Side.SOURCE) from error

    def remove_checkpoint(self, vm: VM, id: str) -> None:
        """Unknown ones are ignored. Raises Busy while a backup is open."""
        if self._client.version < OLDEST:
            return
        try:
            self._client.delete(f"vms/{vm.id}/checkpoints/{id}")
        except NotFound:
            return
        except Busy:
            if id not in self.checkpoints(vm):
                return
            raise
        what = f"removing checkpoint {id} of {vm.name}"
        self._patience.until(what, _GONE_WITHIN, lambda: id not in self.checkpoints(vm) or None)


def _reason(events: Iterable[Event]) -> str:
    """The Engine's own words: of an error if there is one, else the last."""
    told = list(events)
    bad = [event for event in told if event.grave] or told
    return next((event.text for event in bad if event.code == _FULL_NEEDED), bad[0].text if bad else "")
