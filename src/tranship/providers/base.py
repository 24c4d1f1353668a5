"""What a platform must fulfil to be a source or a target. Owned by the caller's side: the controllers.

All methods block and may take seconds: controllers call them in threads. Every method is idempotent under its name (a
snapshot or disk that exists already under the given name is adopted), has timeouts inside, and raises only
`tranship.errors`. Nothing here touches what is not named: users' snapshots and disks are never removed.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Protocol

from tranship.inventory.estate import Estate
from tranship.inventory.vm import VM
from tranship.migration.checks import Finding
from tranship.migration.mapping import MachineOrder
from tranship.migration.seen import CopySeen, SourceSeen, TargetSeen
from tranship.transfer.address import DiskAddress, Extent

Fence = Callable[[], None]
"""Asked right before each call that changes something on a source or in a cluster; raises when this process may not act any
more. A thread that was frozen in the middle of an effect, and is thawed when another process acts, goes no further."""


def nothing_fenced() -> None:
    """Of a process that nobody takes over from."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who answers: product and version, its instance uuid, and the SHA-1 fingerprint of its certificate."""

    product: str
    version: str
    uuid: str
    fingerprint: str = ""
    missing_privileges: tuple[str, ...] = ()
    insecure: bool = False


@dataclass(frozen=True, slots=True)
class HostAccess:
    """A host of the source that is to be read from directly. name: of the Host that says so. id or host: which one it is, as
    the inventory has it. address: `HOST` or `HOST:PORT`. secret: user, password, and whom to trust there."""

    name: str
    id: str
    host: str
    address: str
    secret: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Library:
    """One that reading needs and that is not ours to give, and where movers find it: those of this host in `directory`, those
    in pods in what the `image` copies to /opt when it is run, or on a `claim` of their namespace. "" = not there."""

    directory: str = ""
    image: str = ""
    claim: str = ""

    def reaches(self, *, on_this_host: bool) -> bool:
        return bool(self.directory) if on_this_host else bool(self.image or self.claim)


@dataclass(frozen=True, slots=True)
class DiskWay:
    """By which way a disk's bytes come (vddk, nfc, datastore, ...), and why that one: the user reads it. library: what
    movers need for it."""

    disk: str
    way: str
    why: str
    library: Library | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    """Outcome of reading a few blocks by one way. works None = cannot be tried in the VM's present state."""

    way: str
    works: bool | None
    detail: str


@dataclass(frozen=True, slots=True)
class Reading:
    """One disk ready to be read. delta: only what changed since the base that was given; changed: where, None = the disk's
    reader tells. full: why everything has to be read although a base was given. library: what the reader needs."""

    address: DiskAddress
    delta: bool = False
    changed: tuple[Extent, ...] | None = None
    full: str = ""
    library: Library | None = None


