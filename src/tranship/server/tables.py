"""Objects as kubectl and the console ask for them: as they are, or as a Table of the columns that the kind declares.

Called by the endpoints of objects. Columns are the same as those of the generated CustomResourceDefinitions.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from tranship.resources.crds import COLUMNS
from tranship.resources.meta import SECRET, Kind

Object = dict[str, Any]
_NAME = {"name": "NAME", "type": "string", "jsonPath": ".metadata.name"}
_AGE = {"name": "AGE", "type": "date", "jsonPath": ".metadata.creationTimestamp"}
_COLUMNS = {
    **COLUMNS,
    SECRET: [
        {"name": "TYPE", "type": "string", "jsonPath": ".type"},
        {"name": "DATA", "type": "integer", "jsonPath": ".data"},
        _AGE,
    ],
}
_STEP = re.compile(r"\.(?P<key>\w+)|\[\?\(@\.(?P<field>\w+)=='(?P<value>[^']*)'\)\]")


def wants_table(accept: str) -> bool:
    """Whether a Table comes before plain JSON in the Accept header."""
    for part in accept.split(","):
        words = {word.strip() for word in part.split(";")}
        if "application/json" in words:
            return "as=Table" in words
    return False


def table(
    kind: Kind, objects: Sequence[Mapping[str, Any]], metadata: Mapping[str, Any], *, include: str, now: datetime
) -> Object:
    """include: how much of each object goes along, as in the includeObject parameter: None, Metadata or Object."""
    columns = [_NAME, *_COLUMNS.get(kind, [_AGE])]
    heads = [
        {"name": column["name"].title(), "type": column["type"], "format": "", "description": "", "priority": 0}
        for column in columns
    ]
    heads[0]["format"] = "name"
    rows = [{"cells": [_cell(column, obj, now) for column in columns]} | _object(obj, include) for obj in objects]
    head = {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": dict(metadata)}
    return head | {"columnDefinitions": heads, "rows": rows}


def _cell(column: Mapping[str, str], obj: Mapping[str, Any], now: datetime) -> Any:
    value: Any = obj
    for step in _STEP.finditer(column["jsonPath"]):
        if step["key"]:
            value = value.get(step["key"]) if isinstance(value, Mapping) else None
        else:
            fitting = (item for item in value or () if item.get(step["field"]) == step["value"])
            value = next(fitting, None)
    if column["type"] == "date" and value:
        return _age(now - datetime.fromisoformat(value))
    if column["type"] == "integer":
        return len(value or ())
    return "" if value is None else str(value)


def _age(age: timedelta) -> str:
    """One unit, as kubectl shows it: 90s, 5m, 3h, 12d."""
    seconds = max(0, int(age.total_seconds()))
    for limit, unit, size in ((120, "s", 1), (7200, "m", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{seconds // size}{unit}"
    return f"{seconds // 86_400}d"


def _object(obj: Mapping[str, Any], include: str) -> Object:
    if include == "None":
        return {}
    if include == "Object":
        return {"object": obj}
    return {"object": {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}}
