"""The server's own certificate, for TLS on a host that has none: made at first start, renewed at a start before it ends.

Called by the composition root. kubectl sends its token over TLS only. A new CA signs each certificate and its key is thrown
away, so that nothing else can ever be signed with what `ca.crt` makes clients trust.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tranship.store.seal import write_private

LIFETIME = timedelta(days=397)  # the longest that today's TLS clients take
RENEW = timedelta(days=60)
_CLOCK_SKEW = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM files: the CA that clients have to trust, the certificate and its key (0600)."""

    ca: Path
    certificate: Path
    key: Path


def own_certificate(
    directory: Path, hosts: Sequence[str] = ("localhost", "127.0.0.1", "::1"), *, now: datetime | None = None
) -> Certificate:
    """The certificate in the directory; a new one where there is none for these hosts that lasts."""
    files = Certificate(directory / "ca.crt", directory / "server.crt", directory / "server.key")
    now = now or datetime.now(UTC)
    if not _lasts(files, hosts, now):
        _make(files, hosts, now)
    return files


def _lasts(files: Certificate, hosts: Sequence[str], now: datetime) -> bool:
    try:
        ca, found = (x509.load_pem_x509_certificate(path.read_bytes()) for path in (files.ca, files.certificate))
        key = serialization.load_pem_private_key(files.key.read_bytes(), None)
        found.verify_directly_issued_by(ca)
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except Exception:  # whatever is wrong with the files, new ones are right
        return False
    fitting = key.public_key() == found.public_key() and list(names) == _names(hosts)
    return fitting and found.not_valid_before_utc <= now < found.not_valid_after_utc - RENEW


def _make(files: Certificate, hosts: Sequence[str], now: datetime) -> None:
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"tranship CA {now:%Y-%m-%d %H:%M:%S}")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tranship")])
    ca = (
        _builder(issuer, issuer, ca_key, ca_key, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    certificate = (
        _builder(subject, issuer, key, ca_key, now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(_names(hosts)), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pkcs8, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    write_private(files.key, key.private_bytes(serialization.Encoding.PEM, pkcs8, plain))
    write_private(files.certificate, certificate.public_bytes(serialization.Encoding.PEM))
    write_private(files.ca, ca.public_bytes(serialization.Encoding.PEM))


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    ca_key: ec.EllipticCurvePrivateKey,
    now: datetime,
) -> x509.CertificateBuilder:
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    return (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + LIFETIME - _CLOCK_SKEW)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(authority, critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return names
