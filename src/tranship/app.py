"""The one composition root: store, controllers and server put together.

Called by `tranship serve`, the demo and end-to-end tests. Everything lives below one data directory (0700): the store, the
bearer token, the movers' journals, and by default the machines that are moved to this host.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tranship.controllers.manager import Manager
from tranship.controllers.maps import MapController
from tranship.controllers.migrations import MigrationController
from tranship.controllers.plans import PlanController
from tranship.controllers.providers import ProviderController
from tranship.resources.meta import NETWORK_MAP, STORAGE_MAP
from tranship.store.base import Store
from tranship.store.sqlite import SqliteStore

SETTLE = 0.2  # seconds in which changes of an inventory are gathered before plans are checked again


@dataclass(frozen=True, slots=True)
class App:
    store: Store
    providers: ProviderController
    directory: Path


@asynccontextmanager
async def running(
    directory: Path, *, poll: float = 1.0, boundary: Callable[[str], None] = lambda where: None
) -> AsyncIterator[App]:
    """The controllers at work on the directory's store. Leaving stops them; movers go on and are adopted by the next."""
    store = await SqliteStore.open(directory / "tranship.db")
    providers = ProviderController(
        store, directory, lambda key: dependents(), lambda key: manager.poke(providers.name, key)
    )
    plans = PlanController(store, providers)
    migrations = MigrationController(
        store,
        providers,
        directory / "movers",
        poll=poll,
        boundary=boundary,
        again=lambda key: manager.poke(migrations.name, key),
    )
    maps = [MapController(store, providers, kind) for kind in (NETWORK_MAP, STORAGE_MAP)]
    manager = Manager(store, [providers, *maps, plans, migrations])

    def dependents() -> None:
        readers: list[MapController | PlanController] = [*maps, plans]
        for controller in readers:
            for key in controller.known:
                manager.poke(controller.name, key, SETTLE)

    work = asyncio.create_task(manager.run(), name="controllers")
    try:
        yield App(store, providers, directory)
    finally:
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work
        await migrations.close()
        await asyncio.to_thread(providers.close)
        await store.close()

