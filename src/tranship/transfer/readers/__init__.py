"""Ways to read a disk, one file each. `open_reader` chooses by the URL's scheme and imports only what that way needs."""

from collections.abc import Callable
from importlib import import_module
from typing import cast

from tranship.errors import Unsupported
from tranship.transfer.address import DiskAddress
from tranship.transfer.readers.base import Channel, Piece, Reader

_WAYS = {
    "file": "file",
    "memory": "memory",
    "nbd": "nbd",
    "nbd+unix": "nbd",
    "vddk": "vddk",
    "nfc+https": "nfc",
    "datastore+https": "datastore",
    "imageio+https": "imageio",
}


def open_reader(address: DiskAddress, size: int) -> Reader:
    """size: what the disk is expected to have; a stream that tells it late uses it. Raises the errors of that way."""
    scheme = address.url.partition(":")[0]
    if scheme not in _WAYS:
        raise Unsupported("no reader for this address", what=f"reading from {scheme}:")
    way = import_module(f"tranship.transfer.readers.{_WAYS[scheme]}")
    return cast("Callable[[DiskAddress, int], Reader]", way.open_reader)(address, size)


__all__ = ["Channel", "Piece", "Reader", "open_reader"]
