"""Waiting for the Engine, which does nearly everything after it has answered. Used by the rest of the oVirt source."""

import time
from collections.abc import Callable
from typing import TypeVar

from tranship.errors import Side, TimedOut

T = TypeVar("T")


_FIRST = 0.05  # seconds before the second look; some things take no longer, and most take much longer


class Patience:
    """every: seconds between two looks, once it is clear that it takes a while."""

    def __init__(self, every: float = 1.0) -> None:
        self.every = every

    def until(self, what: str, seconds: float, look: Callable[[], T | None]) -> T:
        """The first thing that `look` finds. Raises TimedOut (temporary) when that takes longer than `seconds`."""
        deadline = time.monotonic() + seconds
        pause = min(_FIRST, self.every)
        while (found := look()) is None:
            if time.monotonic() > deadline:
                raise TimedOut(what=what, seconds=seconds, side=Side.SOURCE)
            time.sleep(pause)
            pause = min(pause * 1.5, self.every)
        return found
