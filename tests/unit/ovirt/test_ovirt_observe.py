"""What the source makes of the Engine's words: Engines as they were before, as they are, and in odd moments."""

import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tranship.errors import Busy, Unsupported
from tranship.inventory.vm import VM, Disk, Power
from tranship.migration.seen import SourceSeen
from tranship.providers.ovirt import observe
from tranship.providers.ovirt.backups import Backups
from tranship.providers.ovirt.client import Client
from tranship.providers.ovirt.transfers import INACTIVITY, Transfers, Wanted
from tranship.providers.ovirt.waits import Patience

ID = "0b9e7a52-6a5f-4c1e-9c39-5b1e2a1d7f00"
NAME = f"tranship-01234567-{ID}-2"
OWN = "01234567-0002-4abc-8def-7472616e7368"
PATIENCE = Patience(0.01)


def about(version: str) -> tuple[int, Any]:
    return 200, {"product_info": {"name": "oVirt Engine", "version": {"full_version": version}}}


@pytest.fixture
def vm() -> VM:
    disk = Disk(key="d1", label="web_Disk1", path="", datastore="s1", capacity=1 << 30, bus="virtio")
    return VM(id=ID, name="web", instance_uuid=ID, disks=(disk,))


@pytest.fixture
def look(engine: Any, client: Client, vm: VM) -> Callable[..., SourceSeen]:
    """Observe a VM of which this is said."""

    def look(version: str = "4.5.6", backups: Any = (), checkpoints: Any = (), **said: Any) -> SourceSeen:
        disk = {"id": "d1", "status": "ok", "alias": "web_Disk1", "storage_type": "image", "provisioned_size": "1024"}
        attachments = {"disk_attachment": [{"id": "d1", "disk": disk | said.pop("disk", {})}]}
        snapshots = {"snapshot": [{"id": "s9", "snapshot_type": "active", "date": "9"}, *said.pop("snapshots", [])]}
        whole = {"id": ID, "status": "up", "disk_attachments": attachments, "snapshots": snapshots, **said}
        engine.answers |= {
            ("GET", ""): about(version),
            ("GET", f"/vms/{ID}"): (200, whole),
            ("GET", f"/vms/{ID}/backups"): (200, {"backup": list(backups)}),
            ("GET", f"/vms/{ID}/checkpoints"): (200, {"checkpoint": list(checkpoints)}),
        }
        return observe.look(client, Backups(client, PATIENCE), vm)

    return look


def test_a_vm_at_rest(look: Callable[..., SourceSeen], engine: Any) -> None:
    seen = look(status="down", checkpoints=[{"id": "c1", "state": "created"}])
    assert (seen.power, seen.tools_running, seen.tasks, seen.snapshots) == (Power.OFF, False, (), ())
    assert [(disk.key, disk.capacity, disk.change_tracking) for disk in seen.disks] == [("d1", 1024, None)]
    assert seen.checkpoints == ("c1",)
    assert {"follow": ["disk_attachments.disk,snapshots"]} in [request.query for request in engine.requests]


@pytest.mark.parametrize(
    ("status", "power", "listening"),
    [
        ("up", Power.ON, True),
        ("powering_down", Power.ON, True),
        ("paused", Power.ON, False),
        ("suspended", Power.SUSPENDED, False),
        ("image_locked", Power.OFF, False),
        ("unknown", Power.UNKNOWN, False),
    ],
)
def test_power(look: Callable[..., SourceSeen], status: str, power: Power, listening: bool) -> None:
    seen = look(status=status)
    assert (seen.power, seen.tools_running) == (power, listening)
    assert bool(seen.tasks) is (status == "image_locked")


def test_an_engine_without_backups_is_not_asked_for_them(look: Callable[..., SourceSeen], engine: Any) -> None:
    assert look("4.3.11").checkpoints == ()
    assert engine.calls() == [f"/vms/{ID}", ""]


def test_snapshots_of_users_and_own_ones(look: Callable[..., SourceSeen]) -> None:
    said = [
        {"id": "s2", "description": f"tranship-01234567-{ID}-1", "snapshot_type": "regular", "date": "2"},
        {"id": "s1", "description": "mine", "snapshot_type": "regular", "snapshot_status": "ok", "date": "1"},
    ]
    seen = look(snapshots=said)
    assert [(one.id, dict(one.change_ids)) for one in seen.snapshots] == [("s1", {}), ("s2", {"d1": "s2"})]
    assert not any(one.blocks_power_on for one in seen.snapshots)


