"""What happens to one object when it is written: the rules of the Kubernetes API as pure functions.

Called by the table's transactions. Nothing here knows of storage, clocks or randomness: they come as arguments, and
what is given is never altered.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from tranship.errors import Conflict, Invalid, Unsupported
from tranship.resources.meta import SECRET, Kind
from tranship.store.base import Object

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_NAMESPACE = re.compile(_LABEL)
_GENERATED_BASE = 58  # Kubernetes keeps a generated name, with its five random letters, within 63
_SYSTEM = (
    "uid",
    "creationTimestamp",
    "generation",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "resourceVersion",
)


def encode(obj: Any) -> bytes:
    """JSON in one canonical order, so that equal objects are equal bytes (and 1 is not True, as it is for dicts)."""
    return msgspec.json.encode(obj, order="deterministic")


def merge(target: Any, patch: Any) -> Any:
    """RFC 7396: objects merge, null removes, anything else replaces."""
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


def newborn(kind: Kind, obj: Mapping[str, Any], *, now: str, uid: str, suffix: str) -> Object:
    """The object as it is first stored. suffix: random letters for generateName. Raises Invalid."""
    meta = {**_metadata(obj)}
    for key in (*_SYSTEM, "managedFields", "selfLink"):
        meta.pop(key, None)
    if not meta.get("name") and meta.get("generateName"):
        meta["name"] = str(meta["generateName"])[:_GENERATED_BASE] + suffix
    meta |= {"uid": uid, "creationTimestamp": now, "generation": 1}
    born = {"apiVersion": kind.api_version, "kind": kind.kind, **obj, "metadata": meta}
    born.pop("status", None)
    _check(kind, born)
    return _fold_secret(born) if kind == SECRET else born


def successor(kind: Kind, old: Mapping[str, Any], desired: Mapping[str, Any], *, subresource: str) -> Object:
    """The object after a write of `desired` over `old`; still with old's resourceVersion. Raises Conflict, Invalid."""
    meta = _metadata(desired)
    check_preconditions(kind, old, uid=meta.get("uid") or "", resource_version=meta.get("resourceVersion") or "")
    if subresource == "status":
        return _with_status(old, desired)
    if subresource:
        raise Unsupported(f"{kind.plural} have no such subresource", what=f"subresource {subresource!r}")
    kept = {key: old["metadata"][key] for key in _SYSTEM if key in old["metadata"]}
    own = {key: value for key, value in meta.items() if key not in (*_SYSTEM, "managedFields", "selfLink")}
    new = {"apiVersion": kind.api_version, "kind": kind.kind, **desired, "metadata": {**own, **kept}}
    for key in ("name", "namespace"):
        if new["metadata"].get(key, "") != old["metadata"].get(key, ""):
            raise Invalid("cannot be changed", field=f"metadata.{key}")
    _check(kind, new)
    _check_finalizers(old, new)
    if kind == SECRET:
        new = _fold_secret(new)
    new = _with_status(new, old)
    if encode(_substance(new)) != encode(_substance(old)):
        new["metadata"]["generation"] = old["metadata"].get("generation", 0) + 1
    return new


def condemned(old: Mapping[str, Any], *, now: str) -> Object:
    """The object that waits for its finalizers. Its generation grows, as controllers must act on the mark."""
    meta = old["metadata"]
    if "deletionTimestamp" in meta:
        return dict(old)
    mark = {"deletionTimestamp": now, "deletionGracePeriodSeconds": 0, "generation": meta.get("generation", 0) + 1}
    return {**old, "metadata": {**meta, **mark}}


def check_preconditions(kind: Kind, old: Mapping[str, Any], *, uid: str, resource_version: str) -> None:
    """Raises Conflict."""
    meta = old["metadata"]
    if uid and uid != meta["uid"]:
        raise Conflict(f": it is another object of that name (uid {meta['uid']})", what=str(kind), name=meta["name"])
    if resource_version and resource_version != meta["resourceVersion"]:
        raise Conflict(what=str(kind), name=meta["name"])


def stamped(obj: Mapping[str, Any], version: int) -> Object:
    return {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(version)}}


def without_owner(obj: Mapping[str, Any], uid: str) -> Object:
    owners = [owner for owner in obj["metadata"].get("ownerReferences", ()) if owner["uid"] != uid]
    return {**obj, "metadata": {**obj["metadata"], "ownerReferences": owners}}


