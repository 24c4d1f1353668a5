"""One call while it is being served, and the session that it comes from: what a method is given besides its arguments."""

import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tranship.lab.vsphere.vmomi import vim
from tranship.lab.vsphere.world import Managed


class Session:
    """One login. `owned` are its views, filters and collectors, which end with it; `tokens` are open retrievals."""

    def __init__(self, user: str, address: str, agent: str) -> None:
        self.user = user
        self.address = address
        self.agent = agent
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
            userAgent=self.agent,
            callCount=0,
        )


@dataclass
class Call:
    """`version` is the API version that the client speaks, `agent` its name; `set_cookie` goes out with the answer."""

    method: str
    this: Managed
    session: Session | None
    version: str
    address: str
    agent: str
    set_cookie: str = ""

    @property
    def who(self) -> Session:
        """The session; the server has refused calls without one already."""
        assert self.session is not None
        return self.session


class Dropped(Exception):
    """The connection shall break here, without an answer."""
