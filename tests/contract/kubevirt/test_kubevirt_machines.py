"""Machines on a genuine API server: what is made passes KubeVirt's genuine schema, whose it is, whether it runs."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from tranship.errors import AlreadyExists, Busy, Conflict, NotFound
from tranship.migration.mapping import MachineOrder, NicOrder
from tranship.migration.seen import MachineState
from tranship.providers.kubevirt.target import KubevirtTarget
from tranship.providers.kubevirt.volumes import StorageClass, claim
from tranship.providers.virtualmachine import virtual_machine

KIND, INSTANCE = "VirtualMachine", "VirtualMachineInstance"
STRICT = ("create", "--dry-run=server", "--validate=strict", "-f", "-")


def strictly(cluster: Any, obj: Any, *, fails: bool = False) -> str:
    """The API server's own word on every field."""
    return str(cluster.kubectl(*STRICT, given=obj, fails=fails))


@pytest.mark.parametrize("firmware", [("bios", False), ("efi", False), ("efi", True)], ids=str)
def test_every_machine_passes_the_genuine_schema(cluster: Any, order: MachineOrder, firmware: tuple[str, bool]) -> None:
    nics = (
        NicOrder(mac="00:50:56:aa:bb:01", kind="pod", name="net-0"),
        NicOrder(mac="", kind="multus", network="br0", namespace="nets", model="e1000e", name="net-1"),
        NicOrder(mac="", kind="multus", network="br1", name="net-2", up=False, pci="0000:0b:00.0"),
        NicOrder(mac="", kind="multus", network="vf", name="net-3", pass_through=True),
    )
    terms = [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    for bus, tpm, start, special in product(("virtio", "sata", "scsi"), (False, True), (False, True), (False, True)):
        made = replace(
            order,
            firmware=firmware[0],
            secure_boot=firmware[1],
            tpm=tpm,
            start=start,
            nics=nics,
            disks=tuple(
                replace(disk, bus=bus, shared=special, serial="6000c2" if special else "") for disk in order.disks
            ),
            serial="VMware-42 0f" if special else "",
            node_selector={"zone": "a"} if special else {},
            affinity={"nodeAffinity": required} if special else {},
            instance_type="u1.small" if special and start else "",
            threads=2 if special else 1,
            dedicated_cpus=special,
            nested=special or None,
            timezone="Europe/Berlin" if special else "",
        )
        strictly(cluster, virtual_machine(made))


def test_every_claim_passes(cluster: Any, order: MachineOrder) -> None:
    for access, volume in product(("", "ReadWriteOnce", "ReadWriteMany"), ("", "Block", "Filesystem")):
        disk = replace(order.disks[0], access_mode=access, volume_mode=volume)
        strictly(cluster, claim(order, disk, StorageClass(name="plain")))


def test_the_schema_sees_a_wrong_word_and_a_wrong_type(cluster: Any, order: MachineOrder) -> None:
    """The proof above is worth something only if it can fail."""
    machine = virtual_machine(order)
    machine["spec"]["template"]["spec"]["domain"]["devices"]["disks"][0]["disk"] = {"buss": "virtio"}
    assert "buss" in strictly(cluster, machine, fails=True)
    machine = virtual_machine(order)
    machine["spec"]["template"]["spec"]["domain"]["cpu"]["cores"] = "two"
    assert "cores" in strictly(cluster, machine, fails=True)


def test_made_once_off_and_with_its_disks(cluster: Any, target: KubevirtTarget, order: MachineOrder) -> None:
    with pytest.raises(NotFound, match="web-disk-0"):
        target.create_machine(order)
    target.create_disks(order)
    assert target.observe(order).machine is MachineState.ABSENT
    target.create_machine(order)
    made = cluster.read(KIND, "web.01", order.namespace)
    assert made["spec"]["runStrategy"] == "Halted"
    assert made["metadata"]["annotations"]["tranship.io/owner"] == order.owner
    assert made["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "tranship"
    target.create_machine(order)
    assert (
        cluster.read(KIND, "web.01", order.namespace)["metadata"]["resourceVersion"]
        == made["metadata"]["resourceVersion"]
    )
    for name in ("web-disk-0", "web-disk-1"):
        (owner,) = cluster.read("pvc", name, order.namespace)["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"]) == (KIND, made["metadata"]["uid"])
    seen = target.observe(order)
    assert (seen.machine, seen.foreign) == (MachineState.OFF, "")


def test_started_seen_running_stopped_and_removed(cluster: Any, target: KubevirtTarget, order: MachineOrder) -> None:
    """The part of KubeVirt, to make the instance and to end it, is played here."""
    namespace = order.namespace
    target.create_disks(order)
    target.create_machine(order)
    with pytest.raises(NotFound):
        target.start_machine(replace(order, name="web.02"))
    target.start_machine(order)
    target.start_machine(order)
    machine = cluster.read(KIND, "web.01", namespace)
    uid = machine["metadata"]["uid"]
    assert target.observe(order).uids["machine", "web.01"] == uid
    assert machine["spec"]["runStrategy"] == "Always"
    assert target.observe(order).machine is MachineState.STARTING
    meta = {"name": "web.01", "namespace": namespace}
    cluster.make(
        {"apiVersion": "kubevirt.io/v1", "kind": INSTANCE, "metadata": meta, "spec": {"domain": {"devices": {}}}}
    )
    for phase, state in (("Scheduling", MachineState.STARTING), ("Running", MachineState.RUNNING)):
        cluster.status(INSTANCE, "web.01", namespace, {"phase": phase})
        assert target.observe(order).machine is state
    with pytest.raises(Busy):
        target.delete_disks(order, {"2000": "any"})
    target.stop_machine(order)
    assert cluster.read(KIND, "web.01", namespace)["spec"]["runStrategy"] == "Halted"
    assert target.observe(order).machine is MachineState.RUNNING  # until it is gone
    cluster.kubectl("delete", INSTANCE, "web.01", "-n", namespace)
    assert target.observe(order).machine is MachineState.OFF
    target.delete_machine(order, "another")
    assert target.observe(order).machine is MachineState.OFF
    target.delete_machine(order, uid)
    cluster.until(lambda: target.observe(order).machine is MachineState.ABSENT)
    assert target.observe(order).disks == frozenset({"2000", "2001"})  # they are not the machine's any more
    assert not cluster.read("pvc", "web-disk-0", namespace)["metadata"].get("ownerReferences")
    target.delete_machine(order, uid)
    target.stop_machine(order)


@pytest.mark.parametrize("annotations", [{}, {"tranship.io/owner": "plan-2/vm-42"}], ids=["unmarked", "another plan's"])
def test_somebody_elses_machine_is_left_alone(
    cluster: Any, target: KubevirtTarget, order: MachineOrder, annotations: dict[str, str]
) -> None:
    theirs = virtual_machine(order)
    theirs["metadata"]["annotations"] = annotations
    theirs = cluster.make(theirs)
    target.create_disks(order)
    assert "web.01" in target.observe(order).foreign
    for call in (target.create_machine, target.start_machine):
        with pytest.raises(AlreadyExists, match=r"web\.01"):
            call(order)
    target.stop_machine(order)
    target.delete_machine(order, theirs["metadata"]["uid"])
    assert cluster.read(KIND, "web.01", order.namespace) == theirs
    assert not cluster.read("pvc", "web-disk-0", order.namespace)["metadata"].get("ownerReferences")


def test_an_instance_without_a_machine_has_the_name(cluster: Any, target: KubevirtTarget, order: MachineOrder) -> None:
    meta = {"name": "web.01", "namespace": order.namespace}
    cluster.make(
        {"apiVersion": "kubevirt.io/v1", "kind": INSTANCE, "metadata": meta, "spec": {"domain": {"devices": {}}}}
    )
    seen = target.observe(order)
    assert "VirtualMachineInstance" in seen.foreign
    assert seen.may_run


def test_an_instance_type_is_the_namespaces_or_the_clusters(
    cluster: Any, target: KubevirtTarget, order: MachineOrder
) -> None:
    order = replace(order, instance_type="u1.small")
    target.create_disks(order)
    with pytest.raises(NotFound, match="instance type"):
        target.create_machine(order)
    spec = {"cpu": {"guest": 1}, "memory": {"guest": "1Gi"}}
    kind, group = "VirtualMachineInstancetype", "instancetype.kubevirt.io/v1beta1"
    meta = {"name": "u1.small", "namespace": order.namespace}
    cluster.make({"apiVersion": group, "kind": kind, "metadata": meta, "spec": spec})
    target.create_machine(order)
    made = cluster.read(KIND, "web.01", order.namespace)["spec"]
    assert made["instancetype"] == {"kind": kind, "name": "u1.small"}
    assert "cpu" not in made["template"]["spec"]["domain"]


def test_what_users_change_on_their_machine_stays(cluster: Any, target: KubevirtTarget, order: MachineOrder) -> None:
    target.create_disks(order)
    target.create_machine(order)
    patch = {"metadata": {"labels": {"mine": "yes"}}, "spec": {"template": {"spec": {"hostname": "web"}}}}
    where = ("-n", order.namespace, "--type=merge", "-p", json.dumps(patch))
    cluster.kubectl("patch", "vm", "web.01", *where)
    target.start_machine(order)
    made = cluster.read(KIND, "web.01", order.namespace)
    assert made["metadata"]["labels"]["mine"] == "yes"
    assert made["spec"]["template"]["spec"]["hostname"] == "web"


def test_many_orders_at_once(cluster: Any, connect: Callable[..., KubevirtTarget], order: MachineOrder) -> None:
    """Two controllers, or one that was restarted, may ask for the same thing: one object comes of it."""
    targets = [connect(), connect()]
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda number: targets[number % 2].create_disks(order), range(6)))
        list(threads.map(lambda number: _create(targets[number % 2], order), range(6)))
    assert cluster.names(KIND, order.namespace) == ["web.01"]
    assert len(cluster.names("pvc", order.namespace)) == 2
    assert len(cluster.read("pvc", "web-disk-0", order.namespace)["metadata"]["ownerReferences"]) == 1


def _create(target: KubevirtTarget, order: MachineOrder) -> None:
    for _ in range(10):
        try:
            return target.create_machine(order)
        except Conflict:  # temporary: whoever asks asks again
            continue
    raise AssertionError("never made")
