"""The house itself: locks fit pyproject and name no index, the README's manifests are valid, help costs nothing."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import tranship.resources  # noqa: F401  (makes the kinds known)
from tranship.cli.main import COMMANDS
from tranship.resources.meta import parse

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = {name: (ROOT / "requirements" / f"{name}.txt").read_text() for name in ("run", "dev", "build", "go")}


def _wanted(lock: str) -> list[str]:
    groups = PROJECT["dependency-groups"]
    named = {"run": [], "dev": [*groups["build"], *groups["dev"]], "build": groups["build"], "go": groups["go"]}[lock]
    own = PROJECT["project"]["dependencies"] if lock in ("run", "dev") else []
    return [*own, *(one for one in named if isinstance(one, str))]


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_hold_what_pyproject_wants(lock: str) -> None:
    pinned = dict(re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", LOCKS[lock], re.MULTILINE))
    pinned = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pinned.items()}
    for requirement in map(Requirement, _wanted(lock)):
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        assert name in pinned, f"run `make lock`: {requirement} is not in requirements/{lock}.txt"
        assert requirement.specifier.contains(pinned[name]), (
            f"run `make lock`: {name} {pinned[name]} is no {requirement}"
        )


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_are_hashed_and_name_no_index(lock: str) -> None:
    assert "://" not in LOCKS[lock]
    entries = re.split(r"^(?=\S)", LOCKS[lock], flags=re.MULTILINE)[1:]
    assert entries
    for entry in entries:
        assert "--hash=sha256:" in entry, entry.splitlines()[0]


def test_the_readmes_manifests_are_valid() -> None:
    texts = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    kinds = [[parse(document).kind for document in yaml.safe_load_all(text)] for text in texts]
    assert kinds == [["Secret", "Provider", "Provider", "NetworkMap", "StorageMap", "Plan"], ["Provider"], ["Host"]]


def test_the_readme_names_only_commands_that_exist() -> None:
    named = set(re.findall(r"^ {4}tranship (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert named
    assert named <= COMMANDS.keys()


def test_help_imports_nothing_slow() -> None:
    """The start-up budget is 0.15 s; what breaks it is an import, and an import can be seen without a clock."""
    code = (
        "import sys; from tranship.cli.main import root; root(['--help'], standalone_mode=False); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert not loaded & {"httpx2", "yaml", "rich", "pydantic", "asyncio", "starlette", "pyVmomi", "tranship.lab"}
