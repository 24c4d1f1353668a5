"""The search language of the API, `follow`, and the pages of a listing.

    name=web* and (not supported: parentheses) status=up or vm.name=db sortby name desc page 3
    a word alone is looked for in every field

server.py applies it to collections, after routes.py made their nodes.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any

from tranship.lab.ovirt.render import API, Many, Node, text

PAGE = 100  # the Engine's default when a page is asked for without max
_WORD = re.compile(r'"([^"]*)"|(!=|>=|<=|=|<|>|:)|([^\s=<>!:"]+)')
_OPERATORS = ("=", "!=", ">", "<", ">=", "<=", ":")

# other names of fields in searches: what the search calls them, where the resource has them
ALIASES = {
    "storage": ("storage_domains", "storage_domain"),
    "datacenter": ("data_center",),
    "hw_id": ("hardware_information.uuid",),
    "event": ("code",),
    "disk": ("disk", "id"),
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


def select(nodes: list[Node], search: Search, maximum: int, describe: Callable[[Node], str]) -> list[Node]:
    """`describe`: what a word alone is looked for in."""
    found = nodes
    if search.any_of:
        found = [n for n in nodes if any(all(_holds(n, c, describe) for c in group) for group in search.any_of)]
    if search.sort:
        found = sorted(found, key=lambda node: _order(node, search.sort), reverse=search.descending)
    if search.page:
        size = maximum if maximum > 0 else PAGE
        return found[(search.page - 1) * size : search.page * size]
    return found[:maximum] if maximum > 0 else found


def _order(node: Node, name: str) -> tuple[Any, ...]:
    value = next(iter(_values(node, name)), "")
    if isinstance(value, datetime):
        return (0, value.timestamp(), int(node.id) if node.id.isdigit() else 0)
    return (0, int(value), 0) if text(value).isdigit() else (1, text(value), 0)


def _holds(node: Node, condition: Condition, describe: Callable[[Node], str]) -> bool:
    if not condition.field:
        return condition.value.lower() in describe(node).lower()
    values = [text(value) for value in _values(node, condition.field)]
    wanted = condition.value
    if condition.operator in ("=", ":"):
        return any(fnmatchcase(value.lower(), wanted.lower()) for value in values)
    if condition.operator == "!=":
        return not any(fnmatchcase(value.lower(), wanted.lower()) for value in values)
    numbers = [int(value) for value in values if value.isdigit()]
    if not wanted.isdigit():
        raise BadSearch(f"{condition.field} {condition.operator} {wanted}")
    limit = int(wanted)
    compare: dict[str, Callable[[int], bool]] = {
        ">": lambda number: number > limit,
        "<": lambda number: number < limit,
        ">=": lambda number: number >= limit,
        "<=": lambda number: number <= limit,
    }
    return any(compare[condition.operator](number) for number in numbers)


def _values(node: Any, name: str) -> list[Any]:
    """What a node has under a search's name: `name`, `vm.name`, `type` of an event, which is its code."""
    if isinstance(node, Node) and node.tag == "event" and name in ("type", "event_id"):
        name = "code"
    if name == "id" and isinstance(node, Node):
        return [node.id]
    head, _, rest = name.partition(".")
    fields = node.fields if isinstance(node, Node) else node if isinstance(node, dict) else {}
    for key in (head, *ALIASES.get(head, ())):
        if key in fields and fields[key] is not None:
            return _below(fields[key], rest)
        if isinstance(node, Node) and key in node.links:
            return _below(node.links[key](), rest)
        if "." in key:
            return _values(node, key)
    return []


def _below(value: Any, rest: str) -> list[Any]:
    if isinstance(value, Many):
        return [found for item in value.items for found in _below(item, rest)]
    if isinstance(value, Node):
        return _values(value, rest) if rest else [value.id, *_values(value, "name")]
    if isinstance(value, dict):
        return _values(value, rest) if rest else list(value.values())
    return [value]


# follow


def follow(node: Node, paths: list[list[str]], lookup: Callable[[str], Node]) -> None:
    """Puts the content of links and references in their place: `disk_attachments.disk,nics.reported_devices`."""
    for path in paths:
        _follow(node, path, lookup)


def _follow(node: Node, path: list[str], lookup: Callable[[str], Node]) -> None:
    if not path:
        return
    name = path[0]
    if name in node.links:
        node.fields[name] = node.links.pop(name)()
    value = node.fields.get(name)
    if isinstance(value, Node):
        value = node.fields[name] = _whole(value, lookup)
        _follow(value, path[1:], lookup)
    elif isinstance(value, Many):
        value.items = [_whole(item, lookup) if isinstance(item, Node) else item for item in value.items]
        for item in value.items:
            if isinstance(item, Node):
                _follow(item, path[1:], lookup)


def _whole(node: Node, lookup: Callable[[str], Node]) -> Node:
    """A reference's resource; a whole one as it is."""
    return node if node.fields or not node.path else lookup(node.path)


def paths_of(query: str) -> list[list[str]]:
    return [item.strip().split(".") for item in query.split(",") if item.strip()]


def below_root(href: str) -> str:
    return href.removeprefix(API).strip("/")
