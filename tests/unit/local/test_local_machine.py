"""Machines of the local target, run by QEMU for real: start, type, shut down, kill, adopt."""

import contextlib
import os
import signal
import socket
import subprocess
import sys

import pytest

from tranship.errors import Busy, Invalid, NotFound, ToolFailed, ToolMissing, Unsupported
from tranship.inventory.vm import Power
from tranship.migration.mapping import DiskOrder, NicOrder
from tranship.migration.seen import MachineState
from tranship.providers.local import qemu
from tranship.providers.local.target import LocalTarget


@pytest.fixture
def prepare(target, install, disk_file, running_machines):
    """Disks, guest and machine of an order. Returns the machine's directory."""

    def make(order, *, stubborn=False):
        running_machines.append(order)
        target.create_disks(order)
        boot = next(disk.source for disk in order.disks if disk.boot)
        disk = disk_file(target, order, boot)
        install(disk, stubborn)
        target.create_machine(order)
        return target._home(order).path

    return make


def printed(home):
    log = home / "serial.log"
    return log.read_text(errors="replace") if log.exists() else ""


@pytest.mark.parametrize("bus", ["virtio", "scsi", "sata"])
def test_a_machine_boots_from_its_boot_disk_and_shuts_down(target, make_order, prepare, eventually, bus):
    """The boot disk is the second one: boot order counts, not position."""
    order = make_order(
        disks=(
            DiskOrder(source="2000", name="data", pool="default", size=1 << 20, bus=bus),
            DiskOrder(source="2001", name="system", pool="default", size=2 << 20, bus=bus, boot=1),
        )
    )
    home = prepare(order)
    assert target.observe(order).machine is MachineState.OFF
    target.start_machine(order)
    assert target.observe(order).machine is MachineState.RUNNING
    assert target.estate().vms["shop/web01"].power is Power.ON
    eventually(lambda: "guest is up" in printed(home))
    target.stop_machine(order)
    assert target.observe(order).machine is MachineState.OFF
    target.stop_machine(order)


def test_starting_twice_is_one_machine_and_two_lives_are_one_log(target, make_order, prepare, eventually):
    order = make_order()
    home = prepare(order)
    target.start_machine(order)
    pid = qemu.running(home)
    target.start_machine(order)
    LocalTarget(target._settings).start_machine(order)  # another controller, after a restart
    assert qemu.running(home) == pid
    with pytest.raises(Busy):
        target.delete_disks(order, ["2000"])
    eventually(lambda: "guest is up" in printed(home))
    target.stop_machine(order)
    target.start_machine(order)
    eventually(lambda: printed(home).count("guest is up") == 2)


def test_one_may_type_on_the_serial_port(target, make_order, prepare, eventually):
    order = make_order()
    home = prepare(order)
    target.start_machine(order)
    eventually(lambda: "guest is up" in printed(home))
    with contextlib.chdir(home), socket.socket(socket.AF_UNIX) as line:
        line.settimeout(10)
        line.connect("serial.sock")
        line.sendall(b"x")
        assert line.recv(1) == b"x"
    eventually(lambda: printed(home).endswith("x"))


def test_a_stubborn_guest_is_ended_after_the_deadline(settings, target, make_order, prepare, eventually):
    order = make_order()
    home = prepare(order, stubborn=True)
    target.start_machine(order)
    eventually(lambda: "guest is up" in printed(home))
    LocalTarget(settings | {"shutdownDeadline": "0.3"}).stop_machine(order)
    assert target.observe(order).machine is MachineState.OFF


def test_a_qemu_that_does_not_answer_is_killed(target, make_order, prepare, monkeypatch):
    order = make_order()
    home = prepare(order)
    target.start_machine(order)
    (home / "qmp.sock").unlink()
    target.delete_machine(order)
    assert target.observe(order).machine is MachineState.ABSENT


def test_a_crashed_machine_is_off_and_starts_again(target, make_order, prepare, eventually):
    order = make_order()
    home = prepare(order)
    target.start_machine(order)
    pid = qemu.running(home)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: target.observe(order).machine is MachineState.OFF)
    assert (home / "qemu.pid").exists()
    target.start_machine(order)
    assert target.observe(order).machine is MachineState.RUNNING


def test_a_pid_of_somebody_else_is_not_our_machine(target, make_order, prepare):
    order = make_order()
    home = prepare(order)
    (home / "qemu.pid").write_text(f"{os.getpid()}\n")
    assert target.observe(order).machine is MachineState.OFF
    target.stop_machine(order)  # and we are still alive


