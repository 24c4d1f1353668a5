"""The routing table: which service answers which method and path. A service brings its rows along; server.py asks.

A pattern is a path below the API's root in which `*` stands for an id; the handler gets the request and the ids.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tranship.lab.ovirt.render import Many, Node
from tranship.lab.ovirt.state import Fault


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)
    correlation: str = ""


@dataclass(frozen=True)
class Reply:
    """body None: an action was done, and the answer says no more."""

    body: Node | Many | None = None
    status: int = 200


Handler = Callable[..., Reply]
Row = tuple[str, str, Handler]


class Routes:
    def __init__(self, rows: list[Row]) -> None:
        self._table: dict[tuple[str, ...], dict[str, Handler]] = {}
        for method, pattern, handler in rows:
            self._table.setdefault(tuple(pattern.split("/")), {})[method] = handler

    def find(self, method: str, path: str) -> tuple[Handler, list[str]]:
        methods, ids, _ = self._match(path)
        if methods is None:
            raise Fault(404, "", "Not Found")
        if method not in methods:
            raise Fault(405, "", "Method Not Allowed")
        return methods[method], ids

    def operation(self, method: str, path: str) -> str:
        """Method and path without ids: what fault scripts call a request."""
        _, _, words = self._match(path)
        return f"{method} {'/'.join(words)}"

    def _match(self, path: str) -> tuple[dict[str, Handler] | None, list[str], list[str]]:
        parts = path.split("/")
        for pattern, methods in self._table.items():
            if len(pattern) == len(parts) and all(a in ("*", b) for a, b in zip(pattern, parts, strict=True)):
                pairs = list(zip(pattern, parts, strict=True))
                return methods, [part for key, part in pairs if key == "*"], [p for key, p in pairs if key != "*"]
        return None, [], parts
