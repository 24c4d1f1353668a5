"""KubeVirt's stand-in, what of it needs no cluster: a machine's command line, and that QEMU takes it; quantities; volumes."""

import asyncio
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tranship.errors import Invalid, ToolFailed
from tranship.lab.kubevirt import domain, firmware
from tranship.lab.kubevirt.api import quantity
from tranship.lab.kubevirt.process import Process

MIB = 1 << 20
UID = "0b5c0c6e-5d1e-4b53-9f0e-1b2c3d4e5f60"
Object = dict[str, Any]


def spec(*disks: Object, nics: tuple[Object, ...] = (), **parts: Object) -> Object:
    """disks: a part of each; they are named a, b, c and have claims of the same names."""
    named = [{"name": chr(ord("a") + number), **disk} for number, disk in enumerate(disks)]
    volumes = [{"name": one["name"], "persistentVolumeClaim": {"claimName": f"claim-{one['name']}"}} for one in named]
    interfaces = [{"name": f"net-{number}", "bridge": {}, **nic} for number, nic in enumerate(nics)]
    networks = [{"name": one["name"], "multus": {"networkName": "lan"}} for one in interfaces]
    devices = {"disks": named, "interfaces": interfaces}
    whole = {"memory": {"guest": "64Mi"}, "devices": devices, **parts}
    return {"domain": whole, "volumes": volumes, "networks": networks}


def virtio(**more: Any) -> Object:
    return {"disk": {"bus": "virtio"}, **more}


def devices(made: Object, places: dict[str, Path] | None = None) -> list[str]:
    """What is given to -device, without what every machine has."""
    words = list(
        domain.command("web", UID, made, places or {one: Path("/x", one) for one in domain.claims(made)}, None)
    )
    found = [words[at + 1] for at, word in enumerate(words) if word == "-device"]
    return [one for one in found if not one.startswith(("qemu-xhci", "virtio-scsi"))]


def argument(made: Object, name: str) -> str:
    words = list(domain.command("web", UID, made, {}, None))
    return words[words.index(name) + 1]


def test_processors_memory_and_identity() -> None:
    identity = {"uuid": "420f8a31-6c5e-7d0b-0c35-2f7a9f1b7b11", "serial": "VMware-42 0f, 8a"}
    made = spec(cpu={"sockets": 2, "cores": 3}, firmware=identity, memory={"guest": "1500M"})
    assert argument(made, "-smp") == "6,sockets=2,cores=3,threads=1"
    assert argument(made, "-m") == "1431M"
    assert argument(made, "-uuid") == identity["uuid"]
    assert argument(made, "-smbios") == "type=1,serial=VMware-42 0f,, 8a"
    assert argument(spec(), "-uuid") == argument(spec(), "-uuid")  # made up, and the same at each start


def test_clock_features_inputs_and_nics_that_are_out() -> None:
    features = [{"name": "vmx", "policy": "disable"}, {"name": "svm", "policy": "optional"}, {"name": "aes"}]
    made = spec(
        cpu={"features": features},
        clock={"timezone": "Europe/Vienna"},
        nics=({"state": "down"}, {"state": "absent"}, {"sriov": {}}, {"pciAddress": "0000:0b:00.0"}),
    )
    made["domain"]["devices"]["inputs"] = [{"name": "t", "type": "tablet", "bus": "usb"}]
    assert argument(made, "-cpu") == "max,la57=off,vmx=off,aes=on"
    assert (argument(made, "-rtc"), domain.zone(made)) == ("base=localtime", "Europe/Vienna")
    assert argument(spec(), "-rtc") == "base=utc"
    assert [one.split(",")[0] for one in devices(made)] == ["usb-tablet", "virtio-net-pci", "virtio-net-pci"]
    assert domain.pulled(made) == ["nic0"]
    assert [one.split(":")[0] for one in domain.ignored(made)] == ["interface net-2", "interface net-3"]


def test_boot_order_is_what_is_said_and_else_the_first_disk() -> None:
    assert ["bootindex=" in one for one in devices(spec(virtio(), virtio()))] == [True, False]
    ordered = devices(spec(virtio(), virtio(bootOrder=2), virtio(bootOrder=1)))
    assert [one.partition("bootindex=")[2] for one in ordered] == ["", "2", "1"]
    by_network = devices(spec(virtio(), nics=({"bootOrder": 1},)))
    assert ["bootindex=" in one for one in by_network] == [False, True]


def test_buses_and_their_defaults() -> None:
    sata = [{"disk": {}} for _ in range(7)]
    made = devices(spec(*sata))
    assert [one.split(",")[1] for one in made if one.startswith("ide-hd")] == [
        *(f"bus=ide.{port}" for port in range(6)),
        "bus=sata1.0",
    ]
    assert made[6] == "ahci,id=sata1"


def test_virtio_devices_are_modern_unless_older_ones_are_asked_for() -> None:
    made = spec(virtio(), nics=({},))
    assert ["disable-legacy=on" in one for one in devices(made)] == [True, True]
    made["domain"]["devices"]["useVirtioTransitional"] = True
    assert ["disable-legacy=off" in one for one in devices(made)] == [True, True]


