"""The one error taxonomy.

Every error says whose side it is on, whether trying again can help, and what to do next. Code raises one of these
classes with facts as keyword arguments; the text is made from the class's template, so that the same trouble always reads
the same. Third-party errors are wrapped where they enter (`raise Unreachable(...) from error`). `reason` is the stable
name that conditions, logs and scripts may match; `exit_code` is the command line's.
"""

from enum import Enum
from typing import Any, ClassVar


class Side(Enum):
    """Whose trouble it is: ours, the source platform's or the target's."""

    OURS = "tranship"
    SOURCE = "source"
    TARGET = "target"


class TranshipError(Exception):
    """Base of all our errors. Facts are attributes; `temporary` says that the same call may succeed later."""

    template: ClassVar[str] = "{detail}"
    remedy: ClassVar[str] = ""
    temporary: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1

    def __init__(self, detail: str = "", *, side: Side = Side.OURS, remedy: str = "", **facts: Any) -> None:
        self.detail = detail
        self.side = side
        self.facts = facts
        self.suggestion = remedy or type(self).remedy
        super().__init__(self.template.format(detail=detail, side=side.value, **facts))

    @property
    def reason(self) -> str:
        return type(self).__name__

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["facts"][name]
        except KeyError:
            raise AttributeError(name) from None


class Invalid(TranshipError):
    """Input that cannot be accepted. Facts: field (a path such as `spec.vms[0].name`)."""

    template = "{field}: {detail}"
    exit_code = 2


class NotFound(TranshipError):
    """Facts: what (kind), name."""

    template = "{what} {name!r} was not found{detail}"


class NotUnique(TranshipError):
    """A name that fits several objects. Facts: what, name, count."""

    template = "{count} {what}s are named {name!r}{detail}"
    remedy = "Refer to it by id."


class AlreadyExists(TranshipError):
    """Facts: what, name."""

    template = "{what} {name!r} exists already{detail}"


class Conflict(TranshipError):
    """Somebody else changed the object since it was read. Facts: what, name."""

    template = "{what} {name!r} was changed by somebody else{detail}"
    remedy = "Read it again and repeat the change."
    temporary = True


class Expired(TranshipError):
    """A watch asked for changes older than are kept (HTTP 410)."""

    template = "changes since {since} are no longer kept{detail}"
    temporary = True


class Unreachable(TranshipError):
    """No answer, or the connection broke. Facts: address."""

    template = "{address} does not answer: {detail}"
    remedy = "Check address, port, firewall and name resolution."
    temporary = True


class TimedOut(TranshipError):
    """A call or a wait passed its limit. Facts: what, seconds."""

    template = "{what} did not end within {seconds:.0f} s{detail}"
    temporary = True


class Untrusted(TranshipError):
    """TLS verification failed. Facts: address."""

    template = "the certificate of {address} is not trusted: {detail}"
    remedy = "Put the issuing CA into the secret's ca.crt, or the certificate's fingerprint into thumbprint."


class AuthFailed(TranshipError):
    """Wrong user or password. Facts: address, user."""

    template = "{address} refused user {user!r}: {detail}"
    remedy = "Correct user and password in the provider's secret."


class Denied(TranshipError):
    """The user lacks a privilege. Facts: what."""

    template = "not allowed: {what}: {detail}"
    remedy = "Grant the user the privilege that is named."


class Refused(TranshipError):
    """The platform understood and said no, and will say no again. Facts: what (the call), fault (its name)."""

    template = "{what} was refused by the {side} ({fault}): {detail}"


class Busy(TranshipError):
    """The platform says no for now: a task runs, an object is locked. Facts: what, fault."""

    template = "{what} has to wait, the {side} is busy ({fault}): {detail}"
    temporary = True


class NotReady(TranshipError):
    """An object cannot be used yet, or something blocks it. Facts: what, name."""

    template = "{what} {name!r} is not ready: {detail}"
    exit_code = 3


class Unsupported(TranshipError):
    """tranship cannot do this, and says so before it begins. Facts: what."""

    template = "{what} is not supported: {detail}"


class ToolMissing(TranshipError):
    """A program or library is not there or does not work. Facts: tool."""

    template = "{tool} is missing or does not work: {detail}"


class ToolFailed(TranshipError):
    """A program ended badly. Facts: argv, code, output (cut)."""

    template = "{argv} ended with code {code}: {output}{detail}"


class NoSpace(TranshipError):
    """Facts: path, needed, free (bytes)."""

    template = "{path} has {free} bytes free, {needed} are needed{detail}"
    remedy = "Free space there or map the disk to a larger storage, then start again."


class CopyFailed(TranshipError):
    """Reading or writing a disk failed; what is finished is in the journal. Facts: disk."""

    template = "copying disk {disk} failed: {detail}"
    temporary = True


class VerifyFailed(TranshipError):
    """The target does not hold what was written. Facts: disk, offset, length (bytes)."""

    template = "disk {disk} differs from its source at offset {offset}, {length} bytes{detail}"
    remedy = "The target storage changed or lost data: check it, discard the disk and start again."


class Broken(TranshipError):
    """An invariant of ours does not hold: a bug, or state edited by hand."""

    template = "internal error: {detail}"
    remedy = "Please report it together with the story of the VM (tranship describe)."
