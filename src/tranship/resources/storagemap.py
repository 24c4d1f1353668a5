"""StorageMap: which source storage becomes which of the target. Read when plans are checked and disks ordered."""

from typing import ClassVar, Literal

from pydantic import Field

from tranship.resources.meta import STORAGE_MAP, Kind, ObjectReference, Ref, Resource, SourceAndDestination
from tranship.resources.model import Model
from tranship.resources.networkmap import MapStatus

XcopyProduct = Literal[
    "flashsystem",
    "vantara",
    "ontap",
    "primera3par",
    "pureFlashArray",
    "powerflex",
    "powermax",
    "powerstore",
    "infinibox",
]


class DestinationStorage(Model):
    storage_class: str
    """The storage class; on a KVM host the directory below the provider's."""
    volume_mode: Literal["Filesystem", "Block"] | None = None
    access_mode: Literal["ReadWriteOnce", "ReadWriteMany", "ReadOnlyMany"] | None = None


class VsphereXcopyConfig(Model):
    secret_ref: str
    storage_vendor_product: XcopyProduct
    dedicated_migration_hosts: list[str] = Field(default_factory=list)


class CsiVolumeImport(Model):
    secret_ref: str
    storage_vendor_product: Literal["primera3par", "ontap"]


class OffloadPlugin(Model):
    vsphere_xcopy_config: VsphereXcopyConfig | None = None
    csi_volume_import: CsiVolumeImport | None = None


class StoragePair(Model):
    source: Ref
    destination: DestinationStorage
    offload_plugin: OffloadPlugin | None = None


class StorageMapSpec(Model):
    provider: SourceAndDestination
    map: list[StoragePair]


def _nothing() -> StorageMapSpec:
    nobody = ObjectReference()
    return StorageMapSpec(provider=SourceAndDestination(source=nobody, destination=nobody), map=[])


class StorageMap(Resource):
    """Which storage of the source becomes which storage of the target."""

    KIND: ClassVar[Kind] = STORAGE_MAP
    spec: StorageMapSpec = Field(default_factory=_nothing)
    status: MapStatus = Field(default_factory=MapStatus)
