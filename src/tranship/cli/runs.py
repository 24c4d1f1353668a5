"""Plans and their migrations, as several commands look at them: which one runs, its VMs, how it ended."""

from datetime import datetime
from typing import Any

from tranship.cli.client import Client
from tranship.cli.kinds import MIGRATION, PLAN, dig, holds
from tranship.cli.output import moment
from tranship.errors import Invalid, NotFound, NotReady
from tranship.units import format_time, parse_duration, parse_time

Object = dict[str, Any]


def migrations(client: Client, namespace: str, plan: str) -> list[Object]:
    """Of one plan, oldest first."""
    found = [item for item in client.list(MIGRATION, namespace)["items"] if belongs(item, namespace, plan)]
    return sorted(found, key=lambda item: str(item["metadata"].get("creationTimestamp", "")))


def belongs(migration: Object, namespace: str, plan: str) -> bool:
    ref = dig(migration, "spec.plan") or {}
    return ref.get("name") == plan and (ref.get("namespace") or namespace) == namespace


def active(client: Client, namespace: str, plan: str) -> Object:
    """The migration under way, or the one that is next. Raises NotFound (no such plan), NotReady (nothing runs)."""
    open_ = [one for one in migrations(client, namespace, plan) if not dig(one, "status.completed")]
    if open_:
        return next((one for one in open_ if holds(one, "Running")), open_[0])
    client.get(PLAN, namespace, plan)
    raise NotReady(
        "no migration of it is under way", what="plan", name=plan, remedy=f"Start it: tranship start {plan}."
    )


def latest(client: Client, namespace: str, plan: str) -> Object | None:
    """The migration under way, else the last one."""
    found = migrations(client, namespace, plan)
    running = [one for one in found if not dig(one, "status.completed")]
    last = running or found
    return next((one for one in running if holds(one, "Running")), last[-1] if last else None)


def vms_of(migration: Object) -> list[Object]:
    return dig(migration, "status.vms") or []


def find_vms(client: Client, migration: Object, words: tuple[str, ...]) -> list[Object]:
    """{id, name} of the VMs that are meant by id or name; of all, without words. Raises NotFound."""
    known = vms_of(migration)
    if not known:
        meta, plan = migration["metadata"], dig(migration, "spec.plan") or {}
        known = dig(client.get(PLAN, plan.get("namespace") or meta["namespace"], plan["name"]), "spec.vms") or []
    if not words:
        return known
    chosen = []
    for word in words:
        fitting = [vm for vm in known if word in (vm.get("id"), vm.get("name"))]
        if not fitting:
            names = ", ".join(str(vm.get("name") or vm.get("id")) for vm in known)
            raise NotFound(what="VM", name=word, remedy=f"The plan has {names}.")
        chosen += fitting
    return chosen


def parse_when(text: str, now: datetime, option: str) -> str:
    """`now`, a duration from now (30m, +1h30m) or a time (RFC 3339), as the API wants it. Raises Invalid."""
    if text == "now":
        return format_time(now)
    try:
        if text[:1] == "+" or text[-1:] in "smh":
            return format_time(
                datetime.fromtimestamp(now.timestamp() + parse_duration(text.removeprefix("+")), now.tzinfo)
            )
        return format_time(parse_time(text))
    except (ValueError, OverflowError) as error:
        remedy = "Write now, a duration such as 30m, or a time such as 2026-01-31T23:00:00Z."
        raise Invalid(str(error), field=option, remedy=remedy) from error


def succeeded(vm: Object) -> bool:
    return vm.get("outcome") == "succeeded" or holds({"status": vm}, "Succeeded")


def exit_code(migration: Object) -> int:
    """Of an ended migration: 0 all VMs moved, 4 some of them, 1 none."""
    good = [succeeded(vm) for vm in vms_of(migration)]
    if all(good) and good:
        return 0
    return 4 if any(good) else 1


def blockers(obj: Object) -> list[Object]:
    """Conditions that hold and keep the object from being used."""
    return [
        one
        for one in dig(obj, "status.conditions") or []
        if one.get("status") == "True" and one.get("category") in ("Critical", "Error")
    ]


def blocked(kind: str, obj: Object) -> NotReady:
    """What keeps it, in one sentence with its remedies."""
    found = blockers(obj)
    detail = "; ".join(f"{one.get('message') or one.get('type')}" for one in found) or "it has not been validated yet"
    remedy = " ".join(str(one["suggestion"]) for one in found if one.get("suggestion"))
    name = obj["metadata"]["name"]
    return NotReady(detail, what=kind, name=name, remedy=remedy or f"See tranship describe {kind} {name}.")


def validated(obj: Object) -> bool:
    """Whether its controller has looked at the present spec."""
    seen = dig(obj, "status.observedGeneration")
    return seen is not None and seen >= (obj["metadata"].get("generation") or 0)


def ended_at(obj: Object) -> datetime | None:
    return moment(dig(obj, "status.completed"))
