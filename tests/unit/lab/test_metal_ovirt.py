"""The simulated oVirt VM's disks: whatever happens to their chains, the bytes are those that were written, and a backup
shows one point in time of all its disks. Looked at by independent clients (libnbd's tools, qemu-img) and our NBD reader."""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tranship.errors import AlreadyExists, Broken, Busy, Invalid, NotFound, TranshipError
from tranship.lab.guest import Guest, inspect, prepare, reader
from tranship.lab.ovirt.metal import Export, Metal
from tranship.lab.ovirt.metal_client import Client
from tranship.transfer.address import DiskAddress
from tranship.transfer.readers import open_reader

MIB, CLUSTER = 1 << 20, 64 << 10
SIZE = 8 * MIB


@pytest.fixture
def metal(tmp_path: Path) -> Iterator[Metal]:
    metal = Metal(tmp_path / "volumes")
    yield metal
    metal.close()


def run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def parts(export: Export) -> tuple[str, str]:
    """Socket and name."""
    _, _, path, name = export.url.split(":")
    return path, name.removeprefix("exportname=")


def url(export: Export) -> str:
    path, name = parts(export)
    return f"nbd+unix:///{name}?socket={path}"


def fetch(source: str) -> bytes:
    with tempfile.NamedTemporaryFile() as file:
        run("nbdcopy", source, file.name)
        return Path(file.name).read_bytes()


def changed(export: Export, backup: str) -> list[tuple[int, int]]:
    """Start and length of the changed areas."""
    disk = open_reader(DiskAddress(f"{url(export)}&bitmap=backup-{backup}"), export.size)
    try:
        return [(extent.start, extent.length) for extent in disk.changed()]
    finally:
        disk.close()


def mapped(export: Export, context: str = "qemu:allocation-depth") -> list[tuple[int, int]]:
    """Start and length of what the context calls something else than 0."""
    found = json.loads(run("nbdinfo", "--json", f"--map={context}", url(export)))
    return [(area["offset"], area["length"]) for area in found if area["type"]]


@contextmanager
def backup(metal: Metal, id: str, disks: dict[str, str], checkpoint: str) -> Iterator[dict[str, Export]]:
    exports = metal.start_backup(id, disks, checkpoint)
    try:
        yield exports
    finally:
        metal.stop_backup(id)


def put(metal: Metal, model: bytearray, offset: int, data: bytes, disk: str = "disk") -> None:
    metal.write(disk, offset, data)
    model[offset : offset + len(data)] = data


