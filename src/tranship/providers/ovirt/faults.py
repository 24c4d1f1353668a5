"""From the Engine's answers to our errors: the only place that knows the status codes of both. Pure.

Called by the client with every answer that is no success. The detail that the Engine gives ("[Cannot remove VM: VM is
locked]") is kept: it is the only thing that says what is really wrong.
"""

import msgspec

from tranship.errors import AuthFailed, Busy, Denied, NotFound, Refused, Side, TranshipError, Unreachable
from tranship.providers.ovirt.values import text

_CUT = 400
_SEE = "Look at the events of the object in the Administration Portal, remove the cause, then start again."
_WAIT = "Wait until the Engine has ended what keeps it busy, or end that, then start again."
_NO_ENGINE = "Write the address as https://ENGINE/ovirt-engine/api, and check that ovirt-engine runs there."


def said(body: bytes) -> str:
    """The fault's reason and detail in one line, "" when the answer is none of the Engine's."""
    try:
        fault = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    if isinstance(fault, dict) and isinstance(fault.get("fault"), dict):
        fault = fault["fault"]
    parts = (text(fault, "reason"), text(fault, "detail").strip().strip("[]"))
    return ": ".join(part for part in parts if part)[:_CUT]


def explain(status: int, body: bytes, what: str, path: str, *, address: str, user: str) -> TranshipError:
    """The error that this answer to the call `what` (such as "POST vms/ID/start") means."""
    detail = said(body)
    fault = f"HTTP {status}"
    if status == 401:
        return AuthFailed(detail or "the session is refused", address=address, user=user, side=Side.SOURCE)
    if status == 403:
        return Denied(detail or fault, what=what, side=Side.SOURCE, fault=fault)
    if status == 404 and path:
        kind, name = subject(path)
        return NotFound(
            f" ({what}{': ' if detail else ''}{detail})", what=kind, name=name, side=Side.SOURCE, fault=fault
        )
    if status in (404, 502, 503, 504) or 300 <= status < 400:
        remedy = _NO_ENGINE if status == 404 or status < 400 else ""
        told = f"{what}: {fault}{': ' if detail else ''}{detail}"
        return Unreachable(told, address=address, side=Side.SOURCE, remedy=remedy, fault=fault)
    if status in (408, 409, 429) or status >= 500:
        return Busy(detail, what=what, fault=fault, side=Side.SOURCE, remedy=_WAIT)
    return Refused(detail, what=what, fault=fault, side=Side.SOURCE, remedy=_SEE)


def subject(path: str) -> tuple[str, str]:
    """Kind and id of what a path is about: vms/1/snapshots/2 is snapshot 2, vms/1/start and vms/1/nics are VM 1."""
    parts = path.strip("/").split("/")
    if len(parts) % 2:
        parts = parts[:-1] or [*parts, ""]
    kind, name = parts[-2], parts[-1]
    return {"vms": "VM", "storagedomains": "storage domain"}.get(kind, kind.removesuffix("s")), name
