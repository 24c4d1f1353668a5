"""The process that moves one disk: `python -m tranship.transfer.mover FOLDER`, started by `tranship.transfer.channel`.

One process for each disk, so that it crashes alone and a library that hangs in it cannot hang a controller. It reads its job
from the folder, copies, proves, and leaves a result. SIGTERM: finished leaves go into the journal, then it ends at once.
With `--probe` it reads an address from its input, a few blocks from there, and prints what it found.

It imports only what its way needs: a thousand movers start a thousand times.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from types import FrameType

from blake3 import blake3

from tranship.errors import CopyFailed, Invalid, Side, TranshipError
from tranship.transfer import channel
from tranship.transfer.address import DiskAddress, Extent
from tranship.transfer.channel import Job
from tranship.transfer.digest import Leaves, verify
from tranship.transfer.engine import Engine, Limits, Stopped
from tranship.transfer.journal import Identity, Journal
from tranship.transfer.plan import LEAF, leaf_length
from tranship.transfer.readers import Reader, open_reader
from tranship.transfer.stats import Stats
from tranship.transfer.writers import Writer, open_writer

DONE, FAILED, STOPPED = 0, 1, 3
GOODBYE = 10.0  # seconds that the source gets to close its connections


class Mover:
    """One job from its folder to its result."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._job, self._listed = channel.take(folder)
        self._stats = Stats()
        self._phase = "opening"
        self._engine: Engine | None = None
        self._reader: Reader | None = None
        self._stop = False

    def run(self) -> int:
        """The exit code. The result is on disk."""
        signal.signal(signal.SIGTERM, self._terminated)
        threading.Thread(target=self._tell, name="progress", daemon=True).start()
        try:
            facts = self._move()
            code = DONE
        except Stopped:
            facts, code = {"state": "stopped"}, STOPPED
        except TranshipError as error:
            facts, code = failure(error), FAILED
        except Exception as error:
            detail = f"{type(error).__name__}: {error}"
            facts, code = failure(CopyFailed(detail, side=Side.OURS, disk=self._job.disk)), FAILED
        self._conclude(facts)
        self._say_goodbye()
        return code

    def _move(self) -> dict[str, object]:
        job = self._job
        if job.size <= 0:
            raise Invalid("a disk has at least one byte", field="size")
        reader = self._reader = open_reader(job.source, job.size)
        if reader.size != job.size:
            detail = f"the source has {reader.size} bytes, {job.size} were expected"
            raise Invalid(detail, field=f"disk {job.disk}", side=Side.SOURCE, remedy="Copy the disk fully again.")
        writer = open_writer(job.target, job.size)
        changed = self._changes(reader)
        journal, leaves = open_state(job, writer, changed)
        fresh = writer.created or (job.fresh and (journal.resumed or not journal.used))
        self._engine = Engine(
            reader,
            writer,
            journal,
            leaves,
            disk=job.disk,
            size=job.size,
            changed=changed,
            fresh=fresh,
            stats=self._stats,
            limits=Limits(connections=job.connections, depth=job.depth),
            prove=partial(self._verify, writer, leaves) if job.verify and job.along else None,
        )
        self._phase = "copying"
        if self._stop:
            raise Stopped
        self._engine.run()
        self._phase = "verifying"
        if job.verify and not job.along:
            self._verify(writer, leaves, list(journal.done.runs()), lambda: self._stop)
            if self._stop:
                raise Stopped
        writer.close()
        digest = leaves.root() if leaves.whole else ""
        journal.complete(digest)
        return {"state": "done", "digest": digest, "verified": job.verify}

    def _changes(self, reader: Reader) -> Callable[[], Iterable[Extent]] | None:
        """Where the changed areas of a delta come from: the list, else the source itself."""
        if self._job.base is None:
            return None
        if self._listed:
            return partial(channel.areas, self._folder)
        if reader.tracks_changes:
            return reader.changed
        raise Invalid("a delta needs them: the source does not tell", field="changed")

    def _verify(
        self,
        writer: Writer,
        leaves: Leaves,
        runs: Sequence[tuple[int, int]],
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        began = time.monotonic()
        size = self._job.size
        self._stats.add(
            to_prove=sum((count - 1) * LEAF + leaf_length(first + count - 1, size) for first, count in runs)
        )
        verify(
            writer,
            leaves,
            runs,
            disk=self._job.disk,
            report=lambda proved: self._stats.add(proved=proved),
            stopped=stopped,
        )
        self._stats.verify_seconds += time.monotonic() - began

    def _terminated(self, number: int, frame: FrameType | None) -> None:
        self._stop = True
        if self._engine is not None:
            self._engine.stop()
        else:  # it may hang in a connect, and nothing is at stake yet
            self._conclude({"state": "stopped"})
            os._exit(STOPPED)

    def _tell(self) -> None:
        while True:
            channel.tell(self._folder, self._phase, self._stats.facts())
            time.sleep(0.5)

    def _conclude(self, facts: dict[str, object]) -> None:
        job = self._job
        channel.conclude(self._folder, {**self._stats.facts(), "phase": self._phase, **facts})
        names = {"disk": job.disk, "round": job.round, "size": job.size}
        told = {key: value for key, value in facts.items() if key in ("state", "digest", "verified", "reason")}
        print(self._stats.line(**names, **told), file=sys.stderr, flush=True)

    def _say_goodbye(self) -> None:
        """Give sessions back, unless the library hangs in it."""
        if self._reader is not None:
            goodbye = threading.Thread(target=self._reader.close, daemon=True)
            goodbye.start()
            goodbye.join(GOODBYE)


def open_state(job: Job, writer: Writer, changed: Callable[[], Iterable[Extent]] | None) -> tuple[Journal, Leaves]:
    """Journal and digests of the disk, made ready for this round. Raises Refused when a delta has nothing to build on."""
    plan = blake3((job.base or "full").encode())
    for area in changed() if changed is not None else ():
        plan.update(b"%d %d\n" % (area.start, area.length))
    if not (job.state / "leaves").exists() and not job.along:
        (job.state / "journal").unlink(missing_ok=True)  # without the digests it proves nothing
    target = job.identity or writer.identity
    identity = Identity(round=job.round, point=job.point, target=target, size=job.size, plan=plan.hexdigest(16))
    journal = Journal(job.state / "journal", identity, job.base)
    leaves = Leaves(job.state / "leaves", job.size)
    if job.base is None and not journal.resumed:
        leaves.reset()
    return journal, leaves


def failure(error: TranshipError) -> dict[str, object]:
    notes = getattr(error, "__notes__", ())
    return {
        "state": "failed",
        "reason": error.reason,
        "message": "; ".join([str(error), *notes])[:2000],
        "temporary": error.temporary,
        "suggestion": error.suggestion,
        "side": error.side.value,
    }


def probe(question: dict[str, object]) -> dict[str, object]:
    """Read three blocks, or the first piece of a stream."""
    began = time.monotonic()
    source = question["source"]
    assert isinstance(source, dict)
    reader = open_reader(DiskAddress(**source), int(str(question["size"])))
    if reader.random_access:
        line = reader.open_channel()
        block = max(reader.block_size, min(64 << 10, reader.size))
        buffer = memoryview(bytearray(block))
        for part in range(3):
            offset = reader.size * part // 3 // block * block
            line.submit(offset, buffer[: min(block, reader.size - offset)], 1)
            line.finish()
        line.close()
    else:
        next(iter(reader.stream()), None)
    reader.close()
    return {"works": True, "detail": "blocks were read", "size": reader.size, "seconds": time.monotonic() - began}


def main(argv: list[str]) -> int:
    if argv == ["--probe"]:
        try:
            answer = probe(json.load(sys.stdin))
        except TranshipError as error:
            answer = {"works": False, "detail": str(error), "reason": error.reason}
        print(json.dumps(answer), flush=True)
        return DONE
    folder = Path(argv[0])
    if argv[1:] != ["--locked"] and channel.lock(folder) is None:
        print("another mover runs in this folder", file=sys.stderr)
        return FAILED
    return Mover(folder).run()


if __name__ == "__main__":
    # No tidy end: a thread may hang in a library or a read, and all that matters is on disk.
    os._exit(main(sys.argv[1:]))
