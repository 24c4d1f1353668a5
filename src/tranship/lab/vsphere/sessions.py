"""Sessions: login, clones, logout, expiry, termination. server.py asks `find` before every call.

The cookie and the session's key are two different secrets, as on vCenter: who lists sessions cannot become them.
"""

import hmac
import secrets
import time
from datetime import UTC, datetime
from typing import Any

from tranship.lab.vsphere import soap
from tranship.lab.vsphere.calls import Call, Session
from tranship.lab.vsphere.state import State
from tranship.lab.vsphere.vmomi import Fault, vim
from tranship.lab.vsphere.world import SESSION, Managed

OPEN = {"RetrieveServiceContent", "Login", "CloneSession", "Logout"}
"""Methods that need no session; `Fetch` of the service instance is the other exception."""


class Sessions:
    def __init__(self, state: State) -> None:
        self.state = state
        self.live: dict[str, Session] = {}
        self.tickets: dict[str, Session] = {}  # to clone it by, once
        facts = {"sessionList": self._list, "currentSession": self._current, "defaultLocale": "en"}
        state.world.add(Managed(vim.SessionManager, "SessionManager", facts, cached=False))

    def find(self, cookie: str) -> Session | None:
        """The live session behind a cookie's value; looking counts as activity."""
        with self.state.world.lock:
            self._expire()
            session = self.live.get(cookie)
            if session:
                session.last, session.last_time = time.monotonic(), datetime.now(UTC)
            return session

    def check(self, user: str, password: str) -> bool:
        right = f"{self.state.user}\0{self.state.password}".encode()
        return hmac.compare_digest(f"{user}\0{password}".encode(), right)

    def reads(self, cookie: str, user: str, key: str) -> bool:
        """Whether the disk library may read by this session. It holds a connection of its own: no sign of life."""
        with self.state.world.lock:
            self._expire()
            session = self.live.get(cookie)
            return session is not None and session.user == user and session.key == key

    def end(self, session: Session) -> None:
        with self.state.world.lock:
            self.live.pop(session.cookie, None)
            session.ended = True
            for item in session.owned:
                self.state.world.remove(item)
            session.owned.clear()
            self.state.world.touch()

    def end_all(self) -> None:
        for session in list(self.live.values()):
            self.end(session)

    def _expire(self) -> None:
        now = time.monotonic()
        for session in list(self.live.values()):
            if not session.calls and now - session.last > self.state.session_timeout:
                self.end(session)

    def _list(self) -> list[Any]:
        return [session.facts() for session in self.live.values()]

    def _current(self) -> Any:
        session = SESSION.get(None)
        return session.facts() if session else None

    # methods of SessionManager

    def Login(self, call: Call, userName: str, password: str, locale: str = "") -> Any:
        if not self.check(userName, password):
            message = "Cannot complete login due to an incorrect user name or password."
            raise soap.fault_named("InvalidLogin", message)
        if call.session:
            raise soap.fault_named("InvalidState", "This connection has a session already.")
        return self._begin(call, userName)

    def _begin(self, call: Call, user: str) -> Any:
        session = Session(user, call.address, call.agent)
        self.live[session.cookie] = session
        call.set_cookie = session.cookie
        return session.facts()

    def AcquireCloneTicket(self, call: Call) -> str:
        ticket = f"cst-VCT-{secrets.token_hex(20)}"
        self.tickets[ticket] = call.who
        return ticket

    def CloneSession(self, call: Call, cloneTicket: str) -> Any:
        """The clone is a session of its own: it does not end with the other. A ticket does."""
        origin = self.tickets.pop(cloneTicket, None)
        if origin is None or origin.ended:
            raise soap.fault_named("InvalidLogin", "The clone ticket is not valid.")
        if call.session:
            raise soap.fault_named("InvalidState", "This connection has a session already.")
        return self._begin(call, origin.user)

    def Logout(self, call: Call) -> None:
        if call.session is None:
            raise not_authenticated()
        self.end(call.session)

    def TerminateSession(self, call: Call, sessionId: list[str]) -> None:
        for key in sessionId:
            session = next((live for live in self.live.values() if live.key == key), None)
            if session is None:
                raise soap.fault_named("NotFound", f"There is no session {key}.")
            if session is call.session:
                raise soap.fault_named("InvalidArgument", "A session cannot terminate itself.")
            self.end(session)

    def SessionIsActive(self, call: Call, sessionID: str, userName: str) -> bool:
        return any(live.key == sessionID and live.user == userName for live in self.live.values())


def not_authenticated() -> Fault:
    fault = soap.fault_named("NotAuthenticated", "The session is not authenticated.", privilegeId="System.View")
    fault.object = vim.Folder("group-d1")
    return fault
