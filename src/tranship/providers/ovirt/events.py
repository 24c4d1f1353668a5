"""What the Engine tells of a call that went wrong after it had been accepted. Used by backups and snapshots.

An error that happens later reaches nobody but the event log, where it is found by the correlation id of the call. It is for
the user's eyes: when the log cannot be read, the caller says what it knows without it.
"""

from dataclasses import dataclass

from tranship.errors import TranshipError
from tranship.providers.ovirt.client import Client
from tranship.providers.ovirt.values import text

LONGEST_CORRELATION = 50  # characters; the Engine refuses longer ones


@dataclass(frozen=True, slots=True)
class Event:
    """grave: an error or an alert."""

    code: str
    text: str
    grave: bool


def about(client: Client, correlation: str) -> list[Event]:
    """The last events of that correlation id, newest first."""
    try:
        found = client.list("events", "event", search=f"correlation_id={correlation}", max=20)
    except TranshipError:
        return []
    return [
        Event(text(one, "code"), text(one, "description")[:300], text(one, "severity") in ("error", "alert"))
        for one in found
    ]