class TestChain:
    def test_the_guest_sees_its_bytes_through_snapshots_and_merges(self, metal: Metal) -> None:
        metal.add("disk", SIZE, content=b"first" * 1000)
        model = bytearray(b"first" * 1000).ljust(SIZE, b"\0")
        guest = metal.guest_url("disk")
        (base,) = metal.volumes("disk")
        path = guest.partition("?socket=")[2]
        with Client(Path(path), "guest-disk") as connected:
            for number, volume in enumerate(("a", "b", "c")):
                metal.snapshot({"disk": volume})
                data = bytes([65 + number]) * MIB
                connected.write(number * MIB // 2, data)
                model[number * MIB // 2 : number * MIB // 2 + MIB] = data
            assert metal.volumes("disk") == (base, "a", "b", "c")
            metal.merge("disk", "a")
            assert metal.volumes("disk") == (base, "a", "c")
            assert connected.read(0, SIZE) == model
            metal.merge("disk", "a")
            assert metal.volumes("disk") == (base, "a")
            connected.write(7 * MIB, b"later")
            model[7 * MIB : 7 * MIB + 5] = b"later"
            metal.merge("disk", base)
            assert connected.read(0, SIZE) == model
        assert metal.volumes("disk") == (base,)
        assert metal.guest_url("disk") == guest
        assert fetch(guest) == metal.read("disk") == model
        assert len(list(metal.directory.iterdir())) == 1

    def test_a_merge_of_the_active_volume_loses_no_write(self, metal: Metal) -> None:
        metal.add("disk", 64 * MIB)
        base = metal.volumes("disk")[0]
        metal.snapshot({"disk": "top"})
        metal.write("disk", 0, os.urandom(32 * MIB))
        with backup(metal, "1", {"disk": ""}, "seen") as exports:
            before = fetch(url(exports["disk"]))
        with Writer(metal, ["disk"]) as writer:
            writer.wait(50)
            metal.merge("disk", base)
            writer.wait(writer.last + 50)
        whole = metal.read("disk")
        assert found(whole) == writer.last
        with backup(metal, "2", {"disk": "seen"}, "") as exports:
            assert patched(before, exports["disk"], "2") == whole

    def test_revert_goes_back_and_forgets_the_checkpoints(self, metal: Metal) -> None:
        metal.add("disk", SIZE, content=b"old")
        base = metal.volumes("disk")[0]
        with backup(metal, "1", {"disk": ""}, "point"):
            pass
        metal.snapshot({"disk": "middle"})
        metal.snapshot({"disk": "top"})
        metal.write("disk", 0, b"new")
        metal.revert("disk", base)
        assert metal.read("disk") == b"old".ljust(SIZE, b"\0")
        assert len(metal.volumes("disk")) == 2
        assert not {"middle", "top"} & set(metal.volumes("disk"))
        assert not metal.has_checkpoint("disk", "point")
        metal.write("disk", MIB, b"again")
        metal.merge("disk", base)
        assert metal.read("disk")[MIB : MIB + 5] == b"again"

    def test_a_disk_grows(self, metal: Metal) -> None:
        metal.add("disk", SIZE, content=b"x" * SIZE)
        with backup(metal, "1", {"disk": ""}, "point"):
            pass
        metal.extend("disk", 2 * SIZE)
        metal.write("disk", 2 * SIZE - 5, b"there")
        assert metal.read("disk") == b"x" * SIZE + bytes(SIZE - 5) + b"there"
        with backup(metal, "2", {"disk": "point"}, "next") as exports:
            assert exports["disk"].size == 2 * SIZE
            assert changed(exports["disk"], "2") == [(2 * SIZE - CLUSTER, CLUSTER)]

    def test_a_disk_that_grows_above_a_snapshot_forgets_what_it_cannot_add_up(self, metal: Metal) -> None:
        metal.add("disk", SIZE)
        with backup(metal, "1", {"disk": ""}, "old"):
            pass
        base = metal.volumes("disk")[0]
        metal.snapshot({"disk": "top"})
        with backup(metal, "2", {"disk": ""}, "new"):
            pass
        metal.extend("disk", 2 * SIZE)
        assert not metal.has_checkpoint("disk", "old")
        assert metal.has_checkpoint("disk", "new")
        metal.write("disk", SIZE, b"beyond")
        metal.merge("disk", base)
        assert metal.size("disk") == 2 * SIZE
        with backup(metal, "3", {"disk": "new"}, "") as exports:
            assert changed(exports["disk"], "3") == [(SIZE, CLUSTER)]

    def test_it_refuses_what_is_not_there_or_does_not_fit(self, metal: Metal) -> None:
        metal.add("disk", SIZE)
        with pytest.raises(AlreadyExists):
            metal.add("disk", SIZE)
        with pytest.raises(Invalid):
            metal.add("odd", 1000)
        with pytest.raises(Invalid):
            metal.write("disk", SIZE - 1, b"ab")
        with pytest.raises(Invalid):
            metal.extend("disk", SIZE // 2)
        with pytest.raises(NotFound):
            metal.merge("disk", metal.volumes("disk")[0])
        for call in (metal.read, metal.volumes, metal.guest_url, metal.format):
            with pytest.raises(NotFound):
                call("other")

    def test_no_size_changes_under_a_connected_guest(self, metal: Metal, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tranship.lab.ovirt.storage_daemon.LEAVE", 0.1)
        metal.add("disk", SIZE)
        base = metal.volumes("disk")[0]
        with Client(Path(metal.guest_url("disk").partition("?socket=")[2]), "guest-disk") as connected:
            with pytest.raises(Busy):
                metal.extend("disk", 2 * SIZE)
            with pytest.raises(Busy):
                metal.revert("disk", base)
            connected.write(0, b"still")
        assert metal.read("disk")[:5] == b"still"


class TestCheckpoints:
    def test_changes_are_exactly_what_was_written_whatever_happened_to_the_chain(self, metal: Metal) -> None:
        metal.add("disk", SIZE, content=b"z" * MIB)
        base = metal.volumes("disk")[0]
        model = bytearray(metal.read("disk"))
        with backup(metal, "0", {"disk": ""}, "c0") as exports:
            assert not exports["disk"].dirty
            before = fetch(url(exports["disk"]))
        put(metal, model, CLUSTER, b"1" * CLUSTER)
        metal.snapshot({"disk": "a"})
        put(metal, model, 10 * CLUSTER + 5, b"2" * CLUSTER)
        metal.snapshot({"disk": "b"})
        with backup(metal, "1", {"disk": "c0"}, "c1") as exports:
            assert exports["disk"].dirty
            assert changed(exports["disk"], "1") == [(CLUSTER, CLUSTER), (10 * CLUSTER, 2 * CLUSTER)]
            assert patched(before, exports["disk"], "1") == model
        put(metal, model, 40 * CLUSTER, b"3")
        metal.snapshot({"disk": "c"})
        metal.merge("disk", "a")  # the volumes a and b, in the middle; c1 began on b
        metal.merge("disk", "a")  # the active one
        metal.merge("disk", base)
        put(metal, model, 41 * CLUSTER, b"4")
        with backup(metal, "2", {"disk": "c1"}, "c2") as exports:
            assert changed(exports["disk"], "2") == [(40 * CLUSTER, 2 * CLUSTER)]
        with backup(metal, "3", {"disk": "c0"}, "") as exports:
            areas = [(CLUSTER, CLUSTER), (10 * CLUSTER, 2 * CLUSTER), (40 * CLUSTER, 2 * CLUSTER)]
            assert changed(exports["disk"], "3") == areas
            assert patched(before, exports["disk"], "3") == model == metal.read("disk")
        with backup(metal, "4", {"disk": "c2"}, "") as exports:
            assert changed(exports["disk"], "4") == []

    def test_a_removed_one_is_unknown_and_the_others_go_on(self, metal: Metal) -> None:
        metal.add("disk", SIZE)
        for number in (1, 2):
            with backup(metal, str(number), {"disk": ""}, f"c{number}"):
                pass
            metal.snapshot({"disk": f"v{number}"})
            metal.write("disk", number * MIB, b"x")
        metal.remove_checkpoint("c2")
        assert metal.has_checkpoint("disk", "c1")
        assert not metal.has_checkpoint("disk", "c2")
        with pytest.raises(NotFound):
            metal.start_backup("3", {"disk": "c2"}, "c3")
        with backup(metal, "3", {"disk": "c1"}, "c3") as exports:
            assert changed(exports["disk"], "3") == [(MIB, CLUSTER), (2 * MIB, CLUSTER)]
            metal.remove_checkpoint("c1")
            assert changed(exports["disk"], "3") == [(MIB, CLUSTER), (2 * MIB, CLUSTER)]

    def test_they_are_bitmaps_in_the_files(self, metal: Metal) -> None:
        metal.add("disk", SIZE)
        base = metal.volumes("disk")[0]
        with backup(metal, "1", {"disk": ""}, "point"):
            pass
        metal.snapshot({"disk": "top"})
        metal.close()
        for volume in (base, "top"):
            info = json.loads(run("qemu-img", "info", "--output=json", str(metal.directory / volume)))
            (bitmap,) = info["format-specific"]["data"]["bitmaps"]
            assert (bitmap["name"], bitmap["flags"]) == ("point", ["auto"])
            run("qemu-img", "check", str(metal.directory / volume))

    def test_a_raw_volume_has_none(self, metal: Metal) -> None:
        metal.add("raw", SIZE, format="raw", content=b"r")
        metal.add("cow", SIZE)
        base = metal.volumes("raw")[0]
        assert (metal.directory / base).read_bytes()[:2] == b"r\0"
        with backup(metal, "1", {"raw": "", "cow": ""}, "c1") as exports:
            assert fetch(url(exports["raw"])) == metal.read("raw")
        assert not metal.has_checkpoint("raw", "c1")
        assert metal.has_checkpoint("cow", "c1")
        with pytest.raises(NotFound):
            metal.start_backup("2", {"cow": "c1", "raw": "c1"}, "c2")
        metal.snapshot({"raw": "over"})
        assert (metal.format(base), metal.format("over")) == ("raw", "cow")
        with backup(metal, "2", {"raw": ""}, "c2"):
            metal.write("raw", MIB, b"more")
        with backup(metal, "3", {"raw": "c2"}, "c3") as exports:
            assert changed(exports["raw"], "3") == [(MIB, CLUSTER)]
        metal.merge("raw", base)
        assert metal.format(metal.volumes("raw")[-1]) == "raw"
        assert not metal.has_checkpoint("raw", "c3")
        assert (metal.directory / base).read_bytes() == metal.read("raw")


class TestBackup:
    def test_rounds_of_two_disks_are_points_in_time_while_a_writer_goes_on(self, metal: Metal) -> None:
        disks = ("one", "two")
        for disk in disks:
            metal.add(disk, SIZE)
        copies = dict.fromkeys(disks, b"")
        points = []
        with Writer(metal, disks) as writer:
            for number in range(4):
                writer.wait(writer.last + 40)
                since = f"c{number - 1}" if number else ""
                with backup(metal, str(number), dict.fromkeys(disks, since), f"c{number}") as exports:
                    low = writer.last
                    writer.wait(low + 20)
                    for disk, export in exports.items():
                        copies[disk] = patched(copies[disk], export, str(number)) if number else fetch(url(export))
                        assert copies[disk] == fetch(url(export))
                one, two = (found(copies[disk]) for disk in disks)
                assert one - two in (0, 1)  # the writer writes each number to `one` first
                assert one <= low + 1
                points.append(one)
        assert points == sorted(set(points))
        assert found(metal.read("two")) == writer.last

    def test_while_one_is_open_the_chain_stays(self, metal: Metal) -> None:
        metal.add("disk", SIZE)
        base = metal.volumes("disk")[0]
        metal.snapshot({"disk": "top"})
        with backup(metal, "1", {"disk": ""}, "c1"):
            for call in (
                lambda: metal.snapshot({"disk": "more"}),
                lambda: metal.merge("disk", base),
                lambda: metal.revert("disk", base),
                lambda: metal.extend("disk", 2 * SIZE),
                lambda: metal.start_backup("2", {"disk": ""}, "c2"),
            ):
                with pytest.raises(Busy):
                    call()
        metal.snapshot({"disk": "more"})
        assert metal.volumes("disk") == (base, "top", "more")

    def test_one_that_cannot_begin_leaves_nothing(self, metal: Metal) -> None:
        for disk in ("one", "two"):
            metal.add(disk, SIZE)
        with backup(metal, "1", {"two": ""}, "c1"):
            pass
        with pytest.raises(TranshipError):  # QEMU has the name c1 on the second disk already
            metal.start_backup("2", {"one": "", "two": ""}, "c1")
        assert not metal.has_checkpoint("one", "c1")
        assert len(list(metal.directory.iterdir())) == 2
        with backup(metal, "2", {"one": "", "two": "c1"}, "c2") as exports:
            assert [exports[disk].dirty for disk in ("one", "two")] == [False, True]

    def test_a_real_guest_is_saved_whole_while_its_chain_changes(self, metal: Metal, tmp_path: Path) -> None:
        raw = [tmp_path / "a.img", tmp_path / "b.img"]
        for path in raw:
            with path.open("wb") as file:
                file.truncate(16 * MIB)
        prepare(raw, tmp_path / "cache", rate=0, slots=256)
        for path in raw:
            metal.add(path.stem, 16 * MIB, content=path.read_bytes())
        bases = {disk: metal.volumes(disk)[0] for disk in "ab"}
        guest = Guest(tmp_path / "run", [metal.guest_url(disk) for disk in "ab"])
        guest.start()
        try:
            guest.wait_number(50, 60)
            with backup(metal, "1", {"a": "", "b": ""}, "c1") as exports:
                copies = {disk: fetch(url(export)) for disk, export in exports.items()}
            metal.snapshot({"a": "a1", "b": "b1"})
            guest.wait_number(guest.last + 50, 60)
            for disk in "ab":
                metal.merge(disk, bases[disk])
            last = guest.wait_number(guest.last + 20, 60)
            with backup(metal, "2", {"a": "c1", "b": "c1"}, "c2") as exports:
                copies = {disk: patched(copies[disk], export, "2") for disk, export in exports.items()}
        finally:
            guest.kill()
        for path in raw:
            path.write_bytes(copies[path.stem])
        report = inspect([reader(path) for path in raw])
        assert report.bad == 0
        assert report.last >= last


class TestExport:
    def test_a_volume_shows_what_was_there_then(self, metal: Metal) -> None:
        metal.add("disk", SIZE, content=b"then")
        base = metal.volumes("disk")[0]
        metal.snapshot({"disk": "top"})
        metal.write("disk", 0, b"now.")
        old, new = metal.export("disk", base), metal.export("disk")
        assert (old.size, old.dirty) == (SIZE, False)
        assert fetch(url(old))[:4] == b"then"
        assert fetch(url(new)) == metal.read("disk")
        for export in (old, new, old):
            metal.unexport(export)
        assert run("nbdinfo", "--list", "--json", url(new)).count('"export-name"') == 1

    def test_a_shallow_one_has_that_layer_only(self, metal: Metal) -> None:
        metal.add("disk", SIZE, content=b"b" * MIB)
        metal.snapshot({"disk": "middle"})
        metal.write("disk", 4 * CLUSTER, b"m" * CLUSTER)
        metal.write("disk", 100 * CLUSTER, bytes(CLUSTER))
        metal.snapshot({"disk": "top"})
        metal.write("disk", 0, b"t")
        export = metal.export("disk", "middle", shallow=True)
        assert mapped(export) == [(4 * CLUSTER, CLUSTER), (100 * CLUSTER, CLUSTER)]
        assert fetch(url(export))[4 * CLUSTER : 5 * CLUSTER] == b"m" * CLUSTER
        with pytest.raises(Busy):
            metal.merge("disk", "middle")
        metal.unexport(export)
        metal.merge("disk", "middle")
        export = metal.export("disk", "middle", shallow=True)
        assert mapped(export) == [(0, CLUSTER), (4 * CLUSTER, CLUSTER), (100 * CLUSTER, CLUSTER)]
        metal.unexport(export)

    def test_a_shallow_one_is_current_after_a_merge_in_the_middle(self, metal: Metal) -> None:
        metal.add("disk", SIZE)
        for volume, place in (("a", 1), ("b", 2), ("c", 3)):
            metal.snapshot({"disk": volume})
            metal.write("disk", place * MIB, volume.encode() * CLUSTER)
        metal.merge("disk", "a")
        export = metal.export("disk", "a", shallow=True)
        assert mapped(export) == [(MIB, CLUSTER), (2 * MIB, CLUSTER)]
        assert fetch(url(export))[2 * MIB : 2 * MIB + CLUSTER] == b"b" * CLUSTER


class TestEnd:
    def test_close_leaves_no_process_and_no_socket(self, metal: Metal) -> None:
        metal.add("disk", SIZE)
        home = Path(metal.guest_url("disk").partition("?socket=")[2]).parent
        metal.start_backup("1", {"disk": ""}, "c1")
        metal.export("disk", shallow=True)
        assert processes(home)
        metal.close()
        assert not home.exists()
        assert not processes(home)
        assert [path.name for path in metal.directory.iterdir()] == [metal.volumes("disk")[0]]
        with pytest.raises(Broken):
            metal.add("another", SIZE)
        metal.close()

    def test_a_killed_parent_takes_the_daemon_and_its_socket_along(self, tmp_path: Path) -> None:
        program = (
            "import sys, time; from pathlib import Path; from tranship.lab.ovirt.metal import Metal\n"
            f"metal = Metal(Path({str(tmp_path)!r})); metal.add('disk', {SIZE})\n"
            "metal.start_backup('1', {'disk': ''}, 'c1'); print(metal.guest_url('disk'), flush=True); time.sleep(60)"
        )
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
            assert parent.stdout
            path = Path(parent.stdout.readline().strip().partition("?socket=")[2])
            handles = [os.pidfd_open(process) for process in processes(path.parent)]
            assert handles
            parent.send_signal(signal.SIGKILL)
            for handle in handles:
                assert select.select([handle], [], [], 20)[0]
                os.close(handle)
        assert not path.parent.exists()


def processes(home: Path) -> list[int]:
    """Those that have the directory in their arguments."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if str(home).encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


def patched(before: bytes, export: Export, backup: str) -> bytes:
    """What a copy of before becomes when the changed areas, and nothing else, are copied again."""
    after = bytearray(before)
    path, name = parts(export)
    with Client(Path(path), name) as client:
        for start, length in changed(export, backup):
            after[start : start + length] = client.read(start, length)
    return bytes(after)


PLACES, STRIDE = 97, 80 << 10


def found(content: bytes) -> int:
    """The writer's last number, after a check that every earlier one is where it must be."""
    numbers = [int.from_bytes(content[place * STRIDE : place * STRIDE + 8], "big") for place in range(PLACES)]
    last = max(numbers)
    expected = [last - (last - place) % PLACES if last >= place else 0 for place in range(PLACES)]
    assert numbers == [max(number, 0) for number in expected]
    return last


class Writer:
    """Writes 1, 2, 3 ... to each of some disks in turn, in place `number mod PLACES`, over connections that it keeps."""

    def __init__(self, metal: Metal, disks: Sequence[str]) -> None:
        urls = [metal.guest_url(disk).partition("?socket=") for disk in disks]
        self._clients = [Client(Path(path), head.rpartition("/")[2]) for head, _, path in urls]
        self._news = threading.Condition()
        self._stop = False
        self.last = 0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Writer":
        self._thread.start()
        return self

    def __exit__(self, *trouble: object) -> None:
        self._stop = True
        self._thread.join(20)
        for client in self._clients:
            client.__exit__(None, None, None)

    def wait(self, number: int) -> None:
        with self._news:
            assert self._news.wait_for(lambda: self.last >= number, 30)

    def _run(self) -> None:
        while not self._stop:
            number = self.last + 1
            for client in self._clients:
                client.write(number % PLACES * STRIDE, number.to_bytes(8, "big"))
            with self._news:
                self.last = number
                self._news.notify_all()
