"""How a virtual machine looks to a client: LabVM to the data objects of vim.

center.py puts `vm_properties` into each VM; snapshots.py freezes `config` into a snapshot. Pure reading, under the world's
lock. A change id appears in a snapshot's config alone, never in the running configuration's.
"""

from collections.abc import Mapping
from typing import Any

from tranship.lab.vsphere.machine import Disk, LabVM, Snapshot
from tranship.lab.vsphere.soap import fill
from tranship.lab.vsphere.vmomi import vim

CONTROLLER = 1000
_MODES = {"virtual": "virtualMode", "physical": "physicalMode"}


def vm_properties(vm: LabVM, pool: Any, parent: Any) -> dict[str, Any]:
    return {
        "name": lambda: vm.name,
        "parent": parent,
        "config": lambda: config(vm),
        "runtime": lambda: runtime(vm),
        "guest": lambda: _guest(vm),
        "summary": lambda: _summary(vm),
        "storage": lambda: _storage(vm),
        "snapshot": lambda: snapshots(vm),
        "rootSnapshot": lambda: [item.ref for item in vm.chain[:1]],
        "capability": _capability,
        "resourcePool": lambda: None if vm.template else pool,
        "datastore": lambda: list({disk.datastore.moid: disk.datastore.ref for disk in vm.disks}.values()),
        "network": lambda: [nic.network.ref for nic in vm.nics],
        "recentTask": lambda: [vm.task.ref] if vm.task else [],
        "guestHeartbeatStatus": lambda: "green" if vm.tools_running else "gray",
        "overallStatus": "green",
        "configStatus": "green",
        "configIssue": [],
        "customValue": [],
        "value": [],
        "availableField": [],
        "tag": [],
        "triggeredAlarmState": [],
        "declaredAlarmState": [],
        "disabledMethod": [],
        "effectiveRole": [-1],
        "permission": [],
        "alarmActionsEnabled": True,
    }


def config(vm: LabVM, change_ids: Mapping[int, str] | None = None) -> Any:
    """vim.vm.ConfigInfo of now; `change_ids` by device key make it a snapshot's."""
    return fill(
        vim.vm.ConfigInfo,
        changeVersion=vm.change_version.isoformat(),
        modified=vm.change_version,
        name=vm.name,
        guestFullName=vm.guest_name,
        guestId=vm.guest_id,
        version="vmx-19",
        uuid=vm.uuid,
        instanceUuid=vm.instance_uuid,
        locationId="",
        template=vm.template,
        annotation=vm.annotation,
        files=_files(vm),
        flags=fill(vim.vm.FlagInfo, snapshotDisabled=False, snapshotLocked=False, diskUuidEnabled=False),
        hardware=_hardware(vm, change_ids or {}),
        extraConfig=_extra(vm),
        firmware=vm.firmware,
        bootOptions=vim.vm.BootOptions(bootDelay=0, enterBIOSSetup=False, efiSecureBootEnabled=vm.secure_boot),
        changeTrackingEnabled=vm.cbt,
        cpuHotAddEnabled=False,
        cpuHotRemoveEnabled=False,
        memoryHotAddEnabled=False,
        nestedHVEnabled=False,
        tools=vim.vm.ToolsConfigInfo(toolsVersion=12320 if vm.tools else 0, afterPowerOn=True),
    )


def _files(vm: LabVM) -> Any:
    home = vm.disks[0].datastore.value("name") if vm.disks else "datastore1"
    return vim.vm.FileInfo(
        vmPathName=f"[{home}] {vm.base}/{vm.base}.vmx",
        snapshotDirectory=f"[{home}] {vm.base}/",
        suspendDirectory=f"[{home}] {vm.base}/",
        logDirectory=f"[{home}] {vm.base}/",
    )


def _extra(vm: LabVM) -> list[Any]:
    pairs = {"svga.present": "TRUE"}
    if vm.cbt:
        pairs["ctkEnabled"] = "TRUE"
        pairs |= {f"scsi0:{disk.unit}.ctkEnabled": "TRUE" for disk in vm.disks if disk.snapshotted}
    return [vim.option.OptionValue(key=key, value=value) for key, value in pairs.items()]


