"""VMware's VDDK library in a directory: as it is unpacked, its lib64 itself, or one that it was unpacked into.

Who has a mover started adds the directory to the disk's address (`placed`); mover and loader look there.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

from tranship.transfer.address import DiskAddress

DISTRIBUTION = "vmware-vix-disklib-distrib"


def folders(directory: str) -> tuple[Path, ...]:
    """That may hold the library's files."""
    here = Path(directory)
    return here / "lib64", here, here / DISTRIBUTION / "lib64"


def placed(address: DiskAddress, directory: str) -> DiskAddress:
    """The address for a mover that finds the library there."""
    return replace(address, url=f"{address.url}&libdir={quote(directory)}")


def environment(address: DiskAddress, given: Mapping[str, str]) -> dict[str, str]:
    """Of a mover that reads from the address: the library brings others of its own, and finds them only this way. What the
    mover itself is linked to goes first."""
    directory = parse_qs(urlsplit(address.url).query).get("libdir", [""])[0]
    if not address.url.startswith("vddk:") or not directory:
        return dict(given)
    paths = [*filter(None, [given.get("LD_LIBRARY_PATH")]), *map(str, folders(directory))]
    return {**given, "LD_LIBRARY_PATH": ":".join(paths)}