def test_a_preview_is_a_task(look: Callable[..., SourceSeen]) -> None:
    said = [
        {"id": "s1", "description": "mine", "snapshot_type": "regular", "snapshot_status": "in_preview", "date": "1"},
        {"id": "s2", "description": "Active VM before the preview", "snapshot_type": "preview", "date": "2"},
    ]
    seen = look(status="down", snapshots=said)
    assert [one.name for one in seen.snapshots] == ["mine"]
    assert len(seen.tasks) == 2


def test_an_own_backup_is_a_snapshot(look: Callable[..., SourceSeen]) -> None:
    """It locks its disks, which is no work to wait for."""
    backup = {"id": OWN, "phase": "ready", "to_checkpoint_id": "c2", "from_checkpoint_id": "c1"}
    seen = look(backups=[backup], disk={"status": "locked"})
    (made,) = seen.snapshots
    assert (made.id, made.name, made.checkpoint, made.blocks_power_on) == (OWN, NAME, "c2", True)
    assert made.change_ids == {"d1": "c2"}
    assert seen.tasks == ()


@pytest.mark.parametrize("phase", ["initializing", "starting", "finalizing"])
def test_an_own_backup_that_is_not_ready_is_a_task_too(look: Callable[..., SourceSeen], phase: str) -> None:
    seen = look(backups=[{"id": OWN, "phase": phase}])
    assert [one.name for one in seen.snapshots] == [NAME]
    assert seen.tasks == (f"backup {NAME} is {phase}",)


@pytest.mark.parametrize("phase", ["succeeded", "failed"])
def test_a_backup_that_is_over_is_nothing(look: Callable[..., SourceSeen], phase: str) -> None:
    assert look(backups=[{"id": OWN, "phase": phase}]).snapshots == ()


def test_the_snapshot_of_an_own_hybrid_backup_is_not_shown(look: Callable[..., SourceSeen]) -> None:
    temporary = {"id": "s5", "description": "Auto-generated for Backup VM", "snapshot_status": "locked", "date": "5"}
    for snapshot in ({"snapshot": {"id": "s5"}}, {}):
        seen = look(backups=[{"id": OWN, "phase": "ready", **snapshot}], snapshots=[temporary])
        assert [one.id for one in seen.snapshots] == [OWN]
        assert seen.tasks == ()


def test_what_was_left_of_a_hybrid_backup_bears_its_name(look: Callable[..., SourceSeen]) -> None:
    temporary = {"id": "s5", "description": "Auto-generated for Backup VM", "snapshot_status": "ok", "date": "5"}
    seen = look(backups=[{"id": OWN, "phase": "succeeded", "snapshot": {"id": "s5"}}], snapshots=[temporary])
    assert [(one.id, one.name) for one in seen.snapshots] == [("s5", NAME)]


def test_a_backup_of_others_is_a_task(look: Callable[..., SourceSeen]) -> None:
    seen = look(backups=[{"id": "b7", "phase": "ready", "description": "nightly"}], disk={"status": "locked"})
    assert seen.snapshots == ()
    assert seen.tasks == ("backup b7 of another tool", "disk web_Disk1 is locked")


def test_a_lun_has_a_size(look: Callable[..., SourceSeen]) -> None:
    lun = {"storage_type": "lun", "lun_storage": {"logical_units": {"logical_unit": [{"id": "u", "size": "4096"}]}}}
    assert look(disk=lun).disks[0].capacity == 4096


# -- Engines that say less -----------------------------------------------------------------------------------------------


def test_an_engine_that_gives_backups_its_own_ids(engine: Any, client: Client, vm: VM) -> None:
    """Such a backup could not be found again: it is ended at once."""
    phases = iter(["ready", "ready", "finalizing", "succeeded"])
    engine.answers |= {
        ("GET", ""): about("4.4.2"),
        ("GET", f"/vms/{ID}/backups"): (200, {}),
        ("POST", f"/vms/{ID}/backups"): (201, {"id": "b1", "phase": "initializing"}),
        ("GET", f"/vms/{ID}/backups/b1"): lambda _: (200, {"id": "b1", "phase": next(phases)}),
        ("POST", f"/vms/{ID}/backups/b1/finalize"): (200, {}),
    }
    with pytest.raises(Unsupported, match=r"4\.4\.2"):
        Backups(client, PATIENCE).create(vm, NAME, ["d1"], "")
    assert f"/vms/{ID}/backups/b1/finalize" in engine.calls("POST")


