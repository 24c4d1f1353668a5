"""Each of the 39 concerns fires for its fact and for nothing else, and says what it means."""

from dataclasses import replace
from typing import Any

import pytest

from tranship.inventory.vm import VM, Category, Disk, Nic
from tranship.providers.ovirt.concerns import RULES, concerns

DISK = Disk(key="d", label="root", path="data/root", datastore="sd", capacity=1 << 30, bus="virtio")
NIC = Nic(key="n", label="nic1", mac="56:6f:00:00:00:01", network="net", model="virtio")
FACTS = {"status": "ok", "storage_type": "image", "interface": "virtio", "scsi_reservation": False}
CARD = {"plugged": True, "linked": True, "pass_through": False}
QUIET = VM(
    id="vm-1",
    name="web-1",
    guest_id="rhel_9x64",
    disks=(DISK,),
    nics=(NIC,),
    traits={"status": "up", "disks": {"d": FACTS}, "nics": {"n": CARD}, "affinity": "user_migratable", "io_threads": 1},
)
C, W, I = Category.CRITICAL, Category.WARNING, Category.INFORMATION  # noqa: E741


def trait(**facts: Any) -> dict[str, Any]:
    return {"traits": {**QUIET.traits, **facts}}


def disk(**facts: Any) -> dict[str, Any]:
    return trait(disks={"d": {**FACTS, **facts}})


def card(**facts: Any) -> dict[str, Any]:
    return trait(nics={"n": {**CARD, **facts}})


CASES = [
    ("memory.ballooning.enabled", I, trait(ballooning=True), ""),
    ("display_type.spice.enabled", I, trait(display="spice"), ""),
    ("iothreads.configured", I, trait(io_threads=2), "2"),
    ("storage.resume_behavior.unsupported", I, trait(resume_behaviour="kill"), "kill"),
    ("disk.capacity.invalid", C, {"disks": (replace(DISK, capacity=0),)}, "root"),
    ("disk.storage_type.unsupported", C, disk(storage_type="lun"), "root: direct LUN"),
    ("disk.storage_type.unsupported", C, disk(storage_type="cinder"), "root: cinder"),
    ("disk.illegal_or_locked_status", C, disk(status="locked"), "root: locked"),
    ("disk.illegal_or_locked_status", C, disk(status="illegal"), "root: illegal"),
    ("disk.illegal_images.detected", C, trait(has_illegal_images=True), ""),
    ("bios.boot_menu.enabled", W, trait(boot_menu=True), ""),
    ("cpu.custom_model.detected", W, trait(custom_cpu_model="Haswell"), "Haswell"),
    ("cpu.shares.defined", W, trait(cpu_shares=2048), "2048"),
    ("cpu.tuning.detected", W, trait(cpu_pins=("0 on 1-4",)), "0 on 1-4"),
    ("cpu.pinning_policy.unsupported", W, trait(cpu_pinning_policy="isolate_threads"), "isolate_threads"),
    ("vm.custom_properties.detected", W, trait(custom_properties=("sap_agent",)), "sap_agent"),
    ("host_devices.mapped", W, trait(host_devices=("ACME GPU",)), "ACME GPU"),
    ("watchdog.enabled", W, trait(watchdogs=("i6300esb",)), "i6300esb"),
    ("usb.enabled", W, trait(usb=True), ""),
    ("disk.count.exceeds.limit", W, {"disks": (DISK,) * 166}, "166"),
    ("disk.interface_type.unsupported", W, disk(interface="ide"), "root: ide"),
    ("disk.scsi_reservation.enabled", W, disk(scsi_reservation=True), "root"),
    ("disk.shared.detected", W, {"disks": (replace(DISK, shared=True),)}, "root"),
    ("ha.enabled", W, trait(ha=True), ""),
    ("ha.reservation.enabled", W, trait(ha_reservation=True), ""),
    ("cluster.ksm_enabled", W, trait(ksm=True), ""),
    ("name.invalid", W, {"name": "web_1"}, ""),
    ("vm.status_invalid", W, trait(status="powering_down"), "powering_down"),
    ("vm.status_invalid", W, trait(status=""), "no status"),
    ("os.unsupported", W, {"guest_id": "rhel_6x64"}, "rhel_6x64"),
    ("nic.custom_properties.detected", W, card(custom_properties=("hook",)), "nic1"),
    ("nic.network_filter.detected", W, card(network_filter="f"), "nic1"),
    ("nic.qos.detected", W, card(qos="q"), "nic1"),
    ("nic.port_mirroring.detected", W, card(port_mirroring=True), "nic1"),
    ("nic.interface_type.unsupported", W, {"nics": (replace(NIC, model="rtl8139_virtio"),)}, "nic1: rtl8139_virtio"),
    ("nic.pci_passthrough.detected", W, {"nics": (replace(NIC, model="pci_passthrough"),)}, "nic1"),
    ("nic.pci_passthrough.detected", W, card(pass_through=True), "nic1"),
    ("nic.unplugged.detected", W, card(plugged=False), "nic1"),
    ("numa.tuning.detected", W, trait(numa_pins=("node 0",)), "node 0"),
    ("placement_policy.affinity_set", W, trait(affinity="migratable"), "migratable"),
    ("secure_boot.detected", W, {"secure_boot": True}, ""),
    ("snapshot.online_memory.detected", W, trait(memory_snapshots=("before",)), "before"),
    ("tpm.required_by_os", W, {"guest_id": "windows_11"}, "windows_11"),
]


def test_every_concern_is_tried_and_no_other_exists() -> None:
    assert {case[0] for case in CASES} == {rule.id for rule in RULES}
    assert len(RULES) == 39


def test_a_quiet_vm_gives_none() -> None:
    assert concerns(QUIET) == ()
    assert concerns(QUIET, warm=True) == ()


@pytest.mark.parametrize("id, category, facts, named", CASES)
def test_fires_alone(id: str, category: Category, facts: dict[str, Any], named: str) -> None:
    (found,) = concerns(replace(QUIET, **facts))
    assert (found.id, found.category) == (f"ovirt.{id}", category)
    assert named in found.assessment
    assert found.label and not found.label.endswith(".")
    assert found.remedy or category is not C


@pytest.mark.parametrize(
    "facts",
    [
        trait(status="down"),
        trait(resume_behaviour="auto_resume"),
        trait(cpu_pinning_policy="dedicated"),
        disk(interface="virtio_scsi"),
        disk(interface="sata"),
        {"nics": (replace(NIC, model="e1000"),)},
        card(linked=False),
        {"name": "Web-1"},
        {"guest_id": "windows_2019x64"},
    ],
)
def test_stays_quiet_for_what_is_carried_over(facts: dict[str, Any]) -> None:
    assert concerns(replace(QUIET, **facts)) == ()


def test_a_shared_disk_says_what_it_means_for_a_warm_migration() -> None:
    vm = replace(QUIET, disks=(replace(DISK, shared=True),))
    told = {warm: concerns(vm, warm)[0].assessment for warm in (None, True, False)}
    assert "no backup" in told[True] and "no backup" in told[None]
    assert "no backup" not in told[False]
