"""A target in memory, for tests."""

from tranship.transfer.memory import DISKS


class MemoryWriter:
    def __init__(self, name: str, size: int) -> None:
        self.created = name not in DISKS
        self._disk = DISKS.setdefault(name, bytearray(size))
        if len(self._disk) < size:
            self._disk.extend(bytes(size - len(self._disk)))
        self.identity = f"memory:{name}:{id(self._disk):x}"

    def write(self, offset: int, data: memoryview) -> None:
        self._disk[offset : offset + len(data)] = data

    def zero(self, offset: int, length: int) -> None:
        self._disk[offset : offset + length] = bytes(length)

    def read(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = self._disk[offset : offset + len(buffer)]

    def data_from(self, offset: int) -> int:
        return offset

    def flush(self) -> None: ...

    def drop_cache(self) -> None: ...

    def forget(self, offset: int, length: int) -> None: ...

    def close(self) -> None: ...
