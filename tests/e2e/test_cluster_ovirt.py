"""oVirt into a genuine cluster: pods read from the genuine imageio daemon, one disk into a block device and one into a file."""

import asyncio
from typing import Any

import pytest

from tranship.app import App

from .conftest import MIB
from .in_cluster import OvirtClusterSite, assert_moved

SIZE = 24 * MIB
WAYS = {"backup": True, "snapshot": False}  # way: whether the disks can be backed up by increments


def made(site: OvirtClusterSite, name: str, **options: Any) -> Any:
    return site.add_vm(name, SIZE, SIZE, storage=("data", "data2"), **options)


def test_cold(ovirt_cluster_site: OvirtClusterSite) -> None:
    site = ovirt_cluster_site
    vm = made(site, "ovirt-cold", running=True)
    (status,) = asyncio.run(site.move(vm, warm=False, deadline=120)).status.vms
    assert status.outcome == "succeeded", status.error
    assert [disk.way for disk in status.disks] == ["imageio", "imageio"]
    assert_moved(site, vm, SIZE)


@pytest.mark.parametrize("way", WAYS)
def test_warm(ovirt_cluster_site: OvirtClusterSite, way: str) -> None:
    """Two precopies, with changes before each and before the cutover."""
    site = ovirt_cluster_site
    vm = made(site, f"ovirt-{way}", running=True, incremental=WAYS[way])

    async def during(app: App) -> None:
        for number in (1, 2):
            await site.precopied(app, number, 120)
            for disk in (0, 1):
                await asyncio.to_thread(vm.write, number * 5 * MIB + 4096, bytes([number]) * 8192, disk)
        await site.cut_over(app)

    run = asyncio.run(site.move(vm, warm=True, cutover=None, during=during, deadline=180))
    (status,) = run.status.vms
    assert status.outcome == "succeeded", status.error
    assert [disk.way for disk in status.disks] == [way, way]
    assert status.warm is not None
    assert not any(one.full for one in status.warm.precopies)
    assert all((one.bytes or 0) < SIZE for one in status.warm.precopies[1:])
    assert_moved(site, vm, SIZE)
