"""`tranship version`."""

import click

from tranship import __version__


@click.command()
def version() -> None:
    """Print the version."""
    click.echo(f"tranship {__version__}")
