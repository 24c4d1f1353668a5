"""`tranship serve`: controllers and REST API in one process, on this host; or the controllers alone on a cluster's objects."""

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import TYPE_CHECKING

import click
import structlog

from tranship import __version__
from tranship.cli.context import data_directory
from tranship.cli.output import complain
from tranship.errors import Busy

if TYPE_CHECKING:
    from tranship.cluster.kubeconfig import Access
    from tranship.controllers.foreign import Forklift
    from tranship.controllers.leader import Leader


@click.command()
@click.option("--directory", type=click.Path(path_type=Path), help="State and machines  [default: $TRANSHIP_HOME].")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=7443, show_default=True, help="Port to listen on; 0 = any free one.")
@click.option("--kubeconfig", type=click.Path(path_type=Path), help="Work on the objects of this cluster.")
@click.option("--context", default="", help="Context of the kubeconfig  [default: its current one].")
@click.option("--in-cluster", is_flag=True, help="Work on the objects of the cluster that this pod runs in.")
@click.option(
    "--probes", type=click.IntRange(0, 65535), metavar="PORT", help="There, /healthz and /readyz by plain HTTP."
)
@click.option(
    "--beside-forklift",
    is_flag=True,
    envvar="TRANSHIP_BESIDE_FORKLIFT",
    show_envvar=True,
    help="Act although Forklift's own controller runs there.",
)
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
def serve(
    directory: Path | None,
    host: str,
    port: int,
    kubeconfig: Path | None,
    context: str,
    in_cluster: bool,
    probes: int | None,
    beside_forklift: bool,
    verbose: bool,
) -> None:
    """Run the controllers and the REST API until interrupted.

    Address and bearer token are left in the data directory, where the other commands find them. Copies that are under way
    go on when the server stops, and the next start takes them up again.

    With --kubeconfig or --in-cluster the objects are those of a cluster, to be written and watched with kubectl; `tranship
    crds` prints the definitions that it needs. Of several such processes one acts, and the next takes over when it ends: the
    one that holds the Lease `tranship` in the context's namespace. While Forklift's own controller is alive in the cluster none
    acts: two of them would power off the same VM.
    """
    if (context and not kubeconfig) or (kubeconfig and in_cluster):
        raise click.UsageError("--context goes with --kubeconfig, and --in-cluster with neither")
    if probes is not None and not (kubeconfig or in_cluster):
        raise click.UsageError("--probes goes with --kubeconfig or --in-cluster")
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
    home = directory or data_directory()
    if kubeconfig or in_cluster:
        from tranship.cluster import kubeconfig as ways

        access = ways.from_kubeconfig(kubeconfig, context) if kubeconfig else ways.in_cluster()
        asyncio.run(_control(home, access, probes, beside=beside_forklift))
    else:
        asyncio.run(_serve(home, host, port))


async def _serve(directory: Path, host: str, port: int) -> None:
    from tranship.app import running, serving

    stop = _stopped()
    async with running(directory) as app, serving(app, host, port) as url:
        click.echo(f"tranship {__version__} serves {url} (state in {directory})", err=True)
        await stop.wait()


async def _control(directory: Path, cluster: "Access", probes: int | None, *, beside: bool) -> None:
    from tranship.controllers.foreign import Forklift
    from tranship.controllers.leader import Leader
    from tranship.store.kubernetes import KubernetesStore

    identity = f"{socket.gethostname()}-{secrets.token_hex(4)}"
    store = KubernetesStore(cluster.client())
    leader = Leader(store, cluster.namespace, "tranship", identity)
    forklift = None if beside else Forklift(store)
    stop = asyncio.create_task(_stopped().wait())
    lost = asyncio.create_task(leader.lost.wait())
    async with _probed(leader, forklift, probes):
        click.echo(f"tranship {__version__} on {cluster.url}: waiting for its turn as {identity}", err=True)
        leading = asyncio.create_task(_lead(leader, forklift, directory, cluster))
        await asyncio.wait({leading, stop, lost}, return_when=asyncio.FIRST_COMPLETED)
        if leader.lost.is_set():
            complain(Busy("another process may act now", what="the controllers", fault="the lease was lost"))
            os._exit(1)  # at once: an effect that is under way in a thread may go no further
        leading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await leading
    await store.close()


@contextlib.asynccontextmanager
async def _probed(leader: "Leader", forklift: "Forklift | None", port: int | None) -> AsyncIterator[None]:
    from tranship.server.probes import make_probes
    from tranship.server.serve import serve

    def state() -> str:
        return f"{leader.state}; {forklift.alive}" if forklift and forklift.alive else leader.state

    if port is None:
        yield
        return
    everywhere = "::" if socket.has_dualstack_ipv6() else "0.0.0.0"  # noqa: S104 - a kubelet asks at the pod's address
    async with serve(make_probes(state), everywhere, port) as server:
        click.echo(f"probes are answered on port {server.port}", err=True)
        yield


async def _lead(leader: "Leader", forklift: "Forklift | None", directory: Path, cluster: "Access") -> None:
    from tranship.app import running

    def check(where: str = "a call") -> None:
        leader.check(where)
        if forklift:
            forklift.check(where)

    async with leader.leading():
        while True:
            if forklift:
                await forklift.gone()
            async with running(directory, cluster=cluster, boundary=check, fence=check) as app:
                click.echo(f"tranship works on the objects of {cluster.url} (movers in {directory})", err=True)
                await _either(app.work, forklift.appears() if forklift else asyncio.Event().wait())


async def _either(*ends: Awaitable[object]) -> None:
    """Until one of them has ended; raises its error."""
    tasks = [asyncio.ensure_future(one) for one in ends]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for one in done:
            one.result()
    finally:
        for one in tasks:
            one.cancel()


def _stopped() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop
