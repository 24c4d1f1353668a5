"""One login at an oVirt Engine: calls in JSON, a token that is renewed, a time limit on everything.

Used by the rest of the oVirt provider, from several threads. Theory of operation:

- Entities go in and out as plain dicts in the Engine's JSON form (values.py reads them); paths are relative to the API,
  `vms/ID/start`; keyword arguments of a call are its query, and one that ends with an underscore loses it (`from_`).
- The single sign-on service says a wrong password with HTTP 400. A 401 of the API means only that the token is over, and
  that the Engine did nothing: one new token, then the call once more, whatever it was. An epoch lets the first of many
  threads renew and the others follow.
- A broken connection says nothing about what the Engine did: only reads are repeated; anything else raises Unreachable
  (temporary) and its caller looks at the world before asking again.
"""

import contextlib
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx2
import msgspec

from tranship.errors import AuthFailed, Invalid, Side, TimedOut, Unreachable, Untrusted
from tranship.providers.base import Fence, nothing_fenced
from tranship.providers.ovirt.faults import explain
from tranship.providers.ovirt.values import Entity, boolean, get, integer, many, text
from tranship.providers.trust import Certificate, Trust, describe, endpoint, unverified
from tranship.units import parse_duration

__all__ = ["Client", "Entity", "Login", "boolean", "fetch_ca", "get", "integer", "many", "text", "timeout_of"]

_API = "/ovirt-engine/api"
_CA = "/ovirt-engine/services/pki-resource?resource=ca-certificate&format=X509-PEM-CA"
_SCOPE = "ovirt-app-api"
_CONNECT = 15.0  # seconds: a host that does not take a connection by then will not
_TIMEOUT = 120.0  # seconds for an answer unless the settings say more; listings with `follow` take long on a big Engine
_NO_ENGINE = "Write the address as https://ENGINE/ovirt-engine/api, and check that ovirt-engine runs there."


@dataclass(frozen=True, slots=True)
class Login:
    """Where and as whom (`admin@internal`). The repr hides the password."""

    url: str
    user: str
    password: str = field(repr=False)
    trust: Trust = field(default=Trust(), repr=False)

    @classmethod
    def of(cls, url: str, secret: Mapping[str, str]) -> "Login":
        """Raises Invalid."""
        endpoint(url)
        return cls(url, secret.get("user", ""), secret.get("password", ""), Trust.of(secret))


def timeout_of(settings: Mapping[str, str]) -> float:
    """Seconds that an answer may take: settings.ovirtClientTimeout, a duration such as 30m. Raises Invalid."""
    try:
        seconds = parse_duration(settings["ovirtClientTimeout"]) if settings.get("ovirtClientTimeout") else _TIMEOUT
        if seconds <= 0:
            raise ValueError("no time is too little for an answer")
    except ValueError as error:
        remedy = "Write a duration such as 90s or 30m, or leave it out."
        raise Invalid(str(error), field="spec.settings.ovirtClientTimeout", remedy=remedy) from error
    return seconds


def fetch_ca(url: str, timeout: float = 10.0) -> Certificate:
    """The CA that the Engine offers of itself. Nothing proves it: it is for a person to look at and to compare with what
    the administrator knows, before it goes into the secret's `cacert`. Raises Unreachable, Invalid."""
    host, port = endpoint(url)
    address = _netloc(host, port)
    try:
        with httpx2.Client(verify=unverified(), timeout=timeout, trust_env=False) as http:
            answer = http.get(f"https://{address}{_CA}")
    except httpx2.HTTPError as error:
        raise Unreachable(
            f"fetch the CA: {error or type(error).__name__}", address=address, side=Side.SOURCE
        ) from error
    try:
        answer.raise_for_status()
        return describe(ssl.PEM_cert_to_DER_cert(answer.text.strip()))
    except (httpx2.HTTPError, ValueError) as error:
        detail = f"it offers no CA certificate (HTTP {answer.status_code})"
        raise Unreachable(detail, address=address, side=Side.SOURCE, remedy=_NO_ENGINE) from error


