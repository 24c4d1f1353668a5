"""What a cluster's objects say: storage classes, networks, whether a machine runs or may yet come up."""

from typing import Any

import pytest

from tranship.inventory.vm import Power
from tranship.migration.seen import MachineState
from tranship.providers.kubevirt import facts
from tranship.providers.kubevirt.volumes import StorageClass

S = MachineState


def test_a_storage_class_without_cdi() -> None:
    assert facts.storage_class({"metadata": {"name": "local"}}, None, None) == StorageClass(name="local")


def test_a_storage_class_with_cdi() -> None:
    obj = {"metadata": {"name": "ceph"}}
    sets = [
        {"accessModes": ["ReadWriteMany", "ReadWriteOnce"], "volumeMode": "Block"},
        {"accessModes": ["ReadWriteOnce"]},
    ]
    config: dict[str, Any] = {"status": {"filesystemOverhead": {"global": "0.06", "storageClass": {"ceph": "0.12"}}}}
    made = facts.storage_class(obj, {"status": {"claimPropertySets": sets}}, config)
    assert made.overhead == 0.12
    assert made.profile == ((("ReadWriteMany", "ReadWriteOnce"), "Block"), (("ReadWriteOnce",), "Filesystem"))
    assert facts.storage_class({"metadata": {"name": "x"}}, {}, config).overhead == 0.06


def test_networks() -> None:
    found = facts.networks([{"metadata": {"namespace": "nets", "name": "br0"}}])
    assert [(one.id, one.name, one.kind) for one in found.values()] == [
        ("pod", "pod", "pod"),
        ("nets/br0", "br0", "multus"),
    ]


def test_a_machine_as_a_taken_name() -> None:
    meta = {"namespace": "shop", "name": "web", "uid": "u", "annotations": {"tranship.io/owner": "plan/vm-1"}}
    made = facts.vm({"metadata": meta, "status": {"printableStatus": "Running"}})
    assert (made.id, made.name, made.power, made.traits["owner"]) == ("shop/web", "web", Power.ON, "plan/vm-1")


def machine(strategy: str | None = "Always", status: str = "", **spec: Any) -> dict[str, Any]:
    strategies = {"runStrategy": strategy} if strategy else {}
    return {"spec": {**strategies, **spec}, "status": {"printableStatus": status}}


def instance(phase: str) -> dict[str, Any]:
    return {"status": {"phase": phase}}


@pytest.mark.parametrize(
    ("vm", "vmi", "state"),
    [
        (None, None, S.ABSENT),
        (None, instance("Running"), S.STARTING),  # its VirtualMachine was deleted, the guest has not ended yet
        (None, instance("Succeeded"), S.ABSENT),
        (machine("Halted"), None, S.OFF),
        (machine("Halted", "Stopping"), instance("Running"), S.RUNNING),
        (machine("Halted"), instance("Succeeded"), S.OFF),
        (machine(), None, S.STARTING),
        (machine(), instance("Scheduling"), S.STARTING),
        (machine(), instance(""), S.STARTING),
        (machine(), instance("Running"), S.RUNNING),
        (machine(), instance("Failed"), S.STARTING),
        (machine("RerunOnFailure", "Stopped"), instance("Succeeded"), S.OFF),
        (machine("RerunOnFailure", "CrashLoopBackOff"), instance("Failed"), S.STARTING),
        (machine("Manual"), None, S.OFF),
        (machine("Manual"), instance("Running"), S.RUNNING),
        (machine(None, running=True), None, S.STARTING),
        (machine(None, running=False), None, S.OFF),
        (machine(None), None, S.OFF),
        ({**machine("Always"), "metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}, None, S.ABSENT),
    ],
)
def test_whether_a_machine_runs_or_may_come_up(vm: Any, vmi: Any, state: MachineState) -> None:
    assert facts.machine_state(vm, vmi) is state
