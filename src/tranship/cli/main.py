"""The command line `tranship`: the root command and the way errors leave it.

A command's module is imported when the command is used, so that help and completion answer at once; therefore the
table below repeats each command's one-line help. All commands but `serve`, `lab`, `demo`, `crds` and `manifests` talk to a
server's REST API and to nothing else.
"""

import importlib
import os
import sys
from typing import NamedTuple, NoReturn

import click

from tranship.cli.context import Context
from tranship.cli.output import complain
from tranship.errors import TranshipError


class Entry(NamedTuple):
    module: str
    attribute: str
    help: str


COMMANDS = {
    "apply": Entry("tranship.cli.apply", "apply", "Create or change objects from manifests."),
    "get": Entry("tranship.cli.get", "get", "List objects, or a provider's inventory."),
    "describe": Entry("tranship.cli.describe", "describe", "Tell everything about one object."),
    "start": Entry("tranship.cli.start", "start", "Start a plan."),
    "watch": Entry("tranship.cli.watch", "watch", "Follow a plan's migration until it ends."),
    "cutover": Entry("tranship.cli.cutover", "cutover", "Say when warm VMs are moved for good."),
    "cancel": Entry("tranship.cli.cancel", "cancel", "Cancel a running migration, or some of its VMs."),
    "wait": Entry("tranship.cli.wait", "wait", "Wait until objects have a condition."),
    "archive": Entry("tranship.cli.archive", "archive", "Put a plan away."),
    "delete": Entry("tranship.cli.delete", "delete", "Delete objects."),
    "certificate": Entry(
        "tranship.cli.certificate", "certificate", "Show a platform's certificate before it is trusted."
    ),
    "crds": Entry("tranship.cli.crds", "crds", "Print the resource definitions."),
    "manifests": Entry("tranship.cli.install", "manifests", "Print what installs the controllers in a cluster."),
    "version": Entry("tranship.cli.version", "version", "Print the version."),
    "serve": Entry("tranship.cli.serve", "serve", "Run the controllers and the REST API on this host."),
    "lab": Entry("tranship.cli.lab", "lab", "Run a simulated vCenter and oVirt Engine with real guests."),
    "demo": Entry("tranship.cli.demo", "demo", "Move five machines out of the lab."),
}


class LazyGroup(click.Group):
    """Knows its commands by name and imports one only to run it or to show its own help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        entry = COMMANDS.get(name)
        if entry is None:
            return None
        command = getattr(importlib.import_module(entry.module), entry.attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--server", metavar="URL", help="The server's address.  [env: TRANSHIP_SERVER]")
@click.option("--token-file", metavar="FILE", help="File with the bearer token.  [env: TRANSHIP_TOKEN_FILE]")
@click.option("--ca-file", metavar="FILE", help="CA that signed the server's certificate.  [env: TRANSHIP_CA_FILE]")
@click.pass_context
def root(ctx: click.Context, server: str | None, token_file: str | None, ca_file: str | None) -> None:
    """Moves virtual machines from vSphere and oVirt to this host, warm or cold, and proves the data.

    Without options the server is found through the files that `tranship serve` leaves in its data directory, which is
    $TRANSHIP_HOME or ~/.local/share/tranship.

    Exit codes: 0 done, 1 failed, 2 wrong usage or input, 3 not ready or blocked, 4 some VMs failed.
    """
    ctx.obj = Context(server=server, token_file=token_file, ca_file=ca_file)


def main() -> NoReturn:
    """The console script's entry."""
    try:
        code = root.main(standalone_mode=False)
    except TranshipError as error:
        complain(error)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo(err=True)
        sys.exit(130)
    except BrokenPipeError:
        # The reader (head, less) went away; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    sys.exit(code if isinstance(code, int) else 0)
