"""What a phase may ask of the world. Frozen, named, adopting: asked twice, the second finds the first one's work.

`migration/` only makes them; `controllers/effects.py` carries them out. `key` names an ask.
`makes` is what the ledger must say before the call, so that whatever a crash leaves behind is found by name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Made(NamedTuple):
    """side: source or target. kind: snapshot, checkpoint, power, disk or machine."""

    side: str
    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Ask:
    @property
    def key(self) -> str:
        return type(self).__name__

    @property
    def makes(self) -> tuple[Made, ...]:
        return ()


@dataclass(frozen=True, slots=True)
class EnableChangeTracking(Ask):
    """name: of the snapshot that is made and removed to activate it."""

    name: str

    @property
    def makes(self) -> tuple[Made, ...]:
        return (Made("source", "snapshot", self.name),)


@dataclass(frozen=True, slots=True)
class CreateSnapshot(Ask):
    """since: the checkpoint that the target holds, "" = none."""

    name: str
    quiesce: bool = False
    since: str = ""

    @property
    def makes(self) -> tuple[Made, ...]:
        return (Made("source", "snapshot", self.name),)


@dataclass(frozen=True, slots=True)
class RemoveSnapshot(Ask):
    """leaves: the checkpoint that outlives it, "" = none."""

    name: str
    leaves: str = ""

    @property
    def makes(self) -> tuple[Made, ...]:
        return (Made("source", "checkpoint", self.leaves),) if self.leaves else ()


@dataclass(frozen=True, slots=True)
class RemoveCheckpoint(Ask):
    id: str


@dataclass(frozen=True, slots=True)
class Consolidate(Ask):
    pass


@dataclass(frozen=True, slots=True)
class ShutDownGuest(Ask):
    """Stands in the ledger because a guest that was asked may still go down long after a cancel."""

    @property
    def makes(self) -> tuple[Made, ...]:
        return (Made("source", "power", "off"),)


@dataclass(frozen=True, slots=True)
class PowerOff(Ask):
    pass


@dataclass(frozen=True, slots=True)
class PowerOn(Ask):
    @property
    def makes(self) -> tuple[Made, ...]:
        return (Made("source", "power", "on"),)


@dataclass(frozen=True, slots=True)
class CreateDisks(Ask):
    names: tuple[str, ...]

    @property
    def makes(self) -> tuple[Made, ...]:
        return tuple(Made("target", "disk", name) for name in self.names)


@dataclass(frozen=True, slots=True)
class StartCopies(Ask):
    """Start (or resume) one mover per disk. ways: disk key -> way. base: disk key -> changeId of the state that the target
    disk holds; a disk without one is copied fully. snapshot: name of the own snapshot to read, "" = the powered-off VM."""

    round: int
    snapshot: str
    ways: Mapping[str, str]
    base: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EndCopies(Ask):
    """Give back what the source lent for reading (a lease, a transfer)."""

    round: int


@dataclass(frozen=True, slots=True)
class StopCopies(Ask):
    round: int


@dataclass(frozen=True, slots=True)
class CreateMachine(Ask):
    name: str

    @property
    def makes(self) -> tuple[Made, ...]:
        return (Made("target", "machine", self.name),)


@dataclass(frozen=True, slots=True)
class StartMachine(Ask):
    pass


@dataclass(frozen=True, slots=True)
class StopMachine(Ask):
    pass


@dataclass(frozen=True, slots=True)
class DeleteMachine(Ask):
    """uid: as the ledger has it."""

    uid: str = ""


@dataclass(frozen=True, slots=True)
class DeleteDisks(Ask):
    """made: source disk -> uid of what was made for it, as the ledger has it."""

    made: Mapping[str, str]


GRAVE = (ShutDownGuest, PowerOff, StopMachine, DeleteMachine, DeleteDisks)
"""Nobody takes these back: what the user wants is read once more before."""
