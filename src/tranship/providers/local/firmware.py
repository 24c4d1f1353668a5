"""Which UEFI firmware a machine boots with: found by QEMU's own firmware descriptors, as libvirt finds it.

Distributions describe the OVMF builds that they install in JSON files below /usr/share/qemu/firmware (Debian: package
ovmf; Fedora: edk2-ovmf); the administrator's own in /etc/qemu/firmware win by file name. Used by target.py.
"""

import fnmatch
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tranship.errors import Side, ToolMissing

DIRECTORIES = tuple(
    Path(path) for path in ("/etc/qemu/firmware", "/usr/local/share/qemu/firmware", "/usr/share/qemu/firmware")
)
MACHINE = "pc-q35-7.2"  # any version fits the descriptors' patterns (pc-q35-*)


@dataclass(frozen=True, slots=True)
class Firmware:
    """code is shared and read-only; variables is the template of which each machine gets its own copy."""

    code: Path
    code_format: str
    variables: Path
    variables_format: str
    secure: bool = False


def find_firmware(secure: bool, directories: Sequence[Path] = DIRECTORIES) -> Firmware:
    """secure: Secure Boot with the vendors' keys enrolled. Raises ToolMissing."""
    descriptors: dict[str, Path] = {}
    for directory in directories:
        for path in directory.glob("*.json"):
            descriptors.setdefault(path.name, path)
    for name in sorted(descriptors):
        try:
            found = _fitting(json.loads(descriptors[name].read_text()), secure)
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a descriptor that we cannot read is one that we cannot use
        if found is not None and found.code.is_file() and found.variables.is_file():
            return found
    kind = "UEFI firmware with Secure Boot keys" if secure else "UEFI firmware"
    raise ToolMissing(
        f"no {kind} for a q35 machine is described in {', '.join(map(str, directories))}",
        tool="OVMF",
        side=Side.TARGET,
        remedy="Install the package ovmf (Debian, Ubuntu) or edk2-ovmf (Fedora, RHEL).",
    )


def _fitting(descriptor: dict[str, Any], secure: bool) -> Firmware | None:
    mapping = descriptor["mapping"]
    features = set(descriptor["features"])
    if "uefi" not in descriptor["interface-types"] or mapping["device"] != "flash" or "nvram-template" not in mapping:
        return None
    targets = (target for target in descriptor["targets"] if target["architecture"] == "x86_64")
    if not any(fnmatch.fnmatch(MACHINE, machine) for target in targets for machine in target["machines"]):
        return None
    if secure != ("secure-boot" in features) or secure != ("enrolled-keys" in features):
        return None
    if not secure and "requires-smm" in features:
        return None
    code, variables = mapping["executable"], mapping["nvram-template"]
    return Firmware(Path(code["filename"]), code["format"], Path(variables["filename"]), variables["format"], secure)
