"""A disk of a snapshot, or of a powered-off VM, through VMware's VDDK: its C interface, called directly.

    vddk://VCENTER/?moref=vm-42&snapshot=snapshot-7&disk=[ds]+vm/vm.vmdk&libdir=/opt/vddk[&port=443][&transports=nbdssl:nbd]

Credentials: user and password, or `user`, `cookie` and `key` of a vCenter session (the value of `vmware_soap_session`, and the
session's key); and how to trust the server as everywhere (`transfer.tls`).
Several asynchronous reads are kept in flight on each of a few handles: one at a time leaves most of the wire idle, and
calling the library through a plug-in behind NBD was measured five times slower. A channel is one handle. Handles are opened and
closed one after the other, as the library demands; its completions come on threads of its own.
"""

import ctypes
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from tranship.errors import AuthFailed, Busy, CopyFailed, Invalid, Side, TimedOut
from tranship.transfer.address import DiskAddress, Extent
from tranship.transfer.readers import vixdisklib as vix
from tranship.transfer.readers.base import Channel, Plain

TIMEOUT = 120.0
ASK = 16 << 30  # bytes that one QueryAllocatedBlocks covers: with more of them a call may take minutes
CHUNK = 1 << 20  # bytes; the library's least is 64 KiB, and finer zeros are found in what is read
USER, SESSION = 1, 2
_opening = threading.Lock()


@dataclass(frozen=True, slots=True)
class Place:
    """A vddk URL taken apart."""

    server: str
    port: int
    moref: str
    snapshot: str
    disk: str
    libdir: str
    transports: str
    user: str
    password: str = field(repr=False)
    cookie: str = field(repr=False)
    key: str = field(repr=False)
    thumbprint: str


def parse(address: DiskAddress) -> Place:
    """Raises Invalid for what is missing; asks the server for its certificate when no SHA-1 pin is given."""
    parts = urlsplit(address.url)
    query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    secrets = address.credentials
    for name in ("moref", "disk", "libdir"):
        if not query.get(name):
            raise Invalid("it is missing in the address", field=name, side=Side.SOURCE)
    if not secrets.get("user") or not (secrets.get("password") or secrets.get("cookie")):
        raise Invalid("VDDK needs a user, and a password or a session", field="credentials", side=Side.SOURCE)
    server, port = parts.hostname or "", int(query.get("port", parts.port or 443))
    return Place(
        server=server,
        port=port,
        moref=query["moref"],
        snapshot=query.get("snapshot", ""),
        disk=query["disk"],
        libdir=query["libdir"],
        transports=query.get("transports", "nbdssl:nbd"),
        user=secrets["user"],
        password=secrets.get("password", ""),
        cookie=secrets.get("cookie", ""),
        key=secrets.get("key", ""),
        thumbprint=_thumbprint(address, server, port),
    )


def _thumbprint(address: DiskAddress, server: str, port: int) -> str:
    """The library trusts by SHA-1 only, so a CA or a longer pin is checked here and turned into that."""
    given = address.credentials.get("fingerprint", "").replace(":", "").upper()
    if len(given) == 40:
        return ":".join(given[at : at + 2] for at in range(0, 40, 2))
    from tranship.transfer.tls import peer_fingerprint

    return peer_fingerprint(server, port, address.credentials, TIMEOUT)


class Session:
    """One connection with one open disk."""

    def __init__(self, library: vix.Library, place: Place) -> None:
        self._library, self._place = library, place
        self._connection, self.handle = vix.Handle(), vix.Handle()
        with _opening:
            self._connect()
            try:
                path = place.disk.encode()
                self.check("Open", self._connection, path, vix.READ_ONLY, ctypes.byref(self.handle))
            except BaseException:
                library.call("Disconnect", self._connection)
                raise

    def check(self, name: str, *arguments: object) -> None:
        self._library.check(name, *arguments, disk=self._place.disk, user=self._place.user)

    def _connect(self) -> None:
        place, library = self._place, self._library
        allocated = library.has("AllocateConnectParams")
        pointer = library.AllocateConnectParams() if allocated else ctypes.pointer(vix.ConnectParams())  # type: ignore[attr-defined]
        try:
            params = pointer.contents
            params.vmx_spec = f"moref={place.moref}".encode()
            params.server = place.server.encode()
            params.thumbprint = place.thumbprint.encode()
            params.port = place.port
            params.credential_type = SESSION if place.cookie else USER
            secrets = params.credentials
            if place.cookie:
                secrets.session.cookie, secrets.session.user = place.cookie.encode(), place.user.encode()
                secrets.session.key = place.key.encode()
            else:
                secrets.uid.user, secrets.uid.password = place.user.encode(), place.password.encode()
            snapshot = place.snapshot.encode() or None
            out = ctypes.byref(self._connection)
            self.check("ConnectEx", pointer, b"\1", snapshot, place.transports.encode(), out)
        except AuthFailed as error:
            if not place.cookie:
                raise
            detail = f"the vCenter session that was lent has ended: {error.detail}"  # whoever lent it lends another
            raise Busy(detail, side=Side.SOURCE, what=f"reading {place.disk}", fault="SessionEnded") from error
        finally:
            if allocated:
                library.call("FreeConnectParams", pointer)

    def close(self) -> None:
        with _opening:
            self._library.call("Close", self.handle)
            self._library.call("Disconnect", self._connection)


