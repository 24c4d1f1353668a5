"""Real servers for the transfer tests: nbdkit and qemu-nbd on unix sockets, HTTPS in a thread."""

import datetime
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Serve = Callable[..., str]


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        threading.Event().wait(0.01)


@pytest.fixture
def nbdkit(tmp_path: Path) -> Iterator[Serve]:
    """nbdkit(*arguments) -> URL. Arguments as on its command line, the plugin first or after filters."""
    servers: list[subprocess.Popen[bytes]] = []

    def serve(*arguments: str) -> str:
        number = len(servers)
        socket, pid = tmp_path / f"nbd{number}", tmp_path / f"nbd{number}.pid"
        place = [] if "-p" in arguments else ["-U", str(socket)]
        servers.append(subprocess.Popen(["nbdkit", "-f", *place, "-P", str(pid), *arguments]))
        wait_for(pid.exists)
        return f"nbd+unix:///?socket={socket}"

    yield serve
    for server in servers:
        server.kill()
        server.wait(10)


@pytest.fixture
def qemu_nbd(tmp_path: Path) -> Iterator[Serve]:
    """qemu_nbd(image, *options) -> URL of export "disk"."""
    servers: list[subprocess.Popen[bytes]] = []

    def serve(image: Path, *options: str) -> str:
        socket, pid = tmp_path / f"qemu{len(servers)}", tmp_path / f"qemu{len(servers)}.pid"
        argv = ["qemu-nbd", "-r", "-t", "-e", "8", "-x", "disk", "-k", str(socket), "--pid-file", str(pid)]
        servers.append(subprocess.Popen([*argv, *options, str(image)]))
        wait_for(pid.exists)
        return f"nbd+unix:///disk?socket={socket}"

    yield serve
    for server in servers:
        server.kill()
        server.wait(10)


class Authority:
    """A certificate authority and one certificate of it for localhost."""

    def __init__(self, folder: Path) -> None:
        now = datetime.datetime.now(datetime.UTC)
        span = (now - datetime.timedelta(days=1), now + datetime.timedelta(days=2))
        key, ca_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        ca_name, name = _name("Test CA"), _name("localhost")
        ca = _builder(ca_name, ca_name, ca_key.public_key(), span)
        ca = ca.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        leaf = _builder(name, ca_name, key.public_key(), span)
        names: list[x509.GeneralName] = [x509.DNSName("localhost")]
        leaf = leaf.add_extension(x509.SubjectAlternativeName(names), critical=False)
        self.certificate = leaf.sign(ca_key, hashes.SHA256())
        self.pem = ca.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        chain = folder / "server.pem"
        chain.write_bytes(private + self.certificate.public_bytes(serialization.Encoding.PEM))
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(chain)

    def fingerprint(self, algorithm: hashes.HashAlgorithm) -> str:
        return self.certificate.fingerprint(algorithm).hex(":").upper()


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    span: tuple[datetime.datetime, datetime.datetime],
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(span[0]).not_valid_after(span[1])


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def https(authority: Authority) -> Iterator[Callable[[type[BaseHTTPRequestHandler]], int]]:
    """https(handler) -> port on localhost, with a certificate of `authority`."""
    servers: list[ThreadingHTTPServer] = []

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None: ...

        def get_request(self) -> tuple[ssl.SSLSocket, object]:
            raw, address = super().get_request()
            return authority.context.wrap_socket(raw, server_side=True, do_handshake_on_connect=False), address

    def serve(handler: type[BaseHTTPRequestHandler]) -> int:
        server = Quiet(("127.0.0.1", 0), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return int(server.server_address[1])

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()
