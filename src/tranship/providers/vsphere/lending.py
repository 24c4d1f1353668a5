"""What movers are lent of a vCenter or an ESXi host: for each round a session of its own, with the export lease that was
opened in it.

Called by the source. Whoever reads by VDDK or from a datastore has to show who he is, and gets neither the password nor the
session of the controllers: a clone of that, which ends with the round. What stands in the round's handle, in this order:

    its name        before there is a session: it is what the session list calls the program, so that one of which nobody
                    has the cookie, because we died at that moment, is found and ended by who may see the list
    key and cookie  before anybody is given them
    lease           of an export, which lives and ends with its session
    host and pin    of a session at an ESXi host: its address and certificate, so that it can be ended without its password,
                    which may be gone with the user's Host

A lent session is never renewed: whoever has its cookie would be left with a dead one. One that ended is noticed by its readers,
and the next try is lent another.
"""

import json
import secrets
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tranship.errors import Busy, Denied, NotFound, Refused, Side
from tranship.providers.base import Fence
from tranship.providers.vsphere import leases
from tranship.providers.vsphere.client import Client, Login
from tranship.providers.vsphere.sdk import vim

AGENT = "tranship-mover"
ENDED = "SessionEnded"  # the fault of the error that says so
_COOKIE = "vmware_soap_session"
_NO_SUCH_METHOD = ("NotSupported", "NotImplemented", "MethodNotFound")


