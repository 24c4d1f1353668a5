"""Own snapshots of a VM: read, made, removed; users' ones are counted and never touched.

Called by the source. An own snapshot is found by its name, which the caller makes unique to migration, VM and round. Whether
it was quiesced stands in its description, because the platform's own flag says what was asked and not what was got.
"""

import re
from collections.abc import Iterable
from typing import Any

from tranship.errors import Busy, NotFound, Refused, Side
from tranship.inventory.vm import VM, Power
from tranship.migration.seen import Snapshot, SourceDisk, SourceSeen
from tranship.providers.vsphere.client import Client
from tranship.providers.vsphere.disks import LiveDisk, live_disks, tracked
from tranship.providers.vsphere.sdk import collector, vim

POWER = {"poweredOn": Power.ON, "poweredOff": Power.OFF, "suspended": Power.SUSPENDED, "": Power.UNKNOWN}
OWN = "tranship-"
BUDGET = 28  # of the platform's 31; documents of others say 28 or 32
_QUIESCED = "tranship: quiesced"
_CRASH_CONSISTENT = "tranship: crash-consistent"
_QUIESCE_FAULTS = (
    "ApplicationQuiesceFault",
    "FilesystemQuiesceFault",
    "QuiesceDatastoreIOForHAFailed",
    "ToolsUnavailable",
)
_CREATE_WITHIN, _REMOVE_WITHIN = 900.0, 600.0  # seconds

_LOOK = (
    "config.instanceUuid",
    "config.hardware.device",
    "config.extraConfig",
    "config.changeTrackingEnabled",
    "runtime.powerState",
    "runtime.consolidationNeeded",
    "guest.toolsRunningStatus",
    "snapshot",
)


def tree(snapshot: Any) -> Iterable[Any]:
    """Every node of a VM's snapshot tree, parents first."""
    pending = list(snapshot.rootSnapshotList) if snapshot else []
    while pending:
        node = pending.pop(0)
        yield node
        pending = list(node.childSnapshotList or ()) + pending


def checked(client: Client, vm: VM, paths: Iterable[str]) -> dict[str, Any]:
    """Properties of the VM, read now. Raises NotFound, and Refused when the id belongs to another machine meanwhile:
    no call that changes anything is made before this."""
    return _checked(vm, client.properties(vm.id, vim.VirtualMachine, list({"config.instanceUuid", *paths})))


def _checked(vm: VM, said: dict[str, Any]) -> dict[str, Any]:
    actual = said.get("config.instanceUuid", "")
    if not vm.instance_uuid or actual != vm.instance_uuid:
        detail = f"{vm.id} has instance uuid {actual or 'unknown'}, the inventory says {vm.instance_uuid or 'nothing'}"
        raise Refused(detail, what=f"VM {vm.name}", fault="AnotherMachine", side=Side.SOURCE)
    return said


