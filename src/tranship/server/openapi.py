"""OpenAPI v3 of the kinds, as far as kubectl reads it: `apply` asks whether the server checks fields, `explain` shows them.

Called by the application. The schemas are those of the generated CustomResourceDefinitions.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tranship.resources.crds import schema
from tranship.resources.meta import Kind
from tranship.server.answers import Json

Object = dict[str, Any]


def routes(kinds: Sequence[Kind], version: str) -> list[Route]:
    by_path: dict[str, list[Kind]] = {}
    for kind in kinds:
        by_path.setdefault(f"{'apis' if kind.group else 'api'}/{kind.api_version}", []).append(kind)

    async def index(_: Request) -> Response:
        return Json({"paths": {path: {"serverRelativeURL": f"/openapi/v3/{path}?hash={version}"} for path in by_path}})

    async def document(request: Request) -> Response:
        path = request.url.path.removeprefix("/openapi/v3/")
        return Json(_document(path, by_path[path], version))

    return [Route("/openapi/v3", index), *(Route(f"/openapi/v3/{path}", document) for path in by_path)]


def _document(path: str, kinds: Sequence[Kind], version: str) -> Object:
    return {
        "openapi": "3.0.0",
        "info": {"title": "tranship", "version": version},
        "paths": {f"/{path}/namespaces/{{namespace}}/{kind.plural}/{{name}}": _operations(kind) for kind in kinds},
        "components": {"schemas": {_name(kind): _schema(kind) for kind in kinds}},
    }


def _operations(kind: Kind) -> Object:
    """The one parameter that kubectl looks for: without it, it would check by itself and need far more of this."""
    gvk = _gvk(kind)
    parameter = {"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}
    answer = {"200": {"description": "OK", "content": {"application/json": {"schema": _reference(kind)}}}}
    return {
        method: {"parameters": [parameter], "responses": answer, "x-kubernetes-group-version-kind": gvk}
        for method in ("put", "patch")
    } | {"get": {"responses": answer, "x-kubernetes-group-version-kind": gvk}}


def _schema(kind: Kind) -> Mapping[str, Any]:
    return {**schema(kind), "x-kubernetes-group-version-kind": [_gvk(kind)]}


def _reference(kind: Kind) -> Object:
    return {"$ref": f"#/components/schemas/{_name(kind)}"}


def _name(kind: Kind) -> str:
    return ".".join([*reversed(kind.group.split(".")), kind.version, kind.kind]).lstrip(".")


def _gvk(kind: Kind) -> Object:
    return {"group": kind.group, "version": kind.version, "kind": kind.kind}
