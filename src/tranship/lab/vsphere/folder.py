"""The datastore folder: ranged HTTPS reads of `/folder/DIR/NAME-flat.vmdk?dcPath=..&dsName=..`. server.py calls `answer`.

As ESXi does, it serves a flat file only while nobody has it open: not while the machine runs, not while a snapshot chain
stands on it. A machine that is started in the middle of a download breaks it off.
"""

import re
from collections.abc import Iterable, Iterator
from urllib.parse import parse_qs, unquote, urlsplit

from tranship.lab.vsphere.calls import Dropped
from tranship.lab.vsphere.machine import Disk, LabVM
from tranship.lab.vsphere.state import State
from tranship.lab.vsphere.transfers import Answer

PIECE = 1 << 20
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class DatastoreFolder:
    def __init__(self, state: State) -> None:
        self.state = state

    def vm(self, target: str) -> str:
        """The name of the VM whose file a request is for, empty where there is none: for the record of calls."""
        found = self._find(target)
        return found[0].name if found else ""

    def answer(self, target: str, wanted: str, head: bool) -> Answer:
        """`wanted` is the Range header. The caller has checked who asks."""
        found = self._find(target)
        if found is None:
            return Answer(404)
        vm, disk, kind = found
        if kind == "descriptor":
            text = _descriptor(disk).encode()
            return Answer(200, iter([b"" if head else text]), len(text), {"Content-Type": "text/plain"})
        if kind == "delta" or vm.on:
            return Answer(500)
        if len(disk.files) > 1 or disk.volume.chained:
            return Answer(403)
        return self._flat(vm, disk, wanted, head)

    def _flat(self, vm: LabVM, disk: Disk, wanted: str, head: bool) -> Answer:
        size = disk.capacity
        headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        span = _span(wanted, size)
        if span is None:
            start, end, status = 0, size, 200
        elif span[0] >= span[1]:
            return Answer(416, headers={"Content-Range": f"bytes */{size}"})
        else:
            start, end, status = *span, 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        body: Iterable[bytes] = () if head else _read(vm, disk, start, end)
        return Answer(status, body, end - start, headers)

    def _find(self, target: str) -> tuple[LabVM, Disk, str] | None:
        parts = urlsplit(target)
        query = parse_qs(parts.query)
        path = unquote(parts.path.removeprefix("/folder/"))
        if query.get("dcPath", [""])[0].strip("/") != self.state.datacenter_name:
            return None
        match = re.fullmatch(r"(.+?)(-\d{6})?(-flat|-delta|-sesparse)?\.vmdk", path)
        if match is None:
            return None
        kind = "delta" if match[2] else "flat" if match[3] == "-flat" else "descriptor"
        store = query.get("dsName", [""])[0]
        with self.state.world.lock:
            for vm in self.state.vms.values():
                for disk in vm.disks:
                    if disk.stem == match[1] and disk.datastore.value("name") == store and not disk.rdm:
                        return vm, disk, kind
        return None


def _span(wanted: str, size: int) -> tuple[int, int] | None:
    """Start and end of a Range header, None where there is none that we understand (the whole file then)."""
    match = _RANGE.fullmatch(wanted.strip())
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        return max(0, size - int(match[2])), size
    return int(match[1]), min(size, int(match[2]) + 1 if match[2] else size)


def _read(vm: LabVM, disk: Disk, start: int, end: int) -> Iterator[bytes]:
    for at in range(start, end, PIECE):
        if vm.on:
            raise Dropped
        yield disk.volume.read(at, min(PIECE, end - at))


def _descriptor(disk: Disk) -> str:
    stem = disk.stem.rpartition("/")[2]
    return (
        '# Disk DescriptorFile\nversion=1\nencoding="UTF-8"\nCID=fffffffe\nparentCID=ffffffff\n'
        f'createType="vmfs"\n\n# Extent description\nRW {disk.capacity // 512} VMFS "{stem}-flat.vmdk"\n\n'
        f'# The Disk Data Base\n#DDB\n\nddb.adapterType = "lsilogic"\nddb.uuid = "{disk.uuid}"\n'
    )