def _hardware(vm: LabVM, change_ids: Mapping[int, str]) -> Any:
    shared = "physicalSharing" if any(disk.sharing == "bus" for disk in vm.disks) else "noSharing"
    scsi = vim.vm.device.ParaVirtualSCSIController(
        key=CONTROLLER,
        deviceInfo=vim.Description(label="SCSI controller 0", summary="VMware paravirtual SCSI"),
        busNumber=0,
        sharedBus=shared,
        scsiCtlrUnitNumber=7,
        hotAddRemove=True,
        device=[disk.key for disk in vm.disks],
    )
    ide = vim.vm.device.VirtualIDEController(key=200, busNumber=0, deviceInfo=_described("IDE 0", "IDE 0"))
    disks = [_disk(disk, change_ids.get(disk.key)) for disk in vm.disks]
    return fill(
        vim.vm.VirtualHardware,
        numCPU=vm.cpus,
        numCoresPerSocket=vm.cores_per_socket,
        memoryMB=vm.memory,
        virtualICH7MPresent=False,
        virtualSMCPresent=False,
        device=[ide, scsi, *disks, *(_nic(nic) for nic in vm.nics)],
    )


def _described(label: str, summary: str) -> Any:
    return vim.Description(label=label, summary=summary)


def _disk(disk: Disk, change_id: str | None) -> Any:
    return vim.vm.device.VirtualDisk(
        key=disk.key,
        deviceInfo=_described(f"Hard disk {disk.key - 1999}", f"{disk.capacity // 1024:,} KB"),
        backing=_backing(disk, disk.files, change_id),
        controllerKey=CONTROLLER,
        unitNumber=disk.unit,
        capacityInKB=disk.capacity // 1024,
        capacityInBytes=disk.capacity,
    )


def _backing(disk: Disk, files: list[int], change_id: str | None) -> Any:
    kinds = vim.vm.device.VirtualDisk
    sharing = "sharingMultiWriter" if disk.sharing == "multiwriter" else "sharingNone"
    common = {
        "fileName": disk.file(files[-1]),
        "datastore": disk.datastore.ref,
        "uuid": disk.uuid,
        "contentId": disk.uuid.replace("-", ""),
        "diskMode": disk.mode,
        "sharing": sharing,
        "changeId": change_id or None,
    }
    parent = _backing(disk, files[:-1], None) if files[1:] else None
    if disk.rdm:
        return kinds.RawDiskMappingVer1BackingInfo(
            **common,
            lunUuid=disk.uuid.replace("-", ""),
            deviceName="vml.02000000006006016",
            compatibilityMode=_MODES[disk.rdm],
            parent=parent,
        )
    return kinds.FlatVer2BackingInfo(**common, thinProvisioned=True, eagerlyScrub=False, parent=parent)


def _nic(nic: Any) -> Any:
    if issubclass(nic.network.kind, vim.dvs.DistributedVirtualPortgroup):
        port = vim.dvs.PortConnection(switchUuid=nic.network.switch_uuid, portgroupKey=nic.network.moid, portKey="1")
        backing = vim.vm.device.VirtualEthernetCard.DistributedVirtualPortBackingInfo(port=port)
    else:
        backing = vim.vm.device.VirtualEthernetCard.NetworkBackingInfo(
            deviceName=nic.network.value("name"), network=nic.network.ref, useAutoDetect=False
        )
    return vim.vm.device.VirtualVmxnet3(
        key=nic.key,
        deviceInfo=_described(f"Network adapter {nic.key - 3999}", str(nic.network.value("name"))),
        backing=backing,
        connectable=fill(vim.vm.device.VirtualDevice.ConnectInfo, startConnected=True, connected=True, status="ok"),
        controllerKey=100,
        unitNumber=nic.key - 3993,
        addressType="assigned",
        macAddress=nic.mac,
        wakeOnLanEnabled=True,
        uptCompatibilityEnabled=False,
    )


def runtime(vm: LabVM) -> Any:
    return fill(
        vim.vm.RuntimeInfo,
        host=vm.host.ref if vm.host else None,
        connectionState="connected",
        powerState=vm.power,
        consolidationNeeded=vm.consolidation_needed,
        faultToleranceState="notConfigured",
        toolsInstallerMounted=False,
        bootTime=vm.booted if vm.on else None,
        numMksConnections=0,
        recordReplayState="inactive",
        cleanPowerOff=None if vm.on else "hard-off" not in vm.power_causes()[-1:],
        onlineStandby=False,
    )


