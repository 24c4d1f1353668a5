"""The REST of the kinds: list, watch, create, get, replace, patch, delete, and the status subresource.

Called by the application. Reads a request strictly, has what a user wrote validated, and leaves everything else to the
store. What is not supported is refused, never ignored: dry runs, other patch formats, other ways of cascading.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from tranship.errors import Conflict, Invalid
from tranship.resources.meta import SECRET, Kind
from tranship.server import selectors, tables, watching
from tranship.server.answers import Json, bad_request, success
from tranship.store.base import Object, Store
from tranship.store.objects import merge

Validate = Callable[[Object], Mapping[str, Any]]
Handler = Callable[[Request], Awaitable[Response]]

LARGEST_BODY = 3 << 20  # bytes, as Kubernetes
_MERGE = "application/merge-patch+json"
_STRATEGIC = "application/strategic-merge-patch+json"
_SECRET_FIELDS = {"apiVersion", "kind", "metadata", "type", "data", "stringData", "immutable"}
_ATTEMPTS = 5  # of a patch without a lock, when others write in between


class Objects:
    """Endpoints of one kind. stopping: set when the server stops, so that watches end."""

    def __init__(self, kind: Kind, store: Store, validate: Validate | None, stopping: asyncio.Event) -> None:
        self._kind = kind
        self._store = store
        self._validate = validate
        self._stopping = stopping

    def routes(self) -> list[Route]:
        kind = self._kind
        prefix = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
        every = f"{prefix}/{kind.plural}"
        many = f"{prefix}/namespaces/{{namespace}}/{kind.plural}" if kind.namespaced else every
        one = f"{many}/{{name}}"
        found = [
            _route(many, {"GET": self._list, "POST": self._create}),
            _route(one, {"GET": self._get, "PUT": self._replace, "PATCH": self._patch, "DELETE": self._delete}),
        ]
        if every != many:
            found.append(_route(every, {"GET": self._list}))
        if kind.group:
            status = {"GET": self._get, "PUT": self._replace_status, "PATCH": self._patch_status}
            found.append(_route(f"{one}/status", status))
        return found

    async def _list(self, request: Request) -> Response:
        query = request.query_params
        selector = selectors.parse(query.get("labelSelector", ""), query.get("fieldSelector", ""))
        if _flag(request, "watch"):
            return await self._watch(request, selector)
        limit, cont = _number(request, "limit") or 0, query.get("continue", "")
        if selector.others:
            limit, cont = 0, ""  # a page is cut by the store, which cannot look through such a selector
        namespace = request.path_params.get("namespace")
        listing = await self._store.list(self._kind, namespace, labels=selector.equal, limit=limit, cont=cont)
        items = [item for item in listing.items if selector.fits(item)]
        meta = {"resourceVersion": listing.resource_version} | ({"continue": listing.cont} if listing.cont else {})
        if tables.wants_table(request.headers.get("accept", "")):
            return Json(self._table(request, items, meta))
        head = {"kind": f"{self._kind.kind}List", "apiVersion": self._kind.api_version, "metadata": meta}
        return Json(head | {"items": items})

    async def _watch(self, request: Request, selector: selectors.Selector) -> Response:
        namespace = request.path_params.get("namespace")
        since: str | None = request.query_params.get("resourceVersion", "")
        initial = request.query_params.get("sendInitialEvents")
        if initial == "false" and not since:
            since = (await self._store.list(self._kind, namespace, limit=1)).resource_version
        elif initial == "true" or since in ("", "0"):
            since = None
        as_table = tables.wants_table(request.headers.get("accept", ""))
        body = watching.lines(
            self._store.watch(self._kind, namespace, since=since),
            selector=selector,
            bookmarks=_flag(request, "allowWatchBookmarks"),
            end_mark=initial == "true",
            seconds=_number(request, "timeoutSeconds"),
            stopping=self._stopping,
            show=(lambda obj: self._table(request, [obj], {})) if as_table else lambda obj: obj,
        )
        return StreamingResponse(body, media_type="application/json")

    async def _get(self, request: Request) -> Response:
        return self._answer(request, await self._store.get(self._kind, *_path(request)))

    async def _create(self, request: Request) -> Response:
        obj = self._admit(request, self._identified(request, await _body(request, "application/json")))
        return self._answer(request, await self._store.create(self._kind, obj), 201)

    async def _replace(self, request: Request) -> Response:
        obj = self._admit(request, self._identified(request, await _body(request, "application/json")))
        return self._answer(request, await self._store.replace(self._kind, obj))

    async def _replace_status(self, request: Request) -> Response:
        obj = self._identified(request, await _body(request, "application/json"))
        return self._answer(request, await self._store.replace(self._kind, obj, subresource="status"))

    async def _patch(self, request: Request) -> Response:
        """Read, merge, validate, write back under a lock: what is stored is always what was validated."""
        patch = await self._patch_body(request)
        meta = patch.get("metadata")
        locked = isinstance(meta, Mapping) and bool(meta.get("resourceVersion"))
        attempts = 1 if locked else _ATTEMPTS
        while True:
            attempts -= 1
            current = await self._store.get(self._kind, *_path(request))
            desired = self._admit(request, self._identified(request, merge(current, patch)))
            try:
                return self._answer(request, await self._store.replace(self._kind, desired))
            except Conflict:
                if not attempts:
                    raise

    async def _patch_status(self, request: Request) -> Response:
        patch = await self._patch_body(request)
        new = await self._store.patch(self._kind, *_path(request), patch, subresource="status")
        return self._answer(request, new)

    async def _delete(self, request: Request) -> Response:
        options = await _body(request, "application/json", optional=True)
        policy = request.query_params.get("propagationPolicy") or options.get("propagationPolicy") or "Background"
        if options.get("dryRun"):
            raise bad_request("dryRun is not supported")
        if policy != "Background":
            raise bad_request(f"propagationPolicy {policy} is not supported, only Background")
        preconditions = options.get("preconditions") or {}
        left = await self._store.delete(
            self._kind,
            *_path(request),
            uid=preconditions.get("uid") or "",
            resource_version=preconditions.get("resourceVersion") or "",
        )
        if left["metadata"].get("finalizers"):
            return self._answer(request, left)
        meta = left["metadata"]
        details = {"name": meta["name"], "kind": self._kind.plural, "uid": meta["uid"]}
        return Json(success(details | ({"group": self._kind.group} if self._kind.group else {})))

    def _admit(self, request: Request, obj: Object) -> Object:
        """Our kinds keep fields that are not known, as their schemas say; a Secret has none beyond Kubernetes' own."""
        if self._kind == SECRET and request.query_params.get("fieldValidation") == "Strict":
            for field in obj.keys() - _SECRET_FIELDS:
                raise Invalid("is not known", field=field, remedy=f"Known are {', '.join(sorted(_SECRET_FIELDS))}.")
        return obj if self._validate is None else dict(self._validate(obj))

    def _identified(self, request: Request, obj: Object) -> Object:
        """The object with kind, namespace and name as the path has them. Raises 400 where they contradict."""
        meta = obj.get("metadata", {})
        if not isinstance(meta, Mapping):
            raise bad_request("metadata must be an object")
        meta = {**meta, **{key: value for key, value in request.path_params.items() if not meta.get(key)}}
        for key, value in request.path_params.items():
            if meta[key] != value:
                raise bad_request(f"metadata.{key} {meta[key]!r} is not the {value!r} of the path")
        full = {"apiVersion": self._kind.api_version, "kind": self._kind.kind} | obj | {"metadata": meta}
        if (full["apiVersion"], full["kind"]) != (self._kind.api_version, self._kind.kind):
            raise bad_request(f"{full['kind']} of {full['apiVersion']} does not belong to this path")
        return full

    async def _patch_body(self, request: Request) -> Object:
        """For Secrets kubectl sends strategic merge patches, which mean the same where they give no `$` directives."""
        formats = [_MERGE] if self._kind.group else [_MERGE, _STRATEGIC]
        patch = await _body(request, *formats)
        if _media_type(request) == _STRATEGIC and any(key.startswith("$") for key in _keys(patch)):
            raise HTTPException(415, f"directives of a strategic merge patch are not supported: use {_MERGE}")
        return patch

    def _answer(self, request: Request, obj: Object, code: int = 200) -> Response:
        if tables.wants_table(request.headers.get("accept", "")):
            meta = {"resourceVersion": obj["metadata"]["resourceVersion"]}
            return Json(self._table(request, [obj], meta), code)
        return Json(obj, code)

    def _table(self, request: Request, items: list[Object], meta: Object) -> Object:
        include = request.query_params.get("includeObject", "Metadata")
        return tables.table(self._kind, items, meta, include=include, now=datetime.now(UTC))


