"""The one composition root: store, controllers and server put together.

Called by `tranship serve`, the demo and end-to-end tests. Everything lives below one data directory (0700): the store, the
bearer token, the movers' journals, and by default the machines that are moved to this host. On a cluster the objects are the
API server's instead.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tranship import __version__
from tranship.cluster.kubeconfig import Access
from tranship.controllers.hosts import HostController
from tranship.controllers.manager import Manager
from tranship.controllers.maps import MapController
from tranship.controllers.migrations import MigrationController
from tranship.controllers.mirror import Mirror
from tranship.controllers.plans import PlanController
from tranship.controllers.providers import ProviderController
from tranship.providers.base import Fence, nothing_fenced
from tranship.resources.meta import NETWORK_MAP, STORAGE_MAP, parse
from tranship.resources.model import to_json
from tranship.resources.secret import Secret
from tranship.server.app import make_app
from tranship.server.auth import read_token
from tranship.server.serve import serve
from tranship.server.tls import own_certificate
from tranship.store.base import Object, Store
from tranship.store.kubernetes import KubernetesStore
from tranship.store.sqlite import SqliteStore

# seconds in which changes of an inventory are gathered before plans are checked again: the more plans, the longer
SETTLE, SETTLE_EACH = 0.2, 0.05


@dataclass(frozen=True, slots=True)
class App:
    """work: of the controllers; done only when something of ours is broken, with the error."""

    store: Store
    providers: ProviderController
    directory: Path
    work: asyncio.Task[None]


@asynccontextmanager
async def running(
    directory: Path,
    *,
    cluster: Access | None = None,
    poll: float = 1.0,
    boundary: Callable[[str], None] = lambda where: None,
    fence: Fence = nothing_fenced,
) -> AsyncIterator[App]:
    """The controllers at work on the directory's store, or on a cluster's objects. Leaving stops them; movers go on and are
    adopted by the next. boundary: told of each step of a walk. fence: asked before each call that changes something."""
    store: Store
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)  # noqa: ASYNC240 - once, before anything runs
    if cluster is not None:
        store = KubernetesStore(cluster.client())
    else:
        store = await SqliteStore.open(directory / "tranship.db")
    mirror = Mirror(store)
    providers = ProviderController(
        store,
        directory,
        lambda key: dependents(),
        lambda key: manager.poke(providers.name, key),
        own=cluster,
        fence=fence,
    )
    plans = PlanController(store, mirror, providers)
    migrations = MigrationController(
        store,
        mirror,
        providers,
        directory / "movers",
        poll=poll,
        boundary=boundary,
        again=lambda key: manager.poke(migrations.name, key),
    )
    maps = [MapController(store, providers, kind) for kind in (NETWORK_MAP, STORAGE_MAP)]
    hosts = HostController(store, providers)
    manager = Manager(mirror, [providers, hosts, *maps, plans, migrations])

    def dependents() -> None:
        readers: list[MapController | HostController | PlanController] = [*maps, hosts, plans]
        known = [(controller.name, key) for controller in readers for key in controller.known]
        for name, key in known:
            manager.poke(name, key, max(SETTLE, SETTLE_EACH * len(known)))
        for key in migrations.unsettled():
            manager.poke(migrations.name, key)

    work = asyncio.create_task(manager.run(), name="controllers")
    try:
        yield App(store, providers, directory, work)
    finally:
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work
        await migrations.close()
        await asyncio.to_thread(providers.close)
        await store.close()


@asynccontextmanager
async def serving(app: App, host: str, port: int) -> AsyncIterator[str]:
    """The REST API over TLS with a certificate of our own. The URL, the CA to trust and the token stand in the data
    directory while it is served."""
    files = own_certificate(
        app.directory, (host, "localhost") if host != "127.0.0.1" else ("localhost", "127.0.0.1", "::1")
    )
    api = make_app(
        app.store,
        token=read_token(app.directory / "token"),
        inventory=app.providers.estate,
        validate=admit,
        version=__version__,
    )
    address = app.directory / "server"
    async with serve(api, host, port, certificate=files.certificate, key=files.key) as server:
        address.write_text(server.url + "\n")
        try:
            yield server.url
        finally:
            address.unlink(missing_ok=True)


def admit(obj: Object) -> Object:
    """What a user may store: what its kind's model understands. The user's words are kept. Raises Invalid."""
    resource = parse(obj)
    return to_json(resource.folded()) if isinstance(resource, Secret) else obj
