"""The inventory REST, read only, with Forklift's paths: what a provider has.

Called by the application; the estates come from whoever follows the providers. Items are the inventory's dataclasses as
JSON (sizes in bytes) with a selfLink. A cluster has collections of its own besides.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tranship.inventory.estate import Estate, Thing
from tranship.resources.meta import PROVIDER
from tranship.resources.provider import OPENSHIFT
from tranship.server.answers import Json, bad_request, status_of
from tranship.store.base import Store

Object = dict[str, Any]
Inventory = Callable[[str], Estate | None]
COLLECTIONS = ("vms", "networks", "datastores", "hosts")
OF_CLUSTERS = (
    "namespaces",
    "storageclasses",
    "networkattachmentdefinitions",
    "instancetypes",
    "clusterinstancetypes",
)


class InventoryApi:
    """inventory: uid of a provider -> its estate, None while it is not loaded."""

    def __init__(self, store: Store, inventory: Inventory) -> None:
        self._store = store
        self._inventory = inventory

    def routes(self) -> list[Route]:
        one = "/providers/{type}/{uid}"
        return [
            Route("/providers", self._providers),
            Route("/providers/{type}", self._providers_of_type),
            Route(one, self._provider),
            Route(one + "/{collection}", self._collection),
            Route(one + "/{collection}/{id:path}", self._item),
        ]

    async def _providers(self, request: Request) -> Response:
        by_type: dict[str, list[Object]] = {}
        for provider in await self._all():
            by_type.setdefault(provider["type"], []).append(provider)
        return Json(by_type)

    async def _providers_of_type(self, request: Request) -> Response:
        return Json([one for one in await self._all() if one["type"] == request.path_params["type"]])

    async def _provider(self, request: Request) -> Response:
        return Json(await self._find(request))

    async def _collection(self, request: Request) -> Response:
        provider, items = await self._items(request)
        if isinstance(items, Response):
            return items
        name = request.query_params.get("name")
        namespace = request.query_params.get("namespace")
        fitting = [
            item for item in items.values() if name in (None, item.name) and namespace in (None, _namespace(item))
        ]
        shown = [_shown(provider, request, item) for item in fitting]
        offset, limit = _number(request, "offset") or 0, _number(request, "limit")
        return Json(shown[offset : None if limit is None else offset + limit])

    async def _item(self, request: Request) -> Response:
        provider, items = await self._items(request)
        if isinstance(items, Response):
            return items
        id = request.path_params["id"]
        found = items.get(id) or next((one for one in items.values() if getattr(one, "uid", "") == id), None)
        if found is None:
            raise HTTPException(404, f"{request.path_params['collection']}: {id!r} was not found")
        return Json(_shown(provider, request, found))

    async def _all(self) -> list[Object]:
        found = (await self._store.list(PROVIDER)).items
        return [self._describe(provider) for provider in found]

    async def _find(self, request: Request) -> Object:
        type, uid = request.path_params["type"], request.path_params["uid"]
        for provider in await self._all():
            if (provider["type"], provider["uid"]) == (type, uid):
                return provider
        raise HTTPException(404, f"provider {uid!r} of type {type!r} was not found", {"X-Reason": "ProviderNotFound"})

    async def _items(self, request: Request) -> tuple[Object, Mapping[str, Any] | Response]:
        """The collection by id; 206, as Forklift answers, while the inventory is not loaded."""
        provider = await self._find(request)
        collection = request.path_params["collection"]
        known = COLLECTIONS + (OF_CLUSTERS if provider["type"] == OPENSHIFT else ())
        if collection not in known:
            raise HTTPException(404, f"there is no collection {collection!r}, only {', '.join(known)}")
        estate = self._inventory(provider["uid"])
        if estate is None:
            waiting = HTTPException(503, f"the inventory of provider {provider['name']!r} is not loaded yet")
            return provider, Json(status_of(waiting) | {"code": 206}, 206)
        return provider, _collection(estate, collection)

    def _describe(self, provider: Mapping[str, Any]) -> Object:
        meta, type = provider["metadata"], provider.get("spec", {}).get("type", "")
        described = {
            "uid": meta["uid"],
            "namespace": meta["namespace"],
            "name": meta["name"],
            "version": meta["resourceVersion"],
            "type": type,
            "selfLink": f"providers/{type}/{meta['uid']}",
            "object": provider,
        }
        estate = self._inventory(meta["uid"])
        if estate is not None:
            every = (*COLLECTIONS, *estate.others)
            counts = {f"{_one(collection)}Count": len(_collection(estate, collection)) for collection in every}
            described |= {**counts, "revision": estate.version}
        return described


def _shown(provider: Mapping[str, Any], request: Request, item: Any) -> Object:
    link = f"{provider['selfLink']}/{request.path_params['collection']}/{item.id}"
    # enc_hook: a provider's own traits may hold what JSON does not know
    shown: Object = msgspec.to_builtins(item, enc_hook=str)
    return {**(shown.pop("facts") if isinstance(item, Thing) else {}), **shown, "selfLink": link}


def _collection(estate: Estate, name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = getattr(estate, name) if name in COLLECTIONS else estate.others.get(name, {})
    return found


def _one(collection: str) -> str:
    return collection.removesuffix("es") if collection.endswith("sses") else collection.removesuffix("s")


def _namespace(item: Any) -> str:
    """Of what is in one: its path is namespace/name."""
    return str(getattr(item, "namespace", "") or item.path.rpartition("/")[0])


def _number(request: Request, name: str) -> int | None:
    text = request.query_params.get(name, "")
    if text and not (text.isascii() and text.isdigit()):
        raise bad_request(f"{name} must be a number")
    return int(text) if text else None
