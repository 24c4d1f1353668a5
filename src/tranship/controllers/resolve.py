"""From references in manifests to live things: providers, maps, VMs. Shared by the plan and migration controllers."""

import asyncio
from dataclasses import dataclass
from os import environ

from tranship.controllers.mirror import Key, Mirror
from tranship.controllers.providers import Connection, ProviderController
from tranship.errors import Busy, Invalid, NotFound, NotReady, TranshipError
from tranship.inventory.estate import Estate, find
from tranship.inventory.vm import VM
from tranship.migration.mapping import transfer_network
from tranship.providers.base import DiskWay, Source, Target
from tranship.resources.controller import ForkliftController, Settings
from tranship.resources.meta import FORKLIFT_CONTROLLER, NETWORK_MAP, PROVIDER, STORAGE_MAP, Kind, ObjectReference
from tranship.resources.networkmap import NetworkMap
from tranship.resources.plan import Plan
from tranship.resources.provider import Provider
from tranship.resources.storagemap import StorageMap
from tranship.resources.vm import PlanVM
from tranship.store.base import Object, Store

DEFAULT_NETWORK = "forklift.konveyor.io/defaultTransferNetwork"  # annotation of a target provider


@dataclass(frozen=True, slots=True)
class Route:
    """Where a plan leads from and to, with everything loaded. default_network: by which disks travel to this target, where a
    plan says nothing."""

    source: Source
    target: Target
    source_estate: Estate
    target_estate: Estate
    networks: NetworkMap
    storages: StorageMap
    default_network: str = ""

    def transfer_network(self, plan: Plan, settings: Settings) -> str:
        """As of an order. What holds for clusters in general is not asked of this host."""
        defaults = () if self.target.on_this_host else (self.default_network, settings.transfer_network)
        return transfer_network(plan, defaults, self.target_estate)

    def vm(self, entry: PlanVM) -> VM:
        """Raises NotFound, NotUnique."""
        return find("VM", self.source_estate.vms, id=entry.id, name=entry.name)


async def route(store: Store, providers: ProviderController, plan: Plan) -> Route:
    """Raises Invalid with the field that leads nowhere, NotReady with what is wrong with a provider, Busy while one is being
    opened."""
    spec, namespace = plan.spec, plan.namespace
    source = await _side(store, providers, spec.provider.source, namespace, "spec.provider.source")
    target = await _side(store, providers, spec.provider.destination, namespace, "spec.provider.destination")
    if source.source is None:
        raise Invalid(
            "this provider is no source of VMs",
            field="spec.provider.source",
            remedy="Name a provider of type vsphere or ovirt.",
        )
    if target.target is None:
        remedy = "Name a provider of type openshift or local."
        raise Invalid("this provider is no target", field="spec.provider.destination", remedy=remedy)
    if source.estate is None:
        raise Busy("its inventory is being loaded", what=f"provider {spec.provider.source.name!r}", fault="Staging")
    provider = Provider.read(
        await _object(store, PROVIDER, spec.provider.destination, namespace, "spec.provider.destination")
    )
    return Route(
        default_network=provider.metadata.annotations.get(DEFAULT_NETWORK, ""),
        source=source.source,
        target=target.target,
        source_estate=source.estate,
        target_estate=await asyncio.to_thread(target.target.estate),
        networks=NetworkMap.read(await _object(store, NETWORK_MAP, spec.map.network, namespace, "spec.map.network")),
        storages=StorageMap.read(await _object(store, STORAGE_MAP, spec.map.storage, namespace, "spec.map.storage")),
    )


def open_sides(mirror: Mirror, providers: ProviderController, plan: Plan) -> tuple[Source, Target]:
    """The connections between which a plan's VMs are under way. Raises Busy until they are open, NotFound when a provider was
    deleted, and what is wrong with it."""
    sides = []
    for ref in (plan.spec.provider.source, plan.spec.provider.destination):
        try:
            sides.append(providers.get(ref, plan.namespace))
        except NotFound:
            if Key(ref.namespace or plan.namespace, ref.name) not in mirror.objects(PROVIDER):
                raise
            raise Busy("it is being opened", what=f"provider {ref.name!r}", fault="Staging") from None
    source, target = sides
    if source.source is None or source.estate is None or target.target is None:
        raise Busy("it is being opened", what=f"a provider of plan {plan.name!r}", fault="Staging")
    return source.source, target.target


async def ways_of(leads: Route, vm: VM, *, warm: bool) -> tuple[DiskWay, ...]:
    """By which way each disk's bytes will come. Raises Unsupported when a disk has none."""
    return await asyncio.to_thread(leads.source.ways, vm, warm=warm, on_this_host=leads.target.on_this_host)


def settings_of(mirror: Mirror) -> Settings:
    """What the installation's ForkliftController and the environment say. Raises Invalid."""
    found = next(iter(sorted(mirror.objects(FORKLIFT_CONTROLLER).items())), None)
    spec = ForkliftController.read(found[1]).spec if found else None
    return Settings.from_spec(spec, environ)


async def _side(
    store: Store, providers: ProviderController, ref: ObjectReference, namespace: str, field: str
) -> Connection:
    key = Key(ref.namespace or namespace, ref.name)
    try:
        return providers.get(ref, namespace)
    except NotFound:
        await _object(store, PROVIDER, ref, namespace, field)
        raise Busy("it is being opened", what=f"provider {'/'.join(key)!r}", fault="Staging") from None
    except TranshipError as error:
        raise NotReady(str(error), what="provider", name="/".join(key), remedy=error.suggestion) from error


async def _object(store: Store, kind: Kind, ref: ObjectReference, namespace: str, field: str) -> Object:
    try:
        return await store.get(kind, ref.namespace or namespace, ref.name)
    except NotFound as error:
        raise Invalid(str(error), field=field, remedy=f"Create the {kind}, or correct the reference.") from error
