"""What the writing guest puts on its disks: label, records, and the check of both from outside.

A set of disks carries numbered records. Record n lies on disk n mod D, and with k = n div D in slot (k * P) mod S of that
disk, P prime to S: the numbers run round all disks, jump about each disk, and come back to a slot after D * S records. The
guest writes one record after the other and each is acknowledged before the next. So at any single point in time, with
N the highest number found, each slot holds exactly the newest record <= N that belongs there, and nothing else. A write
that was lost, a block that was copied too early or too late, a record in a wrong place: each breaks that sentence.

Every disk carries the boot program in its first sectors and, in sector 32, a label with its place in the set, so that it
does not matter in which order a firmware finds the disks. All numbers are little-endian dwords:

    label   magic tag place D S record-sectors stride-sectors first-sector P rate mode
    record  magic n disk slot tag checksum payload...   payload i = n * 0x9e3779b1 + i * 0x85ebca6b, checksum = sum

`writer.S` is the guest's side of this. `prepare` is called by whoever makes a VM in the lab, `inspect` by the tests.
"""

import hashlib
import secrets
import struct
import subprocess
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import gcd
from pathlib import Path

from tranship.errors import Invalid, ToolFailed, ToolMissing
from tranship.lab.storage import Volume

SECTOR = 512
LABEL_AT = 32 * SECTOR
FIRST_SECTOR = 128
LABEL_MAGIC, MAGIC = 0x4C425354, 0x43525354
GOLDEN, STEP = 0x9E3779B1, 0x85EBCA6B
HEADER = 6
MASK = 0xFFFFFFFF
MAX_DISKS = 16
TABLE_ENTRIES = 0x70000 // 4
PRIMES = (1223, 1877, 2647, 7, 11, 13, 17)
_LABEL = struct.Struct("<11I")

Read = Callable[[int, int], bytes]


@dataclass(frozen=True)
class Label:
    """The label of one disk, in the order of its dwords."""

    magic: int
    tag: int
    place: int
    disks: int
    slots: int
    record_sectors: int
    stride: int
    first: int
    prime: int
    rate: int
    check_only: int

    def locate(self, number: int) -> tuple[int, int]:
        """Disk and slot of a record."""
        lap, disk = divmod(number, self.disks)
        return disk, (lap % self.slots) * self.prime % self.slots

    def pack(self) -> bytes:
        return _LABEL.pack(*vars(self).values()).ljust(SECTOR, b"\0")


@dataclass(frozen=True)
class Report:
    """last: highest number found. valid: slots as they must be. bad: slots that are not, at (disk, byte offset)."""

    last: int
    valid: int
    bad: int
    where: list[tuple[int, int]] = field(default_factory=list, compare=False)


