"""Real guests behind the lab's virtual machines: QEMU on the VM's volumes, served to it over NBD.

center.py gives a QemuMachinery to every VM that is added with guest=True; power.py boots it at each power-on.
"""

from collections.abc import Sequence
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

from tranship.lab.guest.machine import Guest
from tranship.lab.nbd import NbdServer
from tranship.lab.vsphere.machine import LabVM

MIB = 1 << 20


class QemuMachinery:
    """The NBD server of one VM and its boots. Sockets live in the system's temporary directory, because a socket's path
    may not be longer than 107 bytes. `extra`: further arguments for QEMU, such as a kernel to boot."""

    def __init__(self, vm: LabVM, extra: Sequence[str] = ()) -> None:
        self.vm = vm
        self.extra = extra
        self.home: Path | None = None
        self.nbd: NbdServer | None = None

    def boot(self) -> Guest:
        if self.nbd is None or self.home is None:
            self.home = Path(mkdtemp(prefix="lab-"))
            self.nbd = NbdServer(self.home / "nbd")
            for disk in self.vm.disks:
                self.nbd.add(f"disk-{disk.key}", disk.volume)
            self.nbd.start()
        guest = Guest(
            Path(mkdtemp(dir=self.home)),
            [self.nbd.url(f"disk-{disk.key}") for disk in self.vm.disks],
            memory=self.vm.memory * MIB,
            cpus=self.vm.cpus,
            firmware="uefi" if self.vm.firmware == "efi" else "bios",
            macs=[nic.mac for nic in self.vm.nics],
            extra=self.extra,
        )
        guest.start()
        return guest

    def close(self) -> None:
        if self.nbd is not None and self.home is not None:
            self.nbd.close()
            rmtree(self.home, ignore_errors=True)
