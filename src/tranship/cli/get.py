"""`tranship get`: objects in columns, JSON, YAML or as names; once or followed."""

from collections.abc import Sequence
from typing import Any

import click

from tranship.cli import output
from tranship.cli.client import Client
from tranship.cli.context import Context, namespace_option, pass_context
from tranship.cli.inventory import print_inventory
from tranship.cli.kinds import Kind, parse_targets
from tranship.errors import Invalid

Object = dict[str, Any]


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="KIND [NAME]...")
@namespace_option
@click.option("-A", "--all-namespaces", is_flag=True, help="Over all namespaces.")
@click.option("-o", "--output", "format", type=click.Choice(output.FORMATS), default="table", show_default=True)
@click.option("-w", "--watch", is_flag=True, help="Go on and print every change.")
@click.option("--provider", metavar="NAME", help="With `get inventory`: whose.")
@pass_context
def get(
    context: Context,
    words: tuple[str, ...],
    namespace: str,
    all_namespaces: bool,
    format: str,
    watch: bool,
    provider: str | None,
) -> None:
    """List objects: `get plans`, `get plan web`, `get plan/web provider/vcenter`.

    KIND is secret, provider, networkmap, storagemap, plan, migration, hook, host, forkliftcontroller or conversion.
    `get inventory vms --provider NAME` lists what a provider has: vms, hosts, networks, datastores.
    """
    if words[0] == "inventory":
        print_inventory(context.client, words[1:], namespace, provider, format)
        return
    if provider:
        raise Invalid("goes with `get inventory` only", field="--provider")
    targets = parse_targets(words)
    place = None if all_namespaces else namespace
    if all_namespaces and any(name for _, name in targets):
        raise Invalid("cannot be asked for over all namespaces", field="NAME", remedy="Say -n NAMESPACE.")
    if watch:
        if len(targets) > 1:
            raise Invalid("only one object or one kind can be watched", field="--watch")
        kind, name = targets[0]
        _watch(context.client, kind, place, name, format)
        return
    for group in _groups(targets):
        _print(context.client, group, place, format)


def _groups(targets: Sequence[tuple[Kind, str]]) -> list[tuple[Kind, list[str]]]:
    groups: list[tuple[Kind, list[str]]] = []
    for kind, name in targets:
        if groups and groups[-1][0] is kind:
            groups[-1][1].append(name)
        else:
            groups.append((kind, [name]))
    return groups


def _print(client: Client, group: tuple[Kind, list[str]], namespace: str | None, format: str) -> None:
    kind, names = group
    single = names != [""] and len(names) == 1
    items: list[Object]
    if names == [""]:
        items = client.list(kind, namespace)["items"]
    else:
        assert namespace is not None
        items = [client.get(kind, namespace, name) for name in names]
    if format in ("json", "yaml"):
        whole = items[0] if single else {"apiVersion": "v1", "kind": "List", "items": items}
        click.echo(output.json_text(whole) if format == "json" else output.yaml_text(whole))
    elif format == "name":
        for item in items:
            click.echo(kind.title(item["metadata"]["name"]))
    elif not items:
        place = f"in namespace {namespace}" if namespace is not None else "in any namespace"
        click.echo(f"There are no {kind.plural} {place}.", err=True)
    else:
        shape = {"wide": format == "wide", "namespaced": namespace is None}
        rows = [output.object_row(kind, item, now=client.now(), **shape) for item in items]
        click.echo(output.columns([output.header(kind, **shape), *rows]))


def _watch(client: Client, kind: Kind, namespace: str | None, name: str, format: str) -> None:
    """One object after the other, as it changes; columns are as wide as the first row needs, or wider."""
    shape = {"wide": format == "wide", "namespaced": namespace is None}
    widths = [len(cell) for cell in output.header(kind, **shape)]
    headed = False
    for type, obj in client.watch(kind, namespace, name):
        if format == "json":
            click.echo(output.json_text(obj))
        elif format == "yaml":
            click.echo("---\n" + output.yaml_text(obj))
        elif format == "name":
            click.echo(kind.title(obj["metadata"]["name"]) + (" deleted" if type == "DELETED" else ""))
        else:
            row = output.object_row(kind, obj, now=client.now(), **shape)
            if not headed:
                widths = [max(width, len(cell)) for width, cell in zip(widths, row, strict=True)]
                click.echo(_line(output.header(kind, **shape), widths))
                headed = True
            click.echo(_line(row, widths) + ("   (deleted)" if type == "DELETED" else ""))


def _line(cells: list[str], widths: list[int]) -> str:
    return "   ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
