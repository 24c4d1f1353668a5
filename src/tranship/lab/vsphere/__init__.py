"""The simulated vCenter, over the wire. Tests, the lab command and the demo use `VCenter`, `LabVM` and `Faults`."""

from tranship.lab.vsphere.center import VCenter
from tranship.lab.vsphere.faults import Faults
from tranship.lab.vsphere.machine import LabVM, PowerChange

__all__ = ["Faults", "LabVM", "PowerChange", "VCenter"]
