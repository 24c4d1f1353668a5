"""Everything that has a managed object reference, and the one lock and version counter around it.

Inventory objects, tasks, snapshots, views, filters and leases are all `Managed`: a kind, an id, and properties that are
computed when somebody asks and kept until `World.touch` says that they changed. collector.py turns properties into
updates by comparing what it sent with what it would send now, so no writer has to describe its change.
"""

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

from tranship.lab.vsphere import soap
from tranship.lab.vsphere.vmomi import Fault, VmomiSupport

SESSION: ContextVar[Any] = ContextVar("session")
"""The session whose call is being served: a few properties differ by who asks (sessionManager.currentSession)."""

Source = Any | Callable[[], Any]


class Managed:
    """properties: name -> value or function. Uncached objects are computed at every read."""

    def __init__(
        self, kind: Any, moid: str, properties: Mapping[str, Source] | None = None, cached: bool = True
    ) -> None:
        self.kind = kind
        self.moid = moid
        self.properties: dict[str, Source] = dict(properties or {})
        self.cached = cached
        self.version = 0
        self.done_at: float | None = None  # time.monotonic() when a task or lease ended
        self._values: dict[str, Any] = {}
        self._xml: dict[tuple[str, str], str] = {}

    def __repr__(self) -> str:
        return f"<{self.moid}>"

    @property
    def ref(self) -> Any:
        return self.kind(self.moid)

    def value(self, path: str) -> Any:
        """The value at a path such as `config.hardware.device`, None where something on the way is unset."""
        top, *rest = path.split(".")
        if top not in self._values or not self.cached:
            source = self.properties.get(top)
            self._values[top] = source() if callable(source) else source
        value = self._values[top]
        for name in rest:
            value = None if value is None else getattr(value, name, None)
        return value

    def xml(self, path: str, version: str) -> str:
        """The property as `<val>`, empty where it is unset. Kept: serialising costs 3 ms per virtual machine."""
        key = path, version
        if key not in self._xml or not self.cached:
            declared = declared_type(self.kind, path)
            value = soap.coerce(self.value(path), declared)
            empty = isinstance(value, list) and not value and "." in path
            self._xml[key] = "" if empty else soap.element("val", value, object, version)
        return self._xml[key]

    def forget(self) -> None:
        self._values = {}
        self._xml = {}


def declared_type(kind: Any, path: str) -> Any:
    """The type that pyVmomi's tables declare for a path. Raises the fault InvalidProperty."""
    owner = kind
    for name in path.split("."):
        try:
            owner = owner._GetPropertyInfo(name).type
        except AttributeError:
            raise soap.fault_named("InvalidProperty", f"{kind.__name__} has no {path}", name=path) from None
    return owner


def property_names(kind: Any) -> list[str]:
    return [info.name for info in kind._GetPropertyList()]


class World:
    """All managed objects by id. Whoever changes one holds `lock` and calls `touch`; `changed` wakes the waiters. beside:
    another one that shows the same machines, and so has the same lock."""

    def __init__(self, beside: "World | None" = None) -> None:
        self.lock: threading.RLock = beside.lock if beside else threading.RLock()
        self.changed: threading.Condition = beside.changed if beside else threading.Condition(self.lock)
        self.version = 0
        self.objects: dict[str, Managed] = {}
        self._numbers = itertools.count(100)

    def new_id(self, prefix: str) -> str:
        return f"{prefix}{next(self._numbers)}"

    def add(self, item: Managed, *also: Managed) -> None:
        """`also`: objects whose lists name the new one."""
        with self.lock:
            self.objects[item.moid] = item
            self.touch(item, *also)

    def remove(self, item: Managed, *also: Managed) -> None:
        with self.lock:
            self.objects.pop(item.moid, None)
            self.touch(item, *also)

    def touch(self, *items: Managed) -> None:
        with self.lock:
            self.version += 1
            for item in items:
                item.version = self.version
                item.forget()
            self.changed.notify_all()

    def find(self, moid: str) -> Managed:
        with self.lock:
            item = self.objects.get(moid)
        if item is None:
            raise gone(moid)
        return item

    def of(self, kind: Any) -> Iterator[Managed]:
        return (item for item in list(self.objects.values()) if issubclass(item.kind, kind))


def gone(moid: str) -> Fault:
    ref = VmomiSupport.ManagedObject(moid)
    message = f"The object '{moid}' has already been deleted or has not been completely created"
    return soap.fault_named("ManagedObjectNotFound", message, obj=ref)


def invalid_argument(name: str, message: str = "") -> Fault:
    text = message or f"A specified parameter was not correct: {name}"
    return soap.fault_named("InvalidArgument", text, invalidProperty=name)
