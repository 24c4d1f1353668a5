"""Which hosts a provider's disks are read from directly, by the Hosts that users wrote; and what plans are told of them.

Called by the provider controller, which hands them to the source, by the host controller, which judges them, and by the plan
controller. What counts is what stands in the store, so a controller that has just started knows as much as the one before it.
"""

from collections.abc import Iterable, Mapping

from tranship.controllers.mirror import Key
from tranship.errors import Invalid, NotFound, TranshipError
from tranship.inventory.estate import Estate, find
from tranship.inventory.vm import VM
from tranship.migration.checks import Finding
from tranship.providers.base import HostAccess
from tranship.resources.conditions import Category, Conditions
from tranship.resources.host import Host
from tranship.resources.meta import HOST, SECRET
from tranship.resources.secret import Secret
from tranship.store.base import Object, Store

_NO_ANSWER = ("Unreachable", "TimedOut")


def provider_of(host: Object) -> Key:
    """Of a Host as it is stored."""
    ref = host["spec"].get("provider") or {}
    return Key(ref.get("namespace") or host["metadata"].get("namespace", ""), ref.get("name", ""))


def values_of(secret: Secret | None) -> dict[str, str]:
    """Raises Invalid for what is no text."""
    return {name: secret.text(name) for name in secret.keys} if secret else {}


def hosts_of(objects: Iterable[Object], provider: Key) -> list[Host]:
    found = []
    for obj in objects:
        try:
            if provider_of(obj) == provider:
                found.append(Host.read(obj))
        except TranshipError:
            continue
    return found


def counts(host: Host) -> bool:
    """Whether disks are read from it: it was found fit as it is written now. One that merely does not answer still counts, for
    whoever wrote it does not want its disks to take another way unnoticed."""
    conditions = Conditions(host.status.conditions)
    if host.status.observed_generation != host.metadata.generation or host.metadata.deletion_timestamp:
        return False
    return conditions.ready or (
        bool(conditions.blocking) and all(_silent(one.type, one.reason) for one in conditions.blocking)
    )


def _silent(type: str, reason: str) -> bool:
    return type == "ConnectionTestFailed" and reason in _NO_ANSWER


async def access_to(store: Store, host: Host, provider: Mapping[str, str]) -> HostAccess:
    """provider: its secret. Raises Invalid with the field that is wrong."""
    address, ref = host.spec.address, host.spec.secret
    if not ref:
        remedy = "Name the secret that holds the host's user and password."
        raise Invalid("is missing", field="spec.secret", remedy=remedy)
    try:
        secret = Secret.read(await store.get(SECRET, ref.namespace or host.namespace, ref.name))
    except NotFound as error:
        raise Invalid(str(error), field="spec.secret", remedy="Create the secret, or correct the name.") from error
    values = values_of(secret)
    for name in ("user", "password"):
        if not values.get(name):
            remedy = f"Put the host's {name} there."
            raise Invalid(f"secret {ref.name!r} has no {name}", field="spec.secret", remedy=remedy)
    values["insecureSkipVerify"] = provider.get("insecureSkipVerify", "")
    return HostAccess(f"{host.namespace}/{host.name}", host.spec.id, host.spec.name, address, values)


async def accesses(store: Store, provider: Key, secret: Mapping[str, str]) -> list[HostAccess]:
    """Of all that count."""
    found = []
    for host in hosts_of((await store.list(HOST)).items, provider):
        try:
            if counts(host):
                found.append(await access_to(store, host, secret))
        except Invalid:
            continue  # its controller says so
    return found


def not_ready(hosts: Iterable[Object], provider: Key, vms: list[VM], estate: Estate) -> list[Finding]:
    """Of the VMs that are on a host whose Host is not ready."""
    findings = []
    for host in hosts_of(hosts, provider):
        if Conditions(host.status.conditions).ready:
            continue
        try:
            id = find("host", estate.hosts, id=host.spec.id, name=host.spec.name).id
        except TranshipError:
            continue
        then = "copies wait for it" if counts(host) else "they are read through the vCenter"
        for vm in (vm for vm in vms if vm.host == id):
            text = f"{vm.name} is on a host whose Host {host.namespace}/{host.name} is not ready: until it is, {then}"
            remedy = "See its conditions, or delete it to read through the vCenter."
            findings.append(Finding("HostNotReady", Category.WARN, text, remedy, "NotReady", vm.name))
    return findings
