"""The engine over memory: full copies, deltas, healing, stopping, errors."""

import random
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from tranship.errors import CopyFailed, Side, TranshipError, VerifyFailed
from tranship.transfer.address import Extent
from tranship.transfer.digest import Leaves, verify
from tranship.transfer.engine import Engine, Limits, Stopped, pace
from tranship.transfer.journal import Identity, Journal
from tranship.transfer.memory import DISKS
from tranship.transfer.plan import LEAF
from tranship.transfer.readers.base import Channel, Sequential
from tranship.transfer.readers.memory import MemoryReader
from tranship.transfer.writers.memory import MemoryWriter

PAGE = LEAF // 4
PAGES = 11
SIZE = PAGES * PAGE - 512


class Disk:
    """A source and a target in memory with the state between their rounds."""

    def __init__(self, folder: Path, picture: str) -> None:
        DISKS.clear()
        self.folder = folder
        self.rounds = 0
        DISKS["source"] = bytearray(SIZE)
        self.paint(picture)

    def paint(self, picture: str) -> list[Extent]:
        """A letter is data, 0 zeros, - untouched. Returns what was painted."""
        painted = []
        for at, letter in enumerate(picture):
            length = min(PAGE, SIZE - at * PAGE)
            if letter != "-":
                block = bytes(length) if letter == "0" else random.Random(letter).randbytes(length)
                DISKS["source"][at * PAGE : at * PAGE + length] = block
                painted.append(Extent(at * PAGE, length))
        return painted

    def engine(
        self, changed: list[Extent] | None = None, *, fresh: bool = False, reader: MemoryReader | None = None
    ) -> Engine:
        self.rounds += 1
        writer = MemoryWriter("target", SIZE)
        identity = Identity(round=f"r{self.rounds}", point="", target="t", size=SIZE, plan="")
        base = None if changed is None else f"r{self.rounds - 1}"
        journal = Journal(self.folder / "journal", identity, base)
        leaves = Leaves(self.folder / "leaves", SIZE)
        if changed is None and not journal.resumed:
            leaves.reset()
        areas = None if changed is None else (lambda: changed)
        reader = reader or MemoryReader("source")
        limits = Limits(commit_seconds=0.01, wait=2.0, connections=1 if isinstance(reader, Failing) else 0)
        return Engine(reader, writer, journal, leaves, disk="d", size=SIZE, changed=areas, fresh=fresh, limits=limits)

    def copy(self, changed: list[Extent] | None = None, *, fresh: bool = False) -> Engine:
        engine = self.engine(changed, fresh=fresh)
        engine.run()
        verify(engine.writer, engine.leaves, engine.journal.done.runs(), disk="d")
        engine.journal.complete(engine.leaves.root())
        assert DISKS["target"] == DISKS["source"]
        assert engine.leaves.root() == root(DISKS["source"])
        assert engine.stats.done == engine.stats.total
        return engine


def root(disk: bytearray) -> str:
    leaves = [blake3(disk[at : at + LEAF]).digest() for at in range(0, len(disk), LEAF)]
    return blake3(b"".join(leaves)).hexdigest()


letters = st.text("AB0-", min_size=PAGES, max_size=PAGES)


