"""Whether KVM is used is decided by booting something."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tranship.providers.local import acceleration, qemu
from tranship.providers.local.acceleration import Accelerator, boot_probe, choose

PROBE = Path(acceleration.__file__).with_name("bootprobe.hex")


def test_the_probe_runs_through_where_guests_run():
    assert boot_probe(qemu.program(), Accelerator("tcg", ""), deadline=30) == ""


def test_the_probe_image_is_what_its_source_says(tmp_path):
    if not (shutil.which("gcc") and shutil.which("ld")):
        pytest.skip("gcc and binutils build it")
    source = PROBE.with_name("bootprobe.S")
    subprocess.run(["gcc", "-c", "-o", "probe.o", source], cwd=tmp_path, check=True, timeout=60)
    link = ["ld", "-Ttext", "0x7c00", "--oformat", "binary", "-o", "probe.img", "probe.o"]
    subprocess.run(link, cwd=tmp_path, check=True, timeout=60)
    built = (tmp_path / "probe.img").read_bytes()
    assert built.rstrip(b"\0") == bytes.fromhex(PROBE.read_text())


def test_a_host_that_hangs_or_fails_is_told_apart(tmp_path):
    """A program in QEMU's place that stands for a hanging, and for a broken, KVM."""
    hanging, broken, pretending = (tmp_path / name for name in ("hanging", "broken", "pretending"))
    hanging.write_text("#!/bin/sh\nexec sleep 60\n")
    broken.write_text("#!/bin/sh\necho 'qemu: warning: hm' >&2\necho 'qemu: failed to set MSR' >&2\nexit 134\n")
    pretending.write_text("#!/bin/sh\nexit 33\n")
    for script in (hanging, broken, pretending):
        script.chmod(0o755)
    kvm = Accelerator("kvm", "")
    assert "did not end within" in boot_probe(str(hanging), kvm, deadline=0.3)
    assert boot_probe(str(broken), kvm) == "qemu: failed to set MSR"
    assert "code 33" in boot_probe(str(pretending), kvm)
    assert "No such file" in boot_probe(str(tmp_path / "absent"), kvm)


def test_the_choice_is_explained_and_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(acceleration, "DEVICE", Path("/dev/null"))  # accessible, and certainly no KVM to speak of
    calls = []
    real = boot_probe
    monkeypatch.setattr(acceleration, "boot_probe", lambda *args: calls.append(args) or real(*args))
    first = choose(qemu.program(), tmp_path)
    assert choose(qemu.program(), tmp_path) == first
    assert len(calls) == 1
    assert first.name == "kvm" or "KVM does not run a guest here" in first.why
    cache = tmp_path / acceleration.CACHE
    kept = json.loads(cache.read_text())
    kept["asked"]["boot"] = "an earlier one"
    cache.write_text(json.dumps(kept))
    choose(qemu.program(), tmp_path)
    assert len(calls) == 2


def test_without_the_device_there_is_nothing_to_probe(tmp_path, monkeypatch):
    monkeypatch.setattr(acceleration, "DEVICE", tmp_path / "kvm")
    assert choose(qemu.program(), tmp_path).name == "tcg"
    assert list(tmp_path.iterdir()) == []
