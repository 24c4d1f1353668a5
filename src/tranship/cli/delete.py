"""`tranship delete`: objects by name or by manifest, waited for until they are gone."""

import time

import click

from tranship.cli.client import Client
from tranship.cli.context import Context, namespace_option, pass_context
from tranship.cli.kinds import Kind, parse_targets
from tranship.cli.manifests import read_manifests
from tranship.cli.output import complain
from tranship.errors import Invalid, NotFound, TimedOut
from tranship.units import parse_duration


@click.command()
@click.argument("words", nargs=-1, metavar="[KIND NAME...]")
@click.option("-f", "--filename", "sources", multiple=True, metavar="FILE|DIR|-", help="Delete what a manifest names.")
@namespace_option
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until they are gone.")
@click.option("--timeout", default="5m", show_default=True, metavar="DURATION", help="How long to wait.")
@click.option("--ignore-not-found", is_flag=True, help="Be content if it is gone already.")
@pass_context
@click.pass_context
def delete(
    ctx: click.Context,
    context: Context,
    words: tuple[str, ...],
    sources: tuple[str, ...],
    namespace: str,
    wait: bool,
    timeout: str,
    ignore_not_found: bool,
) -> int:
    """Delete objects: `delete plan web`, `delete plan/web secret/vcenter`, `delete -f FILE`.

    A Migration that is deleted while it runs is cancelled first: its source VMs come back and our snapshots go.
    """
    worst = 0
    seconds = _seconds(timeout)
    for kind, place, name in _targets(ctx, words, sources, namespace):
        try:
            left = context.client.delete(kind, place, name)
        except NotFound as error:
            if not ignore_not_found:
                complain(error)
                worst = max(worst, error.exit_code)
            continue
        if wait and left.get("kind") != "Status":
            _wait_gone(context.client, kind, place, name, seconds)
        click.echo(f"{kind.title(name)} deleted")
    return worst


def _seconds(timeout: str) -> float:
    try:
        return parse_duration(timeout)
    except ValueError as error:
        raise Invalid(str(error), field="--timeout") from error


def _targets(
    ctx: click.Context, words: tuple[str, ...], sources: tuple[str, ...], namespace: str
) -> list[tuple[Kind, str, str]]:
    if bool(words) == bool(sources):
        raise Invalid("name objects, or give -f FILE", field="delete")
    if words:
        targets = parse_targets(words)
        if not all(name for _, name in targets):
            raise Invalid("is missing: delete does not delete all of a kind", field="NAME")
        return [(kind, namespace, name) for kind, name in targets]
    told = ctx.get_parameter_source("namespace") is click.core.ParameterSource.COMMANDLINE
    manifests = read_manifests(sources, namespace, namespace_told=told)
    return [(manifest.kind, manifest.namespace, manifest.name) for manifest in manifests][::-1]


def _wait_gone(client: Client, kind: Kind, namespace: str, name: str, seconds: float) -> None:
    """A new object of the same name is not the one that was deleted."""
    end, uid = time.monotonic() + seconds, None
    while time.monotonic() < end:
        try:
            obj = client.get(kind, namespace, name)
        except NotFound:
            return
        uid = uid or obj["metadata"].get("uid")
        if obj["metadata"].get("uid") != uid:
            return
        # In short turns: what goes between the look and the watch would not be told.
        for type, _ in client.watch(kind, namespace, name, seconds=min(2.0, end - time.monotonic())):
            if type == "DELETED":
                return
    remedy = f"Something still holds it: tranship describe {kind.singular} {name}."
    raise TimedOut(what=f"deleting {kind.singular} {name}", seconds=seconds, remedy=remedy)
