"""A disk that an oVirt host lends: ovirt-imageio's images API.

    imageio+https://HOST:54322/images/TICKET            ?delta=dirty: what a backup counts as changed
                                                        ?delta=layer: what a snapshot's volume alone holds, to be listed only

Several connections, as many as the daemon allows; see ranges.py. Zeros are asked for once, and so are changes. When the daemon
runs on this very host, its unix socket is taken: it answers for the same ticket there, which proves that it is the same
daemon, and spares both sides the encryption. A ticket that is over is a temporary trouble: whoever lent it lends another.
"""

import http.client
import json
import os
import pwd
import re
import socket
import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from tranship.errors import Busy, CopyFailed, Invalid, Refused, Side, TranshipError, Unreachable, Unsupported
from tranship.transfer.address import DiskAddress, Extent
from tranship.transfer.extents import clip, merge
from tranship.transfer.plan import LEAF
from tranship.transfer.readers.base import Channel, Plain
from tranship.transfer.readers.https import BROKEN, TIMEOUT, Site
from tranship.transfer.readers.ranges import RangeChannel

DIRTY, LAYER = "dirty", "layer"
LISTING = 600.0  # seconds that a host may need to gather the extents of a big fragmented image, in silence
PART = 1 << 20  # bytes of a list that are decoded at a time
DAEMON_USER = "ovirtimg"


class Options(NamedTuple):
    """What the daemon says of a ticket. One that does not say how many readers it takes has a server behind it that hangs
    on the second."""

    features: tuple[str, ...] = ()
    max_readers: int = 1
    unix_socket: str = ""

    @staticmethod
    def read(body: bytes) -> "Options":
        """Raises ValueError, TypeError, AttributeError when it is nothing of the kind."""
        said: Any = json.loads(body)
        readers = int(said.get("max_readers") or 1)
        return Options(tuple(said.get("features") or ()), readers, str(said.get("unix_socket") or ""))


class Area(NamedTuple):
    start: int
    length: int
    zero: bool = False
    hole: bool | None = None  # not said by old daemons
    dirty: bool = False


class ImageioSite(Site):
    """unix: path of the daemon's socket on this host, "" = over the network."""

    def __init__(self, address: DiskAddress, unix: str = "") -> None:
        super().__init__(address)
        self.path = urlsplit(self.path).path
        self.unix = unix

    def connect(self) -> http.client.HTTPConnection:
        if not self.unix:
            return super().connect()
        connection = http.client.HTTPConnection("localhost", timeout=TIMEOUT)
        connection.auto_open = 0
        connection.sock = sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(TIMEOUT)
        try:
            sock.connect(self.unix)
            if not _trusted(sock):
                raise PermissionError("it is not the daemon's")
        except OSError as error:
            connection.close()
            raise Unreachable(error.strerror or str(error), side=Side.SOURCE, address=self.unix) from error
        return connection

    def refused(self, status: int) -> TranshipError:
        if status == 403:
            detail = "the ticket that was lent is over"
            return Busy(detail, side=Side.SOURCE, what=f"reading {self.url}", fault=f"HTTP {status}")
        return super().refused(status)

    def knows(self) -> bool:
        """Whether it has the ticket, which nobody can guess."""
        with suppress(TranshipError, *BROKEN), closing(self.connect()) as connection:
            connection.request("OPTIONS", self.path, headers=self.headers({}))
            return connection.getresponse().status == 200
        return False


