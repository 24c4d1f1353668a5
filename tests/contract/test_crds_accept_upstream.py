"""Our definitions accept whatever the genuine ones accept, and our models keep it whole.

Two proofs: a walk over every path of the genuine schema that looks for anything stricter on our side, and instances made
from the genuine schema that have to pass ours and come back unchanged through the models.
"""

import os
import random
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from tranship.resources.crds import KEEP, crd, schema
from tranship.resources.meta import ALL_KINDS, GROUP, KINDS, parse
from tranship.resources.model import to_json

HERE = Path(__file__).parent
SCHEMAS = runpy.run_path(str(HERE / "genuine_schemas.py"))
OURS = [kind.kind for kind in ALL_KINDS if kind.group]
Schema = dict[str, Any]


@pytest.fixture(scope="module", params=["pypi", "npm"])
def genuine(request: pytest.FixtureRequest) -> dict[str, Schema]:
    try:
        schemas: dict[str, Schema] = SCHEMAS["genuine"](request.param)
    except SCHEMAS["Unavailable"] as reason:
        # one source is enough; the one that needs only Python must not be missing where it counts
        if os.environ.get("CI") and request.param == "pypi":
            pytest.fail(f"genuine schemas: {reason}")
        pytest.skip(f"genuine schemas: {reason}")
    return schemas


def theirs(genuine: dict[str, Schema], kind: str) -> Schema:
    if kind not in genuine:
        assert kind == "Conversion", f"the genuine schemas lack {kind}"
        pytest.skip("this source is older than the kind")
    properties = {**genuine[kind]["properties"], "metadata": {"type": "object"}}
    return {**genuine[kind], "properties": properties, "required": []}


def merged(schema: Schema) -> Schema:
    """With the parts of allOf taken in, as controller-gen writes a bound twice."""
    whole = {key: value for key, value in schema.items() if key != "allOf"}
    for part in schema.get("allOf", ()):
        whole |= part
    return whole


# --- the walk ----------------------------------------------------------------------------------------------------------


def stricter(theirs: Schema, ours: Schema, path: str) -> Iterator[str]:
    """Sentences on what ours refuses or loses and theirs accepts."""
    theirs = merged(theirs)
    if "type" in ours and ours["type"] != theirs.get("type") and (ours["type"], theirs.get("type")) != NUMBERS:
        yield f"{path}: type {ours['type']}, theirs {theirs.get('type')}"
        return
    if "enum" in ours and not set(theirs.get("enum", ["anything"])) <= set(ours["enum"]):
        yield f"{path}: enum {ours['enum']}, theirs {theirs.get('enum')}"
    if missing := set(ours.get("required", ())) - set(theirs.get("required", ())):
        yield f"{path}: requires {missing}"
    for bound in ("pattern", "format", "minLength", "maxLength", "minimum", "maximum", "minItems", "maxItems"):
        if bound in ours and ours[bound] != theirs.get(bound) and not (bound == "format" and ours[bound] == "int64"):
            yield f"{path}: {bound} {ours[bound]}, theirs {theirs.get(bound)}"
    yield from stricter_below(theirs, ours, path)


NUMBERS = ("number", "integer")


def stricter_below(theirs: Schema, ours: Schema, path: str) -> Iterator[str]:
    declared = ours.get("properties", {})
    others = ours.get("additionalProperties")
    if theirs.get(KEEP):
        if not ours.get(KEEP):
            yield f"{path}: loses unknown fields"
        for name in declared.keys() - theirs.get("properties", {}).keys():
            if "type" in declared[name]:
                yield f"{path}.{name}: type {declared[name]['type']}, theirs anything"
    for name, item in theirs.get("properties", {}).items():
        if name in declared:
            yield from stricter(item, declared[name], f"{path}.{name}")
        elif others:
            yield from stricter(item, others, f"{path}.{name}")
        elif not ours.get(KEEP):
            yield f"{path}.{name}: is lost"
    for key, below in (("additionalProperties", "{}"), ("items", "[]")):
        if isinstance(theirs.get(key), dict):
            if key in ours:
                yield from stricter(theirs[key], ours[key], path + below)
            elif not ours.get(KEEP):
                yield f"{path}{below}: is lost"


@pytest.mark.parametrize("kind", OURS)
def test_nothing_is_stricter_than_the_genuine_schema(genuine: dict[str, Schema], kind: str) -> None:
    assert list(stricter(theirs(genuine, kind), schema(KINDS[kind]), kind)) == []


