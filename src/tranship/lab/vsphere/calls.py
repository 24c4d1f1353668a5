"""One call while it is being served: what a method's implementation is given besides its arguments."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tranship.lab.vsphere.world import Managed

if TYPE_CHECKING:
    from tranship.lab.vsphere.sessions import Session


@dataclass
class Call:
    """`version` is the API version that the client speaks; `set_cookie` goes out with the answer."""

    method: str
    this: Managed
    session: "Session | None"
    version: str
    address: str
    set_cookie: str = ""

    @property
    def who(self) -> "Session":
        """The session; the server has refused calls without one already."""
        assert self.session is not None
        return self.session


class Dropped(Exception):
    """The connection shall break here, without an answer."""
