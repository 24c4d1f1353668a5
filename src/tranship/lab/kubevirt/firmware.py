"""The UEFI firmware that a machine boots with, found by the descriptors that distributions install for QEMU."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from tranship.errors import ToolMissing

DIRECTORIES = (Path("/etc/qemu/firmware"), Path("/usr/share/qemu/firmware"))


class Firmware(NamedTuple):
    """code: read by all. variables: the template of a machine's own."""

    code: Path
    variables: Path
    format: str


def find(secure: bool) -> Firmware:
    """secure: with Secure Boot and its usual keys, in system management mode. Raises ToolMissing."""
    for path in sorted((one for folder in DIRECTORIES for one in folder.glob("*.json")), key=lambda path: path.name):
        described = json.loads(path.read_text())
        mapping = described["mapping"]
        if _fits(described, secure) and mapping.get("device") == "flash" and "nvram-template" in mapping:
            code, variables = mapping["executable"], mapping["nvram-template"]
            return Firmware(Path(code["filename"]), Path(variables["filename"]), code["format"])
    raise ToolMissing(f"no firmware {'with' if secure else 'without'} Secure Boot is described there", tool="OVMF")


def _fits(described: dict[str, Any], secure: bool) -> bool:
    features = described["features"]
    machines = [one for target in described["targets"] for one in target["machines"]]
    if "uefi" not in described["interface-types"] or not any(one.startswith("pc-q35") for one in machines):
        return False
    if secure:
        return "secure-boot" in features and "enrolled-keys" in features
    return "secure-boot" not in features and "requires-smm" not in features
