"""VMware vSphere as a source: vCenter or a single ESXi host."""

from tranship.providers.trust import Certificate, fetch_certificate
from tranship.providers.vsphere.source import VsphereSource

__all__ = ["Certificate", "VsphereSource", "fetch_certificate"]
