"""Guests that write throughout are moved, and whatever they were told is written is found on the target.

The writing guest (tranship.lab.guest) makes the loss of a single record visible: from outside by `inspect`, and by its own
check when it boots on the target. Then: movers that are killed while they copy, and a target that loses what it was given.
"""

import asyncio
import json
import os
import re
import select
import signal
import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from tranship.lab.guest import Report, inspect, reader
from tranship.lab.vsphere.machine import LabVM
from tranship.providers.local import qemu
from tranship.providers.local.qmp import Monitor
from tranship.resources.vm import VMStatus

MIB = 1 << 20
SLOTS = 64  # of each disk: so few that records are overwritten while they are copied
CHECK = re.compile(r"TRANSHIP CHECK last=(\d+) valid=(\d+) bad=(\d+)")


@pytest.fixture(autouse=True)
def pages(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest changes hundreds of areas; pages of three are for smaller tests."""
    monkeypatch.setattr(site.lab, "cbt_page", 50)


def writing_guest(site: Any, name: str, *sizes: int, **options: Any) -> Any:
    return site.lab.add_vm(name, sizes, guest=True, running=True, memory=64, slots=SLOTS, **options)


async def move_warm(site: Any, vm: Any, *, precopies: int, power: str, **options: Any) -> VMStatus:
    """The cutover is asked for after that many precopies. options: of the provider."""
    assert vm.guest is not None
    await asyncio.to_thread(vm.guest.wait_number, 100, 30)
    async with site.app() as app:
        plan = site.plan(vm, warm=True, targetPowerState=power)
        await site.apply(app, *site.providers(**options), plan)
        await site.ready(app)
        await site.start(app)
        await site.precopied(app, precopies)
        # a record later than all of these precopies
        await asyncio.to_thread(vm.guest.wait_number, vm.guest.last + 20, 30)
        await site.cut_over(app)
        run = await site.ended(app)
    (status,) = run.status.vms
    assert status.outcome == "succeeded", status.error
    assert all(disk.verified and disk.digest for disk in status.disks)
    assert not (site.directory / "home" / "movers" / run.uid / site.id(vm)).exists()
    return status  # type: ignore[no-any-return]


def said_bye(vm: Any) -> int:
    assert vm.guest is not None
    return int(vm.guest.wait_line(r"TRANSHIP BYE last=(\d+)", 10)[1])


def assert_left_in_order(site: Any, vm: Any) -> None:
    site.assert_nothing_left(vm)
    assert [cause for cause in vm.power_causes() if cause != "on"] == ["guest-shutdown"]


def assert_nothing_lost(site: Any, vm: Any) -> None:
    last = said_bye(vm)
    disks = range(len(vm.disks))
    assert last > SLOTS * len(vm.disks), "the guest did not come round"
    for disk in disks:
        assert site.target(vm, disk) == vm.read(disk), f"disk {disk}"
    slots = SLOTS * len(vm.disks)
    assert inspect([reader(site.target_path(vm, disk)) for disk in disks]) == Report(last, min(last, slots), 0)


WAYS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {  # site, of the provider, of the VM
    "vddk": ("site", {"vddk": True}, {"cbt": True}),
    "backup": ("ovirt", {}, {}),
    "snapshot": ("ovirt", {}, {"incremental": False}),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_guest_that_writes_on_two_disks_loses_nothing_in_three_precopies(
    request: pytest.FixtureRequest, way: str
) -> None:
    fixture, options, made = WAYS[way]
    site = request.getfixturevalue(fixture)
    vm = writing_guest(site, f"two-disks-{way}", 64 * MIB, 32 * MIB, **made)
    status = asyncio.run(move_warm(site, vm, precopies=3, power="off", **options))
    assert status.warm is not None
    rounds = status.warm.precopies
    assert len(rounds) >= 4  # and the final one
    assert all(one.bytes and not one.full for one in rounds)
    assert {disk.way for disk in status.disks} == {way}
    assert not (site.home(vm) / "serial.log").exists()
    assert_nothing_lost(site, vm)
    assert_left_in_order(site, vm)


def test_a_guest_that_writes_on_two_disks_loses_nothing_without_vddk(site: Any) -> None:
    vm = writing_guest(site, "without-vddk", 48 * MIB, 32 * MIB, cbt=True)
    site.lab.faults.add("GET /nfc", drop_after=100_000)  # one stream breaks off while the other is read
    before = site.lab.faults.count("GET /nfc")
    status = asyncio.run(move_warm(site, vm, precopies=1, power="off", vddk=False))
    assert status.warm is not None
    full, final = status.warm.precopies
    assert full.bytes and final.bytes and not final.full
    assert {disk.way for disk in status.disks} == {"nfc"}
    assert site.lab.faults.count("ExportSnapshot", vm.name) == 1
    assert site.lab.faults.count("GET /nfc") - before == 3
    assert_nothing_lost(site, vm)
    assert_left_in_order(site, vm)


def test_the_moved_guest_finds_all_its_records_when_it_boots(site: Any) -> None:
    vm = writing_guest(site, "boots", 32 * MIB, 16 * MIB, cbt=True)
    status = asyncio.run(move_warm(site, vm, precopies=1, power="auto", vddk=True))
    home = site.home(vm)
    found = asyncio.run(site.eventually("check of the moved guest", lambda: printed(home, CHECK)))
    last = said_bye(vm)
    assert [int(word) for word in found.groups()] == [last, min(last, 2 * SLOTS), 0]
    assert status.cutover is not None
    assert status.cutover.downtime_seconds

    pid = qemu.running(home)
    arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    macs = [word for argument in arguments for word in argument.split(",") if word.startswith("mac=")]
    assert macs == [f"mac={nic.mac}" for nic in vm.nics]

    stop_by_its_console(home)
    further = int(printed(home, re.compile(r"BYE last=(\d+)"))[1])
    slots = min(further, 2 * SLOTS)
    assert inspect([reader(site.target_path(vm, disk)) for disk in (0, 1)]) == Report(further, slots, 0)
    assert_left_in_order(site, vm)


def printed(home: Path, pattern: re.Pattern[str]) -> Any:
    log = home / "serial.log"
    return pattern.search(log.read_text(errors="replace")) if log.exists() else None


def stop_by_its_console(home: Path) -> None:
    """`q` is what the guest takes for a shutdown."""
    pid = qemu.running(home)
    assert pid is not None
    process = os.pidfd_open(pid)
    directory = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with closing(socket.socket(socket.AF_UNIX)) as console:
            console.connect(f"/proc/self/fd/{directory}/serial.sock")  # a path of any length
            console.sendall(b"q")
            assert select.select([process], [], [], 30)[0], "the guest did not end"
    finally:
        os.close(directory)
        os.close(process)
    assert qemu.running(home) is None


async def move_cold(site: Any, vm: LabVM, power: str = "off") -> VMStatus:
    async with site.app() as app:
        await site.apply(app, *site.providers(vddk=False), site.plan(vm, warm=False, targetPowerState=power))
        await site.ready(app)
        await site.start(app)
        (status,) = (await site.ended(app)).status.vms
        return status  # type: ignore[no-any-return]


def test_a_uefi_machine_starts_with_uefi_firmware(site: Any) -> None:
    vm = site.add_vm("uefi", 4 * MIB, firmware="efi", memory=128)
    status = asyncio.run(move_cold(site, vm, "on"))
    assert status.outcome == "succeeded", status.error
    assert site.target(vm) == vm.read()
    home = site.home(vm)
    with Monitor(home / qemu.QMP_SOCKET) as monitor:
        assert monitor.ask("query-status")["status"] == "running"
    # what OVMF, and no BIOS, says of a disk without a boot loader
    asyncio.run(site.eventually("word of the firmware", lambda: printed(home, re.compile("BdsDxe: "))))
    qemu.stop(home, 0)
    assert qemu.running(home) is None


# -- the movers -------------------------------------------------------------------------------------------------------


def slow_source(site: Any, vm: LabVM, seconds: float) -> None:
    """As over a long line: without it there would be no time to do anything to a copy."""
    site.lab.faults.add("GET /folder", vm=vm.name, count=0, delay=seconds)


def progress(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "progress.json").read_bytes())  # type: ignore[no-any-return]
    except FileNotFoundError:
        return {}


async def kill_mover(site: Any, done: int) -> dict[str, Any]:
    """SIGKILL it as soon as it tells that so many bytes are done, and its journal names some. What it told last."""
    folder: Path = await site.eventually(
        "mover", lambda: next((site.directory / "home" / "movers").glob("*/*/*/round-*"), None)
    )
    journal = folder.parent / "state" / "journal"
    told: dict[str, Any] = {}

    def due() -> bool:
        told.update(progress(folder))
        far = bool(told) and told["done"] >= done and (not done or b'"done"' in journal.read_bytes())
        return far and bool((folder / "lock").read_text())

    await site.eventually(f"mover with {done} bytes done", due)
    process = os.pidfd_open(int((folder / "lock").read_text()))
    signal.pidfd_send_signal(process, signal.SIGKILL)
    assert (await asyncio.to_thread(select.select, [process], [], [], 10))[0]
    os.close(process)
    (folder / "progress.json").unlink()  # the next mover's is awaited
    return told


def test_a_mover_that_is_killed_again_and_again_goes_on_where_it_was(site: Any) -> None:
    vm = site.add_vm("killed", 256 * MIB)
    slow_source(site, vm, 0.2)

    async def run() -> VMStatus:
        moved = asyncio.create_task(move_cold(site, vm))
        for done in (0, 64 * MIB, 128 * MIB):
            told = await kill_mover(site, done)
        assert 0 < told["read"] < told["done"], "the last one did not go on where the one before was"
        return await moved

    status = asyncio.run(run())
    assert status.outcome == "succeeded", status.error
    content = vm.read()
    assert site.target(vm) == content
    assert status.disks[0].verified
    assert status.disks[0].digest == root_digest(content)


def root_digest(content: bytes) -> str:
    """What a disk's digest is: blake3 over the blake3 of each 4 MiB."""
    leaves = [blake3(content[at : at + 4 * MIB]).digest() for at in range(0, len(content), 4 * MIB)]
    return blake3(b"".join(leaves)).hexdigest()


def test_a_byte_that_the_target_loses_is_found_and_named(site: Any) -> None:
    vm = site.add_vm("flipped", 64 * MIB)
    slow_source(site, vm, 0.4)
    offset = 4 * MIB + 4711
    path = site.target_path(vm)

    def arrived() -> Any:
        return path.exists() and path.read_bytes()[4 * MIB : 8 * MIB] == content[4 * MIB : 8 * MIB]

    async def run() -> VMStatus:
        moved = asyncio.create_task(move_cold(site, vm))
        await site.eventually("second leaf", arrived)
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(bytes([content[offset] ^ 1]))
        return await moved

    content = vm.read()
    status = asyncio.run(run())
    assert status.outcome == "failed"
    assert status.error is not None
    reasons = " ".join(status.error.reasons)
    assert f"disk {status.disks[0].id} differs from its source at offset {4 * MIB}, {4 * MIB} bytes" in reasons
    assert not any(disk.verified for disk in status.disks)
    assert not path.exists()
