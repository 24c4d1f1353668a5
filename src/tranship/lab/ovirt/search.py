"""The search language of the API, `follow`, and the pages of a listing.

    name=web* and status=up or cluster.name=b sortby name desc page 3

A word alone is looked for in every field. `and` binds closer than `or`; there are no parentheses.

server.py applies it to collections, after routes.py made their nodes.
"""

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any

from tranship.lab.ovirt.render import Many, Node, text, to_json

PAGE = 100  # the Engine's default when a page is asked for without max
_WORD = re.compile(r'"([^"]*)"|(!=|>=|<=|=|<|>|:)|([^\s=<>!:"]+)')
_OPERATORS = ("=", "!=", ">", "<", ">=", "<=", ":")

# other names of fields in searches: what the search calls them, where the resource has them
ALIASES = {
    "storage": ("storage_domains", "storage_domain"),
    "datacenter": ("data_center", "cluster.data_center"),
    "hw_id": ("hardware_information.uuid",),
}
_COMPARE: dict[str, Callable[[int, int], bool]] = {
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}


class BadSearch(Exception):
    """A search that cannot be read."""


@dataclass(frozen=True)
class Condition:
    field: str  # "" for a word alone
    operator: str
    value: str


@dataclass(frozen=True)
class Search:
    """any_of: alternatives of conditions that must all hold."""

    any_of: tuple[tuple[Condition, ...], ...] = ()
    sort: str = ""
    descending: bool = False
    page: int = 0


def parse(line: str) -> Search:
    words = [quoted or sign or word for quoted, sign, word in _WORD.findall(line)]
    any_of: list[list[Condition]] = [[]]
    sort, descending, page, at = "", False, 0, 0
    while at < len(words):
        word, low = words[at], words[at].lower()
        following = words[at + 1] if at + 1 < len(words) else ""
        if low == "and":
            at += 1
        elif low == "or":
            any_of.append([])
            at += 1
        elif low == "sortby":
            sort, at = following, at + 2
            if at < len(words) and words[at].lower() in ("asc", "desc"):
                descending, at = words[at].lower() == "desc", at + 1
        elif low == "page":
            if not following.isdigit():
                raise BadSearch(f"page {following}")
            page, at = int(following), at + 2
        elif following in _OPERATORS:
            if at + 2 >= len(words):
                raise BadSearch(line)
            any_of[-1].append(Condition(word, following, words[at + 2]))
            at += 3
        else:
            any_of[-1].append(Condition("", "=", word))
            at += 1
    return Search(tuple(tuple(item) for item in any_of if item), sort, descending, page)


class Finder:
    """lookup: the resource at a path; a reference says no more than its id without it."""

    def __init__(self, lookup: Callable[[str], Node]) -> None:
        self.lookup = lookup

    def select(self, nodes: list[Node], search: Search, maximum: int) -> list[Node]:
        found = nodes
        if search.any_of:
            found = [n for n in nodes if any(all(self._holds(n, c) for c in group) for group in search.any_of)]
        if search.sort:
            found = sorted(found, key=lambda node: self._order(node, search.sort), reverse=search.descending)
        if search.page:
            size = maximum if maximum > 0 else PAGE
            return found[(search.page - 1) * size : search.page * size]
        return found[:maximum] if maximum > 0 else found

    def _order(self, node: Node, name: str) -> tuple[Any, ...]:
        value = next(iter(self._values(node, name)), "")
        if isinstance(value, datetime):
            return (0, value.timestamp(), int(node.id) if node.id.isdigit() else 0)
        return (0, int(value), 0) if text(value).isdigit() else (1, text(value), 0)

    def _holds(self, node: Node, condition: Condition) -> bool:
        if not condition.field:
            return condition.value.lower() in to_json(node).decode().lower()
        values = [text(value) for value in self._values(node, condition.field)]
        wanted = condition.value
        if condition.operator in ("=", ":"):
            return any(fnmatchcase(value.lower(), wanted.lower()) for value in values)
        if condition.operator == "!=":
            return not any(fnmatchcase(value.lower(), wanted.lower()) for value in values)
        if not wanted.isdigit():
            raise BadSearch(f"{condition.field} {condition.operator} {wanted}")
        return any(_COMPARE[condition.operator](int(value), int(wanted)) for value in values if value.isdigit())

    def _values(self, node: Any, name: str) -> list[Any]:
        """What a node has under a search's name: `name`, `vm.name`, `type` of an event, which is its code."""
        if isinstance(node, Node) and node.tag == "event" and name in ("type", "event_id"):
            name = "code"
        if isinstance(node, Node) and (name == "id" or name in node.keys):
            return [node.keys.get(name, node.id)]
        head, _, rest = name.partition(".")
        fields = node.fields if isinstance(node, Node) else node if isinstance(node, dict) else {}
        for key in (head, *ALIASES.get(head, ())):
            if fields.get(key) is not None:
                return self._below(fields[key], rest)
            if isinstance(node, Node) and key in node.links:
                return self._below(node.links[key](), rest)
            if "." in key and (found := self._values(node, key)):
                return found
        return []

    def _below(self, value: Any, rest: str) -> list[Any]:
        if isinstance(value, Many):
            return [found for item in value.items for found in self._below(item, rest)]
        if isinstance(value, Node):
            whole = self._whole(value)
            return self._values(whole, rest) if rest else [value.id, *self._values(whole, "name")]
        if isinstance(value, dict):
            return self._values(value, rest) if rest else list(value.values())
        return [value]

    def follow(self, node: Node, paths: list[list[str]]) -> None:
        """Puts the content of links and references in their place: `disk_attachments.disk,nics.reported_devices`."""
        for path in paths:
            self._follow(node, path)

    def _follow(self, node: Node, path: list[str]) -> None:
        if not path:
            return
        name = path[0]
        if name in node.links:
            node.fields[name] = node.links.pop(name)()
        value = node.fields.get(name)
        if isinstance(value, Node):
            value = node.fields[name] = self._whole(value)
            self._follow(value, path[1:])
        elif isinstance(value, Many):
            value.items = [self._whole(item) if isinstance(item, Node) else item for item in value.items]
            for item in value.items:
                if isinstance(item, Node):
                    self._follow(item, path[1:])

    def _whole(self, node: Node) -> Node:
        """A reference's resource; a whole one as it is."""
        return node if node.fields or not node.path else self.lookup(node.path)


def paths_of(query: str) -> list[list[str]]:
    return [item.strip().split(".") for item in query.split(",") if item.strip()]
