"""`tranship lab`: a simulated vCenter with machines that really run, to try the product on. Nothing of it is for production."""

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
@click.option("--port", default=0, help="Port of the vCenter's API [default: any free one].")
def lab(directory: Path | None, port: int) -> None:
    """Run a simulated vCenter with three machines in it until it is interrupted.

    Two of them are QEMU guests that write numbered records to their disks all the time. Manifests that move all three
    are written beside it, for `tranship serve` and `tranship apply`.
    """
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with tempfile.TemporaryDirectory(prefix="tranship-lab-") as temporary:
        with Showroom(directory or Path(temporary), port=port) as room:
            manifests = room.write_manifests()
            click.echo(f"vCenter     {room.center.url}")
            click.echo(
                f"user        {room.center.user}   password {room.center.password}   (of the lab, worth nothing)"
            )
            click.echo(f"machines    {', '.join(room.center.vm(name).name for name in room.NAMES)}")
            click.echo(f"manifests   {manifests}")
            click.echo("try         tranship serve   and in another shell   tranship apply -f " + str(manifests))
            click.echo("Ctrl-C ends it.")
            stop.wait()
