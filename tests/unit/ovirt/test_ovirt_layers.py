"""What lies under a snapshot's volume, and which transfers are ours."""

from typing import Any

import pytest

from tranship.providers.ovirt.snapshots import Layer, _layer
from tranship.providers.ovirt.transfers import INACTIVITY, Wanted, open_for


def volume(id: str, snapshot: str, parent: str = "") -> dict[str, Any]:
    said: dict[str, Any] = {"id": id, "disk": {"id": "d"}, "snapshot": {"id": snapshot}}
    return said | ({"parent": {"id": parent}} if parent else {})


def test_the_volume_under_it_tells() -> None:
    chain = [volume("i2", "s2", "i1"), volume("i1", "s1", "i0"), volume("i0", "s0")]
    assert _layer(chain, "s2", ["s0", "s1", "s2"]) == Layer("i2", "s1")
    assert _layer(chain, "s0", ["s0", "s1", "s2"]) == Layer("i0", "")


def test_a_snapshot_in_between_shows() -> None:
    chain = [volume("i2", "s2", "ix"), volume("ix", "users", "i1"), volume("i1", "s1")]
    assert _layer(chain, "s2", ["s1", "users", "s2"]) == Layer("i2", "users")


def test_a_snapshot_in_between_that_leaves_the_disk_out() -> None:
    chain = [volume("i2", "s2", "i1"), volume("i1", "s1")]
    assert _layer(chain, "s2", ["s1", "users", "s2"]) == Layer("i2", "s1")


def test_a_template_lies_under_the_first() -> None:
    assert _layer([volume("i1", "s1", "template")], "s1", ["s1"]) == Layer("i1", "")


def test_older_engines_do_not_tell_and_the_order_does() -> None:
    chain = [volume("i1", "s1"), volume("i2", "s2"), volume("i3", "s3")]
    assert _layer(chain, "s3", ["s1", "other disks", "s2", "s3"]) == Layer("i3", "s2")
    assert _layer(chain, "s1", ["s1", "s2", "s3"]) == Layer("i1", "")


def test_a_disk_that_is_not_in_the_snapshot() -> None:
    assert _layer([volume("i1", "s1")], "s2", ["s1", "s2"]) is None


def transfer(**facts: Any) -> dict[str, Any]:
    own = {
        "direction": "download",
        "inactivity_timeout": str(INACTIVITY),
        "phase": "transferring",
        "image": {"id": "d"},
    }
    return {**own, **facts}


@pytest.mark.parametrize(
    "facts",
    [
        {"inactivity_timeout": "60"},
        {"direction": "upload"},
        {"phase": "finished_success"},
        {"image": {"id": "another"}},
    ],
)
def test_transfers_of_others(facts: dict[str, Any]) -> None:
    assert open_for(transfer(), "d")
    assert not open_for(transfer(**facts), "d")


def test_a_lost_transfer_is_adopted_only_when_the_engine_tells_what_it_reads() -> None:
    layer = Wanted("d", image="i1", shallow=True)
    assert not layer.surely(transfer())
    assert layer.surely(transfer(snapshot={"id": "i1"}, shallow="true"))
    assert not layer.surely(transfer(snapshot={"id": "i1"}, shallow="false"))
    assert not layer.surely(transfer(snapshot={"id": "i0"}, shallow="true"))
    assert Wanted("d", backup="b1").surely(transfer(backup={"id": "b1"}))
    assert not Wanted("d", backup="b1").surely(transfer(backup={"id": "b0"}))
    assert not Wanted("d").surely(transfer())
