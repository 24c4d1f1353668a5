"""oVirt and Red Hat Virtualization as a source."""

from tranship.providers.ovirt.client import fetch_ca
from tranship.providers.ovirt.source import OvirtSource

__all__ = ["OvirtSource", "fetch_ca"]
