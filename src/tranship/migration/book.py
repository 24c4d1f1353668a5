"""All itineraries by name."""

from tranship.migration.cleanup import CANCELED, FAILED
from tranship.migration.cold import COLD
from tranship.migration.itinerary import Itinerary
from tranship.migration.warm import WARM, WARM_WITHOUT_VDDK

BOOK: dict[str, Itinerary] = {one.name: one for one in (COLD, WARM, WARM_WITHOUT_VDDK, FAILED, CANCELED)}
"""What `VMStatus.itinerary` may say."""


def choose(warm: bool, ways: set[str]) -> Itinerary:
    """A running VM can be read at random only through a way that reads snapshots block by block."""
    if not warm:
        return COLD
    return WARM_WITHOUT_VDDK if "nfc" in ways else WARM
