"""A small NBD client with which the lab writes and reads a VM's disk in place of a guest. metal.py is its only user."""

import contextlib
import socket
import struct
from pathlib import Path
from types import TracebackType
from typing import Self

from tranship.errors import CopyFailed, NotFound, Unreachable
from tranship.lab.nbd import (
    ACK,
    DISC,
    FIXED_NEWSTYLE,
    FLUSH,
    GO,
    INFO_EXPORT,
    MAGIC,
    NO_ZEROES,
    OPTION_MAGIC,
    READ,
    REP_INFO,
    REPLY_MAGIC,
    REQUEST_MAGIC,
    SIMPLE_MAGIC,
    WRITE,
)

PIECE = 4 << 20
TIMEOUT = 60.0


class Client:
    """One connection, one request at a time. Errors of the wire are Unreachable, those of the disk CopyFailed."""

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self.size = 0
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(TIMEOUT)
        try:
            self._socket.connect(str(path))
            self._negotiate()
        except OSError as error:
            self._socket.close()
            raise Unreachable(str(error), address=f"{path} {name}") from error
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._socket.sendall(struct.pack(">IHHQQI", REQUEST_MAGIC, 0, DISC, 0, 0, 0))
        self._socket.close()

    def read(self, offset: int, length: int) -> bytes:
        data = bytearray()
        for start in range(offset, offset + length, PIECE):
            piece = min(PIECE, offset + length - start)
            self._ask(READ, start, piece)
            data += self._take(piece)
        return bytes(data)

    def write(self, offset: int, data: bytes) -> None:
        for start in range(0, len(data), PIECE):
            self._ask(WRITE, offset + start, len(data[start : start + PIECE]), data[start : start + PIECE])

    def flush(self) -> None:
        self._ask(FLUSH, 0, 0)

    def _ask(self, command: int, offset: int, length: int, data: bytes = b"") -> None:
        try:
            self._socket.sendall(struct.pack(">IHHQQI", REQUEST_MAGIC, 0, command, 0, offset, length) + data)
        except OSError as error:
            raise Unreachable(str(error), address=self.name) from error
        magic, code, _ = struct.unpack(">IIQ", self._take(16))
        if magic != SIMPLE_MAGIC or code:
            raise CopyFailed(f"NBD command {command} at {offset}: error {code}", disk=self.name)

    def _negotiate(self) -> None:
        magic, option, _ = struct.unpack(">QQH", self._take(18))
        if magic != MAGIC or option != OPTION_MAGIC:
            raise OSError("it does not speak NBD")
        name = self.name.encode()
        body = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
        self._socket.sendall(struct.pack(">I", FIXED_NEWSTYLE | NO_ZEROES))
        self._socket.sendall(struct.pack(">QII", OPTION_MAGIC, GO, len(body)) + body)
        while True:
            magic, _, kind, length = struct.unpack(">QIII", self._take(20))
            data = self._take(length)
            if magic != REPLY_MAGIC or kind >> 31:
                raise NotFound(f": {data.decode(errors='replace')}", what="export", name=self.name)
            if kind == REP_INFO and struct.unpack_from(">H", data)[0] == INFO_EXPORT:
                self.size = struct.unpack_from(">Q", data, 2)[0]
            if kind == ACK:
                return

    def _take(self, length: int) -> bytes:
        data = bytearray(length)
        rest = memoryview(data)
        while rest:
            try:
                count = self._socket.recv_into(rest)
            except OSError as error:
                raise Unreachable(str(error), address=self.name) from error
            if not count:
                raise Unreachable("the connection was closed", address=self.name)
            rest = rest[count:]
        return bytes(data)
