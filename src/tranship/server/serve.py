"""Serving an application inside a running event loop, with an end that does not wait for watches.

Called by the composition root, the demo and tests:

    async with serve(app) as serving:
        print(serving.url)
"""

import asyncio
import contextlib
import errno
import socket
import ssl
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from tranship.errors import Busy, Invalid

GRACE = 5  # seconds that requests have left when the server stops


@dataclass(frozen=True, slots=True)
class Serving:
    """ended: done when the server has ended; its exception, if any, is the reason."""

    host: str
    port: int
    tls: bool
    ended: asyncio.Task[None]

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"


@asynccontextmanager
async def serve(
    app: Starlette,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    certificate: Path | None = None,
    key: Path | None = None,
) -> AsyncIterator[Serving]:
    """Serves until the block is left. port 0 = any free one. Raises Busy where the port is taken, Invalid for a host or
    certificate that cannot be used."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=GRACE,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise Invalid(f"cannot be used: {error}", field=str(certificate)) from error
    listener = _listen(host, port)
    server = _Server(config)
    ended = asyncio.create_task(server.serve([listener]), name="server")
    try:
        yield Serving(host, listener.getsockname()[1], certificate is not None, ended)
    finally:
        app.state.stopping.set()
        server.should_exit = True
        await asyncio.wait([ended])
        listener.close()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Signals are the application's."""
        yield


def _listen(host: str, port: int) -> socket.socket:
    """Bound here, so that a taken port raises and a free one is known. Listening at once: who connects early waits."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise Invalid(f"cannot be resolved: {error}", field=f"host {host}") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            remedy = "Stop what listens there, or choose another port."
            raise Busy("another program listens there", what=f"port {port}", fault="in use", remedy=remedy) from error
        raise Invalid(f"cannot be listened to: {error}", field=f"{host}:{port}") from error
    return listener
