"""Whom we believe to be the vCenter or Engine: a CA, one pinned certificate, or (only when asked) anybody.

Called by a platform's client before its first connection; the same Trust goes to the movers as credentials. A pin is
exact: the certificate is fetched once without trust, its fingerprint is compared, and from then on precisely that
certificate is the only trust anchor of a verifying context. pyVmomi's own `thumbprint` options are not used: they skip
checks in places.
"""

import hashlib
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from tranship.errors import Invalid, Side, Unreachable, Untrusted

_URL = "Write the address as https://HOST/sdk or https://ENGINE/ovirt-engine/api, with :PORT after the host if it is not 443."


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a user is shown before trusting it. Fingerprints as upper-case hex pairs with colons; dates in ISO 8601."""

    subject: str
    issuer: str
    names: tuple[str, ...]
    not_before: str
    not_after: str
    sha1: str
    sha256: str
    pem: str


def fingerprint(der: bytes, algorithm: str = "sha1") -> str:
    return hashlib.new(algorithm, der, usedforsecurity=False).digest().hex(":").upper()


def endpoint(url: str) -> tuple[str, int]:
    """Host and port of a provider's URL. Raises Invalid."""
    try:
        parts = urlsplit(url)
        port = parts.port or 443
    except ValueError as error:
        raise Invalid(str(error), field="spec.url", remedy=_URL) from error
    if parts.scheme != "https" or not parts.hostname:
        raise Invalid(f"{url!r} is not of the form https://HOST/PATH", field="spec.url", remedy=_URL)
    return parts.hostname, port


def fetch_certificate(url: str, timeout: float = 10.0) -> Certificate:
    """The certificate that the server shows now. Nothing is verified or sent: it is for a person to look at, or to be
    compared with a pin. Raises Unreachable."""
    host, port = endpoint(url)
    return describe(_peer_certificate(host, port, unverified(), timeout))


def describe(der: bytes) -> Certificate:
    certificate = x509.load_der_x509_certificate(der)
    names: tuple[str, ...] = ()
    try:
        extension = certificate.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value
        if isinstance(extension, x509.SubjectAlternativeName):
            names = tuple(str(name.value) for name in extension)
    except (x509.ExtensionNotFound, ValueError):
        pass
    return Certificate(
        subject=certificate.subject.rfc4514_string(),
        issuer=certificate.issuer.rfc4514_string(),
        names=names,
        not_before=certificate.not_valid_before_utc.isoformat(),
        not_after=certificate.not_valid_after_utc.isoformat(),
        sha1=fingerprint(der),
        sha256=fingerprint(der, "sha256"),
        pem=ssl.DER_cert_to_PEM_cert(der),
    )


def unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _peer_certificate(host: str, port: int, context: ssl.SSLContext, timeout: float) -> bytes:
    try:
        with socket.create_connection((host, port), timeout=timeout) as plain:
            with context.wrap_socket(plain, server_hostname=host) as secure:
                return secure.getpeercert(binary_form=True) or b""
    except ssl.SSLCertVerificationError as error:
        raise Untrusted(error.verify_message, address=f"{host}:{port}", side=Side.SOURCE) from error
    except OSError as error:
        raise Unreachable(str(error), address=f"{host}:{port}", side=Side.SOURCE) from error


@dataclass(frozen=True, slots=True)
class Trust:
    """ca: PEM bundle. thumbprint: SHA-1 or SHA-256 of the server's certificate, lower-case hex. A thumbprint is the
    narrowest promise and wins over the others; `insecure` counts only when nothing better was given."""

    ca: str = ""
    thumbprint: str = ""
    insecure: bool = False

    @classmethod
    def of(cls, secret: Mapping[str, str]) -> "Trust":
        thumbprint = "".join(secret.get("thumbprint", "").replace(":", "").split()).lower()
        if thumbprint and (len(thumbprint) not in (40, 64) or set(thumbprint) - set("0123456789abcdef")):
            remedy = "Write the 40 or 64 hex digits of the certificate's fingerprint, with or without colons."
            raise Invalid(
                "is neither a SHA-1 nor a SHA-256 fingerprint in hex", field="secret.thumbprint", remedy=remedy
            )
        ca = secret.get("ca.crt") or secret.get("cacert") or ""
        asked = secret.get("insecureSkipVerify", "").strip().lower() == "true"
        return cls(ca=ca, thumbprint=thumbprint, insecure=asked and not thumbprint)

    def context(self, host: str, port: int, timeout: float = 10.0) -> ssl.SSLContext:
        """A TLS client context for this server. Pinning connects once, to fetch what is then the only trust anchor."""
        if self.insecure:
            return unverified()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.thumbprint:
            context.check_hostname = False
            context.load_verify_locations(cadata=self._pinned(host, port, timeout))
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        elif self.ca:
            try:
                context.load_verify_locations(cadata=self.ca)
            except ssl.SSLError as error:
                remedy = "Put the CA's certificate there, from -----BEGIN CERTIFICATE----- on."
                raise Invalid("holds no certificate in PEM form", field="secret.ca.crt", remedy=remedy) from error
        else:
            context.load_default_certs()
        return context

    def _pinned(self, host: str, port: int, timeout: float) -> str:
        shown = _peer_certificate(host, port, unverified(), timeout)
        algorithm = "sha1" if len(self.thumbprint) == 40 else "sha256"
        actual = fingerprint(shown, algorithm)
        if actual.replace(":", "").lower() != self.thumbprint:
            raise Untrusted(
                f"its {algorithm} fingerprint is {actual}, which is not the pinned one",
                address=f"{host}:{port}",
                side=Side.SOURCE,
                remedy="Find out why the certificate changed, then put the new fingerprint into the secret's thumbprint.",
            )
        return ssl.DER_cert_to_PEM_cert(shown)

    def verified_certificate(self, host: str, port: int, context: ssl.SSLContext, timeout: float = 10.0) -> bytes:
        """DER of the server's certificate, from a connection that `context` has verified."""
        return _peer_certificate(host, port, context, timeout)

    def credentials(self) -> dict[str, str]:
        """What a reader of the transfer room needs to verify the same server."""
        if self.thumbprint:
            return {"fingerprint": _pairs(self.thumbprint)}
        if self.ca:
            return {"ca": self.ca}
        return {"insecure": "true"} if self.insecure else {}


def _pairs(digits: str) -> str:
    return ":".join(digits[i : i + 2] for i in range(0, len(digits), 2)).upper()
