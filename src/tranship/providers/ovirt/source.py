"""oVirt / Red Hat Virtualization as a source: fulfils providers.base.Source with the files beside it.

Made by the registry for a Provider of type ovirt, used by the controllers from several threads. Two sessions: one for calls,
one for the inventory's long listings.

Three ways to a disk's bytes, all by image transfers in raw form: "imageio" (the disk of a VM that is down), "backup" (an own
backup, which knows what changed since a checkpoint) and "snapshot" (an own snapshot, whose layer is what changed since the
one before). The handle that a round keeps is JSON: disk -> id of its transfer.

settings: ovirtClientTimeout (how long the Engine may take for an answer).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from threading import Event, Lock

from tranship.errors import NotFound, Refused, Side, TranshipError, Unreachable, Unsupported
from tranship.inventory.estate import Estate
from tranship.inventory.vm import VM, Power
from tranship.migration.seen import SourceSeen
from tranship.providers.base import DiskWay, Fence, HostAccess, Identity, Probe, Reading, nothing_fenced
from tranship.providers.ovirt import observe, power
from tranship.providers.ovirt import ways as choice
from tranship.providers.ovirt.backups import Backups
from tranship.providers.ovirt.client import Client, Login, timeout_of
from tranship.providers.ovirt.inventory import Inventory
from tranship.providers.ovirt.snapshots import Layer, Snapshots
from tranship.providers.ovirt.transfers import Lent, Transfers, Wanted, engine_ca
from tranship.providers.ovirt.values import text
from tranship.providers.ovirt.waits import Patience
from tranship.transfer import channel
from tranship.transfer.address import DiskAddress, Extent
from tranship.transfer.readers import open_reader

_LAYER = "/layer"  # ends the key of a transfer that only lists a disk's layer


class OvirtSource:
    def __init__(
        self,
        url: str,
        secret: Mapping[str, str],
        settings: Mapping[str, str],
        *,
        timeout: float | None = None,
        poll: float = 1.0,
        fence: Fence = nothing_fenced,
    ) -> None:
        """timeout: seconds for each answer, None = as the settings say. poll: seconds between looks at what the Engine does.
        Raises Invalid."""
        self._login = Login.of(url, secret)
        self._calls = Client(self._login, timeout=timeout or timeout_of(settings), fence=fence)
        patience = Patience(poll)
        self._patience = patience
        self._backups = Backups(self._calls, patience)
        self._snapshots = Snapshots(self._calls, patience)
        self._transfers = Transfers(self._calls, patience, self._credentials)
        self._lock = Lock()
        self._trust: dict[str, str] | None = None

    def identify(self) -> Identity:
        self._calls.connect()
        about = self._calls.about
        name = text(about, "product_info", "name")
        return Identity(
            product="Red Hat Virtualization" if name.startswith(("Red Hat", "RHV")) else "oVirt",
            version=".".join(str(part) for part in self._calls.version),
            uuid=text(about, "product_info", "instance_id"),
            fingerprint=self._calls.sha1,
            insecure=self._login.trust.insecure,
        )

    def read_from(self, hosts: Sequence[HostAccess]) -> None:
        """They are read from directly in any case: the Engine itself says how."""

    def follow(self, publish: Callable[[Estate], None], stop: Event) -> None:
        client = self._calls.sibling()
        try:
            Inventory(client).follow(publish, stop)
        finally:
            client.close()

    def close(self) -> None:
        self._calls.close()

    # -- the VM ------------------------------------------------------------------------------------------------------

    def observe(self, vm: VM) -> SourceSeen:
        return observe.look(self._calls, self._backups, vm)

    def enable_change_tracking(self, vm: VM, name: str) -> None:
        """Nothing to switch on: checkpoints and snapshots tell changes by themselves."""

    def create_snapshot(self, vm: VM, name: str, *, quiesce: bool, since: str = "") -> None:
        """A backup where all disks can be backed up by increments, else a snapshot. The Engine asks a guest's agent to
        quiesce whenever there is one. A backup that cannot count from `since` is full."""
        disks = [disk.key for disk in vm.disks]
        if choice.by_backup(vm):
            power.machine(self._calls, vm)
            self._backups.create(vm, name, disks, since)
        else:
            self._snapshots.create(vm, name, disks)

    def remove_snapshot(self, vm: VM, name: str) -> None:
        """Whichever of both bears the name."""
        power.machine(self._calls, vm)
        self._transfers.end_all(disk.key for disk in vm.disks)
        self._snapshots.remove(vm, name, self._backups.remove(vm, name))

    def remove_checkpoint(self, vm: VM, id: str) -> None:
        self._backups.remove_checkpoint(vm, id)

    def consolidate(self, vm: VM) -> None:
        """The Engine merges by itself when a snapshot is removed."""

    def shut_down_guest(self, vm: VM) -> None:
        power.shut_down_guest(self._calls, vm)

    def power_off(self, vm: VM) -> None:
        power.power_off(self._calls, vm, self._patience)

    def power_on(self, vm: VM) -> None:
        """A transfer of ours whose id was lost keeps the disks locked."""
        if power.power(power.machine(self._calls, vm)) is Power.OFF:
            self._transfers.end_all(disk.key for disk in vm.disks)
        power.power_on(self._calls, vm, self._patience)

    # -- its bytes -----------------------------------------------------------------------------------------------------

    def ways(self, vm: VM, *, warm: bool, on_this_host: bool) -> tuple[DiskWay, ...]:
        return choice.choose(vm, warm=warm)

    def open_disks(
        self,
        vm: VM,
        ways: Mapping[str, str],
        *,
        snapshot: str,
        base: Mapping[str, str],
        before: str,
        remember: Callable[[str], None],
    ) -> Mapping[str, Reading]:
        missing = [key for key in ways if all(disk.key != key for disk in vm.disks)]
        if missing:
            raise NotFound(f" on VM {vm.name}", what="disk", name=missing[0], side=Side.SOURCE)
        round_ = _Round(self._transfers, _ids(before), remember)
        chosen = set(ways.values())
        if len(chosen) > 1 or not chosen <= set(choice.WAYS):
            raise Unsupported("no such way from oVirt", what=f"reading disks by {', '.join(sorted(chosen))}")
        if (choice.COLD in chosen) is bool(snapshot):
            detail = "a VM that is down is read without a snapshot, and a running one with"
            raise Refused(detail, what=f"reading {vm.name}", fault="InvalidPowerState", side=Side.SOURCE)
        match chosen.pop() if chosen else "":
            case choice.COLD:
                return {key: Reading(self._address(round_.lend(key, Wanted(key)))) for key in ways}
            case choice.BACKUP:
                return self._open_backup(vm, ways, snapshot, base, round_)
            case choice.SNAPSHOT:
                return self._open_snapshot(vm, ways, snapshot, base, round_)
        return {}

    def _open_backup(
        self, vm: VM, disks: Mapping[str, str], name: str, base: Mapping[str, str], round_: "_Round"
    ) -> Mapping[str, Reading]:
        backup = self._backups.required(vm, name)
        known = self._backups.incremental(vm, backup) if backup.since else frozenset()
        found = {}
        for key in disks:
            since, full = base.get(key, ""), ""
            delta = bool(since) and backup.since == since and key in known
            if since and not delta:
                full = (
                    f"the source has no increment of this disk since checkpoint {since}"
                    if backup.since == since
                    else self._backups.why_full(vm, since)
                )
            address = self._address(round_.lend(key, Wanted(key, backup=backup.id)), "dirty" if delta else "")
            found[key] = Reading(address, delta=delta, full=full)
        return found

    def _open_snapshot(
        self, vm: VM, disks: Mapping[str, str], name: str, base: Mapping[str, str], round_: "_Round"
    ) -> Mapping[str, Reading]:
        """A layer is listed by a transfer of its volume alone, then read by one of the whole chain: what is read again after
        a crash need not be in the layer."""
        id = self._snapshots.required(vm, name)
        layers = self._snapshots.layers(vm, id, disks)
        found = {}
        for key in disks:
            layer = layers.get(key)
            if layer is None:
                raise NotFound(f" of disk {key} in {name}", what="disk snapshot", name=id, side=Side.SOURCE)
            areas, full = self._changed(vm, key, layer, base.get(key, ""), round_)
            address = self._address(round_.lend(key, Wanted(key, image=layer.image)))
            found[key] = Reading(address, delta=areas is not None, changed=areas, full=full)
        return found

    def _changed(
        self, vm: VM, disk: str, layer: Layer, since: str, round_: "_Round"
    ) -> tuple[tuple[Extent, ...] | None, str]:
        """Areas of the layer, or None and why everything has to be read."""
        if not since:
            return None, ""
        if layer.below != since:
            return None, f"another snapshot lies between this round and the one before ({since}), or that one is gone"
        round_.end(disk)
        lent = round_.lend(f"{disk}{_LAYER}", Wanted(disk, image=layer.image, shallow=True))
        try:
            if not lent.shallow:
                return None, "this Engine does not read a snapshot's layer apart from what lies under it"
            reader = open_reader(self._address(lent, "layer"), vm.disk(disk).capacity)
            try:
                return tuple(reader.changed()), ""
            finally:
                reader.close()
        finally:
            round_.end(disk)

    def keep(self, handle: str) -> None:
        self._transfers.keep(_ids(handle).values())

    def close_disks(self, handle: str) -> None:
        for id in _ids(handle).values():
            self._transfers.end(id)

    def probe(self, vm: VM) -> tuple[Probe, ...]:
        """Read a little of the first disk, if the VM is down."""
        if self.observe(vm).power is not Power.OFF:
            return (Probe(choice.COLD, None, "cannot be tried now: it needs the VM down"),)
        lent: list[str] = []
        try:
            disk = vm.disks[0]
            wanted = {disk.key: choice.COLD}
            opened = self.open_disks(vm, wanted, snapshot="", base={}, before="", remember=lent.append)
            outcome = channel.probe(opened[disk.key].address, disk.capacity)
        except TranshipError as error:
            return (Probe(choice.COLD, False, str(error)),)
        finally:
            for handle in lent[-1:]:
                self.close_disks(handle)
        return (Probe(choice.COLD, outcome.works, outcome.detail),)

    # -- addresses -----------------------------------------------------------------------------------------------------

    def _address(self, lent: Lent, delta: str = "") -> DiskAddress:
        query = f"?delta={delta}" if delta else ""
        return DiskAddress(f"imageio+{lent.url}{query}", self._credentials())

    def _credentials(self) -> Mapping[str, str]:
        """Hosts show certificates that the Engine's own CA signed, whoever signed the Engine's; a pin is the Engine's alone."""
        with self._lock:
            if self._trust is None:
                self._trust = self._hosts_trust()
            return self._trust

    def _hosts_trust(self) -> dict[str, str]:
        trust = self._login.trust
        if trust.insecure:
            return {"insecure": "true"}
        own = engine_ca(self._calls)
        if trust.thumbprint and not own:
            remedy = "Put the Engine's CA into the secret's cacert instead of a thumbprint: it signs the hosts' certificates."
            raise Unreachable("it offers no CA", address=self._calls.netloc, side=Side.SOURCE, remedy=remedy)
        pem = "\n".join(one.strip() for one in (trust.ca, own) if one)
        return {"ca": f"{pem}\n"} if pem else {}


class _Round:
    """The transfers of one round, by key, as its handle says."""

    def __init__(self, transfers: Transfers, known: Mapping[str, str], remember: Callable[[str], None]) -> None:
        self._transfers = transfers
        self._known = dict(known)
        self._remember = remember

    def lend(self, key: str, wanted: Wanted) -> Lent:
        def note(id: str) -> None:
            self._known[key] = id
            self._remember(json.dumps(self._known))

        return self._transfers.lend(wanted, self._known.get(key, ""), note)

    def end(self, disk: str) -> None:
        """All of the disk."""
        for key in (disk, f"{disk}{_LAYER}"):
            if id := self._known.pop(key, ""):
                self._transfers.end(id)


def _ids(handle: str) -> dict[str, str]:
    """What a handle stands for; nothing for one that is none of ours."""
    try:
        found = json.loads(handle)
    except ValueError:
        return {}
    return {str(key): str(id) for key, id in found.items()} if isinstance(found, dict) else {}
