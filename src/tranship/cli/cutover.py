"""`tranship cutover`: when warm VMs are shut down and moved for good."""

from typing import Any

import click

from tranship.cli import runs
from tranship.cli.client import Client
from tranship.cli.context import Context, namespace_option, pass_context
from tranship.cli.kinds import MIGRATION, dig, plan_name
from tranship.errors import Conflict, Invalid

TRIES = 5


@click.command()
@click.argument("plan")
@namespace_option
@click.option("--at", metavar="TIME", help="A duration from now (30m) or 2026-01-31T23:00:00Z; the past means now.")
@click.option("--now", is_flag=True, help="At once; this is the default.")
@click.option("--vm", "vms", multiple=True, metavar="VM", help="Only this VM (id or name); may be repeated.")
@click.option("--clear", is_flag=True, help="Take the time back: precopies go on.")
@pass_context
def cutover(
    context: Context, plan: str, namespace: str, at: str | None, now: bool, vms: tuple[str, ...], clear: bool
) -> None:
    """Set the cutover of PLAN's running migration, for all of its VMs or for some.

    A VM's own time wins over that of all. Once the cutover of a VM has begun it cannot be taken back; cancel it instead.
    """
    if (at is not None) + now + clear > 1:
        raise Invalid("exclude each other", field="--at, --now and --clear")
    client, name = context.client, plan_name(plan)
    when = None if clear else runs.parse_when(at or "now", client.now(), "--at")
    migration = runs.active(client, namespace, name)
    if when is not None and at is None:
        when = runs.parse_when("now", client.now(), "--now")  # by the server's clock, which the call above has told
    _set(client, migration, when, vms)
    of = f" of {', '.join(vms)}" if vms else ""
    click.echo(f"{MIGRATION.title(migration['metadata']['name'])} cutover{of} {f'at {when}' if when else 'cleared'}")


def _set(client: Client, migration: dict[str, Any], when: str | None, vms: tuple[str, ...]) -> None:
    """Lists are patched whole, so the version that was read goes along and a change by others is not lost."""
    meta = migration["metadata"]
    for left in reversed(range(TRIES)):
        try:
            patch = {"metadata": {"resourceVersion": migration["metadata"]["resourceVersion"]}}
            spec = _spec(client, migration, when, vms)
            client.patch(MIGRATION, meta["namespace"], meta["name"], {**patch, "spec": spec})
            return
        except Conflict:
            if left == 0:
                raise
            migration = client.get(MIGRATION, meta["namespace"], meta["name"])


def _spec(client: Client, migration: dict[str, Any], when: str | None, vms: tuple[str, ...]) -> dict[str, Any]:
    own = {entry["id"]: entry for entry in dig(migration, "spec.vmCutover") or []}
    if not vms:
        # Whoever says "all of them, now" means also those that had a time of their own.
        return {"cutover": when, "vmCutover": None}
    for vm in runs.find_vms(client, migration, vms):
        if not vm.get("id"):
            remedy = "Wait until the migration has begun, or name the VM by its id."
            raise Invalid(f"the id of {vm.get('name')} is not known yet", field="--vm", remedy=remedy)
        if when is None:
            own.pop(vm["id"], None)
        else:
            own[vm["id"]] = {"id": vm["id"], "cutover": when}
    return {"vmCutover": list(own.values()) or None}
