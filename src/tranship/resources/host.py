"""Host: an ESXi host that disks are to be read from directly, by its own address and credentials."""

import re
from ipaddress import AddressValueError, IPv6Address
from typing import ClassVar

from pydantic import Field

from tranship.errors import Invalid
from tranship.resources.meta import HOST, Kind, ObjectReference, Ref, Resource

_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?)(:[0-9]{1,5})?")


class HostSpec(Ref):
    provider: ObjectReference
    ip_address: str
    """Address for the transfer of disks. Ours: a name will do, and :PORT may follow where it is not 443."""
    secret: ObjectReference

    @property
    def address(self) -> str:
        """As it stands in a URL. Raises Invalid."""
        text = self.ip_address.strip()
        try:
            return f"[{IPv6Address(text)}]"
        except AddressValueError:
            pass
        match = _ADDRESS.fullmatch(text)
        if match is None or int((match[3] or ":443")[1:]) not in range(1, 65536):
            found = f"{text!r} is no address" if text else "is missing"
            remedy = "Write the address of the ESXi host, such as 192.0.2.11, with :PORT after it if that is not 443."
            raise Invalid(found, field="spec.ipAddress", remedy=remedy)
        return text


def _nothing() -> HostSpec:
    return HostSpec(provider=ObjectReference(), ip_address="", secret=ObjectReference())


class Host(Resource):
    """An ESXi host that disks are read from directly."""

    KIND: ClassVar[Kind] = HOST
    spec: HostSpec = Field(default_factory=_nothing)
