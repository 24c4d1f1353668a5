"""A real guest behind the simulated vCenter: it boots, writes, is snapshotted while it writes, and shuts down."""

import ctypes
from typing import Any

from pyVmomi import vim

from tranship.lab.guest.records import inspect, reader
from tranship.lab.vsphere import VCenter

MIB = 1 << 20


def test_guest_writes_through_power_and_snapshots(center: VCenter, client: Any) -> None:
    vm = center.add_vm("writer", [8 * MIB, 8 * MIB], guest=True, cbt=True, memory=64, rate=500, slots=64)
    client.wait(client.vm(vm).PowerOnVM_Task())
    guest = vm.guest
    assert guest is not None
    guest.wait_number(20, 60)
    snapshot = client.snapshot(vm, "one")
    frozen = [reader(volume, snapshot._moId) for volume in vm.volumes]
    report = inspect(frozen)
    assert report.last >= 20 and report.bad == 0
    guest.wait_number(report.last + 50, 60)
    assert inspect(frozen) == report
    page = client.vm(vm).QueryChangedDiskAreas(client.snapshot(vm, "two"), 2000, 0, client.change_ids(snapshot)[2000])
    assert page.changedArea
    client.wait(client.vm(vm).RemoveAllSnapshots_Task())
    client.vm(vm).ShutdownGuest()
    with center.world.changed:
        assert center.world.changed.wait_for(lambda: not vm.on, 60)
    after = inspect([reader(volume) for volume in vm.volumes])
    assert after.bad == 0 and after.last == guest.last
    assert vm.power_causes() == ["on", "guest-shutdown"]


def test_hard_power_off_kills_the_guest(center: VCenter, client: Any) -> None:
    vm = center.add_vm("writer", [8 * MIB], guest=True, memory=64, slots=64, running=True)
    guest = vm.guest
    assert guest is not None
    guest.wait_number(5, 60)
    client.wait(client.vm(vm).PowerOffVM_Task())
    assert not guest.running and vm.power_causes() == ["on", "hard-off"]
    client.wait(client.vm(vm).PowerOnVM_Task())
    assert vm.guest is not guest and vm.guest is not None and vm.guest.running
    vm.guest.kill()
    with center.world.changed:
        assert center.world.changed.wait_for(lambda: not vm.on, 20)
    assert vm.power_causes()[-1] == "crash"


def test_library_is_built_and_finds_disks_of_snapshots(center: VCenter, client: Any) -> None:
    vm = center.add_vm("a", [b"one" * MIB], running=True)
    directory = center.vddk_directory
    assert ctypes.CDLL(str(directory / "lib64" / "libvixDiskLib.so")).VixDiskLib_InitEx
    one = client.snapshot(vm, "one")
    two = client.snapshot(vm, "two")
    find = center.blocks._find
    for snapshot in (one, two):
        disk = next(d for d in snapshot.config.hardware.device if isinstance(d, vim.vm.device.VirtualDisk))
        assert find(vm.moref, snapshot._moId, disk.backing.fileName) == (vm.volumes[0], snapshot._moId)
