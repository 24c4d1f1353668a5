"""What a VirtualMachineInstance says, as a QEMU command line: firmware, processors, memory, disks in their boot order, NICs.

Pure but for the search of a firmware. Defaults are KubeVirt's: q35, SATA disks, Secure Boot wherever there is UEFI, modern
virtio devices, an address of their own for NICs without one. All networks are QEMU's user network, cut off from everything.
Processors are emulated, the most that QEMU can; a feature that is forbidden is taken out of them.
What KubeVirt's admission would refuse is refused (`check`), what is not carried out here is named (`ignored`).
"""

import hashlib
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tranship.errors import Invalid
from tranship.lab.kubevirt.api import Object, quantity
from tranship.lab.kubevirt.firmware import Firmware

MIB = 1 << 20
SATA_PORTS = 6  # of q35 itself
_BUSES = ("virtio", "sata", "scsi", "usb")
_NICS = {name: name for name in ("e1000", "e1000e", "igb", "ne2k_pci", "pcnet", "rtl8139")} | {
    "virtio": "virtio-net-pci"
}
_UUIDS = uuid.UUID("6a1a24a1-4061-4607-8bf4-a3963d0c5895")  # KubeVirt's namespace for machines that name no UUID


def claims(spec: Object) -> dict[str, str]:
    """The claim of each volume that has one: a DataVolume's has its name."""
    found = {}
    for volume in spec.get("volumes", ()):
        claim = volume.get("persistentVolumeClaim", {}).get("claimName") or volume.get("dataVolume", {}).get("name")
        if claim:
            found[volume["name"]] = claim
    return found


def disks(spec: Object) -> list[Object]:
    """In the order of the object; a volume that no disk names is a disk all the same."""
    named = list(spec["domain"].get("devices", {}).get("disks", ()))
    names = {one["name"] for one in named}
    return named + [{"name": one["name"], "disk": {}} for one in spec.get("volumes", ()) if one["name"] not in names]


def interfaces(spec: Object) -> list[Object]:
    return list(spec["domain"].get("devices", {}).get("interfaces", ()))


def secure_boot(spec: Object) -> bool | None:
    """None = BIOS."""
    efi = spec["domain"].get("firmware", {}).get("bootloader", {}).get("efi")
    return None if efi is None else efi.get("secureBoot", True)


def memory(spec: Object) -> int:
    """Bytes, 0 where nothing is said."""
    domain = spec["domain"]
    resources = domain.get("resources", {})
    said = domain.get("memory", {}).get("guest") or resources.get("requests", {}).get("memory")
    said = said or resources.get("limits", {}).get("memory") or 0
    return quantity(said, "spec.domain.memory.guest")


def topology(spec: Object) -> dict[str, int]:
    cpu = spec["domain"].get("cpu", {})
    return {name: cpu.get(name) or 1 for name in ("sockets", "cores", "threads")}


def mac(interface: Object, uid: str) -> str:
    """Its address; one that is made up stays for as long as the instance."""
    made = hashlib.sha256(f"{uid} {interface['name']}".encode()).digest()
    return interface.get("macAddress") or "02:" + made[:5].hex(":")


def targets(spec: Object) -> dict[str, str]:
    """The name that each disk has within the machine, as its driver would call it: vda, sda."""
    counts = {"vd": 0, "sd": 0}
    found = {}
    for disk in disks(spec):
        prefix = "vd" if _bus(disk) == "virtio" else "sd"
        found[disk["name"]] = prefix + chr(ord("a") + counts[prefix] % 26)
        counts[prefix] += 1
    return found


def _bus(disk: Object) -> str:
    kind: Object = disk.get("disk") or disk.get("lun") or disk.get("cdrom") or {}
    return kind.get("bus") or "sata"


def zone(spec: Object) -> str:
    """The time zone that its clock shows, "" = UTC."""
    return str(spec["domain"].get("clock", {}).get("timezone", ""))


def plugged(spec: Object) -> list[tuple[int, Object]]:
    """The NICs that the machine has, with their numbers."""
    nics = enumerate(interfaces(spec))
    return [(number, one) for number, one in nics if "sriov" not in one and one.get("state") != "absent"]


def pulled(spec: Object) -> list[str]:
    """The ids of the NICs whose cable is out."""
    return [f"nic{number}" for number, one in plugged(spec) if one.get("state") == "down"]


