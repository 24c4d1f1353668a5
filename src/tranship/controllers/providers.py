"""Providers: connect, say what is wrong, keep the inventory fresh. Others get live connections here.

One Connection per Provider object. It is opened anew when the object or its secret changes; a broken one is retried with
the same reconcile. Estates are published from the source's own thread.
"""

import asyncio
import threading
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from os import environ
from pathlib import Path

import structlog

from tranship.cluster.kubeconfig import Access
from tranship.controllers.access import accesses, provider_of, values_of
from tranship.controllers.manager import Watch, everything
from tranship.controllers.mirror import Key, key_of
from tranship.errors import Invalid, NotFound, TranshipError
from tranship.inventory.estate import Estate
from tranship.inventory.vm import VM
from tranship.providers import registry
from tranship.providers.base import Fence, HostAccess, Identity, Source, Target, nothing_fenced
from tranship.resources.conditions import READY, Category, Conditions
from tranship.resources.controller import ForkliftController, vddk_image
from tranship.resources.meta import FORKLIFT_CONTROLLER, HOST, PROVIDER, SECRET, Kind, ObjectReference
from tranship.resources.model import to_json
from tranship.resources.provider import LOCAL, OPENSHIFT, VSPHERE, Provider
from tranship.resources.secret import Secret
from tranship.store.base import Object, Store

log = structlog.get_logger()

RETRY = 10.0
RECHECK = 300.0  # a password may expire, a privilege may be taken away


@dataclass
class Connection:
    """version: of Provider and Secret, to know when to open anew. estate None = not loaded yet. per_host: VMs are read from
    the hosts that they are on, and each host is a bottleneck of its own."""

    version: str
    per_host: bool = False
    source: Source | None = None
    target: Target | None = None
    identity: Identity | None = None
    estate: Estate | None = None
    trouble: TranshipError | None = None
    hosts: list[HostAccess] = field(default_factory=list)
    """From which disks are read directly."""
    stop: threading.Event = field(default_factory=threading.Event)

    def close(self) -> None:
        self.stop.set()
        for side in (self.source, self.target):
            if side is not None:
                side.close()


