"""Forklift's own controller acts on the same objects as ours. While it is alive ours keep still. Used by `tranship serve` on a
cluster, unless it is told --beside-forklift.

Two controllers on one plan would power off the same VM and write the same status. The rules:

1. Alive is what has pods: a Deployment of Forklift's name, in whatever namespace. It is looked for before our controllers
   start and every EVERY seconds from then on.
2. From the moment that it is seen no effect begins (`check`), and our controllers are stopped. The log says so, and the
   condition ForeignController of every plan and migration that has not ended.
3. It has to be gone for GONE seconds before ours start again: a pod that ends may still act.
4. When the cluster has not told for STALE seconds whether there is one, the process ends.

The condition is written once to each object and is not durable: Forklift's next validation drops it, so that it never blocks a
plan that Forklift moves.
"""

import asyncio
import contextlib
import time
from datetime import UTC, datetime

import structlog

from tranship.errors import Denied, Invalid, NotFound, NotReady, TranshipError
from tranship.resources.conditions import Category, Conditions
from tranship.resources.meta import MIGRATION, PLAN, Kind, Resource, parse
from tranship.resources.migration import Migration
from tranship.resources.model import to_json
from tranship.resources.plan import Plan
from tranship.store.base import Object
from tranship.store.kubernetes import KubernetesStore

DEPLOYMENTS = Kind("apps", "v1", "deployments", "Deployment")
NAME = "forklift-controller"  # in Forklift's and in MTV's installation
CONDITION = "ForeignController"
EVERY, STALE, GONE = 5.0, 20.0, 60.0  # seconds

log = structlog.get_logger()


class Forklift:
    """alive: what was seen of it last, for people; "" = nothing."""

    def __init__(self, store: KubernetesStore, *, every: float = EVERY, gone: float = GONE) -> None:
        self._store, self._every, self._gone = store, every, gone
        self._asked = 0.0  # monotonic time of the last answer
        self._seen: float | None = None  # and of the last one that told of it
        self._told: set[str] = set()  # uids of what bears our condition
        self._remedy = ""
        self.alive = ""

    def check(self, where: str = "") -> None:
        """Raises NotReady when ours may not act."""
        if self.alive:
            detail = f"{self.alive}{f'; {where} was not done' if where else ''}"
            raise NotReady(detail, what="controllers", name="tranship", remedy=self._remedy)

    async def gone(self) -> None:
        """Wait until there is none. Raises what keeps us from knowing."""
        self._asked = time.monotonic()
        while not (await self._look() and await self._tell() and self._is_gone()):  # noqa: ASYNC110 - it happens elsewhere
            await asyncio.sleep(self._every)

    def _is_gone(self) -> bool:
        return not self.alive and (self._seen is None or time.monotonic() - self._seen > self._gone)

    async def appears(self) -> None:
        """Wait until there is one. Raises what keeps us from knowing."""
        while not self.alive:
            await asyncio.sleep(self._every)
            await self._look()

    async def _look(self) -> bool:
        """Whether there was an answer."""
        try:
            found = (await self._store.list(DEPLOYMENTS, fields={"metadata.name": NAME})).items
        except Denied as error:
            remedy = f"Let it list Deployments named {NAME}; or say --beside-forklift, if Forklift does not run here."
            raise Denied(error.detail, what="to see whether Forklift's controller runs", remedy=remedy) from error
        except TranshipError as error:
            if not error.temporary or time.monotonic() - self._asked > STALE:
                raise
            log.warning("cannot see whether Forklift's controller runs", error=str(error))
            return False
        self._asked = time.monotonic()
        spaces = sorted(one["metadata"]["namespace"] for one in found if one.get("status", {}).get("replicas"))
        if spaces:
            self._seen = self._asked
        was, self.alive = self.alive, _sentence(spaces)
        self._remedy = _remedy(spaces)
        if self.alive and self.alive != was:
            log.error("keeping still", why=self.alive, fix=self._remedy)
        elif was and not self.alive:
            log.info("Forklift's controller is gone", wait=f"{self._gone:.0f}s")
        return True

    async def _tell(self) -> bool:
        """Say it where people look, or take it back. Whether all is said."""
        try:
            for kind in (PLAN, MIGRATION):
                for obj in (await self._store.list(kind)).items:
                    await self._tell_one(kind, obj)
        except TranshipError as error:  # such as a Conflict: next time, on what it has become
            if not error.temporary:
                raise
            log.warning("cannot say it on plans and migrations", condition=CONDITION, error=str(error))
            return False
        if not self.alive:
            self._told.clear()
        return True

    async def _tell_one(self, kind: Kind, obj: Object) -> None:
        meta = obj["metadata"]
        try:
            resource = parse(obj)
        except Invalid:  # what our models do not understand we do not act on
            return
        conditions = Conditions(resource.status.conditions)
        if self.alive:
            if meta["uid"] in self._told or _ended(resource):
                return
            text, remedy = self.alive, self._remedy
            conditions.set(
                CONDITION, Category.CRITICAL, datetime.now(UTC), reason="Alive", message=text, suggestion=remedy
            )
        elif conditions.get(CONDITION):
            conditions.delete(CONDITION)
        else:
            return
        status = {"conditions": [to_json(one) for one in conditions.list]}
        patch = {"metadata": {"resourceVersion": meta["resourceVersion"]}, "status": status}
        with contextlib.suppress(NotFound):
            await self._store.patch(kind, meta["namespace"], meta["name"], patch, subresource="status")
        self._told.add(meta["uid"])


def _ended(resource: Resource) -> bool:
    if isinstance(resource, Migration):
        return resource.status.completed is not None
    return isinstance(resource, Plan) and (
        resource.spec.archived or Conditions(resource.status.conditions).has("Succeeded")
    )


def _sentence(spaces: list[str]) -> str:
    if not spaces:
        return ""
    where = ", ".join(f"{space}/{NAME}" for space in spaces)
    return f"Forklift's own controller runs (Deployment {where}) and acts on the same objects: tranship does nothing"


def _remedy(spaces: list[str]) -> str:
    stop = "; ".join(f"kubectl scale deployment/{NAME} -n {space} --replicas=0" for space in spaces)
    return (
        f"Stop it, and its operator first, which would start it again: {stop}. Or set TRANSHIP_BESIDE_FORKLIFT=true for "
        "tranship, if you see to it that no plan is started for both."
    )
