"""The union of the pages is the truth, whatever the server's page size; a page that leads nowhere is never "no changes"."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tranship.errors import Refused
from tranship.providers.vsphere.cbt import Page, collect, same_epoch

BLOCK = 64


def server(bits: list[bool], page: int, asked: list[int]):
    """Describes as many changed blocks as fit on a page, and ends the description right behind the last of them."""
    capacity = len(bits) * BLOCK

    def ask(start: int) -> Page:
        assert 0 <= start < capacity, "asking at the capacity is an InvalidArgument"
        asked.append(start)
        areas = [(at * BLOCK, BLOCK) for at in range(start // BLOCK, len(bits)) if bits[at]]
        if len(areas) <= page:
            return Page(start, capacity - start, areas)
        end = areas[page - 1][0] + BLOCK
        return Page(start, end - start, areas[:page])

    return ask


@given(st.lists(st.booleans(), min_size=1, max_size=200), st.integers(1, 7))
def test_union_of_pages_is_the_truth(bits: list[bool], page: int) -> None:
    asked: list[int] = []
    found = collect(server(bits, page, asked), len(bits) * BLOCK)
    covered = [any(extent.start <= at * BLOCK < extent.end for extent in found) for at in range(len(bits))]
    assert covered == bits
    assert all(one.end < other.start for one, other in itertools.pairwise(found))
    assert asked == sorted(set(asked))


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(Page(0, 0, []), id="length zero"),
        pytest.param(Page(128, 512, []), id="begins behind what was asked for"),
        pytest.param(Page(0, -64, []), id="goes back"),
    ],
)
def test_silence_is_not_no_changes(page: Page) -> None:
    with pytest.raises(Refused, match="were not described"):
        collect(lambda start: page, 1024)


def test_areas_end_at_the_capacity() -> None:
    assert [tuple(e) for e in collect(lambda start: Page(0, 4096, [(512, 4096), (2048, 10)]), 1024)] == [
        (512, 512, False)
    ]


def test_epochs() -> None:
    assert same_epoch("52 3c 98/446", "52 3c 98/9")
    assert not same_epoch("52 3c 98/446", "52 3c 99/446")