def is_condemned(obj: Mapping[str, Any]) -> bool:
    return "deletionTimestamp" in obj["metadata"]


def _substance(obj: Mapping[str, Any]) -> Object:
    return {key: value for key, value in obj.items() if key not in ("metadata", "status", "apiVersion", "kind")}


def _with_status(obj: Mapping[str, Any], other: Mapping[str, Any]) -> Object:
    rest = {key: value for key, value in obj.items() if key != "status"}
    return rest | ({"status": other["status"]} if "status" in other else {})


def _metadata(obj: Mapping[str, Any]) -> Mapping[str, Any]:
    meta = obj.get("metadata")
    if not isinstance(meta, Mapping):
        raise Invalid("is missing" if meta is None else "must be an object", field="metadata")
    return meta


def _check(kind: Kind, obj: Mapping[str, Any]) -> None:
    if obj["kind"] != kind.kind:
        raise Invalid(f"must be {kind.kind}, not {obj['kind']!r}", field="kind")
    if obj["apiVersion"] != kind.api_version:
        raise Invalid(f"must be {kind.api_version}, not {obj['apiVersion']!r}", field="apiVersion")
    meta = obj["metadata"]
    _check_name(meta.get("name"), "metadata.name", _SUBDOMAIN, 253)
    if kind.namespaced:
        _check_name(meta.get("namespace"), "metadata.namespace", _NAMESPACE, 63)
    elif meta.get("namespace"):
        raise Invalid(f"{kind.kind} has no namespace", field="metadata.namespace")
    for field in ("labels", "annotations"):
        if not _is_text_map(meta.get(field, {})):
            raise Invalid("must map text to text", field=f"metadata.{field}")
    finalizers = meta.get("finalizers", [])
    if not isinstance(finalizers, list) or not all(isinstance(item, str) and item for item in finalizers):
        raise Invalid("must be a list of names", field="metadata.finalizers")
    owners = meta.get("ownerReferences", [])
    if not isinstance(owners, list):
        raise Invalid("must be a list", field="metadata.ownerReferences")
    for index, owner in enumerate(owners):
        _check_owner(owner, f"metadata.ownerReferences[{index}]")


def _check_name(value: Any, field: str, shape: re.Pattern[str], longest: int) -> None:
    if not isinstance(value, str) or not value:
        raise Invalid("is missing", field=field)
    if len(value) > longest or not shape.fullmatch(value):
        allowed = "lower case letters, digits and '-'" + (", '.'" if shape is _SUBDOMAIN else "")
        raise Invalid(
            f"{value[:longest]!r} is not a DNS-1123 name: at most {longest} characters, {allowed}, "
            "beginning and ending with a letter or digit",
            field=field,
        )


def _check_owner(owner: Any, field: str) -> None:
    for key in ("apiVersion", "kind", "name", "uid"):
        if not isinstance(owner, Mapping) or not isinstance(owner.get(key), str) or not owner[key]:
            raise Invalid("is missing", field=f"{field}.{key}")


def _check_finalizers(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    if is_condemned(old) and (
        added := set(new["metadata"].get("finalizers", ())) - set(old["metadata"].get("finalizers", ()))
    ):
        raise Invalid(f"{', '.join(sorted(added))} cannot be added while deleting", field="metadata.finalizers")


def _is_text_map(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(part, str) for pair in value.items() for part in pair)


def _fold_secret(obj: Mapping[str, Any]) -> Object:
    """Write-only stringData goes into data, as the Kubernetes API does it. Values never stand in an error's text."""
    secret = dict(obj)
    plain = secret.pop("stringData", None) or {}
    data = secret.get("data") or {}
    if not _is_text_map(plain):
        raise Invalid("must map text to text", field="stringData")
    if not isinstance(data, Mapping):
        raise Invalid("must map text to base64", field="data")
    for key, value in data.items():
        try:
            base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError, TypeError):
            raise Invalid("is not base64", field=f"data.{key}") from None
    if folded := {**data, **{key: base64.b64encode(value.encode()).decode() for key, value in plain.items()}}:
        secret["data"] = folded
    secret.setdefault("type", "Opaque")
    return secret
