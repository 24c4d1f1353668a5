"""The way of each disk, and why; a disk that cannot be moved so is named before anything begins."""

from dataclasses import replace
from pathlib import Path

import pytest

from tranship.errors import Invalid, Unsupported
from tranship.inventory.vm import VM, Disk, Power
from tranship.providers.base import DiskWay, Library
from tranship.providers.vsphere.ways import choose, configured

DISK = Disk(
    key="2000", label="Hard disk 1", path="[ds] a/a.vmdk", datastore="datastore-1", capacity=1 << 30, bus="scsi"
)
OFF = VM(id="vm-1", name="a", power=Power.OFF, disks=(DISK,))


def ways(vm: VM, *, warm: bool, vddk: str = "", kind: str = "VMFS") -> list[str]:
    return [way.way for way in chosen(vm, warm=warm, kind=kind, vddkDirectory=vddk)]


def chosen(
    vm: VM = OFF, *, warm: bool = True, here: bool = True, kind: str = "VMFS", **settings: str
) -> tuple[DiskWay, ...]:
    kinds = [("datastore-1", kind)]
    return choose(vm, warm=warm, vddk=configured(settings), on_this_host=here, kinds=kinds)


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


IMAGE = "registry.example.com:5000/vddk/vddk:8.0.3"


@pytest.mark.parametrize(("setting", "value"), [("vddkInitImage", IMAGE), ("vddkVolumeClaim", "vddk")])
def test_a_library_for_movers_in_a_cluster(setting: str, value: str) -> None:
    (way,) = chosen(here=False, **{setting: value})
    assert way.way == "vddk" and value in way.why
    assert way.library is not None and value in (way.library.image, way.library.claim)
    (way,) = chosen(here=True, **{setting: value})
    assert (way.way, way.library) == ("nfc", None)
    assert "on this host vddkDirectory is" in way.why


def test_a_directory_of_this_host_is_of_no_use_to_a_cluster(vddk: str) -> None:
    """And is not looked for: it may be that of another host."""
    for directory in (vddk, "/nowhere"):
        (way,) = chosen(here=False, vddkDirectory=directory)
        assert way.way == "nfc" and "in a cluster vddkInitImage or vddkVolumeClaim are" in way.why


def test_both_are_for_plans_to_both(vddk: str) -> None:
    settings = {"vddkDirectory": vddk, "vddkInitImage": IMAGE}
    assert [way.library for here in (True, False) for way in chosen(here=here, **settings)] == [
        Library(directory=vddk, image=IMAGE)
    ] * 2


def test_where_it_is_unpacked(tmp_path: Path) -> None:
    folder = tmp_path / "vmware-vix-disklib-distrib" / "lib64"
    folder.mkdir(parents=True)
    (folder / "libvixDiskLib.so.8").touch()
    for directory in (tmp_path, folder.parent, folder):
        assert ways(OFF, warm=True, vddk=str(directory)) == ["vddk"]


@pytest.mark.parametrize(
    "image", ["vddk", "vddk:8", "a.b/c/d@sha256:00ff", IMAGE, "quay.io/Me/vddk".lower(), "localhost/v"]
)
def test_names_of_images(image: str) -> None:
    assert configured({"vddkInitImage": image}).image == image


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"vddkInitImage": "docker://quay.io/x"}, "vddkInitImage"),
        ({"vddkInitImage": "quay.io/My Image"}, "vddkInitImage"),
        ({"vddkInitImage": IMAGE, "vddkVolumeClaim": "vddk"}, "vddkVolumeClaim"),
    ],
)
def test_settings_that_cannot_be_meant(settings: dict[str, str], field: str) -> None:
    with pytest.raises(Invalid, match=f"spec.settings.{field}") as caught:
        configured(settings)
    assert caught.value.suggestion
