"""What keeps a plan from running: every finding names object, field, cause and remedy."""

from dataclasses import replace

import pytest

from tranship.inventory.estate import Estate
from tranship.inventory.vm import VM, Power
from tranship.migration.checks import Facts, check
from tranship.resources.conditions import Category
from tranship.resources.networkmap import NetworkMap
from tranship.resources.plan import Plan
from tranship.resources.vm import PlanVM
from tranship.testing.examples import ESTATE, NETWORKS, WEB, network_map, plan, storage_map

TRACKED = replace(WEB, change_tracking=True, disks=tuple(replace(disk, change_tracking=True) for disk in WEB.disks))
FACTS = Facts(ESTATE, Estate(), NETWORKS.spec, storage_map({"id": "datastore-1"}).spec, {})


def types(plan: Plan, vm: VM, facts: Facts = FACTS, entry: PlanVM | None = None) -> list[tuple[str, Category]]:
    return [(one.type, one.category) for one in check(plan, [(entry or PlanVM(id=vm.id), vm)], facts)]


def first_disk(**changes: object) -> VM:
    return replace(TRACKED, disks=(replace(TRACKED.disks[0], **changes), TRACKED.disks[1]))  # type: ignore[arg-type]


def test_a_good_vm_gives_no_finding() -> None:
    assert types(plan(), WEB) == []
    assert types(plan(type="warm"), TRACKED) == []


@pytest.mark.parametrize(
    ("owner", "networks", "found"),
    [
        ("", NETWORKS, [("MacConflicts", Category.CRITICAL)]),
        ("other-plan/vm-42", NETWORKS, [("MacConflicts", Category.CRITICAL)]),
        ("plan-uid/vm-42", NETWORKS, []),
        ("", network_map(({"name": "VM Network"}, {"type": "ignored"}), ({"id": "dvpg-2"}, {"type": "pod"})), []),
    ],
)
def test_an_address_that_a_machine_of_the_target_has(owner: str, networks: NetworkMap, found: object) -> None:
    there = VM(id="shop/db", name="db", nics=WEB.nics[:1], traits={"owner": owner})
    assert types(plan(), WEB, replace(FACTS, target=Estate(vms={"shop/db": there}), networks=networks.spec)) == found


@pytest.mark.parametrize(
    ("vm", "type"),
    [
        (replace(WEB, power=Power.SUSPENDED), "VMPowerStateUnsupported"),
        (replace(WEB, template=True), "VMMigrationTypeUnsupported"),
        (first_disk(rdm="physical"), "RDMDiskWarning"),
        (first_disk(capacity=1000), "InvalidDiskSizes"),
    ],
)
def test_what_blocks_any_migration(vm: VM, type: str) -> None:
    assert types(plan(), vm) == [(type, Category.CRITICAL)]


@pytest.mark.parametrize(
    ("vm", "type"),
    [
        (WEB, "VMMissingChangedBlockTracking"),
        (first_disk(change_tracking=False), "VMMissingChangedBlockTracking"),
        (replace(TRACKED, change_tracking_supported=False), "VMMissingChangedBlockTracking"),
        (replace(TRACKED, snapshots=1), "VMHasSnapshots"),
        (replace(TRACKED, snapshots=28), "VMHasSnapshots"),
        (replace(TRACKED, consolidation_needed=True), "VMConsolidationNeeded"),
        (first_disk(mode="independent_persistent"), "IndependentDiskWarning"),
        (first_disk(shared=True), "SharedDisks"),
    ],
)
def test_what_blocks_warm_only(vm: VM, type: str) -> None:
    assert (type, Category.CRITICAL) in types(plan(type="warm"), vm)
    assert (type, Category.CRITICAL) not in types(plan(), vm)


def test_a_plan_may_allow_to_switch_tracking_on() -> None:
    allowing = plan(type="warm", precopy={"enableChangeTracking": True})
    assert types(allowing, WEB) == [("VMMissingChangedBlockTracking", Category.ADVISORY)]


def test_a_name_that_is_taken() -> None:
    theirs = VM(id="moved/web-01-old", name="web-01-old", traits={"owner": "other/vm-1"})
    taken = replace(FACTS, target=Estate(vms={theirs.id: theirs}))
    assert types(plan(), WEB, taken) == [("VMAlreadyExists", Category.CRITICAL)]
    ours = replace(theirs, traits={"owner": "plan-uid/vm-42"})
    assert types(plan(), WEB, replace(FACTS, target=Estate(vms={ours.id: ours}))) == []


def test_two_vms_of_one_name_and_one_vm_twice() -> None:
    twin = replace(WEB, id="vm-43")
    entries = [(PlanVM(id="vm-42"), WEB), (PlanVM(id="vm-43"), twin), (PlanVM(id="vm-42"), WEB)]
    assert [one.type for one in check(plan(), entries, FACTS)].count("DuplicateVM") == 3


def test_every_finding_says_what_to_do() -> None:
    worst = replace(first_disk(rdm="physical", mode="independent_persistent", shared=True), template=True, snapshots=3)
    nothing = replace(FACTS, networks=network_map().spec, storages=storage_map().spec)
    findings = list(check(plan(type="warm"), [(PlanVM(id="vm-42", target_name="Bad Name"), worst)], nothing))
    assert {one.type for one in findings} >= {"VMNetworksNotMapped", "VMStorageNotMapped", "TargetNameNotValid"}
    assert all(one.suggestion and one.item == WEB.name for one in findings)
