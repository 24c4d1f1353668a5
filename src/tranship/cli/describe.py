"""`tranship describe`: everything about one object. For plans and migrations: every VM, and why it stands where it does."""

from typing import Any

import click

from tranship.cli import output, runs
from tranship.cli.context import Context, namespace_option, pass_context
from tranship.cli.kinds import MIGRATION, PLAN, SECRET, Kind, dig, parse_targets, plan_type
from tranship.cli.vmtext import vm_text
from tranship.errors import Invalid

Object = dict[str, Any]
STORY = 12  # lines of each VM's story, unless all are wanted


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="KIND NAME")
@namespace_option
@click.option("--story", is_flag=True, help="The whole story of each VM, not only its end.")
@pass_context
def describe(context: Context, words: tuple[str, ...], namespace: str, story: bool) -> None:
    """Tell everything about one object: `describe plan web`, `describe provider/vcenter`."""
    targets = parse_targets(words)
    if len(targets) != 1 or not targets[0][1]:
        raise Invalid("describe tells about one object", field="NAME", remedy="Write KIND NAME.")
    kind, name = targets[0]
    obj = context.client.get(kind, namespace, name)
    parts = [_head(kind, obj)]
    if kind is PLAN:
        parts += [_plan(obj), _conditions(obj)]
        migration = runs.latest(context.client, namespace, name)
        parts += _run(migration, story) if migration else ["Migrations: none; start it with tranship start " + name]
    elif kind is MIGRATION:
        parts += [_conditions(obj), *_run(obj, story)]
    else:
        parts += [_spec(kind, obj), _conditions(obj)]
    click.echo("\n\n".join(part for part in parts if part))


def pairs(rows: list[tuple[str, Any]], indent: int = 0) -> str:
    shown = [(f"{name}:", str(value)) for name, value in rows if value not in (None, "", [], {})]
    return output.columns(shown, indent) if shown else ""


def _head(kind: Kind, obj: Object) -> str:
    meta = obj["metadata"]
    return pairs(
        [
            ("Name", meta["name"]),
            ("Namespace", meta.get("namespace")),
            ("Kind", kind.kind),
            ("Created", meta.get("creationTimestamp")),
            ("Deleted", meta.get("deletionTimestamp")),
            ("Labels", ", ".join(f"{key}={value}" for key, value in (meta.get("labels") or {}).items())),
        ]
    )


def _plan(plan: Object) -> str:
    return pairs(
        [
            ("Description", dig(plan, "spec.description")),
            ("Type", plan_type(plan)),
            ("Source", dig(plan, "spec.provider.source.name")),
            ("Destination", dig(plan, "spec.provider.destination.name")),
            ("Target namespace", dig(plan, "spec.targetNamespace")),
            ("Network map", dig(plan, "spec.map.network.name")),
            ("Storage map", dig(plan, "spec.map.storage.name")),
            ("Precopy interval", dig(plan, "spec.precopy.interval")),
            ("VMs", ", ".join(str(vm.get("name") or vm.get("id")) for vm in dig(plan, "spec.vms") or [])),
            ("Archived", "yes" if dig(plan, "spec.archived") else None),
        ]
    )


def _spec(kind: Kind, obj: Object) -> str:
    if kind is SECRET:
        return pairs([("Type", obj.get("type")), ("Keys", ", ".join(obj.get("data") or {}))])
    spec = obj.get("spec")
    text = output.yaml_text(spec) if spec else ""
    phase = dig(obj, "status.phase")
    return "\n".join(
        [
            *(["Spec:", *("  " + line for line in text.splitlines())] if text else []),
            *([f"Phase: {phase}"] if phase else []),
        ]
    )


def _conditions(obj: Object) -> str:
    found = dig(obj, "status.conditions") or []
    if not found:
        return ""
    lines = ["Conditions:"]
    for one in found:
        lines.append(f"  {one.get('type')}={one.get('status')}   {one.get('category', '')}".rstrip())
        lines += [f"    {text}" for text in (one.get("message"),) if text]
        lines += [f"    fix: {text}" for text in (one.get("suggestion"),) if text]
        lines += [f"    - {item}" for item in one.get("items") or []]
    return "\n".join(lines)


def _run(migration: Object, story: bool) -> list[str]:
    meta = migration["metadata"]
    own = {entry["id"]: entry["cutover"] for entry in dig(migration, "spec.vmCutover") or []}
    head = pairs(
        [
            ("Migration", meta["name"]),
            ("Started", dig(migration, "status.started")),
            ("Cutover", dig(migration, "spec.cutover") or ("not set" if _is_warm(migration) else None)),
            ("Completed", dig(migration, "status.completed")),
            ("Waits", "; ".join(str(one.get("message")) for one in runs.blockers(migration))),
        ]
    )
    length = None if story else STORY
    return [head, *(vm_text(vm, cutover=own.get(vm.get("id")), story=length) for vm in runs.vms_of(migration))]


def _is_warm(migration: Object) -> bool:
    return any(vm.get("warm") or str(vm.get("itinerary", "")).startswith("warm") for vm in runs.vms_of(migration))
