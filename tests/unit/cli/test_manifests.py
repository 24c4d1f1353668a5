"""Reading manifests: YAML 1.2's words and times, many documents, and slips that are named with their place."""

import base64
import io
from pathlib import Path

import pytest

from tranship.cli.manifests import Manifest, read_manifests
from tranship.errors import Invalid, NotFound

HEAD = "apiVersion: forklift.konveyor.io/v1beta1\nkind: {kind}\nmetadata: {{name: {name}}}\n"
PLAN = HEAD.format(kind="Plan", name="web")


def read(tmp_path: Path, text: str, namespace: str = "default", *, told: bool = False) -> list[Manifest]:
    file = tmp_path / "file.yaml"
    file.write_text(text)
    return list(read_manifests((str(file),), namespace, namespace_told=told))


def test_words_and_times_stay_what_they_are(tmp_path: Path) -> None:
    body = (
        "spec: {targetPowerState: on, warm: true, cutover: 2026-01-31T23:00:00Z, mac: 10:20, n: 12, f: 1.5, x: 007a}\n"
    )
    [manifest] = read(tmp_path, PLAN + body)
    assert manifest.body["spec"] == {
        "targetPowerState": "on",
        "warm": True,
        "cutover": "2026-01-31T23:00:00Z",
        "mac": "10:20",
        "n": 12,
        "f": 1.5,
        "x": "007a",
    }


def test_documents_lists_json_and_directories(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"{PLAN}---\n# nothing\n---\n{HEAD.format(kind='Migration', name='m')}")
    (tmp_path / "b.json").write_text(
        '{"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}]}'
    )
    (tmp_path / "notes.txt").write_text("not a manifest")
    found = list(read_manifests((str(tmp_path),), "default", namespace_told=False))
    assert [(one.kind.kind, one.name) for one in found] == [("Plan", "web"), ("Migration", "m"), ("Secret", "s")]


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(PLAN))
    [manifest] = read_manifests(("-",), "moves", namespace_told=True)
    assert manifest.namespace == manifest.body["metadata"]["namespace"] == "moves"


def test_what_the_server_writes_is_left_out(tmp_path: Path) -> None:
    text = "apiVersion: forklift.konveyor.io/v1beta1\nkind: Plan\nmetadata: {name: web, uid: u, resourceVersion: '7'}\n"
    [manifest] = read(tmp_path, text + "spec: {description: null, type: warm}\nstatus: {conditions: []}\n")
    assert manifest.body["metadata"] == {"name": "web", "namespace": "default"}
    assert manifest.body["spec"] == {"type": "warm"}
    assert "status" not in manifest.body


def test_a_secrets_texts_become_data(tmp_path: Path) -> None:
    text = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {password: pässword}\n"
    [manifest] = read(tmp_path, text)
    assert manifest.body["data"] == {"password": base64.b64encode("pässword".encode()).decode()}
    assert "stringData" not in manifest.body


@pytest.mark.parametrize(
    ("text", "place", "cause"),
    [
        (PLAN + "spec:\n  warm: true\n  warm: false\n", "line 6", "'warm' stands twice"),
        (PLAN + "spec: {a: [}\n", "line 4", ""),
        ("- a\n", "file.yaml", "is no object"),
        (HEAD.format(kind="Plam", name="x"), "kind", "'Plam' is not known"),
        ("apiVersion: v1\nkind: Plan\nmetadata: {name: x}\n", "apiVersion", "'v1' does not fit"),
        ("apiVersion: v1\nkind: Secret\nmetadata: {}\n", "metadata.name", "is missing"),
        (f"{PLAN}---\n{HEAD.format(kind='Plan', name='5')}", "document 2: metadata.name", "is missing"),
        (PLAN.replace("web", "web, namespace: other"), "metadata.namespace", "'other'"),
    ],
)
def test_slips_are_named_with_their_place(tmp_path: Path, text: str, place: str, cause: str) -> None:
    with pytest.raises(Invalid) as caught:
        read(tmp_path, text, told=True)
    assert place in str(caught.value)
    assert cause in str(caught.value)
    assert caught.value.exit_code == 2


def test_missing_files(tmp_path: Path) -> None:
    for source in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(NotFound):
            list(read_manifests((str(source),), "default", namespace_told=False))
