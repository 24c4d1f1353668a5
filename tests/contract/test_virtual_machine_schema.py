"""The VirtualMachine that we write is one that KubeVirt takes: held against the genuine schema, with nothing unknown allowed.

The schema says nothing of names; what KubeVirt's own admission says of them is looked at apart.
"""

import os
import re
from dataclasses import replace
from itertools import product
from typing import Any

import jsonschema_rs
import pytest

from tranship.errors import ToolFailed
from tranship.lab.kubevirt.schemas import definitions
from tranship.migration.mapping import DiskOrder, MachineOrder, NicOrder
from tranship.providers.virtualmachine import virtual_machine

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
Schema = dict[str, Any]

LONG = "a.very-long.name-with-dots.that-fills.all-of-the-63-characters0"
ORDER = MachineOrder(
    owner="plan/vm-42",
    name=LONG,
    namespace="shop",
    uuid="420f8a31-6c5e-7d0b-0c35-2f7a9f1b7b11",
    sockets=2,
    cores=3,
    memory=(1 << 30) + 1,
    labels={"plan": "6d1c2a3e-5f40-4a6b-9d0e-0a1b2c3d4e5f", "vmID": "vm-42"},
    annotations={"original-ID": "vm-42"},
    disks=tuple(
        DiskOrder(source=bus, name=f"{LONG}-disk-{n}", pool="fast", size=1 << 30, bus=bus, boot=int(n == 0))
        for n, bus in enumerate(("virtio", "sata", "scsi"))
    ),
    nics=(
        NicOrder(mac="00:50:56:aa:bb:01", kind="pod"),
        NicOrder(mac="00:50:56:aa:bb:02", kind="multus", network="br0", namespace="nets", model="e1000e"),
        NicOrder(mac="00:50:56:aa:bb:03", kind="multus", network="br1", model="rtl8139"),
    ),
)


def strict(schema: Schema) -> Schema:
    """Refuses fields that it does not name, and takes an int-or-string for both."""
    if schema.get("x-kubernetes-int-or-string"):
        return {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    result = {key: value for key, value in schema.items() if key not in ("format", "nullable")}
    if "properties" in schema:
        result["properties"] = {name: strict(one) for name, one in schema["properties"].items()}
        result.setdefault("additionalProperties", bool(schema.get("x-kubernetes-preserve-unknown-fields")))
    elif isinstance(schema.get("additionalProperties"), dict):
        result["additionalProperties"] = strict(schema["additionalProperties"])
    if isinstance(schema.get("items"), dict):
        result["items"] = strict(schema["items"])
    return result


@pytest.fixture(scope="module")
def check() -> jsonschema_rs.Draft202012Validator:
    try:
        machine = next(one for one in definitions() if one["spec"]["names"]["kind"] == "VirtualMachine")
    except ToolFailed as reason:
        if os.environ.get("CI"):
            pytest.fail(f"genuine schemas: {reason}")
        pytest.skip(f"genuine schemas: {reason}")
    return jsonschema_rs.Draft202012Validator(strict(machine["spec"]["versions"][0]["schema"]["openAPIV3Schema"]))


@pytest.mark.parametrize(
    ("firmware", "secure_boot", "tpm", "start"),
    [
        case
        for case in product(("bios", "efi"), (False, True), (False, True), (False, True))
        if case[0] == "efi" or not case[1]
    ],
)
def test_kubevirt_takes_every_machine(
    check: jsonschema_rs.Draft202012Validator, firmware: str, secure_boot: bool, tpm: bool, start: bool
) -> None:
    order = replace(ORDER, firmware=firmware, secure_boot=secure_boot, tpm=tpm, start=start)
    check.validate(virtual_machine(order))


def test_the_check_sees_a_wrong_word_and_a_wrong_type(check: jsonschema_rs.Draft202012Validator) -> None:
    machine = virtual_machine(ORDER)
    domain = machine["spec"]["template"]["spec"]["domain"]
    domain["devices"]["disks"][0]["disk"] = {"buss": "virtio"}
    domain["cpu"]["cores"] = "three"
    assert len(list(check.iter_errors(machine))) == 2


def test_names_are_what_kubevirt_admits() -> None:
    spec = virtual_machine(ORDER)["spec"]["template"]["spec"]
    devices = spec["domain"]["devices"]
    for things, behind in ((devices["disks"], spec["volumes"]), (devices["interfaces"], spec["networks"])):
        names = [thing["name"] for thing in things]
        assert names == [thing["name"] for thing in behind]
        assert len(set(names)) == len(names)
        assert all(LABEL.fullmatch(name) for name in names)
    assert [volume["persistentVolumeClaim"]["claimName"] for volume in spec["volumes"]] == [d.name for d in ORDER.disks]
