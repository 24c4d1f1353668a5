"""Open a source's disks as the controllers do, for tests of providers."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tranship.inventory.vm import VM
from tranship.providers.base import Reading, Source
from tranship.transfer.address import DiskAddress


@dataclass
class Borrowed:
    """handles: all that the source wanted to be remembered, the last one counts."""

    disks: Mapping[str, Reading] = field(default_factory=dict)
    handles: list[str] = field(default_factory=list, repr=False)

    @property
    def handle(self) -> str:
        return self.handles[-1] if self.handles else ""

    @property
    def addresses(self) -> dict[str, DiskAddress]:
        return {key: reading.address for key, reading in self.disks.items()}


def borrow(
    source: Source,
    vm: VM,
    ways: Mapping[str, str],
    snapshot: str = "",
    before: str = "",
    base: Mapping[str, str] | None = None,
) -> Borrowed:
    result = Borrowed()
    remember = result.handles.append
    result.disks = source.open_disks(vm, ways, snapshot=snapshot, base=base or {}, before=before, remember=remember)
    return result
