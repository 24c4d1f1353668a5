"""The embedded server: the Kubernetes REST API over a store, and the inventory.

Called by the composition root and by tests. It knows no controller: the inventory and the validation of objects are handed
in.
"""

import asyncio
from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tranship.errors import TranshipError
from tranship.resources.meta import ALL_KINDS, HOOK, Kind
from tranship.server import discovery, openapi
from tranship.server.answers import answer_error
from tranship.server.auth import BearerAuth
from tranship.server.inventory import Inventory, InventoryApi
from tranship.server.objects import Objects, Validate
from tranship.store.base import Store


def make_app(
    store: Store,
    *,
    token: str,
    inventory: Inventory,
    validate: Validate | None = None,
    version: str,
    kinds: Sequence[Kind] = ALL_KINDS,
) -> Starlette:
    """validate: takes what a user wants to store and gives what is stored, or raises Invalid. `app.state.stopping` is an
    Event that ends all watches; `serve` sets it."""
    stopping = asyncio.Event()

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok")

    async def readyz(_: Request) -> Response:
        await store.list(HOOK, limit=1)
        return PlainTextResponse("ok")

    routes = [Route("/healthz", healthz), Route("/livez", healthz), Route("/readyz", readyz)]
    routes += discovery.routes(kinds, version) + openapi.routes(kinds, version)
    for kind in kinds:
        routes += Objects(kind, store, validate, stopping).routes()
    routes += InventoryApi(store, inventory).routes()
    app = Starlette(
        routes=routes,
        middleware=[Middleware(BearerAuth, token=token)],
        exception_handlers={HTTPException: answer_error, TranshipError: answer_error, Exception: answer_error},
    )
    app.router.redirect_slashes = False
    app.state.stopping = stopping
    return app
