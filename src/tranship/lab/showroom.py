"""The lab as `tranship lab` and `tranship demo` show it: a vCenter and an oVirt Engine, and manifests that move their machines.

    archive   vCenter, stopped; moved cold
    shop      vCenter, running, two disks; moved warm through the VDDK library
    mail      vCenter, running; moved warm where no VDDK library is configured
    ledger    Engine, stopped; moved cold
    clinic    Engine, running; moved warm by incremental backup

All carry the record-writing guest, so what was lost can be counted.
"""

from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from tranship.lab.ovirt import Engine, LabVM
from tranship.lab.vsphere import VCenter
from tranship.lab.vsphere.machine import LabVM as VsphereVM

MIB = 1 << 20
API = "forklift.konveyor.io/v1beta1"
INTERVAL = "8s"  # an hour in earnest; a visitor has no hour


Machine = VsphereVM | LabVM


class Showroom:
    def __init__(self, directory: Path, port: int = 0) -> None:
        """port: of the vCenter; the Engine listens on the next one. 0 = any free ones."""
        self.directory = directory
        self.targets = directory / "moved"
        self.center = VCenter(directory / "vcenter", port=port)
        self.engine = Engine(directory / "engine", port=port and port + 1)
        self.machines: dict[str, Machine] = {}

    def __enter__(self) -> "Showroom":
        self.center.start()
        self.engine.start()
        options: dict[str, Any] = {"guest": True, "running": True, "cbt": True, "memory": 64}
        here: dict[str, Any] = {"guest": True, "running": True, "memory": 64}
        made: list[Machine] = [
            self.center.add_vm("archive", [64 * MIB], rate=400, **options),
            self.center.add_vm("shop", [128 * MIB, 64 * MIB], rate=100, **options),
            self.center.add_vm("mail", [96 * MIB], rate=60, **options),
            self.engine.add_vm("ledger", [64 * MIB], rate=400, **here),
            self.engine.add_vm("clinic", [96 * MIB], rate=100, **here),
        ]
        self.machines = {machine.name: machine for machine in made}
        self._stop("archive")
        self._stop("ledger")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.machines)

    def left(self, name: str) -> int:
        """What there is on the source beside the machine itself: snapshots, and what only an Engine has."""
        machine = self.machines[name]
        more = [machine.backups, machine.checkpoints, machine.transfers] if isinstance(machine, LabVM) else []
        return sum(map(len, [machine.snapshots, *more]))

    def __exit__(self, *_: object) -> None:
        self.engine.close()
        self.center.close()

    def _stop(self, name: str) -> None:
        """With some records on its disk."""
        guest = self.machines[name].guest
        assert guest is not None
        guest.wait_number(200, deadline=60)
        guest.request_shutdown()
        guest.wait_exit(deadline=30)

    def write_manifests(self) -> Path:
        """Providers, maps and plans, one file each; the runs are started apart."""
        folder = self.directory / "manifests"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        files = {
            "1-providers.yaml": self._providers(),
            "2-maps.yaml": [
                *_maps("vcenter", "VM Network", "datastore1"),
                *_maps("vcenter-without-vddk", "VM Network", "datastore1"),
                *_maps("engine", "ovirtmgmt", "data"),
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
        center, engine = self.center, self.engine
        secret = {"user": center.user, "password": center.password, "ca.crt": center.ca_pem}
        vsphere = {"type": "vsphere", "url": center.url, "secret": {"name": "vcenter", "namespace": "default"}}
        rhv = {"user": engine.user, "password": engine.password, "cacert": engine.ca_pem}
        ovirt = {"type": "ovirt", "url": engine.url, "secret": {"name": "engine", "namespace": "default"}}
        here = {"type": "local", "secret": {}, "settings": {"directory": str(self.targets)}}
        return [
            _document("Secret", "vcenter", type="Opaque", stringData=secret),
            _document(
                "Provider", "vcenter", spec={**vsphere, "settings": {"vddkDirectory": str(center.vddk_directory)}}
            ),
            _document("Provider", "vcenter-without-vddk", spec=vsphere),
            _document("Secret", "engine", type="Opaque", stringData=rhv),
            _document("Provider", "engine", spec=ovirt),
            _document("Provider", "here", spec=here),
        ]

    def _plans(self) -> list[dict[str, Any]]:
        precopy = {"interval": INTERVAL}
        return [
            _plan("archive", "vcenter-without-vddk", type="cold", targetPowerState="on"),
            _plan("shop", "vcenter", type="warm", precopy=precopy),
            _plan("mail", "vcenter-without-vddk", type="warm", precopy=precopy),
            _plan("ledger", "engine", type="cold", targetPowerState="on"),
            _plan("clinic", "engine", type="warm", precopy=precopy),
        ]


def _document(kind: str, name: str, **parts: Any) -> dict[str, Any]:
    version = "v1" if kind == "Secret" else API
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": "default"}, **parts}


def _between(provider: str) -> dict[str, Any]:
    return {"source": _ref(provider), "destination": _ref("here")}


def _ref(name: str) -> dict[str, str]:
    return {"name": name, "namespace": "default"}


def _maps(provider: str, network: str, storage: str) -> list[dict[str, Any]]:
    networks = [{"source": {"name": network}, "destination": {"type": "pod"}}]
    storages = [{"source": {"name": storage}, "destination": {"storageClass": "default"}}]
    return [
        _document("NetworkMap", provider, spec={"provider": _between(provider), "map": networks}),
        _document("StorageMap", provider, spec={"provider": _between(provider), "map": storages}),
    ]


def _plan(name: str, provider: str, **spec: Any) -> dict[str, Any]:
    maps = {"network": _ref(provider), "storage": _ref(provider)}
    base = {"provider": _between(provider), "map": maps, "targetNamespace": "demo", "vms": [{"name": name}]}
    return _document("Plan", name, spec={**base, **spec})
