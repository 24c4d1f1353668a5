"""Single sign-on: tokens that expire when they are not used, and basic authentication.

server.py sends the three addresses here and asks with every call who it is.
"""

import base64
import secrets
import time
from dataclasses import dataclass

from tranship.lab.ovirt.state import State

SCOPE = "ovirt-app-api"


@dataclass
class Session:
    token: str
    used: float


class Sso:
    def __init__(self, state: State) -> None:
        self.state = state
        self._sessions: dict[str, Session] = {}

    def token(self, form: dict[str, str]) -> tuple[int, dict[str, str]]:
        """Status and JSON. A wrong password is 400."""
        if form.get("grant_type") != "password":
            return 400, _error("unsupported_grant_type", f"Unsupported grant type {form.get('grant_type', '')!r}.")
        if SCOPE not in form.get("scope", "").split():
            return 400, _error("invalid_scope", f"The requested scope lacks {SCOPE}.")
        if not self.check(form.get("username", ""), form.get("password", "")):
            detail = f"Cannot authenticate user {form.get('username', '')!r}: the user name or password is wrong."
            return 400, _error("access_denied", detail)
        token = secrets.token_urlsafe(64)
        with self.state.lock:
            self._sessions[token] = Session(token, time.monotonic())
        expires = int((time.time() + self.state.session_timeout) * 1000)
        return 200, {"access_token": token, "scope": SCOPE, "exp": str(expires), "token_type": "bearer"}

    def logout(self, form: dict[str, str]) -> tuple[int, dict[str, str]]:
        with self.state.lock:
            self._sessions.pop(form.get("token", ""), None)
        return 200, {}

    def check(self, user: str, password: str) -> bool:
        return user == self.state.user and secrets.compare_digest(password.encode(), self.state.password.encode())

    def known(self, authorization: str) -> bool:
        """Whether a request's Authorization header is good. Using a token renews it."""
        scheme, _, value = authorization.partition(" ")
        if scheme.lower() == "basic":
            try:
                user, _, password = base64.b64decode(value, validate=True).decode().partition(":")
            except ValueError:
                return False
            return self.check(user, password)
        if scheme.lower() != "bearer":
            return False
        with self.state.lock:
            session = self._sessions.get(value)
            if session is None:
                return False
            if time.monotonic() - session.used > self.state.session_timeout:
                del self._sessions[value]
                return False
            session.used = time.monotonic()
            return True

    def expire_all(self) -> None:
        with self.state.lock:
            self._sessions.clear()

    @property
    def count(self) -> int:
        """Open sessions."""
        return len(self._sessions)


def _error(code: str, detail: str) -> dict[str, str]:
    return {"error_code": code, "error": detail}
