"""Carries out what phases ask, and gathers what they decide from, for one VM. Everything blocks: called in threads.

Idempotent throughout: asked twice, the second finds the first one's work, because providers and movers adopt by name.
"""

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tranship.errors import Broken
from tranship.inventory.vm import VM
from tranship.migration import asks
from tranship.migration.mapping import MachineOrder
from tranship.migration.seen import CopySeen, CopyState, SourceSeen, TargetSeen
from tranship.providers.base import Movers, Source, Target

KEEP_EVERY = 3.0  # seconds between signs of life for what the source lends


class Effects:
    """work: the movers' directory on this host. verify: read back what was written. The source VM is given as facts of the
    inventory; its id and instance uuid are what the provider checks before any call that changes something."""

    def __init__(
        self, source: Source, target: Target, vm: VM, order: MachineOrder, work: Path, *, verify: bool
    ) -> None:
        self._source, self._target, self._vm, self._order, self._work = source, target, vm, order, work
        self._verify = verify
        self._kept = 0.0

    def use(self, source: Source, target: Target) -> bool:
        """From now on: a provider's connection is opened anew when its secret or settings change. Whether one is new."""
        new = self._source is not source or self._target is not target
        self._source, self._target = source, target
        return new

    def uses(self, source: Source, target: Target) -> bool:
        return self._source is source and self._target is target

    @property
    def _movers(self) -> Movers:
        return self._target.movers(self._order, self._work)

    # --- look ---

    def source_seen(self) -> SourceSeen:
        return self._source.observe(self._vm)

    def target_seen(self) -> TargetSeen:
        return self._target.observe(self._order)

    def copies_seen(self, round_: int) -> Mapping[str, CopySeen]:
        return {disk.source: self._movers.look(disk.source, round_) for disk in self._order.disks}

    def keep_alive(self, round_: int) -> None:
        handle = self._movers.handle(round_)
        if handle and time.monotonic() - self._kept > KEEP_EVERY:
            self._kept = time.monotonic()
            self._source.keep(handle)

    # --- ask ---

    def carry_out(self, ask: asks.Ask) -> None:
        """Raises tranship.errors."""
        source, target, vm, order = self._source, self._target, self._vm, self._order
        match ask:
            case asks.EnableChangeTracking(name):
                source.enable_change_tracking(vm, name)
            case asks.CreateSnapshot(name, quiesce, since):
                source.create_snapshot(vm, name, quiesce=quiesce, since=since)
            case asks.RemoveSnapshot(name, _):
                source.remove_snapshot(vm, name)
            case asks.RemoveCheckpoint(id):
                source.remove_checkpoint(vm, id)
            case asks.Consolidate():
                source.consolidate(vm)
            case asks.ShutDownGuest():
                source.shut_down_guest(vm)
            case asks.PowerOff():
                source.power_off(vm)
            case asks.PowerOn():
                source.power_on(vm)
            case asks.CreateDisks():
                target.create_disks(order)
            case asks.StartCopies():
                self._start_copies(ask)
            case asks.EndCopies(round_):
                self._end_copies(round_)
            case asks.StopCopies(round_):
                self._stop_copies(round_)
            case asks.CreateMachine():
                target.create_machine(order)
            case asks.StartMachine():
                target.start_machine(order)
            case asks.StopMachine():
                target.stop_machine(order)
            case asks.DeleteMachine(uid):
                target.delete_machine(order, uid)
            case asks.DeleteDisks(made):
                target.delete_disks(order, made)
            case _:
                raise Broken(f"nobody carries out {ask.key}")

    def _start_copies(self, ask: asks.StartCopies) -> None:
        done = (CopyState.RUNNING, CopyState.DONE)
        disks = [disk for disk in ask.ways if self._movers.look(disk, ask.round).state not in done]
        if not disks:
            return
        opened = self._source.open_disks(
            self._vm,
            {disk: ask.ways[disk] for disk in disks},
            snapshot=ask.snapshot,
            base=ask.base,
            before=self._movers.handle(ask.round),
            remember=partial(self._movers.remember_handle, ask.round),
        )
        for disk in disks:
            self._movers.start(
                disk,
                ask.round,
                source=opened[disk],
                target=self._target.address(self._order, disk),
                size=next(one.size for one in self._order.disks if one.source == disk),
                point=f"{ask.round}/{ask.snapshot}/{ask.base.get(disk, '')}",
                verify=self._verify,
            )

    def _stop_copies(self, round_: int) -> None:
        """At once, for each takes its time. Raises the first trouble when all have been tried."""
        disks = [disk.source for disk in self._order.disks]
        movers = self._movers
        with ThreadPoolExecutor(max_workers=max(len(disks), 1), thread_name_prefix="stop") as pool:
            list(pool.map(lambda disk: movers.stop(disk, round_), disks))

    def _end_copies(self, round_: int) -> None:
        self._source.close_disks(self._movers.handle(round_))
        for disk in self._order.disks:
            self._movers.end(disk.source, round_)
        self._movers.forget_handle(round_)
