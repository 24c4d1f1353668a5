"""What is refused before anything is touched: by the server, at the provider or by the plan's checks.

Every refusal names the object, the field and the cause, and says what to do; a Migration of such a plan does not begin, and
the source VM has seen no call that changes anything.
"""

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tranship.app import App, serving
from tranship.lab.vsphere.machine import LabVM
from tranship.resources.conditions import Condition
from tranship.resources.meta import KINDS, MIGRATION, PLAN, PROVIDER, SECRET

MIB = 1 << 20
CHANGING = (
    "CreateSnapshot_Task",
    "RemoveSnapshot_Task",
    "ConsolidateVMDisks_Task",
    "ReconfigVM_Task",
    "PowerOffVM_Task",
    "PowerOnVM_Task",
    "ShutdownGuest",
    "ExportSnapshot",
)
BETWEEN = {"source": {"name": "source"}, "destination": {"name": "here"}}
NOBODY = "vm-999999"


def untouched(site: Any, vm: LabVM, power: list[str], snapshots: list[str]) -> None:
    assert [name for name in CHANGING if site.lab.faults.count(name, vm.name)] == []
    assert vm.power_causes() == power
    assert vm.snapshots == snapshots
    assert not site.vms.exists() or not (site.vms / "moved" / vm.name / "machine.json").exists()


def understood(condition: Condition) -> None:
    assert condition.blocks, condition
    assert condition.suggestion, f"no remedy for {condition.message!r}"


async def refused(site: Any, vm: LabVM, documents: list[Any], type: str, *words: str) -> Condition:
    """The plan is blocked by a condition of that type with those words, and its Migration does not begin."""
    power, snapshots = vm.power_causes(), vm.snapshots
    async with site.app() as app:
        await site.apply(app, *documents)
        condition: Condition = await site.says(app, PLAN, "plan", type, *words)
        understood(condition)
        await site.start(app)
        said = await site.says(app, MIGRATION, "run", "PlanNotReady", "plan plan is not ready")
        understood(said)
        plan = await app.store.get(PLAN, "default", "plan")
        assert "Ready" not in [one["type"] for one in plan["status"]["conditions"]]
        assert "started" not in (await app.store.get(MIGRATION, "default", "run"))["status"]
    untouched(site, vm, power, snapshots)
    return condition


def one_of(documents: list[Any], kind: str, name: str = "") -> Any:
    return next(one for one in documents if one["kind"] == kind and name in ("", one["metadata"]["name"]))


# --- the plan ----------------------------------------------------------------------------------------------------------


def _many_snapshots(site: Any, vm: LabVM) -> None:
    for number in range(28):
        site.lab.snapshots.take(vm, f"nightly {number}")


def _consolidation(site: Any, vm: LabVM) -> None:
    with site.lab.world.lock:
        vm.consolidation_needed = True
        site.lab.world.touch(vm)


def _taken(site: Any, vm: LabVM) -> None:
    home = site.vms / "moved" / vm.name
    home.mkdir(parents=True)
    (home / "notes.txt").write_text("somebody else's")


def _nothing(site: Any, vm: LabVM) -> None:
    pass


