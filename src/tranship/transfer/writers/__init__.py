"""Ways to write a disk, one file each. `open_writer` chooses by the URL's scheme."""

from urllib.parse import unquote, urlsplit

from tranship.errors import Unsupported
from tranship.transfer.address import DiskAddress
from tranship.transfer.writers.base import Writer


def open_writer(address: DiskAddress, size: int) -> Writer:
    """A target of at least `size` bytes. Raises Unsupported, NoSpace, Refused, CopyFailed."""
    parts = urlsplit(address.url)
    if parts.scheme == "file":
        from tranship.transfer.writers.file import FileWriter

        return FileWriter(unquote(parts.path), size)
    if parts.scheme == "memory":
        from tranship.transfer.writers.memory import MemoryWriter

        return MemoryWriter(parts.path, size)
    raise Unsupported("no writer for this address", what=f"writing to {parts.scheme}:")


__all__ = ["Writer", "open_writer"]
