"""One way to open a trusted connection, for every reader that speaks TLS.

The credentials decide how the peer is trusted: `fingerprint` pins one certificate (SHA-1 or SHA-256, hexadecimal, colons
allowed), `ca` (PEM) verifies chain and host name against that authority, neither uses the system's authorities, and
`insecure` = "true" trusts anyone. Nothing secret is sent before the peer is known. A pin that is given always counts.
"""

import hashlib
import hmac
import socket
import ssl
from collections.abc import Mapping

from tranship.errors import Invalid, Side, TimedOut, Unreachable, Untrusted


def context(credentials: Mapping[str, str]) -> ssl.SSLContext:
    """Raises Invalid for a CA that is no certificate."""
    result = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    result.minimum_version = ssl.TLSVersion.TLSv1_2
    if credentials.get("fingerprint") or credentials.get("insecure") == "true":
        result.check_hostname = False
        result.verify_mode = ssl.CERT_NONE  # `connect` compares the pin right after the handshake
    elif ca := credentials.get("ca"):
        try:
            result.load_verify_locations(cadata=ca)
        except ssl.SSLError as error:
            raise Invalid("it holds no certificate in PEM form", field="ca", side=Side.SOURCE) from error
    else:
        result.load_default_certs()
    return result


def connect(host: str, port: int, credentials: Mapping[str, str], timeout: float) -> ssl.SSLSocket:
    """A connection to a peer that is trusted. Raises Unreachable, TimedOut, Untrusted."""
    address = f"{host}:{port}"
    tls = context(credentials)
    raw = None
    try:
        raw = socket.create_connection((host, port), timeout)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        secure = tls.wrap_socket(raw, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        _close(raw)
        raise Untrusted(error.verify_message, side=Side.SOURCE, address=address) from error
    except TimeoutError as error:
        _close(raw)
        raise TimedOut(side=Side.SOURCE, what=f"connecting to {address}", seconds=timeout) from error
    except OSError as error:
        _close(raw)
        raise Unreachable(error.strerror or str(error), side=Side.SOURCE, address=address) from error
    try:
        check_pin(secure, credentials.get("fingerprint", ""), address)
    except BaseException:
        secure.close()
        raise
    return secure


def check_pin(secure: ssl.SSLSocket, fingerprint: str, address: str) -> None:
    """Raises Untrusted when the peer's certificate is not the pinned one."""
    if not fingerprint:
        return
    wanted = fingerprint.replace(":", "").strip().lower()
    certificate = secure.getpeercert(binary_form=True) or b""
    prints = {40: hashlib.sha1, 64: hashlib.sha256}
    if len(wanted) not in prints:
        raise Invalid("neither SHA-1 nor SHA-256 in hexadecimal", field="fingerprint", side=Side.SOURCE)
    if not hmac.compare_digest(prints[len(wanted)](certificate).hexdigest(), wanted):
        raise Untrusted("its fingerprint is not the pinned one", side=Side.SOURCE, address=address)


def peer_fingerprint(host: str, port: int, credentials: Mapping[str, str], timeout: float) -> str:
    """SHA-1 of the certificate of a peer that is trusted by these credentials, as AA:BB:..: some libraries want just that."""
    with connect(host, port, credentials, timeout) as secure:
        return hashlib.sha1(secure.getpeercert(binary_form=True) or b"").digest().hex(":").upper()  # noqa: S324


def _close(raw: socket.socket | None) -> None:
    if raw is not None:
        raw.close()
