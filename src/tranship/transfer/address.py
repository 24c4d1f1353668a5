"""A disk is a URL: the narrow waist between providers and the copy engine.

A provider turns (VM, disk, checkpoint) into a DiskAddress; `transfer.readers.open_reader` opens it and knows nothing of
providers. The credentials travel beside the URL and never inside it, because a URL ends up in logs.

    file:///path                                        raw file or block device
    nbd+unix:///export?socket=/run/x.sock               NBD; nbd://host:port/export
    vddk://vcenter/?moref=vm-42&snapshot=snapshot-7&disk=[ds]+vm/vm.vmdk&libdir=...&port=443
    nfc+https://host/nfc/.../disk-0.vmdk                a stream: streamOptimized VMDK, read once from start to end
    datastore+https://host/folder/vm/vm-flat.vmdk?dcPath=..&dsName=..
    imageio+https://host:54322/images/TICKET              oVirt; ...?delta=dirty or layer: only what changed, see the reader
    pvc://NAMESPACE/CLAIM?mode=Block                      a volume claim (or mode=Filesystem): a pod there mounts it
    memory:name                                         a process-wide bytearray, for tests
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Extent(NamedTuple):
    """A run of bytes. zero: known to read as zeros without reading it."""

    start: int
    length: int
    zero: bool = False

    @property
    def end(self) -> int:
        return self.start + self.length


@dataclass(frozen=True, slots=True)
class DiskAddress:
    """url as above; credentials: what the reader of that scheme needs (user, password, cookie, ca (PEM), fingerprint
    (SHA-1 or SHA-256 of the pinned certificate), insecure ("true")). The repr hides them."""

    url: str
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)
