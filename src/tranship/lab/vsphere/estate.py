"""The small data centre that every lab vCenter begins with: one cluster of two hosts, datastores, networks, folders.

center.py builds it once and adds to it. Only what clients read of these objects is there; required fields beyond that are
filled with the simplest values.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shutil import disk_usage
from typing import Any
from uuid import NAMESPACE_DNS, uuid5

from tranship.lab.vsphere.soap import fill
from tranship.lab.vsphere.vmomi import vim
from tranship.lab.vsphere.world import Managed, World

GIB = 1 << 30
DATACENTER = "Datacenter"


@dataclass(frozen=True)
class Nic:
    key: int
    network: Any
    mac: str
    address: str


class Portgroup(Managed):
    """A distributed port group and the switch that it belongs to."""

    switch_uuid = "50 2d 5f 2c 4a 1b 7e 33-8f 11 02 0a 5c 66 91 3d"


class Estate:
    """`folder`, `pool`, `hosts`, `datastores`, `networks`: what center.py puts virtual machines into."""

    def __init__(self, world: World, home: Path, vms: Callable[[], list[Any]]) -> None:
        self.world = world
        self.home = home
        self.vms = vms
        self.hosts: list[Managed] = []
        self.datastores: dict[str, Managed] = {}
        self.networks: dict[str, Managed] = {}
        self._folders()
        self._cluster()
        self._switch()

    def _entity(self, kind: Any, moid: str, name: str, parent: str, **facts: Any) -> Managed:
        common = {
            "name": name,
            "parent": self.world.objects[parent].ref if parent else None,
            "overallStatus": "green",
            "configStatus": "green",
            "customValue": [],
            "value": [],
            "tag": [],
            "recentTask": [],
            "permission": [],
            "effectiveRole": [-1],
            "declaredAlarmState": [],
            "triggeredAlarmState": [],
            "alarmActionsEnabled": True,
            "disabledMethod": [],
            "configIssue": [],
        }
        item = Managed(kind, moid, common | facts)
        self.world.add(item)
        return item

    # folders

    def _folders(self) -> None:
        root = self._entity(vim.Folder, "group-d1", "Datacenters", "", childType=["Folder", "Datacenter"])
        root.properties["childEntity"] = lambda: [vim.Datacenter("datacenter-2")]
        self.datacenter = self._entity(vim.Datacenter, "datacenter-2", DATACENTER, "group-d1")
        self.folder = self._folder("vm", "group-v3", "VirtualMachine", self.vms)
        host = self._folder("host", "group-h4", "ComputeResource", lambda: [vim.ClusterComputeResource("domain-c7")])
        stores = self._folder("datastore", "group-s5", "Datastore", lambda: self._refs(self.datastores))
        self.network_folder = self._folder("network", "group-n6", "Network", self._network_children)
        self.store_folder = stores
        for name, item in {
            "vmFolder": self.folder,
            "hostFolder": host,
            "datastoreFolder": stores,
            "networkFolder": self.network_folder,
        }.items():
            self.datacenter.properties[name] = item.ref
        self.datacenter.properties["datastore"] = lambda: self._refs(self.datastores)
        self.datacenter.properties["network"] = lambda: self._refs(self.networks)

    def _folder(self, name: str, moid: str, child: str, children: Callable[[], list[Any]]) -> Managed:
        return self._entity(vim.Folder, moid, name, "datacenter-2", childType=["Folder", child], childEntity=children)

    def _network_children(self) -> list[Any]:
        return [vim.dvs.VmwareDistributedVirtualSwitch("dvs-14"), *self._refs(self.networks)]

    @staticmethod
    def _refs(items: dict[str, Managed]) -> list[Any]:
        return [item.ref for item in items.values()]

    # cluster and hosts

    def _cluster(self) -> None:
        cluster = self._entity(vim.ClusterComputeResource, "domain-c7", "cluster1", "group-h4")
        self.pool = self._entity(
            vim.ResourcePool,
            "resgroup-8",
            "Resources",
            "domain-c7",
            owner=cluster.ref,
            resourcePool=[],
            vm=self.vms,
        )
        cluster.properties |= {
            "host": lambda: [host.ref for host in self.hosts],
            "resourcePool": self.pool.ref,
            "datastore": lambda: self._refs(self.datastores),
            "network": lambda: self._refs(self.networks),
            "configurationEx": lambda: _cluster_config(),
            "summary": lambda: fill(
                vim.ClusterComputeResource.Summary, numHosts=len(self.hosts), overallStatus="green"
            ),
        }
        for number in (1, 2):
            self._host(f"host-{8 + number}", f"esx{number}.lab.example")

    def _host(self, moid: str, name: str) -> None:
        host = self._entity(vim.HostSystem, moid, name, "domain-c7")
        host.properties |= {
            "summary": lambda: _host_summary(host),
            "hardware": lambda: _host_hardware(host),
            "runtime": _host_runtime,
            "config": lambda: _host_config(host),
            "vm": lambda: [vm.ref for vm in self._machines() if vm.host is host],
            "datastore": lambda: self._refs(self.datastores),
            "network": lambda: self._refs(self.networks),
        }
        self.hosts.append(host)

    def _machines(self) -> list[Any]:
        return [self.world.objects[ref._moId] for ref in self.vms()]

    # storage and networks

    def add_datastore(self, name: str, capacity: int | None = None, free: int | None = None) -> Managed:
        """Capacity and free space (bytes) are those of the lab's own file system unless given."""
        store = self._entity(vim.Datastore, self.world.new_id("datastore-"), name, "group-s5")

        def summary() -> Any:
            usage = disk_usage(self.home)
            return vim.Datastore.Summary(
                datastore=store.ref,
                name=store.value("name"),
                url=f"ds:///vmfs/volumes/{_uuid(name)}/",
                capacity=usage.total if capacity is None else capacity,
                freeSpace=usage.free if free is None else free,
                uncommitted=0,
                accessible=True,
                multipleHostAccess=True,
                type="VMFS",
                maintenanceMode="normal",
            )

        store.properties |= {
            "summary": summary,
            "info": lambda: _datastore_info(name, summary()),
            "vm": lambda: [vm.ref for vm in self._machines() if any(disk.datastore is store for disk in vm.disks)],
            "host": lambda: [_mount(host) for host in self.hosts],
        }
        self.datastores[name] = store
        self._changed(self.store_folder)
        return store

    def add_network(self, name: str, distributed: bool = False, vlan: int = 0) -> Managed:
        if distributed:
            moid = self.world.new_id("dvportgroup-")
            network: Managed = Portgroup(vim.dvs.DistributedVirtualPortgroup, moid)
        else:
            network = Managed(vim.Network, self.world.new_id("network-"))
        base = self._entity(vim.Network, network.moid, name, "group-n6")
        network.properties = base.properties | {
            "summary": lambda: vim.Network.Summary(network=network.ref, name=name, accessible=True, ipPoolName=""),
            "host": lambda: [host.ref for host in self.hosts],
            "vm": lambda: [vm.ref for vm in self._machines() if any(nic.network is network for nic in vm.nics)],
        }
        if distributed:
            network.properties |= {"key": network.moid, "config": lambda: _portgroup_config(network, name, vlan)}
        self.networks[name] = network
        self.world.add(network)
        self._changed(self.network_folder)
        return network

    def _switch(self) -> None:
        kind = vim.dvs.VmwareDistributedVirtualSwitch
        switch = self._entity(kind, "dvs-14", "switch1", "group-n6", uuid=Portgroup.switch_uuid)
        switch.properties |= {
            "portgroup": lambda: [item.ref for item in self.networks.values() if isinstance(item, Portgroup)],
            "summary": lambda: fill(
                vim.DistributedVirtualSwitch.Summary, name="switch1", uuid=Portgroup.switch_uuid, numPorts=8
            ),
        }

    def _changed(self, *items: Managed) -> None:
        self.world.touch(self.datacenter, self.world.objects["domain-c7"], *self.hosts, *items)


