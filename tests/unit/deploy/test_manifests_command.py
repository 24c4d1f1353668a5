"""What installs the controllers: one set of files, whichever way it is taken."""

import os
import runpy
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

import tranship.resources  # noqa: F401  (makes the kinds known)
from tranship import __version__
from tranship.cli.main import root
from tranship.providers.kubevirt.access import NEEDED
from tranship.resources.crds import all_crds

ROOT = Path(__file__).parents[3]
FILES = ROOT / "src" / "tranship" / "deploy"
Object = dict[str, Any]


def printed(*arguments: str) -> list[Object]:
    done = CliRunner().invoke(root, ["manifests", *arguments])
    assert done.exit_code == 0, done.output
    return list(yaml.safe_load_all(done.output))


def by_name(objects: Iterable[Object]) -> dict[tuple[str, str, str], Object]:
    found = {(one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]): one for one in objects}
    assert found
    return found


def kustomized(folder: Path) -> list[Object]:
    argv = [str(Path(sys.executable).with_name("kubectl")), "kustomize", str(folder)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def deployment(objects: Iterable[Object]) -> Object:
    (found,) = [one for one in objects if one["kind"] == "Deployment"]
    return found


def environment(objects: Iterable[Object]) -> dict[str, str]:
    (container,) = deployment(objects)["spec"]["template"]["spec"]["containers"]
    return {one["name"]: one["value"] for one in container["env"]}


@pytest.mark.parametrize("platform", ["kubernetes", "openshift"])
def test_as_kustomize_makes_it(platform: str) -> None:
    assert by_name(printed("--platform", platform)) == by_name(kustomized(ROOT / "deploy" / "overlays" / platform))


@pytest.mark.parametrize("platform", ["kubernetes", "openshift"])
def test_as_kustomize_makes_it_with_another_image_and_namespace(platform: str, tmp_path: Path) -> None:
    """An overlay as an administrator writes one; kustomize wants relative paths."""
    overlay = yaml.safe_load((FILES / "overlays" / platform / "kustomization.yaml").read_text())
    base = FILES / "overlays" / platform
    overlay["resources"] = [os.path.relpath(base, tmp_path)]
    overlay["namespace"] = "moving"
    overlay["images"] = [{"name": "tranship", "newName": "registry.example.com:5000/vm/tranship", "newTag": "7"}]
    overlay["replicas"] = [{"name": "tranship", "count": 3}]
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    image = "registry.example.com:5000/vm/tranship:7"
    ours = printed("--platform", platform, "--namespace", "moving", "--image", image, "--replicas", "3")
    assert environment(ours)["TRANSHIP_IMAGE"] == image
    assert by_name(ours) == by_name(kustomized(tmp_path))


def test_the_interval_of_precopies() -> None:
    assert environment(printed())["PRECOPY_INTERVAL"] == "60"
    assert environment(printed("--precopy-interval", "15"))["PRECOPY_INTERVAL"] == "15"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--namespace", "Not_A_Name"], "--namespace"),
        (["--image", "two words"], "--image"),
        (["--image", ""], "--image"),
        (["--platform", "vanilla"], "--platform"),
        (["--replicas", "0"], "--replicas"),
        (["--precopy-interval", "0"], "--precopy-interval"),
    ],
)
def test_what_cannot_be_is_refused_by_name(arguments: list[str], named: str) -> None:
    done = CliRunner().invoke(root, ["manifests", *arguments])
    assert done.exit_code == 2
    assert named in done.output


def test_namespace_and_definitions_come_before_what_needs_them() -> None:
    kinds = [one["kind"] for one in printed()]
    assert kinds[0] == "Namespace"
    assert kinds.index("ServiceAccount") > max(
        at for at, kind in enumerate(kinds) if kind == "CustomResourceDefinition"
    )
    assert kinds[-3:] == ["Deployment", "Service", "PodDisruptionBudget"]


def test_the_definitions_are_those_of_the_models() -> None:
    on_disk = list(yaml.safe_load_all((FILES / "base" / "crds.yaml").read_text()))
    assert on_disk == all_crds(), "run `make manifests`"


def test_every_file_is_used() -> None:
    named = set()
    for place in FILES.rglob("kustomization.yaml"):
        named |= {place}
        named |= {(place.parent / one).resolve() for one in yaml.safe_load(place.read_text())["resources"]}
    assert {path for path in FILES.rglob("*") if path.is_file()} <= named


def test_the_image_is_this_version() -> None:
    assert environment(printed())["TRANSHIP_IMAGE"] == f"tranship:{__version__}"


# --- rights ------------------------------------------------------------------------------------------------------------


def granted(role: Object) -> set[tuple[str, str, str]]:
    """(group, resource, verb), each once."""
    found = [
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    ]
    assert len(found) == len(set(found))
    return set(found)


def test_a_target_needs_what_is_granted_and_no_more() -> None:
    role = by_name(printed())["ClusterRole", "", "tranship-target"]
    needed = {
        (kind.group, kind.plural + (f"/{part}" if part else ""), verb) for kind, part, verbs in NEEDED for verb in verbs
    }
    assert granted(role) == needed


def test_no_right_is_a_wildcard_or_leads_to_others() -> None:
    for obj in printed("--platform", "openshift"):
        for group, resource, verb in granted(obj) if "rules" in obj else ():
            assert "*" not in (group, resource, verb), obj["metadata"]["name"]
            assert verb not in ("bind", "escalate", "impersonate")
            assert group != "rbac.authorization.k8s.io"
            assert resource not in ("pods/exec", "nodes", "serviceaccounts/token")


# --- ways to the files -------------------------------------------------------------------------------------------------


def test_from_a_wheel(tmp_path: Path) -> None:
    """Built from this checkout; what it prints comes from itself."""
    argv = [str(Path(sys.executable).with_name("hatchling")), "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "in")
    argv = [sys.executable, "-c", "from tranship.cli.main import main; main()", "manifests"]
    told = {**os.environ, "PYTHONPATH": str(tmp_path / "in")}
    done = subprocess.run(argv, cwd=tmp_path, env=told, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert list(yaml.safe_load_all(done.stdout)) == printed()


def test_the_image_holds_the_files() -> None:
    image = runpy.run_path(str(ROOT / "scripts" / "image"))
    inside = {name for name, _ in image["contents"]()}
    files = {f"opt/tranship/tranship/deploy/{path.relative_to(FILES)}" for path in FILES.rglob("*.yaml")}
    assert files <= inside


def test_the_containerfiles_image_runs_as_the_other_does() -> None:
    image = runpy.run_path(str(ROOT / "scripts" / "image"))
    lines = (ROOT / "Containerfile").read_text().splitlines()
    assert f"USER {image['USER']}:{image['USER']}" in lines
    assert 'ENTRYPOINT ["tranship"]' in lines
    told = dict(one.split("=", 1) for line in lines if line.startswith("ENV ") for one in line.split()[1:])
    for name in ("HOME", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"):
        assert told[name] == image["ENVIRONMENT"][name]
