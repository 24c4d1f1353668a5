"""VMware vSphere as a source: vCenter or a single ESXi host."""

from tranship.providers.vsphere.source import VsphereSource
from tranship.providers.vsphere.trust import Certificate, fetch_certificate

__all__ = ["Certificate", "VsphereSource", "fetch_certificate"]
