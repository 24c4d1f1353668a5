"""NetworkMap: which source network becomes which of the target. Read when plans are checked and machines ordered."""

from typing import ClassVar, Literal

from pydantic import Field

from tranship.resources.meta import NETWORK_MAP, Kind, ObjectReference, Ref, Resource, SourceAndDestination, Status
from tranship.resources.model import Model

_VLAN = r"^([1-9]|[1-9][0-9]{1,2}|[1-3][0-9]{3}|40[0-8][0-9]|409[0-4])$"


class SourceNetwork(Ref):
    vlan: str = Field(default="", pattern=_VLAN)
    """Only the VMs' NICs with this VLAN, 1 to 4094."""


class DestinationNetwork(Model):
    type: Literal["pod", "multus", "ignored"]
    """pod: the default network; multus: the named one (a bridge on a KVM host); ignored: the NIC is left out."""
    namespace: str = ""
    name: str = ""


class NetworkPair(Model):
    source: SourceNetwork
    destination: DestinationNetwork


class NetworkMapSpec(Model):
    provider: SourceAndDestination
    map: list[NetworkPair]


class MapStatus(Status):
    references: list[Ref] = Field(default_factory=list)
    """The sources, as they were found in the inventory."""


def _nothing() -> NetworkMapSpec:
    nobody = ObjectReference()
    return NetworkMapSpec(provider=SourceAndDestination(source=nobody, destination=nobody), map=[])


class NetworkMap(Resource):
    """Which network of the source becomes which network of the target."""

    KIND: ClassVar[Kind] = NETWORK_MAP
    spec: NetworkMapSpec = Field(default_factory=_nothing)
    status: MapStatus = Field(default_factory=MapStatus)
