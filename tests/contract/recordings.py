"""Answers of real vCenter servers, recorded by the authors of pyVmomi and shipped in their source package.

    python tests/contract/recordings.py      fetches the package once from PyPI and prints what is in it

Loaded by the contract tests with runpy; the recordings are cached, never committed. The package is checked against a SHA-256.
"""

import hashlib
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

SDIST = "pyvmomi==8.0.3.0.1"
SHA256 = "db795c960159cfa3c81e6af4cf1f46618e61cf0349db1666de75df98a4f29c69"
TIMEOUT = 300


class Unavailable(Exception):
    """It cannot be had here and now; the text says why."""


class Exchange(NamedTuple):
    """cassette: name of the recording. method and target: of the request ("", "" where it is no call)."""

    cassette: str
    method: str
    target: str
    argument: str
    answer: bytes


class Loader(yaml.SafeLoader):
    """The cassettes were written by Python 2."""


Loader.add_constructor("tag:yaml.org,2002:python/unicode", lambda loader, node: loader.construct_scalar(node))


def sdist() -> Path:
    """The package in the cache. Raises Unavailable."""
    path = (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tranship" / f"pyvmomi-{SHA256[:12]}.tar.gz"
    )
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            wanted = Path(scratch, "wanted.txt")
            wanted.write_text(f"--no-binary pyvmomi\n{SDIST} --hash=sha256:{SHA256}\n")
            argv = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", scratch, "-r", str(wanted)]
            try:
                done = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT, check=False)
            except (OSError, subprocess.TimeoutExpired) as error:
                raise Unavailable(str(error)) from error
            if done.returncode:
                raise Unavailable(done.stderr[-500:])
            (fetched,) = Path(scratch).glob("*.tar.gz")
            if hashlib.sha256(fetched.read_bytes()).hexdigest() != SHA256:
                raise RuntimeError(f"{fetched.name} is not the package that is expected")
            fetched.replace(path)
    return path


def exchanges() -> Iterator[Exchange]:
    with tarfile.open(sdist()) as package:
        for member in sorted(package.getnames()):
            if re.search(r"/tests/fixtures/[^/]+\.yaml$", member):
                file = package.extractfile(member)
                assert file
                for interaction in yaml.load(file.read(), Loader=Loader).get("interactions", ()):
                    yield _exchange(Path(member).stem, interaction)


def _exchange(cassette: str, interaction: dict[str, Any]) -> Exchange:
    asked = str(interaction["request"].get("body") or "")
    body = interaction["response"]["body"]
    body = body["string"] if isinstance(body, dict) else body
    call = re.search(r"<(\w+) xmlns=\"urn:vim25\">.*?<_this[^>]*>([^<]+)<", asked, re.DOTALL)
    prop = re.search(r"<prop[^>]*>([^<]+)<", asked)
    method, target = call.groups() if call else ("", "")
    return Exchange(cassette, method, target, prop[1] if prop else "", body.encode() if isinstance(body, str) else body)


if __name__ == "__main__":
    from collections import Counter

    try:
        for (recorded, called), count in Counter((e.cassette, e.method) for e in exchanges()).items():
            print(count, recorded, called)
    except Unavailable as reason:
        sys.exit(str(reason))
