"""`tranship lab`: a simulated vCenter and oVirt Engine with machines that really run, to try the product on.

Nothing of it is for production.
"""

import signal
import tempfile
import threading
from pathlib import Path

import click

from tranship.lab.showroom import Showroom


@click.command()
@click.option(
    "--directory", type=click.Path(path_type=Path), help="Where disks and certificates go [default: temporary]."
)
@click.option(
    "--port", default=0, help="Port of the vCenter's API; the Engine's is the next one [default: any free ones]."
)
def lab(directory: Path | None, port: int) -> None:
    """Run a simulated vCenter and oVirt Engine with five machines in them until it is interrupted.

    Three of them are QEMU guests that write numbered records to their disks all the time. Manifests that move all five
    are written beside it, for `tranship serve` and `tranship apply`.
    """
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with tempfile.TemporaryDirectory(prefix="tranship-lab-") as temporary:
        with Showroom(directory or Path(temporary), port=port) as room:
            manifests = room.write_manifests()
            for name, platform in (("vCenter", room.center), ("Engine", room.engine)):
                click.echo(f"{name:<11} {platform.url}")
                click.echo(f"user        {platform.user}   password {platform.password}   (of the lab, worth nothing)")
            click.echo(f"machines    {', '.join(room.names)}")
            click.echo(f"manifests   {manifests}")
            click.echo("try         tranship serve   and in another shell   tranship apply -f " + str(manifests))
            click.echo("Ctrl-C ends it.")
            stop.wait()
