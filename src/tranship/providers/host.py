"""Movers of a machine's disks on this host: one process per disk and round, found again by their directories.

    WORK/<disk>/state/      leaves and journal of the disk: outlive rounds
    WORK/<disk>/round-N/    one job: what it was told, how far it is, how it ended
    WORK/handle-N           what the source lends for round N, to be given back

Fulfils providers.base.Movers for targets whose disks are files of this host.
"""

import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tranship.errors import Unsupported
from tranship.migration.seen import CopySeen
from tranship.providers.base import Library, Reading
from tranship.providers.copies import seen
from tranship.transfer import channel
from tranship.transfer.address import DiskAddress
from tranship.transfer.library import placed

STOP_DEADLINE = 20.0  # seconds that a mover has to close its journal


class HostMovers:
    def __init__(self, work: Path) -> None:
        self._work = work

    def look(self, disk: str, round_: int) -> CopySeen:
        report = channel.look(self._job(disk, round_))
        return seen(report, full=self._why_full(disk, round_), released=not self.handle(round_))

    def start(
        self,
        disk: str,
        round_: int,
        *,
        source: Reading,
        target: DiskAddress,
        size: int,
        point: str,
        verify: bool,
    ) -> None:
        address = source.address
        if source.library:
            address = placed(address, _directory(source.library))
        folder = self._job(disk, round_)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / "full").write_text(source.full)
        job = channel.Job(
            disk=disk,
            source=address,
            target=target,
            size=size,
            round=str(round_),
            point=point,
            state=self._work / disk / "state",
            base=str(round_ - 1) if source.delta else None,
            changed=source.changed,
            fresh=_untouched(target),
            verify=verify,
        )
        channel.start(folder, job)

    def stop(self, disk: str, round_: int) -> None:
        channel.stop(self._job(disk, round_), STOP_DEADLINE)
        self.end(disk, round_)

    def end(self, disk: str, round_: int) -> None:
        channel.scrub(self._job(disk, round_))

    def forget(self) -> None:
        shutil.rmtree(self._work, ignore_errors=True)

    def handle(self, round_: int) -> str:
        path = self._handle(round_)
        return path.read_text() if path.exists() else ""

    def remember_handle(self, round_: int, handle: str) -> None:
        if handle:
            self._work.mkdir(mode=0o700, parents=True, exist_ok=True)
            new = self._handle(round_).with_suffix(".new")
            new.touch(mode=0o600)  # it may name a session
            new.write_text(handle)
            new.replace(self._handle(round_))

    def forget_handle(self, round_: int) -> None:
        self._handle(round_).unlink(missing_ok=True)

    def _why_full(self, disk: str, round_: int) -> str:
        path = self._job(disk, round_) / "full"
        return path.read_text() if path.exists() else ""

    def _job(self, disk: str, round_: int) -> Path:
        return self._work / disk / f"round-{round_}"

    def _handle(self, round_: int) -> Path:
        return self._work / f"handle-{round_}"


def _directory(library: Library) -> str:
    if not library.directory:
        remedy = "Set vddkDirectory in the source provider's settings, or start the plan again to go without VDDK."
        raise Unsupported("the setting vddkDirectory is gone", what="reading by VDDK on this host", remedy=remedy)
    return library.directory


def _untouched(target: DiskAddress) -> bool:
    """Proved, not believed: a file without a single allocated block reads as zeros."""
    url = urlsplit(target.url)
    return url.scheme == "file" and Path(unquote(url.path)).stat().st_blocks == 0
