"""What all commands share: which server to ask, and in which namespace.

Imported at every start, so it imports nothing that takes time; the HTTP client comes with the first use.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from tranship.cli.address import is_loopback
from tranship.errors import Invalid, NotFound

if TYPE_CHECKING:
    from tranship.cli.client import Client


def data_directory() -> Path:
    """Where `tranship serve` keeps its state and leaves `server` (its URL) and `token`."""
    return Path(os.environ.get("TRANSHIP_HOME") or Path.home() / ".local" / "share" / "tranship")


@dataclass
class Context:
    server: str | None = None
    token_file: str | None = None
    ca_file: str | None = None

    @cached_property
    def client(self) -> "Client":
        from tranship.cli.client import Client

        url = self._url()
        return Client(url, self._token(url), self._ca(url))

    @property
    def _told_server(self) -> str | None:
        return self.server or os.environ.get("TRANSHIP_SERVER")

    def _url(self) -> str:
        url = self._told_server or _read(data_directory() / "server", "server")
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Invalid(f"{url!r} is no address", field="server", remedy="Write it as https://HOST:PORT.")
        if parts.scheme == "http" and not is_loopback(url):
            remedy = "Use https, or a tunnel to the server's loopback address."
            raise Invalid(f"{url} would carry the token unencrypted", field="server", remedy=remedy)
        return url.rstrip("/")

    def _token(self, url: str) -> str:
        """This host's own token goes to no other host."""
        told = self.token_file or os.environ.get("TRANSHIP_TOKEN_FILE")
        if told is None and self._told_server and not is_loopback(url):
            remedy = "Say --token-file or set TRANSHIP_TOKEN_FILE."
            raise Invalid(f"is needed for {url}", field="token file", remedy=remedy)
        return _read(Path(told) if told else data_directory() / "token", "token")

    def _ca(self, url: str) -> str | None:
        """None = the system's CAs. `tranship serve` leaves its own beside its address."""
        told = self.ca_file or os.environ.get("TRANSHIP_CA_FILE")
        own = data_directory() / "ca.crt"
        if told is None and self._told_server is None and url.startswith("https:") and own.is_file():
            return str(own)
        return told


def _read(path: Path, what: str) -> str:
    remedy = f"Start `tranship serve` on this host, or say --server and --token-file (there is no {path})."
    try:
        text = path.read_text().strip()
    except FileNotFoundError:
        raise NotFound(what=f"the {what} file", name=str(path), remedy=remedy) from None
    except (OSError, UnicodeError) as error:
        raise Invalid(f"cannot be read: {error}", field=str(path)) from error
    if not text:
        raise Invalid("is empty", field=str(path), remedy=remedy)
    return text


pass_context = click.make_pass_decorator(Context)


def namespace_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "-n",
        "--namespace",
        envvar="TRANSHIP_NAMESPACE",
        default="default",
        show_default=True,
        show_envvar=True,
        help="Where the objects live.",
    )(command)