class VddkReader(Plain):
    """Its own session answers about size and allocated blocks. Blocks are asked for in full copies only: the calls are
    slow, and a delta names its areas already."""

    block_size = vix.SECTOR
    cheap_extents = False
    max_connections = 4

    def __init__(self, place: Place) -> None:
        self._place = place
        self._library = vix.Library.open(place.libdir)
        try:
            self._session = Session(self._library, place)
            self.size = self._capacity()
        except BaseException:
            self._library.release()
            raise

    def _capacity(self) -> int:
        info = ctypes.POINTER(vix.Info)()
        self._session.check("GetInfo", self._session.handle, ctypes.byref(info))
        try:
            return int(info.contents.capacity) * vix.SECTOR
        finally:
            self._library.call("FreeInfo", info)

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        end = start + length
        low = -(-start // CHUNK) * CHUNK
        if low > start:
            yield Extent(start, min(low, end) - start)
        while low + CHUNK <= end:
            span = min(ASK, end - low) // CHUNK * CHUNK
            allocated = self._allocated(low, span)
            if allocated is None:  # the call is there and rarely works: then all is data
                break
            yield from _with_holes(allocated, low, low + span)
            low += span
        if low < end:
            yield Extent(low, end - low)

    def _allocated(self, start: int, length: int) -> list[tuple[int, int]] | None:
        library, found = self._library, ctypes.POINTER(vix.BlockList)()
        if not library.has("QueryAllocatedBlocks"):
            return None
        sectors = (start // vix.SECTOR, length // vix.SECTOR, CHUNK // vix.SECTOR)
        if library.call("QueryAllocatedBlocks", self._session.handle, *sectors, ctypes.byref(found)) != vix.OK:
            return None
        try:
            count = found.contents.count
            first = ctypes.addressof(found.contents) + vix.BlockList.blocks.offset
            blocks = (vix.Block * count).from_address(first)
            return [(block.offset * vix.SECTOR, block.length * vix.SECTOR) for block in blocks]
        finally:
            library.call("FreeBlockList", found)

    def open_channel(self) -> Channel:
        return VddkChannel(self._library, self._place)

    def close(self) -> None:
        self._session.close()
        self._library.release()


def _with_holes(allocated: list[tuple[int, int]], start: int, end: int) -> Iterator[Extent]:
    for offset, length in sorted(allocated):
        low, high = max(offset, start), min(offset + length, end)
        if low > start:
            yield Extent(start, low - start, zero=True)
        if high > low:
            yield Extent(low, high - low)
            start = high
    if start < end:
        yield Extent(start, end - start, zero=True)


class VddkChannel:
    def __init__(self, library: vix.Library, place: Place) -> None:
        self._library, self._disk = library, place.disk
        self._session = Session(library, place)
        self._answers: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        self._asked: dict[int, tuple[int, object]] = {}  # keeps the memory that the library writes to
        self._completed = vix.Completion(self._complete)

    def _complete(self, tag: int | None, code: int) -> None:
        """On a thread of the library."""
        self._answers.put((tag or 0, code))

    def submit(self, offset: int, buffer: memoryview, tag: int) -> None:
        memory = (ctypes.c_char * len(buffer)).from_buffer(buffer)
        self._asked[tag] = (offset, memory)
        sectors = (offset // vix.SECTOR, len(buffer) // vix.SECTOR)
        address = ctypes.addressof(memory)
        code = self._library.call("ReadAsync", self._session.handle, *sectors, address, self._completed, tag)
        if code != vix.ASYNC:
            del self._asked[tag]
            raise self._library.error("ReadAsync", code, self._disk)

    def finish(self) -> int:
        try:
            tag, code = self._answers.get(timeout=TIMEOUT)
        except queue.Empty:
            raise TimedOut(side=Side.SOURCE, what="VixDiskLib_ReadAsync", seconds=TIMEOUT) from None
        if tag < 0:
            raise CopyFailed("stopped", side=Side.SOURCE, disk=self._disk)
        offset, _ = self._asked.pop(tag)
        if code != vix.OK:
            raise self._library.error(f"ReadAsync at {offset}", code, self._disk)
        return tag

    def abort(self) -> None:
        self._answers.put((-1, 0))

    def close(self) -> None:
        if self._asked:
            self._library.call("Wait", self._session.handle)
        self._session.close()


def open_reader(address: DiskAddress, size: int) -> VddkReader:
    return VddkReader(parse(address))
