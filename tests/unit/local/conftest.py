"""A directory, an order to fill it, and a guest of 78 bytes.

The guest prints "guest is up" on the serial port, echoes what is typed there, and powers off when the ACPI power button
is pressed. Its source, for an assembler:

        xorw %ax,%ax; movw %ax,%ds; movw $0x602,%dx; movw $0x100,%ax; outw %ax,%dx      # the button sets a status bit
        movw $0x3f8,%dx; movw $msg,%si
    1:  lodsb; testb %al,%al; jz 2f; outb %al,%dx; jmp 1b
    2:  hlt; movw $0x600,%dx; inw %dx,%ax; testb $1,%ah; jz 3f                          # pressed?
        cmpb $0,stubborn; jne 3f; movw $0x604,%dx; movw $0x2000,%ax; outw %ax,%dx       # off
    3:  movw $0x3fd,%dx; inb %dx,%al; testb $1,%al; jz 2b
        movw $0x3f8,%dx; inb %dx,%al; outb %al,%dx; jmp 2b
    stubborn: .byte 0;  msg: .asciz "guest is up\\n"
"""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from tranship.migration.mapping import DiskOrder, MachineOrder, NicOrder
from tranship.providers.local.target import LocalTarget

GUEST = bytes.fromhex(
    "31c08ed8ba0206b80001efbaf803be417cac84c07403eeebf8f4ba0006edf6c401740e803e407c007507ba0406b80020"
    "efbafd03eca80174e0baf803eceeebd90067756573742069732075700a00"
)
STUBBORN = 0x40
MIB = 1 << 20


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, str]:
    return {"directory": str(tmp_path / "machines"), "shutdownDeadline": "20"}


@pytest.fixture
def target(settings: dict[str, str]) -> LocalTarget:
    return LocalTarget(settings)


@pytest.fixture
def make_order() -> Callable[..., MachineOrder]:
    def make(**changes: Any) -> MachineOrder:
        order: dict[str, Any] = {
            "owner": "plan-1/vm-42",
            "name": "web01",
            "namespace": "shop",
            "uuid": "42126ee3-9eb4-4c1c-8f6b-7f8d9e1c2b3a",
            "sockets": 1,
            "cores": 2,
            "memory": 64 * MIB,
            "disks": (DiskOrder(source="2000", name="web01-disk-0", pool="default", size=2 * MIB, boot=1),),
            "nics": (NicOrder(mac="00:50:56:aa:bb:01", kind="pod"),),
            "labels": {"vmID": "vm-42"},
            "annotations": {"original-ID": "vm-42"},
        }
        return MachineOrder(**(order | changes))

    return make


@pytest.fixture
def disk_file() -> Callable[[LocalTarget, MachineOrder, str], Path]:
    return lambda target, order, key: Path(unquote(urlsplit(target.address(order, key).url).path))


@pytest.fixture
def install() -> Callable[[Path, bool], None]:
    """Write the guest to the start of a disk. stubborn: it does not heed the power button."""

    def write(disk: Path, stubborn: bool = False) -> None:
        code = bytearray(GUEST.ljust(510, b"\0") + b"\x55\xaa")
        code[STUBBORN] = stubborn
        with open(disk, "r+b") as file:
            file.write(code)

    return write


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], None]:
    def wait(condition: Callable[[], bool], seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        pause = threading.Event()
        while not condition():
            assert time.monotonic() < deadline, "it did not happen in time"
            pause.wait(0.02)

    return wait


@pytest.fixture
def running_machines(target: LocalTarget) -> Iterator[list[MachineOrder]]:
    """Orders in this list are ended after the test, whatever became of it."""
    orders: list[MachineOrder] = []
    yield orders
    for order in orders:
        target.delete_machine(order)
