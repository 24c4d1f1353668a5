"""VirtualMachineInstances: a launcher pod for each, QEMU when the pod runs, and the phases that KubeVirt tells.

    Pending      its claims are looked for, the pod is made
    Scheduling   the pod waits for node and volumes
    Scheduled    the pod runs; QEMU is started
    Running      until QEMU ends: Succeeded if the guest shut down, Failed else

An instance that is being deleted is shut down by its power button, and killed after its grace period. What says Running
without a process of ours was left by a stand-in that is no more: Failed.
"""

import asyncio
import os
import shutil
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

from tranship.errors import AlreadyExists, Refused, ToolFailed, TranshipError
from tranship.lab.kubevirt import domain, firmware, launcher
from tranship.lab.kubevirt.api import Api, Controller, Kind, Mirror, Object, key, quantity
from tranship.lab.kubevirt.cdi import CONFIG, OVERHEAD
from tranship.lab.kubevirt.launcher import PODS
from tranship.lab.kubevirt.process import Process
from tranship.lab.kubevirt.status import FINAL, condition, dated, now, phase, without, write

INSTANCES = Kind("/apis/kubevirt.io/v1", "virtualmachineinstances")
ATTACHMENTS = Kind("/apis/k8s.cni.cncf.io/v1", "network-attachment-definitions")
FINALIZER = "foregroundDeleteVirtualMachine"
PVC_NOT_FOUND = "FailedPvcNotFound"
GRACE_SECONDS = 30
MIB = 1 << 20


