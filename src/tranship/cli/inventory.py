"""`tranship get inventory`: what a provider has, as its controllers see it. Called by get."""

from typing import Any

import click

from tranship.cli import output
from tranship.cli.client import Client
from tranship.cli.kinds import PROVIDER, dig
from tranship.errors import Invalid, NotReady
from tranship.units import format_bytes

Object = dict[str, Any]

COLLECTIONS = {"vm": "vms", "host": "hosts", "network": "networks", "datastore": "datastores"}
OF_CLUSTERS = {
    "namespace": "namespaces",
    "storageclass": "storageclasses",
    "networkattachmentdefinition": "networkattachmentdefinitions",
    "instancetype": "instancetypes",
    "clusterinstancetype": "clusterinstancetypes",
}
SHORT = {"sc": "storageclasses", "ns": "namespaces", "nad": "networkattachmentdefinitions"}
_SIZES = ("capacity", "free", "memory")
_HIDDEN = ("id", "name", "selfLink", "revision", "uid")


def print_inventory(client: Client, words: tuple[str, ...], namespace: str, provider: str | None, format: str) -> None:
    """words: the collection (vms, vm, networks, ...) and, if wanted, the id or name of one item."""
    if not 1 <= len(words) <= 2 or not provider:
        remedy = "Write: tranship get inventory vms --provider NAME."
        raise Invalid("needs what to list and --provider", field="inventory", remedy=remedy)
    known = COLLECTIONS | OF_CLUSTERS
    collection = (known | SHORT).get(words[0].lower(), words[0].lower())
    if collection not in known.values():
        raise Invalid(f"{words[0]!r} is nothing to list", field="inventory", remedy=f"Use one of {', '.join(known)}.")
    found = client.get(PROVIDER, namespace, provider)
    path = f"/providers/{dig(found, 'spec.type')}/{dig(found, 'metadata.uid')}/{collection}"
    items = client.read(path)
    if not isinstance(items, list):  # a Status with code 206: not loaded yet
        remedy = f"Wait a moment, or see tranship describe provider {provider}."
        raise NotReady("its inventory is not loaded yet", what="provider", name=provider, remedy=remedy)
    if len(words) == 2:
        items = [item for item in items if words[1] in (item.get("id"), item.get("name"))]
        if not items:
            raise Invalid(
                f"{words[1]!r} is not there", field=collection, remedy=f"List them: get inventory {collection}."
            )
    if format == "json":
        click.echo(output.json_text(items))
    elif format == "yaml":
        click.echo(output.yaml_text(items))
    elif format == "name":
        click.echo("\n".join(str(item.get("name")) for item in items))
    else:
        click.echo(output.columns(_vm_table(items) if collection == "vms" else _table(items)))


def _vm_table(items: list[Object]) -> list[list[str]]:
    rows = [["ID", "NAME", "POWER", "CPUS", "MEMORY", "DISKS", "CAPACITY", "CONCERNS"]]
    for item in items:
        disks = item.get("disks") or []
        concerns = [str(one.get("label") or one.get("id")) for one in item.get("concerns") or []]
        rows.append(
            [
                str(item.get("id", "")),
                str(item.get("name", "")),
                str(item.get("power", "")),
                str(item.get("cpus", "")),
                format_bytes(item.get("memory") or 0),
                str(len(disks)),
                format_bytes(sum(int(disk.get("capacity") or 0) for disk in disks)),
                ", ".join(concerns),
            ]
        )
    return rows


def _table(items: list[Object]) -> list[list[str]]:
    """Id and name, then whatever plain values the items have, and that say more than the id."""
    plain = {key for item in items for key, value in item.items() if not isinstance(value, dict)}
    rest = sorted(
        key
        for key in plain
        if key not in _HIDDEN and any(item.get(key) not in (None, "", item.get("id")) for item in items)
    )
    return [
        ["ID", "NAME", *(key.upper() for key in rest)],
        *([_cell(key, item.get(key)) for key in ("id", "name", *rest)] for item in items),
    ]


def _cell(key: str, value: Any) -> str:
    if key in _SIZES and isinstance(value, int):
        return format_bytes(value)
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
