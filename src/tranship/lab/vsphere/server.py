"""HTTPS and dispatch: SOAP on /sdk, leases on /nfc, datastore files on /folder. Runs what center.py registers.

A method's implementation is the attribute of that name on one of center.py's services; it is called with the Call and the
arguments by their wire names, under the world's lock. A method that nobody implements answers NotSupported.
"""

import base64
import re
import socket
import threading
import traceback
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol, cast

from tranship.errors import TranshipError
from tranship.lab.vsphere import soap
from tranship.lab.vsphere.calls import Call, Dropped, Session
from tranship.lab.vsphere.faults import Script
from tranship.lab.vsphere.folder import DatastoreFolder
from tranship.lab.vsphere.machine import LabVM
from tranship.lab.vsphere.privileges import Privileges
from tranship.lab.vsphere.sessions import OPEN, Sessions, not_authenticated
from tranship.lab.vsphere.state import State
from tranship.lab.vsphere.transfers import Answer, Transfers
from tranship.lab.vsphere.views import unsupported
from tranship.lab.vsphere.vmomi import F_OPTIONAL, Fault
from tranship.lab.vsphere.world import SESSION, declared_type

_COOKIE = re.compile(r'vmware_soap_session="?([^";,\s]+)')
LARGEST_REQUEST = 16 << 20
IDLE = 120.0


class Upkeep(Protocol):
    def sweep(self) -> None: ...


@dataclass(frozen=True)
class Services:
    """`methods`: the objects whose CamelCase attributes implement methods of the API. `upkeep`: done before each call."""

    sessions: Sessions
    upkeep: Upkeep
    privileges: Privileges
    transfers: Transfers
    folder: DatastoreFolder
    methods: tuple[object, ...]


