"""Which way each disk goes, and what has none."""

from typing import Any

import pytest

from tranship.errors import Busy, Unsupported
from tranship.inventory.vm import VM, Disk
from tranship.providers.base import DiskWay
from tranship.providers.ovirt import ways

GOOD: dict[str, Any] = {
    "status": "ok",
    "storage_type": "image",
    "format": "cow",
    "backup": "incremental",
    "active": True,
}


def machine(*disks: dict[str, Any], engine: tuple[int, ...] = (4, 5, 6), level: tuple[int, ...] = (4, 6)) -> VM:
    said = {f"d{number}": {**GOOD, **disk} for number, disk in enumerate(disks or ({},))}
    return VM(
        id="v1",
        name="web",
        disks=tuple(
            Disk(
                key=key,
                label=f"web_{key}",
                path="",
                datastore="s1",
                capacity=1 << 30,
                bus="virtio",
                shared=bool(facts.get("shareable")),
            )
            for key, facts in said.items()
        ),
        traits={"engine": engine, "cluster_level": level, "disks": said},
    )


def chosen(vm: VM, *, warm: bool = True) -> DiskWay:
    found = ways.choose(vm, warm=warm)
    assert len({(one.way, one.why) for one in found}) == 1
    assert [one.disk for one in found] == [disk.key for disk in vm.disks]
    return found[0]


def test_cold_reads_the_disk_itself() -> None:
    assert chosen(machine({}, {"format": "raw", "backup": "none"}), warm=False).way == "imageio"


def test_warm_by_backup_where_every_disk_can() -> None:
    vm = machine({}, {})
    assert chosen(vm).way == "backup"
    assert ways.by_backup(vm)


@pytest.mark.parametrize(
    ("vm", "why"),
    [
        (machine({}, {"backup": "none"}), "incremental backup is off for disk web_d1"),
        (machine({"format": "raw"}), "disk web_d0 is not in the qcow2 format"),
        (machine({"active": False}), "disk web_d0 is not active"),
        (machine(engine=(4, 3, 10)), "the Engine is 4.3.10"),
        (machine(level=(4, 4)), "the cluster's level is 4.4"),
        (machine(level=()), "the cluster's level is not known"),
    ],
)
def test_else_all_disks_by_snapshot(vm: VM, why: str) -> None:
    way = chosen(vm)
    assert way.way == "snapshot"
    assert why in way.why
    assert not ways.by_backup(vm)


@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"storage_type": "lun"}, "a LUN"),
        ({"storage_type": "cinder"}, "type cinder"),
        ({"storage_type": ""}, "no known kind"),
        ({"status": "illegal"}, "illegal"),
    ],
)
def test_a_disk_without_a_way_is_named(facts: dict[str, Any], why: str, warm: bool) -> None:
    with pytest.raises(Unsupported, match=why) as caught:
        ways.choose(machine({}, facts), warm=warm)
    assert "web_d1" in str(caught.value)
    assert caught.value.suggestion


def test_a_locked_disk_has_to_wait() -> None:
    with pytest.raises(Busy, match="web_d0") as caught:
        ways.choose(machine({"status": "locked"}), warm=False)
    assert caught.value.temporary


def test_a_shareable_disk_goes_cold_only() -> None:
    vm = machine({"shareable": True})
    assert chosen(vm, warm=False).way == "imageio"
    with pytest.raises(Unsupported, match="shareable"):
        ways.choose(vm, warm=True)