@pytest.fixture
def transfers(client: Client) -> Transfers:
    return Transfers(client, PATIENCE, lambda: {"insecure": "true"})


@pytest.fixture
def place() -> Iterator[str]:
    """Somebody listens there."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"https://127.0.0.1:{server.getsockname()[1]}/images/ticket"


def test_the_proxy_helps_where_hosts_cannot_be_reached(engine: Any, transfers: Transfers, place: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = f"https://127.0.0.1:{server.getsockname()[1]}/images/ticket"
    told: list[str] = []
    engine.answers |= {
        ("GET", "/imagetransfers"): (200, {}),
        ("POST", "/imagetransfers"): (201, {"id": "t1", "phase": "initializing"}),
        ("GET", "/imagetransfers/t1"): (200, {"phase": "transferring", "transfer_url": closed, "proxy_url": place}),
    }
    lent = transfers.lend(Wanted("d1", image="i1", shallow=True), "", told.append)
    assert (lent.url, lent.shallow, told) == (place, False, ["t1"])
    sent = json.loads(next(one.body for one in engine.requests if one.method == "POST" and "/api/" in one.path))
    assert sent == {
        "snapshot": {"id": "i1"},
        "shallow": "true",
        "direction": "download",
        "format": "raw",
        "inactivity_timeout": str(INACTIVITY),
        "timeout_policy": "cancel",
    }


def test_a_lost_one_of_which_too_little_is_told_is_ended(engine: Any, transfers: Transfers, place: str) -> None:
    phases = {"t0": "transferring", "t1": "transferring"}

    def shown(id: str) -> Any:
        said = {"id": id, "phase": phases[id], "image": {"id": "d1"}, "direction": "download", "transfer_url": place}
        return said | {"inactivity_timeout": str(INACTIVITY)}

    def finalize(_: Any) -> Any:
        phases["t0"] = "finished_success"
        return 200, {}

    engine.answers |= {
        ("GET", "/imagetransfers"): lambda _: (200, {"image_transfer": [shown("t0")]}),
        ("GET", "/imagetransfers/t0"): lambda _: (200, shown("t0")),
        ("POST", "/imagetransfers/t0/finalize"): finalize,
        ("POST", "/imagetransfers"): (201, {"id": "t1"}),
        ("GET", "/imagetransfers/t1"): lambda _: (200, shown("t1")),
    }
    assert transfers.lend(Wanted("d1", backup="b1"), "", lambda _: None).id == "t1"
    assert phases["t0"] == "finished_success"


def test_an_engine_that_forgets_what_is_over(engine: Any, transfers: Transfers) -> None:
    left = [200, 200]
    said = {"id": "t1", "phase": "transferring"}
    engine.answers |= {
        ("GET", "/imagetransfers/t1"): lambda _: (left.pop(), said) if left else (404, ""),
        ("POST", "/imagetransfers/t1/finalize"): (409, {"detail": "[it is busy]"}),
    }
    transfers.end("t1")
    transfers.end("t1")


def test_one_that_is_paused_for_good(engine: Any, transfers: Transfers) -> None:
    phases = ["paused_system"]

    def cancel(_: Any) -> Any:
        phases[0] = "finished_cleanup"
        return 200, {}

    def begin(_: Any) -> Any:
        phases[0] = "paused_system"
        return 201, {"id": "t1"}

    engine.answers |= {
        ("GET", "/imagetransfers"): (200, {}),
        ("POST", "/imagetransfers"): begin,
        ("GET", "/imagetransfers/t1"): lambda _: (200, {"id": "t1", "phase": phases[0]}),
        ("POST", "/imagetransfers/t1/cancel"): cancel,
    }
    with pytest.raises(Busy, match="paused_system"):
        transfers.lend(Wanted("d1"), "", lambda _: None)
    assert phases == ["finished_cleanup"]
