"""A few words of QMP, QEMU's control protocol. Used by qemu.py to look at and stop a machine.

The socket's path may be longer than the 107 bytes that a Unix address holds, so it is reached through its directory's
file descriptor.
"""

import json
import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tranship.errors import Refused, Side, TimedOut, Unreachable

MESSAGE_LIMIT = 1 << 20


class Monitor:
    """One connection. QEMU serves one at a time, so hold it briefly."""

    def __init__(self, path: Path, timeout: float = 10.0) -> None:
        self._path = path
        self._timeout = timeout
        self._buffer = b""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        try:
            directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                self._socket.connect(f"/proc/self/fd/{directory}/{path.name}")
            finally:
                os.close(directory)
            self._read(time.monotonic() + timeout)  # the greeting
            self.ask("qmp_capabilities")
        except OSError as error:
            self._socket.close()
            raise Unreachable(str(error), address=str(path), side=Side.TARGET) from error
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def ask(self, command: str) -> Any:
        """The command's answer. Raises Unreachable, TimedOut, Refused."""
        deadline = time.monotonic() + self._timeout
        try:
            self._socket.sendall(json.dumps({"execute": command}).encode() + b"\n")
            while True:
                message = self._read(deadline)
                if "return" in message:
                    return message["return"]
                if "error" in message:
                    raise Refused(
                        message["error"]["desc"],
                        what=f"QEMU's {command}",
                        fault=message["error"]["class"],
                        side=Side.TARGET,
                    )
        except TimeoutError as error:
            raise TimedOut(what=f"QEMU's {command}", seconds=self._timeout, side=Side.TARGET) from error
        except OSError as error:
            raise Unreachable(str(error), address=str(self._path), side=Side.TARGET) from error

    def _read(self, deadline: float) -> dict[str, Any]:
        """One message; events are messages too."""
        while b"\n" not in self._buffer:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            data = self._socket.recv(65536)
            if not data or len(self._buffer) > MESSAGE_LIMIT:
                raise ConnectionError("the connection ended")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message