def check(spec: Object) -> None:
    """Raises Invalid with KubeVirt's field for what its admission refuses."""
    base = "spec.template.spec"
    domain = spec["domain"]
    volumes = [one["name"] for one in spec.get("volumes", ())]
    networks = [one["name"] for one in spec.get("networks", ())]
    if not memory(spec):
        raise Invalid("no memory requested", field=f"{base}.domain.memory.guest")
    if secure_boot(spec) and not _enabled(domain.get("features", {}).get("smm")):
        field = f"{base}.domain.firmware.bootloader.efi.secureBoot"
        raise Invalid("it requires SMM (domain.features.smm) to be enabled", field=field)
    for number, disk in enumerate(disks(spec)):
        field = f"{base}.domain.devices.disks[{number}]"
        if disk["name"] not in volumes:
            raise Invalid(f"no volume is named {disk['name']!r}", field=f"{field}.name")
        if _bus(disk) not in _BUSES:
            raise Invalid(f"{_bus(disk)!r} is none of {', '.join(_BUSES)}", field=f"{field}.disk.bus")
    for number, one in enumerate(interfaces(spec)):
        field = f"{base}.domain.devices.interfaces[{number}]"
        if one["name"] not in networks:
            raise Invalid(f"no network is named {one['name']!r}", field=f"{field}.name")
        if one.get("model", "virtio") not in _NICS:
            raise Invalid(f"{one['model']!r} is none of {', '.join(_NICS)}", field=f"{field}.model")
    for what, names in (("volumes", volumes), ("networks", networks)):
        if len(set(names)) < len(names):
            raise Invalid("names have to be unique", field=f"{base}.{what}")
    if sum("pod" in one for one in spec.get("networks", ())) > 1:
        raise Invalid("more than one interface is connected to a pod network", field=f"{base}.networks")
    orders = [one["bootOrder"] for one in [*disks(spec), *interfaces(spec)] if "bootOrder" in one]
    if len(set(orders)) < len(orders) or not all(order > 0 for order in orders):
        raise Invalid("boot orders have to be unique and greater than 0", field=f"{base}.domain.devices")


def _enabled(feature: Object | None) -> bool:
    return feature is not None and feature.get("enabled", True)


def ignored(spec: Object) -> list[str]:
    """What the object asks for and its machine does not get, in words."""
    with_claims = claims(spec)
    devices = spec["domain"].get("devices", {})
    found = [f"disk {one['name']}: a cdrom is not attached" for one in disks(spec) if "cdrom" in one]
    found += [f"disk {one['name']}: it is attached as a disk, not as a LUN" for one in disks(spec) if "lun" in one]
    attached = (one["name"] for one in disks(spec) if "cdrom" not in one)
    found += [f"disk {name}: its volume is no claim and not attached" for name in attached if name not in with_claims]
    if "tpm" in devices and _enabled(devices["tpm"]):
        found.append("tpm: there is none")
    found += [
        f"interface {one['name']}: a device of the host is not attached" for one in interfaces(spec) if "sriov" in one
    ]
    placed = (one["name"] for one in interfaces(spec) if "pciAddress" in one)
    found += [f"interface {name}: its PCI address is not kept" for name in placed]
    unknown = ("gpus", "hostDevices", "filesystems", "watchdog")
    found += [f"{name}: there are none" for name in unknown if devices.get(name)]
    return found


