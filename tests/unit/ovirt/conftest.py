"""A small real HTTPS server that answers as an Engine would, by a table that a test fills."""

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tranship.providers.ovirt.client import Client, Login

PASSWORD = "secret-of-the-test"
Answer = tuple[int, Any]


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes


@dataclass
class SmallEngine:
    """answers: (method, path below the API) -> what to answer; a callable is asked. tokens: those that are good now."""

    url: str = ""
    ca: str = ""
    answers: dict[tuple[str, str], Answer | Callable[[Request], Answer | None]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    given: int = 0
    asked: threading.Condition = field(default_factory=threading.Condition)  # that a request came

    def answer(self, request: Request) -> Answer | None:
        if not request.path.startswith("/ovirt-engine/"):
            return 404, "<html>nothing here</html>"
        with self.asked:
            self.requests.append(request)
            self.asked.notify_all()
            if request.path == "/ovirt-engine/sso/oauth/token":
                return self._log_in(parse_qs(request.body.decode()))
            if request.path == "/ovirt-engine/services/sso-logout":
                self.tokens.discard(parse_qs(request.body.decode())["token"][0])
                return 200, {}
            if request.path == "/ovirt-engine/services/pki-resource":
                return 200, self.ca
            if request.headers.get("authorization", "").removeprefix("Bearer ") not in self.tokens:
                return 401, ""
        known = self.answers.get((request.method, request.path.removeprefix("/ovirt-engine/api")), (404, ""))
        return known(request) if callable(known) else known

    def _log_in(self, form: dict[str, list[str]]) -> Answer:
        if form["password"] != [PASSWORD] or form["scope"] != ["ovirt-app-api"] or form["grant_type"] != ["password"]:
            said = "Cannot authenticate user Invalid user credentials."
            return 400, {"error": "access_denied", "error_description": said}
        self.given += 1
        token = f"token-{self.given}"
        self.tokens.add(token)
        return 200, {"access_token": token, "exp": "9223372036854775807", "scope": "ovirt-app-api"}

    def calls(self, method: str = "") -> list[str]:
        """What was asked of the API."""
        api = "/ovirt-engine/api"
        return [
            item.path.removeprefix(api)
            for item in self.requests
            if item.path.startswith(api) and method in ("", item.method)
        ]

    def login(self, password: str = PASSWORD, **secret: str) -> Login:
        secret = secret or {"cacert": self.ca}
        return Login.of(self.url, {"user": "admin@internal", "password": password, **secret})


def certificate(name: str) -> tuple[bytes, bytes]:
    """PEM of a self-signed certificate for localhost, and of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(IPv4Address("127.0.0.1"))])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return made.public_bytes(serialization.Encoding.PEM), secret


@pytest.fixture(scope="session")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "engine.pem"
    path.write_bytes(b"".join(certificate("engine.test")))
    return path


@pytest.fixture
def engine(identity: Path) -> Iterator[SmallEngine]:
    engine = SmallEngine()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16  # head and body in one packet

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except OSError:
                self.close_connection = True

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = engine.answer(Request(self.command, parts.path, parse_qs(parts.query), headers, body))
            if answer is None:
                self.close_connection = True
                return
            status, said = answer
            content = said.encode() if isinstance(said, str) else json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_PUT = do_DELETE = do_GET

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *args: object) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    engine.url = f"https://localhost:{server.server_port}/ovirt-engine/api"
    text = identity.read_text()
    engine.ca = text[: text.index("-----BEGIN PRIVATE")]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield engine
    server.shutdown()
    server.server_close()


@pytest.fixture
def client(engine: SmallEngine) -> Iterator[Client]:
    client = Client(engine.login(), timeout=10)
    yield client
    client.close()
