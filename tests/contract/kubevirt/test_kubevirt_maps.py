"""Maps are held against what the cluster has: classes, and networks with or without their namespaces."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tranship.controllers.maps import MapController
from tranship.controllers.providers import ProviderController
from tranship.providers.kubevirt.target import KubevirtTarget
from tranship.resources.conditions import Condition, Conditions
from tranship.resources.meta import NETWORK_MAP, STORAGE_MAP
from tranship.resources.networkmap import NetworkMap
from tranship.resources.storagemap import StorageMap
from tranship.store.memory import MemoryStore
from tranship.testing.examples import ESTATE, network_map, storage_map


def told(folder: Path, target: KubevirtTarget, checked: NetworkMap | StorageMap) -> list[Condition]:
    store = MemoryStore()
    kind = NETWORK_MAP if isinstance(checked, NetworkMap) else STORAGE_MAP
    controller = MapController(store, ProviderController(store, folder, print, print), kind)
    conditions = Conditions([])
    controller._check(checked, ESTATE, target.estate(), conditions, datetime.now(UTC))
    return conditions.list


def test_networks(cluster: Any, connect: Callable[..., KubevirtTarget], tmp_path: Path, namespace: str) -> None:
    name = f"br-{namespace[-12:]}"
    cluster.kubectl("create", "namespace", f"{namespace}-2")
    for place in (namespace, f"{namespace}-2"):
        meta = {"name": name, "namespace": place}
        nad = {"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition", "metadata": meta, "spec": {}}
        cluster.make(nad)
    target = connect()

    def said(**destination: str) -> list[tuple[str, str]]:
        found = told(tmp_path, target, network_map(({"name": "VM Network"}, {"type": "multus", **destination})))
        assert all(one.category == "Critical" and one.suggestion for one in found)
        return [(one.type, one.reason) for one in found]

    assert said(name=name, namespace=namespace) == []
    assert said(name=name) == [("DestinationNetworkNotValid", "Ambiguous")]
    assert said(name="br-none", namespace=namespace) == [("DestinationNetworkNotValid", "NotFound")]


def test_classes(connect: Callable[..., KubevirtTarget], tmp_path: Path) -> None:
    known = storage_map({"name": "fast"})
    target = connect()
    (missing,) = told(tmp_path, target, known)
    assert (missing.type, missing.reason) == ("DestinationStorageNotValid", "NotFound")
    assert "ceph" in missing.suggestion
    known.spec.map[0].destination.storage_class = "ceph"
    assert told(tmp_path, target, known) == []
