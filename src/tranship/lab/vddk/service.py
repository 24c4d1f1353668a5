"""The block service behind the lab's libvixDiskLib: who may connect, which disk is meant, and its bytes.

The simulated vCenter gives it two functions, `authorize` and `find`; the library (`vixdisklib.c`) is the only client. The
wire is their own: a request is op, payload size (u32), start, count (u64, sectors); a reply is VIX error code, size (u32),
payload; replies come in the order of requests. Requests are read ahead while earlier ones wait, so that a delay that a
test asks for passes for all requests in flight at once, as it does on a real network.
"""

import contextlib
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from tranship.errors import Denied, NotFound, TranshipError
from tranship.lab.storage import SECTOR, Volume

_REQUEST = struct.Struct("<IIQQ")
_REPLY = struct.Struct("<II")
HELLO, OPEN, READ, ALLOCATED = 1, 2, 3, 4
LARGEST_TEXT = 65536

OK, INVALID_ARG, FILE_NOT_FOUND, FILE_ERROR, FILE_ACCESS = 0, 3, 4, 7, 13
USER_PERMISSIONS, VM_NOT_FOUND, SNAPSHOT_NOT_FOUND, CANNOT_CONNECT = 3014, 4000, 13003, 18000
LOST = 14011

Authorize = Callable[[str, str], bool]
Find = Callable[[str, str, str], tuple[Volume, str | None]]


class Trouble(Enum):
    """What may happen to a read: an error, the connection lost, or no answer before the service closes."""

    FAIL = "fail"
    DROP = "drop"
    HANG = "hang"


@dataclass
class Faults:
    """latency: seconds that each read takes. reads: what happens to the n-th read of the service, from 1."""

    latency: float = 0.0
    reads: dict[int, Trouble] = field(default_factory=dict)


@dataclass(frozen=True)
class _Server:
    """Whom a client may mean. session None: it knows no sessions."""

    authorize: Authorize
    find: Find
    session: Callable[[str, str, str], bool] | None = None


@dataclass
class _Session:
    """What one connection has told so far."""

    client: socket.socket
    server: _Server | None = None
    moref: str = ""
    snapshot: str = ""
    greeted: bool = False
    alive: Callable[[], bool] = lambda: True
    volume: Volume | None = None
    frozen: str | None = None


class _Lost(Exception):
    """The connection ends here."""


