"""A machine's QEMU, as a child of the loop's thread: it is killed by the kernel when that thread ends.

Its serial console is its own stdin and, through a file, stdout; its monitor is a pair of sockets, so that no path is too
long for one. How it ended is known by the monitor's last word: a guest that shut down by itself, or anything else.
"""

import asyncio
import contextlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tranship.errors import ToolFailed, ToolMissing

PROGRAM = "qemu-system-x86_64"
ANSWER_SECONDS = 30.0  # of the monitor, on a busy machine
ASK_AGAIN_SECONDS = 5.0  # a guest that is still booting loses the first press of the power button


class Process:
    """folder: of its console.log and qemu.log. ended: called when it has. pulled: ids of NICs whose cable is out.
    zone: the time zone of -rtc base=localtime."""

    def __init__(
        self,
        folder: Path,
        arguments: Sequence[str],
        ended: Callable[[], None],
        *,
        pulled: Sequence[str] = (),
        zone: str = "",
    ) -> None:
        self._folder, self._arguments, self._ended = folder, arguments, ended
        self._pulled, self._zone = pulled, zone
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self.shut_down = False  # by the guest itself

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Returns when its processors run. Raises ToolMissing, ToolFailed."""
        for tool in (PROGRAM, "setpriv"):
            if shutil.which(tool) is None:
                raise ToolMissing("it is not on the PATH", tool=tool)
        ours, its = socket.socketpair()
        monitor = ("-chardev", f"socket,id=qmp,fd={its.fileno()}", "-mon", "chardev=qmp,mode=control")
        serial = ("-chardev", "stdio,id=serial,signal=off", "-serial", "chardev:serial")
        with its, (self._folder / "console.log").open("ab") as console, (self._folder / "qemu.log").open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *("setpriv", "--pdeathsig", "KILL", "--", PROGRAM, "-S", *self._arguments, *monitor, *serial),
                stdin=asyncio.subprocess.PIPE,
                stdout=console,
                stderr=log,
                env={**os.environ, **({"TZ": self._zone} if self._zone else {})},
                pass_fds=(its.fileno(),),
                start_new_session=True,  # a Ctrl-C meant for us is not for the machine
            )
        reader, self._writer = await asyncio.open_connection(sock=ours)
        self._tasks = [asyncio.create_task(self._listen(reader)), asyncio.create_task(self._wait())]
        try:
            await self._ask("qmp_capabilities")
            for nic in self._pulled:
                await self._ask("set_link", name=nic, up=False)
            await self._ask("cont")
            state = await self._ask("query-status")
        except (TimeoutError, ConnectionError) as error:
            await self.kill()
            raise self._failure() from error
        if not state.get("running"):
            await self.kill()
            raise self._failure()

    def type(self, data: bytes) -> None:
        """On its serial console."""
        if self._process and self._process.stdin:
            self._process.stdin.write(data)

    def stop(self, seconds: float) -> None:
        """Press the power button; kill it when that did not help within so many seconds. Does not wait."""
        if not self._stopping:
            self._stopping = True
            self._tasks.append(asyncio.create_task(self._stop(seconds)))

    async def kill(self) -> None:
        if self._process is not None:
            if self.running:
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
            await self._process.wait()
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        if self._writer:
            self._writer.close()

    async def _stop(self, seconds: float) -> None:
        assert self._process
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while self.running and (rest := until - loop.time()) > 0:
            with contextlib.suppress(TimeoutError, ConnectionError):
                await self._ask("system_powerdown", min(rest, ANSWER_SECONDS))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), max(0.01, min(until - loop.time(), ASK_AGAIN_SECONDS)))
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _ask(self, word: str, seconds: float = ANSWER_SECONDS, **arguments: Any) -> dict[str, Any]:
        assert self._writer
        self._writer.write(json.dumps({"execute": word, "arguments": arguments}).encode())
        await self._writer.drain()
        answer = await asyncio.wait_for(self._answers.get(), seconds)
        if "return" not in answer:
            raise ConnectionError(str(answer.get("error", "the monitor hung up")))
        found: dict[str, Any] = answer["return"]
        return found

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):
            async for line in reader:
                word = json.loads(line)
                if word.get("event") == "SHUTDOWN":
                    self.shut_down = word["data"]["reason"] == "guest-shutdown"
                elif "return" in word or "error" in word:
                    self._answers.put_nowait(word)
        self._answers.put_nowait({})

    async def _wait(self) -> None:
        """Until it has ended and its last word is heard."""
        assert self._process
        await self._process.wait()
        await asyncio.wait([self._tasks[0]], timeout=1)
        self._ended()

    def _failure(self) -> ToolFailed:
        code = self._process.returncode if self._process else -1
        output = (self._folder / "qemu.log").read_text(errors="replace").strip()[-500:]
        return ToolFailed(argv=PROGRAM, code=code, output=output)
