"""Several plans may name one VM; at most one migration moves it at a time. Called by the plan and migration controllers.

A VM is known by its source and its id there. Two providers that lead to the same platform are one source.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import NamedTuple

from tranship.controllers.mirror import Key, key_of
from tranship.controllers.providers import ProviderController
from tranship.errors import TranshipError
from tranship.migration.checks import Finding
from tranship.resources.conditions import Category
from tranship.resources.meta import ObjectReference
from tranship.store.base import Object
from tranship.units import parse_time


class Rival(NamedTuple):
    """Whoever moves, or has moved, a VM that another plan names. moved: when that ended; None = it is under way."""

    vm: str
    what: str
    moved: datetime | None = None


def rivals(
    all_plans: Iterable[Object],
    runs: Iterable[Object],
    providers: ProviderController,
    plan: Key,
    source: ObjectReference,
    vms: Mapping[str, str],
) -> list[Rival]:
    """vms: id -> name of those that the plan wants to move from the source."""
    plans = {key_of(obj): obj for obj in all_plans}
    wanted = _platform(providers, source, plan.namespace)

    def same_source(other: Key) -> bool:
        """A plan that was deleted while its migration goes on does not say any more: it might be."""
        if other not in plans:
            return True
        told = ObjectReference.model_validate(plans[other]["spec"]["provider"]["source"])
        return bool(wanted & _platform(providers, told, other.namespace))

    found = []
    for run in runs:
        status, owner = run.get("status") or {}, plan_key(run)
        if status.get("completed") or owner == plan or not status.get("vms"):
            continue
        busy = [one["id"] for one in status["vms"] if one["id"] in vms and not one.get("completed")]
        if busy and same_source(owner):
            what = f"migration {run['metadata']['name']} of plan {'/'.join(owner)}"
            found += [Rival(vms[id], what) for id in busy]
    for key, other in plans.items():
        if key != plan and (moved := list(_moved(other, vms))) and same_source(key):
            found += [Rival(vms[id], f"plan {'/'.join(key)}", when) for id, when in moved]
    return found


def findings(found: list[Rival]) -> Iterator[Finding]:
    """For a plan that is looked at: nothing here keeps it from being valid."""
    for one in found:
        if one.moved is None:
            text, remedy = (
                f"{one.vm} is being moved by {one.what}",
                "A migration of this plan waits for the end of that one.",
            )
            yield Finding("VMBeingMigrated", Category.WARN, text, remedy, "Started", one.vm)
        else:
            text = f"{one.vm} was moved by {one.what} already ({one.moved:%Y-%m-%d %H:%M} UTC)"
            remedy = "Take it out of this plan, unless it is to be moved once more from what the source has now."
            yield Finding("VMAlreadyMigrated", Category.WARN, text, remedy, "Succeeded", one.vm)


def objection(found: list[Rival], asked: datetime | None) -> tuple[str, Category, str, str] | None:
    """Why a migration that was asked for then must not begin now, as a condition: type, category, text, remedy."""
    for one in found:
        if one.moved is None:
            text = f"{one.vm} is being moved by {one.what}"
            return "Pending", Category.ADVISORY, text, "It starts when that one has ended."
    for one in found:
        if one.moved is not None and asked is not None and one.moved >= asked:
            text = f"{one.vm} was moved by {one.what} while this migration waited"
            remedy = "Delete this migration; take the VM out of the plan, or start the plan again to move it once more."
            return "VMAlreadyMigrated", Category.CRITICAL, text, remedy
    return None


def _moved(plan: Object, vms: Mapping[str, str]) -> Iterator[tuple[str, datetime]]:
    for one in ((plan.get("status") or {}).get("migration") or {}).get("vms") or ():
        if one.get("outcome") == "succeeded" and one.get("id") in vms and one.get("completed"):
            yield one["id"], parse_time(one["completed"])


def _platform(providers: ProviderController, ref: ObjectReference, namespace: str) -> frozenset[str]:
    """By what the platform is known: the provider's key, and what it calls itself if it can be asked."""
    names = {f"{ref.namespace or namespace}/{ref.name}"}
    try:
        identity = providers.get(ref, namespace).identity
    except TranshipError:
        identity = None
    return frozenset(names | ({identity.uuid} if identity and identity.uuid else set()))


def plan_key(migration: Object) -> Key:
    plan = migration["spec"]["plan"]
    return Key(plan.get("namespace") or migration["metadata"].get("namespace", ""), plan.get("name", ""))
