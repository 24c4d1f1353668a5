"""Provider: a platform that VMs come from or go to.

Types acted on: vsphere, ovirt, openshift and local (this host, ours). Any other type is kept as it is; the provider
controller says ProviderTypeNotSupported.
"""

from typing import ClassVar

from pydantic import Field

from tranship.resources.meta import PROVIDER, Kind, ObjectReference, Resource, Status
from tranship.resources.model import Model

VSPHERE, OVIRT, OPENSHIFT, LOCAL = "vsphere", "ovirt", "openshift", "local"
ACTED_ON = (VSPHERE, OVIRT, OPENSHIFT, LOCAL)


class ProviderSpec(Model):
    type: str
    """vsphere, ovirt, openshift or local (this host)."""
    url: str = ""
    """Where its API answers: https://VCENTER/sdk, https://ENGINE/ovirt-engine/api. Empty for this host and for the cluster
    itself."""
    secret: ObjectReference
    """Credentials. May be empty for this host."""
    settings: dict[str, str] = Field(default_factory=dict)
    """Options by name: vddkDirectory, vddkInitImage, vddkVolumeClaim (vsphere), ovirtClientTimeout (ovirt), directory
    (local)."""


class ProviderStatus(Status):
    phase: str = ""
    fingerprint: str = ""
    """SHA-1 of the certificate that the platform shows."""
    secret_resource_version: str = ""
    service: ObjectReference | None = None


def _nothing() -> ProviderSpec:
    return ProviderSpec(type="", secret=ObjectReference())


class Provider(Resource):
    """A platform that virtual machines come from or go to."""

    KIND: ClassVar[Kind] = PROVIDER
    spec: ProviderSpec = Field(default_factory=_nothing)
    status: ProviderStatus = Field(default_factory=ProviderStatus)

    @property
    def directory(self) -> str:
        """Local provider: where disks and machines are put; "" = the server's default."""
        return self.spec.settings.get("directory", "")
