"""Export leases (HttpNfcLease): disks as streams. One lease per VM and round, shared by all its disks.

Called by the source. A lease belongs to the session that opened it and dies 300 s after the last sign of life, so it is
opened in the session that is lent for the round, with which a restarted controller finds it again.
"""

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from tranship.errors import Busy, NotFound, Refused, Side, TimedOut, Unsupported
from tranship.providers.vsphere.client import Client
from tranship.providers.vsphere.disks import LiveDisk
from tranship.providers.vsphere.faults import explain
from tranship.providers.vsphere.sdk import vim

_READY_WITHIN = 120.0  # seconds; the host opens all disks before it is ready
_ENDED = ("ManagedObjectNotFound", "InvalidState", "Timedout")
_PLACE = re.compile(r"/[^/]*?(NVME|IDE|AHCI|SATA|SCSI|Lsi[A-Za-z]*|Bus)[A-Za-z]*?(\d+):(\d+)$")
_BUSES = {"NVME": "nvme", "IDE": "ide", "AHCI": "sata", "SATA": "sata"}


@dataclass(frozen=True, slots=True)
class Stream:
    """local: the vCenter itself serves it. thumbprint: SHA-1 of the host that does otherwise."""

    url: str
    local: bool
    thumbprint: str = ""


def open_lease(
    client: Client, moid: str, snapshot: str, disks: Iterable[LiveDisk], before: str = ""
) -> tuple[str, Mapping[str, Stream]]:
    """Export the snapshot, or the powered-off VM when there is none. Lease id, and a stream for each disk's key.
    before: the lease of an earlier try. It offers all disks, and while it lives vCenter refuses another."""
    if before and (info := _living(client, before)) is not None:
        return before, streams(info, client.netloc, disks)
    if snapshot:
        exporter = client.object(vim.vm.Snapshot, snapshot).ExportSnapshot
    else:
        exporter = client.object(vim.VirtualMachine, moid).ExportVm
    lease = client.call(f"export {moid}", exporter)._moId
    try:
        return lease, streams(_ready(client, lease), client.netloc, disks)
    except BaseException:
        close_lease(client, lease)
        raise


def _living(client: Client, lease: str) -> Any:
    """What a lease offers; None when it has ended."""
    try:
        said = client.properties(lease, vim.HttpNfcLease, ["state", "info"])
    except NotFound:
        return None
    return said["info"] if str(said.get("state", "")) == "ready" else None


def _ready(client: Client, lease: str) -> Any:
    deadline, pause = time.monotonic() + _READY_WITHIN, 0.05
    while time.monotonic() < deadline:
        said = client.properties(lease, vim.HttpNfcLease, ["state", "error", "info"])
        match str(said.get("state", "")):
            case "ready":
                return said["info"]
            case "error":
                raise explain(said.get("error"), "export", address=client.netloc)
            case "done":
                raise Refused("it ended at once", what="export", fault="LeaseDone", side=Side.SOURCE)
        time.sleep(pause)
        pause = min(pause * 1.5, 1.0)
    raise TimedOut(what="an export lease", seconds=_READY_WITHIN, side=Side.SOURCE)


def streams(info: Any, netloc: str, disks: Iterable[LiveDisk]) -> dict[str, Stream]:
    """Which of the lease's URLs is which disk. A guess could copy one disk over another: what does not fit is an error.
    netloc: `host:port` that we talk to, which a host named `*` means."""
    offered = [device for device in info.deviceUrl if getattr(device, "disk", True) is not False]
    found: dict[str, Stream] = {}
    for disk in disks:
        fitting = [device for device in offered if _is(device.key or "", disk)]
        if len(fitting) != 1:
            keys = ", ".join(str(device.key) for device in offered)
            detail = f"the lease offers {keys or 'no disk'}, and {len(fitting)} of that fit"
            raise Unsupported(detail, what=f"exporting disk {disk.label or disk.key}", side=Side.SOURCE)
        parts = urlsplit(fitting[0].url)
        local = parts.hostname in ("*", urlsplit(f"//{netloc}").hostname)
        found[disk.key] = Stream(
            url=urlunsplit(parts._replace(netloc=netloc)) if parts.netloc == "*" else fitting[0].url,
            local=local,
            thumbprint="" if local else fitting[0].sslThumbprint or "",
        )
    return found


def _is(key: str, disk: LiveDisk) -> bool:
    """The lease names a disk by its place, `/vm-42/VirtualLsiLogicController0:1`, or by its device key."""
    if key.rpartition("/")[2] == disk.key:
        return True
    place = _PLACE.search(key)
    if not place:
        return False
    bus = _BUSES.get(place[1], "scsi")
    return (bus, int(place[2]), int(place[3])) == (disk.bus, disk.controller, disk.unit)


def keep_lease(client: Client, lease: str) -> None:
    """A sign of life. A lease that is gone or ended is none of our trouble here: its readers notice."""
    try:
        client.call("keep an export", lambda: client.object(vim.HttpNfcLease, lease).Progress(50))
    except (NotFound, Refused, Busy) as error:
        if error.fault not in _ENDED:
            raise


def close_lease(client: Client, lease: str) -> None:
    handle = client.object(vim.HttpNfcLease, lease)
    try:
        client.call("end an export", handle.Complete)
    except (NotFound, Refused, Busy) as error:
        if error.fault not in _ENDED:
            raise
        client.quietly(handle.Abort)
