"""HTTPS: from a request's bytes to the answer's. Sign-on and the CA's address are open, everything else needs a session.

engine.py starts it. The wire's form (XML or JSON) is chosen by the Accept header, XML if it names none; `max`, `search`
and `follow` are applied here, once for all collections.
"""

import json
import socket
import threading
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import parse_qs, parse_qsl, urlsplit

from tranship.errors import TranshipError
from tranship.lab.ovirt import render, search
from tranship.lab.ovirt.render import API, Many, Node
from tranship.lab.ovirt.routes import Reply, Request, Routes
from tranship.lab.ovirt.sso import Sso
from tranship.lab.ovirt.state import Fault, State, StepFailed

LARGEST_REQUEST = 4 << 20
IDLE = 120.0
SSO = "/ovirt-engine/sso/oauth/"
LOGOUT = "/ovirt-engine/services/sso-logout"
CA = "/ovirt-engine/services/pki-resource"
ACTIONS = {
    *("start", "stop", "shutdown", "finalize", "extend", "cancel", "pause", "resume", "restore"),
    *("previewsnapshot", "commitsnapshot", "undosnapshot", "activate", "deactivate"),
}


class Dropped(Exception):
    """The connection breaks here."""


@dataclass
class Answer:
    status: int
    body: bytes = b""
    content_type: str = "application/xml"
    headers: dict[str, str] = field(default_factory=dict)
    broken: bool = False


class Dispatcher:
    def __init__(self, state: State, sso: Sso, routes: Routes) -> None:
        self.state = state
        self.sso = sso
        self.routes = routes
        self.finder = search.Finder(self.lookup)

    def serve(self, method: str, target: str, headers: Any, body: bytes) -> Answer:
        url = urlsplit(target)
        if url.path.startswith(SSO) or url.path == LOGOUT:
            return self._sign_on(method, url.path, body)
        if url.path == CA:
            return self._authority(dict(parse_qsl(url.query)))
        if url.path != API and not url.path.startswith(f"{API}/"):
            return Answer(404, b"Not Found", "text/html")
        return self._resource(method, url.path.removeprefix(API).strip("/"), url.query, headers, body)

    def _sign_on(self, method: str, path: str, body: bytes) -> Answer:
        operation = f"{method} {path.removeprefix('/ovirt-engine/').removeprefix('services/')}"
        form = {key: values[-1] for key, values in parse_qs(body.decode(errors="replace")).items()}
        self.state.faults.record(operation, path)
        broken = self._trouble(operation, "")
        if isinstance(broken, Fault):
            return Answer(broken.status, b"{}", "application/json;charset=utf-8")
        if method != "POST" or path not in (LOGOUT, f"{SSO}token"):
            return Answer(404, b"{}", "application/json;charset=utf-8")
        status, reply = self.sso.logout(form) if path == LOGOUT else self.sso.token(form)
        return Answer(status, json.dumps(reply).encode(), "application/json;charset=utf-8", broken=broken)

    def _authority(self, query: dict[str, str]) -> Answer:
        if query.get("resource") != "ca-certificate":
            return Answer(404, b"Not Found", "text/html")
        return Answer(200, self.state.identity.ca_pem.encode(), "application/x-x509-ca-cert")

    def _resource(self, method: str, path: str, query: str, headers: Any, body: bytes) -> Answer:
        as_json = "json" in headers.get("Accept", "")
        operation = self.routes.operation(method, path)
        vm = self._subject(path)
        self.state.faults.record(operation, path, vm)
        broken = self._trouble(operation, vm)
        try:
            if isinstance(broken, Fault):
                raise broken
            if not self.sso.known(headers.get("Authorization", "")):
                challenge = {"WWW-Authenticate": 'Bearer realm="ovirt-engine"'}
                return Answer(401, b"<html><body>Unauthorized</body></html>", "text/html", challenge)
            values = {key: value[-1] for key, value in parse_qs(query, keep_blank_values=True).items()}
            content = render.read(body, headers.get("Content-Type", ""))
            correlation = values.get("correlation_id") or headers.get("Correlation-Id", "")
            reply = self._run(Request(method, path, values, content, correlation))
            answer = _written(reply, as_json)
        except (Fault, render.Malformed, search.BadSearch, TranshipError, StepFailed) as error:
            answer = _fault(error, as_json, action=method == "POST" and path.split("/")[-1] in ACTIONS)
        except Exception as bug:
            traceback.print_exc()
            answer = _fault(Fault(500, repr(bug)), as_json)
        answer.broken = broken is True
        return answer

    def _trouble(self, operation: str, vm: str) -> bool | Fault:
        """Before the effect; True if the connection shall break after it."""
        broken = False
        for script in self.state.faults.due(operation, vm):
            self.state.pause(script.delay)
            while script.hold and not self.state.closing.is_set() and not script.released.wait(0.02):
                pass
            if script.expire:
                self.sso.expire_all()
            if script.drop == "before":
                raise Dropped
            broken = broken or script.drop == "after"
            if script.status:
                return Fault(script.status, script.detail or "Cannot run action: a script says so.")
        return broken

    def _subject(self, path: str) -> str:
        """The name of the VM that a path is about."""
        parts = path.split("/")
        vm = None
        if parts[0] == "vms" and len(parts) > 1:
            vm = self.state.vms.get(parts[1])
        elif parts[0] == "imagetransfers" and len(parts) > 1:
            transfer = self.state.transfers.get(parts[1])
            vm = transfer.vm if transfer else None
        return vm.name if vm else ""

    def _run(self, request: Request) -> Reply:
        handler, ids = self.routes.find(request.method, request.path)
        reply = handler(request, *ids)
        if request.method != "GET" or reply.body is None:
            return reply
        with self.state.lock:
            return Reply(self._shaped(request, reply.body), reply.status)

    def _shaped(self, request: Request, body: Node | Many) -> Node | Many:
        paths = search.paths_of(request.query.get("follow", ""))
        if isinstance(body, Node):
            self.finder.follow(body, paths)
            return body
        asked = search.parse(request.query.get("search", ""))
        maximum = request.query.get("max", "")
        if maximum and not maximum.lstrip("-").isdigit():
            raise search.BadSearch(f"max={maximum}")
        chosen = self.finder.select(body.items, asked, int(maximum or -1))
        for node in chosen:
            self.finder.follow(node, paths)
        return Many(body.tag, chosen, body.name)

    def lookup(self, path: str) -> Node:
        """The resource behind a reference; the reference itself where the lab has no such resource."""
        try:
            handler, ids = self.routes.find("GET", path)
            body = handler(Request("GET", path), *ids).body
        except Fault:
            body = None
        return body if isinstance(body, Node) else Node(path.split("/")[-2].rstrip("s"), path.split("/")[-1], path)


