"""Numbers of one copy, and the one line that is logged at its end.

The engine's threads add to it; the mover shows it twice a second in progress.json.
"""

import threading
from dataclasses import dataclass, field


@dataclass(slots=True)
class Stats:
    """Bytes unless said otherwise. total: of the plan. done: of the plan, finished, those of earlier runs included.
    read: from the source. copied: written. zeroed: made to read as zeros. skipped: zeros left out on a fresh target.
    areas: changed areas that the source named; pieces: reads that they came to. healed: leaves read whole because the
    target did not hold what it should. proved: read back."""

    total: int = 0
    done: int = 0
    read: int = 0
    copied: int = 0
    zeroed: int = 0
    skipped: int = 0
    areas: int = 0
    pieces: int = 0
    healed: int = 0
    proved: int = 0
    to_prove: int = 0
    seconds: float = 0.0
    verify_seconds: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, **amounts: int) -> None:
        with self.lock:
            for name, amount in amounts.items():
                setattr(self, name, getattr(self, name) + amount)

    def facts(self) -> dict[str, int | float]:
        with self.lock:
            return {name: getattr(self, name) for name in self.__slots__ if name != "lock"}

    def line(self, **facts: object) -> str:
        """`disk=... copied=... rate_mib=...`, one line, for the log."""
        rate = self.done / max(self.seconds, 1e-6) / (1 << 20)
        pairs = {**facts, **{k: f"{v:.3f}" if isinstance(v, float) else v for k, v in self.facts().items()}}
        return " ".join(f"{key}={value}" for key, value in {**pairs, "rate_mib": f"{rate:.1f}"}.items())
