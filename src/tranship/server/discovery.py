"""What there is: the documents from which kubectl and other clients learn kinds, verbs and paths.

Called by the application. Both forms are given, the old one per group and the aggregated one of newer clients.
"""

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tranship.resources.meta import Kind
from tranship.server.answers import Json

Object = dict[str, Any]
VERBS = ("create", "delete", "get", "list", "patch", "update", "watch")
STATUS_VERBS = ("get", "patch", "update")
_AGGREGATED = "as=APIGroupDiscoveryList"
_COMPATIBLE = "1.34"  # the Kubernetes whose conventions are kept; clients look at it before they look at anything


def routes(kinds: Sequence[Kind], version: str) -> list[Route]:
    groups = sorted({(kind.group, kind.version) for kind in kinds if kind.group})
    core = [kind for kind in kinds if not kind.group]

    async def api(request: Request) -> Response:
        if _AGGREGATED in request.headers.get("accept", ""):
            return _aggregated(core)
        return Json({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})

    async def apis(request: Request) -> Response:
        if _AGGREGATED in request.headers.get("accept", ""):
            return _aggregated([kind for kind in kinds if kind.group])
        return Json({"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(*group) for group in groups]})

    found = [
        _fixed("/version", _version(version)),
        Route("/api", api),
        Route("/apis", apis),
        _fixed("/api/v1", _resources("v1", core)),
    ]
    for group, served in groups:
        mine = [kind for kind in kinds if (kind.group, kind.version) == (group, served)]
        head = {"kind": "APIGroup", "apiVersion": "v1"}
        found.append(_fixed(f"/apis/{group}", head | _group(group, served)))
        found.append(_fixed(f"/apis/{group}/{served}", _resources(f"{group}/{served}", mine)))
    return found


def _fixed(path: str, content: Object) -> Route:
    async def answer(_: Request) -> Response:
        return Json(content)

    return Route(path, answer)


def _version(version: str) -> Object:
    major, minor = _COMPATIBLE.split(".")
    return {"major": major, "minor": minor, "gitVersion": f"v{_COMPATIBLE}.0+tranship-{version}", "tranship": version}


def _group(group: str, version: str) -> Object:
    served = {"groupVersion": f"{group}/{version}", "version": version}
    return {"name": group, "versions": [served], "preferredVersion": served}


def _resources(group_version: str, kinds: Sequence[Kind]) -> Object:
    resources: list[Object] = []
    for kind in kinds:
        common = {"namespaced": kind.namespaced, "kind": kind.kind}
        names = {"name": kind.plural, "singularName": kind.singular, "shortNames": list(kind.short)}
        resources.append(names | common | {"verbs": list(VERBS)})
        if kind.group:
            resources.append(
                {"name": f"{kind.plural}/status", "singularName": ""} | common | {"verbs": list(STATUS_VERBS)}
            )
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}


def _aggregated(kinds: Sequence[Kind]) -> Response:
    by_group: dict[str, dict[str, list[Object]]] = {}
    for kind in kinds:
        by_group.setdefault(kind.group, {}).setdefault(kind.version, []).append(_described(kind))
    items = [
        {
            "metadata": {"name": group, "creationTimestamp": None},
            "versions": [
                {"version": version, "resources": resources, "freshness": "Current"}
                for version, resources in versions.items()
            ],
        }
        for group, versions in by_group.items()
    ]
    content = {"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items}
    return Json(content, media_type="application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")


def _described(kind: Kind) -> Object:
    response = {"group": kind.group, "version": kind.version, "kind": kind.kind}
    described: Object = {
        "resource": kind.plural,
        "responseKind": response,
        "scope": "Namespaced" if kind.namespaced else "Cluster",
        "singularResource": kind.singular,
        "verbs": list(VERBS),
        "shortNames": list(kind.short),
    }
    if kind.group:
        described["subresources"] = [{"subresource": "status", "responseKind": response, "verbs": list(STATUS_VERBS)}]
    return described
