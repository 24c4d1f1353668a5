"""pyVmomi as Any: its stubs declare fields but neither constructors nor functions nor half of the names, so a checker
that believes them sees an error in every line that makes a data object. All other modules here take it from here.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import pyVmomi

vim: Any = vars(pyVmomi)["vim"]
vmodl: Any = vars(pyVmomi)["vmodl"]
SoapAdapter: Any = import_module("pyVmomi.SoapAdapter")
VmomiSupport: Any = import_module("pyVmomi.VmomiSupport")
F_OPTIONAL: int = VmomiSupport.F_OPTIONAL

if TYPE_CHECKING:
    from pyVmomi.vmodl import MethodFault

    Fault = MethodFault
else:
    Fault = vmodl.MethodFault  # the modules of pyVmomi are lazy objects: `from pyVmomi.vmodl import` does not work
