"""The REST API as the commands use it: Kubernetes' paths and verbs, errors as ours.

Blocking. Every call has a timeout. A watch that breaks off is taken up again where it was; only when the server stays
away for longer than `PATIENCE` does it raise.
"""

import contextlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Self

import httpx2

from tranship.cli.address import is_loopback
from tranship.cli.kinds import Kind
from tranship.errors import (
    AlreadyExists,
    Busy,
    Conflict,
    Denied,
    Expired,
    Invalid,
    NotFound,
    TimedOut,
    TranshipError,
    Unreachable,
    Untrusted,
)

CONNECT = 10.0  # seconds
ANSWER = 60.0
WATCH = 240  # seconds that one watch request is asked to last
PATIENCE = 60.0  # seconds without the server before a watch gives up
LONGEST_TEXT = 500  # of an answer that is no Status, in an error's text

Object = dict[str, Any]


class Client:
    def __init__(self, url: str, token: str, ca: str | None = None) -> None:
        """Raises Invalid for a CA file that is none."""
        self.url = url
        secure = url.startswith("https:")
        try:
            # Without TLS there is nothing to verify; loading the system's CAs would cost half of a command's time.
            self._http = httpx2.Client(
                base_url=url,
                headers={"Authorization": f"Bearer {token}", "Accept": "application/json"},
                timeout=httpx2.Timeout(ANSWER, connect=CONNECT),
                verify=_trust(ca) if secure else False,
                # A proxy has no business between this command and a server on the same host.
                trust_env=not is_loopback(url),
            )
        except (httpx2.InvalidURL, UnicodeEncodeError) as error:
            raise Invalid("server address or token cannot be used", field="server") from error
        self._skew = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def now(self) -> datetime:
        """The server's time as of the last answer: what "now" means must not hang on this host's clock."""
        return datetime.fromtimestamp(time.time() + self._skew, UTC).replace(microsecond=0)

    def get(self, kind: Kind, namespace: str, name: str) -> Object:
        return self._call("GET", kind.path(namespace, name))

    def list(self, kind: Kind, namespace: str | None, name: str = "") -> Object:
        """The whole list object, items completed with kind and apiVersion."""
        params = {"limit": "500", **_only(name)}
        page = pages = self._call("GET", kind.path(namespace), params=params)
        while token := page.get("metadata", {}).get("continue"):
            page = self._call("GET", kind.path(namespace), params={**params, "continue": token})
            pages["items"] += page["items"]
        for item in pages["items"]:
            item.setdefault("apiVersion", kind.api_version)
            item.setdefault("kind", kind.kind)
        return pages

    def create(self, kind: Kind, namespace: str, obj: Mapping[str, Any]) -> Object:
        return self._call("POST", kind.path(namespace), obj)

    def patch(self, kind: Kind, namespace: str, name: str, patch: Mapping[str, Any]) -> Object:
        return self._call("PATCH", kind.path(namespace, name), patch, content_type="application/merge-patch+json")

    def delete(self, kind: Kind, namespace: str, name: str) -> Object:
        return self._call("DELETE", kind.path(namespace, name))

    def read(self, path: str, params: Mapping[str, str] | None = None) -> Any:
        """A path outside the objects, such as the inventory."""
        return self._answer("GET", path, params=params)

    def watch(
        self, kind: Kind, namespace: str | None, name: str = "", seconds: float | None = None
    ) -> Iterator[tuple[str, Object]]:
        """("ADDED" | "MODIFIED" | "DELETED", object): first all that is there, then every change, until the seconds are
        over. After a gap that the server cannot bridge all is told once more as ADDED, and what went as DELETED."""
        end = math.inf if seconds is None else time.monotonic() + seconds
        known: dict[tuple[str, str], Object] = {}
        lost_since: float | None = None
        version = ""
        while True:
            try:
                if not version:
                    listing = self.list(kind, namespace, name)
                    items = {_path(item): item for item in listing["items"]}
                    yield from (("DELETED", known[path]) for path in known.keys() - items.keys())
                    yield from (("ADDED", item) for item in items.values())
                    known, version = items, listing["metadata"]["resourceVersion"]
                for type, obj in self._events(kind, namespace, name, version, end):
                    lost_since = None
                    version = obj["metadata"]["resourceVersion"]
                    if type == "BOOKMARK":
                        continue
                    if type == "DELETED":
                        known.pop(_path(obj), None)
                    else:
                        known[_path(obj)] = obj
                    yield type, obj
            except Expired:
                version = ""
            except (Unreachable, TimedOut, Busy):
                lost_since = lost_since or time.monotonic()
                if time.monotonic() - lost_since > PATIENCE and time.monotonic() < end:
                    raise
                time.sleep(min(1.0, max(end - time.monotonic(), 0)))
            if time.monotonic() >= end:
                return

    def _events(
        self, kind: Kind, namespace: str | None, name: str, version: str, end: float
    ) -> Iterator[tuple[str, Object]]:
        left = min(max(end - time.monotonic(), 0.01), WATCH)
        params = {"watch": "true", "resourceVersion": version, "timeoutSeconds": str(math.ceil(left))}
        params |= {"allowWatchBookmarks": "true", **_only(name)}
        timeout = httpx2.Timeout(left if left < WATCH else left + ANSWER, connect=CONNECT)
        try:
            with self._http.stream("GET", kind.path(namespace), params=params, timeout=timeout) as response:
                if response.is_error:
                    response.read()
                    raise self._error(response)
                for line in response.iter_lines():
                    if not line:
                        continue
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise _from_status(event["object"], event["object"].get("code", 500), self.url)
                    yield event["type"], event["object"]
                    if time.monotonic() >= end:
                        return
        except httpx2.HTTPError as error:
            raise self._wrap(error, "the watch") from error
        except ValueError as error:
            raise Unreachable("a watch sent something that is no JSON", address=self.url) from error

    def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        params: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Object:
        answer = self._answer(method, path, body, params=params, content_type=content_type)
        if not isinstance(answer, dict):
            remedy = "Check the address: this is no tranship server."
            raise Unreachable("the answer is no object", address=self.url, remedy=remedy)
        return answer

    def _answer(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        params: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Any:
        try:
            response = self._http.request(
                method,
                path,
                params=params,
                content=None if body is None else json.dumps(body),
                headers={} if body is None else {"Content-Type": content_type},
            )
        except httpx2.HTTPError as error:
            raise self._wrap(error, f"{method} {path}") from error
        with contextlib.suppress(TypeError, ValueError):
            date = response.headers.get("Date", "")
            self._skew = parsedate_to_datetime(date).timestamp() - time.time()
        if response.is_error:
            raise self._error(response)
        try:
            return response.json()
        except ValueError as error:
            remedy = "Check the address: this is no tranship server."
            raise Unreachable("the answer is no JSON", address=self.url, remedy=remedy) from error

    def _wrap(self, error: httpx2.HTTPError, what: str) -> TranshipError:
        if isinstance(error, httpx2.TimeoutException):
            return TimedOut(what=f"{what} at {self.url}", seconds=ANSWER, remedy="Is the server overloaded or gone?")
        text = str(error)
        if "CERTIFICATE_VERIFY_FAILED" in text or "certificate verify failed" in text:
            return Untrusted(text[:LONGEST_TEXT], address=self.url, remedy="Name the CA that signed it: --ca-file.")
        remedy = "Is `tranship serve` running? Check address and port."
        return Unreachable(text[:LONGEST_TEXT] or type(error).__name__, address=self.url, remedy=remedy)

    def _error(self, response: httpx2.Response) -> TranshipError:
        try:
            status = response.json()
        except ValueError:
            status = None
        if not isinstance(status, dict) or status.get("kind") != "Status":
            status = {"message": response.text[:LONGEST_TEXT] or response.reason_phrase}
        return _from_status(status, response.status_code, self.url)


def _trust(ca: str | None) -> Any:
    import ssl

    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise Invalid(f"is no file of CA certificates: {error}", field=ca or "CA") from error


def _only(name: str) -> dict[str, str]:
    return {"fieldSelector": f"metadata.name={name}"} if name else {}


def _path(obj: Object) -> tuple[str, str]:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _from_status(status: Mapping[str, Any], code: int, address: str) -> TranshipError:
    """One of our errors from a Kubernetes Status, so that scripts see the same exit codes whichever side found it."""
    details = status.get("details") or {}
    what, name = details.get("kind") or "object", details.get("name") or ""
    message = str(status.get("message") or status.get("reason") or f"HTTP {code}")
    if code == 401:
        remedy = "Use the token file of this server: --token-file or TRANSHIP_TOKEN_FILE."
        return Denied(message, what=f"calling {address} with this token", remedy=remedy)
    if code == 404 and name:
        return NotFound(what=what, name=name)
    if code == 409 and status.get("reason") == "AlreadyExists":
        return AlreadyExists(what=what, name=name)
    if code == 409:
        return Conflict(what=what, name=name)
    if code == 410:
        return Expired(since="then")
    remedy = str(details.get("suggestion") or "")
    if code in (400, 422):
        cause: Mapping[str, Any] = next(iter(details.get("causes") or ()), {})
        field = str(cause.get("field") or "")
        return Invalid(str(cause["message"]) if field else message, field=field or "request", remedy=remedy)
    if code in (429, 503):
        return Busy(message, what="the call", fault=f"HTTP {code}", remedy=remedy)
    return TranshipError(message, remedy=remedy)
