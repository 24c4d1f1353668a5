"""Facts that a phase decides from. Gathered by the controller (look), consumed by pure `decide` functions.

Nothing here remembers what was asked: only what the source, the target, the movers and the user's manifests say now.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from tranship.errors import TranshipError
from tranship.inventory.vm import Power


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Disks frozen under a name: a snapshot, or an oVirt backup. change_ids: disk key -> what the next round names as its
    base; an absent or empty one means that changes of that disk are not tracked. checkpoint: what of it outlives its
    removal on the source, as a base, and has to be removed apart; "" = nothing. blocks_power_on: the VM cannot be started
    while it is there."""

    id: str
    name: str
    change_ids: Mapping[str, str] = field(default_factory=dict)
    quiesced: bool = False
    checkpoint: str = ""
    blocks_power_on: bool = False


@dataclass(frozen=True, slots=True)
class SourceDisk:
    """change_tracking None: the platform tells changes without anything having to be switched on."""

    key: str
    capacity: int
    backing_uuid: str = ""
    change_tracking: bool | None = False


@dataclass(frozen=True, slots=True)
class SourceSeen:
    """A live read of the source VM (never from cache). snapshots: the whole tree, parents first, users' ones included.
    tasks: what works on this VM now and must end before its snapshots are touched (a snapshot, a relocation, another tool's
    backup, a locked disk). checkpoints: ids of all that the VM has, others' included."""

    power: Power
    snapshots: tuple[Snapshot, ...] = ()
    disks: tuple[SourceDisk, ...] = ()
    consolidation_needed: bool = False
    tools_running: bool = False
    tasks: tuple[str, ...] = ()
    checkpoints: tuple[str, ...] = ()

    def snapshot(self, name: str) -> Snapshot | None:
        return next((snapshot for snapshot in self.snapshots if snapshot.name == name), None)


class CopyState(Enum):
    ABSENT = "absent"  # no mover was started for this disk and round
    RUNNING = "running"
    DONE = "done"  # copied, flushed, read back and equal
    FAILED = "failed"  # the mover says why
    LOST = "lost"  # the mover died without a word; its journal remains


@dataclass(frozen=True, slots=True)
class CopySeen:
    """One disk in one round. Bytes: total to look at, done so far, copied (read and written), zeroed. areas: changed areas
    that the source named. full: why the disk is copied fully although a base was known. verified: read back and equal."""

    state: CopyState
    total: int = 0
    done: int = 0
    copied: int = 0
    zeroed: int = 0
    areas: int = 0
    full: str = ""
    rate: float = 0.0  # bytes per second, lately
    seconds: float = 0.0
    digest: str = ""
    verified: bool = False
    released: bool = True  # the source's lease or transfer behind the copy is given back
    reason: str = ""  # of a failure: the error's stable name
    message: str = ""
    suggestion: str = ""
    temporary: bool = False

    @property
    def waits(self) -> bool:
        """A mover is to run, and does not yet; message says why."""
        return self.state is CopyState.RUNNING and bool(self.message)

    @property
    def stuck(self) -> bool:
        """It waits for something that will not come by itself. It has to be stopped: it may still start."""
        return self.state is CopyState.RUNNING and bool(self.reason)


class MachineState(Enum):
    ABSENT = "absent"
    OFF = "off"
    STARTING = "starting"  # does not run, but may come up at any moment, or has not quite gone
    RUNNING = "running"


@dataclass(frozen=True, slots=True)
class TargetSeen:
    """disks: keys of the source disks for which an own target disk exists. foreign: a machine or disk of that name
    exists and is not this migration's. uids: (disk or machine, name on the target) -> uid of each thing with an own mark
    that stays; empty where the target knows no uids."""

    disks: frozenset[str] = frozenset()
    machine: MachineState = MachineState.ABSENT
    foreign: str = ""
    uids: Mapping[tuple[str, str], str] = field(default_factory=dict)

    @property
    def may_run(self) -> bool:
        """The source must not be up beside it."""
        return self.machine in (MachineState.STARTING, MachineState.RUNNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the user's manifests and settings say now. Seconds throughout; interval None = adapt to the churn.

    mark: begins the name of everything that this migration makes of this VM on the source; own: begins the name of
    everything that tranship ever makes. disks: keys of the source disks in order, with their sizes in bytes.
    """

    mark: str
    own: str = "tranship-"
    disks: Mapping[str, int] = field(default_factory=dict)
    disk_names: tuple[str, ...] = ()
    machine: str = ""
    interval: float | None = 3600.0
    target_downtime: float | None = None
    enable_change_tracking: bool = False
    quiesce: bool = False
    shutdown_deadline: float = 600.0
    hard_power_off: bool = True
    snapshot_deadline: float = 1800.0
    removal_deadline: float = 7200.0
    start_deadline: float = 300.0
    power: str = "auto"  # on, off or auto = as the source was
    delete_on_fail: bool = True
    backoff: float = 2.0  # of the first repetition; doubles, at most 60
    inflight: int = 20  # VMs that may be under way at a time, as budget.py counts them


@dataclass(frozen=True, slots=True)
class Seen:
    """All facts of one look at one VM. failed: errors of asks since the last step, by the ask's key."""

    now: datetime
    policy: Policy
    source: SourceSeen
    target: TargetSeen = TargetSeen()
    copies: Mapping[str, CopySeen] = field(default_factory=dict)  # of the current round, by disk key
    failed: Mapping[str, TranshipError] = field(default_factory=dict)
    cutover: datetime | None = None  # when the user wants it
    cancelled: bool = False
    slot: bool = True  # of the budget: the VM holds one, or may have it now

    @property
    def cutover_due(self) -> bool:
        return self.cutover is not None and self.cutover <= self.now
