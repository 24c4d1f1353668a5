"""How objects of ours in a cluster are told from everybody else's. Pure; called by whoever makes or removes one.

The annotation OWNER holds the order's owner mark; only an object that bears the same is ever adopted, changed or deleted.
"""

from collections.abc import Mapping
from typing import Any

from tranship.migration.mapping import MachineOrder

MANAGED_BY = {"app.kubernetes.io/managed-by": "tranship"}
OWNER = "tranship.io/owner"


def marked(
    order: MachineOrder,
    name: str,
    *,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The metadata of an object that is made for the order."""
    return {
        "name": name,
        "namespace": order.namespace,
        "labels": {**(labels or {}), **MANAGED_BY},
        "annotations": {**(annotations or {}), OWNER: order.owner},
    }


def owner_of(obj: Mapping[str, Any]) -> str:
    """The owner mark; "" = none."""
    return str((obj.get("metadata", {}).get("annotations") or {}).get(OWNER, ""))


def is_ours(order: MachineOrder, obj: Mapping[str, Any]) -> bool:
    return owner_of(obj) == order.owner


def foreign(order: MachineOrder, obj: Mapping[str, Any], kind: str) -> str:
    """Whose it is in words, if it is not ours; "" = ours."""
    if is_ours(order, obj):
        return ""
    meta = obj.get("metadata", {})
    whose = f"belongs to {owner!r}" if (owner := owner_of(obj)) else "was not made by tranship"
    return f"{kind} {meta.get('namespace', '')}/{meta.get('name', '')} {whose}"
