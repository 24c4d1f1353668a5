"""`tranship crds`: the resource definitions, for a cluster's API server or an editor's completion. Asks no server."""

import click


@click.command()
def crds() -> None:
    """Print the CustomResourceDefinitions of all kinds as YAML."""
    import yaml

    from tranship.resources.crds import all_crds

    click.echo(yaml.safe_dump_all(all_crds(), sort_keys=False), nl=False)
