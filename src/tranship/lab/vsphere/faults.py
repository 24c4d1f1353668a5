"""Scripts of trouble, and the record of what was called.

A test or the demo writes `faults.add("CreateSnapshot_Task", nth=2, fault="TaskInProgress")`; server.py and tasks.py ask
here before and after each effect. Names are the wire's method names, `GET /folder`, `HEAD /folder`, `GET /nfc` for plain
HTTP, and `consolidate` for the merging of disks inside a snapshot removal.
"""

import threading
from dataclasses import dataclass
from typing import Literal

from tranship.lab.vsphere import soap
from tranship.lab.vsphere.vmomi import Fault

Where = Literal["call", "task"]


@dataclass(frozen=True, slots=True)
class Call:
    method: str
    vm: str = ""
    user: str = ""


@dataclass
class Script:
    """What shall happen to calls number `nth` to `nth + count - 1` of a method (count 0: to all from `nth` on), of one
    VM or of any. A `_Task` method fails and dawdles inside its task, as vCenter's do, unless `where` says "call"."""

    method: str
    nth: int = 1
    count: int = 1
    vm: str = ""
    fault: str = ""
    message: str = ""
    delay: float = 0.0
    drop: Literal["", "before", "after"] = ""
    drop_after: int | None = None
    expire: bool = False
    status: int = 0
    where: Where | None = None
    seen: int = 0

    def __post_init__(self) -> None:
        if self.where is None:
            in_task = self.method.endswith("_Task") and not (self.drop or self.expire or self.status)
            self.where = "task" if in_task or self.method == "consolidate" else "call"
        if self.fault:
            soap.fault_named(self.fault)  # a misspelt name shall fail here and not in the middle of a run

    def error(self) -> Fault | None:
        return soap.fault_named(self.fault, self.message) if self.fault else None


class Faults:
    """Thread-safe. `calls` is every call in order of arrival, refused ones included."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._scripts: list[Script] = []
        self._lock = threading.Lock()

    def add(
        self,
        method: str,
        *,
        nth: int = 1,
        count: int = 1,
        vm: str = "",
        fault: str = "",
        message: str = "",
        delay: float = 0.0,
        drop: Literal["", "before", "after"] = "",
        drop_after: int | None = None,
        expire: bool = False,
        status: int = 0,
        where: Where | None = None,
    ) -> Script:
        """delay in seconds; drop: the connection breaks before or after the effect; drop_after: bytes of a body that
        still arrive; expire: the session is gone before the call; status: of a plain HTTP answer."""
        script = Script(method, nth, count, vm, fault, message, delay, drop, drop_after, expire, status, where)
        with self._lock:
            self._scripts.append(script)
        return script

    def clear(self) -> None:
        with self._lock:
            self._scripts.clear()

    def record(self, method: str, vm: str = "", user: str = "") -> None:
        with self._lock:
            self.calls.append(Call(method, vm, user))

    def count(self, method: str, vm: str = "") -> int:
        with self._lock:
            return sum(call.method == method and vm in ("", call.vm) for call in self.calls)

    def due(self, method: str, vm: str, where: Where) -> list[Script]:
        """The scripts that apply to this very call; asking counts."""
        found = []
        with self._lock:
            for script in self._scripts:
                if script.method == method and script.where == where and script.vm in ("", vm):
                    script.seen += 1
                    if script.seen >= script.nth and (not script.count or script.seen < script.nth + script.count):
                        found.append(script)
        return found
