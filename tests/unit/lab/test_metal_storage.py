"""The lab's disk against a plain bytearray: snapshots, layers, changed blocks."""

import threading
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tranship.errors import AlreadyExists, Invalid, NotFound
from tranship.lab.storage import GRAIN, Volume, quiet

CAPACITY = 5 * GRAIN + 1536


class AgainstBytearray(RuleBasedStateMachine):
    """Every write, snapshot, removal and revert is done to a model too; reads and changes must agree with it."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = TemporaryDirectory()
        self.volume = Volume(Path(self.directory.name), CAPACITY)
        self.volume.enable_tracking()
        self.volume.stun()
        self.now = bytearray(CAPACITY)
        self.frozen: dict[str, bytes] = {}
        self.ids: list[tuple[str, bytes, int]] = []
        self.count = 0

    @rule(at=st.integers(0, CAPACITY - 1), size=st.integers(1, 3 * GRAIN), fill=st.integers(0, 255))
    def write(self, at: int, size: int, fill: int) -> None:
        data = bytes([fill]) * min(size, CAPACITY - at)
        self.volume.write(at, data)
        self.now[at : at + len(data)] = data

    @rule(at=st.integers(0, CAPACITY - 1), size=st.integers(1, 3 * GRAIN))
    def zero(self, at: int, size: int) -> None:
        size = min(size, CAPACITY - at)
        self.volume.zero(at, size)
        self.now[at : at + size] = bytes(size)

    @rule()
    def snapshot(self) -> None:
        self.count += 1
        name = f"snapshot-{self.count}"
        self.volume.snapshot(name)
        self.frozen[name] = bytes(self.now)
        self.ids.append((self.volume.change_id(name), bytes(self.now), self.count))

    @rule()
    def note_the_present(self) -> None:
        self.ids.append((self.volume.change_id(), bytes(self.now), self.count))

    @precondition(lambda self: self.frozen)
    @rule(pick=st.randoms(use_true_random=False))
    def remove(self, pick: object) -> None:
        name = pick.choice(sorted(self.frozen))  # type: ignore[attr-defined]
        self.volume.remove(name)
        del self.frozen[name]

    @precondition(lambda self: self.frozen)
    @rule(pick=st.randoms(use_true_random=False))
    def revert(self, pick: object) -> None:
        names = list(self.frozen)
        at = pick.randrange(len(names))  # type: ignore[attr-defined]
        self.volume.revert(names[at])
        self.now[:] = self.frozen[names[at]]
        for name in names[at + 1 :]:
            del self.frozen[name]
        for id, _, _ in self.ids:
            with pytest.raises(KeyError):
                self.volume.changed(id)
        self.ids = []

    @rule()
    def open_again(self) -> None:
        self.volume.close()
        self.volume = Volume(Path(self.directory.name), CAPACITY)

    @invariant()
    def content_agrees(self) -> None:
        assert self.volume.read(0, CAPACITY) == self.now
        assert self.volume.snapshots == list(self.frozen)
        for name, content in self.frozen.items():
            assert self.volume.read(0, CAPACITY, name) == content

    @invariant()
    def changes_are_complete(self) -> None:
        for id, then, count in self.ids:
            apply(then, self.now, self.volume.changed(id))
            for name, content in self.frozen.items():
                if int(name.removeprefix("snapshot-")) > count:
                    apply(then, content, self.volume.changed(id, name))
        apply(bytes(CAPACITY), self.now, self.volume.allocated())

    def teardown(self) -> None:
        self.volume.close()
        self.directory.cleanup()


def apply(old: bytes, new: bytes | bytearray, changes: list[tuple[int, int]]) -> None:
    """Copying only the changed areas must make `new` out of `old`; the areas are sorted and merged."""
    copy = bytearray(old)
    end = -1
    for offset, length in changes:
        assert offset > end
        assert length > 0
        end = offset + length
        copy[offset:end] = new[offset:end]
    assert copy == new


AgainstBytearray.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestAgainstBytearray = AgainstBytearray.TestCase


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path / "disk", 8 * GRAIN)


def test_changes_are_exact_between_two_points(volume: Volume) -> None:
    volume.enable_tracking()
    volume.snapshot("one")
    volume.write(GRAIN + 5, b"x")
    volume.write(2 * GRAIN, b"y" * GRAIN)
    volume.snapshot("two")
    volume.write(7 * GRAIN, b"z")
    one, two = volume.change_id("one"), volume.change_id("two")
    assert volume.changed(one, "two") == [(GRAIN, 2 * GRAIN)]
    assert volume.changed(two) == [(7 * GRAIN, GRAIN)]
    assert volume.changed(one) == [(GRAIN, 2 * GRAIN), (7 * GRAIN, GRAIN)]
    assert volume.changed("*", "two") == [(GRAIN, 2 * GRAIN)]
    volume.remove("one")
    volume.remove("two")
    assert not volume.chained
    assert volume.changed(one) == [(GRAIN, 2 * GRAIN), (7 * GRAIN, GRAIN)]
    assert volume.base_path.read_bytes()[7 * GRAIN : 7 * GRAIN + 1] == b"z"


def test_tracking_begins_and_ends_at_a_stun(volume: Volume) -> None:
    assert volume.change_id() == ""
    volume.enable_tracking()
    assert volume.tracking_enabled
    assert not volume.tracking_active
    volume.stun()
    assert volume.tracking_active
    id = volume.change_id()
    volume.disable_tracking()
    assert volume.changed(id) == []
    volume.stun()
    assert volume.change_id() == ""
    with pytest.raises(KeyError):
        volume.changed(id)
    volume.snapshot("untracked")
    assert volume.change_id("untracked") == ""


def test_ids_of_another_history_are_unknown(volume: Volume) -> None:
    volume.enable_tracking()
    volume.snapshot("one")
    before = volume.change_id("one")
    volume.reset_tracking()
    after = volume.change_id()
    assert before.split("/")[0] != after.split("/")[0]
    tail = after.split("/")[0]
    for id in (before, "", "*x", tail, f"{tail}/99", f"{tail}/x"):
        with pytest.raises(KeyError):
            volume.changed(id)


def test_wrong_requests_are_refused(volume: Volume) -> None:
    with pytest.raises(Invalid):
        volume.read(8 * GRAIN - 1, 2)
    with pytest.raises(NotFound):
        volume.read(0, 1, "nope")
    volume.snapshot("one")
    with pytest.raises(AlreadyExists):
        volume.snapshot("one")
    with pytest.raises(Invalid):
        Volume(volume.path, GRAIN)


def test_a_snapshot_of_two_disks_is_one_point_in_time(tmp_path: Path) -> None:
    """A writer numbers two disks in turn; whenever it is frozen, the second is at most one behind the first."""
    disks = [Volume(tmp_path / name, GRAIN) for name in ("a", "b")]
    stop = threading.Event()

    def work() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            for disk in disks:
                disk.write(0, number.to_bytes(8, "little"))

    writer = threading.Thread(target=work)
    writer.start()
    try:
        for round in range(30):
            with quiet(disks):
                for disk in disks:
                    disk.snapshot(f"s{round}")
            a, b = (int.from_bytes(disk.read(0, 8, f"s{round}"), "little") for disk in disks)
            assert b <= a <= b + 1
            for disk in disks:
                disk.remove(f"s{round}")
    finally:
        stop.set()
        writer.join(10)
