"""Image transfers: what the Engine lends for reading a disk, one for each disk. Called by the source.

Theory of operation. A transfer opens a ticket at a host's imageio daemon (or at its proxy on the Engine) and, but for
backups, locks the disk until it is over. It dies of inactivity, which the daemon counts by traffic on the ticket alone: so a
sign of life is an `extend` to the Engine and an OPTIONS to the daemon. The Engine may end a download by itself as soon as
as many bytes went over as the disk has; then a copy that wants more gets a new one.

A transfer carries no name. What marks ours is an unusual inactivity time-out, and the disk. The Engine need not say which
snapshot or backup it reads, so one whose id was lost in a crash is used again only if that is told; else it is ended.
"""

import secrets
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPSConnection
from urllib.parse import urlsplit

from tranship.errors import Busy, NotFound, Refused, Side, TimedOut, TranshipError, Unreachable
from tranship.providers.ovirt.client import Client
from tranship.providers.ovirt.events import about
from tranship.providers.ovirt.values import Entity, boolean, text
from tranship.providers.ovirt.waits import Patience
from tranship.transfer import tls

INACTIVITY = 127  # seconds
_KEEP_EVERY = 20.0  # seconds between two signs of life of one transfer
_READY_WITHIN, _ENDED_WITHIN = 120.0, 300.0  # seconds
_CONNECT, _SIGN = 2.5, 5.0  # seconds: to see whether a host can be reached from here; for one sign of life
_TRIES = 3
_OVER = ("finished_success", "finished_failure", "finished_cleanup")
_ENDING = (
    "finalizing_success",
    "finalizing_failure",
    "finalizing_cleanup",
    "cancelled",
    "cancelled_user",
    "cancelled_system",
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """image: a disk snapshot's id, backup: a backup's id; both "" = the disk itself, its VM being down. shallow: the volume
    without what lies under it."""

    disk: str
    image: str = ""
    backup: str = ""
    shallow: bool = False

    def body(self) -> Entity:
        body: Entity = {
            "direction": "download",
            "format": "raw",
            "inactivity_timeout": str(INACTIVITY),
            "timeout_policy": "cancel",
        }
        body |= {"snapshot": {"id": self.image}} if self.image else {"disk": {"id": self.disk}}
        if self.backup:
            body["backup"] = {"id": self.backup}
        if self.shallow:
            body["shallow"] = "true"
        return body

    def surely(self, said: Entity) -> bool:
        """Whether the Engine says that an open transfer reads just this."""
        if self.backup:
            return text(said, "backup", "id") == self.backup
        same = text(said, "snapshot", "id") == self.image and not text(said, "backup", "id")
        return bool(self.image) and same and boolean(said, "shallow") == self.shallow


@dataclass(frozen=True, slots=True)
class Lent:
    """url: of the daemon that can be reached from here. shallow: what the Engine says it is."""

    id: str
    url: str
    shallow: bool


def open_for(said: Entity, disk: str) -> bool:
    """Whether this is an own transfer of the disk that is not over."""
    return (
        text(said, "direction") == "download"
        and text(said, "inactivity_timeout") == str(INACTIVITY)
        and text(said, "phase") not in _OVER
        and disk in (text(said, "disk", "id"), text(said, "image", "id"), text(said, "snapshot", "disk", "id"))
    )


class Transfers:
    """credentials: by which the hosts are trusted."""

    def __init__(self, client: Client, patience: Patience, credentials: Callable[[], Mapping[str, str]]) -> None:
        self._client = client
        self._patience = patience
        self._credentials = credentials
        self._urls: dict[str, str] = {}
        self._signs: dict[str, float] = {}
        self._reached: dict[tuple[str, int], bool] = {}

    # -- lend ----------------------------------------------------------------------------------------------------------

    def lend(self, wanted: Wanted, before: str, remember: Callable[[str], None]) -> Lent:
        """before: id of an earlier one for the same, used on if it lives. remember is told of a new one as soon as it
        exists. Raises Busy (temporary) while the disk is locked, or when no host takes it."""
        trouble, correlation = "", f"tranship-{secrets.token_hex(8)}"
        for _ in range(_TRIES):
            id = before or self._orphan(wanted)
            before = ""
            if not id:
                id = text(self._client.post("imagetransfers", wanted.body(), correlation_id=correlation), "id")
            remember(id)
            try:
                said = self._transferring(id)
            except TimedOut:
                self.end(id)
                raise
            if text(said, "phase") == "transferring":
                return self._lent(id, said)
            trouble = f"it is {text(said, 'phase') or 'gone'}"
            self.end(id)
        trouble = next((event.text for event in about(self._client, correlation) if event.grave), trouble)
        remedy = "Look at the Engine's events, and see that a host with ovirt-imageio is up in the data center."
        what = f"a transfer of disk {wanted.disk}"
        raise Busy(trouble, what=what, fault="TransferPaused", side=Side.SOURCE, remedy=remedy)

    def _orphan(self, wanted: Wanted) -> str:
        """Id of an open one for just this whose id was lost; others of the disk are ended. The Engine locks the disk for it."""
        found = ""
        for said in self._client.list("imagetransfers", "image_transfer"):
            if not open_for(said, wanted.disk):
                continue
            if not found and wanted.surely(said) and text(said, "phase") in ("initializing", "transferring"):
                found = text(said, "id")
            else:
                self.end(text(said, "id"))
        return found

    def _transferring(self, id: str) -> Entity:
        """What it is when it no longer begins; {} = the Engine has forgotten it."""

        def look() -> Entity | None:
            said = self._look(id)
            return None if text(said, "phase") in ("initializing", "resuming") else said

        return self._patience.until(f"transfer {id}", _READY_WITHIN, look)

    def _look(self, id: str) -> Entity:
        try:
            return self._client.get(f"imagetransfers/{id}")
        except NotFound:
            return {}

    def _lent(self, id: str, said: Entity) -> Lent:
        urls = [url for url in (text(said, "transfer_url"), text(said, "proxy_url")) if url]
        if not urls:
            raise Unreachable("it names no address to read from", address=f"transfer {id}", side=Side.SOURCE)
        url = next((url for url in urls if self._reachable(url)), urls[-1])
        self._urls[id] = url
        self._signs[id] = time.monotonic()
        return Lent(id, url, boolean(said, "shallow"))

    def _reachable(self, url: str) -> bool:
        """Hosts may stand in a network of their own; then the proxy on the Engine helps. Only a yes is remembered."""
        parts = urlsplit(url)
        place = (parts.hostname or "", parts.port or 443)
        if not self._reached.get(place):
            try:
                socket.create_connection(place, _CONNECT).close()
            except OSError:
                return False
            self._reached[place] = True
        return True

    # -- keep and end --------------------------------------------------------------------------------------------------

    def keep(self, ids: Iterable[str]) -> None:
        """A sign of life for each that has had none lately. One that is over is none of our trouble: its reader notices.
        Raises what will not pass by itself (a password that is no longer good)."""
        for id in ids:
            if time.monotonic() - self._signs.get(id, 0.0) < _KEEP_EVERY:
                continue
            self._signs[id] = time.monotonic()
            try:
                self._client.action(f"imagetransfers/{id}/extend")
                self._touch(self._urls.get(id) or self._lent(id, self._look(id)).url)
            except (NotFound, Refused):
                continue
            except TranshipError as error:
                if not error.temporary:
                    raise

    def _touch(self, url: str) -> None:
        """The daemon counts every request for the ticket, the cheapest too."""
        parts = urlsplit(url)
        context = tls.context(self._credentials())
        connection = HTTPSConnection(parts.hostname or "", parts.port or 443, timeout=_SIGN, context=context)
        try:
            connection.request("OPTIONS", parts.path)
            connection.getresponse().read()
        except (OSError, HTTPException):
            pass
        finally:
            connection.close()

    def end(self, id: str) -> None:
        """Returns when it is over and the disk free. Unknown ones are ignored. Raises TimedOut (temporary)."""
        self._urls.pop(id, None)
        self._signs.pop(id, None)

        def look() -> bool | None:
            phase = text(self._look(id), "phase")
            if not phase or phase in _OVER:
                return True
            if phase not in _ENDING:
                # A download that is finalized is as good as one that is cancelled, but only while it runs.
                with suppress(Busy, Refused, NotFound):
                    self._client.action(f"imagetransfers/{id}/{'finalize' if phase == 'transferring' else 'cancel'}")
            return None

        self._patience.until(f"ending transfer {id}", _ENDED_WITHIN, look)

    def end_all(self, disks: Iterable[str]) -> None:
        """All own ones of these disks."""
        wanted = set(disks)
        for said in self._client.list("imagetransfers", "image_transfer"):
            if any(open_for(said, disk) for disk in wanted):
                self.end(text(said, "id"))


def engine_ca(client: Client) -> str:
    """PEM of the Engine's own authority, which signs the hosts' certificates whoever signed the Engine's: handed out over the
    connection that is trusted already. "" when the Engine offers none. Raises Unreachable, Untrusted."""
    context = client.login.trust.context(client.host, client.port, _SIGN)
    connection = HTTPSConnection(client.host, client.port, timeout=client.timeout, context=context)
    try:
        connection.request("GET", "/ovirt-engine/services/pki-resource?resource=ca-certificate&format=X509-PEM-CA")
        answer = connection.getresponse()
        said = answer.read(1 << 16).decode("ascii", "replace")
    except (OSError, HTTPException) as error:
        raise Unreachable(f"fetching its CA: {error}", address=client.netloc, side=Side.SOURCE) from error
    finally:
        connection.close()
    return said if answer.status == 200 and "BEGIN CERTIFICATE" in said else ""
