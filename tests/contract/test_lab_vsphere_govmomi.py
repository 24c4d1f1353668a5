"""The Go client govmomi against the simulated vCenter: it forgives other mistakes than pyVmomi does."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from urllib.parse import quote

import pytest

from tranship.lab.vsphere import VCenter

SOURCE = Path(__file__).with_name("govmomi_client")


@pytest.fixture(scope="module")
def program() -> Path:
    """Built once per version of its source; the first build compiles the library for a minute or two."""
    if shutil.which("go") is None:
        if os.environ.get("CI"):
            pytest.fail("go is not installed")
        pytest.skip("go is not installed")
    digest = hashlib.sha256(b"".join((SOURCE / name).read_bytes() for name in ("main.go", "go.mod", "go.sum")))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tranship"
    target = cache / f"govmomi-client-{digest.hexdigest()[:16]}"
    if not target.exists():
        cache.mkdir(parents=True, exist_ok=True)
        draft = target.with_suffix(f".{os.getpid()}")
        argv = ["go", "build", "-p", "1", "-mod=readonly", "-o", str(draft), "."]
        subprocess.run(argv, cwd=SOURCE, check=True, timeout=900, env=os.environ | {"CGO_ENABLED": "0"})
        draft.rename(target)
    return target


def test_govmomi_reads_and_works(program: Path, tmp_path: Path) -> None:
    with VCenter(tmp_path / "vcenter") as center:
        vm = center.add_vm("go", [b"x" * (1 << 20)], cbt=True, networks=["VM Network", "DPortGroup"])
        center.add_vm("idle", [1 << 20], running=True)
        address = center.url.replace("https://", f"https://{quote(center.user)}:{quote(center.password)}@")
        ca = tmp_path / "ca.pem"
        ca.write_text(center.ca_pem)
        done = subprocess.run(
            [program],
            env={"URL": address, "CA": str(ca), "VM": "go", "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.stderr == "" and done.returncode == 0
        assert done.stdout.splitlines() == [
            "vm go poweredOff HostSystem true",
            "vm idle poweredOn HostSystem true",
            "power poweredOn",
            f"disk 2000 changeId true areas 1 {1 << 20}",
            "export KDMV",
            "snapshot removed",
            "twice true",
            "power poweredOff",
            "done",
        ]
        assert vm.power_causes() == ["on", "hard-off"] and vm.snapshots == [] and not center.sessions.live
