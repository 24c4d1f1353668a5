"""Which URL of an export lease is which disk: certain, or an error."""

from types import SimpleNamespace

import pytest

from tranship.errors import Unsupported
from tranship.providers.vsphere.disks import LiveDisk
from tranship.providers.vsphere.leases import streams


def disk(key: str, bus: str = "scsi", controller: int = 0, unit: int = 0) -> LiveDisk:
    return LiveDisk(key, f"disk {key}", "[ds] a.vmdk", "datastore-1", 1, bus, controller, unit, "", "", False)


def lease(*keys: str, url: str = "https://*/nfc/5/disk.vmdk", thumbprint: str = "") -> SimpleNamespace:
    offered = [SimpleNamespace(key=key, url=url, sslThumbprint=thumbprint, disk=True) for key in keys]
    return SimpleNamespace(deviceUrl=offered)


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        ("/vm-42/VirtualLsiLogicController0:0", disk("2000")),
        ("/vm-42/VirtualLsiLogicSASController1:3", disk("2019", controller=1, unit=3)),
        ("/vm-42/ParaVirtualSCSIController0:12", disk("2012", unit=12)),
        ("/vm-42/VirtualBusLogicController0:0", disk("2000")),
        ("/vm-42/VirtualIDEController1:0", disk("3002", "ide", 1)),
        ("/vm-42/VirtualAHCIController0:2", disk("16002", "sata", 0, 2)),
        ("/vm-42/VirtualNVMEController0:1", disk("32001", "nvme", 0, 1)),
        ("2000", disk("2000")),
    ],
)
def test_places(key: str, wanted: LiveDisk) -> None:
    assert set(streams(lease(key), "vc:443", [wanted])) == {wanted.key}


def test_every_disk_gets_its_own() -> None:
    info = lease("/vm-1/ParaVirtualSCSIController0:1", "/vm-1/ParaVirtualSCSIController0:0")
    info.deviceUrl[0].url, info.deviceUrl[1].url = "https://*/nfc/1", "https://*/nfc/0"
    found = streams(info, "vc:8443", [disk("2000"), disk("2001", unit=1)])
    assert {key: stream.url for key, stream in found.items()} == {
        "2000": "https://vc:8443/nfc/0",
        "2001": "https://vc:8443/nfc/1",
    }


@pytest.mark.parametrize(
    "info",
    [
        lease(),
        lease("/vm-1/ParaVirtualSCSIController1:0"),
        lease("/vm-1/VirtualIDEController0:0"),
        lease("/vm-1/VirtualLsiLogicController0:0", "/vm-1/ParaVirtualSCSIController0:0"),
    ],
)
def test_no_guess(info: SimpleNamespace) -> None:
    with pytest.raises(Unsupported):
        streams(info, "vc:443", [disk("2000")])


def test_hosts() -> None:
    (own,) = streams(lease("2000", thumbprint="AA"), "vc:443", [disk("2000")]).values()
    assert (own.url, own.local, own.thumbprint) == ("https://vc:443/nfc/5/disk.vmdk", True, "")
    (other,) = streams(lease("2000", url="https://esx1/nfc/5", thumbprint="AA"), "vc:443", [disk("2000")]).values()
    assert (other.url, other.local, other.thumbprint) == ("https://esx1/nfc/5", False, "AA")
