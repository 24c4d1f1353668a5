"""Resources as the API shows them, and the two ways to write them: XML for the SDK, JSON for other clients.

views.py describes every resource once as a Node; server.py asks here for the bytes. In XML `id`, `href` and `rel` are
attributes and everything else is an element; in JSON numbers and booleans are strings, dates are milliseconds, and a list
is an object with one key, the singular name: {"vm": [...]}. Requests of both forms are read into the same dictionaries.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from xml.etree import ElementTree as ET

API = "/ovirt-engine/api"
ATTRIBUTES = ("id", "href", "rel")


@dataclass
class Many:
    """A list: `tag` is the name of one of its items."""

    tag: str
    items: list[Any]
    name: str = ""

    @property
    def plural(self) -> str:
        return self.name or f"{self.tag}s"


@dataclass
class Node:
    """A resource, or a reference to one where it has no fields.

    path: below the API's root. fields: in the order of the wire; None is left out. links: the collections below it by
    field name; they are shown as links until `follow` puts their content in their place. keys: what searches find and
    nobody sees."""

    tag: str
    id: str = ""
    path: str = ""
    fields: dict[str, Any] = field(default_factory=dict)
    links: dict[str, Callable[[], Many]] = field(default_factory=dict)
    actions: tuple[str, ...] = ()
    keys: dict[str, str] = field(default_factory=dict)

    def all_fields(self) -> dict[str, Any]:
        """What is written: own fields, then links and actions."""
        found: dict[str, Any] = {key: value for key, value in self.fields.items() if value is not None}
        if self.id:
            found["id"] = self.id
        here = f"{API}/{self.path}".rstrip("/")
        if self.path:
            found["href"] = here
        if self.links:
            found["link"] = Links([(rel_of(name), f"{here}/{rel_of(name)}") for name in self.links])
        if self.actions:
            found["actions"] = {"link": Links([(name, f"{here}/{name}") for name in self.actions])}
        return found


@dataclass
class Links:
    items: list[tuple[str, str]]


def rel_of(name: str) -> str:
    """The path segment of a collection: disk_attachments -> diskattachments."""
    return name.replace("_", "")


def reference(tag: str, path: str, id: str) -> Node:
    return Node(tag, id, f"{path}/{id}")


def fault(detail: str, reason: str = "Operation Failed") -> Node:
    return Node("fault", fields={"detail": f"[{detail}]" if detail else None, "reason": reason})


def text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


# JSON


def to_json(value: Node | Many) -> bytes:
    return json.dumps(_plain(value)).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, Node):
        return {key: _plain(item) for key, item in value.all_fields().items()}
    if isinstance(value, Many):
        return {value.tag: [_plain(item) for item in value.items]} if value.items else {}
    if isinstance(value, Links):
        return [{"href": href, "rel": rel} for rel, href in value.items]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, datetime):
        return int(value.timestamp() * 1000)
    return text(value)


# XML


def to_xml(value: Node | Many) -> bytes:
    root = _collection(value.plural, value) if isinstance(value, Many) else _element(value.tag, value)
    return b"<?xml version='1.0' encoding='UTF-8' standalone='yes'?>\n" + ET.tostring(root)


def _element(tag: str, value: Any) -> ET.Element:
    if isinstance(value, Many):
        return _collection(tag, value)
    element = ET.Element(tag)
    if isinstance(value, Node | dict):
        fields = value.all_fields() if isinstance(value, Node) else value
        for key, item in fields.items():
            if key in ATTRIBUTES:
                element.set(key, text(item))
            elif isinstance(item, Links):
                element.extend(ET.Element("link", href=href, rel=rel) for rel, href in item.items)
            elif item is not None:
                element.append(_element(key, item))
    elif isinstance(value, datetime):
        element.text = value.astimezone(UTC).isoformat(timespec="milliseconds")
    else:
        element.text = text(value)
    return element


def _collection(tag: str, value: Many) -> ET.Element:
    element = ET.Element(tag)
    element.extend(_element(value.tag, item) for item in value.items)
    return element


# requests


class Malformed(Exception):
    """A body that cannot be read."""


def read(body: bytes, content_type: str) -> dict[str, Any]:
    """A request's body. Its root element, or the one around a JSON object, says nothing that the URL does not say."""
    if not body.strip():
        return {}
    try:
        if "json" in content_type:
            value = json.loads(body)
            if not isinstance(value, dict):
                raise Malformed("an object is expected")
            return value
        found = _dictionary(ET.fromstring(body))
        return found if isinstance(found, dict) else {}
    except (ValueError, ET.ParseError) as error:
        raise Malformed(str(error)) from error


def _dictionary(element: ET.Element) -> Any:
    found: dict[str, Any] = dict(element.attrib)
    for child in element:
        value = _dictionary(child)
        if child.tag in found:
            earlier = found[child.tag]
            found[child.tag] = [*earlier, value] if isinstance(earlier, list) else [earlier, value]
        else:
            found[child.tag] = value
    if found:
        return found
    return (element.text or "").strip()


def items(body: dict[str, Any], plural: str, singular: str) -> list[dict[str, Any]]:
    """A list inside a request: {"disks": {"disk": [...]}}, of which XML shows one item without the list."""
    outer = body.get(plural) or {}
    found = outer.get(singular, []) if isinstance(outer, dict) else outer
    return found if isinstance(found, list) else [found]


def identity(body: dict[str, Any], name: str) -> str:
    """The id of a reference inside a request."""
    value = body.get(name)
    return str(value.get("id", "")) if isinstance(value, dict) else ""


def truth(value: Any) -> bool:
    return str(value).lower() in ("true", "1")
