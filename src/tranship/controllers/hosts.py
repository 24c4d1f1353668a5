"""Hosts: does each name an ESXi host of its provider, and does that let us in? Conditions, by a login that is real.

The provider controller hands those that are fit to the source (access.py). Without the provider nothing can be said: then what
was said before stays.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from tranship.controllers.access import access_to
from tranship.controllers.manager import Watch, everything
from tranship.controllers.mirror import Key, key_of
from tranship.controllers.providers import RECHECK, RETRY, ProviderController
from tranship.errors import Busy, Invalid, NotFound, NotUnique, TranshipError
from tranship.inventory import estate as inventory
from tranship.inventory.estate import Estate, find
from tranship.providers import registry
from tranship.providers.base import HostAccess, Identity
from tranship.resources.conditions import READY, Category, Conditions
from tranship.resources.host import Host
from tranship.resources.meta import HOST, PROVIDER, SECRET, Kind
from tranship.resources.model import to_json
from tranship.resources.provider import VSPHERE, Provider
from tranship.resources.unacted import unacted
from tranship.store.base import Object, Store

_FIELDS = {"spec.provider": "RefNotValid", "spec.id": "RefNotValid", "spec.ipAddress": "IpNotValid"}


class HostController:
    name = "host"

    def __init__(self, store: Store, providers: ProviderController) -> None:
        self._store, self._providers = store, providers
        self._known: dict[Key, Key] = {}  # and their secrets
        self._tests: dict[Key, tuple[HostAccess, float, Identity | TranshipError]] = {}

    @property
    def known(self) -> Iterable[Key]:
        return tuple(self._known)

    @property
    def watches(self) -> Mapping[Kind, Watch]:
        return {HOST: Watch(lambda obj: [key_of(obj)]), SECRET: Watch(self._users, everything)}

    def _users(self, secret: Object) -> list[Key]:
        return [host for host, used in self._known.items() if used == key_of(secret)]

    async def reconcile(self, key: Key) -> float | None:
        try:
            host = Host.read(await self._store.get(HOST, *key))
        except NotFound:
            self._known.pop(key, None)
            self._tests.pop(key, None)
            return None
        self._known[key] = Key(host.spec.secret.namespace or host.namespace, host.spec.secret.name)
        was = to_json(host.status)
        conditions, now = Conditions(host.status.conditions), datetime.now(UTC)
        before = self._access(key)
        conditions.begin_staging()
        try:
            await self._judge(key, host, conditions, now)
        except Busy as error:
            if host.status.observed_generation == host.metadata.generation:
                return RETRY
            conditions.set("ProviderNotReady", Category.ERROR, now, reason="Staging", message=str(error))
        for field in unacted(host):
            text = f"{field.path}: {field.why}"
            conditions.set(
                "FieldsNotActedOn", Category.ADVISORY, now, reason="NotSupported", message=text, items=[field.path]
            )
        conditions.end_staging()
        host.status.observed_generation = host.metadata.generation
        if (status := to_json(host.status)) != was:
            await self._store.patch(HOST, *key, {"status": status}, subresource="status")
        if self._access(key) != before:
            self._providers.look_again(Key(host.spec.provider.namespace or host.namespace, host.spec.provider.name))
        return RECHECK if conditions.ready else RETRY

    async def _judge(self, key: Key, host: Host, conditions: Conditions, now: datetime) -> None:
        """Raises Busy while the provider cannot be asked."""
        try:
            provider = await self._provider(host)
            if provider.spec.type != VSPHERE:
                text = f"provider {provider.name} is of type {provider.spec.type}"
                remedy = "Name a provider of type vsphere: only ESXi hosts are read from directly."
                conditions.set(
                    "TypeNotValid", Category.CRITICAL, now, reason="NotSupported", message=text, suggestion=remedy
                )
                return
            _say_state(_named(host, self._estate(host)), conditions, now)
            secret = await self._providers.secret(provider)
            access = await access_to(self._store, host, secret)
        except Invalid as error:
            type = _FIELDS.get(error.field, "SecretNotValid")
            text, remedy = str(error), error.suggestion
            conditions.set(type, Category.CRITICAL, now, reason=error.reason, message=text, suggestion=remedy)
            return
        conditions.set("Validated", Category.ADVISORY, now, reason="Completed", message="the host is valid")
        if not conditions.blocking:
            _say_test(await self._test(key, access), conditions, now)

    async def _provider(self, host: Host) -> Provider:
        ref, remedy = host.spec.provider, "Create the provider, or correct the reference."
        if not ref:
            raise Invalid("is missing", field="spec.provider", remedy="Name the provider whose host this is.")
        try:
            return Provider.read(await self._store.get(PROVIDER, ref.namespace or host.namespace, ref.name))
        except NotFound as error:
            raise Invalid(str(error), field="spec.provider", remedy=remedy) from error

    def _estate(self, host: Host) -> Estate:
        what = f"provider {host.spec.provider.name!r}"
        try:
            found = self._providers.get(host.spec.provider, host.namespace).estate
        except TranshipError as error:
            raise Busy(str(error), what=what, fault="NotReady") from error
        if found is None:
            raise Busy("its inventory is being loaded", what=what, fault="Staging")
        return found

    def _access(self, key: Key) -> HostAccess | None:
        """That which was tested last."""
        return self._tests[key][0] if key in self._tests else None

    async def _test(self, key: Key, access: HostAccess) -> Identity | TranshipError:
        """Not at every change of the inventory: hosts count failed logins."""
        if key in self._tests:
            tested, when, outcome = self._tests[key]
            good_for = RETRY if isinstance(outcome, TranshipError) else RECHECK
            if tested == access and time.monotonic() - when < good_for:
                return outcome
        try:
            outcome = await asyncio.to_thread(registry.identify_host, VSPHERE, access)
        except TranshipError as error:
            outcome = error
        self._tests[key] = access, time.monotonic(), outcome
        return outcome


def _named(host: Host, estate: Estate) -> inventory.Host:
    """Raises Invalid."""
    if not host.spec.id and not host.spec.name:
        remedy = "Write the host's id (host-NN) or name, as the inventory has it, into spec.id or spec.name."
        raise Invalid("neither id nor name is given", field="spec.id", remedy=remedy)
    try:
        return find("host", estate.hosts, id=host.spec.id, name=host.spec.name)
    except (NotFound, NotUnique) as error:
        raise Invalid(str(error), field="spec.id", remedy=error.suggestion) from error


def _say_state(fact: inventory.Host, conditions: Conditions, now: datetime) -> None:
    if fact.in_maintenance:
        text = f"{fact.name} is in maintenance mode"
        conditions.set(
            "InMaintenance", Category.CRITICAL, now, message=text, suggestion="Take it out of maintenance mode."
        )
    if fact.status == "red":
        text = f"the vCenter says that {fact.name} is red"
        conditions.set("NotHealthy", Category.CRITICAL, now, message=text, suggestion="See its alarms in the vCenter.")
    elif fact.status != "green":
        text = f"the vCenter says that {fact.name} is {fact.status or 'of no known status'}"
        conditions.set(
            "HostStatusNotGreen", Category.WARN, now, message=text, suggestion="See its alarms in the vCenter."
        )


def _say_test(outcome: Identity | TranshipError, conditions: Conditions, now: datetime) -> None:
    if isinstance(outcome, TranshipError):
        reason, text, remedy = outcome.reason, str(outcome), outcome.suggestion
        if isinstance(outcome, Invalid):
            conditions.set("SecretNotValid", Category.CRITICAL, now, reason=reason, message=text, suggestion=remedy)
        else:
            conditions.set(
                "ConnectionTestFailed", Category.CRITICAL, now, reason=reason, message=text, suggestion=remedy
            )
        return
    product = f"{outcome.product} {outcome.version}"
    conditions.set(
        "ConnectionTestSucceeded", Category.REQUIRED, now, reason="Tested", message=f"logged in at {product}"
    )
    if outcome.insecure:
        text = "the host's certificate is not verified, because the provider's secret says insecureSkipVerify"
        remedy = "Put the host's CA or thumbprint into its secret."
        conditions.set("ConnectionInsecure", Category.WARN, now, message=text, suggestion=remedy)
    conditions.set(READY, Category.REQUIRED, now, message="disks of VMs on it are read from it")
