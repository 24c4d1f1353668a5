"""Govmomi's simulator as a server for our client: built once into the user's cache, started per test module.

    python tests/contract/vcsim/process.py      builds it and prints where it is

Loaded by the contract tests of the vSphere provider with runpy.
"""

import datetime
import hashlib
import ipaddress
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HERE = Path(__file__).parent
USER, PASSWORD = "administrator@vsphere.local", "pass: <word> & more"
BUILD_SECONDS = 900


class Unavailable(Exception):
    """It cannot be built here; the text says why."""


def binary() -> Path:
    """The program, built when its sources or the compiler changed. Raises Unavailable without Go."""
    go = shutil.which("go")
    if go is None:
        raise Unavailable("Go is not installed")
    mark = hashlib.sha256()
    for name in ("go.mod", "go.sum", "main.go"):
        mark.update((HERE / name).read_bytes())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tranship"
    path = cache / f"vcsim-{mark.hexdigest()[:16]}"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(f".{os.getpid()}")
        argv = [go, "build", "-trimpath", "-o", str(fresh), "."]
        built = subprocess.run(argv, cwd=HERE, capture_output=True, text=True, timeout=BUILD_SECONDS)
        if built.returncode:
            raise Unavailable(f"go build ended with {built.returncode}: {built.stderr[-2000:]}")
        fresh.rename(path)
    return path


@dataclass(frozen=True)
class Identity:
    """A CA and a server certificate for 127.0.0.1 that it issued."""

    ca: str
    certificate: Path
    key: Path


def identity(folder: Path) -> Identity:
    now = datetime.datetime.now(datetime.UTC)

    def make(
        subject: str, issuer: str, signer: ec.EllipticCurvePrivateKey | None
    ) -> tuple[ec.EllipticCurvePrivateKey, str]:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=signer is None, path_length=None), critical=True)
        )
        if signer is not None:
            names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
            builder = builder.add_extension(names, critical=False)
        signed = builder.sign(signer or key, hashes.SHA256())
        return key, signed.public_bytes(serialization.Encoding.PEM).decode()

    ca_key, ca = make("Test CA", "Test CA", None)
    key, certificate = make("vcsim", "Test CA", ca_key)
    (folder / "cert.pem").write_text(certificate)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(private)
    return Identity(ca, folder / "cert.pem", folder / "key.pem")


class Server:
    """One simulator process; it ends when its standard input does, also when the tests are killed."""

    def __init__(self, folder: Path, vms: int = 2) -> None:
        self.identity = identity(folder)
        argv = [str(binary()), "-vms", str(vms), "-user", USER, "-password", PASSWORD]
        argv += ["-cert", str(self.identity.certificate), "-key", str(self.identity.key)]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)


if __name__ == "__main__":
    print(binary())