def _guest(vm: LabVM) -> Any:
    running = vm.tools_running
    status = ("toolsOk" if running else "toolsNotRunning") if vm.tools else "toolsNotInstalled"
    return fill(
        vim.vm.GuestInfo,
        toolsStatus=status,
        toolsRunningStatus="guestToolsRunning" if running else "guestToolsNotRunning",
        toolsVersionStatus="guestToolsCurrent" if vm.tools else "guestToolsNotInstalled",
        toolsVersionStatus2="guestToolsCurrent" if vm.tools else "guestToolsNotInstalled",
        toolsVersion="12320" if vm.tools else "0",
        guestState="running" if running else "notRunning",
        guestId=vm.guest_id if running else None,
        guestFullName=vm.guest_name if running else None,
        hostName=vm.name if running else None,
        ipAddress=vm.nics[0].address if running and vm.nics else None,
        net=[_guest_nic(nic) for nic in vm.nics] if running else [],
        disk=[],
        ipStack=[],
        guestOperationsReady=running,
    )


def _guest_nic(nic: Any) -> Any:
    entry = vim.net.IpConfigInfo.IpAddress(ipAddress=nic.address, prefixLength=24, state="preferred")
    return vim.vm.GuestInfo.NicInfo(
        network=str(nic.network.value("name")),
        ipAddress=[nic.address],
        macAddress=nic.mac,
        connected=True,
        deviceConfigId=nic.key,
        ipConfig=vim.net.IpConfigInfo(ipAddress=[entry]),
    )


def _summary(vm: LabVM) -> Any:
    running = vm.tools_running
    configured = vim.vm.Summary.ConfigSummary(
        name=vm.name,
        template=vm.template,
        vmPathName=_files(vm).vmPathName,
        memorySizeMB=vm.memory,
        numCpu=vm.cpus,
        numEthernetCards=len(vm.nics),
        numVirtualDisks=len(vm.disks),
        uuid=vm.uuid,
        instanceUuid=vm.instance_uuid,
        guestId=vm.guest_id,
        guestFullName=vm.guest_name,
        annotation=vm.annotation,
        installBootRequired=False,
        tpmPresent=False,
    )
    guest = vim.vm.Summary.GuestSummary(
        guestId=vm.guest_id if running else None,
        guestFullName=vm.guest_name if running else None,
        toolsStatus=("toolsOk" if running else "toolsNotRunning") if vm.tools else "toolsNotInstalled",
        toolsRunningStatus="guestToolsRunning" if running else "guestToolsNotRunning",
        hostName=vm.name if running else None,
        ipAddress=vm.nics[0].address if running and vm.nics else None,
    )
    total = sum(disk.capacity for disk in vm.disks)
    return fill(
        vim.vm.Summary,
        vm=vm.ref,
        runtime=runtime(vm),
        config=configured,
        guest=guest,
        storage=vim.vm.Summary.StorageSummary(
            committed=total, uncommitted=0, unshared=total, timestamp=vm.change_version
        ),
        overallStatus="green",
        customValue=[],
    )


def _storage(vm: LabVM) -> Any:
    usage: dict[str, Any] = {}
    for disk in vm.disks:
        entry = usage.setdefault(
            disk.datastore.moid,
            vim.vm.StorageInfo.UsageOnDatastore(datastore=disk.datastore.ref, committed=0, uncommitted=0, unshared=0),
        )
        entry.committed += disk.capacity
        entry.unshared += disk.capacity
    return vim.vm.StorageInfo(perDatastoreUsage=list(usage.values()), timestamp=vm.change_version)


def snapshots(vm: LabVM) -> Any:
    if not vm.chain:
        return None
    tree: list[Any] = []
    for item in reversed(vm.chain):
        tree = [_node(item, tree)]
    return vim.vm.SnapshotInfo(currentSnapshot=vm.chain[-1].ref, rootSnapshotList=tree)


def _node(item: Snapshot, children: list[Any]) -> Any:
    return vim.vm.SnapshotTree(
        snapshot=item.ref,
        vm=item.vm.ref,
        name=item.name,
        description=item.description,
        id=item.number,
        createTime=item.created,
        state=item.power,
        quiesced=item.quiesced,
        childSnapshotList=children,
        replaySupported=False,
    )


def _capability() -> Any:
    able = dict.fromkeys(
        (
            "snapshotOperationsSupported",
            "multipleSnapshotsSupported",
            "snapshotConfigSupported",
            "poweredOffSnapshotsSupported",
            "memorySnapshotsSupported",
            "revertToSnapshotSupported",
            "quiescedSnapshotsSupported",
            "changeTrackingSupported",
            "multipleCoresPerSocketSupported",
            "settingDisplayTopologySupported",
        ),
        True,
    )
    return fill(vim.vm.Capability, **able)