class Instances(Controller):
    """folder: of the machines' consoles, <namespace>/<name>/console.log. image: of the launcher pods."""

    def __init__(
        self,
        api: Api,
        folder: Path,
        image: str,
        instances: Mirror,
        *,
        pods: Mirror,
        claims: Mirror,
        held: Mirror,
        configs: Mirror,
    ) -> None:
        super().__init__(instances, pods, claims, held, configs)
        self._api, self._folder, self._image = api, folder, image
        self._instances, self._pods, self._claims, self._held, self._configs = instances, pods, claims, held, configs
        self._processes: dict[str, Process] = {}

    async def close(self) -> None:
        """Every machine is switched off hard."""
        for process in self._processes.values():
            await process.kill()

    def process(self, namespace: str, name: str) -> Process | None:
        instance = self._instances.get(namespace, name)
        return self._processes.get(instance["metadata"]["uid"]) if instance else None

    async def look(self, obj: Object) -> None:
        meta = obj["metadata"]
        if FINALIZER not in meta.get("finalizers", ()) and "deletionTimestamp" not in meta:
            with_ours = [*meta.get("finalizers", ()), FINALIZER]
            obj = await self._api.patch(INSTANCES, obj, {"metadata": {"finalizers": with_ours}})
            self._instances.update(obj)
        pod = self._pods.get(meta["namespace"], launcher.name(obj))
        process = self._processes.get(meta["uid"])
        if phase(obj) in FINAL:
            await self._leave(obj, pod)
        elif process is not None and not process.running:
            await self._ended(obj, process)
        elif "deletionTimestamp" in meta:
            await self._stop(obj, process)
        else:
            await self._advance(obj, pod, process)

    async def _advance(self, obj: Object, pod: Object | None, process: Process | None) -> None:
        match phase(obj):
            case "" | "Pending":
                await self._pending(obj)
            case "Scheduling":
                await self._scheduling(obj, pod)
            case "Scheduled":
                await self._start(obj, process)
            case _ if process is None:
                await self._fail(obj, "its QEMU is no more")
            case _ if pod is None or "deletionTimestamp" in pod["metadata"] or phase(pod) in FINAL:
                process.stop(_grace(obj))

    # -- the phases

    async def _pending(self, obj: Object) -> None:
        if not phase(obj):
            obj = await self._write(obj, "Pending")
        namespace, spec = obj["metadata"]["namespace"], obj["spec"]
        for claim in domain.claims(spec).values():
            if self._claims.get(namespace, claim) is None:
                await self._write(
                    obj, "Pending", synchronized=(PVC_NOT_FOUND, f"PVC {namespace}/{claim} does not exist")
                )
                return
        try:
            domain.check(spec)
            await self._check_networks(obj)
            await self._api.create(PODS, launcher.pod(obj, self._image, self._block(obj)))
        except AlreadyExists:
            pass
        except Refused as error:  # a quota, Pod Security: it may be another day
            await self._write(
                obj, "Pending", synchronized=("FailedCreate", f"failed to create virtual machine pod: {error}")
            )
            self.wake_in(2)
            return
        except TranshipError as error:
            if error.temporary:
                raise
            await self._fail(obj, str(error))
            return
        for words in domain.ignored(spec):
            await self._api.tell("VirtualMachineInstance", obj, "NotInThisLab", words, warning=True)
        await self._write(obj, "Scheduling")

    def _block(self, obj: Object) -> frozenset[str]:
        namespace = obj["metadata"]["namespace"]
        modes = {
            volume: (self._claims.get(namespace, claim) or {}).get("spec", {}).get("volumeMode")
            for volume, claim in domain.claims(obj["spec"]).items()
        }
        return frozenset(volume for volume, mode in modes.items() if mode == "Block")

    async def _check_networks(self, obj: Object) -> None:
        for network in obj["spec"].get("networks", ()):
            if name := network.get("multus", {}).get("networkName"):
                namespace, _, last = name.rpartition("/")
                namespace = namespace or obj["metadata"]["namespace"]
                if await self._api.find(ATTACHMENTS, last, namespace) is None:
                    words = f"failed to locate network attachment definition {namespace}/{last}"
                    raise Refused(words, what=f"network {network['name']}", fault="NotFound")

    async def _scheduling(self, obj: Object, pod: Object | None) -> None:
        if pod is None:
            if await self._api.find(PODS, launcher.name(obj), obj["metadata"]["namespace"]) is None:
                await self._fail(obj, "its pod is gone")
            return
        if phase(pod) in FINAL or "deletionTimestamp" in pod["metadata"]:
            await self._fail(obj, f"its pod has ended: {pod.get('status', {}).get('message', phase(pod))}")
        elif phase(pod) == "Running":
            await self._write(obj, "Scheduled", facts={"nodeName": pod["spec"]["nodeName"]})
        else:
            await self._write(
                obj, "Scheduling", unschedulable=launcher.unschedulable(pod), synchronized=launcher.trouble(pod)
            )

    async def _start(self, obj: Object, process: Process | None) -> None:
        if process is None:
            folder = self._folder.joinpath(*key(obj))
            try:
                arguments = await asyncio.to_thread(self._arguments, obj, folder)
                pulled, zone = domain.pulled(obj["spec"]), domain.zone(obj["spec"])
                process = Process(folder, arguments, self.wake, pulled=pulled, zone=zone)
                self._processes[obj["metadata"]["uid"]] = process  # before it runs: whatever happens, it is ended
                await process.start()
            except (OSError, TranshipError) as error:
                self._processes.pop(obj["metadata"]["uid"], None)
                await self._fail(obj, str(error))
                return
        nics = [_nic(one, obj["metadata"]["uid"]) for _, one in domain.plugged(obj["spec"])]
        guest = obj["spec"]["domain"].get("memory", {}).get("guest") or f"{domain.memory(obj['spec']) // MIB}Mi"
        size = {"guestAtBoot": guest, "guestCurrent": guest, "guestRequested": guest}
        facts = {"interfaces": nics, "volumeStatus": self._volume_status(obj), "memory": size}
        await self._write(obj, "Running", facts=facts | {"currentCPUTopology": domain.topology(obj["spec"])})

    async def _ended(self, obj: Object, process: Process) -> None:
        del self._processes[obj["metadata"]["uid"]]
        await process.kill()  # what is left of its channels
        await self._write(obj, "Succeeded" if process.shut_down else "Failed")

    async def _stop(self, obj: Object, process: Process | None) -> None:
        if process is None:
            await self._write(obj, "Failed")  # it never ran
        else:
            process.stop(_grace(obj))

    async def _fail(self, obj: Object, why: str) -> None:
        await self._api.tell("VirtualMachineInstance", obj, "SyncFailed", why, warning=True)
        await self._write(obj, "Failed", synchronized=("SyncFailed", why))

    async def _leave(self, obj: Object, pod: Object | None) -> None:
        if pod is not None and "deletionTimestamp" not in pod["metadata"]:
            await self._api.delete(PODS, pod)
        elif pod is None and "deletionTimestamp" in obj["metadata"]:
            await without(self._api, self._instances, obj, FINALIZER)

    # -- what is written

    async def _write(
        self,
        obj: Object,
        stage: str,
        *,
        unschedulable: str = "",
        synchronized: tuple[str, str] = ("", ""),
        facts: Object | None = None,
    ) -> Object:
        words = {"reason": "GuestNotRunning", "message": "Guest VM is not reported as running"}
        if stage in FINAL:
            words = {"reason": "PodTerminating", "message": "virt-launcher pod is terminating"}
        running = stage == "Running"
        conditions = [condition("Ready", running, **({} if running else words))]
        if unschedulable:
            conditions.append(condition("PodScheduled", False, "Unschedulable", unschedulable))
        if synchronized[0]:
            conditions.append(condition("Synchronized", False, *synchronized))
        status: Object = {"phase": stage, "conditions": dated(obj, conditions), **(facts or {})}
        if stage != phase(obj):
            passed = obj.get("status", {}).get("phaseTransitionTimestamps", [])
            status["phaseTransitionTimestamps"] = [*passed, {"phase": stage, "phaseTransitionTimestamp": now()}]
        return await write(self._api, self._instances, obj, status)

    def _volume_status(self, obj: Object) -> list[Object]:
        targets = domain.targets(obj["spec"])
        found = []
        for volume, name in domain.claims(obj["spec"]).items():
            claim = self._claims.get(obj["metadata"]["namespace"], name) or {"spec": {}}
            facts = {"claimName": name, "volumeMode": claim["spec"].get("volumeMode", "Filesystem")}
            facts |= {"accessModes": claim["spec"].get("accessModes", [])}
            facts |= {"capacity": claim.get("status", {}).get("capacity", {})}
            facts |= {"requests": claim["spec"].get("resources", {}).get("requests", {})}
            facts |= {"filesystemOverhead": self._overhead(claim)}
            found.append({"name": volume, "target": targets[volume], "persistentVolumeClaimInfo": facts})
        return found

    # -- the machine

    def _arguments(self, obj: Object, folder: Path) -> list[str]:
        """Blocking: files are made."""
        meta, spec = obj["metadata"], obj["spec"]
        folder.mkdir(parents=True, exist_ok=True)
        places = {volume: self._place(meta["namespace"], claim) for volume, claim in domain.claims(spec).items()}
        secure = domain.secure_boot(spec)
        found = None
        if secure is not None:
            found = firmware.find(secure)
            own = folder / "variables.fd"
            persistent = spec["domain"]["firmware"]["bootloader"]["efi"].get("persistent")
            if not (persistent and own.exists()):
                shutil.copy(found.variables, own)
            found = found._replace(variables=own)
        return list(domain.command(meta["name"], meta["uid"], spec, places, found))

    def _place(self, namespace: str, name: str) -> Path:
        """The device, or the file disk.img, which KubeVirt makes where there is none."""
        claim = self._claims.get(namespace, name) or {"spec": {}}
        volume = self._held.get("", claim["spec"].get("volumeName", ""))
        path = (volume or {"spec": {}})["spec"].get("local", {}).get("path")
        if path is None:
            raise ToolFailed(argv=f"attaching {name}", code=1, output="its volume is not local to this node")
        if claim["spec"].get("volumeMode") == "Block":
            return Path(path)
        image = Path(path) / "disk.img"
        if not image.exists():
            whole = Decimal(quantity(claim["status"]["capacity"]["storage"])) * (1 - Decimal(self._overhead(claim)))
            with image.open("wb") as file:
                file.truncate(int(whole) // MIB * MIB)
                os.fchown(file.fileno(), launcher.USER, launcher.USER)
                os.fchmod(file.fileno(), 0o660)
        return image

    def _overhead(self, claim: Object) -> str:
        config: Mapping[str, Object] = (
            (self._configs.get("", CONFIG) or {}).get("status", {}).get("filesystemOverhead", {})
        )
        each = config.get("storageClass", {})
        return str(each.get(claim["spec"].get("storageClassName", "")) or config.get("global") or OVERHEAD)


def _grace(obj: Object) -> float:
    return float(obj["spec"].get("terminationGracePeriodSeconds", GRACE_SECONDS))


def _nic(interface: Object, uid: str) -> Object:
    """As the status tells it."""
    link = "down" if interface.get("state") == "down" else "up"
    told = {"name": interface["name"], "mac": domain.mac(interface, uid), "linkState": link}
    return {**told, "infoSource": "domain", "queueCount": 1}
