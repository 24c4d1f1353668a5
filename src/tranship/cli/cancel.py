"""`tranship cancel`: stop moving VMs; their sources go on, what was made for them is removed."""

import click

from tranship.cli import runs
from tranship.cli.context import Context, namespace_option, pass_context
from tranship.cli.kinds import MIGRATION, dig, plan_name
from tranship.errors import Conflict

TRIES = 5


@click.command()
@click.argument("plan")
@namespace_option
@click.option("--vm", "vms", multiple=True, metavar="VM", help="Only this VM (id or name); may be repeated.")
@pass_context
def cancel(context: Context, plan: str, namespace: str, vms: tuple[str, ...]) -> None:
    """Cancel PLAN's running migration, or some of its VMs.

    A source VM that ran is powered on again, our snapshots are removed and the user's are kept. VMs that have been moved
    already stay moved. The migration is kept as a record; `tranship watch` shows how the cancel goes on.
    """
    client, name = context.client, plan_name(plan)
    migration = runs.active(client, namespace, name)
    meta = migration["metadata"]
    for left in reversed(range(TRIES)):
        chosen = [vm for vm in runs.find_vms(client, migration, vms) if not vm.get("completed")]
        refs = [{key: vm[key] for key in ("id", "name") if vm.get(key)} for vm in chosen]
        known = dig(migration, "spec.cancel") or []
        spec = {"cancel": [*known, *(ref for ref in refs if ref not in known)]}
        try:
            version = migration["metadata"]["resourceVersion"]
            patch = {"metadata": {"resourceVersion": version}, "spec": spec}
            client.patch(MIGRATION, namespace, meta["name"], patch)
            break
        except Conflict:
            if left == 0:
                raise
            migration = client.get(MIGRATION, namespace, meta["name"])
    names = ", ".join(str(vm.get("name") or vm.get("id")) for vm in chosen)
    click.echo(f"{MIGRATION.title(meta['name'])} {f'cancelling {names}' if names else 'has nothing left to cancel'}")