def _route(path: str, handlers: Mapping[str, Handler]) -> Route:
    async def dispatch(request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        if method != "GET" and request.query_params.get("dryRun"):
            raise bad_request("dryRun is not supported")
        return await handlers[method](request)

    return Route(path, dispatch, methods=list(handlers))


def _path(request: Request) -> tuple[str, str]:
    return request.path_params.get("namespace", ""), request.path_params["name"]


async def _body(request: Request, *formats: str, optional: bool = False) -> Object:
    """The JSON object that was sent. Raises 400, 413, 415."""
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > LARGEST_BODY:
            raise HTTPException(413, f"more than {LARGEST_BODY} bytes")
        chunks.append(chunk)
    if optional and not size:
        return {}
    if _media_type(request) not in formats:
        raise HTTPException(415, f"send {' or '.join(formats)}, not {_media_type(request) or 'nothing'}")
    try:
        return msgspec.json.decode(b"".join(chunks), type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise bad_request(f"the body is no JSON object: {error}") from error


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _keys(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [*value, *(key for part in value.values() for key in _keys(part))]
    return [key for part in value for key in _keys(part)] if isinstance(value, list) else []


def _flag(request: Request, name: str) -> bool:
    return request.query_params.get(name, "") in ("true", "1")


def _number(request: Request, name: str) -> int | None:
    text = request.query_params.get(name, "")
    if not text:
        return None
    if not text.isascii() or not text.isdigit():
        raise bad_request(f"{name} must be a number")
    return int(text) or None
