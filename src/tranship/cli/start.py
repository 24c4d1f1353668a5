"""`tranship start`: create the Migration that runs a plan."""

from typing import Any

import click

from tranship.cli import runs
from tranship.cli.client import Client
from tranship.cli.context import Context, namespace_option, pass_context
from tranship.cli.kinds import MIGRATION, PLAN, dig, holds, plan_name, plan_type
from tranship.errors import Invalid, NotFound, NotReady

VALIDATION = 60.0  # seconds that a plan which was just applied may take to be validated


@click.command()
@click.argument("plan")
@namespace_option
@click.option("--cutover", metavar="TIME", help="now, a duration from now (30m), or 2026-01-31T23:00:00Z.")
@click.option("-w", "--watch", is_flag=True, help="Follow it until it ends.")
@pass_context
def start(context: Context, plan: str, namespace: str, cutover: str | None, watch: bool) -> int:
    """Start PLAN.

    A warm plan without --cutover repeats its precopies, the source VMs running, until `tranship cutover` is said.
    """
    client, name = context.client, plan_name(plan)
    found = _ready_plan(client, namespace, name)
    spec: dict[str, Any] = {"plan": {"name": name, "namespace": namespace}}
    if cutover is not None:
        if plan_type(found) != "warm":
            remedy = "Leave --cutover out: a cold plan powers its VMs off at once."
            raise Invalid("goes with warm plans only", field="--cutover", remedy=remedy)
        spec["cutover"] = runs.parse_when(cutover, client.now(), "--cutover")
    meta = found["metadata"]
    owner = {"apiVersion": PLAN.api_version, "kind": PLAN.kind, "name": name, "uid": meta["uid"]}
    migration = client.create(
        MIGRATION,
        namespace,
        {
            "apiVersion": MIGRATION.api_version,
            "kind": MIGRATION.kind,
            "metadata": {"generateName": f"{name}-", "namespace": namespace, "ownerReferences": [owner]},
            "spec": spec,
        },
    )
    click.echo(f"{MIGRATION.title(migration['metadata']['name'])} created")
    if not watch:
        return 0
    from tranship.cli.watch import follow

    return follow(client, migration)


def _ready_plan(client: Client, namespace: str, name: str) -> dict[str, Any]:
    """The plan, once it has been validated and nothing blocks it. Raises NotFound, NotReady."""
    plan = client.get(PLAN, namespace, name)
    if dig(plan, "spec.archived"):
        raise NotReady("it is archived", what="plan", name=name, remedy=f"Say: tranship archive --undo {name}.")
    for type, plan in client.watch(PLAN, namespace, name, seconds=VALIDATION):
        if type == "DELETED":
            raise NotFound(what="plan", name=name)
        if runs.validated(plan) and (holds(plan, "Ready") or runs.blockers(plan)):
            break
    if holds(plan, "Executing"):
        remedy = f"Follow it: tranship watch {name}."
        raise NotReady("a migration of it is under way", what="plan", name=name, remedy=remedy)
    if runs.blockers(plan) or not holds(plan, "Ready"):
        raise runs.blocked("plan", plan)
    return plan
