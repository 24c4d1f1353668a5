"""The way of each disk, and why; a disk that cannot be moved so is named before anything begins."""

from dataclasses import replace
from pathlib import Path

import pytest

from tranship.errors import Unsupported
from tranship.inventory.vm import VM, Disk, Power
from tranship.providers.vsphere.ways import choose

DISK = Disk(
    key="2000", label="Hard disk 1", path="[ds] a/a.vmdk", datastore="datastore-1", capacity=1 << 30, bus="scsi"
)
OFF = VM(id="vm-1", name="a", power=Power.OFF, disks=(DISK,))


def ways(vm: VM, *, warm: bool, vddk: str = "", kind: str = "VMFS") -> list[str]:
    return [way.way for way in choose(vm, warm=warm, vddk=vddk, kinds=[("datastore-1", kind)])]


@pytest.fixture
def vddk(tmp_path: Path) -> str:
    (tmp_path / "lib64").mkdir()
    (tmp_path / "lib64" / "libvixDiskLib.so.8").touch()
    return str(tmp_path)


def test_with_vddk(vddk: str) -> None:
    assert ways(OFF, warm=True, vddk=vddk) == ways(OFF, warm=False, vddk=vddk) == ["vddk"]


def test_without_vddk() -> None:
    assert ways(OFF, warm=True) == ["nfc"]
    assert ways(OFF, warm=False) == ["datastore"]
    assert ways(replace(OFF, snapshots=1), warm=False) == ["nfc"]
    assert ways(OFF, warm=False, kind="vsan") == ["nfc"]
    assert ways(replace(OFF, disks=(replace(DISK, rdm="physical"),)), warm=False) == ["nfc"]


def test_a_wrong_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=str(tmp_path)) as caught:
        ways(OFF, warm=True, vddk=str(tmp_path))
    assert "vddkDirectory" in caught.value.suggestion


@pytest.mark.parametrize("facts", [{"rdm": "physical"}, {"mode": "independent_persistent"}, {"shared": True}])
def test_what_cannot_go_warm_is_named(facts: dict[str, object], vddk: str) -> None:
    second = replace(DISK, key="2001", label="Hard disk 2", unit=1, **facts)  # type: ignore[arg-type]
    for directory in ("", vddk):
        with pytest.raises(Unsupported, match="Hard disk 2, scsi0:1"):
            ways(replace(OFF, disks=(DISK, second)), warm=True, vddk=directory)


def test_warm_without_vddk_needs_a_flat_file_for_its_end(vddk: str) -> None:
    virtual = replace(OFF, disks=(replace(DISK, rdm="virtual"),))
    with pytest.raises(Unsupported, match="flat file"):
        ways(virtual, warm=True)
    with pytest.raises(Unsupported, match="flat file"):
        ways(OFF, warm=True, kind="VVOL")
    assert ways(virtual, warm=True, vddk=vddk) == ["vddk"]
