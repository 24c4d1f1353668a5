"""pyVmomi's names, as Any: its stubs declare the constructors untyped, and its types are made when they are first used.

Imported by the rooms of this provider only; nothing else in the product knows pyVmomi.
"""

from typing import Any

from pyVmomi import SoapAdapter, VmomiSupport
from pyVmomi import vim as _vim
from pyVmomi import vmodl as _vmodl

vim: Any = _vim
vmodl: Any = _vmodl
collector: Any = _vmodl.query.PropertyCollector
SoapStubAdapter: Any = SoapAdapter.SoapStubAdapter
SoapResponseDeserializer: Any = SoapAdapter.SoapResponseDeserializer


def known_versions() -> list[tuple[str, str]]:
    """API versions that pyVmomi speaks, newest first: its name and the wire's."""
    names: Any = VmomiSupport.GetServiceVersions  # type: ignore[no-untyped-call,unused-ignore]
    return [(name, str(VmomiSupport.versionIdMap.get(name, ""))) for name in names("vim25")]
