"""HTTPS for the readers that need it: trust, credentials and errors in one place.

Uses the standard library's http.client: its `readinto` into a buffer that exists already is as fast as any client here.
"""

import base64
import http.client
import socket
import ssl
from collections.abc import Mapping
from urllib.parse import urlsplit

from tranship.errors import (
    AuthFailed,
    Busy,
    CopyFailed,
    Denied,
    NotFound,
    Refused,
    Side,
    TimedOut,
    TranshipError,
    Unreachable,
)
from tranship.transfer.address import DiskAddress
from tranship.transfer.tls import connect

TIMEOUT = 60.0


class Site:
    """One URL with the credentials for it. Makes connections, and reads errors out of answers."""

    def __init__(self, address: DiskAddress) -> None:
        scheme, _, rest = address.url.partition("+")
        parts = urlsplit(rest or scheme)
        self.url = address.url
        self.host, self.port = parts.hostname or "", parts.port or 443
        self.path = parts.path + (f"?{parts.query}" if parts.query else "")
        self._credentials = address.credentials
        self.user = address.credentials.get("user", "")

    def connect(self) -> http.client.HTTPConnection:
        """Raises Unreachable, TimedOut, Untrusted."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=TIMEOUT)
        connection.sock = connect(self.host, self.port, self._credentials, TIMEOUT)
        connection.auto_open = 0  # a new connection is made here only, with the peer checked
        return connection

    def headers(self, more: Mapping[str, str]) -> dict[str, str]:
        result = {"Accept-Encoding": "identity", **more}
        if cookie := self._credentials.get("cookie"):
            result["Cookie"] = cookie
        elif self.user:
            secret = f"{self.user}:{self._credentials.get('password', '')}"
            result["Authorization"] = "Basic " + base64.b64encode(secret.encode()).decode()
        return result

    def refused(self, status: int) -> TranshipError:
        """The error that an HTTP status means."""
        where = f"{self.host}:{self.port}"
        if status == 401 and "cookie" in self._credentials:  # whoever lent the session lends another
            detail = "the session that was lent has ended"
            return Busy(detail, side=Side.SOURCE, what=f"reading {self.url}", fault=f"HTTP {status}")
        if status == 401:
            return AuthFailed(f"HTTP {status}", side=Side.SOURCE, address=where, user=self.user)
        if status == 403:
            return Denied(f"HTTP {status}", side=Side.SOURCE, what=f"reading {self.url}")
        if status == 404:
            return NotFound(side=Side.SOURCE, what="disk", name=self.url)
        what, fault = f"reading {self.url}", f"HTTP {status}"
        if status in (408, 423, 429) or status >= 500:
            return Busy("try again later", side=Side.SOURCE, what=what, fault=fault)
        return Refused("", side=Side.SOURCE, what=what, fault=fault)

    def broken(self, error: Exception) -> TranshipError:
        """What a failure on an open connection means."""
        if isinstance(error, TimeoutError):
            return TimedOut(side=Side.SOURCE, what=f"reading {self.url}", seconds=TIMEOUT)
        if isinstance(error, (OSError, http.client.HTTPException)):
            detail = getattr(error, "strerror", None) or type(error).__name__
            return Unreachable(detail, side=Side.SOURCE, address=f"{self.host}:{self.port}")
        return CopyFailed(str(error), side=Side.SOURCE, disk=self.url)


BROKEN = (OSError, http.client.HTTPException, ssl.SSLError)


def cut(connection: http.client.HTTPConnection | None) -> None:
    """Wake whoever waits on it, from another thread. Not by SSLSocket.shutdown: that takes TLS off the socket first, and
    whoever reads next is given the ciphertext that is left in it as if it were the disk's data."""
    sock = connection.sock if connection is not None else None
    if sock is not None:
        try:
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
        except OSError:
            return
