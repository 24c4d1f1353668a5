"""An NBD server for the lab's disks: a running guest's QEMU writes through it, clients read snapshots through it.

`Guest` gives its URLs to QEMU, the tests give them to nbdcopy, qemu-img and nbdinfo. Fixed newstyle negotiation on a unix
socket, simple or structured replies, the context `base:allocation`. A write is answered after `Volume.write` returned,
so whatever a guest was told is written is in the volume. Protocol: github.com/NetworkBlockDevice/nbd, doc/proto.md.
"""

import contextlib
import errno
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from tranship.errors import AlreadyExists, NotFound, TranshipError
from tranship.lab.storage import Volume

MAGIC, OPTION_MAGIC, REPLY_MAGIC = 0x4E42444D41474943, 0x49484156454F5054, 0x3E889045565A9
REQUEST_MAGIC, SIMPLE_MAGIC, STRUCTURED_MAGIC = 0x25609513, 0x67446698, 0x668E33EF
FIXED_NEWSTYLE, NO_ZEROES = 1, 2

EXPORT_NAME, ABORT, LIST, INFO, GO, STRUCTURED_REPLY, LIST_CONTEXT, SET_CONTEXT = 1, 2, 3, 6, 7, 8, 9, 10
ACK, SERVER, REP_INFO, REP_CONTEXT = 1, 2, 3, 4
UNSUP, REP_INVALID, UNKNOWN = 0x80000001, 0x80000003, 0x80000006
INFO_EXPORT, INFO_BLOCK_SIZE = 0, 3

READ, WRITE, DISC, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS = range(8)
FLAG_REQ_ONE = 1 << 3
CHUNK_DONE = 1
CHUNK_NONE, CHUNK_DATA, CHUNK_STATUS, CHUNK_ERROR = 0, 1, 5, 0x8001
HOLE_AND_ZERO = 3
CONTEXT, CONTEXT_ID = "base:allocation", 1

HAS_FLAGS, READ_ONLY, SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_ZEROES, MULTI_CONN = 1, 2, 4, 8, 32, 64, 256
LARGEST = 32 * 1024 * 1024


class _Closed(Exception):
    """The client is gone, said good-bye, or does not speak the protocol."""


@dataclass(eq=False)
class Export:
    """One disk under a name; with a snapshot it is read-only."""

    volume: Volume
    snapshot: str | None
    clients: set[socket.socket] = field(default_factory=set)

    @property
    def flags(self) -> int:
        if self.snapshot is not None:
            return HAS_FLAGS | READ_ONLY | SEND_FLUSH | MULTI_CONN
        return HAS_FLAGS | SEND_FLUSH | SEND_FUA | SEND_TRIM | SEND_ZEROES | MULTI_CONN


