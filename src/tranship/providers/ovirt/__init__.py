"""oVirt and Red Hat Virtualization as a source."""

from tranship.providers.ovirt.client import fetch_ca

__all__ = ["fetch_ca"]