@settings(max_examples=10, deadline=None)
@given(first=letters, deltas=st.lists(letters, max_size=2), dirt=st.booleans())
def test_every_round_ends_equal(
    tmp_path_factory: pytest.TempPathFactory, first: str, deltas: list[str], dirt: bool
) -> None:
    disk = Disk(tmp_path_factory.mktemp("d"), first)
    if dirt:
        DISKS["target"] = bytearray(b"dirt" * (SIZE // 4))
    disk.copy(fresh=not dirt)
    for delta in deltas:
        painted = disk.paint(delta)
        engine = disk.copy(painted)
        assert engine.stats.copied + engine.stats.zeroed == sum(area.length for area in painted)
        assert engine.stats.healed == 0


def test_zeros_of_a_fresh_target_are_not_written(tmp_path: Path) -> None:
    engine = Disk(tmp_path, "A0000000000").copy(fresh=True)
    assert engine.stats.copied == PAGE
    assert engine.stats.skipped == SIZE - PAGE
    assert engine.stats.read == PAGE


def test_a_delta_does_not_trust_a_target_that_changed(tmp_path: Path) -> None:
    """A leaf that was torn, or touched by somebody, is read whole from the source again."""
    disk = Disk(tmp_path, "AAAAAAAAAAA")
    disk.copy(fresh=True)
    DISKS["target"][2 * PAGE + 5] ^= 1  # not in the changed area, in the same leaf
    engine = disk.copy(disk.paint("B----------"))
    assert engine.stats.healed == 1


def test_read_back_names_a_flipped_bit(tmp_path: Path) -> None:
    disk = Disk(tmp_path, "AAAA0000AAA")
    engine = disk.copy(fresh=True)
    for offset in (5, SIZE - 1, 6 * PAGE):
        DISKS["target"][offset] ^= 1
        with pytest.raises(VerifyFailed) as failure:
            verify(engine.writer, engine.leaves, engine.journal.done.runs(), disk="d")
        start = offset // LEAF * LEAF
        assert (failure.value.disk, failure.value.offset) == ("d", start)
        assert failure.value.length == min(LEAF, SIZE - start)
        DISKS["target"][offset] ^= 1


class Failing(MemoryReader):
    """Fails or stops at an offset."""

    def __init__(self, at: int, engine: list[Engine] | None = None) -> None:
        super().__init__("source")
        self.at, self.engine = at, engine

    def open_channel(self) -> Channel:
        return FailingChannel(self)


class FailingChannel(Sequential):
    def __init__(self, reader: Failing) -> None:
        super().__init__()
        self.reader = reader

    def _fill(self, offset: int, buffer: memoryview) -> None:
        if len(buffer) > 4096 and offset == self.reader.at:
            if self.reader.engine is None:
                raise CopyFailed("bad sector", side=Side.SOURCE, disk="d")
            self.reader.engine[0].stop()
        buffer[:] = DISKS["source"][offset : offset + len(buffer)]


def test_the_first_error_stops_and_what_is_finished_stays(tmp_path: Path) -> None:
    disk = Disk(tmp_path, "ABABABABABA")
    with pytest.raises(CopyFailed, match="bad sector"):
        disk.engine(fresh=True, reader=Failing(2 * LEAF)).run()
    disk.rounds = 0
    again = disk.copy(fresh=True)
    assert again.journal.resumed
    assert 0 < again.stats.copied < SIZE


def test_stop_keeps_what_is_finished(tmp_path: Path) -> None:
    disk = Disk(tmp_path, "ABABABABABA")
    holder: list[Engine] = []
    holder.append(disk.engine(fresh=True, reader=Failing(2 * LEAF, holder)))
    with pytest.raises(Stopped):
        holder[0].run()
    disk.rounds = 0
    assert disk.copy(fresh=True).stats.copied < SIZE


class FullWriter(MemoryWriter):
    def flush(self) -> None:
        raise CopyFailed("input/output error", side=Side.TARGET, disk="d")


def test_a_failed_flush_is_a_failed_copy(tmp_path: Path) -> None:
    disk = Disk(tmp_path, "AAAAAAAAAAA")
    engine = disk.engine(fresh=True)
    engine.writer = FullWriter("target", SIZE)
    with pytest.raises(TranshipError, match="input/output error"):
        engine.run()
    assert len(engine.journal.done) == 0


def test_pace_goes_deeper_when_the_source_is_far() -> None:
    class Wide(MemoryReader):
        max_connections = 8

    DISKS["source"] = bytearray(512)
    reader = Wide("source")
    assert pace(0.0001, reader, Limits()) == (2, 2)
    channels, depth = pace(0.02, reader, Limits())
    assert channels == 4
    assert channels * depth * LEAF >= 32 << 20
    assert channels * depth * LEAF <= Limits().memory
    assert pace(0.02, reader, Limits(connections=1, depth=3)) == (1, 3)


@pytest.mark.parametrize("size", [512, LEAF - 512, LEAF, 3 * LEAF + 512])
def test_root_knows_short_and_blank_leaves(tmp_path: Path, size: int) -> None:
    leaves = Leaves(tmp_path / f"leaves{size}", size)
    assert leaves.root() == root(bytearray(size))
    assert leaves.first_nonzero(0, leaves.count) is None
    leaves.put(leaves.count - 1, b"x" * 32)
    assert leaves.first_nonzero(0, leaves.count) == leaves.count - 1
    leaves.put_zeros(0, leaves.count)
    assert leaves.root() == root(bytearray(size))