Before = Callable[[Any, LabVM], None]
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], Before, str, tuple[str, ...]]] = {
    # name: VM, plan, what is done before, condition, words
    "unmapped-network": (
        {"networks": ("DPortGroup",)},
        {},
        _nothing,
        "VMNetworksNotMapped",
        ("DPortGroup", "Network adapter 1"),
    ),
    "independent-disk": (
        {"disk_mode": "independent_persistent"},
        {},
        _nothing,
        "IndependentDiskWarning",
        ("Hard disk 1", "independent"),
    ),
    "physical-rdm": ({"rdm": "physical"}, {}, _nothing, "RDMDiskWarning", ("Hard disk 1", "physical RDM")),
    "physical-rdm-cold": (
        {"rdm": "physical"},
        {"type": "cold"},
        _nothing,
        "RDMDiskWarning",
        ("Hard disk 1", "physical RDM"),
    ),
    "shared-disk": ({"shared": "multiwriter"}, {}, _nothing, "SharedDisks", ("Hard disk 1", "shared")),
    "no-change-tracking": (
        {"cbt": False},
        {},
        _nothing,
        "VMMissingChangedBlockTracking",
        ("changed block tracking", "Hard disk 1"),
    ),
    "28-snapshots": ({}, {}, _many_snapshots, "VMHasSnapshots", ("28 snapshots",)),
    "consolidation-needed": ({}, {}, _consolidation, "VMConsolidationNeeded", ("consolidation",)),
    "name-taken": ({}, {}, _taken, "VMAlreadyExists", ("moved",)),
    "bad-target-name": (
        {},
        {"vms": [{"targetName": "Not A Name"}]},
        _nothing,
        "TargetNameNotValid",
        ("spec.vms[0].targetName", "Not A Name"),
    ),
    "hooks": (
        {},
        {"vms": [{"hooks": [{"hook": {"name": "h"}, "step": "PreHook"}]}]},
        _nothing,
        "NotSupported",
        ("spec.vms[0].hooks",),
    ),
    "luks": ({}, {"vms": [{"luks": {"name": "keys"}}]}, _nothing, "NotSupported", ("spec.vms[0].luks", "encrypted")),
    "live": ({}, {"type": "live"}, _nothing, "NotSupported", ("spec.type",)),
    "twice": ({}, {"vms": [{}, {}]}, _nothing, "DuplicateVM", ("spec.vms[1]",)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_plan_is_blocked(site: Any, case: str) -> None:
    options, spec, before, type, words = CASES[case]
    vm = site.add_vm(f"refused-{case}", 2 * MIB, **{"running": True, "cbt": True, **options})
    before(site, vm)
    if "vms" in spec:
        spec = {**spec, "vms": [{"id": vm.moref, **entry} for entry in spec["vms"]]}
    documents = [*site.providers(vddk=True), site.plan(vm, warm=True, **spec)]
    named = () if words[0].startswith("spec.") else (vm.name,)
    asyncio.run(refused(site, vm, documents, type, *named, *words))


def test_all_causes_are_told_at_once(site: Any) -> None:
    options = {"networks": ("DPortGroup",), "disk_mode": ["persistent", "independent_persistent"]}
    vm = site.add_vm("refused-for-much", 2 * MIB, 2 * MIB, running=True, cbt=False, **options)

    async def run() -> None:
        async with site.app() as app:
            entries = [{"id": vm.moref}, {"name": "no-such-vm"}]
            await site.apply(app, *site.providers(vddk=True), site.plan(vm, warm=True, vms=entries))
            await site.says(app, PLAN, "plan", "VMNotFound")
            plan = await app.store.get(PLAN, "default", "plan")
            blocking = {one["type"] for one in plan["status"]["conditions"] if one["category"] == "Critical"}
            assert blocking >= {
                "VMNotFound",
                "VMNetworksNotMapped",
                "IndependentDiskWarning",
                "VMMissingChangedBlockTracking",
            }

    asyncio.run(run())


@pytest.mark.parametrize("entry", [{"id": NOBODY}, {"name": "no-such-vm"}])
def test_an_unknown_vm(site: Any, entry: dict[str, str]) -> None:
    vm = site.add_vm(f"bystander-{next(iter(entry))}", MIB, running=True)
    documents = [*site.providers(vddk=True), site.plan(vm, warm=False, vms=[entry])]
    name = next(iter(entry.values()))
    asyncio.run(refused(site, vm, documents, "VMNotFound", "spec.vms[0]", name))


def test_a_name_that_fits_two_vms(site: Any) -> None:
    vm, _ = site.add_vm("refused-twin", MIB), site.add_vm("refused-twin", MIB)
    documents = [*site.providers(vddk=True), site.plan(vm, warm=False, vms=[{"name": vm.name}])]
    asyncio.run(refused(site, vm, documents, "VMRefNotValid", "spec.vms[0]", "refused-twin"))


def test_an_unmapped_datastore(site: Any) -> None:
    vm = site.add_vm("refused-datastore", MIB, datastore="datastore2", running=True)
    documents = site.providers(vddk=True)
    del one_of(documents, "StorageMap")["spec"]["map"][1]
    plan = site.plan(vm, warm=False)
    asyncio.run(refused(site, vm, [*documents, plan], "VMStorageNotMapped", vm.name, "datastore2", "Hard disk 1"))


def test_a_map_to_a_pool_that_is_not_there(site: Any) -> None:
    vm = site.add_vm("refused-pool", MIB, running=True)
    documents = site.providers(vddk=True)
    one_of(documents, "StorageMap")["spec"]["map"][0]["destination"] = {"storageClass": "fast"}
    asyncio.run(refused(site, vm, [*documents, site.plan(vm, warm=False)], "StorageMapNotReady", "store"))


def test_a_plan_without_its_map(site: Any) -> None:
    vm = site.add_vm("refused-map", MIB, running=True)
    plan = site.plan(vm, warm=False, map={"network": {"name": "nowhere"}, "storage": {"name": "store"}})
    documents = [*site.providers(vddk=True), plan]
    asyncio.run(refused(site, vm, documents, "NotValid", "spec.map.network", "nowhere"))


@pytest.mark.parametrize("wrong", ["missing", "empty"])
def test_a_directory_without_vddk(site: Any, wrong: str) -> None:
    vm = site.add_vm(f"refused-vddk-{wrong}", MIB, running=True, cbt=True)
    directory = site.directory / "vddk"
    if wrong == "empty":
        directory.mkdir()
    documents = site.providers(vddk=True)
    one_of(documents, "Provider", "source")["spec"]["settings"]["vddkDirectory"] = str(directory)
    plan = site.plan(vm, warm=True)
    found = refused(site, vm, [*documents, plan], "VMStorageNotSupported", vm.name, str(directory), "libvixDiskLib")
    assert "vddkDirectory" in asyncio.run(found).suggestion


# --- the provider ------------------------------------------------------------------------------------------------------


def _drop(data: dict[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in data.items() if name not in names}


async def _provider(site: Any, vm: LabVM, change: dict[str, str], type: str, *words: str) -> Condition:
    documents = [*site.providers(vddk=True, **change), site.plan(vm, warm=False)]
    secret = one_of(documents, "Secret")
    secret["stringData"] = {name: value for name, value in secret["stringData"].items() if value}
    async with site.app() as app:
        await site.apply(app, *documents)
        condition: Condition = await site.says(app, PROVIDER, "source", type, *words)
        understood(condition)
        provider = await app.store.get(PROVIDER, "default", "source")
        assert provider["status"]["phase"] == "ConnectionFailed"
        await _repair(site, app, condition)
    return condition


async def _repair(site: Any, app: App, condition: Condition) -> None:
    """The plan says the same, and comes right by itself when the secret is corrected."""
    understood(await site.says(app, PLAN, "plan", "ProviderNotReady", "provider 'default/source'", condition.message))
    right = {"user": site.lab.user, "password": site.lab.password, "ca.crt": site.lab.ca_pem, "thumbprint": ""}
    await app.store.patch(SECRET, "default", "source", {"data": None, "stringData": right})
    await site.ready(app, 20)


@pytest.mark.parametrize(
    ("change", "type", "words", "remedy"),
    [
        ({"password": "wrong-password"}, "ConnectionAuthFailed", ("localhost", "administrator"), "password"),
        ({"ca.crt": ""}, "ConnectionTestFailed", ("localhost", "not trusted"), "ca.crt"),
        (
            {"ca.crt": "", "thumbprint": ":".join(["AB"] * 20)},
            "ConnectionTestFailed",
            ("not the pinned",),
            "thumbprint",
        ),
        ({"thumbprint": "1234"}, "SettingsNotValid", ("secret.thumbprint",), ""),
        ({"ca.crt": "no certificate"}, "SettingsNotValid", ("secret.ca.crt",), ""),
    ],
    ids=["password", "certificate", "thumbprint", "no-thumbprint", "no-certificate"],
)
def test_the_provider_says_why(
    site: Any, change: dict[str, str], type: str, words: tuple[str, ...], remedy: str
) -> None:
    vm = site.add_vm(f"provider-{'-'.join(change.values())[:12]}", MIB)
    condition = asyncio.run(_provider(site, vm, change, type, *words))
    assert remedy in condition.suggestion
    assert "wrong-password" not in condition.message


def test_a_secret_that_comes_later(site: Any) -> None:
    vm = site.add_vm("provider-waits", MIB)

    async def run() -> None:
        secret, *others = site.providers(vddk=True)
        async with site.app() as app:
            await site.apply(app, *others, site.plan(vm, warm=False))
            understood(await site.says(app, PROVIDER, "source", "SecretNotValid", "spec.secret", "source"))
            await site.apply(app, secret)
            await site.ready(app, 5)

    asyncio.run(run())


def test_nobody_answers(site: Any) -> None:
    vm = site.add_vm("provider-away", MIB)

    async def run() -> None:
        documents = [*site.providers(vddk=True), site.plan(vm, warm=False)]
        one_of(documents, "Provider", "source")["spec"]["url"] = "https://localhost:1/sdk"
        async with site.app() as app:
            await site.apply(app, *documents)
            understood(await site.says(app, PROVIDER, "source", "ConnectionTestFailed", "localhost:1", "refused"))

    asyncio.run(run())


def test_a_type_that_is_not_built(site: Any) -> None:
    async def run() -> None:
        documents = site.providers(vddk=False)
        one_of(documents, "Provider", "source")["spec"]["type"] = "openstack"
        async with site.app() as app:
            await site.apply(app, *documents)
            understood(await site.says(app, PROVIDER, "source", "ProviderTypeNotSupported", "openstack"))

    asyncio.run(run())


# --- the server --------------------------------------------------------------------------------------------------------


BAD = {
    "interval": ("Plan", {"spec.precopy.interval": "soon"}, "spec.precopy.interval"),
    "vms": ("Plan", {"spec.vms": "all"}, "spec.vms"),
    "type": ("Plan", {"spec.type": "hot"}, "spec.type"),
    "power": ("Plan", {"spec.targetPowerState": "maybe"}, "spec.targetPowerState"),
    "cutover": ("Migration", {"spec.cutover": "tomorrow"}, "spec.cutover"),
    "provider": ("Provider", {"spec.settings": "none"}, "spec.settings"),
}


@pytest.mark.parametrize("case", BAD)
def test_an_invalid_manifest(site: Any, case: str) -> None:
    kind, change, field = BAD[case]
    vm = site.add_vm(f"manifest-{case}", MIB)
    documents = [*site.providers(vddk=True), site.plan(vm, warm=False)]
    run = {"metadata": {"name": "run", "namespace": "default"}, "spec": {"plan": {"name": "plan"}}}
    documents.append({"apiVersion": "forklift.konveyor.io/v1beta1", "kind": "Migration", **run})
    manifest = one_of(documents, kind, "source" if kind == "Provider" else "")
    for path, value in change.items():
        *way, last = path.split(".")
        place = manifest
        for name in way:
            place = place.setdefault(name, {})
        place[last] = value

    async def post() -> None:
        async with site.app() as app, serving(app, "127.0.0.1", 0) as url:
            token = (Path(app.directory) / "token").read_text().strip()
            trust = ssl.create_default_context(cafile=str(app.directory / "ca.crt"))
            headers = {"Authorization": f"Bearer {token}"}
            async with httpx2.AsyncClient(base_url=url, headers=headers, verify=trust, timeout=10) as http:
                where = f"/apis/forklift.konveyor.io/v1beta1/namespaces/default/{KINDS[kind].plural}"
                answer = await http.post(where, json=manifest)
            said = answer.json()
            assert answer.status_code == 422, said
            assert field in [cause["field"] for cause in said["details"]["causes"]], said
            assert field in said["message"]
            assert (await app.store.list(KINDS[kind])).items == []

    asyncio.run(post())