class NbdServer:
    """Serves any number of exports on one unix socket, a thread per connection. `add` and `remove` work at any time."""

    def __init__(self, socket_path: Path) -> None:
        self.socket_path = socket_path
        self._exports: dict[str, Export] = {}
        self._lock = threading.Lock()
        self._clients: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def url(self, name: str) -> str:
        return f"nbd+unix:///{name}?socket={self.socket_path}"

    def add(self, export_name: str, volume: Volume, snapshot: str | None = None) -> None:
        if snapshot is not None and snapshot not in volume.snapshots:
            raise NotFound(what="snapshot", name=snapshot)
        with self._lock:
            if export_name in self._exports:
                raise AlreadyExists(what="export", name=export_name)
            self._exports[export_name] = Export(volume, snapshot)

    def remove(self, name: str) -> None:
        """Take an export away; clients that use it are cut off."""
        with self._lock:
            if name not in self._exports:
                raise NotFound(what="export", name=name)
            clients = list(self._exports.pop(name).clients)
        for client in clients:
            _hang_up(client)

    def start(self) -> None:
        self.socket_path.unlink(missing_ok=True)
        self._listener.bind(str(self.socket_path))
        self._listener.listen(64)
        threading.Thread(target=self._accept, name="nbd-accept", daemon=True).start()

    def close(self) -> None:
        _hang_up(self._listener)
        self._listener.close()
        with self._lock:
            clients, threads = list(self._clients), list(self._threads)
        for client in clients:
            _hang_up(client)
        for thread in threads:
            thread.join(10)
        self.socket_path.unlink(missing_ok=True)

    def find(self, name: str) -> Export | None:
        with self._lock:
            return self._exports.get(name)

    def names(self) -> list[str]:
        with self._lock:
            return sorted(self._exports)

    def use(self, export: Export, client: socket.socket) -> None:
        """Note that `client` uses `export`, unless it was taken away meanwhile."""
        with self._lock:
            if export not in self._exports.values():
                raise _Closed
            export.clients.add(client)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=[client], name="nbd-client", daemon=True)
            with self._lock:
                self._clients.add(client)
                self._threads.add(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        connection = _Connection(self, client)
        try:
            connection.run()
        except (_Closed, OSError):
            pass
        finally:
            client.close()
            with self._lock:
                self._clients.discard(client)
                self._threads.discard(threading.current_thread())
                if connection.export:
                    connection.export.clients.discard(client)


class _Connection:
    """One client: negotiation, then transmission."""

    def __init__(self, server: NbdServer, client: socket.socket) -> None:
        self.server = server
        self.socket = client
        self.export: Export | None = None
        self.structured = False
        self.allocation = False

    def run(self) -> None:
        self.socket.sendall(struct.pack(">QQH", MAGIC, OPTION_MAGIC, FIXED_NEWSTYLE | NO_ZEROES))
        (flags,) = self._unpack(">I")
        while self.export is None:
            self._negotiate(no_zeroes=bool(flags & NO_ZEROES))
        while True:
            self._transmit(self.export)

    # negotiation

    def _negotiate(self, no_zeroes: bool) -> None:
        magic, option, length = self._unpack(">QII")
        if magic != OPTION_MAGIC or length > 65536:
            raise _Closed
        data = self._take(length)
        try:
            self._option(option, data, no_zeroes)
        except (struct.error, UnicodeDecodeError):
            self._reply(option, REP_INVALID)

    def _option(self, option: int, data: bytes, no_zeroes: bool) -> None:
        if option == EXPORT_NAME:
            export = self.server.find(data.decode())
            if export is None:
                raise _Closed
            padding = b"" if no_zeroes else bytes(124)
            self._attach(export)
            self.socket.sendall(struct.pack(">QH", export.volume.capacity, export.flags) + padding)
        elif option == ABORT:
            self._reply(option, ACK)
            raise _Closed
        elif option == LIST:
            for name in self.server.names():
                self._reply(option, SERVER, _text(name))
            self._reply(option, ACK)
        elif option in (INFO, GO):
            self._describe(option, data)
        elif option == STRUCTURED_REPLY:
            self.structured = True
            self._reply(option, ACK)
        elif option in (LIST_CONTEXT, SET_CONTEXT):
            self._contexts(option, data)
        else:
            self._reply(option, UNSUP)

    def _describe(self, option: int, data: bytes) -> None:
        (length,) = struct.unpack_from(">I", data)
        export = self.server.find(data[4 : 4 + length].decode())
        if export is None:
            self._reply(option, UNKNOWN)
            return
        self._reply(option, REP_INFO, struct.pack(">HQH", INFO_EXPORT, export.volume.capacity, export.flags))
        self._reply(option, REP_INFO, struct.pack(">HIII", INFO_BLOCK_SIZE, 1, 65536, LARGEST))
        if option == GO:
            self._attach(export)
        self._reply(option, ACK)

    def _contexts(self, option: int, data: bytes) -> None:
        (length,) = struct.unpack_from(">I", data)
        if self.server.find(data[4 : 4 + length].decode()) is None:
            self._reply(option, UNKNOWN)
            return
        queries = list(_texts(data, 4 + length))
        wanted = CONTEXT in queries or (option == LIST_CONTEXT and (not queries or "base:" in queries))
        if wanted:
            self._reply(option, REP_CONTEXT, struct.pack(">I", CONTEXT_ID) + CONTEXT.encode())
        if option == SET_CONTEXT:
            self.allocation = wanted and self.structured
        self._reply(option, ACK)

    def _attach(self, export: Export) -> None:
        self.server.use(export, self.socket)
        self.export = export

    def _reply(self, option: int, kind: int, data: bytes = b"") -> None:
        self.socket.sendall(struct.pack(">QIII", REPLY_MAGIC, option, kind, len(data)) + data)

    # transmission

    def _transmit(self, export: Export) -> None:
        magic, flags, command, cookie, offset, length = self._unpack(">IHHQQI")
        if magic != REQUEST_MAGIC or command == DISC or (command in (READ, WRITE) and length > LARGEST):
            raise _Closed
        data = self._take(length) if command == WRITE else b""
        try:
            payload = self._perform(export, command, flags, offset, length, data)
        except TranshipError:
            self._fail(cookie, errno.ENOSPC if command in (WRITE, WRITE_ZEROES) else errno.EINVAL)
        except OSError as error:
            self._fail(cookie, error.errno if error.errno in (errno.EPERM, errno.EINVAL, errno.ENOSPC) else errno.EIO)
        else:
            self._answer(cookie, command, offset, payload)

    def _perform(self, export: Export, command: int, flags: int, offset: int, length: int, data: bytes) -> bytes:
        volume = export.volume
        if command == READ:
            return volume.read(offset, length, export.snapshot)
        if command == FLUSH:
            volume.flush()
        elif command == BLOCK_STATUS and self.allocation:
            return _status(export, offset, length, one=bool(flags & FLAG_REQ_ONE))
        elif command not in (WRITE, TRIM, WRITE_ZEROES):
            _refuse(errno.EINVAL)
        elif export.snapshot is not None:
            _refuse(errno.EPERM)
        elif command == WRITE:
            volume.write(offset, data)
        else:
            volume.zero(offset, length)
        return b""

    def _answer(self, cookie: int, command: int, offset: int, payload: bytes) -> None:
        if not self.structured:
            head = struct.pack(">IIQ", SIMPLE_MAGIC, 0, cookie)
        elif command == READ:
            head = _chunk(CHUNK_DATA, cookie, 8 + len(payload)) + struct.pack(">Q", offset)
        elif command == BLOCK_STATUS:
            head = _chunk(CHUNK_STATUS, cookie, len(payload))
        else:
            head = _chunk(CHUNK_NONE, cookie, 0)
        self.socket.sendall(head)
        if payload:
            self.socket.sendall(payload)

    def _fail(self, cookie: int, code: int) -> None:
        if self.structured:
            self.socket.sendall(_chunk(CHUNK_ERROR, cookie, 6) + struct.pack(">IH", code, 0))
        else:
            self.socket.sendall(struct.pack(">IIQ", SIMPLE_MAGIC, code, cookie))

    def _take(self, length: int) -> bytes:
        buffer = bytearray(length)
        rest = memoryview(buffer)
        while rest:
            count = self.socket.recv_into(rest)
            if not count:
                raise _Closed
            rest = rest[count:]
        return bytes(buffer)

    def _unpack(self, form: str) -> tuple[int, ...]:
        return struct.unpack(form, self._take(struct.calcsize(form)))


def _status(export: Export, offset: int, length: int, one: bool) -> bytes:
    """Descriptors for [offset, offset + length): allocated areas as data, the rest as holes that read as zeroes."""
    end = offset + length
    if not length or end > export.volume.capacity:
        _refuse(errno.EINVAL)
    runs: list[tuple[int, int]] = []
    at = offset
    for start, size in export.volume.allocated(export.snapshot):
        low, high = max(start, offset), min(start + size, end)
        if low >= high:
            continue
        if low > at:
            runs.append((low - at, HOLE_AND_ZERO))
        runs.append((high - low, 0))
        at = high
    if at < end:
        runs.append((end - at, HOLE_AND_ZERO))
    return struct.pack(">I", CONTEXT_ID) + b"".join(struct.pack(">II", *run) for run in runs[: 1 if one else None])


def _chunk(kind: int, cookie: int, length: int) -> bytes:
    return struct.pack(">IHHQI", STRUCTURED_MAGIC, CHUNK_DONE, kind, cookie, length)


def _text(text: str) -> bytes:
    return struct.pack(">I", len(text.encode())) + text.encode()


def _texts(data: bytes, at: int) -> Iterator[str]:
    (count,) = struct.unpack_from(">I", data, at)
    at += 4
    for _ in range(count):
        (length,) = struct.unpack_from(">I", data, at)
        yield data[at + 4 : at + 4 + length].decode()
        at += 4 + length


def _refuse(code: int) -> NoReturn:
    raise OSError(code, "refused")


def _hang_up(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
