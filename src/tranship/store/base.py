"""The contract of every store: a small part of the Kubernetes API, told in Python.

Called by controllers, the server and the application; fulfilled by memory, sqlite and a cluster. `testing/store_suite.py`
proves it for each. Objects are plain JSON dicts in Kubernetes form; what a store hands out is the caller's own copy.

What holds everywhere:

- resourceVersion is opaque: equal or not equal, nothing else. A write that changes nothing leaves it as it is.
- metadata.generation grows when anything but metadata and status changes, and when deletion begins.
- subresource="status" writes only status; the main endpoint never writes status, not even on create.
- An object with finalizers is only marked by delete (deletionTimestamp) and goes when the last finalizer goes.
- When an owner is gone its dependents go too, soon, unless another owner is left.
- Temporary errors (Conflict, Expired, Unreachable) may be retried after reading again; the others may not.
"""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from tranship.resources.meta import Kind

Object = dict[str, Any]

INITIAL_EVENTS_END = "k8s.io/initial-events-end"
"""Annotation of the bookmark after which a watch without `since` has told the whole present state."""


class EventType(Enum):
    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    BOOKMARK = "BOOKMARK"


@dataclass(frozen=True, slots=True)
class Event:
    """One change. The object of DELETED is the last state; that of BOOKMARK holds only kind, apiVersion and
    metadata.resourceVersion: everything up to there has been told."""

    type: EventType
    object: Object

    @property
    def resource_version(self) -> str:
        return str(self.object["metadata"]["resourceVersion"])


@dataclass(frozen=True, slots=True)
class Listing:
    """A page of a list. A watch since `resource_version` misses nothing; `cont` "" = this was the last page."""

    items: list[Object]
    resource_version: str
    cont: str = ""


class Store(Protocol):
    async def get(self, kind: Kind, namespace: str, name: str) -> Object:
        """Raises NotFound."""

    async def list(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        labels: Mapping[str, str] | None = None,
        limit: int = 0,
        cont: str = "",
    ) -> Listing:
        """namespace None = all. Sorted by namespace and name. Raises Expired when `cont` is too old: begin again."""

    def watch(
        self, kind: Kind, namespace: str | None = None, *, since: str | None = None
    ) -> AsyncGenerator[Event, None]:
        """Changes after resourceVersion `since`. None = first the present state as ADDED and one BOOKMARK that carries the
        annotation INITIAL_EVENTS_END. Ends when the store is closed. Raises Expired: list again, then watch."""

    async def create(self, kind: Kind, obj: Object) -> Object:
        """Raises AlreadyExists, Invalid. metadata.generateName makes a name."""

    async def replace(self, kind: Kind, obj: Object, *, subresource: str = "") -> Object:
        """Raises NotFound, Invalid, and Conflict when the object carries a stale resourceVersion or a foreign uid."""

    async def patch(
        self, kind: Kind, namespace: str, name: str, patch: Mapping[str, Any], *, subresource: str = ""
    ) -> Object:
        """JSON merge patch (RFC 7396). metadata.resourceVersion in it is an optimistic lock. Raises as replace does."""

    async def delete(
        self, kind: Kind, namespace: str, name: str, *, uid: str = "", resource_version: str = ""
    ) -> Object:
        """The object as it was left: marked, or gone. Raises NotFound, and Conflict when a precondition does not hold."""

    async def close(self) -> None: ...
