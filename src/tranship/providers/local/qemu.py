"""A machine as a QEMU process: its command line, its start, its state, its end. Called by target.py.

The command line is made once, from the order, and kept in the machine's directory; start adds only the accelerator.
QEMU makes itself a daemon, so a machine outlives whoever started it. A machine runs when the process that its pid file
names was started with that very pid file: a pid alone may long belong to somebody else. A second start is refused by
QEMU itself, which locks pid file and disks.

In the machine's directory: `serial.log` (all that the guest printed), `serial.sock` (type here; one reader at a time),
`qmp.sock`, `qemu.pid`.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from tranship.errors import Invalid, Refused, Side, TimedOut, ToolFailed, ToolMissing, TranshipError
from tranship.inventory.vm import Power
from tranship.migration.mapping import DiskOrder, MachineOrder, NicOrder
from tranship.providers.local.acceleration import Accelerator
from tranship.providers.local.firmware import Firmware
from tranship.providers.local.qmp import Monitor

PROGRAM = "qemu-system-x86_64"
MIB = 1 << 20
PID_FILE = "qemu.pid"
QMP_SOCKET = "qmp.sock"
SERIAL_SOCKET = "serial.sock"
SERIAL_LOG = "serial.log"
START_SECONDS = 60.0
QUIT_SECONDS = 20.0
ASK_AGAIN_SECONDS = 5.0  # a guest that is still booting loses the first press of the power button

BRIDGE_REMEDY = "Let QEMU use the bridge: a line `allow NAME` in /etc/qemu/bridge.conf."

NIC_DEVICES = {
    "virtio": "virtio-net-pci",
    "e1000e": "e1000e",
    "e1000": "e1000",
    "rtl8139": "rtl8139",
    "vmxnet3": "vmxnet3",
}
SATA_PORTS = 6
SCSI_SLOT, DISK_SLOT, DISK_SLOTS, NIC_SLOT, SATA_SLOT = 2, 3, 13, 16, 26  # on q35's root bus; 1 is the VGA


def program() -> str:
    found = shutil.which(PROGRAM)
    if found is None:
        raise ToolMissing(
            "it is not on the PATH",
            tool=PROGRAM,
            side=Side.TARGET,
            remedy="Install the package qemu-system-x86 (Debian, Ubuntu) or qemu-system-x86-core (Fedora).",
        )
    return found


def version() -> str:
    try:
        done = subprocess.run([program(), "--version"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise ToolMissing(str(error), tool=PROGRAM, side=Side.TARGET) from error
    return done.stdout.splitlines()[0].removeprefix("QEMU emulator version ").split(" ")[0]


# -- the command line


def command(
    order: MachineOrder, disks: Sequence[tuple[DiskOrder, Path]], firmware: Firmware | None, home: Path, variables: Path
) -> list[str]:
    """All arguments but program and accelerator. Sockets and log are relative to home: QEMU is started there."""
    smm = firmware is not None and firmware.secure
    machine = f"q35,smm={'on' if smm else 'off'},vmport=off"
    argv = ["-name", f"guest={_escape(order.name)},process={_escape('qemu-' + order.name)[:60]}"]
    if firmware is not None:
        argv += _flash("code", firmware.code, firmware.code_format, read_only=True)
        argv += _flash("variables", variables, firmware.variables_format, read_only=False)
        machine += ",pflash0=code,pflash1=variables"
    if smm:
        argv += ["-global", "driver=cfi.pflash01,property=secure,value=on", "-global", "ICH9-LPC.disable_s3=1"]
    cpus = order.sockets * order.cores * order.threads
    argv += ["-machine", machine, "-m", f"{-(-order.memory // MIB)}M"]
    argv += ["-smp", f"cpus={cpus},sockets={order.sockets},cores={order.cores},threads={order.threads}"]
    if order.uuid:
        argv += ["-uuid", order.uuid]
    argv += ["-nodefaults", "-no-user-config", "-display", "none", "-vga", "std", "-rtc", "base=utc,driftfix=slew"]
    argv += ["-chardev", f"socket,id=serial,path={SERIAL_SOCKET},server=on,wait=off,logfile={SERIAL_LOG},logappend=on"]
    argv += ["-serial", "chardev:serial"]
    argv += ["-chardev", f"socket,id=qmp,path={QMP_SOCKET},server=on,wait=off", "-mon", "chardev=qmp,mode=control"]
    argv += _disks(disks)
    for number, nic in enumerate(order.nics):
        argv += _nic(number, nic)
    return [*argv, "-pidfile", str(home / PID_FILE), "-daemonize"]


def _escape(text: str) -> str:
    return text.replace(",", ",,")


def _flash(node: str, path: Path, image_format: str, *, read_only: bool) -> list[str]:
    file = {"driver": "file", "filename": str(path)}
    return ["-blockdev", json.dumps({"node-name": node, "driver": image_format, "read-only": read_only, "file": file})]


def _disks(disks: Sequence[tuple[DiskOrder, Path]]) -> list[str]:
    argv: list[str] = []
    counts = {"virtio": 0, "scsi": 0, "sata": 0}
    for number, (disk, path) in enumerate(disks):
        if disk.bus not in counts:
            raise Invalid(f"{disk.bus!r} is not virtio, scsi or sata", field=f"disk {disk.name}: bus", side=Side.TARGET)
        place = counts[disk.bus]
        counts[disk.bus] += 1
        file = {"driver": "file", "filename": str(path), "discard": "unmap"}
        node = {"node-name": f"disk{number}", "driver": "raw", "discard": "unmap", "file": file}
        argv += ["-blockdev", json.dumps(node)]
        boot = f",bootindex={disk.boot}" if disk.boot else ""
        if disk.bus == "scsi" and place == 0:
            argv += ["-device", f"virtio-scsi-pci,id=scsi,addr={SCSI_SLOT:#x}"]
        if disk.bus == "sata" and place and place % SATA_PORTS == 0:  # q35 has the first six ports built in
            controller = place // SATA_PORTS
            slot, function = divmod(controller - 1, 8)
            where = f"addr={SATA_SLOT + slot:#x}.{function:#x},multifunction=on"
            argv += ["-device", f"ahci,id=sata{controller},{where}"]
        argv += ["-device", f"{_device(disk.bus, place)},drive=disk{number},id=drive{number}{boot}"]
    return argv


def _device(bus: str, place: int) -> str:
    """The device of the nth disk on its bus. Virtio disks have a slot each; beyond that, a function of one."""
    if bus == "scsi":
        return f"scsi-hd,bus=scsi.0,channel=0,scsi-id={place},lun=0"
    if bus == "sata":
        controller, port = divmod(place, SATA_PORTS)
        return f"ide-hd,bus={f'sata{controller}' if controller else 'ide'}.{port}"
    function, slot = divmod(place, DISK_SLOTS)
    return f"virtio-blk-pci,addr={DISK_SLOT + slot:#x}.{function:#x},multifunction=on"


def _nic(number: int, nic: NicOrder) -> list[str]:
    device = NIC_DEVICES.get(nic.model)
    if device is None:
        raise Invalid(
            f"{nic.model!r} is none of {', '.join(sorted(NIC_DEVICES))}",
            field=f"NIC {nic.mac}: model",
            side=Side.TARGET,
        )
    backend = f"user,id=net{number}" if nic.kind == "pod" else f"bridge,id=net{number},br={_escape(nic.network)}"
    # romfile=: no network boot, and no boot ROM to be installed
    nic_device = f"{device},netdev=net{number},id=nic{number},mac={nic.mac},addr={NIC_SLOT + number:#x},romfile="
    return ["-netdev", backend, "-device", nic_device]


# -- the process


def running(home: Path) -> int | None:
    """The pid of this machine's QEMU."""
    path = home / PID_FILE
    try:
        pid = int(path.read_text())
        argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if os.fsencode(path) in argv else None


