"""Whose backup it is: told by its id, on newer Engines by its description too."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tranship.errors import Refused
from tranship.providers.ovirt import backups

VM = "0b9e7a52-6a5f-4c1e-9c39-5b1e2a1d7f00"
OTHER = "11111111-6a5f-4c1e-9c39-5b1e2a1d7f00"


@given(st.integers(0, 0xFFFFFFFF), st.integers(1, 0xFFFF))
def test_a_name_survives_in_the_id(mark: int, round_: int) -> None:
    name = f"tranship-{mark:08x}-{VM}-{round_}"
    id = backups.new_id(name, VM)
    assert backups.name_of(id, "", VM) == name
    assert [len(part) for part in id.split("-")] == [8, 4, 4, 4, 12]


def test_the_same_name_has_another_id_each_time() -> None:
    name = f"tranship-01234567-{VM}-1"
    assert len({backups.new_id(name, VM) for _ in range(20)}) > 15


@pytest.mark.parametrize(
    ("id", "description", "name"),
    [
        ("01234567-0002-4abc-8def-7472616e7368", "", f"tranship-01234567-{VM}-2"),
        (OTHER, f"tranship-01234567-{VM}-2", f"tranship-01234567-{VM}-2"),
        (OTHER, f"tranship-01234567-{OTHER}-2", ""),
        (OTHER, "nightly", ""),
        ("01234567-0002-4abc-9def-7472616e7368", "", ""),
    ],
)
def test_name_of(id: str, description: str, name: str) -> None:
    assert backups.name_of(id, description, VM) == name


@pytest.mark.parametrize("name", ["nightly", f"tranship-01234567-{OTHER}-2", f"tranship-01234567-{VM}-70000"])
def test_no_id_for_what_is_not_ours(name: str) -> None:
    with pytest.raises(Refused):
        backups.new_id(name, VM)