def prepare(
    disks: Sequence[Volume | Path],
    cache_dir: Path,
    *,
    rate: int = 200,
    slots: int = 1024,
    record_size: int = 4096,
    check_only: bool = False,
) -> None:
    """Make empty disks boot the guest. rate: records per second, 0 for as many as possible. slots: per disk.
    check_only: check, print, power off. Raw files must have their size already."""
    if not 1 <= len(disks) <= MAX_DISKS or not slots or len(disks) * slots > TABLE_ENTRIES:
        raise Invalid(f"{len(disks)} disks of {slots} slots are too many or none", field="disks")
    if record_size % SECTOR or not SECTOR <= record_size <= 0xFE00:
        raise Invalid(f"{record_size} is no record size", field="record_size")
    program = build_program(cache_dir)
    tag = secrets.randbits(32)
    sectors = record_size // SECTOR
    prime = next(prime for prime in PRIMES if gcd(prime, slots) == 1)
    for place, disk in enumerate(disks):
        stride = (_size(disk) // SECTOR - FIRST_SECTOR) // slots
        if stride < sectors:
            raise Invalid(f"{slots} records of {record_size} bytes do not fit on disk {place}", field="slots")
        label = Label(
            LABEL_MAGIC, tag, place, len(disks), slots, sectors, stride, FIRST_SECTOR, prime, rate, int(check_only)
        )
        _write(disk, 0, program)
        _write(disk, LABEL_AT, label.pack())


def configure(disks: Sequence[Volume | Path], *, rate: int | None = None, check_only: bool | None = None) -> None:
    """Change the rate or mode of prepared disks of a guest that does not run."""
    for disk in disks:
        old = vars(_label(reader(disk)))
        new = {"rate": rate, "check_only": None if check_only is None else int(check_only)}
        label = Label(**(old | {key: value for key, value in new.items() if value is not None}))
        _write(disk, LABEL_AT, label.pack())


def inspect(reads: Sequence[Read]) -> Report:
    """Do the guest's own check from outside. reads: a function (offset, length) for each disk, in any order."""
    labels = [_label(read) for read in reads]
    head = labels[0]
    if sorted(label.place for label in labels) != list(range(head.disks)) or len({label.tag for label in labels}) > 1:
        raise Invalid("the disks are not one whole set", field="disks")
    found: dict[tuple[int, int], int] = {}
    for label, read in zip(labels, reads, strict=True):
        for slot in range(label.slots):
            data = read(_offset(label, slot), label.record_sectors * SECTOR)
            found[label.place, slot] = _number(label, slot, data)
    last = max(found.values())
    valid, wrong = 0, []
    for number in range(last, max(0, last - len(found)), -1):
        at = head.locate(number)
        if found[at] == number:
            valid += 1
        else:
            wrong.append(at)
        found[at] = 0
    wrong += [at for at, number in found.items() if number]
    strides = {label.place: label for label in labels}
    return Report(last, valid, len(wrong), sorted((disk, _offset(strides[disk], slot)) for disk, slot in wrong))


def reader(disk: Volume | Path, snapshot: str | None = None) -> Read:
    """The function that `inspect` wants, for a volume, one of its snapshots, or a raw file."""
    if isinstance(disk, Volume):
        return lambda offset, length: disk.read(offset, length, snapshot)

    def read(offset: int, length: int) -> bytes:
        with disk.open("rb") as file:
            file.seek(offset)
            return file.read(length)

    return read


def build_program(cache_dir: Path) -> bytes:
    """Assemble the guest, once for each version of its source."""
    source = Path(__file__).with_name("writer.S")
    cached = cache_dir / f"writer-{hashlib.sha256(source.read_bytes()).hexdigest()[:16]}"
    if not cached.exists():
        cache_dir.mkdir(parents=True, exist_ok=True)
        draft = cached.with_suffix(f".{secrets.token_hex(4)}")
        objects, linked = draft.with_suffix(".o"), draft.with_suffix(".elf")
        _tool("as", "--32", "-o", str(objects), str(source))
        _tool("ld", "-m", "elf_i386", "-Ttext", "0x7c00", "-o", str(linked), str(objects))
        _tool("objcopy", "-O", "binary", "-j", ".text", str(linked), str(draft))
        objects.unlink()
        linked.unlink()
        draft.rename(cached)
    return cached.read_bytes()


def record(label: Label, number: int) -> bytes:
    """The bytes of one record."""
    disk, slot = label.locate(number)
    words = _words(label, number)
    head = [MAGIC, number, disk, slot, label.tag]
    return struct.pack("<6I", *head, (sum(head) + sum(words)) & MASK) + words.tobytes()


def _number(label: Label, slot: int, data: bytes) -> int:
    """The number of the record if it is whole and in its place, 0 if the slot is empty, -1 otherwise."""
    if not any(data):
        return 0
    number = int.from_bytes(data[4:8], "little")
    whole = number and label.locate(number) == (label.place, slot) and data == record(label, number)
    return number if whole else -1


def _words(label: Label, number: int) -> "array[int]":
    start, count = number * GOLDEN, label.record_sectors * (SECTOR // 4) - HEADER
    return array("I", [word & MASK for word in range(start, start + count * STEP, STEP)])


def _offset(label: Label, slot: int) -> int:
    return (label.first + slot * label.stride) * SECTOR


def _label(read: Read) -> Label:
    label = Label(*_LABEL.unpack(read(LABEL_AT, _LABEL.size)))
    if label.magic != LABEL_MAGIC:
        raise Invalid("no label of the writing guest", field="disk")
    return label


def _size(disk: Volume | Path) -> int:
    return disk.capacity if isinstance(disk, Volume) else disk.stat().st_size


def _write(disk: Volume | Path, offset: int, data: bytes) -> None:
    if isinstance(disk, Volume):
        disk.write(offset, data)
        return
    with disk.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def _tool(*argv: str) -> None:
    try:
        subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60)
    except FileNotFoundError as error:
        raise ToolMissing("install binutils", tool=argv[0]) from error
    except subprocess.CalledProcessError as error:
        raise ToolFailed(argv=" ".join(argv), code=error.returncode, output=error.stderr[-500:]) from error
