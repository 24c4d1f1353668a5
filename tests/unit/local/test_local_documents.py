"""What is written beside the disks: the libvirt domain and the KubeVirt manifest."""

import json
from pathlib import Path
from xml.etree import ElementTree

import yaml

from tranship.migration.mapping import DiskOrder, NicOrder
from tranship.providers.local.acceleration import Accelerator
from tranship.providers.local.domain import domain_xml
from tranship.providers.local.firmware import Firmware
from tranship.providers.virtualmachine import virtual_machine

DISKS = (
    DiskOrder(source="2000", name="web01-0", pool="", size=1 << 30, bus="virtio", boot=2),
    DiskOrder(source="2001", name="web01-1", pool="", size=1 << 30, bus="sata", boot=1),
    DiskOrder(source="2002", name="web01-2", pool="", size=1 << 30, bus="scsi"),
)
NICS = (
    NicOrder(mac="00:50:56:aa:bb:01", kind="pod"),
    NicOrder(mac="00:50:56:aa:bb:02", kind="multus", network="br0", namespace="nets", model="e1000e"),
)
OVMF = Firmware(Path("/fw/code.fd"), "raw", Path("/fw/vars.fd"), "raw", secure=True)


def test_domain(make_order):
    order = make_order(disks=DISKS, nics=NICS, firmware="efi", secure_boot=True, tpm=True, sockets=2, cores=3)
    paths = [(disk, Path("/d", f"{disk.name} & more.raw")) for disk in DISKS]
    text = domain_xml(order, paths, OVMF, Path("/d"), Path("/d/nvram.fd"), Accelerator("tcg", ""))
    domain = ElementTree.fromstring(text)
    assert domain.get("type") == "qemu"
    assert domain.findtext("name") == "web01"
    assert domain.findtext("uuid") == order.uuid
    assert (domain.findtext("memory"), domain.findtext("vcpu")) == (str(64 * 1024), "6")
    assert domain.find("cpu/topology").attrib == {"sockets": "2", "cores": "3", "threads": "1"}
    assert domain.find("os/type").get("machine") == "q35"
    assert domain.find("os/loader").get("secure") == "yes"
    assert domain.findtext("os/nvram") == "/d/nvram.fd"
    assert domain.find("features/smm").get("state") == "on"
    disks = domain.findall("devices/disk")
    assert [disk.find("target").get("bus") for disk in disks] == ["virtio", "sata", "scsi"]
    assert [disk.find("target").get("dev") for disk in disks] == ["vda", "sda", "sdb"]
    assert [disk.find("source").get("file") for disk in disks] == [str(path) for _, path in paths]
    assert [disk.find("boot").get("order") for disk in disks[:2]] == ["2", "1"]
    assert disks[2].find("boot") is None
    nics = domain.findall("devices/interface")
    assert [(nic.get("type"), nic.find("mac").get("address")) for nic in nics] == [
        ("user", "00:50:56:aa:bb:01"),
        ("bridge", "00:50:56:aa:bb:02"),
    ]
    assert nics[1].find("source").get("bridge") == "br0"
    assert domain.find("devices/tpm/backend").get("version") == "2.0"


def test_domain_for_bios_under_kvm_has_27th_disk(make_order):
    disks = tuple(DiskOrder(source=str(n), name=f"d{n}", pool="", size=512) for n in range(28))
    paths = [(disk, Path("/d", disk.name)) for disk in disks]
    domain = ElementTree.fromstring(
        domain_xml(make_order(disks=disks), paths, None, Path("/d"), Path("/d/nvram.fd"), Accelerator("kvm", ""))
    )
    assert domain.get("type") == "kvm"
    assert domain.find("os/loader") is None
    assert [disk.find("target").get("dev") for disk in domain.findall("devices/disk")][25:] == ["vdz", "vdaa", "vdab"]


def test_all_are_in_the_machines_directory(settings, target, make_order):
    order = make_order()
    target.create_disks(order)
    target.create_machine(order)
    home = Path(settings["directory"], "shop", "web01")
    assert yaml.safe_load((home / "virtualmachine.yaml").read_text()) == virtual_machine(order)
    assert ElementTree.parse(home / "domain.xml").getroot().findtext("name") == "web01"
    assert "-daemonize" in json.loads((home / "machine.json").read_text())["arguments"]
    assert not [path for path in home.iterdir() if path.name.startswith(".")]
