"""A mover's pod is attached to a transfer network as upstream's are."""

import json
from typing import Any

import pytest

from tranship.errors import Invalid
from tranship.providers.kubevirt import attached


def definition(**annotations: str) -> dict[str, Any]:
    named = {f"forklift.konveyor.io/{name}": value for name, value in annotations.items()}
    return {"metadata": {"namespace": "net", "name": "fast", "annotations": named or None}}


@pytest.mark.parametrize(
    ("route", "element"),
    [
        ("192.168.1.1", {"name": "fast", "namespace": "net", "default-route": ["192.168.1.1"]}),
        ("fd00::1", {"name": "fast", "namespace": "net", "default-route": ["fd00::1"]}),
        ("none", {"name": "fast", "namespace": "net"}),
    ],
)
def test_a_second_network(route: str, element: dict[str, Any]) -> None:
    made = attached.annotations(definition(route=route))
    assert list(made) == ["k8s.v1.cni.cncf.io/networks"]
    assert json.loads(made["k8s.v1.cni.cncf.io/networks"]) == [element]


def test_without_a_route_it_is_the_pods_only_one() -> None:
    assert attached.annotations(definition()) == {"v1.multus-cni.io/default-network": "net/fast"}


@pytest.mark.parametrize("route", ["", "gateway", "10.0.0.0/8"])
def test_a_route_that_is_no_address(route: str) -> None:
    with pytest.raises(Invalid, match="net/fast: forklift.konveyor.io/route") as raised:
        attached.annotations(definition(route=route))
    assert raised.value.suggestion
