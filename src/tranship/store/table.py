"""The state of a store that keeps its objects itself: rows, the log of changes, and transactions over them.

Used by memory and sqlite, from one event loop only. No method waits, so each is atomic.

One counter numbers all changes of all kinds without a gap; a change's number is the resourceVersion of the object that it
left. Bodies are kept as JSON bytes: reading decodes a fresh copy, so that no caller can alter what is stored.
"""

import base64
import binascii
import secrets
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec

from tranship.errors import AlreadyExists, Expired, Invalid, NotFound
from tranship.resources.meta import Kind
from tranship.store import objects
from tranship.store.base import EventType, Listing, Object

_SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"  # as Kubernetes: no vowels, so no words; no look-alikes
_NAME_ATTEMPTS = 8  # among 2,000 names of one base, two meet with a chance of 1 in 8


def table_key(kind: Kind) -> str:
    """One name for a kind whatever its version: plans.forklift.konveyor.io, secrets."""
    return f"{kind.plural}.{kind.group}".rstrip(".")


@dataclass(frozen=True, slots=True)
class Row:
    """One stored object. owners: uids of those it belongs to."""

    table: str
    namespace: str
    name: str
    version: int
    uid: str
    labels: Mapping[str, str]
    owners: tuple[str, ...]
    body: bytes

    @classmethod
    def of(cls, table: str, body: bytes) -> "Row":
        return cls.from_object(table, msgspec.json.decode(body), body)

    @classmethod
    def from_object(cls, table: str, obj: Mapping[str, Any], body: bytes) -> "Row":
        meta = obj["metadata"]
        return cls(
            table=table,
            namespace=meta.get("namespace", ""),
            name=meta["name"],
            version=int(meta["resourceVersion"]),
            uid=meta["uid"],
            labels=meta.get("labels", {}),
            owners=tuple(owner["uid"] for owner in meta.get("ownerReferences", ())),
            body=body,
        )

    @property
    def path(self) -> tuple[str, str]:
        return self.namespace, self.name

    def object(self) -> Object:
        return msgspec.json.decode(self.body, type=dict[str, Any])

    def has(self, labels: Mapping[str, str]) -> bool:
        return all(self.labels.get(key) == value for key, value in labels.items())


@dataclass(frozen=True, slots=True)
class Change:
    """at: seconds since the epoch, by which old changes are forgotten."""

    type: EventType
    row: Row
    at: float


class Table:
    """All rows, found by path, by uid and by owner. Invariant: version is that of the last change applied."""

    def __init__(self, version: int = 0) -> None:
        self.version = version
        self._rows: dict[str, dict[tuple[str, str], Row]] = {}
        self._by_uid: dict[str, Row] = {}
        self._by_owner: dict[str, dict[str, Row]] = {}  # owner's uid -> dependent's uid -> row

    def find(self, kind: Kind, namespace: str, name: str) -> Row:
        row = self._rows.get(table_key(kind), {}).get((namespace, name))
        if row is None:
            raise NotFound(what=str(kind), name=name)
        return row

    def has(self, kind: Kind, namespace: str, name: str) -> bool:
        return (namespace, name) in self._rows.get(table_key(kind), {})

    def has_uid(self, uid: str) -> bool:
        return uid in self._by_uid

    def dependents(self, uid: str) -> tuple[Row, ...]:
        return tuple(self._by_owner.get(uid, {}).values())

    def rows(self, kind: Kind, namespace: str | None) -> list[Row]:
        fitting = self._rows.get(table_key(kind), {}).values()
        return sorted((row for row in fitting if namespace in (None, row.namespace)), key=lambda row: row.path)

    def all_rows(self) -> Iterator[Row]:
        return iter(self._by_uid.values())

    def put(self, row: Row) -> None:
        self.drop(row)
        self._rows.setdefault(row.table, {})[row.path] = row
        self._by_uid[row.uid] = row
        for owner in row.owners:
            self._by_owner.setdefault(owner, {})[row.uid] = row

    def drop(self, row: Row) -> None:
        """Forget what is stored under the row's uid, if anything."""
        old = self._by_uid.pop(row.uid, None)
        if old is None:
            return
        del self._rows[old.table][old.path]
        for owner in old.owners:
            self._by_owner[owner].pop(old.uid)
            if not self._by_owner[owner]:
                del self._by_owner[owner]

    def apply(self, change: Change) -> None:
        if change.type is EventType.DELETED:
            self.drop(change.row)
        else:
            self.put(change.row)
        self.version = change.row.version

    def copy(self) -> "Table":
        twin = Table(self.version)
        for row in self.all_rows():
            twin.put(row)
        return twin

    def page(
        self, kind: Kind, namespace: str | None, labels: Mapping[str, str], limit: int, cont: str, floor: int
    ) -> Listing:
        """All pages carry the first one's version: a watch from there tells whatever changed between the pages."""
        version, after = _read_token(cont) if cont else (self.version, None)
        if not floor <= version <= self.version:
            raise Expired(since=version)
        rows = [row for row in self.rows(kind, namespace) if row.has(labels) and (after is None or row.path > after)]
        more = 0 < limit < len(rows)
        shown = rows[:limit] if more else rows
        token = _make_token(version, shown[-1].path) if more else ""
        return Listing([row.object() for row in shown], str(version), token)


def _make_token(version: int, path: tuple[str, str]) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode((version, path))).decode()


