"""Encryption of Secrets at rest: a Fernet key in a file that only its owner can read.

Called by the SQLite store. It protects a copied database file (a backup, a support bundle); whoever can read the key file
beside it can read the secrets.
"""

import os
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

from tranship.errors import Invalid


class Seal:
    def __init__(self, path: Path) -> None:
        """Reads the key, or makes one. Raises Invalid."""
        self._path = path
        try:
            key = path.read_bytes()
        except FileNotFoundError:
            key = Fernet.generate_key()
            write_private(path, key)
        try:
            self._fernet = Fernet(key)
        except ValueError:
            raise Invalid("is not a key", field=str(path), remedy="Restore the file from a backup.") from None

    def close(self, plain: bytes) -> bytes:
        return self._fernet.encrypt(plain)

    def open(self, sealed: bytes) -> bytes:
        try:
            return self._fernet.decrypt(sealed)
        except InvalidToken:
            raise Invalid(
                "this key does not open the secrets of the store",
                field=str(self._path),
                remedy="Restore the key file that belongs to this store.",
            ) from None


def write_private(path: Path, content: bytes) -> None:
    """A new file of mode 0600, durable and whole before its name appears."""
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
