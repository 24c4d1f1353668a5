"""CustomResourceDefinitions, generated from the models.

Called by the command line and the house's `deploy/`. A schema is as open as upstream's or more so: unknown fields are kept
everywhere, enums, patterns and required fields are upstream's, and a default stands in the schema only where upstream has
one (or the field is ours). tests/contract/test_crds_accept_upstream.py holds it against the genuine schemas.
"""

from collections.abc import Mapping
from typing import Any

from tranship.errors import Invalid
from tranship.resources import meta
from tranship.resources.meta import ALL_KINDS, MODELS, Kind

KEEP = "x-kubernetes-preserve-unknown-fields"


def _condition(name: str, type: str = "") -> dict[str, str]:
    path = f".status.conditions[?(@.type=='{type or name.capitalize()}')].status"
    return {"name": name, "type": "string", "jsonPath": path}


def _field(name: str, path: str) -> dict[str, str]:
    return {"name": name, "type": "string", "jsonPath": path}


_READY = _condition("READY")
_AGE = {"name": "AGE", "type": "date", "jsonPath": ".metadata.creationTimestamp"}

COLUMNS: Mapping[Kind, list[dict[str, str]]] = {
    meta.PROVIDER: [
        _field("TYPE", ".spec.type"),
        _field("STATUS", ".status.phase"),
        _READY,
        _condition("CONNECTED", "ConnectionTestSucceeded"),
        _condition("INVENTORY", "InventoryCreated"),
        _field("URL", ".spec.url"),
        _AGE,
    ],
    meta.PLAN: [_READY, *map(_condition, ("EXECUTING", "SUCCEEDED", "FAILED")), _AGE],
    meta.MIGRATION: [_READY, *map(_condition, ("RUNNING", "SUCCEEDED", "FAILED")), _AGE],
    meta.NETWORK_MAP: [_READY, _AGE],
    meta.STORAGE_MAP: [_READY, _AGE],
    meta.HOST: [_READY, _condition("CONNECTED", "ConnectionTestSucceeded"), _AGE],
    meta.HOOK: [_condition("Ready"), _field("Image", ".spec.image"), {**_AGE, "name": "Age"}],
    meta.CONVERSION: [
        _field("TYPE", ".spec.type"),
        _field("PHASE", ".status.phase"),
        _field("STAGE", ".status.stage"),
        _READY,
        _AGE,
    ],
}
"""What `get` shows of a kind beside its name; the server's tables show the same."""


def all_crds() -> list[dict[str, Any]]:
    """One definition for each kind that is not Kubernetes' own."""
    return [crd(kind) for kind in ALL_KINDS if kind.group]


def crd(kind: Kind) -> dict[str, Any]:
    """The definition as it is applied to a cluster. Raises Invalid for a kind of the core group."""
    if not kind.group:
        raise Invalid(f"{kind.kind} is a kind of Kubernetes itself", field="kind")
    names: dict[str, Any] = {
        "kind": kind.kind,
        "listKind": f"{kind.kind}List",
        "plural": kind.plural,
        "singular": kind.singular,
    }
    if kind.short:
        names["shortNames"] = list(kind.short)
    version: dict[str, Any] = {
        "name": kind.version,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": schema(kind)},
    }
    if kind in COLUMNS:
        version["additionalPrinterColumns"] = [dict(column) for column in COLUMNS[kind]]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{kind.group}"},
        "spec": {
            "group": kind.group,
            "names": names,
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "versions": [version],
        },
    }


def schema(kind: Kind) -> dict[str, Any]:
    """The structural OpenAPI v3 schema of a kind."""
    generated = MODELS[kind].model_json_schema(by_alias=True)
    root = _structural(generated, generated.get("$defs", {}))
    # an API server allows no schema of its own for these
    root["properties"] |= {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
    }
    return root


def _structural(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """From pydantic's JSON schema to what an API server takes: no references, no unions, no titles."""
    node = _resolved(node, definitions)
    result = {key: node[key] for key in _COPIED if key in node}
    if node.get("x-default"):
        result["default"] = node["default"]
    if node.get("type") == "integer":
        result["format"] = "int64"
    if "items" in node:
        result["items"] = _structural(node["items"], definitions)
    if "properties" in node:
        result["properties"] = {name: _structural(item, definitions) for name, item in node["properties"].items()}
        always = [name for name, item in node["properties"].items() if item.get("x-always")]
        if required := sorted({*node.get("required", ()), *always}):
            result["required"] = required
    others = node.get("additionalProperties")
    if isinstance(others, Mapping):
        result["additionalProperties"] = _structural(others, definitions)
    elif others or "type" not in node:
        result[KEEP] = True
    return result


_COPIED = (
    "type",
    "format",
    "enum",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "description",
    "x-kubernetes-map-type",
)


def _resolved(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follows references and takes the meaning out of "this or null"; what stands beside them wins."""
    while True:
        if "$ref" in node:
            inner = definitions[node["$ref"].rpartition("/")[2]]
        elif "anyOf" in node:
            (inner,) = [choice for choice in node["anyOf"] if choice.get("type") != "null"]
        else:
            return node
        node = {**inner, **{key: value for key, value in node.items() if key not in ("$ref", "anyOf")}}