def power(home: Path) -> Power:
    return Power.OFF if running(home) is None else Power.ON


def start(home: Path, arguments: Sequence[str], accelerator: Accelerator) -> None:
    """Returns when the machine runs. Raises ToolMissing, ToolFailed, TimedOut."""
    argv = [program(), *accelerator.arguments(), *arguments]
    try:
        done = subprocess.run(
            argv,
            cwd=home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=START_SECONDS,
            check=False,
            start_new_session=True,  # a Ctrl-C meant for us is not for the machine
        )
    except subprocess.TimeoutExpired as error:
        raise TimedOut(what=f"the start of QEMU in {home}", seconds=START_SECONDS, side=Side.TARGET) from error
    except OSError as error:
        raise ToolMissing(str(error), tool=PROGRAM, side=Side.TARGET) from error
    if done.returncode:
        output = done.stderr.strip()[-1000:]
        remedy = BRIDGE_REMEDY if "bridge helper" in output else ""
        raise ToolFailed(argv=PROGRAM, code=done.returncode, output=output, side=Side.TARGET, remedy=remedy)
    with Monitor(home / QMP_SOCKET) as monitor:
        state = monitor.ask("query-status")
    if not state["running"]:
        raise Refused(
            f"its state is {state['status']}",
            what=f"the start of QEMU in {home}",
            fault="not running",
            side=Side.TARGET,
        )


def stop(home: Path, grace: float) -> None:
    """Ask the guest to shut down, end QEMU after `grace` seconds (0 = at once), kill it if it does not answer."""
    pid = running(home)
    if pid is None:
        return
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if running(home) != pid:  # ended, and the pid taken, just before we held it
            return
        if _ask_guest(home, process, grace) or _quit(home, process):
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, signal.SIGKILL)
        if not _ended(process, QUIT_SECONDS):
            raise TimedOut(what=f"the end of QEMU (pid {pid})", seconds=QUIT_SECONDS, side=Side.TARGET)
    finally:
        os.close(process)


def _ended(process: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(max(0.0, seconds) * 1000))


def _ask_guest(home: Path, process: int, grace: float) -> bool:
    deadline = time.monotonic() + grace
    while (left := deadline - time.monotonic()) > 0:
        if not _tell(home, "system_powerdown"):
            return _ended(process, 0)
        if _ended(process, min(left, ASK_AGAIN_SECONDS)):
            return True
    return False


def _quit(home: Path, process: int) -> bool:
    """QEMU writes out what the guest flushed and what it did not, then ends."""
    return _tell(home, "quit") and _ended(process, QUIT_SECONDS)


def _tell(home: Path, word: str) -> bool:
    try:
        with Monitor(home / QMP_SOCKET) as monitor:
            monitor.ask(word)
    except TranshipError:  # no answer: the caller has stronger means
        return False
    return True
