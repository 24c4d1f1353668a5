"""A model of a source, movers and a target that carries out asks, for walks of itineraries without any platform.

Used by tests of migration/ and by whoever writes an itinerary. It is unkind: effects are seen `lag` looks late, guests may
refuse to shut down, asks fail as scripted, and it counts what must happen only once. Its rules are those of the field: no two
machines up at once, no snapshot made while another of ours is there, no disk deleted that holds the only copy.

`kind` says how the source tells changes: "tracking" (vSphere: changeIds, which need nothing that stays), "backup" (oVirt: the
snapshot is a backup and leaves a checkpoint behind; a VM under backup cannot be started) or "layers" (oVirt: what is between
two snapshots, so the last one has to stay until the next is copied).
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Literal

from tranship.errors import TranshipError
from tranship.inventory.vm import Power
from tranship.migration import asks
from tranship.migration.itinerary import Book, Do, Verdict, ended, step
from tranship.migration.progress import project
from tranship.migration.seen import (
    CopySeen,
    CopyState,
    MachineState,
    Policy,
    Seen,
    Snapshot,
    SourceDisk,
    SourceSeen,
    TargetSeen,
)
from tranship.resources.vm import VMStatus

START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class World:
    policy: Policy
    kind: Literal["tracking", "backup", "layers"] = "tracking"
    now: datetime = START
    tick: float = 3.0
    power: Power = Power.ON
    tools: bool = True
    guest_obeys: bool = True
    tracking: bool = True
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    checkpoints: set[str] = field(default_factory=set)
    epoch: int = 0
    churn: int = 8 << 20  # bytes that the guest changes between two snapshots
    copies: dict[int, dict[str, CopySeen]] = field(default_factory=dict)
    copy_looks: int = 2
    verify: bool = True
    disks: set[str] = field(default_factory=set)
    machine: MachineState = MachineState.ABSENT
    cutover: datetime | None = None
    cancelled: bool = False
    faults: dict[str, list[TranshipError]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    lag: int = 0
    uids: dict[tuple[str, str], str] = field(
        default_factory=dict
    )  # of the target's things; others may put theirs there
    _failed: dict[str, TranshipError] = field(default_factory=dict)
    _history: list[tuple[SourceSeen, TargetSeen]] = field(default_factory=list)

    def look(self, round_: int) -> Seen:
        """Facts as they were `lag` looks ago, copies as they are."""
        self.now += timedelta(seconds=self.tick)
        self._progress(round_)
        tracking = self.tracking if self.kind == "tracking" else None
        disks = tuple(SourceDisk(key, size, change_tracking=tracking) for key, size in self.policy.disks.items())
        source = SourceSeen(
            self.power,
            tuple(self.snapshots.values()),
            disks,
            tools_running=self.tools,
            checkpoints=tuple(sorted(self.checkpoints)),
        )
        self._history.append((source, TargetSeen(frozenset(self.disks), self.machine, uids=dict(self.uids))))
        source, target = self._history[max(len(self._history) - 1 - self.lag, 0)]
        failed, self._failed = self._failed, {}
        return Seen(
            now=self.now,
            policy=self.policy,
            source=source,
            target=target,
            copies=dict(self.copies.get(round_, {})),
            failed=failed,
            cutover=self.cutover,
            cancelled=self.cancelled,
        )

    def _progress(self, round_: int) -> None:
        for disk, one in self.copies.get(round_, {}).items():
            if one.state is CopyState.RUNNING:
                done = min(one.done + one.total // self.copy_looks + 1, one.total)
                state = CopyState.DONE if done == one.total else CopyState.RUNNING
                self.copies[round_][disk] = replace(
                    one,
                    state=state,
                    done=done,
                    copied=done,
                    seconds=one.seconds + self.tick,
                    verified=self.verify,
                    digest="d",
                )

    def carry_out(self, ask: asks.Ask) -> None:
        scripted = self.faults.get(ask.key)
        if scripted:
            self._failed[ask.key] = scripted.pop(0)
            return
        self.counts[ask.key] = self.counts.get(ask.key, 0) + 1
        getattr(self, f"_{ask.key}")(ask)

    def _EnableChangeTracking(self, ask: asks.EnableChangeTracking) -> None:
        self.tracking = True

    def _CreateSnapshot(self, ask: asks.CreateSnapshot) -> None:
        if ask.name in self.snapshots:
            return
        own = [one for one in self.snapshots if one.startswith(self.policy.mark)]
        most = 1 if self.kind == "layers" else 0
        assert len(own) <= most, f"{ask.name} was made while {own} is there"
        self.epoch += 1
        match self.kind:
            case "tracking":
                ids = dict.fromkeys(self.policy.disks, f"uuid/{self.epoch}") if self.tracking else {}
                made = Snapshot(f"snapshot-{self.epoch}", ask.name, ids)
            case "layers":
                made = Snapshot(
                    f"layer-{self.epoch}", ask.name, dict.fromkeys(self.policy.disks, f"layer-{self.epoch}")
                )
            case "backup":
                assert not ask.since or ask.since in self.checkpoints, f"{ask.since} is gone"
                left = f"checkpoint-{self.epoch}"
                self.checkpoints.add(left)
                ids = dict.fromkeys(self.policy.disks, left)
                made = Snapshot(f"backup-{self.epoch}", ask.name, ids, checkpoint=left, blocks_power_on=True)
        self.snapshots[ask.name] = made

    def _RemoveSnapshot(self, ask: asks.RemoveSnapshot) -> None:
        self.snapshots.pop(ask.name, None)

    def _RemoveCheckpoint(self, ask: asks.RemoveCheckpoint) -> None:
        self.checkpoints.discard(ask.id)

    def _Consolidate(self, ask: asks.Consolidate) -> None:
        pass

    def _ShutDownGuest(self, ask: asks.ShutDownGuest) -> None:
        if self.guest_obeys:
            self._set_power(Power.OFF)

    def _PowerOff(self, ask: asks.PowerOff) -> None:
        self._set_power(Power.OFF)

    def _PowerOn(self, ask: asks.PowerOn) -> None:
        assert self.machine is not MachineState.RUNNING, "source and target up at once"
        assert not any(one.blocks_power_on for one in self.snapshots.values()), "the VM is under backup"
        self._set_power(Power.ON)

    def _set_power(self, power: Power) -> None:
        if self.power is not power:
            self.power = power
            self.counts[f"power {power.value}"] = self.counts.get(f"power {power.value}", 0) + 1

    def _CreateDisks(self, ask: asks.CreateDisks) -> None:
        for disk, name in zip(self.policy.disks, self.policy.disk_names, strict=True):
            if disk not in self.disks:
                self.disks.add(disk)
                self.uids["disk", name] = f"claim-{name}-{self.counts['CreateDisks']}"

    def _StartCopies(self, ask: asks.StartCopies) -> None:
        ids = {one.id for one in self.snapshots.values()} | self.checkpoints
        assert self.kind == "tracking" or ids >= set(ask.base.values()), "the base of the delta is gone"
        assert ask.snapshot in self.snapshots or (not ask.snapshot and self.power is Power.OFF), "nothing to read from"
        known = self.copies.setdefault(ask.round, {})
        for disk in ask.ways:
            if known.get(disk, CopySeen(CopyState.ABSENT)).state in (CopyState.RUNNING, CopyState.DONE):
                continue
            total = self.churn if ask.base.get(disk) else self.policy.disks[disk]
            known[disk] = CopySeen(CopyState.RUNNING, total=total, released=False)

    def _EndCopies(self, ask: asks.EndCopies) -> None:
        for disk, one in self.copies.get(ask.round, {}).items():
            self.copies[ask.round][disk] = replace(one, released=True)

    def _StopCopies(self, ask: asks.StopCopies) -> None:
        for disk, one in self.copies.get(ask.round, {}).items():
            if one.state is CopyState.RUNNING:
                self.copies[ask.round][disk] = replace(one, state=CopyState.ABSENT)

    def _CreateMachine(self, ask: asks.CreateMachine) -> None:
        if self.machine is MachineState.ABSENT:
            self.machine = MachineState.OFF
            self.uids["machine", ask.name] = "machine-1"
            self.counts["machines"] = self.counts.get("machines", 0) + 1

    def _StartMachine(self, ask: asks.StartMachine) -> None:
        assert self.power is Power.OFF, "source and target up at once"
        self.machine = MachineState.RUNNING

    def _StopMachine(self, ask: asks.StopMachine) -> None:
        self.machine = MachineState.OFF

    def _DeleteMachine(self, ask: asks.DeleteMachine) -> None:
        if ask.uid == self.uids.get(("machine", self.policy.machine)):
            self.machine = MachineState.ABSENT
            del self.uids["machine", self.policy.machine]

    def _DeleteDisks(self, ask: asks.DeleteDisks) -> None:
        names = dict(zip(self.policy.disks, self.policy.disk_names, strict=True))
        for disk, uid in ask.made.items():
            if self.uids.get(("disk", names[disk])) == uid:
                self.disks.discard(disk)
                del self.uids["disk", names[disk]]


class Killed(BaseException):
    """The controller dies here."""


def walk(
    vm: VMStatus,
    world: World,
    book: Book,
    *,
    each: Callable[[VMStatus, World], None] = lambda vm, world: None,
    boundary: Callable[[str], None] = lambda where: None,
    most: int = 2000,
) -> VMStatus:
    """look, step, save, ask - until the end. What boundary raises as Killed loses everything that was not saved."""
    saved = vm
    for _ in range(most):
        if ended(saved, book):
            return saved
        each(saved, world)
        try:
            saved = _pass(saved, world, book, boundary)
        except Killed as death:
            saved = death.args[0] if death.args else saved
    raise AssertionError(f"no end after {most} looks: {saved.phase}: {saved.why}")


def _pass(saved: VMStatus, world: World, book: Book, boundary: Callable[[str], None]) -> VMStatus:
    rounds = len(saved.warm.precopies) if saved.warm else 0
    seen = world.look(max(rounds, 1))
    vm, verdict = step(saved, seen, book)
    vm.pipeline = project(vm, seen, book)
    vm = VMStatus.model_validate(vm.model_dump())
    boundary("before save")
    try:
        _ask(verdict, world, boundary)
    except Killed as death:
        raise Killed(vm) from death
    return vm


def _ask(verdict: Verdict, world: World, boundary: Callable[[str], None]) -> None:
    boundary("after save")
    for ask in verdict.asks if isinstance(verdict, Do) else ():
        boundary(f"before {ask.key}")
        world.carry_out(ask)
        boundary(f"after {ask.key}")
