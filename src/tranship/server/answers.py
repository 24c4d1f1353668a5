"""What the server says: JSON, and a Kubernetes Status for whatever goes wrong.

The one place that knows which HTTP code and reason an error of ours has. Called by every endpoint and by the application's
error handlers; a watch sends the same Status inside its stream.
"""

from typing import Any

import msgspec
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from tranship.errors import (
    AlreadyExists,
    AuthFailed,
    Broken,
    Busy,
    Conflict,
    Denied,
    Expired,
    Invalid,
    NoSpace,
    NotFound,
    NotUnique,
    Refused,
    TimedOut,
    TranshipError,
    Unreachable,
    Unsupported,
)

Object = dict[str, Any]
log = structlog.get_logger()

_CODES: dict[type[TranshipError], tuple[int, str]] = {
    Invalid: (422, "Invalid"),
    NotUnique: (422, "Invalid"),
    Unsupported: (422, "Invalid"),
    NotFound: (404, "NotFound"),
    AlreadyExists: (409, "AlreadyExists"),
    Conflict: (409, "Conflict"),
    Expired: (410, "Expired"),
    AuthFailed: (403, "Forbidden"),
    Denied: (403, "Forbidden"),
    Refused: (403, "Forbidden"),
    Busy: (503, "ServiceUnavailable"),
    Unreachable: (503, "ServiceUnavailable"),
    TimedOut: (504, "Timeout"),
    NoSpace: (507, "InternalError"),
    Broken: (500, "InternalError"),
    TranshipError: (500, "InternalError"),
}

_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    404: "NotFound",
    405: "MethodNotAllowed",
    413: "RequestEntityTooLarge",
    415: "UnsupportedMediaType",
    422: "Invalid",
    503: "ServiceUnavailable",
}


class Json(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return msgspec.json.encode(content)


def bad_request(text: str) -> HTTPException:
    """For what is wrong with the request itself, not with an object in it."""
    return HTTPException(400, text)


def status_of(error: Exception) -> Object:
    """The Status object for any exception. Of one that is not ours it tells nothing: it may hold a secret."""
    if isinstance(error, HTTPException):
        return _status(error.status_code, _REASONS.get(error.status_code, "Unknown"), error.detail, {})
    if not isinstance(error, TranshipError):
        return _status(500, "InternalError", "internal error, see the server's log", {})
    code, reason = next(_CODES[base] for base in type(error).__mro__ if base in _CODES)
    details: Object = {"reason": error.reason}
    if what := error.facts.get("what"):
        details["kind"] = str(what)
    if name := error.facts.get("name"):
        details["name"] = str(name)
    if error.suggestion:
        details["suggestion"] = error.suggestion
    message = str(error)
    if isinstance(error, Invalid):
        field = str(error.facts.get("field", ""))
        details["causes"] = [{"reason": "FieldValueInvalid", "message": error.detail, "field": field}]
        message = f"{message}. {error.suggestion}" if error.suggestion else message
    if code == 503:
        details["retryAfterSeconds"] = 1
    return _status(code, reason, message, details)


def success(details: Object) -> Object:
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}


async def answer_error(request: Request, error: Exception) -> Response:
    """The application's handler of all errors."""
    status = status_of(error)
    if status["code"] >= 500:
        log.error("request failed", method=request.method, path=request.url.path, status=status["message"])
    headers = dict(getattr(error, "headers", None) or {})
    if status["code"] == 503:
        headers["Retry-After"] = "1"
    return Json(status, status["code"], headers)


def _status(code: int, reason: str, message: str, details: Object) -> Object:
    status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    return status | {"message": message, "reason": reason, "details": details, "code": code}