class BlockService:
    """Serves disks to the library on a unix socket (Path) or a TCP port (int, 0 for any free one) of the IPv4 address `host`.

    authorize(user, password) says whether a login is good; session(cookie, user, key) the same for a vCenter session, by the
    value of its cookie; when that has ended, what was opened by it is lost.
    find(moref, snapshot moref or "", disk path) gives volume and snapshot id, or raises: NotFound with what = "vm",
    "snapshot" or anything else, Denied; any other error of ours reads as "no access rights to this file", which is what
    a running machine's disk answers without a snapshot. thumbprint: the only one accepted, if given, beside those of `serve`.
    """

    def __init__(
        self,
        authorize: Authorize,
        find: Find,
        *,
        listen: Path | int = 0,
        host: str = "127.0.0.1",
        session: Callable[[str, str, str], bool] | None = None,
        thumbprint: str = "",
    ) -> None:
        self.faults = Faults()
        self.reads = 0
        self._servers: dict[str, _Server] = {}  # by the thumbprint that their clients expect; "" = by any
        self.serve(thumbprint, authorize, find, session)
        self._listen, self._host = listen, host
        self._listener = socket.socket(socket.AF_UNIX if isinstance(listen, Path) else socket.AF_INET)
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._clients: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()

    def serve(
        self, thumbprint: str, authorize: Authorize, find: Find, session: Callable[[str, str, str], bool] | None = None
    ) -> None:
        """For one more server of disks, by the one address: what makes it another is its certificate."""
        self._servers[_plain(thumbprint)] = _Server(authorize, find, session)

    def start(self) -> None:
        if isinstance(self._listen, Path):
            self._listen.unlink(missing_ok=True)
            self._listener.bind(str(self._listen))
        else:
            self._listener.bind((self._host, self._listen))
        self._listener.listen(64)
        threading.Thread(target=self._accept, name="block-accept", daemon=True).start()

    @property
    def address(self) -> str:
        """For `build_library`; known after `start`."""
        if isinstance(self._listen, Path):
            return f"unix:{self._listen}"
        return f"tcp:{self._host}:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        self._closing.set()
        with self._lock:
            clients, threads = list(self._clients), list(self._threads)
        for sock in (self._listener, *clients):
            _hang_up(sock)
        self._listener.close()
        for thread in threads:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if client.family == socket.AF_INET:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            thread = threading.Thread(target=self._serve, args=[client], name="block-client", daemon=True)
            with self._lock:
                self._clients.add(client)
                self._threads.add(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        """Answer what `_read_ahead` has queued, in order."""
        requests: queue.SimpleQueue[tuple[float, int, int, int, bytes] | None] = queue.SimpleQueue()
        reader = threading.Thread(target=_read_ahead, args=[client, requests], name="block-reader", daemon=True)
        reader.start()
        session = _Session(client)
        try:
            while (request := requests.get()) is not None:
                self._answer(session, *request)
        except (_Lost, OSError):
            pass
        finally:
            _hang_up(client)
            reader.join(10)
            client.close()
            with self._lock:
                self._clients.discard(client)
                self._threads.discard(threading.current_thread())

    def _answer(self, session: _Session, arrived: float, op: int, start: int, count: int, data: bytes) -> None:
        error, payload = OK, b""
        try:
            if op == HELLO:
                error = self._hello(session, data)
            elif op == OPEN and session.greeted:
                payload = self._open(session, data)
            elif session.greeted and not session.alive():
                error = LOST
            elif op == READ and session.volume:
                error = self._delay(arrived)
                payload = b"" if error else session.volume.read(start * SECTOR, count * SECTOR, session.frozen)
            elif op == ALLOCATED and session.volume:
                payload = _chunks(session.volume, session.frozen, start, count, *struct.unpack("<Q", data))
            else:
                error = INVALID_ARG
        except TranshipError as trouble:
            error = _code(trouble)
        session.client.sendall(_REPLY.pack(error, len(payload)))
        if payload:
            session.client.sendall(payload)

    def _hello(self, session: _Session, data: bytes) -> int:
        kind, user, secret, key, _server, thumbprint, spec, snapshot, _ = data.decode(errors="replace").split("\0")
        server = self._servers.get(_plain(thumbprint)) or self._servers.get("")
        if server is None:
            return CANNOT_CONNECT
        asks, session.server = server.session, server
        if kind == "cookie" and asks is not None:
            session.alive = partial(asks, secret, user, key)
        elif kind == "cookie" or not server.authorize(user, secret):
            return USER_PERMISSIONS
        if not session.alive():
            return USER_PERMISSIONS
        if not spec.startswith("moref="):
            return INVALID_ARG
        session.moref, session.snapshot, session.greeted = spec.removeprefix("moref="), snapshot, True
        return OK

    def _open(self, session: _Session, data: bytes) -> bytes:
        path = data.decode(errors="replace")
        assert session.server is not None
        session.volume, session.frozen = session.server.find(session.moref, session.snapshot, path)
        capacity = session.volume.capacity // SECTOR
        return struct.pack("<Q", capacity) + str(uuid5(NAMESPACE_URL, path)).encode()

    def _delay(self, arrived: float) -> int:
        with self._lock:
            self.reads += 1
            trouble = self.faults.reads.get(self.reads)
        wait = arrived + self.faults.latency - time.monotonic()
        if trouble is Trouble.HANG:
            self._closing.wait()
        elif wait > 0:
            self._closing.wait(wait)
        if trouble is Trouble.DROP or self._closing.is_set():
            raise _Lost
        return FILE_ERROR if trouble is Trouble.FAIL else OK


def _plain(thumbprint: str) -> str:
    return thumbprint.replace(":", "").lower()


def _read_ahead(
    client: socket.socket, requests: "queue.SimpleQueue[tuple[float, int, int, int, bytes] | None]"
) -> None:
    with contextlib.suppress(OSError), client.makefile("rb") as stream:
        while len(head := stream.read(_REQUEST.size)) == _REQUEST.size:
            op, size, start, count = _REQUEST.unpack(head)
            if size > LARGEST_TEXT:
                break
            requests.put((time.monotonic(), op, start, count, stream.read(size)))
    requests.put(None)


def _chunks(volume: Volume, snapshot: str | None, start: int, count: int, chunk: int) -> bytes:
    """The whole chunks in [start, start + count) that hold an allocated sector, merged, as pairs (offset, length)."""
    runs: list[tuple[int, int]] = []
    for offset, length in volume.allocated(snapshot):
        low = max(start, offset // SECTOR // chunk * chunk)
        high = min(start + count, -(-(offset + length) // SECTOR // chunk) * chunk)
        if low >= high:
            continue
        if runs and runs[-1][1] >= low:
            runs[-1] = (runs[-1][0], max(high, runs[-1][1]))
        else:
            runs.append((low, high))
    return b"".join(struct.pack("<QQ", low, high - low) for low, high in runs)


def _code(trouble: TranshipError) -> int:
    if isinstance(trouble, NotFound):
        what = str(trouble.what).lower()
        return {"vm": VM_NOT_FOUND, "snapshot": SNAPSHOT_NOT_FOUND}.get(what, FILE_NOT_FOUND)
    return USER_PERMISSIONS if isinstance(trouble, Denied) else FILE_ACCESS


def _hang_up(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