@dataclass(frozen=True, slots=True)
class Handle:
    """What is lent for a round, as it stands with the movers' other state: a secret."""

    name: str = ""
    key: str = field(default="", repr=False)
    cookie: str = field(default="", repr=False)
    lease: str = ""
    host: str = ""
    pin: str = ""

    def __str__(self) -> str:
        return json.dumps({name: value for name, value in asdict(self).items() if value})

    @classmethod
    def read(cls, text: str) -> "Handle":
        """Of anything else: an empty one."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return cls()


class Lent(Client):
    """A session that others use by its cookie. When it has ended everything raises Busy with the fault ENDED."""

    def __init__(
        self,
        login: Login,
        *,
        timeout: float,
        fence: Fence,
        agent: str = "",
        ticket: str = "",
        key: str = "",
        cookie: str = "",
    ) -> None:
        """ticket: to clone another by. key and cookie: of one that is there already. None of them: by the password."""
        super().__init__(login, timeout=timeout, agent=agent, fence=fence)
        self._ticket, self._key, self._value = ticket, key, cookie

    @property
    def key(self) -> str:
        """By which administrators know it."""
        self.connect()
        return self._session

    @property
    def cookie(self) -> str:
        """The value of the cookie `vmware_soap_session`."""
        self.connect()
        return str(self._stub.cookie).partition(";")[0].partition("=")[2].strip('"')

    @property
    def header(self) -> str:
        """The cookie as HTTP has it."""
        return f'{_COOKIE}="{self.cookie}"'

    def alive(self) -> bool:
        """Asking is a sign of life."""
        now = self.object(vim.ServiceInstance, "ServiceInstance").CurrentTime
        return not ended(lambda: self.read("look at a session", now))

    def end(self) -> None:
        ended(lambda: self.call("end a session", self.content.sessionManager.Logout))

    def leave(self) -> None:
        """Without ending it: others use it."""
        with self._lock:
            stub, self._stub, self._epoch = self._stub, None, 0
        if stub is not None:
            stub.DropConnections()

    def _log_in(self, seen: int) -> None:
        if seen:
            detail = "it has ended: it rested too long, or an administrator ended it"
            raise Busy(detail, what="reading by the session that was lent", fault=ENDED, side=Side.SOURCE)
        super()._log_in(seen)

    def _enter(self, manager: Any) -> str:
        if self._value:
            self._stub.cookie = f'{_COOKIE}="{self._value}"'
            return self._key
        if not self._ticket:
            return super()._enter(manager)
        try:
            return str(manager.CloneSession(self._ticket).key)
        except vim.fault.InvalidLogin as error:
            detail = "the ticket is good no more"
            raise Busy(detail, what="cloning a session", fault="InvalidLogin", side=Side.SOURCE) from error


def ended(do: Callable[[], object]) -> bool:
    """Whether the lent session that `do` makes a call in has ended."""
    try:
        do()
    except Busy as error:
        if error.fault != ENDED:
            raise
        return True
    return False


class Lender:
    """Of one vCenter, or of one ESXi host. Thread-safe. calls: the controllers' own session; at a host there is one only for
    as long as it is needed."""

    def __init__(self, calls: Client, *, host: bool = False) -> None:
        self._calls = calls
        self._host = host
        self._lock = threading.Lock()
        self._known: dict[str, Lent] = {}  # by cookie: connections are worth keeping

    def lend(self, purpose: str, before: str, remember: Callable[[str], None]) -> tuple[Handle, Lent]:
        """The session of the handle `before` if it lives, else a new one. purpose: a word for the session list."""
        handle = Handle.read(before)
        if handle.cookie:
            lent = self._attached(handle)
            if lent.alive():
                return handle, lent
        self.give_back(before)
        handle = Handle(f"{AGENT}/{purpose}-{secrets.token_hex(6)}", host=self._calls.login.url if self._host else "")
        remember(str(handle))
        lent = self._clone(handle.name)
        try:
            handle = replace(handle, key=lent.key, cookie=lent.cookie, pin=lent.sha1 if self._host else "")
            remember(str(handle))
        except BaseException:
            lent.end()
            raise
        with self._lock:
            self._known[handle.cookie] = lent
        return handle, lent

    def keep(self, text: str) -> None:
        """A sign of life. One that has ended is none of our trouble here: its readers notice."""
        handle = Handle.read(text)
        if not handle.cookie:
            return
        lent = self._attached(handle)
        if handle.lease:
            ended(lambda: leases.keep_lease(lent, handle.lease))
        else:
            lent.alive()

    def give_back(self, text: str) -> None:
        """The session and what is open in it. Raises what keeps it from being ended."""
        handle = Handle.read(text)
        try:
            if handle.cookie:
                self._end(handle)
            else:
                self._sweep(handle.name)
        finally:
            if self._host:
                self._calls.close()

    def _end(self, handle: Handle) -> None:
        lent = self._attached(handle)
        if handle.lease and ended(lambda: leases.close_lease(lent, handle.lease)):
            self._calls.quietly(lambda: leases.close_lease(self._calls, handle.lease))
        lent.end()
        with self._lock:
            self._known.pop(handle.cookie, None)
        lent.leave()

    def close(self) -> None:
        """What is lent stays so: movers read by it, and the handles tell of it."""
        with self._lock:
            known, self._known = self._known, {}
        for lent in known.values():
            lent.leave()

    def _attached(self, handle: Handle) -> Lent:
        with self._lock:
            found = self._known.get(handle.cookie)
            if found is None:
                login, timeout, fence = self._calls.login, self._calls.timeout, self._calls.fence
                found = Lent(
                    login, timeout=timeout, fence=fence, agent=handle.name, key=handle.key, cookie=handle.cookie
                )
                self._known[handle.cookie] = found
            return found

    def _clone(self, name: str) -> Lent:
        """An ESXi host knows no clones: it is logged in there."""
        calls, ticket = self._calls, ""
        try:
            if not self._host:
                ticket = calls.call("clone a session", lambda: calls.content.sessionManager.AcquireCloneTicket())
        except Refused as error:
            if error.fault not in _NO_SUCH_METHOD:
                raise
        made = Lent(calls.login, timeout=calls.timeout, fence=calls.fence, agent=name, ticket=ticket)
        made.connect()
        return made

    def _sweep(self, name: str) -> None:
        """End the session that is known by its name only. Whoever may not see the list leaves it to expire."""
        if not name.startswith(AGENT):
            return
        manager = self._calls.content.sessionManager
        with suppress(Denied, NotFound):
            listed = self._calls.properties(manager._moId, vim.SessionManager, ["sessionList"])
            keys = [one.key for one in listed.get("sessionList", ()) if one.userAgent == name]
            if keys:
                self._calls.call("end a session", lambda: manager.TerminateSession(keys))
