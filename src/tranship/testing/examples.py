"""Small facts and manifests that tests of checks, mapping and providers share."""

from tranship.inventory.estate import Datastore, Estate, Network
from tranship.inventory.vm import VM, Disk, Nic
from tranship.resources.networkmap import NetworkMap
from tranship.resources.plan import Plan
from tranship.resources.storagemap import StorageMap

ESTATE = Estate(
    networks={
        "network-1": Network(id="network-1", name="VM Network"),
        "dvpg-2": Network(id="dvpg-2", name="prod", vlan="7"),
    },
    datastores={"datastore-1": Datastore(id="datastore-1", name="fast", path="/DC/datastore/fast")},
)
WEB = VM(
    id="vm-42",
    name="Web_01 (old)",
    uuid="4215ffc1",
    cpus=4,
    cores_per_socket=2,
    memory=1 << 30,
    firmware="efi",
    disks=(
        Disk(
            key="2000",
            label="Hard disk 1",
            path="[fast] w/w.vmdk",
            datastore="datastore-1",
            capacity=1 << 20,
            bus="scsi",
        ),
        Disk(
            key="2001",
            label="Hard disk 2",
            path="[fast] w/w_1.vmdk",
            datastore="datastore-1",
            capacity=1 << 21,
            bus="scsi",
        ),
    ),
    nics=(
        Nic(key="4000", label="Network adapter 1", mac="00:50:56:00:00:01", network="network-1"),
        Nic(key="4001", label="Network adapter 2", mac="00:50:56:00:00:02", network="dvpg-2"),
    ),
)


def network_map(*pairs: tuple[dict[str, str], dict[str, str]]) -> NetworkMap:
    entries = [{"source": source, "destination": destination} for source, destination in pairs]
    spec = {"provider": {"source": {"name": "a"}, "destination": {"name": "b"}}, "map": entries}
    return NetworkMap.read({"apiVersion": "forklift.konveyor.io/v1beta1", "kind": "NetworkMap", "spec": spec})


def storage_map(*sources: dict[str, str]) -> StorageMap:
    entries = [{"source": source, "destination": {"storageClass": "local"}} for source in sources]
    spec = {"provider": {"source": {"name": "a"}, "destination": {"name": "b"}}, "map": entries}
    return StorageMap.read({"apiVersion": "forklift.konveyor.io/v1beta1", "kind": "StorageMap", "spec": spec})


def plan(**spec: object) -> Plan:
    base = {
        "provider": {"source": {"name": "a"}, "destination": {"name": "b"}},
        "map": {"network": {"name": "n"}, "storage": {"name": "s"}},
        "vms": [{"id": "vm-42"}],
        "targetNamespace": "moved",
    }
    meta = {"name": "p", "namespace": "default", "uid": "plan-uid"}
    kind = {"apiVersion": "forklift.konveyor.io/v1beta1", "kind": "Plan"}
    return Plan.read({**kind, "metadata": meta, "spec": {**base, **spec}})


NETWORKS = network_map(({"name": "VM Network"}, {"type": "pod"}), ({"id": "dvpg-2"}, {"type": "multus", "name": "br0"}))
