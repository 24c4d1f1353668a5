"""One login at a vCenter (or ESXi): calls, bulk reads and tasks, with a time limit on everything.

Theory of operation. pyVmomi gives types and serialisation; this file owns the connection. A Client is one session, shared
by threads. Every use of the wire goes through `call` or `read`, which turn whatever happens into tranship.errors:

- NotAuthenticated means that the server did nothing, so the call is repeated after one new login, whatever it was. An
  epoch counter lets the first of many threads log in and the others follow.
- A broken connection says nothing about what the server did: only `read` (idempotent) repeats, `call` raises Unreachable
  (temporary) and its caller looks at the world before asking again.

Work that must not disturb the session of another (a long wait) takes a `sibling()`: a login of its own. Movers get
sessions of their own (lending.py).
"""

import contextlib
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse, HTTPSConnection
from typing import Any, TypeVar
from urllib.parse import urlsplit
from xml.parsers.expat import ExpatError

from tranship.errors import NotFound, Refused, Side, TimedOut, TranshipError, Unreachable, Untrusted
from tranship.providers.base import Fence, nothing_fenced
from tranship.providers.trust import Trust, describe, endpoint
from tranship.providers.vsphere import wire
from tranship.providers.vsphere.faults import explain
from tranship.providers.vsphere.sdk import (
    SoapResponseDeserializer,
    SoapStubAdapter,
    collector,
    known_versions,
    vim,
    vmodl,
)

T = TypeVar("T")

_IDLE = 20  # seconds a pooled connection may rest; vCenter's proxy hangs up on older ones without a word
_ANSWER_LIMIT = 1 << 20  # bytes of vimServiceVersions.xml
_CHUNK = 1 << 16
_OLDEST = "vim.version.version9"


@dataclass(frozen=True, slots=True)
class Login:
    """Where and as whom. The repr hides the password."""

    url: str
    user: str
    password: str = field(repr=False)
    trust: Trust = field(default=Trust(), repr=False)

    @classmethod
    def of(cls, url: str, secret: Mapping[str, str]) -> "Login":
        endpoint(url)
        return cls(url, secret.get("user", ""), secret.get("password", ""), Trust.of(secret))