def _with_tasks(client: Client, vm: VM, paths: Iterable[str]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Properties of the VM and the names of its tasks that have not ended, in one call."""
    follow = collector.TraversalSpec(type=vim.VirtualMachine, path="recentTask", skip=False)
    wanted = {vim.VirtualMachine: list({"config.instanceUuid", *paths}), vim.Task: ["info.state", "info.descriptionId"]}
    found = client.retrieve(vm.id, vim.VirtualMachine, wanted, [follow])
    said = next((said for item, said in found if item._moId == vm.id), {})
    tasks = [(item, task) for item, task in found if isinstance(item, vim.Task)]
    return _checked(vm, said), tuple(
        str(task.get("info.descriptionId") or item._moId)
        for item, task in tasks
        if str(task.get("info.state")) in ("running", "queued")
    )


def look(client: Client, vm: VM) -> SourceSeen:
    """The VM as it is now: one call, and one more for each own snapshot (their configurations hold the changeIds)."""
    said, tasks = _with_tasks(client, vm, _LOOK)
    disks = live_disks(said.get("config.hardware.device", ())).values()
    on = tracked(disks, said.get("config.extraConfig", ())) if said.get("config.changeTrackingEnabled") else set()
    return SourceSeen(
        power=POWER[str(said.get("runtime.powerState", ""))],
        snapshots=tuple(_snapshot(client, node) for node in tree(said.get("snapshot"))),
        disks=tuple(SourceDisk(disk.key, disk.capacity, disk.backing_uuid, disk.key in on) for disk in disks),
        consolidation_needed=bool(said.get("runtime.consolidationNeeded")),
        tools_running=said.get("guest.toolsRunningStatus") == "guestToolsRunning",
        tasks=tasks,
    )


def _snapshot(client: Client, node: Any) -> Snapshot:
    moid = node.snapshot._moId
    if not node.name.startswith(OWN):
        return Snapshot(id=moid, name=node.name)
    quiesced = (node.description or "").startswith(_QUIESCED)
    return Snapshot(moid, node.name, {disk.key: disk.change_id for disk in frozen(client, moid).values()}, quiesced)


def frozen(client: Client, snapshot: str) -> dict[str, LiveDisk]:
    """The disks as the snapshot holds them: backing files and changeIds of that moment."""
    said = client.properties(snapshot, vim.vm.Snapshot, ["config.hardware.device"])
    return live_disks(said.get("config.hardware.device", ()))


# -- making and removing --------------------------------------------------------------------------------------------------


def create(client: Client, vm: VM, name: str, *, quiesce: bool) -> None:
    """Adopts one of that name. A guest that cannot be quiesced gets a crash-consistent snapshot that says so."""
    _own(name)
    said = checked(client, vm, ("snapshot", "runtime.powerState", "guest.toolsRunningStatus"))
    existing = list(tree(said.get("snapshot")))
    if any(node.name == name for node in existing):
        return
    if len(existing) >= BUDGET:
        raise Refused(
            f"the VM has {len(existing)} snapshots already, {BUDGET} are the most",
            what=f"a snapshot of {vm.name}",
            fault="SnapshotBudget",
            side=Side.SOURCE,
            remedy="Remove snapshots of the VM.",
        )
    running = str(said.get("runtime.powerState")) == "poweredOn"
    tools = said.get("guest.toolsRunningStatus") == "guestToolsRunning"
    if quiesce and running and tools:
        try:
            _create(client, vm, name, _QUIESCED, quiesce=True)
            return
        except Refused as error:
            if error.fault not in _QUIESCE_FAULTS:
                raise
            why = error.fault
    else:
        why = "" if not quiesce else "Tools are not running" if running else "powered off"
    _create(client, vm, name, f"{_CRASH_CONSISTENT} ({why})" if why else _CRASH_CONSISTENT, quiesce=False)


def _create(client: Client, vm: VM, name: str, description: str, *, quiesce: bool) -> None:
    handle = client.object(vim.VirtualMachine, vm.id)
    what = f"snapshot {name} of {vm.name}"
    client.run(what, lambda: handle.CreateSnapshot(name, description, False, quiesce), _CREATE_WITHIN)
    if not _named(client, vm, name):  # the task was forgotten by the server: it may still come
        raise Busy("its task is gone and it is not there", what=what, fault="TaskGone", side=Side.SOURCE)


def remove(client: Client, vm: VM, name: str) -> None:
    """Returns when it is gone. Its children, and all others, stay. Raises TimedOut or Busy (temporary): call again."""
    _own(name)
    for node in _named(client, vm, name):
        _remove(client, vm, name, node.snapshot._moId)
    _, tasks = _with_tasks(client, vm, ())
    if any("consolidate" in task.lower() or {"remove", "snapshot"} <= set(_words(task)) for task in tasks):
        raise Busy(
            "its disks are being consolidated", what=f"snapshot {name}", fault="TaskInProgress", side=Side.SOURCE
        )


def _remove(client: Client, vm: VM, name: str, moid: str) -> None:
    what, handle = f"removing snapshot {name} of {vm.name}", client.object(vim.vm.Snapshot, moid)
    try:
        client.run(what, lambda: handle.Remove(False, True), _REMOVE_WITHIN)
    except NotFound:
        return
    if any(left.snapshot._moId == moid for left in _named(client, vm, name)):
        raise Busy("its task is gone and it is still there", what=what, fault="TaskGone", side=Side.SOURCE)


def _words(task: str) -> list[str]:
    """`vm.Snapshot.removeSnapshot` in lower-case words."""
    return re.findall(r"[a-z]+", re.sub(r"([A-Z])", r" \1", task).lower())


def consolidate(client: Client, vm: VM) -> None:
    if not checked(client, vm, ("runtime.consolidationNeeded",)).get("runtime.consolidationNeeded"):
        return
    handle = client.object(vim.VirtualMachine, vm.id)
    client.run(f"consolidating the disks of {vm.name}", handle.ConsolidateDisks, _REMOVE_WITHIN)


def enable_change_tracking(client: Client, vm: VM, name: str) -> None:
    """Switch it on for the VM and each disk, then stun the VM by a snapshot that comes and goes: only that activates it."""
    _own(name)
    said = checked(client, vm, _LOOK)
    foreign = [node.name for node in tree(said.get("snapshot")) if node.name != name]
    if foreign:
        detail = f"the VM has snapshots ({', '.join(foreign[:3])}), and the platform wants none"
        raise Refused(detail, what=f"change tracking of {vm.name}", fault="HasSnapshots", side=Side.SOURCE)
    disks = live_disks(said.get("config.hardware.device", ())).values()
    on = tracked(disks, said.get("config.extraConfig", ()))
    lacking = [disk for disk in disks if disk.key not in on]
    enabled = bool(said.get("config.changeTrackingEnabled"))
    if lacking or not enabled:
        # The VM's flag sets those of its disks; one that is off beside it has been set by hand.
        flags = [vim.option.OptionValue(key=f"{disk.place}.ctkEnabled", value="TRUE") for disk in lacking if enabled]
        spec = vim.vm.ConfigSpec(changeTrackingEnabled=True, extraConfig=flags)
        handle = client.object(vim.VirtualMachine, vm.id)
        client.run(f"change tracking of {vm.name}", lambda: handle.Reconfigure(spec), _CREATE_WITHIN)
    create(client, vm, name, quiesce=False)
    remove(client, vm, name)


def _named(client: Client, vm: VM, name: str) -> list[Any]:
    return [node for node in tree(checked(client, vm, ("snapshot",)).get("snapshot")) if node.name == name]


def required(client: Client, vm: VM, name: str) -> Any:
    """The own snapshot of that name. Raises NotFound."""
    nodes = _named(client, vm, name)
    if not nodes:
        raise NotFound(f" on VM {vm.name}", what="snapshot", name=name, side=Side.SOURCE)
    return nodes[0].snapshot


def _own(name: str) -> None:
    if not name.startswith(OWN):
        raise Refused(f"own ones begin with {OWN!r}", what=f"touching snapshot {name!r}", fault="NotOurs")
