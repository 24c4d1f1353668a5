"""The lab as `tranship lab` and `tranship demo` show it: a vCenter with three machines, and manifests that move them.

    archive   stopped; moved cold
    shop      running, two disks; moved warm through the VDDK library
    mail      running; moved warm where no VDDK library is configured

All three carry the record-writing guest, so what was lost can be counted.
"""

from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from tranship.lab.vsphere import VCenter
from tranship.lab.vsphere.machine import LabVM

MIB = 1 << 20
API = "forklift.konveyor.io/v1beta1"
INTERVAL = "8s"  # an hour in earnest; a visitor has no hour


class Showroom:
    NAMES = ("archive", "shop", "mail")

    def __init__(self, directory: Path, port: int = 0) -> None:
        self.directory = directory
        self.targets = directory / "moved"
        self.center = VCenter(directory / "vcenter", port=port)

    def __enter__(self) -> "Showroom":
        self.center.start()
        options: dict[str, Any] = {"guest": True, "running": True, "cbt": True, "memory": 64}
        self.archive = self.center.add_vm("archive", [64 * MIB], rate=400, **options)
        self.shop = self.center.add_vm("shop", [128 * MIB, 64 * MIB], rate=100, **options)
        self.mail = self.center.add_vm("mail", [96 * MIB], rate=60, **options)
        self._stop(self.archive)
        return self

    def __exit__(self, *_: object) -> None:
        self.center.close()

    def _stop(self, vm: LabVM) -> None:
        """With some records on its disk."""
        assert vm.guest is not None
        vm.guest.wait_number(200, deadline=60)
        vm.guest.request_shutdown()
        vm.guest.wait_exit(deadline=30)

    def write_manifests(self) -> Path:
        """Providers, maps and plans, one file each; the runs are started apart."""
        folder = self.directory / "manifests"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        files = {
            "1-providers.yaml": self._providers(),
            "2-maps.yaml": [
                document for provider in ("vcenter", "vcenter-without-vddk") for document in _maps(provider)
            ],
            "3-plans.yaml": self._plans(),
        }
        for name, documents in files.items():
            path = folder / name
            path.touch(mode=0o600)
            path.write_text(yaml.safe_dump_all(documents, sort_keys=False))
        return folder

    def write_run(self, plan: str, cutover: datetime) -> Path:
        """A Migration with its cutover in it, as an administrator writes it who has a maintenance window."""
        path = self.directory / f"run-{plan}.yaml"
        spec = {"plan": {"name": plan, "namespace": "default"}, "cutover": cutover.strftime("%Y-%m-%dT%H:%M:%SZ")}
        path.write_text(yaml.safe_dump(_document("Migration", plan, spec=spec), sort_keys=False))
        return path

    def _providers(self) -> list[dict[str, Any]]:
        center = self.center
        secret = {"user": center.user, "password": center.password, "ca.crt": center.ca_pem}
        vsphere = {"type": "vsphere", "url": center.url, "secret": {"name": "vcenter", "namespace": "default"}}
        here = {"type": "local", "secret": {}, "settings": {"directory": str(self.targets)}}
        return [
            _document("Secret", "vcenter", type="Opaque", stringData=secret),
            _document(
                "Provider", "vcenter", spec={**vsphere, "settings": {"vddkDirectory": str(center.vddk_directory)}}
            ),
            _document("Provider", "vcenter-without-vddk", spec=vsphere),
            _document("Provider", "here", spec=here),
        ]

    def _plans(self) -> list[dict[str, Any]]:
        precopy = {"interval": INTERVAL}
        return [
            _plan("archive", "vcenter-without-vddk", type="cold", targetPowerState="on"),
            _plan("shop", "vcenter", type="warm", precopy=precopy),
            _plan("mail", "vcenter-without-vddk", type="warm", precopy=precopy),
        ]


def _document(kind: str, name: str, **parts: Any) -> dict[str, Any]:
    version = "v1" if kind == "Secret" else API
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": "default"}, **parts}


def _between(provider: str) -> dict[str, Any]:
    return {"source": _ref(provider), "destination": _ref("here")}


def _ref(name: str) -> dict[str, str]:
    return {"name": name, "namespace": "default"}


def _maps(provider: str) -> list[dict[str, Any]]:
    network = {"source": {"name": "VM Network"}, "destination": {"type": "pod"}}
    storage = {"source": {"name": "datastore1"}, "destination": {"storageClass": "default"}}
    return [
        _document("NetworkMap", provider, spec={"provider": _between(provider), "map": [network]}),
        _document("StorageMap", provider, spec={"provider": _between(provider), "map": [storage]}),
    ]


def _plan(name: str, provider: str, **spec: Any) -> dict[str, Any]:
    maps = {"network": _ref(provider), "storage": _ref(provider)}
    base = {"provider": _between(provider), "map": maps, "targetNamespace": "demo", "vms": [{"name": name}]}
    return _document("Plan", name, spec={**base, **spec})
