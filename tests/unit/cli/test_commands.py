"""The commands against a real server; the tests write the status that controllers would."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from tranship.resources.meta import MIGRATION, PLAN, PROVIDER, SECRET

API = "forklift.konveyor.io/v1beta1"
BETWEEN = {
    "source": {"name": "vcenter", "namespace": "default"},
    "destination": {"name": "here", "namespace": "default"},
}
MAPS = {"network": {"name": "m", "namespace": "default"}, "storage": {"name": "m", "namespace": "default"}}
NOW = "2026-01-31T12:00:00Z"


def plan(name: str = "web", **spec: Any) -> dict[str, Any]:
    base = {"provider": BETWEEN, "map": MAPS, "targetNamespace": "moved", "vms": [{"name": "a"}, {"name": "b"}]}
    return {"apiVersion": API, "kind": "Plan", "metadata": {"name": name}, "spec": {**base, "type": "warm", **spec}}


def condition(type: str, category: str = "Required", **more: Any) -> dict[str, Any]:
    return {"type": type, "status": "True", "category": category, "lastTransitionTime": NOW, **more}


def vm(name: str, **more: Any) -> dict[str, Any]:
    return {"id": f"vm-{name}", "name": name, "phase": "CopyDisks", "pipeline": [], **more}


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(*documents: dict[str, Any]) -> str:
        path = tmp_path / "manifests.yaml"
        path.write_text(yaml.safe_dump_all(documents, sort_keys=False))
        return str(path)

    return write


@pytest.fixture
def ready_plan(house: Any, tranship: Any, write: Any) -> None:
    assert tranship("apply", "-f", write(plan())).code == 0
    house.set_status(PLAN, "web", observedGeneration=1, conditions=[condition("Ready")])


@pytest.fixture
def run(house: Any, tranship: Any, ready_plan: None) -> str:
    """A started migration with two VMs; its name."""
    name: str = tranship("start", "web").out.split("/")[1].split()[0]
    house.set_status(MIGRATION, name, started=NOW, conditions=[condition("Running")], vms=[vm("a"), vm("b")])
    return name


# --- apply -----------------------------------------------------------------------------------------------------------


def test_apply_creates_configures_and_removes(house: Any, tranship: Any, write: Any) -> None:
    first = plan(description="old", warm=True)
    assert tranship("apply", "-f", write(first)).out == "plan.forklift.konveyor.io/web created\n"
    assert tranship("apply", "-f", write(first)).out == "plan.forklift.konveyor.io/web unchanged\n"
    house.do(house.store.patch(PLAN, "default", "web", {"spec": {"archived": True}}))  # somebody else's field
    assert tranship("apply", "-f", write(plan())).out == "plan.forklift.konveyor.io/web configured\n"
    spec = house.get(PLAN, "web")["spec"]
    assert "description" not in spec and "warm" not in spec
    assert spec["archived"] is True
    assert tranship("apply", "-f", write(plan())).out == "plan.forklift.konveyor.io/web unchanged\n"


def test_apply_keeps_a_secrets_values_out_of_the_annotation(house: Any, tranship: Any, write: Any) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "vcenter"}}
    assert tranship("apply", "-f", write({**secret, "stringData": {"user": "u", "password": "hunter2"}})).code == 0
    stored = house.get(SECRET, "vcenter")
    assert set(stored["data"]) == {"user", "password"}
    assert "hunter2" not in str(stored["metadata"]) and stored["data"]["password"] not in str(stored["metadata"])
    assert tranship("apply", "-f", write({**secret, "stringData": {"user": "u"}})).out.endswith("configured\n")
    assert set(house.get(SECRET, "vcenter")["data"]) == {"user"}
    assert "hunter2" not in tranship("describe", "secret", "vcenter").out


def test_apply_goes_on_after_a_refusal(tranship: Any, write: Any) -> None:
    said = tranship("apply", "-f", write(plan("bad", type="lukewarm"), plan("good")))
    assert said.code == 2
    assert "plan.forklift.konveyor.io/good created" in said.out
    cause, fix = said.err.splitlines()
    assert cause.startswith("error: plan.forklift.konveyor.io/bad: spec.type:")
    assert fix.startswith("  fix: ")


def test_a_slip_changes_nothing(tranship: Any, write: Any) -> None:
    said = tranship("apply", "-f", write(plan("good"), {"kind": "Plam"}))
    assert said.code == 2
    assert "document 2: kind: 'Plam' is not known" in said.err
    assert "There are no plans" in tranship("get", "plans").err


# --- get, describe ---------------------------------------------------------------------------------------------------


def test_get_in_all_forms(tranship: Any, ready_plan: None) -> None:
    header, row = tranship("get", "plans").out.splitlines()
    assert header.split() == ["NAME", "READY", "EXECUTING", "SUCCEEDED", "FAILED", "AGE"]
    assert row.split()[:2] == ["web", "True"]
    assert "vcenter" in tranship("get", "plan", "web", "-o", "wide").out
    assert tranship("get", "-A", "plan").out.startswith("NAMESPACE   NAME")
    assert tranship("get", "plan/web", "-o", "name").out == "plan.forklift.konveyor.io/web\n"
    assert json.loads(tranship("get", "plan", "web", "-o", "json").out)["metadata"]["name"] == "web"
    assert json.loads(tranship("get", "plans", "-o", "json").out)["items"][0]["kind"] == "Plan"
    assert yaml.safe_load(tranship("get", "plan", "web", "-o", "yaml").out)["spec"]["type"] == "warm"


def test_what_is_got_can_be_applied(tranship: Any, ready_plan: None, tmp_path: Path) -> None:
    path = tmp_path / "again.yaml"
    path.write_text(tranship("get", "plans", "-o", "yaml").out)
    assert tranship("apply", "-f", str(path)).out == "plan.forklift.konveyor.io/web unchanged\n"


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("get", "plan", "none"), 1, "Plan 'none' was not found"),
        (("get", "plam"), 2, "'plam' is no kind"),
        (("get",), 2, "Missing argument"),
        (("describe", "plan"), 2, "describe tells about one object"),
        (("start", "none"), 1, "not found"),
        (("nonsense",), 2, "No such command"),
        (("delete", "plan"), 2, "does not delete all"),
        (("wait", "plan/x", "--for", "Ready"), 2, "--for"),
        (("cutover", "x", "--now", "--clear"), 2, "exclude each other"),
    ],
)
def test_wrong_words(tranship: Any, words: tuple[str, ...], code: int, text: str) -> None:
    said = tranship(*words)
    assert said.code == code
    assert text in said.err
    assert "Traceback" not in said.err


def test_describe_says_what_blocks_and_what_to_do(house: Any, tranship: Any, ready_plan: None) -> None:
    blocker = condition("VMNotFound", "Critical", message="a is not there", suggestion="Correct it.", items=["a"])
    house.set_status(PLAN, "web", conditions=[blocker])
    text = tranship("describe", "plan", "web").out
    for words in ("VMNotFound=True   Critical", "a is not there", "fix: Correct it.", "- a", "Migrations: none"):
        assert words in text


def test_describe_a_running_plan(tranship: Any, run: str) -> None:
    for target in ("plan/web", f"migration/{run}"):
        text = tranship("describe", target).out
        assert f"Migration:   {run}" in text
        assert "VM a (vm-a)" in text


def test_inventory(house: Any, tranship: Any, write: Any) -> None:
    spec = {"type": "vsphere", "url": "https://x/sdk", "secret": {"name": "s", "namespace": "default"}}
    tranship("apply", "-f", write({"apiVersion": API, "kind": "Provider", "metadata": {"name": "vc"}, "spec": spec}))
    early = tranship("get", "inventory", "vms", "--provider", "vc")
    assert (early.code, "not loaded yet" in early.err) == (3, True)
    house.load_inventory(house.get(PROVIDER, "vc")["metadata"]["uid"])
    rows = tranship("get", "inventory", "vms", "--provider", "vc").out.splitlines()
    assert rows[1].split() == ["vm-1", "web", "On", "2", "4", "GiB", "1", "1", "GiB"]
    assert "VM Network" in tranship("get", "inventory", "networks", "--provider", "vc").out
    assert tranship("get", "inventory", "vm", "none", "--provider", "vc").code == 2


def test_inventory_of_a_cluster(house: Any, tranship: Any, write: Any) -> None:
    spec = {"type": "openshift", "url": "", "secret": {}}
    tranship("apply", "-f", write({"apiVersion": API, "kind": "Provider", "metadata": {"name": "host"}, "spec": spec}))
    house.load_inventory(house.get(PROVIDER, "host")["metadata"]["uid"])
    for name in ("storageclasses", "storageclass", "sc"):
        rows = tranship("get", "inventory", name, "--provider", "host").out.splitlines()
        assert [row.split() for row in rows] == [
            ["ID", "NAME", "DEFAULT", "PROFILE"],
            ["fast", "fast", "yes", "RWX/Block,", "RWO/Block"],
        ]
    assert tranship("get", "inventory", "namespaces", "--provider", "host").code == 0


# --- start, cutover, cancel, archive, delete ---------------------------------------------------------------------------


def test_start_makes_a_migration(house: Any, tranship: Any, ready_plan: None) -> None:
    said = tranship("start", "plan/web", "--cutover", "2026-01-31T23:00:00Z")
    assert said.code == 0
    name = said.out.split("/")[1].split()[0]
    migration = house.get(MIGRATION, name)
    assert name.startswith("web-")
    assert migration["spec"] == {"plan": {"name": "web", "namespace": "default"}, "cutover": "2026-01-31T23:00:00Z"}
    assert migration["metadata"]["ownerReferences"][0]["uid"] == house.get(PLAN, "web")["metadata"]["uid"]


def test_start_refuses_what_is_blocked(house: Any, tranship: Any, ready_plan: None) -> None:
    blocker = condition("StorageMapNotReady", "Critical", message="the map has no X", suggestion="Map X.")
    house.set_status(PLAN, "web", conditions=[condition("Ready"), blocker])
    said = tranship("start", "web")
    assert said.code == 3
    assert said.err == "error: plan 'web' is not ready: the map has no X\n  fix: Map X.\n"
    house.set_status(PLAN, "web", conditions=[condition("Ready"), condition("Executing", "Advisory")])
    assert tranship("start", "web").code == 3


def test_start_waits_for_the_validation(house: Any, tranship: Any, write: Any) -> None:
    tranship("apply", "-f", write(plan()))
    validated = {"observedGeneration": 1, "conditions": [condition("Ready")]}
    later = threading.Timer(0.3, lambda: house.set_status(PLAN, "web", **validated))
    later.start()
    assert tranship("start", "web").code == 0
    later.join()


def test_a_cold_plan_has_no_cutover(house: Any, tranship: Any, write: Any) -> None:
    tranship("apply", "-f", write(plan(type="cold")))
    house.set_status(PLAN, "web", observedGeneration=1, conditions=[condition("Ready")])
    assert tranship("start", "web", "--cutover", "now").code == 2


def test_cutover(house: Any, tranship: Any, run: str) -> None:
    assert tranship("cutover", "web", "--at", "2026-01-31T23:00:00Z").code == 0
    assert house.get(MIGRATION, run)["spec"]["cutover"] == "2026-01-31T23:00:00Z"
    assert tranship("cutover", "web", "--vm", "a", "--now").code == 0
    spec = house.get(MIGRATION, run)["spec"]
    assert spec["cutover"] == "2026-01-31T23:00:00Z"
    assert [entry["id"] for entry in spec["vmCutover"]] == ["vm-a"]
    assert tranship("cutover", "web", "--vm", "vm-b", "--at", "1h").code == 0
    assert tranship("cutover", "web", "--vm", "a", "--clear").code == 0
    assert [entry["id"] for entry in house.get(MIGRATION, run)["spec"]["vmCutover"]] == ["vm-b"]
    assert tranship("cutover", "web", "--clear").code == 0
    spec = house.get(MIGRATION, run)["spec"]
    assert "cutover" not in spec and "vmCutover" not in spec
    said = tranship("cutover", "web", "--vm", "nobody")
    assert (said.code, "The plan has a, b." in said.err) == (1, True)


def test_nothing_to_cut_over(tranship: Any, ready_plan: None) -> None:
    said = tranship("cutover", "web")
    assert said.code == 3
    assert "no migration of it is under way" in said.err


def test_cancel(house: Any, tranship: Any, run: str) -> None:
    assert "cancelling a" in tranship("cancel", "web", "--vm", "a").out
    assert house.get(MIGRATION, run)["spec"]["cancel"] == [{"id": "vm-a", "name": "a"}]
    assert "cancelling a, b" in tranship("cancel", "web").out
    assert len(house.get(MIGRATION, run)["spec"]["cancel"]) == 2


def test_archive(house: Any, tranship: Any, ready_plan: None) -> None:
    assert tranship("archive", "web").code == 0
    assert house.get(PLAN, "web")["spec"]["archived"] is True
    assert tranship("start", "web").code == 3
    assert tranship("archive", "--undo", "web").code == 0
    assert house.get(PLAN, "web")["spec"]["archived"] is False


def test_delete_waits_for_finalizers(house: Any, tranship: Any, ready_plan: None) -> None:
    house.do(house.store.patch(PLAN, "default", "web", {"metadata": {"finalizers": ["test/hold"]}}))
    said = tranship("delete", "plan", "web", "--timeout", "300ms")
    assert said.code == 1
    assert "did not end within" in said.err
    free = {"metadata": {"finalizers": []}}
    later = threading.Timer(0.3, lambda: house.do(house.store.patch(PLAN, "default", "web", free)))
    later.start()
    assert tranship("delete", "plan", "web").out == "plan.forklift.konveyor.io/web deleted\n"
    later.join()
    assert tranship("delete", "plan", "web").code == 1
    assert tranship("delete", "plan", "web", "--ignore-not-found").code == 0


# --- wait, watch -------------------------------------------------------------------------------------------------------


def test_wait(house: Any, tranship: Any, ready_plan: None, run: str) -> None:
    assert tranship("wait", "--for=condition=Ready", "plan/web").code == 0
    failed = condition("Failed", "Advisory", message="1 of 2 VMs failed")
    later = threading.Timer(0.3, lambda: house.set_status(MIGRATION, run, conditions=[failed]))
    later.start()
    said = tranship("wait", "--for=condition=Succeeded", f"migration/{run}", "--timeout=20s")
    later.join()
    assert said.code == 3
    assert "Failed: 1 of 2 VMs failed" in said.err


def test_wait_ends(house: Any, tranship: Any, ready_plan: None) -> None:
    house.set_status(PLAN, "web", conditions=[condition("X", "Critical", message="no map", suggestion="Make one.")])
    said = tranship("wait", "--for=condition=Ready", "plan/web", "--timeout=300ms")
    assert (said.code, said.err) == (3, "error: plan 'web' is not ready: no map\n  fix: Make one.\n")
    assert tranship("wait", "--for=condition=Ready", "plan/none", "--timeout=300ms").code == 1


def test_watch_ends_with_the_migration(house: Any, tranship: Any, run: str) -> None:
    def controller() -> None:
        cutover = {"predictedSeconds": 4.0, "downtimeSeconds": 3.2}
        good = vm("a", phase="Completed", outcome="succeeded", why="moved", cutover=cutover)
        bad = vm(
            "b", phase="Completed", outcome="failed", conditions=[condition("Failed", "Error", message="no space")]
        )
        house.set_status(MIGRATION, run, vms=[vm("a", phase="CreateVM", why="making it"), vm("b")])
        house.set_status(
            MIGRATION,
            run,
            vms=[good, bad],
            completed=NOW,
            conditions=[condition("Failed", "Advisory", message="1 of 2")],
        )

    later = threading.Timer(0.3, controller)
    later.start()
    said = tranship("watch", "web")
    later.join()
    assert said.code == 4
    assert "a  CreateVM  making it" in said.out
    assert "b: no space" in said.out
    assert "3.2s" in said.out
    assert tranship("watch", "web").code == 4  # it ended already


def test_watch_ends_when_the_migration_is_deleted(house: Any, tranship: Any, run: str) -> None:
    later = threading.Timer(0.3, lambda: house.do(house.store.delete(MIGRATION, "default", run)))
    later.start()
    said = tranship("watch", "web")
    later.join()
    assert (said.code, "deleted" in said.err) == (1, True)


# --- finding the server ------------------------------------------------------------------------------------------------


def test_a_wrong_token(house: Any, tranship: Any, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("wrong-token")
    said = tranship("--server", house.url, "--token-file", str(tmp_path / "token"), "get", "plans")
    assert said.code == 1
    assert "a valid bearer token is required" in said.err
    assert "wrong-token" not in said.err


def test_no_server(tranship: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = tranship("--server", "http://127.0.0.1:9", "get", "plans")
    assert said.code == 1
    assert "does not answer" in said.err
    assert "Is `tranship serve` running?" in said.err
    assert tranship("--server", "http://example.com", "get", "plans").code == 2
    monkeypatch.setenv("TRANSHIP_HOME", str(tmp_path))
    assert "Start `tranship serve`" in tranship("get", "plans").err


def test_the_servers_own_certificate(tranship: Any, secure_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSHIP_HOME", str(secure_home))
    assert tranship("get", "plans").code == 0
    url = (secure_home / "server").read_text()
    assert "not trusted" in tranship("--server", url, "get", "plans").err
    assert tranship("--server", url, "--ca-file", str(secure_home / "ca.crt"), "get", "plans").code == 0


def test_the_own_token_goes_to_no_other_host(tranship: Any) -> None:
    said = tranship("--server", "https://tranship.example.com", "get", "plans")
    assert (said.code, "token file: is needed" in said.err) == (2, True)