def _written(reply: Reply, as_json: bool) -> Answer:
    body = reply.body if reply.body is not None else Node("action", fields={"status": "complete"})
    data = render.to_json(body) if as_json else render.to_xml(body)
    headers = {}
    if isinstance(body, Node) and reply.status in (201, 202):
        headers["Location"] = f"{API}/{body.path}"
    return Answer(reply.status, data, "application/json" if as_json else "application/xml;charset=UTF-8", headers)


def _fault(error: Exception, as_json: bool, action: bool = False) -> Answer:
    """A failed action answers with itself and the fault in it."""
    if isinstance(error, Fault):
        status, node = error.status, render.fault(error.detail, error.reason)
    elif isinstance(error, render.Malformed | search.BadSearch):
        status, node = 400, render.fault(str(error), "Request syntactically incorrect.")
    else:
        status, node = 400, render.fault(str(error))
    if action:
        node = Node("action", fields={"fault": node, "status": "failed"})
    data = render.to_json(node) if as_json else render.to_xml(node)
    return Answer(status, data, "application/json" if as_json else "application/xml;charset=UTF-8")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "tranship-lab"
    wbufsize = -1  # header and body in one segment, else each call pays 44 ms to Nagle and the delayed ACK
    disable_nagle_algorithm = True
    timeout = IDLE
    server: "Server"

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: `engine.calls` is the log."""

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if length > LARGEST_REQUEST:
            raise Dropped
        body = self.rfile.read(length) if length else b""
        answer = self.server.dispatcher.serve(self.command, self.path, self.headers, body)
        if answer.broken:
            raise Dropped
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)
        self.wfile.flush()

    do_GET = do_POST = do_PUT = do_DELETE = _serve


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, state: State, dispatcher: Dispatcher, host: str, port: int) -> None:
        super().__init__((host, port), Handler)
        self.state = state
        self.dispatcher = dispatcher
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In the connection's own thread, so that a client that dawdles in the handshake holds up nobody."""
        request.settimeout(IDLE)
        with suppress(OSError, Dropped, ValueError):
            secure = self.state.identity.context.wrap_socket(request, server_side=True)
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

    def drop_connections(self) -> None:
        with self._guard:
            for connection in list(self._open):
                _cut(connection)

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        self.drop_connections()

    @property
    def port(self) -> int:
        return cast("tuple[str, int]", self.server_address)[1]


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    with suppress(OSError):
        connection.close()