class Client:
    """timeout: seconds for a connection, and for each wait on a socket. agent: what the session list calls the program."""

    def __init__(self, login: Login, *, timeout: float = 60.0, agent: str = "", fence: Fence = nothing_fenced) -> None:
        self.login = login
        self.timeout = timeout
        self.fence = fence
        self.agent = agent
        self.host, self.port = endpoint(login.url)
        self.netloc = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        self._lock = threading.Lock()
        self._epoch = 0
        self._stub: Any = None
        self._content: Any = None
        self._certificate = b""
        self._session = ""
        self._context: ssl.SSLContext | None = None

    def sibling(self) -> "Client":
        return Client(self.login, timeout=self.timeout, fence=self.fence)

    # -- session -----------------------------------------------------------------------------------------------------

    def connect(self) -> int:
        """Log in unless that was done. Returns the epoch of the login. Raises Unreachable, Untrusted, AuthFailed."""
        if not self._epoch:
            self._log_in(0)
        return self._epoch

    @property
    def content(self) -> Any:
        """The ServiceContent."""
        self.connect()
        return self._content

    @property
    def sha1(self) -> str:
        """SHA-1 fingerprint of the server's certificate as the verified connection showed it."""
        self.connect()
        return describe(self._certificate).sha1

    def touch(self) -> None:
        """A sign of life that needs a living session; renews one that has ended."""
        self.properties(self.content.rootFolder._moId, vim.Folder, ["name"])

    def close(self) -> None:
        """Log out, if it is easy."""
        with self._lock:
            stub, content, self._stub, self._content, self._epoch = self._stub, self._content, None, None, 0
        if stub is None:
            return
        self.quietly(content.sessionManager.Logout)
        stub.DropConnections()

    def _log_in(self, seen: int) -> None:
        with self._lock:
            if self._epoch != seen:
                return
            try:
                if self._stub is None:
                    self._open()
                self._stub.cookie = ""
                self._content = vim.ServiceInstance("ServiceInstance", self._stub).RetrieveContent()
                self._session = self._enter(self._content.sessionManager)
            except Exception as error:
                raise self._wrap("log in", error) from error
            self._epoch = seen + 1

    def _enter(self, manager: Any) -> str:
        """The key of the session that the connection is in from now on."""
        return str(manager.Login(self.login.user, self.login.password).key)

    def _open(self) -> None:
        self._context = self.login.trust.context(self.host, self.port, min(self.timeout, 15))
        self._certificate = self.login.trust.verified_certificate(self.host, self.port, self._context, self.timeout)
        path = urlsplit(self.login.url).path.rstrip("/") or "/sdk"
        self._stub = SoapStubAdapter(
            host=self.host,
            port=self.port,
            path=path,
            version=self._negotiate(path),
            sslContext=self._context,
            httpConnectionTimeout=self.timeout,
            connectionPoolTimeout=_IDLE,
            customHeaders={"User-Agent": self.agent} if self.agent else None,
        )

    def _negotiate(self, path: str) -> str:
        """The newest API version that both sides speak."""
        connection = HTTPSConnection(self.host, self.port, timeout=self.timeout, context=self._context)
        try:
            connection.request("GET", f"{path}/vimServiceVersions.xml")
            answer = connection.getresponse()
            body = answer.read(_ANSWER_LIMIT)
        finally:
            connection.close()
        if answer.status != 200:
            return _OLDEST
        offered = wire.versions(body)
        return next((name for name, version in known_versions() if version in offered), _OLDEST)

    # -- calls -------------------------------------------------------------------------------------------------------

    def object(self, kind: Any, moid: str) -> Any:
        """A handle on a managed object of this session; nothing is sent."""
        self.connect()
        return kind(moid, self._stub)

    def call(self, what: str, do: Callable[[], T]) -> T:
        """Run `do`, which makes one call that changes something. `what` names it in errors."""

        def fenced() -> T:
            self.fence()
            return do()

        return self._run(what, fenced, repeat=False)

    def read(self, what: str, do: Callable[[], T]) -> T:
        """Run `do`, which only reads: repeated once when the connection breaks."""
        return self._run(what, do, repeat=True)

    def quietly(self, do: Callable[[], Any]) -> None:
        """Give something back on the server. It is gone anyway when the session is."""
        with contextlib.suppress(Exception):
            do()

    def _run(self, what: str, do: Callable[[], T], *, repeat: bool) -> T:
        epoch = self.connect()
        try:
            return do()
        except vim.fault.NotAuthenticated:
            self._log_in(epoch)
        except (OSError, HTTPException) as error:
            if not repeat or isinstance(error, ssl.SSLCertVerificationError):
                raise self._wrap(what, error) from error
        except Exception as error:
            raise self._wrap(what, error) from error
        try:
            return do()
        except Exception as error:
            raise self._wrap(what, error) from error

    def _wrap(self, what: str, error: Exception) -> TranshipError:
        if isinstance(error, TranshipError):
            return error
        if isinstance(error, vmodl.MethodFault):
            return explain(error, what, address=self.netloc, user=self.login.user)
        if isinstance(error, ssl.SSLCertVerificationError):
            return Untrusted(error.verify_message, address=self.netloc, side=Side.SOURCE)
        if isinstance(error, OSError | HTTPException):
            detail = f"{what}: {error or type(error).__name__}"
            return Unreachable(detail, address=self.netloc, side=Side.SOURCE)
        if isinstance(error, ExpatError):
            detail = "the answer is not SOAP: is this the address of a vCenter or ESXi?"
            return Unreachable(detail, address=self.netloc, side=Side.SOURCE)
        detail = f"its answer cannot be read: {error}"[:300]
        return Refused(detail, what=what, fault=type(error).__name__, side=Side.SOURCE)

    # -- reading properties --------------------------------------------------------------------------------------------

    def properties(self, moid: str, kind: Any, paths: Sequence[str]) -> dict[str, Any]:
        """Properties of one object as pyVmomi's values; unset ones are absent. Raises NotFound when it is gone."""
        found = self.retrieve(moid, kind, {kind: paths})
        return next((said for item, said in found if item._moId == moid), {})

    def retrieve(
        self, moid: str, kind: Any, paths: Mapping[Any, Sequence[str]], select: Sequence[Any] = ()
    ) -> list[tuple[Any, dict[str, Any]]]:
        """Properties by kind of the object and of what `select` (traversals) reaches from it, in one call."""
        spec = collector.FilterSpec(
            objectSet=[collector.ObjectSpec(obj=self.object(kind, moid), selectSet=list(select))],
            propSet=[collector.PropertySpec(type=item, pathSet=list(wanted)) for item, wanted in paths.items()],
        )

        def ask() -> list[tuple[Any, dict[str, Any]]]:
            answer = self._content.propertyCollector.RetrievePropertiesEx([spec], collector.RetrieveOptions())
            found = answer.objects if answer else []
            for missing in (missing for item in found if item.obj._moId == moid for missing in item.missingSet):
                raise missing.fault
            return [(item.obj, {prop.name: prop.val for prop in item.propSet}) for item in found]

        return self.read(f"read {kind.__name__.rpartition('.')[2]} {moid}", ask)

    def sweep(self, specs: Sequence[Any], take: Callable[[wire.Node], None], page: int = 500) -> None:
        """RetrievePropertiesEx through the streaming reader, all pages."""
        options = collector.RetrieveOptions(maxObjects=page)
        answer = self.bulk(self.content.propertyCollector, "RetrievePropertiesEx", (list(specs), options), take)
        while token := wire.text(answer, "returnval", "token"):
            answer = self.bulk(self.content.propertyCollector, "ContinueRetrievePropertiesEx", (token,), take)

    def bulk(self, target: Any, method: str, args: tuple[Any, ...], take: Callable[[wire.Node], None]) -> wire.Node:
        """One call whose answer is read as a stream. Objects already taken are not taken back when it breaks."""
        return self.call(method, lambda: self._stream(target, method, args, take))

    def _stream(self, target: Any, method: str, args: tuple[Any, ...], take: Callable[[wire.Node], None]) -> wire.Node:
        stub = self._stub
        info = type(target)._GetMethodInfo(method)
        body = stub.SerializeRequest(target, info, args)
        headers = {
            "Cookie": stub.cookie,
            "SOAPAction": stub.versionId,
            "Content-Type": "text/xml; charset=UTF-8",
            "Accept-Encoding": "gzip",
        }
        connection = stub.GetConnection()
        try:
            connection.request("POST", stub.path, body, headers)
            answer = connection.getresponse()
            if answer.status == 500:
                fault = SoapResponseDeserializer(stub).Deserialize(answer.read(), info.result)
                raise fault if isinstance(fault, Exception) else HTTPException("500 without a fault")
            if answer.status != 200:
                raise HTTPException(f"{answer.status} {answer.reason}")
            rest = wire.read(_chunks(answer), take)
        except BaseException as error:
            connection.close()
            if isinstance(error, OSError):
                stub.DropConnections()
            raise
        stub.ReturnConnection(connection)
        return rest

    # -- tasks -----------------------------------------------------------------------------------------------------------

    def wait(self, task: Any, what: str, seconds: float) -> Any:
        """The task's result when it succeeded. Raises what its error means, TimedOut, or NotFound when the server has
        forgotten the task: then look at the world. Polls: a filter per task would leak whenever we die."""
        moid, pause = task._moId, 0.05
        deadline = time.monotonic() + seconds
        while True:
            known = self.properties(moid, vim.Task, ["info.state", "info.error", "info.result"])
            match str(known.get("info.state", "")):
                case "success":
                    return known.get("info.result")
                case "error":
                    fault = known.get("info.error")
                    raise explain(fault, what, address=self.netloc, user=self.login.user) from _cause(fault)
            if time.monotonic() + pause > deadline:
                raise TimedOut(what=what, seconds=seconds, side=Side.SOURCE)
            time.sleep(pause)
            pause = min(pause * 1.5, 1.0)

    def run(self, what: str, start: Callable[[], Any], seconds: float) -> None:
        """Start a task and wait for it. A task that the server forgot counts as ended: the caller looks at the world."""
        task = self.call(what, start)
        try:
            self.wait(task, what, seconds)
        except NotFound as error:
            if error.name != task._moId:
                raise

    # -- rights ----------------------------------------------------------------------------------------------------------

    def missing_privileges(self, wanted: Sequence[str]) -> tuple[str, ...]:
        """Which of the privileges this session lacks on the root folder. Empty when the server cannot say."""

        def ask() -> tuple[str, ...]:
            root, manager = self._content.rootFolder, self._content.authorizationManager
            has = manager.HasPrivilegeOnEntity(root, self._session, list(wanted))
            return tuple(name for name, granted in zip(wanted, has, strict=True) if not granted)

        try:
            return self.read("check privileges", ask)
        except Refused:
            return ()


def _chunks(answer: HTTPResponse) -> Iterator[bytes]:
    inflate = zlib.decompressobj(31) if answer.getheader("Content-Encoding", "").lower() == "gzip" else None
    while data := answer.read(_CHUNK):
        yield inflate.decompress(data) if inflate else data


def _cause(fault: Any) -> BaseException | None:
    return fault if isinstance(fault, BaseException) else None