class Client:
    """timeout: seconds for each wait on the network."""

    def __init__(self, login: Login, *, timeout: float = _TIMEOUT, fence: Fence = nothing_fenced) -> None:
        self.login = login
        self.timeout = timeout
        self._fence = fence
        self.host, self.port = endpoint(login.url)
        self.netloc = _netloc(self.host, self.port)
        path = urlsplit(login.url).path.rstrip("/")
        self._api = path if path not in ("", "/ovirt-engine") else _API
        self._lock = threading.Lock()
        self._epoch = 0
        self._token = ""
        self._http: httpx2.Client | None = None
        self._certificate = b""
        self._version: tuple[int, ...] = ()

    def sibling(self) -> "Client":
        """The same login with a session of its own, for a thread whose long listings must disturb nobody."""
        return Client(self.login, timeout=self.timeout, fence=self._fence)

    # -- calls -------------------------------------------------------------------------------------------------------

    def get(self, path: str, **query: Any) -> Entity:
        return self._call("GET", path, None, query)

    def list(self, path: str, kind: str, **query: Any) -> "list[Entity]":
        """The members of a collection: the Engine wraps them by `kind` ({"vm": [...]}) and leaves out what is empty."""
        found = self.get(path, **query).get(kind, [])
        return found if isinstance(found, list) else [found]

    def pages(self, path: str, kind: str, *, size: int, by: str = "name", **query: Any) -> Iterator[Sequence[Entity]]:
        """A searchable collection, `size` members at a time, sorted. What is renamed meanwhile may come twice or never:
        whoever needs the truth reads on with events."""
        page = 1
        while found := self.list(path, kind, search=f"sortby {by} page {page}", max=size, **query):
            yield found
            if len(found) < size:
                return
            page += 1

    def post(self, path: str, body: Mapping[str, Any], **query: Any) -> Entity:
        return self._call("POST", path, body, query)

    def put(self, path: str, body: Mapping[str, Any], **query: Any) -> Entity:
        return self._call("PUT", path, body, query)

    def delete(self, path: str, **query: Any) -> Entity:
        return self._call("DELETE", path, None, query)

    def action(self, path: str, **body: Any) -> Entity:
        """An action such as vms/ID/stop. One that needs a query goes by `post`."""
        return self._call("POST", path, body, {})

    # -- session -----------------------------------------------------------------------------------------------------

    def connect(self) -> int:
        """Log in unless that was done. Returns the epoch of the token. Raises Unreachable, Untrusted, AuthFailed."""
        if not self._epoch:
            self._log_in(0)
        return self._epoch

    @property
    def about(self) -> Entity:
        """The API's root: product_info and the counts. Asked anew each time, so it is a sign of life too."""
        about = self.get("")
        self._version = _version(about)
        if not self._version:
            detail = "it does not say which version it is"
            raise Unreachable(detail, address=self.netloc, side=Side.SOURCE, remedy=_NO_ENGINE)
        return about

    @property
    def version(self) -> tuple[int, ...]:
        """(4, 5, 6), as of the last look at `about`."""
        return self._version or _version(self.about)

    @property
    def sha1(self) -> str:
        """SHA-1 fingerprint of the Engine's certificate as the verified connection showed it."""
        self.connect()
        return describe(self._certificate).sha1

    def close(self) -> None:
        """Revoke the token, if that is easy. The next call logs in again."""
        with self._lock:
            http, token = self._http, self._token
            self._http, self._token, self._epoch = None, "", 0
        if http is None:
            return
        with contextlib.suppress(httpx2.HTTPError):
            form = {"scope": _SCOPE, "token": token}
            http.post(self._service("/services/sso-logout"), data=form, timeout=min(self.timeout, _CONNECT))
        http.close()

    def _service(self, name: str) -> str:
        return f"https://{self.netloc}{self._api.removesuffix('/api')}{name}"

    def _log_in(self, seen: int) -> None:
        with self._lock:
            if self._epoch != seen:
                return
            if self._http is None:
                self._http = self._open()
            self._token = self._new_token(self._http)
            self._epoch = seen + 1

    def _open(self) -> httpx2.Client:
        brief = min(self.timeout, _CONNECT)
        try:
            context = self.login.trust.context(self.host, self.port, brief)
            self._certificate = self.login.trust.verified_certificate(self.host, self.port, context, brief)
        except Untrusted as error:
            raise self._untrusted(error.detail) from error
        return httpx2.Client(
            verify=context,
            headers={"Accept": "application/json", "Version": "4"},
            timeout=httpx2.Timeout(self.timeout, connect=brief),
            limits=httpx2.Limits(max_connections=20, keepalive_expiry=3.0),  # Apache's default is 5 s
            trust_env=False,  # a proxy has no business between a controller and a management network
        )

    def _new_token(self, http: httpx2.Client) -> str:
        form = {
            "grant_type": "password",
            "scope": _SCOPE,
            "username": self.login.user,
            "password": self.login.password,
        }
        answer = self._send(http, "log in", "POST", self._service("/sso/oauth/token"), data=form)
        said = _json(answer) or {}
        if answer.status_code in (400, 401, 403) or "error" in said:
            detail = text(said, "error_description") or text(said, "error") or f"HTTP {answer.status_code}"
            raise AuthFailed(detail[:300], address=self.netloc, user=self.login.user, side=Side.SOURCE)
        if answer.status_code != 200 or not text(said, "access_token"):
            detail = f"it gives no token (HTTP {answer.status_code})"
            raise Unreachable(detail, address=self.netloc, side=Side.SOURCE, remedy=_NO_ENGINE)
        return text(said, "access_token")

    # -- the wire ----------------------------------------------------------------------------------------------------

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None, query: Mapping[str, Any]) -> Entity:
        path = path.removeprefix(self._api).strip("/")
        epoch = self.connect()
        answer = self._ask(method, path, body, query)
        if answer.status_code == 401:
            self._log_in(epoch)
            answer = self._ask(method, path, body, query)
        what = f"{method} {path or 'api'}"
        if not answer.is_success:
            raise explain(answer.status_code, answer.content, what, path, address=self.netloc, user=self.login.user)
        if not answer.content.strip():
            return {}
        said = _json(answer)
        if said is None:
            detail = f"{what}: its answer is not JSON"
            raise Unreachable(detail, address=self.netloc, side=Side.SOURCE, remedy=_NO_ENGINE)
        return said

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None, query: Mapping[str, Any]) -> httpx2.Response:
        http = self._http
        if http is None:
            raise Unreachable("the client was closed", address=self.netloc, side=Side.SOURCE)
        url = f"https://{self.netloc}{self._api}{'/' if path else ''}{path}"
        arguments: dict[str, Any] = {
            "params": {name.removesuffix("_"): _plain(value) for name, value in query.items()},
            "headers": {"Authorization": f"Bearer {self._token}"},
        }
        if body is not None:
            arguments["content"] = msgspec.json.encode(body)
            arguments["headers"]["Content-Type"] = "application/json"
        what = f"{method} {path or 'api'}"
        if method != "GET":
            self._fence()
        try:
            return self._send(http, what, method, url, **arguments)
        except Unreachable as error:
            if method != "GET" or isinstance(error.__cause__, httpx2.ConnectError):
                raise
            return self._send(http, what, method, url, **arguments)

    def _send(self, http: httpx2.Client, what: str, method: str, url: str, **arguments: Any) -> httpx2.Response:
        try:
            return http.request(method, url, **arguments)
        except httpx2.ConnectTimeout as error:
            detail = f"{what}: no connection within {min(self.timeout, _CONNECT):.0f} s"
            raise Unreachable(detail, address=self.netloc, side=Side.SOURCE) from error
        except httpx2.TimeoutException as error:
            raise TimedOut(what=f"{what} at {self.netloc}", seconds=self.timeout, side=Side.SOURCE) from error
        except (httpx2.HTTPError, RuntimeError) as error:  # RuntimeError: closed by another thread meanwhile
            refused = _certificate_error(error)
            if refused is not None:
                raise self._untrusted(refused.verify_message) from error
            detail = f"{what}: {error or type(error).__name__}"
            raise Unreachable(detail, address=self.netloc, side=Side.SOURCE) from error

    def _untrusted(self, detail: str) -> Untrusted:
        remedy = ""
        if not self.login.trust.thumbprint:
            remedy = (
                f"Fetch the Engine's CA from https://{self.netloc}{_CA}, compare its fingerprint with what the Engine's"
                " administrator says, and put it into the secret's cacert; or pin the certificate by thumbprint."
            )
        return Untrusted(detail, address=self.netloc, side=Side.SOURCE, remedy=remedy)


def _netloc(host: str, port: int) -> str:
    name = f"[{host}]" if ":" in host else host
    return name if port == 443 else f"{name}:{port}"


def _plain(value: Any) -> Any:
    return text(value) if isinstance(value, bool) else value


def _json(answer: httpx2.Response) -> Entity | None:
    """The object in the answer, None when there is none."""
    try:
        said = msgspec.json.decode(answer.content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return said if isinstance(said, dict) else None


def _version(about: Entity) -> tuple[int, ...]:
    version = get(about, "product_info", "version")
    full = text(version, "full_version").partition("-")[0].split(".")
    numbers = tuple(int(part) for part in full if part.isdecimal())
    if numbers:
        return numbers[:3]
    parts = tuple(text(version, name) for name in ("major", "minor", "build"))
    return tuple(int(part) for part in parts if part.isdecimal())


def _certificate_error(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error
