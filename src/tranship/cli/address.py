"""Which addresses are this host: they may be spoken to without TLS, without a proxy and with this host's own token."""

from urllib.parse import urlsplit

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def is_loopback(url: str) -> bool:
    return urlsplit(url).hostname in _LOOPBACK
