"""A source in memory, for tests: what is zero in it is found by looking."""

from collections.abc import Iterator

from tranship.errors import NotFound, Side
from tranship.transfer.address import DiskAddress, Extent
from tranship.transfer.buffers import GRANULE
from tranship.transfer.extents import merge
from tranship.transfer.memory import DISKS
from tranship.transfer.readers.base import Channel, Plain, Sequential


class MemoryReader(Plain):
    def __init__(self, name: str) -> None:
        if name not in DISKS:
            raise NotFound(what="disk", name=name, side=Side.SOURCE)
        self._disk = DISKS[name]
        self.size = len(self._disk)

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        def pieces() -> Iterator[Extent]:
            for at in range(start, start + length, GRANULE):
                part = self._disk[at : min(at + GRANULE, start + length)]
                yield Extent(at, len(part), part.count(0) == len(part))

        return merge(pieces())

    def open_channel(self) -> Channel:
        return MemoryChannel(self._disk)


class MemoryChannel(Sequential):
    def __init__(self, disk: bytearray) -> None:
        super().__init__()
        self._disk = disk

    def _fill(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = self._disk[offset : offset + len(buffer)]


def open_reader(address: DiskAddress, size: int) -> MemoryReader:
    return MemoryReader(address.url.partition(":")[2])
