"""Volume claims of disks: modes, sizes, marks; quantities and quotas."""

from dataclasses import replace
from typing import Any

import pytest

from tranship.errors import Invalid
from tranship.migration.mapping import DiskOrder, MachineOrder
from tranship.providers.kubevirt.volumes import (
    Modes,
    StorageClass,
    choose_modes,
    claim,
    claim_size,
    over_quota,
    pod_over_quota,
    quantity,
)

MIB, GIB = 1 << 20, 1 << 30
DISK = DiskOrder(source="2000", name="web-disk-0", pool="fast", size=GIB, origin="[ds] web/web.vmdk")
ORDER = MachineOrder(
    owner="plan-uid/vm-42",
    name="web",
    namespace="shop",
    uuid="",
    sockets=1,
    cores=1,
    memory=MIB,
    disks=(DISK,),
    labels={"plan": "plan-uid", "vmID": "vm-42", "migration": "run", "tier": "web"},
)
PLAIN = StorageClass(name="fast")
CEPH = StorageClass(
    name="fast",
    profile=(
        (("ReadWriteMany",), "Block"),
        (("ReadWriteOnce",), "Block"),
        (("ReadOnlyMany", "ReadWriteOnce"), "Filesystem"),
    ),
)


@pytest.mark.parametrize(
    ("access", "volume", "storage", "modes"),
    [
        ("", "", PLAIN, ("ReadWriteOnce", "Filesystem")),
        ("", "Block", PLAIN, ("ReadWriteOnce", "Block")),
        ("ReadWriteMany", "", PLAIN, ("ReadWriteMany", "Filesystem")),
        ("ReadWriteMany", "Filesystem", CEPH, ("ReadWriteMany", "Filesystem")),
        ("", "", CEPH, ("ReadWriteMany", "Block")),
        ("ReadWriteOnce", "", CEPH, ("ReadWriteOnce", "Block")),
        ("", "Filesystem", CEPH, ("ReadWriteOnce", "Filesystem")),
    ],
)
def test_modes_by_map_then_profile_then_default(
    access: str, volume: str, storage: StorageClass, modes: tuple[str, str]
) -> None:
    chosen = choose_modes(replace(DISK, access_mode=access, volume_mode=volume), storage)
    assert chosen[:2] == modes
    assert chosen.why


def test_a_volume_that_nobody_can_write_is_refused() -> None:
    with pytest.raises(Invalid, match="accessMode"):
        choose_modes(replace(DISK, access_mode="ReadOnlyMany"), PLAIN)


@pytest.mark.parametrize(
    ("size", "mode", "storage", "settings", "expected"),
    [
        (GIB, "Block", PLAIN, {}, GIB),
        (GIB + 512, "Block", PLAIN, {}, GIB + MIB),
        (GIB, "Block", PLAIN, {"block_overhead": 1}, GIB + MIB),
        (GIB, "Filesystem", PLAIN, {}, 1138 * MIB),  # 1024 / 0.9 = 1137.8
        (GIB, "Filesystem", replace(PLAIN, overhead=0.06), {}, 1090 * MIB),  # 1024 / 0.94 = 1089.4
        (GIB, "Filesystem", replace(PLAIN, overhead=0.0), {}, GIB),
        (GIB, "Filesystem", PLAIN, {"filesystem_overhead": 0.5}, 2 * GIB),
        (512, "Filesystem", PLAIN, {}, 2 * MIB),
    ],
)
def test_sizes(size: int, mode: str, storage: StorageClass, settings: dict[str, Any], expected: int) -> None:
    order, disk = replace(ORDER, **settings), replace(DISK, size=size)
    assert claim_size(order, disk, Modes("ReadWriteOnce", mode, ""), storage) == expected


def test_the_claim() -> None:
    assert claim(ORDER, replace(DISK, volume_mode="Block"), PLAIN) == {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": "web-disk-0",
            "namespace": "shop",
            "labels": {
                "plan": "plan-uid",
                "vmID": "vm-42",
                "migration": "run",
                "app.kubernetes.io/managed-by": "tranship",
            },
            "annotations": {
                "forklift.konveyor.io/disk-source": "[ds] web/web.vmdk",
                "tranship.io/disk": "2000",
                "tranship.io/owner": "plan-uid/vm-42",
            },
        },
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "volumeMode": "Block",
            "resources": {"requests": {"storage": "1024Mi"}},
            "storageClassName": "fast",
        },
    }


@pytest.mark.parametrize(
    ("text", "number"),
    [("1Gi", GIB), ("1G", 10**9), ("5", 5), (7, 7), ("1.5Ki", 1536), ("1e3", 1000), ("2E", 2 * 10**18), ("1500m", 2)],
)
def test_quantities(text: str | int, number: int) -> None:
    assert quantity(text) == number


def test_thousandths() -> None:
    assert [quantity(text, 1000) for text in ("200m", "0.5", "2", "1e1", "1k")] == [200, 500, 2000, 10_000, 1_000_000]


def test_what_is_no_quantity() -> None:
    with pytest.raises(Invalid):
        quantity("1Zi")


def test_quotas_count_all_claims_together() -> None:
    claims = [claim(ORDER, replace(DISK, name=f"d{n}", volume_mode="Block"), PLAIN) for n in range(3)]

    def quota(used: dict[str, str] | None = None, **hard: str) -> dict[str, Any]:
        limits = {name.replace("__", "/").replace("_", "."): value for name, value in hard.items()}
        return {"status": {"hard": limits, "used": used or {}}}

    assert over_quota(quota(requests_storage="3Gi", pods="0", persistentvolumeclaims="3"), claims) == []
    assert len(over_quota(quota(requests_storage="3Gi"), [*claims, claims[0]])) == 1
    assert (
        "2147483648 of 3Gi are left"
        in over_quota(quota({"requests.storage": "1Gi"}, requests_storage="3Gi"), claims)[0]
    )
    assert len(over_quota(quota(persistentvolumeclaims="2"), claims)) == 1
    named = {
        "fast.storageclass.storage.k8s.io/requests.storage": "1Gi",
        "slow.storageclass.storage.k8s.io/requests.storage": "0",
    }
    assert len(over_quota({"status": {"hard": named}}, claims)) == 1


@pytest.mark.parametrize(
    ("hard", "used", "found"),
    [
        ({"pods": "2"}, {"pods": "1"}, None),
        ({"pods": "2"}, {"pods": "2"}, False),
        ({"count/pods": "0"}, {}, True),
        ({"count/jobs.batch": "3"}, {"count/jobs.batch": "3"}, False),
        ({"requests.cpu": "1"}, {"requests.cpu": "900m"}, False),
        ({"cpu": "1"}, {"cpu": "800m"}, None),
        ({"limits.memory": "512Mi"}, {}, True),
        ({"limits.cpu": "10"}, {}, False),
        ({"requests.storage": "0"}, {}, None),
    ],
)
def test_quotas_of_pods(hard: dict[str, str], used: dict[str, str], found: bool | None) -> None:
    resources = {"requests": {"cpu": "200m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}}
    quota = {"status": {"hard": hard, "used": used}}
    over = pod_over_quota(quota, resources)
    assert [never for _, never in over] == ([] if found is None else [found])
    assert all(next(iter(hard)) in text for text, _ in over)
    assert pod_over_quota({**quota, "spec": {"scopes": ["BestEffort"]}}, resources) == []
    assert pod_over_quota({**quota, "spec": {"scopes": ["NotTerminating"]}}, resources) == over
