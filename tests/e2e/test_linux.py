"""A real Linux that writes and fsyncs files throughout is moved warm: the file system is sound and every file whole.

Debian's kernel with a busybox initramfs, ext4 on the moved disk (tranship.lab.guest.linux). The kernel comes from apt once and
stays in TRANSHIP_CACHE where that is set; where apt cannot supply it the test is skipped, but never in CI.
"""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from tranship.errors import ToolFailed, ToolMissing
from tranship.lab.guest import Report
from tranship.lab.guest.linux import fetch_kernel, format_disk, inspect_files, linux_boot
from tranship.lab.vsphere.machine import LabVM
from tranship.resources.migration import Migration

MIB = 1 << 20
BOOT = 60  # seconds, emulated


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = os.environ.get("TRANSHIP_CACHE")
    cache = Path(home) if home else tmp_path_factory.mktemp("cache")
    try:
        fetch_kernel(cache)
    except (ToolMissing, ToolFailed) as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no Debian kernel to be had here: {error}")
    return cache


def linux(site: Any, cache: Path) -> LabVM:
    blank = bytes(64 * MIB)
    boot = linux_boot(cache, pause=0.05)
    vm: LabVM = site.lab.add_vm("linux", [blank], guest=True, cbt=True, memory=192, qemu=boot)
    format_disk(vm.volumes[0])
    site.lab.power.switch_on(vm)
    return vm


async def move(site: Any, vm: LabVM) -> Migration:
    assert vm.guest is not None
    await asyncio.to_thread(vm.guest.wait_number, 20, BOOT)
    async with site.app() as app:
        plan = site.plan(vm, warm=True, targetPowerState="off")
        await site.apply(app, *site.providers(vddk=True), plan)
        await site.ready(app)
        await site.start(app)
        await site.precopied(app, 3)
        await asyncio.to_thread(vm.guest.wait_number, vm.guest.last + 5, BOOT)
        await site.cut_over(app)
        return await site.ended(app)  # type: ignore[no-any-return]


def test_every_file_that_linux_fsynced_is_whole_on_the_target(
    site: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site.lab, "cbt_page", 50)
    vm = linux(site, cache)
    run = asyncio.run(move(site, vm))
    (status,) = run.status.vms
    assert status.outcome == "succeeded", status.error
    assert status.warm is not None
    assert len(status.warm.precopies) >= 4
    assert vm.guest is not None
    last = int(vm.guest.wait_line(r"TRANSHIP BYE last=(\d+)", 10)[1])
    assert site.target(vm) == vm.read()
    assert inspect_files(site.target_path(vm)) == Report(last, last, 0)  # e2fsck is in it
    assert vm.snapshots == []
    assert vm.power_causes() == ["on", "guest-shutdown"]
