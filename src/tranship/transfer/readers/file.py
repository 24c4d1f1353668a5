"""A raw file or a block device as the source. Holes of a file are zeros that need no reading."""

import errno
import os
import stat
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

from tranship.errors import CopyFailed, Refused, Side
from tranship.transfer.address import DiskAddress, Extent
from tranship.transfer.readers.base import Channel, Plain, Sequential


class FileReader(Plain):
    def __init__(self, path: str) -> None:
        self._path = path
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            fault = errno.errorcode.get(error.errno or 0, "")
            raise Refused(error.strerror or "", what=f"opening {path}", fault=fault, side=Side.SOURCE) from error
        self._holes = stat.S_ISREG(os.fstat(self._fd).st_mode)
        self.size = os.lseek(self._fd, 0, os.SEEK_END)

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        end = start + length
        while start < end:
            data = min(self._seek(start, os.SEEK_DATA), end)
            if data > start:
                yield Extent(start, data - start, zero=True)
            hole = min(self._seek(data, os.SEEK_HOLE), end) if data < end else end
            if hole > data:
                yield Extent(data, hole - data)
            start = hole

    def _seek(self, start: int, whence: int) -> int:
        if not self._holes:
            return start if whence == os.SEEK_DATA else self.size
        try:
            return os.lseek(self._fd, start, whence)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return self.size
            self._holes = False  # a file system without holes
            return start if whence == os.SEEK_DATA else self.size

    def open_channel(self) -> Channel:
        return FileChannel(self._fd, self._path)

    def close(self) -> None:
        os.close(self._fd)


class FileChannel(Sequential):
    def __init__(self, fd: int, path: str) -> None:
        super().__init__()
        self._fd, self._path = fd, path

    def _fill(self, offset: int, buffer: memoryview) -> None:
        try:
            while buffer:
                got = os.preadv(self._fd, [buffer], offset)
                if not got:
                    raise CopyFailed(f"it ends at {offset}", side=Side.SOURCE, disk=self._path)
                buffer, offset = buffer[got:], offset + got
        except OSError as error:
            raise CopyFailed(f"at {offset}: {error.strerror}", side=Side.SOURCE, disk=self._path) from error


def open_reader(address: DiskAddress, size: int) -> FileReader:
    return FileReader(unquote(urlsplit(address.url).path))
