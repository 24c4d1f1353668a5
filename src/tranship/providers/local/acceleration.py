"""Whether machines run by KVM or by emulation (TCG) on this host. Called by target.py before a machine starts.

/dev/kvm proves nothing: there are hosts whose KVM interprets each instruction in software, runs a few real-mode ones and
hangs or stops at the first SSE instruction. So a small program of our own (bootprobe.S) is booted, with the very
processor model that machines get; it does what every operating system does while it starts, and has a few seconds for
what takes 0.1 s. Anything but its clean end means TCG. The answer is kept in a file until the host boots anew or QEMU is
another one.
"""

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tranship.providers.local.home import file_errors, write_whole

DEADLINE = 5.0
CACHE = ".acceleration.json"
DISK_SIZE = 1 << 20  # the BIOS reads by cylinder: a disk smaller than one is unreadable to it
GREETING = b"guest works"
EXIT_CODE = 33  # isa-debug-exit: the 0x10 that the program sends, doubled, plus one
DEVICE = Path("/dev/kvm")


@dataclass(frozen=True, slots=True)
class Accelerator:
    """name: kvm or tcg. why: for the user, who should know that an emulated machine is slow."""

    name: str
    why: str

    def arguments(self) -> list[str]:
        # la57=off: firmware and boot loaders of some years ago do not start on a processor with 5-level paging
        return ["-accel", self.name, "-cpu", "host" if self.name == "kvm" else "max,la57=off"]


def choose(program: str, directory: Path) -> Accelerator:
    """The accelerator for this host. directory: where the answer is kept."""
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return Accelerator("tcg", f"{DEVICE} is not there or not accessible")
    asked = {"boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(), "qemu": _identity(program)}
    cache = directory / CACHE
    try:
        known = json.loads(cache.read_text())
        if known["asked"] == asked:
            return Accelerator(known["name"], known["why"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    trouble = boot_probe(program, Accelerator("kvm", ""))
    found = Accelerator("tcg", f"KVM does not run a guest here: {trouble}") if trouble else Accelerator("kvm", "")
    with file_errors(f"write {cache}"):
        write_whole(cache, json.dumps({"asked": asked, "name": found.name, "why": found.why}).encode())
    return found


def _identity(program: str) -> str:
    """The QEMU binary as it is now: an upgrade asks again."""
    path = Path(program).resolve()
    stat = path.stat()
    return f"{path} {stat.st_size} {stat.st_mtime_ns}"


def boot_probe(program: str, accelerator: Accelerator, deadline: float = DEADLINE) -> str:
    """Boot the probe. "" = it ran through; else what happened instead."""
    with tempfile.TemporaryDirectory(prefix="tranship-probe-") as directory:
        image = Path(directory, "disk.raw")
        code = bytes.fromhex(Path(__file__).with_name("bootprobe.hex").read_text())
        image.write_bytes(code.ljust(DISK_SIZE, b"\0"))
        argv = [program, *accelerator.arguments(), "-machine", "q35", "-m", "64", "-no-reboot"]
        argv += ["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-monitor", "none"]
        argv += ["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
        argv += [
            "-drive",
            "file=disk.raw,format=raw,if=none,id=disk,readonly=on",
            "-device",
            "virtio-blk-pci,drive=disk",
        ]
        try:
            done = subprocess.run(
                argv, cwd=directory, stdin=subprocess.DEVNULL, capture_output=True, timeout=deadline, check=False
            )
        except subprocess.TimeoutExpired as expired:
            return _first_line(expired.stderr) or f"a boot program did not end within {deadline:.0f} s"
        except OSError as error:
            return str(error)
    if done.returncode == EXIT_CODE and GREETING in done.stdout:
        return ""
    return _first_line(done.stderr) or f"QEMU ended with code {done.returncode}"


def _first_line(output: bytes | None) -> str:
    """QEMU's complaint, without its warnings."""
    lines = (output or b"").decode(errors="replace").splitlines()
    return next((line[:200] for line in lines if line.strip() and "warning:" not in line), "")