def test_disks_without_a_claim_and_cdroms_are_left_out_and_named() -> None:
    made = spec(virtio(), {"cdrom": {"bus": "sata"}}, {"lun": {"bus": "scsi"}})
    made["volumes"].append({"name": "cloud-init", "cloudInitNoCloud": {}})
    made["domain"]["devices"]["tpm"] = {"persistent": True}
    assert [one.split(",")[0] for one in devices(made)] == ["virtio-blk-pci", "scsi-hd"]
    told = " ".join(domain.ignored(made))
    for words in (
        "disk b: a cdrom",
        "disk c: it is attached as a disk",
        "disk cloud-init: its volume is no claim",
        "tpm",
    ):
        assert words in told
    assert domain.ignored(spec(virtio())) == []
    assert domain.targets(made) == {"a": "vda", "b": "sda", "c": "sdb", "cloud-init": "sdc"}


def test_an_address_is_kept_or_made_up_for_good() -> None:
    (given, made_up) = devices(spec(nics=({"macAddress": "00:50:56:AA:bb:01", "model": "e1000e"}, {})))
    assert given.startswith("e1000e,netdev=net0,id=nic0,mac=00:50:56:AA:bb:01,")
    assert made_up.startswith("virtio-net-pci,")
    assert "mac=02:" in made_up
    assert made_up == devices(spec(nics=({"macAddress": "00:50:56:AA:bb:01", "model": "e1000e"}, {})))[1]


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (spec(memory={}), "memory.guest: no memory"),
        (spec(firmware={"bootloader": {"efi": {}}}), "secureBoot: it requires SMM"),
        (spec({"disk": {"bus": "ide"}}), "disks[0].disk.bus: 'ide'"),
        (spec(virtio(bootOrder=1), virtio(bootOrder=1)), "unique"),
        (spec(nics=({"model": "vmxnet3"},)), "interfaces[0].model: 'vmxnet3'"),
    ],
)
def test_what_kubevirt_would_refuse_is_refused(made: Object, said: str) -> None:
    with pytest.raises(Invalid) as caught:
        domain.check(made)
    assert said in str(caught.value)


def test_disks_and_volumes_have_to_fit() -> None:
    lonely = spec(virtio())
    lonely["volumes"] = []
    with pytest.raises(Invalid, match="no volume is named 'a'"):
        domain.check(lonely)
    domain.check(spec(virtio(), {"disk": {}}, firmware={"bootloader": {"efi": {"secureBoot": False}}}))


@pytest.mark.parametrize("secure", [None, False, True])
def test_qemu_takes_it_stops_and_is_killed(tmp_path: Path, secure: bool | None) -> None:
    """Disks on every bus, NICs of most models; a guest that knows no power button is killed in the end."""
    buses = [*(["sata"] * 7), "virtio", "scsi", "scsi", "usb"]
    disks = [{"disk": {"bus": bus}, "serial": f"disk-{number}"} for number, bus in enumerate(buses)]
    efi = {"bootloader": {"efi": {"secureBoot": secure}}} if secure is not None else {}
    nics = ({"model": "virtio", "state": "down"}, *({"model": model} for model in ("e1000", "e1000e", "rtl8139")))
    made = spec(*disks, nics=nics, firmware=efi, features={"smm": {"enabled": bool(secure)}}, memory={"guest": "128Mi"})
    made["domain"] |= {
        "clock": {"timezone": "Europe/Vienna"},
        "cpu": {"features": [{"name": "vmx", "policy": "disable"}]},
    }
    made["domain"]["devices"]["inputs"] = [{"name": bus, "type": "tablet", "bus": bus} for bus in ("usb", "virtio")]
    domain.check(made)
    places = {name: tmp_path / f"{name}, raw" for name in domain.claims(made)}
    for place in places.values():
        place.write_bytes(bytes(MIB))
    found = None
    if secure is not None:
        found = firmware.find(secure)
        own = tmp_path / "variables.fd"
        own.write_bytes(found.variables.read_bytes())
        found = found._replace(variables=own)

    async def live() -> bool:
        ended = asyncio.Event()
        arguments = list(domain.command("all, of them", UID, made, places, found))
        process = Process(tmp_path, arguments, ended.set, pulled=domain.pulled(made), zone=domain.zone(made))
        await process.start()
        process.stop(0.2)
        await asyncio.wait_for(ended.wait(), 30)
        assert not process.running
        await process.kill()
        return process.shut_down

    assert asyncio.run(live()) is False


def test_what_qemu_complains_of_is_told(tmp_path: Path) -> None:
    made = spec(virtio())
    arguments = list(domain.command("web", UID, made, {"a": tmp_path / "missing"}, None))
    with pytest.raises(ToolFailed, match="missing"):
        asyncio.run(Process(tmp_path, arguments, lambda: None).start())
    assert subprocess.run(["pgrep", "-f", str(tmp_path)], check=False, capture_output=True).stdout == b""


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64Mi", 64 * MIB),
        ("1G", 10**9),
        ("1.5Gi", 1536 * MIB),
        (4096, 4096),
        ("100m", 1),
        ("2Ei", 2 << 60),
        ("1k", 1000),
    ],
)
def test_quantities(text: str | int, size: int) -> None:
    assert quantity(text) == size


@pytest.mark.parametrize("text", ["", "Mi", "64 MB", "1Q", "abc"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(Invalid, match="no quantity"):
        quantity(text)
