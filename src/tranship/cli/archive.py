"""`tranship archive`: a plan that is done with."""

import click

from tranship.cli.context import Context, namespace_option, pass_context
from tranship.cli.kinds import PLAN, plan_name


@click.command()
@click.argument("plan")
@namespace_option
@click.option("--undo", is_flag=True, help="Take it out of the archive.")
@pass_context
def archive(context: Context, plan: str, namespace: str, undo: bool) -> None:
    """Put PLAN away: what it left behind is cleaned up, and it cannot be started any more."""
    name = plan_name(plan)
    context.client.patch(PLAN, namespace, name, {"spec": {"archived": not undo}})
    click.echo(f"{PLAN.title(name)} {'unarchived' if undo else 'archived'}")
