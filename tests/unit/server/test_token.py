"""The token's file: made once, private, kept."""

from pathlib import Path

import pytest

from tranship.errors import Invalid
from tranship.server.auth import read_token


def test_the_token_is_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "token"
    token = read_token(path)
    assert len(token) >= 40 and path.stat().st_mode & 0o777 == 0o600
    assert read_token(path) == token
    assert read_token(tmp_path / "other") != token


def test_a_token_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    read_token(path)
    path.chmod(0o644)
    with pytest.raises(Invalid, match="other users may read"):
        read_token(path)


def test_an_empty_file_is_no_token(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.touch(0o600)
    with pytest.raises(Invalid, match="holds no token"):
        read_token(path)