def command(name: str, uid: str, spec: Object, places: Mapping[str, Path], firmware: Firmware | None) -> Iterator[str]:
    """All arguments but program and channels. places: file or device of each volume with a claim. firmware: its
    `variables` are the machine's own; None = BIOS."""
    cpus, domain = topology(spec), spec["domain"]
    told = domain.get("firmware", {})
    secure = bool(secure_boot(spec))
    yield from ("-name", f"guest={_escape(name)}", "-accel", "tcg,thread=multi", "-cpu", _model(domain))
    yield from ("-machine", f"q35,smm={'on' if _enabled(domain.get('features', {}).get('smm')) else 'off'},vmport=off")
    yield from ("-m", f"{-(-memory(spec) // MIB)}M")
    yield from ("-smp", ",".join([str(_product(cpus.values())), *(f"{key}={value}" for key, value in cpus.items())]))
    yield from ("-uuid", told.get("uuid") or str(uuid.uuid5(_UUIDS, name)))
    if told.get("serial"):
        yield from ("-smbios", f"type=1,serial={_escape(told['serial'])}")
    if firmware is not None:
        if secure:
            yield from ("-global", "driver=cfi.pflash01,property=secure,value=on", "-global", "ICH9-LPC.disable_s3=1")
        flash = f"if=pflash,format={firmware.format}"
        yield from ("-drive", f"{flash},unit=0,readonly=on,file={_escape(str(firmware.code))}")
        yield from ("-drive", f"{flash},unit=1,file={_escape(str(firmware.variables))}")
    yield from ("-nodefaults", "-no-user-config", "-display", "none", "-vga", "std")
    yield from ("-rtc", "base=localtime" if zone(spec) else "base=utc")
    yield from ("-boot", "strict=on", "-device", "qemu-xhci,id=usb", "-device", "virtio-scsi-pci,id=scsi")
    for one in domain.get("devices", {}).get("inputs", ()):
        yield from ("-device", "virtio-tablet-pci" if one.get("bus") == "virtio" else "usb-tablet,bus=usb.0")
    yield from _disks(spec, places)
    yield from _nics(spec, uid)


def _model(domain: Object) -> str:
    """TCG's, with what is said of its features. la57=off: loaders of some years ago do not start with 5-level paging."""
    words = {"force": "on", "require": "on", "disable": "off", "forbid": "off"}
    features = {
        one["name"]: words.get(one.get("policy", "require")) for one in domain.get("cpu", {}).get("features", ())
    }
    return ",".join(["max,la57=off", *(f"{name}={word}" for name, word in features.items() if word)])


def _product(numbers: Iterable[int]) -> int:
    whole = 1
    for number in numbers:
        whole *= number
    return whole


def _escape(text: str) -> str:
    return text.replace(",", ",,")


def _disks(spec: Object, places: Mapping[str, Path]) -> Iterator[str]:
    attached = [one for one in disks(spec) if "cdrom" not in one and one["name"] in places]
    orders = [one for one in [*disks(spec), *interfaces(spec)] if "bootOrder" in one]
    virtio = _virtio(spec)
    sata = 0
    for number, disk in enumerate(attached):
        place, bus = places[disk["name"]], _bus(disk)
        driver = "host_device" if place.is_block_device() else "file"
        file = {"driver": driver, "filename": str(place), "discard": "unmap"}
        node = {"node-name": f"disk{number}", "driver": "raw", "discard": "unmap", "file": file}
        yield from ("-blockdev", json.dumps(node))
        device = {
            "virtio": f"virtio-blk-pci,{virtio}",
            "scsi": "scsi-hd,bus=scsi.0",
            "usb": "usb-storage,bus=usb.0",
            "sata": f"ide-hd,bus={_sata(sata)}",
        }[bus]
        if bus == "sata":
            if sata and sata % SATA_PORTS == 0:
                yield from ("-device", f"ahci,id=sata{sata // SATA_PORTS}")
            sata += 1
        # as libvirt does: nobody names a boot device, so it is the first disk
        order = disk.get("bootOrder") or (1 if not orders and number == 0 else 0)
        device += f",drive=disk{number}" + (f",bootindex={order}" if order else "")
        device += f",serial={_escape(disk['serial'])}" if disk.get("serial") else ""
        yield from ("-device", device + (",share-rw=on" if disk.get("shareable") else ""))


def _sata(number: int) -> str:
    controller, port = divmod(number, SATA_PORTS)
    return f"{f'sata{controller}' if controller else 'ide'}.{port}"


def _virtio(spec: Object) -> str:
    """KubeVirt's devices are modern unless the machine asks for transitional ones."""
    transitional = spec["domain"].get("devices", {}).get("useVirtioTransitional")
    return "disable-modern=off,disable-legacy=" + ("off" if transitional else "on")


def _nics(spec: Object, uid: str) -> Iterator[str]:
    for number, one in plugged(spec):
        model = one.get("model", "virtio")
        device = f"{_NICS[model]}," + (f"{_virtio(spec)}," if model == "virtio" else "")
        boot = f",bootindex={one['bootOrder']}" if one.get("bootOrder") else ""
        yield from ("-netdev", f"user,id=net{number},restrict=on")
        # romfile=: no network boot, and no boot ROM to be installed
        yield from ("-device", f"{device}netdev=net{number},id=nic{number},mac={mac(one, uid)},romfile={boot}")