def _uuid(name: str) -> str:
    return str(uuid5(NAMESPACE_DNS, name))


def _cluster_config() -> Any:
    return fill(
        vim.cluster.ConfigInfoEx,
        dasConfig=fill(vim.cluster.DasConfigInfo, enabled=False),
        drsConfig=fill(vim.cluster.DrsConfigInfo, enabled=True, defaultVmBehavior="fullyAutomated", vmotionRate=3),
    )


def _product() -> Any:
    return fill(
        vim.AboutInfo,
        name="VMware ESXi",
        fullName="VMware ESXi 8.0.3 build-24022510",
        vendor="VMware, Inc.",
        version="8.0.3",
        build="24022510",
        osType="vmnix-x86",
        productLineId="embeddedEsx",
        apiType="HostAgent",
        apiVersion="8.0.3.0",
    )


def _host_runtime() -> Any:
    return fill(
        vim.host.RuntimeInfo,
        connectionState="connected",
        powerState="poweredOn",
        inMaintenanceMode=False,
    )


def _host_summary(host: Managed) -> Any:
    hardware = fill(
        vim.host.Summary.HardwareSummary,
        vendor="tranship",
        model="lab",
        uuid=_uuid(host.value("name")),
        memorySize=64 * GIB,
        cpuModel="lab",
        cpuMhz=2400,
        numCpuPkgs=2,
        numCpuCores=16,
        numCpuThreads=32,
        numNics=2,
        numHBAs=1,
    )
    configured = fill(vim.host.Summary.ConfigSummary, name=host.value("name"), port=443, product=_product())
    return fill(
        vim.host.Summary,
        host=host.ref,
        hardware=hardware,
        runtime=_host_runtime(),
        config=configured,
        managementServerIp="127.0.0.1",
        overallStatus="green",
        rebootRequired=False,
    )


