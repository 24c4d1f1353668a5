"""`KubeVirt(kubeconfig, folder).start()`: the stand-ins beside a genuine cluster, in one thread of their own.

It acts on the objects of the cluster and on the volumes of this machine, and knows nothing of who made them. The kinds of
KubeVirt and CDI have to be served (`schemas.definitions`); until they are, it waits for them.
"""

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

from tranship.errors import NotFound, TimedOut
from tranship.lab.kubevirt import volumes
from tranship.lab.kubevirt.api import Api, Mirror
from tranship.lab.kubevirt.cdi import CONFIGS, PROFILES, Cdi
from tranship.lab.kubevirt.instances import INSTANCES, Instances
from tranship.lab.kubevirt.launcher import PODS
from tranship.lab.kubevirt.machines import MACHINES, Machines
from tranship.lab.kubevirt.provisioner import CLAIMS, CLASSES, VOLUMES, Provisioner, Reclaimer, StorageClass

START_SECONDS = 60.0


class KubeVirt:
    """kubeconfig: of somebody who may do everything. folder: of the volumes and consoles. node: the cluster's node on this
    machine. image: what launcher pods run, which has to wait for ever. classes: StorageClasses to be made; others of our
    provisioner, made by anybody, are served too."""

    def __init__(
        self,
        kubeconfig: Path,
        folder: Path,
        *,
        node: str = "node",
        image: str = "localhost/pause:1",
        classes: Sequence[StorageClass] = (),
    ) -> None:
        self.folder, self.node, self.image, self.classes = folder, node, image, classes
        self._kubeconfig = kubeconfig
        self._volumes = folder / "volumes"
        self._started: Future[None] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._whole: asyncio.Task[None] | None = None
        self._instances: Instances | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> "KubeVirt":
        """Returns when the classes are there. Raises what went wrong."""
        self._volumes.mkdir(parents=True, exist_ok=True)
        self._started, self._instances = Future(), None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=[self._loop], name="kubevirt", daemon=True)
        self._thread.start()
        try:
            self._started.result(START_SECONDS)
        except TimeoutError as error:
            raise TimedOut(what="the start of KubeVirt's stand-in", seconds=START_SECONDS) from error
        return self

    def console(self, machine: str) -> Path:
        """What "namespace/name" has printed on its serial console, in all its lives. It is there from the first start on."""
        return self.folder / "machines" / machine / "console.log"

    def type(self, machine: str, data: bytes) -> None:
        """On its serial console. Raises NotFound when it does not run."""

        async def type_() -> None:
            process = self._instances.process(*machine.split("/")) if self._instances else None
            if process is None or not process.running:
                raise NotFound(what="running machine", name=machine)
            process.type(data)

        if self._loop is None:
            raise NotFound(what="running machine", name=machine)
        asyncio.run_coroutine_threadsafe(type_(), self._loop).result(START_SECONDS)

    def close(self) -> None:
        """Machines are switched off hard and volumes detached; what is in them stays in the folder, for the next start."""
        if self._thread is None or self._loop is None:
            return
        if self._whole is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._whole.cancel)
        self._thread.join(START_SECONDS)
        self._thread = self._loop = self._whole = None
        for volume in self._volumes.iterdir():
            volumes.detach(volume)

    def __enter__(self) -> "KubeVirt":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        self._whole = loop.create_task(self._serve())
        try:
            loop.run_until_complete(self._whole)
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            if self._started.done():
                raise
            self._started.set_exception(error)
        finally:
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    async def _serve(self) -> None:
        api = Api(self._kubeconfig)
        try:
            for one in self.classes:
                await api.ensure(CLASSES, one.manifest())
            for volume in self._volumes.iterdir():
                block = (volume / volumes.IMAGE).exists() and not (volume / volumes.FILES).exists()
                await asyncio.to_thread(volumes.attach, volume, block=block)
            claims, classes, held, pods = (Mirror(api, kind) for kind in (CLAIMS, CLASSES, VOLUMES, PODS))
            profiles, configs = (Mirror(api, kind) for kind in (PROFILES, CONFIGS))
            machines, instances = (Mirror(api, kind) for kind in (MACHINES, INSTANCES))
            watched = {"pods": pods, "claims": claims, "held": held, "configs": configs}
            self._instances = Instances(api, self.folder / "machines", self.image, instances, **watched)
            async with asyncio.TaskGroup() as group:
                for part in (
                    *(claims, classes, held, pods, profiles, configs, machines, instances),
                    Provisioner(api, self._volumes, self.node, claims, classes, held),
                    Reclaimer(api, self._volumes, held),
                    Cdi(api, classes, profiles, configs),
                    Machines(api, machines, instances, claims),
                    self._instances,
                ):
                    group.create_task(part.run())
                self._started.set_result(None)
        finally:
            if self._instances is not None:
                await self._instances.close()
            await api.close()
