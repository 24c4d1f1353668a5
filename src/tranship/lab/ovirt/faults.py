"""Scripts of trouble, and the record of what was called.

A test writes `faults.add("POST vms/backups", status=409)` or `faults.add("merge", fail=True)`. Two kinds of names:

requests: method and path without ids, such as `GET vms`, `POST vms/snapshots`, `DELETE vms/snapshots`,
    `POST vms/backups/finalize`, `POST imagetransfers`, `POST sso/oauth/token`
steps, which happen behind an answer: start, shutdown, snapshot, merge, restore, backup, redefine (older checkpoints,
    before a backup of a running VM), finalize (a backup), checkpoint (its removal), transfer (its start), poll (the look
    at an open transfer), close (the end of a transfer)
"""

import threading
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Call:
    """operation: as in the scripts. vm: the name of the VM that it is about, if it is about one."""

    operation: str
    path: str = ""
    vm: str = ""


@dataclass
class Script:
    """What happens to the occurrences `nth` to `nth + count - 1` of an operation (count 0: to all from `nth` on), of one VM
    or of any. delay: seconds before it. status, detail: the answer instead of the effect. drop: the connection breaks
    before or after the effect. expire: all sessions are gone before it. fail: a step ends badly. hold: a step waits until
    `release()`, or until the Engine closes. pause: an open transfer is paused by the system. ticket: its ticket is gone."""

    operation: str
    nth: int = 1
    count: int = 1
    vm: str = ""
    delay: float = 0.0
    status: int = 0
    detail: str = ""
    drop: Literal["", "before", "after"] = ""
    expire: bool = False
    fail: bool = False
    hold: bool = False
    pause: bool = False
    ticket: bool = False
    seen: int = 0
    reached: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def release(self) -> None:
        self.released.set()


class Faults:
    """Thread-safe. `calls` is every request in order of arrival, refused ones included."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._scripts: list[Script] = []
        self._lock = threading.Lock()

    def add(
        self,
        operation: str,
        *,
        nth: int = 1,
        count: int = 1,
        vm: str = "",
        delay: float = 0.0,
        status: int = 0,
        detail: str = "",
        drop: Literal["", "before", "after"] = "",
        expire: bool = False,
        fail: bool = False,
        hold: bool = False,
        pause: bool = False,
        ticket: bool = False,
    ) -> Script:
        """Arguments as in Script. A script's `reached` is set when it applied for the first time."""
        script = Script(operation, nth, count, vm, delay, status, detail, drop, expire, fail, hold, pause, ticket)
        with self._lock:
            self._scripts.append(script)
        return script

    def clear(self) -> None:
        """Also lets go whatever a script holds."""
        with self._lock:
            for script in self._scripts:
                script.release()
            self._scripts.clear()

    def record(self, operation: str, path: str = "", vm: str = "") -> None:
        with self._lock:
            self.calls.append(Call(operation, path, vm))

    def count(self, operation: str, vm: str = "") -> int:
        with self._lock:
            return sum(call.operation == operation and vm in ("", call.vm) for call in self.calls)

    def due(self, operation: str, vm: str = "") -> list[Script]:
        """The scripts that apply to this very occurrence; asking counts."""
        found = []
        with self._lock:
            for script in self._scripts:
                if script.operation == operation and script.vm in ("", vm):
                    script.seen += 1
                    if script.seen >= script.nth and (not script.count or script.seen < script.nth + script.count):
                        script.reached.set()
                        found.append(script)
        return found
