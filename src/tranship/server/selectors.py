"""labelSelector and fieldSelector of a request: what of a list or watch the caller wants.

Called by the endpoints of objects. Of field selectors there are metadata.name and metadata.namespace, as Kubernetes has
for custom resources.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tranship.server.answers import bad_request

_REQUIREMENT = re.compile(
    r"\s*(?:(?P<key>[\w./-]+)\s*(?P<set>in|notin)\s*\((?P<values>[^()]*)\)"
    r"|(?P<left>[\w./-]+)\s*(?P<operator>==|=|!=)\s*(?P<right>[\w.-]*)"
    r"|(?P<absent>!)?\s*(?P<present>[\w./-]+))\s*(?:,|$)"
)

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Selector:
    """equal: labels that must be so, which a store can do itself. others: what only the server can look at."""

    equal: Labels
    others: tuple[Callable[[Mapping[str, Any]], bool], ...] = ()

    def fits(self, obj: Mapping[str, Any]) -> bool:
        labels = obj["metadata"].get("labels") or {}
        return all(labels.get(key) == value for key, value in self.equal.items()) and all(
            fits(obj) for fits in self.others
        )


def parse(labels: str, fields: str) -> Selector:
    """Raises HTTPException 400."""
    equal: dict[str, str] = {}
    others: list[Callable[[Mapping[str, Any]], bool]] = []
    position = 0
    while position < len(labels):
        found = _REQUIREMENT.match(labels, position)
        if found is None:
            raise bad_request(f"labelSelector: cannot be understood from {labels[position:]!r}")
        position = found.end()
        if found["operator"] in ("=", "==") and equal.get(found["left"], found["right"]) == found["right"]:
            equal[found["left"]] = found["right"]
        else:
            others.append(_on_labels(_requirement(found)))
    others += [_field(part) for part in fields.split(",") if part]
    return Selector(equal, tuple(others))


def _requirement(found: re.Match[str]) -> Callable[[Labels], bool]:
    if found["set"]:
        key, values = found["key"], {value.strip() for value in found["values"].split(",")}
        wanted = found["set"] == "in"
        return lambda labels: (key in labels and labels[key] in values) == wanted
    if found["operator"] == "!=":
        return lambda labels: labels.get(found["left"]) != found["right"]
    if found["operator"]:
        return lambda labels: labels.get(found["left"]) == found["right"]
    return lambda labels: (found["present"] in labels) != bool(found["absent"])


def _on_labels(fits: Callable[[Labels], bool]) -> Callable[[Mapping[str, Any]], bool]:
    return lambda obj: fits(obj["metadata"].get("labels") or {})


def _field(part: str) -> Callable[[Mapping[str, Any]], bool]:
    found = re.fullmatch(r"metadata\.(name|namespace)(==|=|!=)(.*)", part.strip())
    if found is None:
        raise bad_request(f"fieldSelector: {part!r} is not supported, only metadata.name and metadata.namespace")
    field, operator, value = found.groups()
    return lambda obj: (obj["metadata"].get(field, "") == value) == (operator != "!=")
