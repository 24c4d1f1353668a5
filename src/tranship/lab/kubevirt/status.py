"""Conditions and phases as KubeVirt writes them, and the one way in which a status is written."""

from datetime import UTC, datetime
from typing import Any

from tranship.lab.kubevirt.api import Api, Mirror, Object

FINAL = ("Succeeded", "Failed")


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def condition(kind: str, holds: bool, reason: str = "", message: str = "") -> Object:
    found = {"type": kind, "status": "True" if holds else "False"}
    return found | ({"reason": reason} if reason else {}) | ({"message": message} if message else {})


def find(obj: Object | None, kind: str) -> Object:
    """The object's condition of that kind, empty if there is none."""
    conditions = (obj or {}).get("status", {}).get("conditions", ())
    return next((one for one in conditions if one["type"] == kind), {})


def phase(instance: Object | None) -> str:
    return str((instance or {}).get("status", {}).get("phase", ""))


def dated(obj: Object, conditions: list[Object]) -> list[Object]:
    """With the time of their last transition: the known one where nothing changed."""
    result = []
    for one in conditions:
        known = find(obj, one["type"])
        same = known.get("status") == one["status"]
        result.append({**one, "lastTransitionTime": known["lastTransitionTime"] if same else now()})
    return result


async def write(api: Api, mirror: Mirror, obj: Object, status: dict[str, Any]) -> Object:
    """Each field as a whole, None to take it away; nothing when all are so already. The object as it is then."""
    known = obj.get("status", {})
    changed = {field: value for field, value in status.items() if known.get(field) != value}
    if not changed:
        return obj
    written = await api.patch(mirror.kind, obj, {"status": changed}, status=True)
    mirror.update(written)
    return written


async def without(api: Api, mirror: Mirror, obj: Object, finalizer: str) -> None:
    """Take our finalizer off it."""
    rest = [one for one in obj["metadata"].get("finalizers", ()) if one != finalizer]
    if len(rest) < len(obj["metadata"].get("finalizers", ())):
        mirror.update(await api.patch(mirror.kind, obj, {"metadata": {"finalizers": rest or None}}))