def _read_token(cont: str) -> tuple[int, tuple[str, str]]:
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(cont), type=tuple[int, tuple[str, str]])
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        raise Invalid("is not a token of this store", field="continue") from None


@dataclass(frozen=True, slots=True)
class Keep:
    """How many changes the log keeps for watches: until one of the limits is passed."""

    changes: int = 10_000
    bytes: int = 64 << 20
    age: timedelta = timedelta(hours=1)


KEEP = Keep()


class Log:
    """The last changes, numbered floor + 1 .. version without a gap. Below the floor a watch is Expired."""

    def __init__(self, floor: int, keep: Keep) -> None:
        self.floor = floor
        self._keep = keep
        self._changes: list[Change] = []
        self._bytes = 0

    @property
    def version(self) -> int:
        return self.floor + len(self._changes)

    def append(self, change: Change) -> None:
        self._changes.append(change)
        self._bytes += len(change.row.body)

    def after(self, version: int) -> list[Change]:
        if not self.floor <= version <= self.version:
            raise Expired(since=version)
        return self._changes[version - self.floor :]

    def compact(self, now: float) -> None:
        """Forget what is over the limits; count and bytes with an eighth of slack, so that it is not done at each write."""
        keep = self._keep
        oldest = now - keep.age.total_seconds()
        full = len(self._changes) > keep.changes + keep.changes // 8 or self._bytes > keep.bytes + keep.bytes // 8
        if not full and (not self._changes or self._changes[0].at >= oldest):
            return
        left, size = len(self._changes), self._bytes
        drop = 0
        while left and (left > keep.changes or size > keep.bytes or self._changes[drop].at < oldest):
            size -= len(self._changes[drop].row.body)
            drop, left = drop + 1, left - 1
        del self._changes[:drop]
        self._bytes = size
        self.floor += drop


class Transaction:
    """Writes over a table. Each method checks everything first, then changes the table and notes what it changed, so
    that one which raises has changed nothing."""

    def __init__(self, table: Table, now: datetime) -> None:
        self.changes: list[Change] = []
        self._table = table
        self._at = now.timestamp()
        self._now = now.strftime("%Y-%m-%dT%H:%M:%SZ")

    def create(self, kind: Kind, obj: Object) -> Row:
        for _ in range(_NAME_ATTEMPTS):
            suffix = "".join(secrets.choice(_SUFFIX_LETTERS) for _ in range(5))
            born = objects.newborn(kind, obj, now=self._now, uid=str(uuid.uuid4()), suffix=suffix)
            meta = born["metadata"]
            if not self._table.has(kind, meta.get("namespace", ""), meta["name"]):
                row = self._put(EventType.ADDED, table_key(kind), born)
                self._remove_if_orphaned(row)
                return row
            if obj["metadata"].get("name"):
                break
        raise AlreadyExists(what=str(kind), name=meta["name"])

    def replace(self, kind: Kind, obj: Object, *, subresource: str) -> Row:
        meta = obj.get("metadata")
        name = meta.get("name") if isinstance(meta, Mapping) else None
        if not isinstance(meta, Mapping) or not name:
            raise Invalid("is missing", field="metadata.name")
        old = self._table.find(kind, meta.get("namespace") or "", name)
        return self._succeed(kind, old, obj, subresource)

    def patch(self, kind: Kind, namespace: str, name: str, patch: Mapping[str, Any], *, subresource: str) -> Row:
        old = self._table.find(kind, namespace, name)
        return self._succeed(kind, old, objects.merge(old.object(), patch), subresource)

    def delete(self, kind: Kind, namespace: str, name: str, *, uid: str, resource_version: str) -> Row:
        row = self._table.find(kind, namespace, name)
        objects.check_preconditions(kind, row.object(), uid=uid, resource_version=resource_version)
        return self._condemn(row)

    def _succeed(self, kind: Kind, row: Row, desired: Object, subresource: str) -> Row:
        new = objects.successor(kind, row.object(), desired, subresource=subresource)
        if objects.encode(new) == row.body:
            return row
        if objects.is_condemned(new) and not new["metadata"].get("finalizers"):
            return self._remove(row.table, new)
        row = self._put(EventType.MODIFIED, row.table, new)
        self._remove_if_orphaned(row)
        return row

    def _condemn(self, row: Row) -> Row:
        obj = row.object()
        if not obj["metadata"].get("finalizers"):
            return self._remove(row.table, obj)
        if objects.is_condemned(obj):
            return row
        return self._put(EventType.MODIFIED, row.table, objects.condemned(obj, now=self._now))

    def _remove(self, table: str, obj: Object) -> Row:
        gone = self._put(EventType.DELETED, table, obj)
        for dependent in self._table.dependents(gone.uid):
            if any(self._table.has_uid(owner) for owner in dependent.owners):
                left = objects.without_owner(dependent.object(), gone.uid)
                self._put(EventType.MODIFIED, dependent.table, left)
            else:
                self._condemn(dependent)
        return gone

    def _remove_if_orphaned(self, row: Row) -> None:
        """A dependent that comes after its owner went would stay for ever."""
        if row.owners and not any(self._table.has_uid(owner) for owner in row.owners):
            self._condemn(row)

    def _put(self, type: EventType, table: str, obj: Object) -> Row:
        stamped = objects.stamped(obj, self._table.version + 1)
        row = Row.from_object(table, stamped, objects.encode(stamped))
        change = Change(type, row, self._at)
        self._table.apply(change)
        self.changes.append(change)
        return row