class ProviderController:
    """changed: called in the event loop with the provider's key whenever its estate or health changed. again: asks for a
    reconcile of that provider. own: the way to the cluster whose objects the controllers work on, None = they have a store
    of their own."""

    name = "provider"

    def __init__(
        self,
        store: Store,
        directory: Path,
        changed: Callable[[Key], None],
        again: Callable[[Key], None],
        own: Access | None = None,
        fence: Fence = nothing_fenced,
    ) -> None:
        self._store, self._fence = store, fence
        self._own = own
        self._directory = directory
        self._changed = changed
        self._again = again
        self._connections: dict[Key, Connection] = {}
        self._uids: dict[str, Key] = {}

    @property
    def watches(self) -> Mapping[Kind, Watch]:
        return {
            PROVIDER: Watch(lambda obj: [key_of(obj)]),
            SECRET: Watch(self._users, everything),
            FORKLIFT_CONTROLLER: Watch(lambda obj: list(self._uids.values())),
            HOST: Watch(lambda obj: [provider_of(obj)], everything),
        }

    def _users(self, secret: Object) -> list[Key]:
        return [key for key in self._uids.values() if key.namespace == secret["metadata"].get("namespace", "")]

    def get(self, ref: ObjectReference, namespace: str) -> Connection:
        """The connection that a reference of an object in `namespace` means. Raises NotFound, or what is wrong with it."""
        key = Key(ref.namespace or namespace, ref.name)
        connection = self._connections.get(key)
        if connection is None:
            raise NotFound(what="provider", name="/".join(key), remedy="Create it, or correct the reference.")
        if connection.trouble:
            raise connection.trouble
        return connection

    def estate(self, uid: str) -> Estate | None:
        connection = self._connections.get(self._uids.get(uid, Key("", "")))
        return connection.estate if connection else None

    def vm(self, provider: Key, id: str) -> VM | None:
        """As the inventory knows it."""
        connection = self._connections.get(provider)
        return connection.estate.vms.get(id) if connection and connection.estate else None

    def lane(self, provider: Key, vm: str) -> Hashable:
        """What a VM's copy is a load for: the ESXi host that it is on, else the whole provider."""
        connection = self._connections.get(provider)
        known = self.vm(provider, vm) if connection and connection.per_host else None
        return provider, known.host if known else ""

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()

    async def reconcile(self, key: Key) -> float | None:
        try:
            provider = Provider.read(await self._store.get(PROVIDER, *key))
        except NotFound:
            self._uids = {uid: one for uid, one in self._uids.items() if one != key}
            gone = self._connections.pop(key, None)
            if gone:
                await asyncio.to_thread(gone.close)
            return None
        self._uids[provider.uid] = key
        conditions = Conditions(provider.status.conditions)
        conditions.begin_staging()
        before = self._connections.get(key)
        try:
            connection = await self._connect(key, provider)
            trouble = connection.trouble
        except TranshipError as error:
            connection, trouble = None, error
        if trouble is not None:
            _say_trouble(conditions, trouble)
        elif connection is not None:
            _say_health(conditions, connection)
        conditions.end_staging()
        was_ready = provider.status.phase == "Ready"
        await self._save(provider, connection, ready=conditions.ready)
        if conditions.ready != was_ready or self._connections.get(key) is not before:
            self._changed(key)
        return RETRY if not conditions.ready else RECHECK

    async def _connect(self, key: Key, provider: Provider) -> Connection:
        secret = await self._secret(provider)
        settings = await self._settings(provider)
        hosts = await accesses(self._store, key, values_of(secret)) if provider.spec.type == VSPHERE else []
        version = f"{provider.metadata.generation}/{secret.metadata.resource_version if secret else ''}/{settings}"
        old = self._connections.get(key)
        if old is not None and old.version == version and old.trouble is None:
            if old.source is not None and hosts != old.hosts:
                await asyncio.to_thread(old.source.read_from, hosts)
                old.hosts = hosts
                self._changed(key)
            old.identity = await asyncio.to_thread((old.source or old.target).identify)  # type: ignore[union-attr]
            if old.target is not None:
                old.estate = await asyncio.to_thread(old.target.estate)
            return old
        if old is not None:
            await asyncio.to_thread(old.close)
        connection = self._connections[key] = Connection(version, provider.spec.type == VSPHERE, hosts=hosts)
        try:
            self._open(connection, provider, secret, settings)
            side = connection.source or connection.target
            assert side is not None
            connection.identity = await asyncio.to_thread(side.identify)
        except TranshipError as error:
            connection.trouble = error
            return connection
        if connection.source is not None:
            self._follow(key, connection, connection.source)
        elif connection.target is not None:
            connection.estate = await asyncio.to_thread(connection.target.estate)
        return connection

    async def _settings(self, provider: Provider) -> dict[str, str]:
        """The provider's own, and what the installation says where they say nothing."""
        spec = provider.spec
        if spec.type == LOCAL:
            return {"directory": str(self._directory / "vms" / provider.name), **spec.settings}
        if spec.type == VSPHERE and not {"vddkInitImage", "vddkVolumeClaim"} & spec.settings.keys():
            found = (await self._store.list(FORKLIFT_CONTROLLER)).items
            image = vddk_image(ForkliftController.read(found[0]).spec if found else None, environ)
            return {**spec.settings, **({"vddkInitImage": image} if image else {})}
        return dict(spec.settings)

    def _open(
        self, connection: Connection, provider: Provider, secret: Secret | None, settings: Mapping[str, str]
    ) -> None:
        spec = provider.spec
        values = values_of(secret)
        if spec.type in (LOCAL, OPENSHIFT):
            connection.target = registry.open_target(spec.type, spec.url, values, settings, self._own, self._fence)
        else:
            if not spec.url:
                raise Invalid(
                    "is missing",
                    field="spec.url",
                    remedy="Write the address: https://VCENTER/sdk, or https://ENGINE/ovirt-engine/api.",
                )
            source = registry.open_source(spec.type, spec.url, values, settings, self._fence)
            source.read_from(connection.hosts)
            connection.source = source  # not before: no disk shall take another way than its host's

    async def secret(self, provider: Provider) -> dict[str, str]:
        """What stands in its secret. Raises Invalid."""
        return values_of(await self._secret(provider))

    def look_again(self, key: Key) -> None:
        """What its secrets or hosts have to say is new."""
        self._again(key)

    async def _secret(self, provider: Provider) -> Secret | None:
        ref = provider.spec.secret
        if not ref:
            if provider.spec.type == LOCAL or (provider.spec.type == OPENSHIFT and not provider.spec.url):
                return None
            remedy = "Name the secret that holds user and password, or a cluster's token."
            raise Invalid("is missing", field="spec.secret", remedy=remedy)
        try:
            return Secret.read(await self._store.get(SECRET, ref.namespace or provider.namespace, ref.name))
        except NotFound as error:
            raise Invalid(str(error), field="spec.secret", remedy="Create the secret, or correct the name.") from error

    def _follow(self, key: Key, connection: Connection, source: Source) -> None:
        loop = asyncio.get_running_loop()

        def publish(estate: Estate) -> None:
            if connection.stop.is_set():  # the application is closing; its loop may be gone
                return
            first = connection.estate is None
            connection.estate = estate
            if first:
                log.info("inventory loaded", provider="/".join(key), vms=len(estate.vms))
                loop.call_soon_threadsafe(self._again, key)
            loop.call_soon_threadsafe(self._changed, key)

        def run() -> None:
            while not connection.stop.is_set():
                try:
                    source.follow(publish, connection.stop)
                except TranshipError as error:
                    log.warning("inventory broke off", provider="/".join(key), error=str(error))
                connection.stop.wait(RETRY)

        threading.Thread(target=run, name=f"inventory {key.name}", daemon=True).start()

    async def _save(self, provider: Provider, connection: Connection | None, *, ready: bool) -> None:
        identity = connection.identity if connection else None
        failed = connection is None or connection.trouble is not None
        status = {
            "phase": "Ready" if ready else "ConnectionFailed" if failed else "Staging",
            "conditions": [to_json(one) for one in provider.status.conditions],
            "observedGeneration": provider.metadata.generation,
            "fingerprint": identity.fingerprint if identity else "",
        }
        await self._store.patch(PROVIDER, provider.namespace, provider.name, {"status": status}, subresource="status")


