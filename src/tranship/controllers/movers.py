"""Movers of one VM on this host: one process per disk and round, found again by their directories.

    WORK/<disk>/state/      leaves and journal of the disk: outlive rounds
    WORK/<disk>/round-N/    one job: what it was told, how far it is, how it ended
    WORK/handle-N           what the source lends for round N, to be given back

Called by effects.py. The mover itself knows nothing of rounds' meaning, plans or providers.
"""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec

from tranship.migration.seen import CopySeen, CopyState
from tranship.transfer import channel
from tranship.transfer.address import DiskAddress, Extent

STOP_DEADLINE = 20.0  # seconds that a mover has to close its journal


class Note(msgspec.Struct):
    """What the controller knows of a job and the mover need not."""

    areas: int = 0
    full: str = ""


class Movers:
    def __init__(self, work: Path) -> None:
        self._work = work

    def look(self, disk: str, round_: int) -> CopySeen:
        report = channel.look(self._job(disk, round_))
        note = self._note(disk, round_)
        return CopySeen(
            CopyState(report.state.value),
            total=report.total,
            done=report.done,
            copied=report.copied,
            zeroed=report.zeroed,
            areas=note.areas,
            full=note.full,
            rate=report.done / report.seconds if report.seconds else 0.0,
            seconds=report.seconds,
            digest=report.digest,
            verified=report.verified,
            released=not self.handle(round_),
            reason=report.reason,
            message=report.message,
            suggestion=report.suggestion,
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
        """changed None = everything; full: why, although less was hoped for. point names what is read: a journal of another
        point is not resumed."""
        folder = self._job(disk, round_)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        note = Note(areas=len(changed) if changed is not None else 1, full=full)
        (folder / "note.json").write_bytes(msgspec.json.encode(note))
        job = channel.Job(
            disk=disk,
            source=source,
            target=target,
            size=size,
            round=str(round_),
            point=point,
            state=self._work / disk / "state",
            base=str(round_ - 1) if changed is not None else None,
            changed=tuple(changed) if changed is not None else None,
            fresh=_untouched(target),
            verify=verify,
        )
        channel.start(folder, job)

    def stop(self, disk: str, round_: int) -> None:
        channel.stop(self._job(disk, round_), STOP_DEADLINE)
        channel.scrub(self._job(disk, round_))

    def handle(self, round_: int) -> str:
        path = self._handle(round_)
        return path.read_text() if path.exists() else ""

    def remember_handle(self, round_: int, handle: str) -> None:
        if handle:
            self._work.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._handle(round_).write_text(handle)

    def forget_handle(self, round_: int) -> None:
        self._handle(round_).unlink(missing_ok=True)

    def _note(self, disk: str, round_: int) -> Note:
        path = self._job(disk, round_) / "note.json"
        return msgspec.json.decode(path.read_bytes(), type=Note) if path.exists() else Note()

    def _job(self, disk: str, round_: int) -> Path:
        return self._work / disk / f"round-{round_}"

    def _handle(self, round_: int) -> Path:
        return self._work / f"handle-{round_}"


def _untouched(target: DiskAddress) -> bool:
    """Proved, not believed: a file without a single allocated block reads as zeros."""
    url = urlsplit(target.url)
    return url.scheme == "file" and Path(unquote(url.path)).stat().st_blocks == 0
