"""Who may call: a bearer token, made on first start and kept in a file that only its owner can read.

Called by the application: `read_token` at start, `BearerAuth` around every request. Only /healthz needs no token.
"""

import hmac
import os
import secrets
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from tranship.errors import Invalid
from tranship.server.answers import answer_error

_OPEN_PATHS = frozenset({"/healthz"})


def read_token(path: Path) -> str:
    """The token in the file; a new one is made where there is no file. Raises Invalid."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _read(path)
    token = secrets.token_urlsafe(32)
    with open(descriptor, "w") as file:
        file.write(token + "\n")
        file.flush()
        os.fsync(file.fileno())
    return token


def _read(path: Path) -> str:
    if path.stat().st_mode & 0o077:
        remedy = f"Remove the file, a new token is made; or close it: chmod 600 {path}"
        raise Invalid("other users may read this token", field=str(path), remedy=remedy)
    token = path.read_text().strip()
    if not token or not token.isascii():
        raise Invalid("holds no token", field=str(path), remedy="Remove the file, a new one is made.")
    return token


class BearerAuth:
    """ASGI middleware. Sees WebSockets too, so that nothing can be added later that it does not cover."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"] in _OPEN_PATHS or self._knows(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            error = HTTPException(401, "a valid bearer token is required", {"WWW-Authenticate": "Bearer"})
            answer = await answer_error(Request(scope), error)
            await answer(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _knows(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        return len(given) == 1 and hmac.compare_digest(given[0], self._expected)
