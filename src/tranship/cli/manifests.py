"""Manifests as people write them: YAML or JSON, several to a file, whole directories. Read by `apply` and `delete`.

YAML is read by YAML 1.2's rules: `on`, `off`, `yes` and `no` are words (targetPowerState: on), a time stays the text that
it is (cutover: 2026-01-31T23:00:00Z), and a key that stands twice is an error and not the last one.
"""

import base64
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tranship.cli.kinds import Kind, kind_of
from tranship.errors import Invalid, NotFound

Object = dict[str, Any]
SUFFIXES = (".yaml", ".yml", ".json")
_SERVERS = (
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "managedFields",
    "selfLink",
)


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge" and key.value in seen:
                raise yaml.MarkedYAMLError("the key " + repr(key.value) + " stands twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern in (
    ("bool", r"true|True|TRUE|false|False|FALSE"),
    ("int", r"[-+]?[0-9]+"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"),
    ("null", r"~|null|Null|NULL|"),
    ("merge", r"<<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), None)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))
_Loader.add_constructor("tag:yaml.org,2002:float", lambda _, node: float(node.value))


@dataclass(frozen=True, slots=True)
class Manifest:
    """where: file and number of the document, for messages."""

    where: str
    kind: Kind
    name: str
    namespace: str
    body: Object


def read_manifests(sources: tuple[str, ...], namespace: str, *, namespace_told: bool) -> Iterator[Manifest]:
    """All objects of files, directories (sorted, not below) and "-". Raises Invalid (place, field) and NotFound."""
    for source in sources:
        for where, text in _texts(source):
            yield from _manifests(where, text, namespace, namespace_told)


def _texts(source: str) -> Iterator[tuple[str, str]]:
    if source == "-":
        yield "standard input", sys.stdin.read()
        return
    path = Path(source)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES and file.is_file())
        if not files:
            raise NotFound(
                what="a manifest in directory", name=source, remedy=f"Files must end in {', '.join(SUFFIXES)}."
            )
    else:
        files = [path]
    for file in files:
        try:
            yield str(file), file.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise NotFound(what="file", name=str(file)) from None
        except (OSError, UnicodeError) as error:
            raise Invalid(f"cannot be read: {error}", field=str(file)) from error


def _manifests(where: str, text: str, namespace: str, told: bool) -> Iterator[Manifest]:
    try:
        documents = [document for document in yaml.load_all(text, _Loader) if document is not None]
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        problem = error.problem or error.context or "is no YAML"
        raise Invalid(problem, field=f"{where}{line}", remedy="Correct the YAML or JSON there.") from error
    except (yaml.YAMLError, ValueError) as error:
        raise Invalid("is no YAML: unreadable characters", field=where) from error
    for number, document in enumerate(documents, 1):
        place = where if len(documents) == 1 else f"{where} document {number}"
        for body in _flat(document, place):
            yield _manifest(place, body, namespace, told)


def _flat(document: Any, where: str) -> list[Object]:
    if not isinstance(document, dict):
        raise Invalid("is no object", field=where, remedy="A manifest has apiVersion, kind, metadata and spec.")
    if document.get("kind") == "List" or (str(document.get("kind")).endswith("List") and "items" in document):
        return [body for item in document.get("items") or () for body in _flat(item, where)]
    return [document]


def _manifest(where: str, body: Object, namespace: str, told: bool) -> Manifest:
    try:
        kind = kind_of(body)
        meta = body.get("metadata")
        name = meta.get("name") if isinstance(meta, dict) else None
        if not isinstance(meta, dict) or not isinstance(name, str) or not name:
            raise Invalid("is missing", field="metadata.name", remedy="Give the object a name.")
        own = meta.get("namespace")
        if own and told and own != namespace:
            remedy = "Leave out -n, or correct the manifest."
            raise Invalid(f"is {own!r}, but -n says {namespace!r}", field="metadata.namespace", remedy=remedy)
    except Invalid as error:
        raise Invalid(error.detail, field=f"{where}: {error.field}", remedy=error.suggestion) from None
    place = own or namespace
    return Manifest(where, kind, name, place, _clean(kind, body, place))


def _clean(kind: Kind, body: Object, namespace: str) -> Object:
    """The user's part: no status, nothing that the server writes, no nulls, a Secret's texts as the API stores them."""
    wish = {key: value for key, value in _without_nulls(body).items() if key != "status"}
    meta = {key: value for key, value in wish["metadata"].items() if key not in _SERVERS}
    wish["metadata"] = {**meta, "namespace": namespace}
    texts = wish.pop("stringData", None) if kind.kind == "Secret" else None
    if isinstance(texts, dict):
        encoded = {key: base64.b64encode(str(value).encode()).decode() for key, value in texts.items()}
        wish["data"] = {**wish.get("data", {}), **encoded}
    return wish


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    return [_without_nulls(one) for one in value] if isinstance(value, list) else value