class ImageioReader(Plain):
    request_size = LEAF
    block_size = 512

    def __init__(self, address: DiskAddress, size: int) -> None:
        self._site = site = ImageioSite(address)
        self._delta = parse_qs(urlsplit(address.url).query).get("delta", [""])[0]
        if self._delta not in ("", DIRTY, LAYER):
            raise Invalid(f"{self._delta!r} is neither {DIRTY} nor {LAYER}", field="delta", side=Side.SOURCE)
        self.tracks_changes = bool(self._delta)
        try:
            with closing(site.connect()) as connection:
                options = self._options(connection)
                self.max_connections = max(options.max_readers, 1)
                self.size = self._size(connection, size)
                self._areas = self._list(connection) if "extents" in options.features else None
        except BROKEN as error:
            raise site.broken(error) from error
        if self._delta and self._areas is None:
            raise Unsupported("its imageio is too old", what="telling changed areas", side=Side.SOURCE)
        if options.unix_socket:
            near = ImageioSite(address, options.unix_socket)
            if near.knows():
                self._site = near

    def _ask(
        self, connection: http.client.HTTPConnection, method: str, more: str = "", span: str = ""
    ) -> http.client.HTTPResponse:
        headers = self._site.headers({"Range": span} if span else {})
        connection.request(method, self._site.path + more, headers=headers)
        return connection.getresponse()

    def _options(self, connection: http.client.HTTPConnection) -> Options:
        answer = self._ask(connection, "OPTIONS")
        body = answer.read()
        if answer.status in (204, 405):
            return Options()
        if answer.status != 200:
            raise self._site.refused(answer.status)
        try:
            return Options.read(body)
        except (ValueError, TypeError, AttributeError) as error:
            raise self._failed("it is no imageio that answers") from error

    def _size(self, connection: http.client.HTTPConnection, expected: int) -> int:
        """What the ticket says, which may be less than the volume behind it has."""
        answer = self._ask(connection, "GET", span="bytes=0-511" if expected >= 512 else "bytes=0-0")
        if answer.status != 206:
            raise self._site.refused(answer.status)
        answer.read()
        said = re.fullmatch(r"bytes \d+-\d+/(\d+)", answer.getheader("Content-Range", "").strip())
        return int(said[1]) if said else expected

    def _list(self, connection: http.client.HTTPConnection) -> "Areas":
        if connection.sock is not None:
            connection.sock.settimeout(LISTING)
        context = DIRTY if self._delta == DIRTY else "zero"
        answer = self._ask(connection, "GET", f"/extents?context={context}")
        if answer.status == 404:
            detail = "there is no incremental backup behind this ticket"
            what = f"telling changed areas of {self._site.url}"
            raise Refused(detail, side=Side.SOURCE, what=what, fault="HTTP 404")
        if answer.status != 200:
            raise self._site.refused(answer.status)
        try:
            areas = Areas(self._told(answer))
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise self._failed(f"its list of extents cannot be used: {error}") from error
        if areas.end < self.size:
            raise self._failed(f"its list of extents ends at {areas.end} of {self.size}")
        return areas

    def _told(self, answer: http.client.HTTPResponse) -> Iterator[Area]:
        """A JSON list, decoded in parts: it may have millions of members."""
        rest = b""
        while part := answer.read(PART):
            rest += part
            cut = rest.rfind(b"}") + 1
            if cut:
                for one in json.loads(b"[" + rest[:cut].lstrip(b" \r\n[,") + b"]"):
                    zero, dirty = bool(one.get("zero")), bool(one.get("dirty"))
                    yield Area(one["start"], one["length"], zero, one.get("hole"), dirty)
                rest = rest[cut:]
        if rest.strip(b" \r\n[") != b"]":
            raise ValueError("it has no end")

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        if self._areas is None:
            return iter((Extent(start, length),))
        return merge(self._areas.within(start, length))

    def changed(self) -> Iterator[Extent]:
        if self._areas is None or not self._delta:
            return super().changed()
        marked = self._areas.marked(Areas.DIRTY if self._delta == DIRTY else Areas.HELD)
        return (Extent(one.start, one.length) for one in merge(clip(marked, 0, self.size)) if one.zero)

    def open_channel(self) -> Channel:
        if self._delta == LAYER:
            raise Unsupported("a layer alone is not the disk", what=f"reading {self._site.url}", side=Side.SOURCE)
        return RangeChannel(self._site, self.size)

    def _failed(self, detail: str) -> CopyFailed:
        return CopyFailed(detail, side=Side.SOURCE, disk=self._site.url)


class Areas:
    """Millions of areas in nine bytes each: ends and marks, in order, without gaps."""

    ZERO, DIRTY, HELD = 1, 2, 4

    def __init__(self, areas: Iterable[Area]) -> None:
        """Raises ValueError where they do not follow one another."""
        self._ends = array("Q")
        self._marks = array("B")
        end = 0
        for one in areas:
            if one.start != end or one.length <= 0:
                raise ValueError(f"it goes on at {one.start} after {end}")
            end += one.length
            self._ends.append(end)
            self._marks.append(one.zero * self.ZERO + one.dirty * self.DIRTY + (not one.hole) * self.HELD)

    @property
    def end(self) -> int:
        return self._ends[-1] if self._ends else 0

    def within(self, start: int, length: int) -> Iterator[Extent]:
        """What reads as zeros in this range."""
        end, number = start + length, bisect_right(self._ends, start)
        while start < end and number < len(self._ends):
            stop = min(self._ends[number], end)
            yield Extent(start, stop - start, bool(self._marks[number] & self.ZERO))
            start, number = stop, number + 1

    def marked(self, mark: int) -> Iterator[Extent]:
        """zero = the mark is set."""
        start = 0
        for end, marks in zip(self._ends, self._marks, strict=True):
            yield Extent(start, end - start, bool(marks & mark))
            start = end


def _trusted(sock: socket.socket) -> bool:
    """Whether root, the daemon's own user or ours listens there: a ticket is a secret, and anyone may bind a free name."""
    _, user, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    known = {0, os.getuid()}
    with suppress(KeyError):
        known.add(pwd.getpwnam(DAEMON_USER).pw_uid)
    return user in known


def open_reader(address: DiskAddress, size: int) -> ImageioReader:
    return ImageioReader(address, size)