def test_a_machine_outlives_the_process_that_started_it(settings, target, make_order, prepare, eventually):
    order = make_order()
    home = prepare(order)
    script = (
        "import os, sys, pathlib, json\n"
        "from tranship.providers.local import qemu\n"
        "from tranship.providers.local.acceleration import Accelerator\n"
        "home = pathlib.Path(sys.argv[1])\n"
        "qemu.start(home, json.loads((home / 'machine.json').read_text())['arguments'], Accelerator('tcg', ''))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(home)], timeout=60, start_new_session=True)
    assert done.returncode == -signal.SIGKILL
    assert target.observe(order).machine is MachineState.RUNNING
    eventually(lambda: "guest is up" in printed(home))
    target.stop_machine(order)


def test_a_very_long_directory_and_a_comma_in_it_work(tmp_path, make_order, install, disk_file, eventually):
    target = LocalTarget({"directory": str(tmp_path / "a,b c" / ("long" * 30)), "shutdownDeadline": "20"})
    order = make_order(name="n" * 63)
    target.create_disks(order)
    install(disk_file(target, order, "2000"))
    target.create_machine(order)
    try:
        target.start_machine(order)
        eventually(lambda: "guest is up" in printed(target._home(order).path))
        target.stop_machine(order)
    finally:
        target.delete_machine(order)


def test_many_disks_and_nics_find_their_places(target, make_order, prepare, eventually):
    """60 disks, as vSphere allows, on three kinds of bus; four NICs of four models."""
    buses = ["virtio"] * 30 + ["scsi"] * 15 + ["sata"] * 15
    order = make_order(
        disks=tuple(
            DiskOrder(source=str(n), name=f"d{n}", pool="default", size=1 << 20, bus=bus, boot=int(n == 29))
            for n, bus in enumerate(buses)
        ),
        nics=tuple(
            NicOrder(mac=f"00:50:56:aa:bb:{n:02x}", kind="pod", model=model)
            for n, model in enumerate(("virtio", "e1000e", "e1000", "vmxnet3"))
        ),
    )
    home = prepare(order)
    target.start_machine(order)
    with qemu.Monitor(home / "qmp.sock") as monitor:
        assert len([block for block in monitor.ask("query-block") if "inserted" in block]) == 60
        assert len(monitor.ask("query-cpus-fast")) == 2
        assert monitor.ask("query-name")["name"] == "web01"
        assert monitor.ask("query-uuid")["UUID"] == order.uuid
    eventually(lambda: "guest is up" in printed(home))


@pytest.mark.parametrize("secure", [False, True])
def test_uefi_firmware_starts_with_its_own_variables(target, make_order, prepare, eventually, secure):
    order = make_order(firmware="efi", secure_boot=secure, memory=256 << 20)
    home = prepare(order)
    variables = (home / "nvram.fd").read_bytes()
    target.start_machine(order)
    eventually(lambda: "Bds" in printed(home), 60)
    target.delete_machine(order)
    assert not (home / "nvram.fd").exists()
    assert len(variables) > 100_000


def test_variables_of_a_machine_are_kept(target, make_order, prepare):
    order = make_order(firmware="efi")
    home = prepare(order)
    (home / "nvram.fd").write_bytes(b"the guest's boot entries")
    target.create_machine(order)
    assert (home / "nvram.fd").read_bytes() == b"the guest's boot entries"


def test_missing_tools_name_their_package(tmp_path, settings, target, make_order, prepare, monkeypatch):
    order = make_order(firmware="efi")
    target.create_disks(order)
    with pytest.raises(ToolMissing, match="OVMF") as caught:
        LocalTarget(settings | {"firmware": str(tmp_path)}).create_machine(order)
    assert "edk2-ovmf" in caught.value.suggestion
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissing, match="qemu-system-x86_64") as caught:
        target.identify()
    assert "qemu-system-x86" in caught.value.suggestion


def test_what_cannot_be_started_says_why(target, make_order, prepare, disk_file):
    order = make_order()
    with pytest.raises(NotFound, match="machine"):
        target.start_machine(order)
    with pytest.raises(NotFound, match="disk"):
        target.create_machine(order)
    home = prepare(order)
    disk_file(target, order, "2000").unlink()
    with pytest.raises(ToolFailed, match="No such file"):
        target.start_machine(order)
    assert qemu.running(home) is None
    with pytest.raises(Unsupported, match="TPM"):
        target.start_machine(make_order(tpm=True))


def test_a_bridge_must_exist_and_devices_must_be_known(target, make_order):
    target.create_disks(make_order())
    with pytest.raises(NotFound, match="no-such-bridge"):
        target.create_machine(
            make_order(nics=(NicOrder(mac="00:50:56:00:00:01", kind="multus", network="no-such-bridge"),))
        )
    with pytest.raises(Invalid, match="model"):
        target.create_machine(make_order(nics=(NicOrder(mac="00:50:56:00:00:01", kind="pod", model="sriov"),)))
    with pytest.raises(Invalid, match="bus"):
        target.create_machine(
            make_order(disks=(DiskOrder(source="2000", name="web01-disk-0", pool="", size=2 << 20, bus="ide"),))
        )