def _host_hardware(host: Managed) -> Any:
    package = fill(
        vim.host.CpuPackage, vendor="intel", hz=2_400_000_000, threadId=[0], cpuFeature=[], description="lab"
    )
    return fill(
        vim.host.HardwareInfo,
        systemInfo=fill(vim.host.SystemInfo, vendor="tranship", model="lab", uuid=_uuid(host.value("name"))),
        cpuInfo=vim.host.CpuInfo(numCpuPackages=2, numCpuCores=16, numCpuThreads=32, hz=2_400_000_000),
        cpuPkg=[package],
        memorySize=64 * GIB,
    )


def _host_config(host: Managed) -> Any:
    return fill(vim.host.ConfigInfo, host=host.ref, product=_product(), network=fill(vim.host.NetworkInfo))


def _datastore_info(name: str, summary: Any) -> Any:
    volume = fill(
        vim.host.VmfsVolume,
        type="VMFS",
        name=name,
        capacity=summary.capacity,
        blockSizeMb=1,
        majorVersion=6,
        version="6.82",
        uuid=_uuid(name),
        vmfsUpgradable=False,
        extent=[vim.host.ScsiDisk.Partition(diskName="naa.60060160", partition=1)],
    )
    return fill(
        vim.host.VmfsDatastoreInfo,
        name=name,
        url=summary.url,
        freeSpace=summary.freeSpace,
        maxFileSize=62 << 40,
        vmfs=volume,
    )


def _mount(host: Managed) -> Any:
    info = vim.host.MountInfo(path="/vmfs/volumes/lab", accessMode="readWrite", mounted=True, accessible=True)
    return vim.Datastore.HostMount(key=host.ref, mountInfo=info)


def _portgroup_config(network: Managed, name: str, vlan: int) -> Any:
    setting = vim.dvs.VmwareDistributedVirtualSwitch
    ports = setting.VmwarePortConfigPolicy(vlan=setting.VlanIdSpec(inherited=False, vlanId=vlan))
    return fill(
        vim.dvs.DistributedVirtualPortgroup.ConfigInfo,
        key=network.moid,
        name=name,
        numPorts=8,
        distributedVirtualSwitch=vim.dvs.VmwareDistributedVirtualSwitch("dvs-14"),
        defaultPortConfig=ports,
        type="earlyBinding",
    )
