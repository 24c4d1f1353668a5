"""A disk that an export lease offers: a streamOptimized VMDK, decoded while it streams and never stored.

    nfc+https://HOST/nfc/.../disk-0.vmdk

The format, as the source writes it: a header, a descriptor, then markers on 512-byte borders. A marker with a size is a grain
(sector number, size, zlib data); one without is metadata (grain table, grain directory, footer) of so many sectors, or the
end of the stream. Grains ascend; one that is absent reads as zeros. A stream that breaks off before its end marker, or
whose footer is missing though the header promised one, is a failure: a short disk must never look like a whole one.

One thread receives; decoding is left to the engine's workers. It is a stream: full copies only.
"""

import http.client
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from deflate import DeflateError, zlib_decompress

from tranship.errors import CopyFailed, Side, Unsupported
from tranship.transfer.address import DiskAddress
from tranship.transfer.plan import LEAF
from tranship.transfer.readers.base import Piece, Plain
from tranship.transfer.readers.https import BROKEN, Site, cut

SECTOR = 512
CHUNK = 1 << 20
COMPRESSED, MARKERS = 1 << 16, 1 << 17
AT_END = (1 << 64) - 1
END, FOOTER = 0, 3

_header = struct.Struct("<4sIIQQQQIQQQ?4sH")
_marker = struct.Struct("<QII")


@dataclass(frozen=True, slots=True)
class Grain:
    start: int
    length: int
    packed: bytes
    full: int  # bytes that it unpacks to; the last one of a disk may be longer than the disk

    def decode(self, buffer: memoryview) -> None:
        try:
            data = zlib_decompress(self.packed, self.full)
        except DeflateError as error:
            raise CopyFailed("its data is corrupt", side=Side.SOURCE, disk=f"grain at {self.start}") from error
        if len(data) not in (self.full, self.length):
            raise CopyFailed(f"it has {len(data)} bytes", side=Side.SOURCE, disk=f"grain at {self.start}")
        buffer[:] = memoryview(data)[: self.length]


class NfcReader(Plain):
    random_access = False
    max_connections = 1

    def __init__(self, address: DiskAddress) -> None:
        self._site = Site(address)
        self._buffer = memoryview(bytearray(CHUNK))
        self._low = self._high = 0
        self._position = 0
        self._closing = threading.Lock()
        self._connection = self._site.connect()
        try:
            self._response = self._get()
            self._read_header()
        except BaseException:
            self._connection.close()
            raise

    def _get(self) -> http.client.HTTPResponse:
        try:
            self._connection.request("GET", self._site.path, headers=self._site.headers({}))
            response = self._connection.getresponse()
        except BROKEN as error:
            raise self._site.broken(error) from error
        if response.status != 200:
            raise self._site.refused(response.status)
        return response

    def _read_header(self) -> None:
        fields = _header.unpack_from(self._exact(SECTOR))
        magic, _, flags, capacity, grain, at, size, _, _, directory, overhead, _, _, packing = fields
        if magic != b"KDMV" or not flags & COMPRESSED or not flags & MARKERS or packing != 1:
            raise Unsupported("it is no streamOptimized VMDK", what=f"reading {self._site.url}")
        self._grain = grain * SECTOR
        if not self._grain or LEAF % self._grain:
            raise Unsupported(f"it has grains of {grain} sectors", what=f"reading {self._site.url}")
        self.size = capacity * SECTOR
        self._footer_due = directory == AT_END
        self._exact(max(overhead, at + size, 1) * SECTOR - SECTOR)

    def stream(self) -> Iterator[Piece]:
        cursor, footer = 0, False
        while True:
            sector = self._exact(SECTOR)
            value, size, kind = _marker.unpack_from(sector)
            if size:
                start = value * SECTOR
                if start < cursor or start % self._grain or start >= self.size or size > 2 * self._grain + SECTOR:
                    raise self._failed(f"a grain is out of place: {start}")
                rest = self._exact(-(-(12 + size) // SECTOR) * SECTOR - SECTOR)
                length = min(self._grain, self.size - start)
                yield Grain(start, length, (sector[12:] + rest)[:size], self._grain)
                cursor = start + self._grain
            elif kind == END and not value:
                if self._footer_due and not footer:
                    raise self._failed("it ends without its footer")
                self._drain()
                return
            elif kind <= FOOTER and value <= 1 << 22:
                footer = footer or kind == FOOTER
                self._exact(value * SECTOR)
            else:
                raise self._failed(f"an unknown marker at {self._position}")

    def _exact(self, length: int) -> bytes:
        """The next `length` bytes of the stream."""
        parts: list[bytes] = []
        while length:
            if self._low == self._high:
                self._low, self._high = 0, self._receive()
                if not self._high:
                    raise self._failed(f"the stream ends at {self._position}, before its end marker")
            part = bytes(self._buffer[self._low : min(self._high, self._low + length)])
            parts.append(part)
            self._low += len(part)
            self._position += len(part)
            length -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _receive(self) -> int:
        try:
            return self._response.readinto(self._buffer)
        except BROKEN as error:
            raise self._site.broken(error) from error

    def _drain(self) -> None:
        """Read what the server still sends, so that it sees an orderly end."""
        while self._receive():
            pass

    def _failed(self, detail: str) -> CopyFailed:
        return CopyFailed(detail, side=Side.SOURCE, disk=self._site.url)

    def close(self) -> None:
        """Also wakes a thread that waits for the stream."""
        with self._closing:
            cut(self._connection)
            self._connection.close()


def open_reader(address: DiskAddress, size: int) -> NfcReader:
    return NfcReader(address)
