"""The server's own certificate: made once, private, renewed in time."""

from datetime import UTC, datetime
from pathlib import Path

from tranship.server.tls import LIFETIME, RENEW, own_certificate

NOW = datetime(2026, 11, 1, tzinfo=UTC)


def test_it_is_made_once_and_private(tmp_path: Path) -> None:
    files = own_certificate(tmp_path, now=NOW)
    first = files.certificate.read_bytes()
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    assert {path.name for path in tmp_path.iterdir()} == {"ca.crt", "server.crt", "server.key"}
    assert own_certificate(tmp_path, now=NOW).certificate.read_bytes() == first


def test_it_is_renewed_before_it_ends_and_when_it_does_not_fit(tmp_path: Path) -> None:
    seen = {own_certificate(tmp_path, now=NOW).certificate.read_bytes()}
    later = NOW + LIFETIME - RENEW
    seen.add(own_certificate(tmp_path, now=later).certificate.read_bytes())
    seen.add(own_certificate(tmp_path, ("movers.example",), now=later).certificate.read_bytes())
    (tmp_path / "server.key").write_text("damaged")
    seen.add(own_certificate(tmp_path, ("movers.example",), now=later).certificate.read_bytes())
    assert len(seen) == 4