def test_the_walk_finds_what_is_stricter() -> None:
    """The proof above is worth something only if it can fail."""
    free = {"type": "object", "properties": {"a": {"type": "string"}}}
    for tight in (
        {"type": "object", "properties": {}},
        {"type": "object", "properties": {"a": {"type": "integer"}}},
        {"type": "object", "properties": {"a": {"type": "string", "enum": ["x"]}}},
        {"type": "object", "properties": {"a": {"type": "string", "pattern": "x"}}},
        {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
    ):
        assert list(stricter(free, tight, "")), tight


# --- the instances -----------------------------------------------------------------------------------------------------

WORDS = ("7", "10m", "10s", "1Gi", "word")


def instance(schema: Schema, chance: random.Random, fill: float, turn: int) -> Any:
    """A value that the schema accepts. fill: how likely an optional field is there. turn: which enum value is taken."""
    schema = merged(schema)
    match schema.get("type"):
        case "object":
            properties, required = schema.get("properties", {}), schema.get("required", ())
            made = {
                name: instance(item, chance, fill, turn)
                for name, item in properties.items()
                if name in required or chance.random() < fill
            }
            others = schema.get("additionalProperties")
            if schema.get(KEEP) or (isinstance(others, dict) and chance.random() < fill):
                made["key"] = instance(others or {}, chance, fill, turn)
            return made
        case "array":
            count = chance.choice((0, 1, 2)) if 0 < fill < 1 else int(fill)
            return [instance(schema["items"], chance, fill, turn + index) for index in range(count)]
        case "string" if "enum" in schema:
            return schema["enum"][turn % len(schema["enum"])]
        case "string" if schema.get("format") == "date-time":
            return chance.choice(("2026-01-31T23:00:00Z", "2026-01-31T23:00:00.25Z")).replace(".25Z", ".250000Z")
        case "string":
            fitting = [word for word in WORDS if re.search(schema.get("pattern", ""), word)]
            return chance.choice(fitting)
        case "integer" | "number":
            return max(chance.choice((0, 1, 2**31 - 1)), schema.get("minimum", 0))
        case "boolean":
            return chance.random() < 0.5
    return "7"  # an integer or a string, or anything


def instances(schema: Schema) -> Iterator[Any]:
    chance = random.Random(20260131)
    yield instance(schema, chance, 0, 0)
    for turn in range(9):  # the longest enum has nine values
        yield instance(schema, chance, 1, turn)
    for turn in range(30):
        yield instance(schema, chance, 0.5, turn)


@pytest.mark.parametrize("kind", OURS)
def test_genuine_instances_pass_and_come_back_unchanged(genuine: dict[str, Schema], kind: str) -> None:
    their_schema = theirs(genuine, kind)
    their_validator = jsonschema_rs.validator_for(their_schema)
    our_validator = jsonschema_rs.validator_for(schema(KINDS[kind]))
    for made in instances(their_schema):
        manifest = {**made, "apiVersion": KINDS[kind].api_version, "kind": kind, "metadata": {"name": "x"}}
        their_validator.validate(manifest)
        our_validator.validate(manifest)
        assert to_json(parse(manifest)) == manifest


# --- what the sources above are too old for ----------------------------------------------------------------------------

NEWER = [
    ("Plan", "spec.tagMapping.disabled", "boolean"),
    ("Plan", "spec.tagMapping.labelTags", "array"),
    ("Plan", "spec.scsiReservation", "boolean"),
    ("Plan", "spec.vms[].scsiReservation", "boolean"),
    ("Plan", "status.conditions[].suggestion", "string"),
    ("Plan", "status.migration.vms[].disksCopied", "boolean"),
    ("Migration", "spec.resumeConversion", "boolean"),
    ("Migration", "spec.vmCutover[].id", "string"),
    ("Migration", "spec.vmCutover[].cutover", "string"),
    ("Migration", "status.vms[].disksCopied", "boolean"),
    ("Conversion", "spec.type", "string"),
    ("Conversion", "spec.connection.secret.name", "string"),
    ("Conversion", "status.stage", "string"),
]


@pytest.mark.parametrize(("kind", "path", "type"), NEWER)
def test_newer_fields_are_known(kind: str, path: str, type: str) -> None:
    node = schema(KINDS[kind])
    for part in path.split("."):
        node = node["properties"][part.removesuffix("[]")]
        node = node["items"] if part.endswith("[]") else node
    assert node["type"] == type


@pytest.mark.parametrize("kind", OURS)
def test_definitions_are_structural(kind: str) -> None:
    """What an API server demands: a type or a free form everywhere, no references, no unions, no default but our own."""

    def look(node: Schema, path: str) -> None:
        assert "type" in node or node.get(KEEP), path
        assert not {"$ref", "$defs", "anyOf", "title", "x-always", "x-default"} & node.keys(), path
        assert not ("properties" in node and "additionalProperties" in node), path
        for name, item in node.get("properties", {}).items():
            look(item, f"{path}.{name}")
        for key in ("items", "additionalProperties"):
            if key in node:
                look(node[key], f"{path}.{key}")

    definition = crd(KINDS[kind])
    assert definition["metadata"]["name"] == f"{definition['spec']['names']['plural']}.{GROUP}"
    look(definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"], kind)


def test_defaults_are_upstreams_and_ours() -> None:
    spec = schema(KINDS["Plan"])["properties"]["spec"]["properties"]
    assert {name: item["default"] for name, item in spec.items() if "default" in item} == {
        "deleteVmOnFailMigration": True,
        "migrateSharedDisks": True,
        "preserveStaticIPs": True,
        "runPreflightInspection": True,
        "skipGuestConversion": False,
        "useCompatibilityMode": True,
        "xfsCompatibility": False,
        "verify": True,
    }
