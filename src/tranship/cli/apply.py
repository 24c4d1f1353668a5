"""`tranship apply`: make the objects be what the manifests say, as kubectl apply would.

A field that an earlier apply set and that the manifest no longer has is removed; fields that others set are left alone.
For that the last manifest is kept in an annotation, kubectl's own, so that both tools may be used in turn. A Secret's
values are not repeated there, only its keys.
"""

import json
from typing import Any

import click

from tranship.cli.client import Client
from tranship.cli.context import Context, namespace_option, pass_context
from tranship.cli.manifests import Manifest, read_manifests
from tranship.cli.output import complain
from tranship.errors import NotFound, TranshipError

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
Object = dict[str, Any]


@click.command()
@click.option(
    "-f", "--filename", "sources", multiple=True, required=True, metavar="FILE|DIR|-", help="May be repeated."
)
@namespace_option
@pass_context
@click.pass_context
def apply(ctx: click.Context, context: Context, sources: tuple[str, ...], namespace: str) -> int:
    """Create or change objects from manifests (YAML or JSON, several documents to a file).

    All objects are tried; if one is refused the others are still applied and the exit code is 1 or 2.
    """
    told = ctx.get_parameter_source("namespace") is click.core.ParameterSource.COMMANDLINE
    worst = 0
    # Everything is read first: a file with a slip in it should change nothing.
    for manifest in list(read_manifests(sources, namespace, namespace_told=told)):
        try:
            done = apply_one(context.client, manifest)
        except TranshipError as error:
            if error.temporary:
                raise
            complain(error, about=manifest.kind.title(manifest.name))
            worst = max(worst, error.exit_code)
        else:
            click.echo(f"{manifest.kind.title(manifest.name)} {done}")
    return worst


def apply_one(client: Client, manifest: Manifest) -> str:
    """What happened: created, configured or unchanged."""
    kind, namespace, name = manifest.kind, manifest.namespace, manifest.name
    wish = _with_last_applied(manifest)
    try:
        live = client.get(kind, namespace, name)
    except NotFound:
        client.create(kind, namespace, wish)
        return "created"
    patch = three_way(_last_applied(live), wish, live)
    if not patch:
        return "unchanged"
    client.patch(kind, namespace, name, patch)
    return "configured"


def three_way(last: Object, wish: Object, live: Object) -> Object:
    """The merge patch that takes live to the wish and removes what was wished last time and no longer is."""
    patch: Object = {key: None for key in last if key not in wish and key in live}
    for key, value in wish.items():
        now = live.get(key)
        if isinstance(value, dict) and isinstance(now, dict):
            before = last.get(key)
            if deeper := three_way(before if isinstance(before, dict) else {}, value, now):
                patch[key] = deeper
        elif key not in live or now != value:
            patch[key] = value
    return patch


def _with_last_applied(manifest: Manifest) -> Object:
    remembered = manifest.body
    if manifest.kind.kind == "Secret":
        remembered = {**remembered, "data": dict.fromkeys(remembered.get("data", {}), "")}
    meta = manifest.body["metadata"]
    annotations = dict(meta.get("annotations") or {})
    annotations.pop(LAST_APPLIED, None)
    remembered = {**remembered, "metadata": {**meta, "annotations": annotations}}
    annotations = {**annotations, LAST_APPLIED: json.dumps(remembered, sort_keys=True, separators=(",", ":")) + "\n"}
    return {**manifest.body, "metadata": {**meta, "annotations": annotations}}


def _last_applied(live: Object) -> Object:
    """{} for an object that nobody applied: then nothing is removed."""
    try:
        last = json.loads((live["metadata"].get("annotations") or {})[LAST_APPLIED])
    except (KeyError, ValueError):
        return {}
    return last if isinstance(last, dict) else {}
