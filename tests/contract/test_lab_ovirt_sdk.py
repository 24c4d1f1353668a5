"""The Engine of the lab under clients that we did not write: the examples of oVirt's SDK, and ovirt-img.

Each is a process with its own configuration in its own home, as a user runs it; what it brings back is compared with the
machine's disk byte for byte.
"""

import json
import os
import random
import runpy
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ovirtsdk4  # type: ignore[import-untyped]
import pytest
from ovirtsdk4 import types

from tranship.lab.ovirt import Engine, LabVM

MIB = 1 << 20
CONTENT = random.Random(11).randbytes(2 * MIB) + bytes(6 * MIB)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(tmp_path_factory.mktemp("engine")) as engine:
        yield engine


@pytest.fixture(scope="module")
def examples() -> Path:
    package = runpy.run_path(str(Path(__file__).with_name("sdk_examples.py")))
    try:
        return Path(package["examples"]())
    except package["Unavailable"] as reason:
        pytest.skip(f"the SDK's examples cannot be had: {reason}")


@pytest.fixture
def peer(engine: Engine, tmp_path: Path, examples: Path) -> "Peer":
    return Peer(engine, tmp_path, examples)


class Peer:
    def __init__(self, engine: Engine, home: Path, examples: Path) -> None:
        self.home = home
        self.examples = examples
        self.out = home / "out"
        self.out.mkdir()
        ca = home / "ca.pem"
        ca.write_text(engine.ca_pem)
        settings = {
            "engine_url": engine.url.removesuffix("/ovirt-engine/api"),
            "username": engine.user,
            "password": engine.password,
            "cafile": str(ca),
        }
        (home / ".config").mkdir()
        lines = ["[lab]", *(f"{name} = {value}" for name, value in settings.items())]
        (home / ".config" / "ovirt.conf").write_text("\n".join(lines) + "\n")
        (home / ".config" / "ovirt-img.conf").write_text("\n".join(lines) + "\n")

    def example(self, name: str, *arguments: str) -> str:
        return self._run([sys.executable, str(self.examples / name), "-c", "lab", *arguments])

    def img(self, *arguments: str) -> str:
        return self._run([str(Path(sys.executable).with_name("ovirt-img")), *arguments])

    def _run(self, argv: Sequence[str]) -> str:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {"HOME": str(self.home), "PATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(argv, cwd=self.home, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def backup(self, kind: str, vm: LabVM, *arguments: str) -> Path:
        """The file that backup_vm.py wrote."""
        before = set(self.out.iterdir())
        self.example("backup_vm.py", kind, "--backup-dir", str(self.out), *arguments, vm.id)
        (made,) = set(self.out.iterdir()) - before
        return made

    def checkpoints(self, vm: LabVM) -> list[dict[str, Any]]:
        found = json.loads(self.example("checkpoints.py", "list", vm.id))
        assert isinstance(found, list)
        return found


def raw(image: Path) -> bytes:
    """The content of an image, read through its whole chain."""
    target = image.with_suffix(".raw")
    subprocess.run(["qemu-img", "convert", "-O", "raw", image, target], check=True, timeout=60)
    try:
        return target.read_bytes()
    finally:
        target.unlink()


def extents(image: Path) -> list[tuple[int, int]]:
    """What the top layer of a chain has."""
    told = subprocess.run(
        ["qemu-img", "map", "--output", "json", image], check=True, capture_output=True, text=True, timeout=60
    )
    return [(e["start"], e["length"]) for e in json.loads(told.stdout) if e["depth"] == 0]


@pytest.mark.parametrize("running", [False, True], ids=["cold", "live"])
def test_backup_vm_full_and_incremental(engine: Engine, peer: Peer, running: bool) -> None:
    vm = engine.add_vm(f"backup-{running}", [CONTENT], running=running)
    full = peer.backup("full", vm)
    assert raw(full) == CONTENT
    (first,) = peer.checkpoints(vm)
    assert first["id"] in full.name and first["state"] == "created"
    for at in (0, 5 * MIB):
        vm.write(at, b"\5" * 65536)
    more = peer.backup("incremental", vm, "--from-checkpoint-uuid", first["id"])
    assert extents(more) == [(0, 65536), (5 * MIB, 65536)]
    assert raw(more) == vm.read() != CONTENT
    assert vm.backups == vm.transfers == vm.snapshots == []
    for checkpoint in peer.checkpoints(vm):
        peer.example("checkpoints.py", "remove", vm.id, checkpoint["id"])
    assert vm.checkpoints == [] == peer.checkpoints(vm)


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_ovirt_img_downloads_a_disk(engine: Engine, peer: Peer, format: str) -> None:
    vm = engine.add_vm(f"img-{format}", [CONTENT], format="raw" if format == "raw" else "cow")
    target = peer.out / "disk"
    peer.img("download-disk", "-c", "lab", "-f", format, vm.disks[0].id, str(target))
    assert raw(target) == CONTENT
    assert vm.transfers == [] and vm.disks[0].status == "ok"


def test_the_sdk_itself(engine: Engine, peer: Peer) -> None:
    """What it makes of the inventory: each reader of it is strict about names and numbers."""
    vm = engine.add_vm("read", [MIB], running=True)
    vm.hardware.watchdog, vm.hardware.cpu_pins, vm.hardware.custom_properties = "reset", {0: "1-2"}, {"a": "b"}
    engine.add_disk(vm, MIB, storage_type="lun")
    with pytest.raises(ovirtsdk4.AuthError, match="access_denied"):
        connect(engine, peer, "wrong").authenticate()
    connection = connect(engine, peer, engine.password)
    system = connection.system_service()
    follow = "disk_attachments.disk,nics.reported_devices,snapshots,watchdogs"
    (seen,) = system.vms_service().list(search="name=read", follow=follow)
    assert (seen.status, seen.memory, seen.bios.boot_menu.enabled) == (types.VmStatus.UP, 64 * MIB, False)
    image, lun = (attachment.disk for attachment in seen.disk_attachments)
    assert (image.provisioned_size, image.backup) == (MIB, types.DiskBackup.INCREMENTAL)
    assert lun.storage_type is types.DiskStorageType.LUN and lun.lun_storage.logical_units[0].size == MIB
    assert seen.nics[0].reported_devices[0].ips[0].version is types.IpVersion.V4
    assert [item.snapshot_type for item in seen.snapshots] == [types.SnapshotType.ACTIVE]
    assert seen.cpu.cpu_tune.vcpu_pins[0].cpu_set == "1-2" and seen.custom_properties[0].name == "a"
    assert connection.follow_link(seen.host).status is types.HostStatus.UP
    (event,) = system.events_service().list(max=1)
    assert event.vm.id == vm.id and event.time.tzinfo is not None
    with pytest.raises(ovirtsdk4.NotFoundError):
        system.vms_service().vm_service("nobody").get()
    with pytest.raises(ovirtsdk4.Error, match="is running") as caught:
        system.vms_service().vm_service(vm.id).start()
    assert caught.value.code == 409
    connection.close()
    assert engine.sso.count == 0


def connect(engine: Engine, peer: Peer, password: str) -> Any:
    return ovirtsdk4.Connection(
        url=engine.url, username=engine.user, password=password, ca_file=str(peer.home / "ca.pem")
    )
