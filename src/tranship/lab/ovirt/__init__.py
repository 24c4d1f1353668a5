"""A simulated oVirt Engine that speaks the wire, in front of the genuine imageio daemon and of QEMU's disks and guests."""

from tranship.lab.ovirt.engine import Engine
from tranship.lab.ovirt.model import LabVM

__all__ = ["Engine", "LabVM"]
