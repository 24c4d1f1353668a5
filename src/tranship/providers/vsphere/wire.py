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
        self._open: list[tuple[str, Node, str]] = []  # name, node, kind of reference
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
        body = next((get(self.root, name) for name in self.root), Node())
        answer = get(body, "Body")
        return next((value for value in answer.values() if isinstance(value, Node)), Node()) if answer else Node()

    def _parse(self, data: bytes, last: bool) -> None:
        try:
            self._parser.Parse(data, last)
        except expat.ExpatError as error:
            raise Refused(str(error), what="reading an answer", fault="NotXML", side=Side.SOURCE) from error

    def _doctype(self, *_: Any) -> None:
        raise Refused("it declares entities", what="reading an answer", fault="NotSOAP", side=Side.SOURCE)

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        kind = reference = ""
        for key, value in attributes.items():
            if key == "type":
                reference = value
            elif key.endswith(":type"):
                kind = value.rpartition(":")[2]
        if len(self._open) > _DEPTH:
            raise Refused("it nests too deeply", what="reading an answer", fault="NotSOAP", side=Side.SOURCE)
        self._open.append((name.rpartition(":")[2], Node(kind), reference))
        self._text.clear()

    def _end(self, _: str) -> None:
        name, node, reference = self._open.pop()
        value: Any = node
        if not node:
            content = "".join(self._text)
            value = Ref(reference, content) if reference else content
        self._text.clear()
        parent = self._open[-1] if self._open else ("", self.root, "")
        if node and self._is_object(name, parent[0]):
            self._take(node)
        else:
            parent[1].add(name, value)

    def _is_object(self, name: str, parent: str) -> bool:
        match name:
            case "objects":
                return parent == "returnval"
            case "objectSet":
                return parent == "filterSet"
            case "returnval":
                return parent == "RetrievePropertiesResponse"
        return False


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
