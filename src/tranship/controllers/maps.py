"""Network and storage maps: are their sources in the inventory, do their destinations exist? Conditions and references."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from tranship.controllers.manager import Watch
from tranship.controllers.mirror import Key, key_of
from tranship.controllers.providers import ProviderController
from tranship.errors import NotFound, NotUnique, TranshipError
from tranship.inventory.estate import Estate, Named, find
from tranship.resources.conditions import READY, Category, Conditions
from tranship.resources.meta import NETWORK_MAP, Kind, Ref
from tranship.resources.model import to_json
from tranship.resources.networkmap import NetworkMap, NetworkPair
from tranship.resources.storagemap import StorageMap, StoragePair
from tranship.store.base import Store

RETRY = 10.0


class MapController:
    """One class for both kinds: they differ in where source and destination are looked up."""

    def __init__(self, store: Store, providers: ProviderController, kind: Kind) -> None:
        self._store, self._providers, self._kind = store, providers, kind
        self._known: set[Key] = set()
        self.name = kind.plural

    @property
    def known(self) -> Iterable[Key]:
        return tuple(self._known)

    @property
    def watches(self) -> Mapping[Kind, Watch]:
        return {self._kind: Watch(lambda obj: [key_of(obj)])}

    async def reconcile(self, key: Key) -> float | None:
        try:
            body = await self._store.get(self._kind, *key)
        except NotFound:
            self._known.discard(key)
            return None
        self._known.add(key)
        map_: NetworkMap | StorageMap = NetworkMap.read(body) if self._kind is NETWORK_MAP else StorageMap.read(body)
        conditions = Conditions(map_.status.conditions)
        conditions.begin_staging()
        references: list[Ref] = []
        now = datetime.now(UTC)
        try:
            source = self._providers.get(map_.spec.provider.source, key.namespace)
            target = self._providers.get(map_.spec.provider.destination, key.namespace)
            if source.estate is not None and target.target is not None:
                estate = await asyncio.to_thread(target.target.estate)
                references = self._check(map_, source.estate, estate, conditions, now)
                if not conditions.blocking:
                    conditions.set(READY, Category.REQUIRED, now, message="the map is ready")
        except TranshipError as error:
            text, remedy = str(error), error.suggestion
            conditions.set(
                "ProviderNotReady", Category.CRITICAL, now, reason=error.reason, message=text, suggestion=remedy
            )
        conditions.end_staging()
        status: dict[str, Any] = {
            "conditions": [to_json(one) for one in map_.status.conditions],
            "observedGeneration": map_.metadata.generation,
            "references": [to_json(ref) for ref in references],
        }
        await self._store.patch(self._kind, *key, {"status": status}, subresource="status")
        return None if conditions.ready else RETRY

    def _check(
        self, map_: NetworkMap | StorageMap, source: Estate, target: Estate, conditions: Conditions, now: datetime
    ) -> list[Ref]:
        what = "Network" if self._kind is NETWORK_MAP else "Storage"
        references = []
        pairs: Sequence[NetworkPair | StoragePair] = map_.spec.map
        for number, pair in enumerate(pairs):
            field = f"spec.map[{number}]"
            objects: Mapping[str, Named] = source.networks if what == "Network" else source.datastores
            try:
                found = find(what.lower(), objects, id=pair.source.id, name=pair.source.name)
                references.append(Ref(id=found.id, name=found.name))
            except (NotFound, NotUnique) as error:
                category = Category.WARN if isinstance(error, NotFound) else Category.CRITICAL
                reason = "NotFound" if isinstance(error, NotFound) else "Ambiguous"
                text = f"{field}.source: {error}"
                conditions.set(
                    f"Source{what}NotValid",
                    category,
                    now,
                    reason=reason,
                    message=text,
                    suggestion=error.suggestion,
                    items=[field],
                )
            self._check_destination(pair.destination, field, what, target, conditions, now)
        return references

    def _check_destination(
        self, destination: Any, field: str, what: str, target: Estate, conditions: Conditions, now: datetime
    ) -> None:
        if what == "Network":
            if destination.type != "multus":
                return
            wanted = f"{destination.namespace}/{destination.name}" if destination.namespace else destination.name
            named = [one for one in target.networks.values() if one.kind != "pod"]
            same = [one.path for one in named if one.path and one.name == destination.name]
            if not destination.namespace and len(same) > 1:
                text = f"{field}.destination: {destination.name!r} is in several namespaces"
                remedy = f"Write its namespace. There are: {', '.join(sorted(same))}."
                conditions.set(
                    "DestinationNetworkNotValid",
                    Category.CRITICAL,
                    now,
                    reason="Ambiguous",
                    message=text,
                    suggestion=remedy,
                    items=[field],
                )
                return
            known = {one.path or one.name for one in named}
            fits = any(
                wanted in (one.path, one.name) or (not one.path and destination.name == one.name) for one in named
            )
        else:
            wanted, known = destination.storage_class, {one.name for one in target.datastores.values()}
            fits = wanted in known
        if fits:
            return
        names = ", ".join(sorted(known)) or "none"
        text = f"{field}.destination: the target has no {what.lower()} {wanted!r}"
        conditions.set(
            f"Destination{what}NotValid",
            Category.CRITICAL,
            now,
            reason="NotFound",
            message=text,
            suggestion=f"Known are: {names}.",
            items=[field],
        )