class Dispatcher:
    """From the bytes of a request to the bytes of its answer."""

    def __init__(self, state: State, services: Services) -> None:
        self.state = state
        self.services = services
        self.methods: dict[str, Any] = {}
        for service in services.methods:
            for name in dir(service):
                if name[:1].isupper():
                    self.methods[name] = getattr(service, name)

    def serve(self, body: bytes, cookie: str, action: str, address: str, agent: str) -> tuple[int, bytes, str, bool]:
        """Status, body, new cookie, and whether the connection shall break instead of the answer."""
        version = soap.version_of(action)
        call: Call | None = None
        scripts: list[Script] = []
        try:
            request = soap.parse(body, version)
            session = self.services.sessions.find(cookie)
            self.services.upkeep.sweep()
            name = self._subject(request.this)
            self.state.faults.record(request.method, name, session.user if session else "")
            scripts = self.state.faults.due(request.method, name, "call")
            session = self._trouble(scripts, session)
            call = self._call(request, session, version, address, agent)
            result, declared = self._run(call, request)
            data = soap.response(request.method, result, declared, version)
            status = 200
        except Fault as error:
            status, data = 500, soap.fault(error, version)
        except ValueError as error:
            status, data = 500, soap.fault(soap.fault_named("InvalidRequest", str(error)), version)
        except TranshipError as error:
            status, data = 500, soap.fault(soap.fault_named("SystemError", str(error), reason=str(error)), version)
        except Exception as bug:
            if isinstance(bug, Dropped):
                raise
            traceback.print_exc()
            status, data = 500, soap.fault(soap.fault_named("SystemError", repr(bug), reason=repr(bug)), version)
        broken = any(script.drop == "after" for script in scripts)
        return status, data, call.set_cookie if call else "", broken

    def _subject(self, moid: str) -> str:
        """The name of the VM that a call is about."""
        item = self.state.world.objects.get(moid)
        vm = item if isinstance(item, LabVM) else getattr(item, "vm", None)
        return vm.name if isinstance(vm, LabVM) else ""

    def _trouble(self, scripts: list[Script], session: Session | None) -> Session | None:
        for script in scripts:
            self.state.pause(script.delay)
            if script.drop == "before":
                raise Dropped
            if script.expire and session:
                self.services.sessions.end(session)
                session = None
            if error := script.error():
                raise error
        return session

    def _call(self, request: soap.Request, session: Session | None, version: str, address: str, agent: str) -> Call:
        anonymous = request.method in OPEN or (request.method, request.this) == ("Fetch", "ServiceInstance")
        if session is None and not anonymous:
            raise not_authenticated()
        item = self.state.world.find(request.this)
        if request.info is not None and not issubclass(item.kind, request.info.type):
            raise ValueError(f"{request.this} has no method {request.method}")
        return Call(request.method, item, session, version, address, agent)

    def _run(self, call: Call, request: soap.Request) -> tuple[Any, Any]:
        method = self.methods.get(call.method)
        if method is None:
            raise unsupported(call.method)
        if request.info is None:
            path = request.arguments.get("prop", "")
            declared = declared_type(call.this.kind, path)
        else:
            self.services.privileges.demand(request.info.privId, call.this)
            declared = request.info.result
            for parameter in request.info.params:
                missing = request.arguments.get(parameter.name) is None
                if missing and not parameter.flags & F_OPTIONAL and not issubclass(parameter.type, str):
                    raise ValueError(f"{call.method} needs {parameter.name}")
        arguments = {name: value for name, value in request.arguments.items() if value is not None}
        return self._locked(call, method, arguments, declared), declared

    def _locked(self, call: Call, method: Any, arguments: dict[str, Any], declared: Any) -> Any:
        token = SESSION.set(call.session)
        try:
            with self.state.world.lock:
                if call.session:
                    call.session.calls += 1
                try:
                    result = method(call, **arguments)
                    return result if isinstance(result, soap.Raw) else soap.coerce(result, declared)
                finally:
                    if call.session:
                        call.session.calls -= 1
        except TypeError as error:
            if "required" in str(error) and "argument" in str(error):
                raise ValueError(str(error)) from error
            raise
        finally:
            SESSION.reset(token)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "tranship-lab"
    wbufsize = -1  # header and body in one segment, else each call pays 44 ms to Nagle and the delayed ACK
    disable_nagle_algorithm = True
    timeout = IDLE
    server: "Server"

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: `center.calls` is the log."""

    def do_POST(self) -> None:
        body = self._body()
        if body is None or not self.path.startswith("/sdk"):
            self._answer(Answer(404))
            return
        dispatcher, address = self.server.dispatcher, str(self.client_address[0])
        action, agent = self.headers.get("SOAPAction", ""), self.headers.get("User-Agent", "")
        status, data, fresh, broken = dispatcher.serve(body, self._cookie(), action, address, agent)
        if broken:
            raise Dropped
        headers = {"Content-Type": "text/xml; charset=utf-8"}
        if fresh:
            headers["Set-Cookie"] = f'vmware_soap_session="{fresh}"; Path=/; HttpOnly; Secure; '
        self._answer(Answer(status, iter([data]), len(data), headers))

    def do_GET(self) -> None:
        self._plain(head=False)

    def do_HEAD(self) -> None:
        self._plain(head=True)

    def _plain(self, head: bool) -> None:
        path = self.path.partition("?")[0]
        if path == "/sdk/vimServiceVersions.xml":
            data = soap.VERSIONS.encode()
            self._answer(Answer(200, iter([data]), len(data), {"Content-Type": "text/xml"}), head)
        elif path.startswith("/nfc/"):
            self._serve(f"{self.command} /nfc", "", lambda: self.server.services.transfers.download(path, head), head)
        elif path.startswith("/folder/"):
            vm = self.server.services.folder.vm(self.path)
            wanted = self.headers.get("Range", "")
            self._serve(f"{self.command} /folder", vm, lambda: self._file(wanted, head), head)
        else:
            self._answer(Answer(404), head)

    def _file(self, wanted: str, head: bool) -> Answer:
        if not self._known():
            return Answer(401, headers={"WWW-Authenticate": 'Basic realm="VMware HTTP server"'})
        if not self.server.services.privileges.granted("Datastore.FileManagement"):
            return Answer(403)
        return self.server.services.folder.answer(self.path, wanted, head)

    def _serve(self, name: str, vm: str, make: Any, head: bool) -> None:
        state = self.server.state
        state.faults.record(name, vm)
        limit: int | None = None
        for script in state.faults.due(name, vm, "call"):
            state.pause(script.delay)
            if script.expire:
                self.server.services.sessions.end_all()
            if script.drop:
                raise Dropped
            if script.status:
                self._answer(Answer(script.status), head)
                return
            limit = script.drop_after if limit is None else limit
        self._answer(make(), head, limit)

    def _known(self) -> bool:
        scheme, _, text = self.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "basic":
            with suppress(ValueError):
                user, _, password = base64.b64decode(text).decode().partition(":")
                return self.server.services.sessions.check(user, password)
            return False
        return self.server.services.sessions.find(self._cookie()) is not None

    def _cookie(self) -> str:
        match = _COOKIE.search(self.headers.get("Cookie", ""))
        return match[1] if match else ""

    def _body(self) -> bytes | None:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            return b"".join(self._chunks())
        length = int(self.headers.get("Content-Length") or 0)
        return self.rfile.read(length) if length <= LARGEST_REQUEST else None

    def _chunks(self) -> Iterator[bytes]:
        total = 0
        while size := int(self.rfile.readline(64).partition(b";")[0], 16):
            total += size
            if total > LARGEST_REQUEST:
                raise Dropped
            yield self.rfile.read(size)
            self.rfile.readline(4)
        while self.rfile.readline(4096).strip():
            pass

    def _answer(self, answer: Answer, head: bool = False, limit: int | None = None) -> None:
        """`limit`: bytes of the body after which the connection breaks."""
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        chunked = answer.length is None
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(answer.length))
        self.end_headers()
        if not head:
            self._pieces(answer.body, chunked, limit)
        self.wfile.flush()

    def _pieces(self, body: Iterable[bytes], chunked: bool, limit: int | None) -> None:
        left = limit
        for piece in body:
            if left is not None:
                piece, left = piece[:left], left - len(piece)
            if piece:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
            if left is not None and left <= 0:
                self.wfile.flush()
                raise Dropped
        if chunked:
            self.wfile.write(b"0\r\n\r\n")


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, state: State, services: Services, host: str, port: int) -> None:
        super().__init__((host, port), Handler)
        self.state = state
        self.services = services
        self.context = state.identity.context
        self.dispatcher = Dispatcher(state, services)
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In the connection's own thread, so that a client that dawdles in the handshake holds up nobody."""
        request.settimeout(IDLE)
        with suppress(OSError, Dropped, ValueError):
            secure = self.context.wrap_socket(request, server_side=True)
            with self._guard:
                self._open.add(secure)
            try:
                Handler(secure, client_address, self)
            finally:
                with self._guard:
                    self._open.discard(secure)
                _cut(secure)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not self.state.closing.is_set():
            super().handle_error(request, client_address)

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        with self._guard:
            for connection in list(self._open):
                _cut(connection)

    @property
    def port(self) -> int:
        return cast("tuple[str, int]", self.server_address)[1]


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    with suppress(OSError):
        connection.close()
