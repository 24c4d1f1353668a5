"""The libvirt domain of a machine, for those who want libvirt to run it: `virsh define domain.xml`. Called by target.py."""

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from tranship.migration.mapping import DiskOrder, MachineOrder, NicOrder
from tranship.providers.local.acceleration import Accelerator
from tranship.providers.local.firmware import Firmware
from tranship.providers.local.qemu import SERIAL_LOG

TARGETS = {"virtio": "vd", "scsi": "sd", "sata": "sd"}


def domain_xml(
    order: MachineOrder,
    disks: Sequence[tuple[DiskOrder, Path]],
    firmware: Firmware | None,
    home: Path,
    variables: Path,
    accelerator: Accelerator,
) -> str:
    domain = Element("domain", type="kvm" if accelerator.name == "kvm" else "qemu")
    _text(domain, "name", order.name)
    if order.uuid:
        _text(domain, "uuid", order.uuid)
    _text(domain, "memory", str(-(-order.memory // 1024)), unit="KiB")
    _text(domain, "vcpu", str(order.sockets * order.cores * order.threads))
    _boot(domain, firmware, variables)
    features = SubElement(domain, "features")
    SubElement(features, "acpi")
    SubElement(features, "apic")
    if firmware is not None and firmware.secure:
        SubElement(features, "smm", state="on")
    cpu = SubElement(domain, "cpu", mode="host-passthrough" if accelerator.name == "kvm" else "maximum")
    SubElement(cpu, "topology", sockets=str(order.sockets), cores=str(order.cores), threads=str(order.threads))
    SubElement(domain, "clock", offset="utc")
    for event, action in (("on_poweroff", "destroy"), ("on_reboot", "restart"), ("on_crash", "destroy")):
        _text(domain, event, action)
    _devices(SubElement(domain, "devices"), order, disks, home)
    ElementTree.indent(domain)
    return ElementTree.tostring(domain, encoding="unicode") + "\n"


def _text(parent: Element, tag: str, text: str, **attributes: str) -> None:
    SubElement(parent, tag, attributes).text = text


def _boot(domain: Element, firmware: Firmware | None, variables: Path) -> None:
    boot = SubElement(domain, "os")
    _text(boot, "type", "hvm", arch="x86_64", machine="q35")
    if firmware is not None:
        secure = "yes" if firmware.secure else "no"
        formats = {} if firmware.code_format == "raw" else {"format": firmware.code_format}
        _text(boot, "loader", str(firmware.code), readonly="yes", secure=secure, type="pflash", **formats)
        formats = {} if firmware.variables_format == "raw" else {"format": firmware.variables_format}
        _text(boot, "nvram", str(variables), template=str(firmware.variables), **formats)


def _devices(devices: Element, order: MachineOrder, disks: Sequence[tuple[DiskOrder, Path]], home: Path) -> None:
    counts: dict[str, int] = {}
    for disk, path in disks:
        letters = TARGETS[disk.bus]
        _disk(devices, disk, path, f"{letters}{_letters(counts.get(letters, 0))}")
        counts[letters] = counts.get(letters, 0) + 1
    if any(disk.bus == "scsi" for disk, _ in disks):
        SubElement(devices, "controller", type="scsi", model="virtio-scsi")
    for nic in order.nics:
        _nic(devices, nic)
    serial = SubElement(devices, "serial", type="pty")
    SubElement(serial, "log", file=str(home / SERIAL_LOG), append="on")
    SubElement(serial, "target", port="0")
    if order.tpm:
        tpm = SubElement(devices, "tpm", model="tpm-crb")
        SubElement(tpm, "backend", type="emulator", version="2.0", persistent_state="yes")
    video = SubElement(devices, "video")
    SubElement(video, "model", type="vga")


def _letters(number: int) -> str:
    """a to z, then aa to az and on, as libvirt and Linux name disks."""
    text = ""
    number += 1
    while number:
        number, digit = divmod(number - 1, 26)
        text = chr(ord("a") + digit) + text
    return text


def _disk(devices: Element, disk: DiskOrder, path: Path, target: str) -> None:
    element = SubElement(devices, "disk", type="file", device="disk")
    SubElement(element, "driver", name="qemu", type="raw", discard="unmap")
    SubElement(element, "source", file=str(path))
    SubElement(element, "target", dev=target, bus=disk.bus)
    if disk.boot:
        SubElement(element, "boot", order=str(disk.boot))


def _nic(devices: Element, nic: NicOrder) -> None:
    element = SubElement(devices, "interface", type="user" if nic.kind == "pod" else "bridge")
    SubElement(element, "mac", address=nic.mac)
    if nic.kind != "pod":
        SubElement(element, "source", bridge=nic.network)
    SubElement(element, "model", type=nic.model)
    if not nic.up:
        SubElement(element, "link", state="down")
