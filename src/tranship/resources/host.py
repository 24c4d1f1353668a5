"""Host: an ESXi host that disks are to be read from directly, by its own address and credentials."""

from typing import ClassVar

from pydantic import Field

from tranship.resources.meta import HOST, Kind, ObjectReference, Ref, Resource


class HostSpec(Ref):
    provider: ObjectReference
    ip_address: str
    """Address for the transfer of disks."""
    secret: ObjectReference


def _nothing() -> HostSpec:
    return HostSpec(provider=ObjectReference(), ip_address="", secret=ObjectReference())


class Host(Resource):
    """An ESXi host that disks are read from directly."""

    KIND: ClassVar[Kind] = HOST
    spec: HostSpec = Field(default_factory=_nothing)
