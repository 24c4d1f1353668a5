"""An external provisioner of local volumes, as CSI drivers and the local path provisioner are for real clusters.

A StorageClass whose provisioner is PROVISIONER may have these parameters:

    filesystem   directory (the default; as large as this machine's disk) or ext4 (of the requested size: it can be full)
    volumeMode   what CDI's StorageProfile of the class names first: Filesystem (the default) or Block

A claim of such a class is due when the cluster's volume controller has marked it as ours and, where the class waits for
its first consumer, the scheduler has chosen our node. Its PersistentVolume carries our finalizer, so that its place is
taken back however it goes. A volume of reclaim policy Retain is left alone.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from tranship.errors import Invalid, TranshipError
from tranship.lab.kubevirt import volumes
from tranship.lab.kubevirt.api import Api, Controller, Kind, Mirror, Object, key, quantity
from tranship.lab.kubevirt.status import without

PROVISIONER = "lab.tranship.io/volumes"
FINALIZER = "lab.tranship.io/volume"
MIB = 1 << 20
CLASSES = Kind("/apis/storage.k8s.io/v1", "storageclasses", namespaced=False)
CLAIMS = Kind("/api/v1", "persistentvolumeclaims")
VOLUMES = Kind("/api/v1", "persistentvolumes", namespaced=False)
_PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
_WANTED_OF = ("volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner")
_SELECTED_NODE = "volume.kubernetes.io/selected-node"
_FILESYSTEMS = ("directory", "ext4")


@dataclass(frozen=True)
class StorageClass:
    """One that `KubeVirt` makes. filesystem, volume_mode: as the parameters above. default: for claims that name none."""

    name: str
    volume_mode: str = "Filesystem"
    filesystem: str = "directory"
    binding: str = "WaitForFirstConsumer"
    reclaim: str = "Delete"
    default: bool = False

    def manifest(self) -> Object:
        mark = {"storageclass.kubernetes.io/is-default-class": "true"} if self.default else {}
        return {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": self.name, "annotations": mark},
            "provisioner": PROVISIONER,
            "volumeBindingMode": self.binding,
            "reclaimPolicy": self.reclaim,
            "parameters": {"filesystem": self.filesystem, "volumeMode": self.volume_mode},
        }


class Provisioner(Controller):
    """Makes what claims ask for. folder: of the volumes."""

    def __init__(self, api: Api, folder: Path, node: str, claims: Mirror, classes: Mirror, held: Mirror) -> None:
        super().__init__(claims, classes, held)
        self._api, self._folder, self._node = api, folder, node
        self._classes, self._held = classes, held

    async def look(self, obj: Object) -> None:
        storage = self._due_class(obj)
        name = f"pvc-{obj['metadata']['uid']}"
        if storage is None or self._held.get("", name):
            return
        try:
            await self._api.create(VOLUMES, await self._volume(name, obj, storage))
        except TranshipError as error:
            await self._api.tell("PersistentVolumeClaim", obj, "ProvisioningFailed", str(error), warning=True)
            raise

    def _due_class(self, claim: Object) -> Object | None:
        """The claim's class, if a volume for it is to be made here and now."""
        meta, spec = claim["metadata"], claim["spec"]
        notes = meta.get("annotations", {})
        storage = self._classes.get("", spec.get("storageClassName", ""))
        if storage is None or storage["provisioner"] != PROVISIONER or not any(notes.get(one) for one in _WANTED_OF):
            return None
        if spec.get("volumeName") or "deletionTimestamp" in meta:
            return None
        node = notes.get(_SELECTED_NODE)
        if storage.get("volumeBindingMode") == "WaitForFirstConsumer" or node:
            return storage if node == self._node else None
        return storage

    async def _volume(self, name: str, claim: Object, storage: Object) -> Object:
        """The PersistentVolume of a place that has been made."""
        meta, spec = claim["metadata"], claim["spec"]
        filesystem = storage.get("parameters", {}).get("filesystem", _FILESYSTEMS[0])
        if filesystem not in _FILESYSTEMS:
            field = f"StorageClass {storage['metadata']['name']}: parameters.filesystem"
            raise Invalid(f"{filesystem!r} is none of {', '.join(_FILESYSTEMS)}", field=field)
        block = spec.get("volumeMode") == "Block"
        size = quantity(spec["resources"]["requests"]["storage"])
        size = -(-size // MIB) * MIB
        ext4 = filesystem == "ext4"
        place = await asyncio.to_thread(volumes.make, self._folder / name, size, block=block, ext4=ext4)
        wanted = {name: meta[name] for name in ("namespace", "name", "uid", "resourceVersion")}
        here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [self._node]}
        return {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name, "annotations": {_PROVISIONED_BY: PROVISIONER}, "finalizers": [FINALIZER]},
            "spec": {
                "accessModes": spec["accessModes"],
                "capacity": {"storage": f"{size // MIB}Mi"},
                "volumeMode": "Block" if block else "Filesystem",
                "storageClassName": storage["metadata"]["name"],
                "persistentVolumeReclaimPolicy": storage.get("reclaimPolicy", "Delete"),
                "local": {"path": str(place)},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
                "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim"} | wanted,
            },
        }


class Reclaimer(Controller):
    """Takes back what no claim holds any more."""

    def __init__(self, api: Api, folder: Path, held: Mirror) -> None:
        super().__init__(held)
        self._api, self._folder, self._held = api, folder, held

    async def look(self, obj: Object) -> None:
        meta, phase = obj["metadata"], obj.get("status", {}).get("phase")
        if FINALIZER not in meta.get("finalizers", ()):
            return
        leaving = "deletionTimestamp" in meta
        deletes = obj["spec"].get("persistentVolumeReclaimPolicy") == "Delete"
        if phase == "Bound" or not (leaving or (deletes and phase in ("Released", "Failed"))):
            return
        if deletes:
            await asyncio.to_thread(volumes.remove, self._folder / key(obj)[1])
        await self._api.delete(VOLUMES, obj)
        current = await self._api.find(VOLUMES, meta["name"])
        if current is not None and current["metadata"]["uid"] == meta["uid"]:
            await without(self._api, self._held, current, FINALIZER)
