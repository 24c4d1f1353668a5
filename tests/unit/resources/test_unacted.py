"""Nothing is silently ignored."""

import types
from collections.abc import Iterator
from typing import Any, get_args

import pytest

from tranship.resources.meta import ALL_KINDS, MODELS, Kind, ObjectReference, parse
from tranship.resources.model import Model
from tranship.resources.unacted import ACTED, BLOCKING, NOTES, QUIET, blocking_unacted, unacted

API = "forklift.konveyor.io/v1beta1"


def plan(**spec: Any) -> dict[str, Any]:
    pair = {"source": {"name": "vc", "kind": "Provider"}, "destination": {"name": "here"}}
    maps = {"network": {"name": "net"}, "storage": {"name": "sto"}}
    needed = {"provider": pair, "map": maps, "vms": [{"id": "vm-1"}], "targetNamespace": "t"}
    return {"apiVersion": API, "kind": "Plan", "metadata": {"name": "p"}, "spec": {**needed, **spec}}


def paths(manifest: dict[str, Any]) -> list[str]:
    return [found.path for found in unacted(parse(manifest))]


def test_a_plan_that_asks_only_for_what_is_done_gives_nothing() -> None:
    manifest = plan(type="warm", precopy={"interval": "auto"}, shutdown={"deadline": "5m"}, targetLabels={"a": "b"})
    assert unacted(parse(manifest)) == [] and blocking_unacted(parse(manifest)) == []


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"virtV2vImage": "v2v:1"}, "spec.virtV2vImage"),
        ({"preserveStaticIPs": True}, "spec.preserveStaticIPs"),
        ({"migrateSharedDisks": False}, "spec.migrateSharedDisks"),
        ({"convertorLabels": {"a": "b"}}, "spec.convertorLabels"),
        ({"convertorAffinity": {"nodeAffinity": {}}}, "spec.convertorAffinity"),
        ({"tagMapping": {"labelTags": ["a"]}}, "spec.tagMapping"),
        ({"typo": 1}, "spec.typo"),
        ({"precopy": {"intervall": "5m"}}, "spec.precopy.intervall"),
        ({"vms": [{"id": "vm-1"}, {"id": "vm-2", "rdmAsLun": True}]}, "spec.vms[1].rdmAsLun"),
        ({"vms": [{"id": "vm-1", "typo": {"a": 1}}]}, "spec.vms[0].typo"),
    ],
)
def test_what_is_not_done_is_named(spec: dict[str, Any], path: str) -> None:
    assert paths(plan(**spec)) == [path]
    assert all(found.why for found in unacted(parse(plan(**spec))))
    assert blocking_unacted(parse(plan(**spec))) == []


@pytest.mark.parametrize(
    "spec",
    [
        {"migrateSharedDisks": True},
        {"xfsCompatibility": False},
        {"description": ""},
        {"transferNetwork": {"name": "fast"}},
        {"vms": [{"id": "vm-1", "luks": {}, "hooks": []}]},
    ],
)
def test_what_asks_for_nothing_is_not_named(spec: dict[str, Any]) -> None:
    assert paths(plan(**spec)) == [] and blocking_unacted(parse(plan(**spec))) == []


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"type": "live"}, "spec.type"),
        ({"type": "conversion"}, "spec.type"),
        ({"customizationScripts": {"name": "x"}}, "spec.customizationScripts"),
        ({"vms": [{"hooks": [{"hook": {"name": "h"}, "step": "PreHook"}]}]}, "spec.vms[0].hooks"),
        ({"vms": [{"luks": {"name": "s"}}]}, "spec.vms[0].luks"),
        ({"vms": [{"nbdeClevis": True}]}, "spec.vms[0].nbdeClevis"),
    ],
)
def test_what_would_change_the_run_blocks(spec: dict[str, Any], path: str) -> None:
    assert [found.path for found in blocking_unacted(parse(plan(**spec)))] == [path]
    assert paths(plan(**spec)) == []


def test_other_kinds() -> None:
    provider = {
        "type": "vsphere",
        "secret": {"name": "s"},
        "settings": {"vddkDirectory": "/d", "vddkInitImage": "i", "vddkVolumeClaim": "c", "vddkConfig": "y", "x": "y"},
    }
    assert paths({"apiVersion": API, "kind": "Provider", "spec": provider}) == [
        "spec.settings.vddkConfig",
        "spec.settings.x",
    ]
    assert paths({"apiVersion": API, "kind": "Hook", "spec": {"image": "i"}}) == ["spec.image"]
    resumed = parse({"apiVersion": API, "kind": "Migration", "spec": {"plan": {"name": "p"}, "resumeConversion": True}})
    assert [found.path for found in blocking_unacted(resumed)] == ["spec.resumeConversion"]
    assert paths({"apiVersion": "v1", "kind": "Secret", "data": {}}) == []
    assert paths({**plan(), "specc": {}}) == ["specc"]


def leaves(model: type[Model], path: str) -> Iterator[str]:
    """Patterns of all fields below; references are one thing."""
    for name, field in model.model_fields.items():
        here = f"{path}.{field.alias or name}"
        inner, listed = field.annotation, False
        if isinstance(inner, types.UnionType):
            inner = get_args(inner)[0]
        if getattr(inner, "__origin__", None) is list:
            inner, listed = get_args(inner)[0], True
        if isinstance(inner, type) and issubclass(inner, Model) and not issubclass(inner, ObjectReference):
            yield from leaves(inner, here + "[]" * listed)
        else:
            yield here


def below(pattern: str, table: Any) -> bool:
    return any(pattern == path or pattern.startswith((f"{path}.", f"{path}[]")) for path in table)


@pytest.mark.parametrize("kind", [kind for kind in ALL_KINDS if kind.group], ids=str)
def test_every_field_stands_in_a_table(kind: Kind) -> None:
    everything = list(leaves(MODELS[kind].model_fields["spec"].annotation, "spec"))  # type: ignore[arg-type]
    acted, notes, blocking = ACTED.get(kind, ()), NOTES[kind], BLOCKING.get(kind, {})
    assert [
        path for path in everything if not (below(path, acted) or below(path, notes) or below(path, blocking))
    ] == []
    assert not (set(acted) & set(notes)) and not (set(notes) & set(blocking))
    known = everything if kind.kind != "Provider" else [*everything, *notes, *acted]
    for path in [*acted, *notes, *blocking, *(QUIET if kind.kind == "Plan" else ())]:
        assert path == "spec" or any(leaf == path or leaf.startswith((f"{path}.", f"{path}[]")) for leaf in known), path
