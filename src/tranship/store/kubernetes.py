"""The store on a cluster: objects are the API server's, and this is a thin, asynchronous client of it.

Opened by the application with the way that `cluster/kubeconfig.py` finds. Promises are those of store/base.py, which are the
API server's own. What is added: a watch that is cut goes on from the last version that it told, a patch without a lock is
tried again when others are quicker, and managedFields are left out of what is handed to anybody.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import httpx2
import msgspec

from tranship.cluster.api import FIELD_MANAGER, decoded, path_of, refusal, saying, unreachable
from tranship.errors import Conflict, Expired, Invalid, Side, TimedOut, TranshipError
from tranship.resources.meta import SECRET, Kind
from tranship.store.base import INITIAL_EVENTS_END, Event, EventType, Listing, Object

PAGE = 20  # objects of a list that come at once: a migration of hundreds of VMs has a MiB, and ten times that in memory
WATCH_SECONDS = 300  # that the server holds a watch open
SILENCE = 75.0  # seconds: a server sends a bookmark each minute, so this one is gone
QUICKER = 10  # times that others may be, before a patch without a lock gives up


class KubernetesStore:
    """http: with the cluster's address as its base, and its trust and credentials."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http
        self._address = str(http.base_url).rstrip("/")
        self._closed = False

    async def close(self) -> None:
        self._closed = True
        await self._http.aclose()

    async def get(self, kind: Kind, namespace: str, name: str) -> Object:
        return await self._call("GET", kind, namespace, name)

    async def list(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        labels: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
        limit: int = 0,
        cont: str = "",
    ) -> Listing:
        """fields: as the API server knows them for the kind; metadata.name is one for every kind."""
        query = {"limit": limit or None, "continue": cont or None, "labelSelector": _selector(labels)}
        query["fieldSelector"] = _selector(fields)
        page = await self._call("GET", kind, namespace or "", query=query)
        meta = page["metadata"]
        items = [_told(kind, item) for item in page.get("items") or ()]
        return Listing(items, meta["resourceVersion"], meta.get("continue", ""))

    async def watch(
        self, kind: Kind, namespace: str | None = None, *, since: str | None = None
    ) -> AsyncGenerator[Event, None]:
        if since is None:
            page = Listing([], "")
            while not page.resource_version or page.cont:
                page = await self.list(kind, namespace, limit=PAGE, cont=page.cont)
                for item in page.items:
                    yield Event(EventType.ADDED, item)
            since = page.resource_version
            meta = {"resourceVersion": since, "annotations": {INITIAL_EVENTS_END: "true"}}
            mark = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": meta}
            yield Event(EventType.BOOKMARK, mark)
        while not self._closed:
            async for event in self._follow(kind, namespace or "", since):
                since = event.resource_version
                yield event

    async def _follow(self, kind: Kind, namespace: str, since: str) -> AsyncGenerator[Event, None]:
        """One watch, until the server ends it or has been silent for too long."""
        query: dict[str, str | int] = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": WATCH_SECONDS}
        doing = saying("watching", kind, "", namespace)
        timeout = httpx2.Timeout(SILENCE, connect=10.0)
        path = path_of(kind, namespace)
        try:
            async with self._http.stream(
                "GET", path, params={**query, "resourceVersion": since}, timeout=timeout
            ) as answer:
                if not answer.is_success:
                    await answer.aread()
                    raise self._refused(answer, kind, doing)
                async for line in answer.aiter_lines():
                    yield self._event(kind, msgspec.json.decode(line))
        except httpx2.ReadTimeout:
            return
        except (httpx2.HTTPError, httpx2.StreamError, RuntimeError) as error:
            if self._closed:
                return
            if isinstance(error, httpx2.HTTPError):
                raise unreachable(error, self._address, Side.OURS) from error
            raise

    def _event(self, kind: Kind, told: Object) -> Event:
        obj = told["object"]
        if told["type"] == "ERROR":
            detail = str(obj.get("message", ""))
            if obj.get("code") == 410:
                raise Expired(detail, since="then", side=Side.OURS)
            raise Conflict(detail, what=f"watch of {kind.plural}", name="", side=Side.OURS)
        return Event(EventType(told["type"]), _told(kind, obj))

    async def create(self, kind: Kind, obj: Object) -> Object:
        meta = obj.get("metadata", {})
        body = {"apiVersion": kind.api_version, "kind": kind.kind, **obj}
        return await self._call("POST", kind, meta.get("namespace", ""), body=body, called=meta.get("name", ""))

    async def replace(self, kind: Kind, obj: Object, *, subresource: str = "") -> Object:
        meta = obj["metadata"]
        return await self._call("PUT", kind, meta.get("namespace", ""), meta["name"], subresource, body=obj)

    async def patch(
        self, kind: Kind, namespace: str, name: str, patch: Mapping[str, Any], *, subresource: str = ""
    ) -> Object:
        locked = "resourceVersion" in (patch.get("metadata") or {})
        for quicker in range(QUICKER):
            try:
                return await self._call("PATCH", kind, namespace, name, subresource, body=dict(patch))
            except Conflict:
                if locked or "uid" in (patch.get("metadata") or {}) or quicker == QUICKER - 1:
                    raise
                await asyncio.sleep(0.02 * 2**quicker)
        raise AssertionError("the loop ends by itself")

    async def delete(
        self, kind: Kind, namespace: str, name: str, *, uid: str = "", resource_version: str = ""
    ) -> Object:
        before = await self.get(kind, namespace, name)
        wanted = {"uid": uid, "resourceVersion": resource_version}
        body: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        body["preconditions"] = {key: value for key, value in wanted.items() if value}
        left = await self._call("DELETE", kind, namespace, name, body=body)
        return left if left.get("kind") == kind.kind and left.get("metadata", {}).get("uid") else before

    async def _call(
        self,
        method: str,
        kind: Kind,
        namespace: str,
        name: str = "",
        subresource: str = "",
        *,
        query: Mapping[str, object] | None = None,
        body: Object | None = None,
        called: str = "",
    ) -> Object:
        path = path_of(kind, namespace, name) + (f"/{subresource}" if subresource else "")
        doing = saying(_DOING[method], kind, name or called, namespace)
        params = {key: str(value) for key, value in (query or {}).items() if value is not None}
        headers = {"Accept": "application/json"}
        if body is not None:
            merge = "merge-patch+" if method == "PATCH" else ""
            headers["Content-Type"] = f"application/{merge}json"
        if method in ("POST", "PUT", "PATCH"):
            params["fieldManager"] = FIELD_MANAGER
        content = None if body is None else msgspec.json.encode(body)
        try:
            answer = await self._http.request(method, path, params=params, content=content, headers=headers)
        except httpx2.TimeoutException as error:
            seconds = self._http.timeout.read or 0.0
            raise TimedOut(what=f"{doing} at {self._address}", seconds=seconds, side=Side.OURS) from error
        except httpx2.HTTPError as error:
            raise unreachable(error, self._address, Side.OURS) from error
        if not answer.is_success:
            raise self._refused(answer, kind, doing)
        return _told(kind, decoded(answer)) if name or method == "POST" else decoded(answer)

    def _refused(self, answer: httpx2.Response, kind: Kind, doing: str) -> TranshipError:
        if answer.status_code == 410:
            return Expired(since="then", side=Side.OURS)
        if answer.status_code in (400, 422):
            said = "" if kind == SECRET else str(decoded(answer).get("message", ""))[:1000]
            return Invalid(said or "the API server refuses it", field=doing, side=Side.OURS)
        return refusal(answer, doing, self._address, Side.OURS)


_DOING = {"GET": "reading", "POST": "creating", "PUT": "replacing", "PATCH": "changing", "DELETE": "deleting"}


def _told(kind: Kind, obj: Object) -> Object:
    """Items of a list of Kubernetes' own kinds do not say what they are."""
    if obj.get("kind") == "Status":
        return obj
    meta = obj.get("metadata", {})
    meta.pop("managedFields", None)
    return {"apiVersion": kind.api_version, "kind": kind.kind, **obj}


def _selector(labels: Mapping[str, str] | None) -> str | None:
    return ",".join(f"{key}={value}" for key, value in labels.items()) if labels else None