class Source(Protocol):
    """One source provider. `vm` arguments are inventory facts: id plus instance_uuid, both checked before any power call."""

    def identify(self) -> Identity:
        """Connect and log in. Raises Unreachable, Untrusted, AuthFailed."""

    def read_from(self, hosts: Sequence[HostAccess]) -> None:
        """From now on the disks of VMs on these hosts, and on no others, are read from them directly."""

    def follow(self, publish: Callable[[Estate], None], stop: Event) -> None:
        """Publish the whole estate once, then again after every change, until stop is set. Blocks. Raises on trouble."""

    def observe(self, vm: VM) -> SourceSeen:
        """A live read of power, snapshots, disks, tasks."""

    def enable_change_tracking(self, vm: VM, name: str) -> None:
        """Switch change tracking on and activate it (a snapshot under `name` is made and removed where that is needed)."""

    def create_snapshot(self, vm: VM, name: str, *, quiesce: bool, since: str = "") -> None:
        """Freeze the disks under `name`: a snapshot, or what the platform has in its place (an oVirt backup). since: the
        checkpoint that the target holds, "" = none. Returns when the disks can be read."""

    def remove_snapshot(self, vm: VM, name: str) -> None:
        """Returns when it is gone and consolidated, or raises TimedOut (temporary): call again."""

    def remove_checkpoint(self, vm: VM, id: str) -> None:
        """One that a snapshot of ours left behind as the base of the next round. Unknown ones are ignored."""

    def consolidate(self, vm: VM) -> None: ...

    def shut_down_guest(self, vm: VM) -> None: ...

    def power_off(self, vm: VM) -> None: ...

    def power_on(self, vm: VM) -> None: ...

    def ways(self, vm: VM, *, warm: bool, on_this_host: bool) -> tuple[DiskWay, ...]:
        """The way chosen for each disk. on_this_host: of the movers. Raises Unsupported when a disk has none."""

    def probe(self, vm: VM) -> tuple[Probe, ...]: ...

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
        """ways: disk key -> way, of the disks that are wanted. snapshot: name of an own snapshot, "" = the powered-off VM
        itself. base: disk key -> changeId of what the target holds, of the disks that have one.

        What is lent for reading (a lease, a transfer) stands in a handle that `remember` is told as soon as it exists; it
        survives a restart of the controller. before: the handle of an earlier call for the same snapshot; other disks may
        still be read by it, so what it stands for is used on if it lives."""

    def keep(self, handle: str) -> None:
        """Keep alive. Called at least every 30 s while copies run. Unknown handles are ignored."""

    def close_disks(self, handle: str) -> None:
        """Give back. Unknown or already closed handles are ignored."""

    def close(self) -> None: ...


class Movers(Protocol):
    """The movers of one machine's disks, and what the source lends them: one for each disk and round. Everything is found
    again by whoever comes after a crash; each call adopts what an earlier one has begun."""

    def look(self, disk: str, round_: int) -> CopySeen: ...

    def start(
        self, disk: str, round_: int, *, source: Reading, target: DiskAddress, size: int, point: str, verify: bool
    ) -> None:
        """Have the disk's round copied, unless that is under way or done. point names what is read: a journal of another
        point is not resumed. Raises Busy while another mover is on the disk."""

    def stop(self, disk: str, round_: int) -> None:
        """Returns when nothing writes to the disk any more. Raises TimedOut."""

    def end(self, disk: str, round_: int) -> None:
        """Nothing of a mover that has ended is needed any more but its report."""

    def handle(self, round_: int) -> str:
        """What the source lends for the round; "" = nothing."""

    def remember_handle(self, round_: int, handle: str) -> None: ...

    def forget_handle(self, round_: int) -> None: ...

    def forget(self) -> None:
        """The machine's migration is over: journals, reports and handles go."""


class Target(Protocol):
    """One target provider. Everything it makes carries the order's owner mark, and only that is ever adopted or deleted.
    on_this_host: its movers run here, and find the libraries of this host."""

    @property
    def on_this_host(self) -> bool: ...

    def identify(self) -> Identity: ...

    def estate(self) -> Estate:
        """Networks and datastores (storage classes) that maps may name as destinations, and the names of taken VMs."""

    def observe(self, order: MachineOrder) -> TargetSeen: ...

    def check(self, orders: Sequence[MachineOrder], libraries: Collection[Library] = ()) -> Sequence[Finding]:
        """What would keep the orders of one plan from being carried out, or be left out, found without changing anything.
        libraries: what its movers will need. Raises what keeps the target from being asked."""

    def create_disks(self, order: MachineOrder) -> None:
        """Raises NoSpace, AlreadyExists (somebody else's)."""

    def address(self, order: MachineOrder, disk: str) -> DiskAddress: ...

    def movers(self, order: MachineOrder, work: Path) -> Movers:
        """Those that can write to the order's disks. work: a directory of this host for them alone."""

    def create_machine(self, order: MachineOrder) -> None: ...

    def start_machine(self, order: MachineOrder) -> None: ...

    def stop_machine(self, order: MachineOrder) -> None: ...

    def delete_machine(self, order: MachineOrder, uid: str) -> None:
        """uid: of the one that was made, "" where `observe` tells none. What is not ours, or another one, stays."""

    def delete_disks(self, order: MachineOrder, made: Mapping[str, str]) -> None:
        """made: source disk -> uid, as above."""

    def close(self) -> None: ...
