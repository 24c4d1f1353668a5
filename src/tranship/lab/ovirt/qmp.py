"""QEMU's machine protocol, as far as the lab's storage daemon speaks it: a command, its answer, and events to wait for.

One conversation over one connected socket; whoever uses it (storage_daemon.py) takes care that it is one thread at a time.
"""

import json
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from tranship.errors import Refused, TimedOut, Unreachable

ANSWER = 60.0  # seconds


class Qmp:
    """The greeting is awaited at once, so the peer is ready when this exists."""

    def __init__(self, connection: socket.socket, address: str) -> None:
        self._socket = connection
        self._address = address
        self._buffer = bytearray()
        self._events: list[dict[str, Any]] = []
        self._receive(time.monotonic() + ANSWER, "QMP's greeting")
        self.execute("qmp_capabilities", {})

    def execute(self, command: str, arguments: Mapping[str, Any]) -> Any:
        """Refused when QEMU says no, with its own words."""
        self._send({"execute": command, "arguments": arguments})
        until = time.monotonic() + ANSWER
        while True:
            message = self._receive(until, command)
            if "error" in message:
                error = message["error"]
                raise Refused(error["desc"], what=command, fault=error["class"])
            if "return" in message:
                return message["return"]
            self._events.append(message)

    def wait(self, wanted: Callable[[str, dict[str, Any]], bool], what: str, seconds: float) -> dict[str, Any]:
        """The data of the first event, seen already or to come, whose name and data `wanted` accepts; it is taken out."""
        until = time.monotonic() + seconds
        seen = 0
        while True:
            while seen < len(self._events):
                event = self._events[seen]
                if wanted(event["event"], event.get("data", {})):
                    del self._events[seen]
                    return dict(event.get("data", {}))
                seen += 1
            self._events.append(self._receive(until, what, seconds))

    def forget(self, ended: Callable[[dict[str, Any]], bool]) -> None:
        """Drop the events whose data `ended` accepts: their subject is gone, and a list that only grows is a leak."""
        self._events = [event for event in self._events if not ended(event.get("data", {}))]

    def close(self) -> None:
        self._socket.close()

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._socket.settimeout(ANSWER)
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise Unreachable(str(error), address=self._address) from error

    def _receive(self, until: float, what: str, seconds: float = ANSWER) -> dict[str, Any]:
        while (end := self._buffer.find(b"\n")) < 0:
            try:
                self._socket.settimeout(max(until - time.monotonic(), 0.001))
                data = self._socket.recv(65536)
            except TimeoutError as error:
                raise TimedOut(what=what, seconds=seconds) from error
            except OSError as error:
                raise Unreachable(str(error), address=self._address) from error
            if not data:
                raise Unreachable("the monitor hung up", address=self._address)
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return dict(json.loads(line))
