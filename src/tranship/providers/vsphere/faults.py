"""From vSphere's faults to our errors: the only place that knows the names of both.

Called at the client's boundary for faults of calls and of tasks. The fault's name and message stay as facts.
"""

from collections.abc import Sequence
from typing import Any

from tranship.errors import AuthFailed, Busy, Denied, NotFound, Refused, Side, TranshipError, Unreachable

# The platform says "not now": the same call may succeed when a task has ended or a host is back.
_NOT_NOW = {
    "TaskInProgress",
    "InvalidState",
    "ResourceInUse",
    "ConcurrentAccess",
    "FileLocked",
    "RequestCanceled",
    "SystemError",
}
_HOST_AWAY = {"HostCommunication", "HostNotConnected", "HostNotReachable", "HostConnectFault"}
_CUT = 400
_SEE = "Look at the recent tasks and events of the object in vCenter, remove the cause, then start again."
_WAIT = "Wait until vCenter has ended what keeps it busy, or end that, then start again."


def names(fault: Any) -> tuple[str, ...]:
    """The fault's name, then those of the faults that it is a kind of."""
    return tuple(kind.__name__.rpartition(".")[2] for kind in type(fault).__mro__ if "." in kind.__name__)


def message(fault: Any) -> str:
    """What the server says, cut. Task errors often carry it only in faultMessage."""
    text = getattr(fault, "msg", "") or getattr(fault, "localizedMessage", "") or ""
    further: Sequence[Any] = getattr(fault, "faultMessage", None) or ()
    said = [text, *(getattr(item, "message", "") or "" for item in further)]
    return " ".join(part for part in said if part)[:_CUT]


def explain(fault: Any, what: str, *, address: str = "", user: str = "") -> TranshipError:
    """The error that this fault means when it answers the call `what`."""
    kinds = names(fault)
    name, said = kinds[0], message(fault)
    if "InvalidLogin" in kinds or "NotAuthenticated" in kinds:
        return AuthFailed(said or name, address=address, user=user, side=Side.SOURCE)
    if "NoPermission" in kinds:
        privilege = getattr(fault, "privilegeId", "") or "an unnamed privilege"
        where = getattr(getattr(fault, "object", None), "_moId", "") or "an unnamed object"
        return Denied(f"privilege {privilege} on {where} is missing", what=what, privilege=privilege, side=Side.SOURCE)
    if "ManagedObjectNotFound" in kinds:
        gone = getattr(fault, "obj", None)
        kind = type(gone).__name__.rpartition(".")[2] if gone is not None else "object"
        return NotFound(f" ({what})", what=kind, name=getattr(gone, "_moId", "?"), side=Side.SOURCE, fault=name)
    if "Timedout" in kinds:
        return Busy(said, what=what, fault=name, side=Side.SOURCE, remedy=_WAIT)
    if _HOST_AWAY & set(kinds):
        return Unreachable(f"{what}: {said or name}", address=address, side=Side.SOURCE, fault=name)
    if _NOT_NOW & set(kinds):
        return Busy(said, what=what, fault=name, side=Side.SOURCE, remedy=_WAIT)
    return Refused(said, what=what, fault=name, side=Side.SOURCE, remedy=_SEE)
