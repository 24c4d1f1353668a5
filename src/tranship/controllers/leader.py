"""Of several controller processes on one cluster, one acts: the holder of a Lease. Called by `tranship serve`.

The rules that keep two from acting at a time, LEASE > RENEW + what a stopped process needs to notice:

1. A Lease is taken over only when it has not been renewed for LEASE seconds by the taker's own clock, or was given back.
   Clocks of different machines are never compared.
2. The holder renews every EVERY seconds. When none of its renewals was accepted for RENEW seconds, it stops acting for
   good: its process ends, and is started anew as one that waits.
3. Before each effect the holder looks at its own clock (`check`). So a process that was frozen beyond its lease, and is
   thawed, does nothing more, although it has not yet noticed that somebody else leads.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import structlog

from tranship.errors import AlreadyExists, Broken, Conflict, NotFound, NotReady, TranshipError
from tranship.resources.meta import Kind
from tranship.store.base import Object, Store

LEASES = Kind("coordination.k8s.io", "v1", "leases", "Lease")
LEASE, RENEW, EVERY = 15.0, 10.0, 2.0  # seconds, as Kubernetes' own controllers have them

log = structlog.get_logger()


class Leader:
    """store: on the cluster. identity: of this process, never used by another one."""

    def __init__(
        self,
        store: Store,
        namespace: str,
        name: str,
        identity: str,
        *,
        lease: float = LEASE,
        renew: float = RENEW,
        every: float = EVERY,
    ) -> None:
        self._store, self._namespace, self._name, self._identity = store, namespace, name, identity
        self._lease, self._renew, self._every = lease, renew, every
        self._until = 0.0  # monotonic time up to which this process may act
        self._seen: tuple[str, float] = ("", 0.0)  # version of a Lease of somebody else, and since when it stands
        self._heard = 0.0  # monotonic time of the API server's last answer
        self.lost = asyncio.Event()

    @property
    def state(self) -> str:
        """For people: does this process lead? Raises NotReady when the API server has not answered it for RENEW seconds."""
        silence = time.monotonic() - self._heard
        if silence > self._renew + self._every:
            since = f"for {silence:.0f} s" if self._heard else "yet"
            raise NotReady(f"the API server has not answered it {since}", what="controllers", name=self._identity)
        return "leading" if time.monotonic() <= self._until else "waiting for its turn"

    def check(self, where: str = "") -> None:
        """Raises Broken when this process may not act, or not any more."""
        if time.monotonic() > self._until:
            raise Broken(f"not leading any more{f': {where} was not done' if where else ''}")

    @asynccontextmanager
    async def leading(self) -> AsyncIterator[None]:
        """Wait for the lease, and hold it inside. When `lost` is set there, leave at once. Leaving gives it back."""
        while not await self._take():  # noqa: ASYNC110 - what is waited for happens elsewhere
            await asyncio.sleep(self._every)
        log.info("leading", lease=self._name, identity=self._identity)
        renewing = asyncio.create_task(self._keep(), name="lease")
        try:
            yield
        finally:
            renewing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await renewing
            with contextlib.suppress(TranshipError):  # it runs out by itself
                await self._give_back()

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            if time.monotonic() > self._until:  # too late, even if it should be free again: another one may have acted
                break
            if not await self._take() and self._seen[0]:
                break  # somebody else's
        log.error("lost the lease; ending", lease=self._name)
        self._until = 0.0
        self.lost.set()

    async def _take(self) -> bool:
        """One try to have the lease, or to keep it."""
        asked = time.monotonic()
        try:
            async with asyncio.timeout(self._renew):
                taken = await self._try(asked)
        except (TranshipError, TimeoutError) as error:
            why = str(error) or f"no answer within {self._renew:.0f} s"
            log.warning("the lease cannot be renewed", lease=self._name, error=why)
            return False
        self._heard = time.monotonic()
        if taken:
            self._seen = ("", 0.0)
            self._until = asked + self._renew
        return taken

    async def _try(self, asked: float) -> bool:
        try:
            found = await self._store.get(LEASES, self._namespace, self._name)
        except NotFound:
            with contextlib.suppress(AlreadyExists):
                await self._store.create(LEASES, self._written({}))
                return True
            return False
        holder = found["spec"].get("holderIdentity")
        if holder and holder != self._identity:
            version = str(found["metadata"]["resourceVersion"])
            if version != self._seen[0]:
                self._seen = (version, asked)
            if asked - self._seen[1] < self._lease:
                return False
        try:
            await self._store.replace(LEASES, self._written(found))
        except Conflict:
            return False
        return True

    async def _give_back(self) -> None:
        found = await self._store.get(LEASES, self._namespace, self._name)
        if found["spec"].get("holderIdentity") == self._identity:
            self._until = 0.0
            await self._store.replace(LEASES, {**found, "spec": {**found["spec"], "holderIdentity": ""}})

    def _written(self, found: Object) -> Object:
        """As other tools know a Lease; its times are for people."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = dict(found.get("spec", {}))
        if spec.get("holderIdentity") != self._identity:
            transitions = int(spec.get("leaseTransitions", 0)) + bool(found)
            spec |= {"holderIdentity": self._identity, "acquireTime": now, "leaseTransitions": transitions}
        spec |= {"renewTime": now, "leaseDurationSeconds": max(int(self._lease), 1)}
        metadata = found.get("metadata") or {"name": self._name, "namespace": self._namespace}
        return {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": metadata, "spec": spec}
