"""A libvixDiskLib for the lab (`vixdisklib.c`, `build`) and the service behind it (`service`)."""

from tranship.lab.vddk.build import build_library
from tranship.lab.vddk.service import BlockService, Faults, Trouble

__all__ = ["BlockService", "Faults", "Trouble", "build_library"]
