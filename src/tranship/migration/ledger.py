"""What of the target is known to be this migration's: the ledger's names, and the uid that each thing had when first seen.

Called by itinerary.py at every step. A thing is ours by its mark as long as no uid is noted; from then on by that uid alone, so
that what takes the name later, a restored or cloned copy with all its marks included, is never used and never removed.
"""

from collections.abc import Iterable
from dataclasses import replace

from tranship.migration.asks import Made
from tranship.migration.seen import Seen
from tranship.resources.vm import LedgerEntry, VMStatus


def acquaint(vm: VMStatus, seen: Seen) -> Seen:
    """Notes uids that are seen for the first time. The answer is what was seen, less what is somebody else's."""
    strangers = []
    for entry in vm.ledger:
        uid = seen.target.uids.get((entry.kind, entry.name), "") if entry.side == "target" else ""
        if uid and not entry.uid:
            entry.uid = uid
        elif uid and uid != entry.uid:
            strangers.append(entry)
    if not strangers:
        return seen
    keys = dict(zip(seen.policy.disk_names, seen.policy.disks, strict=True))
    lost = frozenset(keys[entry.name] for entry in strangers if entry.kind == "disk" and entry.name in keys)
    what = f"{strangers[0].kind} {strangers[0].name} is not the one that this migration made (uid {strangers[0].uid})"
    target = replace(seen.target, disks=seen.target.disks - lost, foreign=seen.target.foreign or what)
    return replace(seen, target=target)


def note(vm: VMStatus, things: Iterable[Made], seen: Seen) -> None:
    """Before they are made. One that was made before and is not there any more will have another uid."""
    known = {(entry.side, entry.kind, entry.name): entry for entry in vm.ledger}
    for made in things:
        entry = known.get((made.side, made.kind, made.name))
        if entry is None:
            vm.ledger.append(LedgerEntry(kind=made.kind, name=made.name, side=made.side))
        elif entry.side == "target" and (entry.kind, entry.name) not in seen.target.uids:
            entry.uid = ""


def made_on_target(vm: VMStatus, kind: str) -> dict[str, str]:
    """name -> uid of what the ledger says was made; "" = not seen yet, or the target knows no uids."""
    return {entry.name: entry.uid for entry in vm.ledger if (entry.side, entry.kind) == ("target", kind)}
