"""The declarative objects that users write and controllers keep. Importing it makes their kinds known to parse."""

from tranship.resources import (
    controller,
    conversion,
    hook,
    host,
    migration,
    networkmap,
    plan,
    provider,
    secret,
    storagemap,
)

__all__ = [
    "controller",
    "conversion",
    "hook",
    "host",
    "migration",
    "networkmap",
    "plan",
    "provider",
    "secret",
    "storagemap",
]
