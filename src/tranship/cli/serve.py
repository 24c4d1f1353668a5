"""`tranship serve`: controllers and REST API in one process, on this host."""

import asyncio
import logging
import signal
import sys
from pathlib import Path

import click
import structlog

from tranship import __version__
from tranship.cli.context import data_directory


@click.command()
@click.option("--directory", type=click.Path(path_type=Path), help="State and machines  [default: $TRANSHIP_HOME].")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=7443, show_default=True, help="Port to listen on; 0 = any free one.")
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
def serve(directory: Path | None, host: str, port: int, verbose: bool) -> None:
    """Run the controllers and the REST API until interrupted.

    Address and bearer token are left in the data directory, where the other commands find them. Copies that are under way
    go on when the server stops, and the next start takes them up again.
    """
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=("timestamp", "level", "event")),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if verbose else logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    asyncio.run(_serve(directory or data_directory(), host, port))


async def _serve(directory: Path, host: str, port: int) -> None:
    from tranship.app import running, serving

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with running(directory) as app, serving(app, host, port) as url:
        click.echo(f"tranship {__version__} serves {url} (state in {directory})", err=True)
        await stop.wait()
