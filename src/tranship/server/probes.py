"""What a kubelet asks a process of the controllers. Started by `tranship serve --probes`; plain HTTP, and nothing secret in it.

/healthz   200 as long as the event loop answers; a process that lost its lease ends, and answers nothing
/readyz    200 while the API server answers the process, whether it acts or waits for its turn; else 503 and why
"""

import asyncio
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tranship.errors import TranshipError


def make_probes(state: Callable[[], str]) -> Starlette:
    """state: what the process does now, for people. Raises a TranshipError when it is not ready."""

    async def healthz(request: Request) -> PlainTextResponse:
        return PlainTextResponse("alive\n")

    async def readyz(request: Request) -> PlainTextResponse:
        try:
            return PlainTextResponse(state() + "\n")
        except TranshipError as error:
            return PlainTextResponse(f"{error}\n", status_code=503)

    app = Starlette(routes=[Route("/healthz", healthz), Route("/readyz", readyz)])
    app.state.stopping = asyncio.Event()
    return app
