"""Movers of one VM on this host: one process per disk and round, found again by their directories.

    WORK/<disk>/state/      leaves and journal of the disk: outlive rounds
    WORK/<disk>/round-N/    one job: what it was told, how far it is, how it ended
    WORK/handle-N           what the source lends for round N, to be given back

Called by effects.py. The mover itself knows nothing of rounds' meaning, plans or providers.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from tranship.migration.seen import CopySeen, CopyState
from tranship.transfer import channel
from tranship.transfer.address import DiskAddress, Extent

STOP_DEADLINE = 20.0  # seconds that a mover has to close its journal


class Movers:
    def __init__(self, work: Path) -> None:
        self._work = work

    def look(self, disk: str, round_: int) -> CopySeen:
        report = channel.look(self._job(disk, round_))
        return CopySeen(
            CopyState(report.state.value),
            total=report.total,
            done=report.done,
            copied=report.copied,
            zeroed=report.zeroed,
            areas=report.areas,
            full=report.note,
            rate=report.rate,
            seconds=report.seconds,
            digest=report.digest,
            verified=report.verified,
            released=not self.handle(round_),
            reason=report.reason,
            message=report.message,
            suggestion=report.suggestion,
            offset=report.offset,
            length=report.length,
            temporary=report.temporary,
        )

    def start(
        self,
        disk: str,
        round_: int,
        *,
        source: DiskAddress,
        target: DiskAddress,
        size: int,
        point: str,
        changed: Sequence[Extent] | None,
        full: str,
        verify: bool,
    ) -> None:
        """changed None = everything. point names what is read: a journal of another point is not resumed."""
        raise NotImplementedError

    def stop(self, disk: str, round_: int) -> None:
        channel.stop(self._job(disk, round_), STOP_DEADLINE)

    def handle(self, round_: int) -> str:
        path = self._handle(round_)
        return path.read_text() if path.exists() else ""

    def remember_handle(self, round_: int, handle: str) -> None:
        if handle:
            self._work.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._handle(round_).write_text(handle)

    def forget_handle(self, round_: int) -> None:
        self._handle(round_).unlink(missing_ok=True)

    def discard(self) -> None:
        shutil.rmtree(self._work, ignore_errors=True)

    def _job(self, disk: str, round_: int) -> Path:
        return self._work / disk / f"round-{round_}"

    def _handle(self, round_: int) -> Path:
        return self._work / f"handle-{round_}"
