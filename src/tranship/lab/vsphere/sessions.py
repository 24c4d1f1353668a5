"""Sessions: login, logout, expiry, termination. server.py asks `find` before every call.

The cookie and the session's key are two different secrets, as on vCenter: who lists sessions cannot become them.
"""

import hmac
import secrets
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tranship.lab.vsphere import soap
from tranship.lab.vsphere.vmomi import Fault, vim
from tranship.lab.vsphere.world import SESSION, Managed

if TYPE_CHECKING:
    from tranship.lab.vsphere.calls import Call
    from tranship.lab.vsphere.center import VCenter

OPEN = {"RetrieveServiceContent", "Login", "Logout"}
"""Methods that need no session; `Fetch` of the service instance is the other exception."""


class Session:
    """One login. `owned` are its views, filters and collectors, which end with it; `tokens` are open retrievals."""

    def __init__(self, user: str, address: str) -> None:
        self.user = user
        self.address = address
        self.cookie = secrets.token_hex(20)
        self.key = secrets.token_hex(16)
        self.began = datetime.now(UTC)
        self.last = time.monotonic()
        self.last_time = self.began
        self.calls = 0  # being served now: a session with a long call is not idle
        self.ended = False
        self.owned: list[Managed] = []
        self.tokens: dict[str, Any] = {}

    def facts(self) -> Any:
        return vim.UserSession(
            key=self.key,
            userName=self.user,
            fullName=self.user.partition("@")[0],
            loginTime=self.began,
            lastActiveTime=self.last_time,
            locale="en",
            messageLocale="en",
            extensionSession=False,
            ipAddress=self.address,
            userAgent="",
            callCount=0,
        )


class Sessions:
    def __init__(self, center: "VCenter") -> None:
        self.center = center
        self.live: dict[str, Session] = {}
        facts = {"sessionList": self._list, "currentSession": self._current, "defaultLocale": "en"}
        center.world.add(Managed(vim.SessionManager, "SessionManager", facts, cached=False))

    def find(self, cookie: str) -> Session | None:
        """The live session behind a cookie's value; looking counts as activity."""
        with self.center.world.lock:
            self._expire()
            session = self.live.get(cookie)
            if session:
                session.last, session.last_time = time.monotonic(), datetime.now(UTC)
            return session

    def check(self, user: str, password: str) -> bool:
        right = f"{self.center.user}\0{self.center.password}".encode()
        return hmac.compare_digest(f"{user}\0{password}".encode(), right)

    def end(self, session: Session) -> None:
        with self.center.world.lock:
            self.live.pop(session.cookie, None)
            session.ended = True
            for item in session.owned:
                self.center.world.remove(item)
            session.owned.clear()
            self.center.world.touch()

    def end_all(self) -> None:
        for session in list(self.live.values()):
            self.end(session)

    def _expire(self) -> None:
        now = time.monotonic()
        for session in list(self.live.values()):
            if not session.calls and now - session.last > self.center.session_timeout:
                self.end(session)

    def _list(self) -> list[Any]:
        return [session.facts() for session in self.live.values()]

    def _current(self) -> Any:
        session = SESSION.get(None)
        return session.facts() if session else None

    # methods of SessionManager

    def Login(self, call: "Call", userName: str, password: str, locale: str = "") -> Any:
        if not self.check(userName, password):
            message = "Cannot complete login due to an incorrect user name or password."
            raise soap.fault_named("InvalidLogin", message)
        if call.session:
            raise soap.fault_named("InvalidState", "This connection has a session already.")
        session = Session(userName, call.address)
        self.live[session.cookie] = session
        call.set_cookie = session.cookie
        return session.facts()

    def Logout(self, call: "Call") -> None:
        if call.session is None:
            raise not_authenticated()
        self.end(call.session)

    def TerminateSession(self, call: "Call", sessionId: list[str]) -> None:
        for key in sessionId:
            session = next((live for live in self.live.values() if live.key == key), None)
            if session is None:
                raise soap.fault_named("NotFound", f"There is no session {key}.")
            if session is call.session:
                raise soap.fault_named("InvalidArgument", "A session cannot terminate itself.")
            self.end(session)

    def SessionIsActive(self, call: "Call", sessionID: str, userName: str) -> bool:
        return any(live.key == sessionID and live.user == userName for live in self.live.values())


def not_authenticated() -> Fault:
    fault = soap.fault_named("NotAuthenticated", "The session is not authenticated.", privilegeId="System.View")
    fault.object = vim.Folder("group-d1")
    return fault
