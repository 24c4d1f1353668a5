"""Reads the answers of a PropertyCollector as a stream: one object at a time, dropped after use.

The inventory uses it instead of pyVmomi's deserializer, which costs five times the processor time and keeps everything.
Called with the bytes of a SOAP answer to RetrieveProperties(Ex), ContinueRetrievePropertiesEx or WaitForUpdatesEx; calls
`take` for each ObjectContent or ObjectUpdate; what remains (token, version, truncated) is returned at the end.

A value is text, a Ref (managed object reference) or a Node (data object or array). Text stays text: only the reader of a
property knows its type, because elements inside a data object carry none on the wire. Entities are refused.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from xml.parsers import expat

from tranship.errors import Refused, Side

# What is handed out instead of kept, and within what it stands.
_OBJECTS = {"objects": "returnval", "objectSet": "filterSet", "returnval": "RetrievePropertiesResponse"}
_DEPTH = 200  # deeper than any real answer (a tree of 31 snapshots nests 35 levels)


class Ref(NamedTuple):
    """A managed object reference: VirtualMachine, vm-42."""

    kind: str
    id: str


class Node(dict[str, Any]):
    """A data object by field name; a field that is repeated holds a list. kind: its xsi:type without prefix, or ""."""

    __slots__ = ("kind",)

    def __init__(self, kind: str = "") -> None:
        super().__init__()
        self.kind = kind

    def add(self, name: str, value: Any) -> None:
        if name not in self:
            self[name] = value
        elif isinstance(self[name], list):
            self[name].append(value)
        else:
            self[name] = [self[name], value]


def get(value: Any, *path: str) -> Any:
    """The value at the path, or "" where anything on the way is missing."""
    for name in path:
        if not isinstance(value, Node) or name not in value:
            return ""
        value = value[name]
    return value


def text(value: Any, *path: str) -> str:
    found = get(value, *path)
    if isinstance(found, Ref):
        return found.id
    return found if isinstance(found, str) else ""


def number(value: Any, *path: str) -> int:
    found = text(value, *path)
    try:
        return int(found)
    except ValueError:
        return 0


def flag(value: Any, *path: str) -> bool:
    return text(value, *path).lower() in ("true", "1")


def many(value: Any, *path: str) -> list[Any]:
    """The items of an array: of an ArrayOfX node, or of a repeated field."""
    found = get(value, *path)
    if isinstance(found, Node) and found.kind.startswith("ArrayOf"):
        found = next(iter(found.values()), "")
    if isinstance(found, list):
        return found
    return [] if found == "" else [found]


def properties(item: Node) -> tuple[Ref, dict[str, Any]]:
    """Reference and properties of an ObjectContent (propSet) or an ObjectUpdate (changeSet)."""
    changes = many(item, "propSet") or many(item, "changeSet")
    return get(item, "obj"), {text(change, "name"): get(change, "val") for change in changes}


class Reader:
    """Feed it bytes, then close it."""

    def __init__(self, take: Callable[[Node], None]) -> None:
        self._take = take
        self._open: list[_Element] = []
        self._text: list[str] = []
        self.root = Node()
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text.append
        self._parser.StartDoctypeDeclHandler = self._doctype

    def feed(self, data: bytes) -> None:
        self._parse(data, False)

    def close(self) -> Node:
        """The answer without its objects. Raises Refused when it is cut off."""
        self._parse(b"", True)
        body = get(next(iter(self.root.values()), ""), "Body")
        answer = next(iter(body.values()), "") if isinstance(body, Node) else ""
        return answer if isinstance(answer, Node) else Node()

    def _parse(self, data: bytes, last: bool) -> None:
        try:
            self._parser.Parse(data, last)
        except expat.ExpatError as error:
            raise Refused(str(error), what="reading an answer", fault="NotXML", side=Side.SOURCE) from error

    def _doctype(self, *_: Any) -> None:
        raise Refused("it declares entities", what="reading an answer", fault="NotSOAP", side=Side.SOURCE)

    # A sweep of 5,000 VMs calls the next two methods a million times each: they make no object that they can do without.

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        kind = reference = ""
        if attributes:
            for key, value in attributes.items():
                if key == "type":
                    reference = value
                elif key.endswith(":type"):
                    kind = value.rpartition(":")[2]
        if len(self._open) > _DEPTH:
            raise Refused("it nests too deeply", what="reading an answer", fault="NotSOAP", side=Side.SOURCE)
        self._open.append(_Element(name, kind, reference))
        self._text.clear()

    def _end(self, _: str) -> None:
        element = self._open.pop()
        node = element.node
        value: Any
        if node is None:
            content = "".join(self._text)
            value = Ref(element.reference, content) if element.reference else content
        else:
            value = node
        self._text.clear()
        if not self._open:
            self.root.add(_local(element.name), value)
            return
        parent, name = self._open[-1], _local(element.name)
        if node is not None and name in _OBJECTS and _OBJECTS[name] == _local(parent.name):
            self._take(node)
            return
        if parent.node is None:
            parent.node = Node(parent.kind)
        parent.node.add(name, value)


class _Element:
    """An element that has not ended. node: made when its first child ends; an element without children is a value."""

    __slots__ = ("kind", "name", "node", "reference")

    def __init__(self, name: str, kind: str, reference: str) -> None:
        self.name = name
        self.kind = kind
        self.reference = reference
        self.node: Node | None = None


def _local(name: str) -> str:
    return name.rpartition(":")[2] if ":" in name else name


def read(chunks: Iterator[bytes], take: Callable[[Node], None]) -> Node:
    reader = Reader(take)
    for chunk in chunks:
        reader.feed(chunk)
    return reader.close()


def versions(body: bytes) -> set[str]:
    """The versions of urn:vim25 that a vimServiceVersions.xml offers."""
    reader = Reader(lambda _: None)
    reader.feed(body)
    offered: set[str] = set()
    for space in many(reader.root, "namespaces", "namespace"):
        if text(space, "name") == "urn:vim25":
            offered.update([text(space, "version"), *many(space, "priorVersions", "version")])
    return offered