def _say_trouble(conditions: Conditions, error: TranshipError) -> None:
    types = {
        "Invalid": "SettingsNotValid",
        "AuthFailed": "ConnectionAuthFailed",
        "Unsupported": "ProviderTypeNotSupported",
    }
    type = types.get(error.reason, "ConnectionTestFailed")
    if error.reason == "Invalid":
        type = {"spec.secret": "SecretNotValid", "spec.url": "UrlNotValid"}.get(error.field, type)
    now = datetime.now(UTC)
    reason, text = error.reason, str(error)
    conditions.set(type, Category.CRITICAL, now, reason=reason, message=text, suggestion=error.suggestion)


def _say_health(conditions: Conditions, connection: Connection) -> None:
    now, identity = datetime.now(UTC), connection.identity
    assert identity is not None
    product = f"{identity.product} {identity.version}"
    conditions.set(
        "ConnectionTestSucceeded", Category.REQUIRED, now, reason="Tested", message=f"connected to {product}"
    )
    conditions.set("Validated", Category.ADVISORY, now, reason="Completed", message="the provider is valid")
    if identity.insecure:
        text = "the platform's certificate is not verified, because the secret says insecureSkipVerify"
        remedy = "Put the CA into the secret's ca.crt and remove insecureSkipVerify."
        conditions.set("ConnectionInsecure", Category.WARN, now, message=text, suggestion=remedy)
    if identity.missing_privileges:
        text = f"the user lacks {', '.join(identity.missing_privileges)}"
        conditions.set(
            "InsufficientPrivileges", Category.WARN, now, message=text, suggestion="Grant them on the platform."
        )
    if connection.estate is None:
        conditions.set("LoadInventory", Category.ADVISORY, now, message="the inventory is being loaded")
        return
    conditions.set("InventoryCreated", Category.REQUIRED, now, reason="Completed", message="the inventory is loaded")
    conditions.set(READY, Category.REQUIRED, now, message="the provider is ready")
