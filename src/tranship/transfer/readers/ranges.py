"""Ranged GETs over HTTPS into buffers that exist already: how the datastore's folder and imageio are read.

One request at a time on a connection, so several connections. A connection that drops is made again and the read goes on at
the byte where it stopped; only a read that makes no headway fails.
"""

import http.client
import re

from tranship.errors import CopyFailed, Side, TranshipError, Unsupported
from tranship.transfer.readers.base import Sequential
from tranship.transfer.readers.https import BROKEN, Site, cut

TRIES = 4  # in a row without a byte


class RangeChannel(Sequential):
    def __init__(self, site: Site, size: int) -> None:
        super().__init__()
        self._site, self._size = site, size
        self._connection: http.client.HTTPConnection | None = None
        self._aborted = False

    def _fill(self, offset: int, buffer: memoryview) -> None:
        done, failures = 0, 0
        while done < len(buffer):
            try:
                got = self._get(offset + done, buffer[done:])
                failures = 0
            except Dropped as drop:
                failures = 1 if drop.got else failures + 1
                got = drop.got
                self.close()
                if failures >= TRIES or self._aborted:
                    raise drop.error from drop
            done += got

    def _get(self, start: int, buffer: memoryview) -> int:
        """Raises Dropped with what was received, when asking again can help."""
        got = 0
        try:
            if self._connection is None:
                self._connection = self._site.connect()
            span = {"Range": f"bytes={start}-{start + len(buffer) - 1}"}
            self._connection.request("GET", self._site.path, headers=self._site.headers(span))
            response = self._connection.getresponse()
            self._check(response, start, len(buffer))
            while got < len(buffer):
                part = response.readinto(buffer[got:])
                if not part:
                    raise http.client.IncompleteRead(b"", len(buffer) - got)
                got += part
            response.read()  # nothing is left; this hands the connection back for the next request
        except BROKEN as error:
            raise Dropped(got, self._site.broken(error)) from error
        except TranshipError as error:
            if error.temporary:
                raise Dropped(got, error) from error
            raise
        return got

    def _check(self, response: http.client.HTTPResponse, start: int, length: int) -> None:
        if response.status != 206:
            if response.status == 200:
                raise Unsupported("the server ignores ranges", what=f"reading {self._site.url}")
            raise self._site.refused(response.status)
        said = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.getheader("Content-Range", "").strip())
        if said is None or (int(said[1]), int(said[2])) != (start, start + length - 1):
            detail = f"the server answered with another range than {start}+{length}"
            raise CopyFailed(detail, side=Side.SOURCE, disk=self._site.url)
        if said[3] not in ("*", str(self._size)):
            raise CopyFailed("its size changed", side=Side.SOURCE, disk=self._site.url)

    def abort(self) -> None:
        self._aborted = True
        cut(self._connection)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Dropped(Exception):
    """got: bytes that arrived before. error: what to raise when no further try is left."""

    def __init__(self, got: int, error: TranshipError) -> None:
        super().__init__(str(error))
        self.got, self.error = got, error
