"""`tranship wait`: for scripts that go on when something has happened."""

from typing import Any

import click

from tranship.cli import runs
from tranship.cli.client import Client
from tranship.cli.context import Context, namespace_option, pass_context
from tranship.cli.kinds import Kind, condition, parse_targets
from tranship.errors import Invalid, NotFound, NotReady, TimedOut
from tranship.units import parse_duration

OPPOSITES = {"Succeeded": ("Failed", "Canceled")}
"""Conditions after which waiting for the other one is in vain."""


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="KIND/NAME...")
@namespace_option
@click.option("--for", "what", required=True, metavar="condition=TYPE[=STATUS]", help="For example condition=Ready.")
@click.option("--timeout", default="30s", show_default=True, metavar="DURATION", help="For each object.")
@pass_context
def wait(context: Context, words: tuple[str, ...], namespace: str, what: str, timeout: str) -> None:
    """Wait until objects have a condition: `wait --for=condition=Ready plan/web --timeout 2m`.

    An object that is not there yet is waited for too.
    """
    try:
        seconds = parse_duration(timeout)
    except ValueError as error:
        raise Invalid(str(error), field="--timeout") from error
    word, _, rest = what.partition("=")
    type, _, status = rest.partition("=")
    if word != "condition" or not type:
        raise Invalid(f"{what!r} is not understood", field="--for", remedy="Write --for=condition=Ready.")
    for kind, name in parse_targets(words):
        if not name:
            raise Invalid("is missing", field="NAME", remedy=f"Write {kind.singular}/NAME.")
        _wait(context.client, kind, namespace, name, type, status or "True", seconds)
        click.echo(f"{kind.title(name)} condition met")


def _wait(client: Client, kind: Kind, namespace: str, name: str, type: str, status: str, seconds: float) -> None:
    last: dict[str, Any] | None = None
    for event, obj in client.watch(kind, namespace, name, seconds=seconds):
        last = None if event == "DELETED" else obj
        if last is None:
            continue
        if status.lower() == str((condition(obj, type) or {}).get("status", "")).lower() and _current(obj, type):
            return
        _give_up_early(kind, obj, type)
    if last is None:
        raise NotFound(what=kind.singular, name=name)
    if type == "Ready" and status == "True":
        raise runs.blocked(kind.singular, last)
    raise TimedOut(what=f"waiting for {type} of {kind.singular} {name}", seconds=seconds)


def _current(obj: dict[str, Any], type: str) -> bool:
    """Ready is only believed of the spec as it is now: a manifest that was just changed is still to be looked at."""
    return type != "Ready" or "observedGeneration" not in obj.get("status", {}) or runs.validated(obj)


def _give_up_early(kind: Kind, obj: dict[str, Any], type: str) -> None:
    for opposite in OPPOSITES.get(type, ()):
        found = condition(obj, opposite)
        if found is not None and found.get("status") == "True":
            text = str(found.get("message") or opposite)
            raise NotReady(f"{opposite}: {text}", what=kind.singular, name=obj["metadata"]["name"])
