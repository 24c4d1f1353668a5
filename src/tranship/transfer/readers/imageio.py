"""A disk that an oVirt host lends: ovirt-imageio's images API.

    imageio+https://HOST:54322/images/TICKET            ?delta=dirty: what a backup counts as changed
                                                        ?delta=layer: what a snapshot's volume alone holds

Several connections, as many as the daemon allows; see ranges.py. Zeros are asked for once, and so are changes. When the daemon
runs on this very host, its unix socket is taken: it answers for the same ticket there, which proves that it is the same
daemon, and spares both sides the encryption. A ticket that is over is a temporary trouble: whoever lent it lends another.
"""

import http.client
import socket
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import msgspec

from tranship.errors import Busy, Invalid, Side, TranshipError, Unreachable, Unsupported
from tranship.transfer.address import DiskAddress, Extent
from tranship.transfer.extents import merge
from tranship.transfer.plan import LEAF
from tranship.transfer.readers.base import Channel, Plain
from tranship.transfer.readers.https import BROKEN, TIMEOUT, Site
from tranship.transfer.readers.ranges import RangeChannel

DIRTY, LAYER = "dirty", "layer"
_CONNECTIONS = 4  # of a daemon that does not say how many it takes


class Options(msgspec.Struct):
    """What the daemon says of a ticket."""

    features: tuple[str, ...] = ()
    max_readers: int = _CONNECTIONS
    unix_socket: str = ""


class Area(msgspec.Struct):
    start: int
    length: int
    zero: bool = False
    hole: bool = False
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
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(TIMEOUT)
        try:
            connection.sock.connect(self.unix)
        except OSError as error:
            connection.close()
            raise Unreachable(error.strerror or str(error), side=Side.SOURCE, address=self.unix) from error
        return connection

    def refused(self, status: int) -> TranshipError:
        if status in (403, 404):
            detail = "the ticket that was lent is over"
            return Busy(detail, side=Side.SOURCE, what=f"reading {self.url}", fault=f"HTTP {status}")
        return super().refused(status)

    def ask(self, method: str, path: str, allowed: tuple[int, ...] = (200,)) -> tuple[int, bytes]:
        """One small request on a connection of its own."""
        connection = self.connect()
        try:
            connection.request(method, path, headers=self.headers({}))
            answer = connection.getresponse()
            body = answer.read()
        except BROKEN as error:
            raise self.broken(error) from error
        finally:
            connection.close()
        if answer.status not in allowed:
            raise self.refused(answer.status)
        return answer.status, body


class ImageioReader(Plain):
    request_size = LEAF
    block_size = 512

    def __init__(self, address: DiskAddress, size: int) -> None:
        self._site = ImageioSite(address)
        self._delta = parse_qs(urlsplit(address.url).query).get("delta", [""])[0]
        if self._delta not in ("", DIRTY, LAYER):
            raise Invalid(f"{self._delta!r} is neither {DIRTY} nor {LAYER}", field="delta", side=Side.SOURCE)
        options = self._options()
        self.max_connections = max(options.max_readers, 1)
        self.tracks_changes = bool(self._delta)
        self._areas = Areas()
        if "extents" in options.features:
            self._areas = self._ask_areas()
        elif self._delta:
            raise Unsupported("its imageio is too old", what="telling changed areas", side=Side.SOURCE)
        self.size = self._areas.end or size

    def _options(self) -> Options:
        status, body = self._site.ask("OPTIONS", self._site.path, allowed=(200, 204, 405))
        options = msgspec.json.decode(body, type=Options) if status == 200 and body else Options()
        if options.unix_socket and self._answers(options.unix_socket):
            self._site.unix = options.unix_socket
        return options

    def _answers(self, path: str) -> bool:
        """Whether the daemon behind the socket on this host (by default one without a file) knows the ticket, which nobody
        can guess."""
        near = ImageioSite(DiskAddress(self._site.url), path)
        try:
            near.ask("OPTIONS", near.path)
        except TranshipError:
            return False
        return True

    def _ask_areas(self) -> "Areas":
        context = DIRTY if self._delta == DIRTY else "zero"
        _, body = self._site.ask("GET", f"{self._site.path}/extents?context={context}")
        return Areas(msgspec.json.decode(body, type=list[Area]))

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        if not self._areas.end:
            yield Extent(start, length)
            return
        yield from merge(self._areas.within(start, length))

    def changed(self) -> Iterator[Extent]:
        wanted = Areas.DIRTY if self._delta == DIRTY else Areas.HELD
        return (Extent(one.start, one.length) for one in merge(self._areas.marked(wanted)) if one.zero)

    def open_channel(self) -> Channel:
        return RangeChannel(self._site, self.size)


class Areas:
    """Millions of areas in a few bytes each: ends and marks, in order, without gaps."""

    ZERO, DIRTY, HELD = 1, 2, 4

    def __init__(self, areas: list[Area] | None = None) -> None:
        self._ends = array("Q")
        self._marks = array("B")
        for one in areas or ():
            if one.start != self.end or one.length <= 0:
                raise Unsupported("its list of extents has gaps", what="reading by imageio", side=Side.SOURCE)
            self._ends.append(one.start + one.length)
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


def open_reader(address: DiskAddress, size: int) -> ImageioReader:
    return ImageioReader(address, size)
