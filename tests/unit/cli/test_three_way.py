"""The patch that apply makes from what was applied last, what is wished and what is there."""

from typing import Any

import pytest

from tranship.cli.apply import three_way


@pytest.mark.parametrize(
    ("last", "wish", "live", "patch"),
    [
        ({}, {"a": 1}, {"a": 1, "b": 2}, {}),
        ({"a": 1}, {"a": 2}, {"a": 1}, {"a": 2}),
        ({"a": 1, "b": 1}, {"a": 1}, {"a": 1, "b": 1}, {"b": None}),
        ({"a": 1, "b": 1}, {"a": 1}, {"a": 1}, {}),
        ({"s": {"a": 1, "b": 1}}, {"s": {"a": 1}}, {"s": {"a": 1, "b": 1, "theirs": 1}}, {"s": {"b": None}}),
        ({}, {"s": {"a": {"b": 1}}}, {"s": {}}, {"s": {"a": {"b": 1}}}),
        ({"l": [1, 2]}, {"l": [1]}, {"l": [1, 2]}, {"l": [1]}),
        ({"s": 1}, {"s": {"a": 1}}, {"s": 1}, {"s": {"a": 1}}),
    ],
)
def test_three_way(last: dict[str, Any], wish: dict[str, Any], live: dict[str, Any], patch: dict[str, Any]) -> None:
    assert three_way(last, wish, live) == patch
