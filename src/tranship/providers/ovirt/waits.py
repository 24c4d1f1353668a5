"""Waiting for the Engine, which does nearly everything after it has answered. Used by the rest of the oVirt source."""

import time
from collections.abc import Callable
from typing import TypeVar

from tranship.errors import Side, TimedOut

T = TypeVar("T")


class Patience:
    """every: seconds between two looks."""

    def __init__(self, every: float = 1.0) -> None:
        self.every = every

    def until(self, what: str, seconds: float, look: Callable[[], T | None]) -> T:
        """The first thing that `look` finds. Raises TimedOut (temporary) when that takes longer than `seconds`."""
        deadline = time.monotonic() + seconds
        while (found := look()) is None:
            if time.monotonic() > deadline:
                raise TimedOut(what=what, seconds=seconds, side=Side.SOURCE)
            time.sleep(self.every)
        return found
