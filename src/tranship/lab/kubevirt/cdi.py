"""CDI's part for storage: a StorageProfile for each of our StorageClasses, and CDIConfig with the overhead of file systems.

Both by their genuine schemas; what an administrator wrote into their `spec` wins, as with CDI. Nothing imports disks here:
a DataVolume stays as it is.
"""

from tranship.lab.kubevirt.api import Api, Controller, Kind, Mirror, Object
from tranship.lab.kubevirt.provisioner import PROVISIONER

PROFILES = Kind("/apis/cdi.kubevirt.io/v1beta1", "storageprofiles", namespaced=False)
CONFIGS = Kind("/apis/cdi.kubevirt.io/v1beta1", "cdiconfigs", namespaced=False)
API_VERSION = "cdi.kubevirt.io/v1beta1"
CONFIG = "config"
OVERHEAD = "0.06"  # CDI's own since 1.58


class Cdi(Controller):
    def __init__(self, api: Api, classes: Mirror, profiles: Mirror, configs: Mirror) -> None:
        super().__init__(classes, profiles, configs)
        self._api = api
        self._classes, self._profiles, self._configs = classes, profiles, configs

    def chosen(self) -> list[Object]:
        return [one for one in self._classes.objects.values() if one["provisioner"] == PROVISIONER]

    async def look(self, obj: Object) -> None:
        name, parameters = obj["metadata"]["name"], obj.get("parameters", {})
        modes = ["Filesystem", "Block"]
        if parameters.get("volumeMode") == "Block":
            modes.reverse()
        sets = [{"accessModes": ["ReadWriteOnce"], "volumeMode": mode} for mode in modes]
        profile = self._profiles.get("", name)
        status = {"provisioner": PROVISIONER, "storageClass": name, "cloneStrategy": "copy"}
        status |= {"dataImportCronSourceFormat": "pvc"}
        asked = profile["spec"].get("claimPropertySets") if profile else None
        await self._write(self._profiles, "StorageProfile", name, {**status, "claimPropertySets": asked or sets})
        await self._configure()

    async def _configure(self) -> None:
        config = self._configs.get("", CONFIG)
        asked = config["spec"].get("filesystemOverhead", {}) if config else {}
        rest = asked.get("global", OVERHEAD)
        each = {name: asked.get("storageClass", {}).get(name, rest) for _, name in self._classes.objects}
        overhead = {"global": rest, "storageClass": each}
        await self._write(self._configs, "CDIConfig", CONFIG, {"filesystemOverhead": overhead})

    async def _write(self, mirror: Mirror, kind: str, name: str, status: Object) -> None:
        """status: each of its fields as a whole."""
        known = mirror.get("", name)
        if known is None:
            bare: Object = {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": {}}
            await self._api.ensure(mirror.kind, bare)  # its status when the mirror has it
        elif any(known.get("status", {}).get(field) != value for field, value in status.items()):
            mirror.update(await self._api.patch(mirror.kind, known, {"status": status}, status=True))
