"""The PropertyCollector: what an inventory client reads everything through.

A retrieval and a filter select objects by the same walk over SelectionSpecs. A filter remembers, per object, the XML of
each property that its client has; an update is the difference between that and now, cut to the size that the client asked
for and committed piece by piece, so truncated updates, objects that come and go in between and changes that undo
themselves need no case of their own. The last answer is kept: a client that lost it repeats its version and gets it again.
"""

import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

from tranship.lab.vsphere import soap
from tranship.lab.vsphere.calls import Call
from tranship.lab.vsphere.state import State
from tranship.lab.vsphere.vmomi import VmomiSupport, vmodl
from tranship.lab.vsphere.world import Managed, World, declared_type, invalid_argument, property_names

Query = vmodl.query.PropertyCollector
LONGEST_WAIT = 1800.0
"""Seconds that a wait without a limit lasts: vCenter, too, lets go of one after half an hour."""


def reference(item: Managed, tag: str = "obj") -> str:
    return f'<{tag} type="{VmomiSupport.GetWsdlName(item.kind)}">{item.moid}</{tag}>'


class Selection:
    """A PropertyFilterSpec, checked once and then walked as often as needed."""

    def __init__(self, world: World, spec: Any) -> None:
        self.world = world
        self.spec = spec
        self._paths: dict[Any, list[str]] = {}
        for part in spec.propSet:
            for path in part.pathSet:
                declared_type(part.type, path)
        self.named: dict[str, Any] = {}
        for start in spec.objectSet:
            self._collect(start.selectSet)
        for start in spec.objectSet:
            self._check(start.selectSet)
        self.objects()  # a start that does not exist is refused now

    def _collect(self, parts: list[Any]) -> None:
        for part in parts:
            if isinstance(part, Query.TraversalSpec):
                declared_type(part.type, part.path)
                if part.name:
                    self.named[part.name] = part
                self._collect(part.selectSet)

    def _check(self, parts: list[Any]) -> None:
        for part in parts:
            if isinstance(part, Query.TraversalSpec):
                self._check(part.selectSet)
            elif part.name not in self.named:
                raise invalid_argument("selectSet", f"no traversal is named {part.name}")

    def objects(self) -> dict[str, Managed]:
        """The selected objects by id, in the order of the walk, those without a matching propSet left out."""
        found: dict[str, Managed] = {}
        walked: set[tuple[str, int]] = set()
        for start in self.spec.objectSet:
            if start.obj._moId not in self.world.objects and self.spec.reportMissingObjectsInResults:
                continue
            item = self.world.find(start.obj._moId)
            if not start.skip:
                found[item.moid] = item
            self._walk(item, start.selectSet, found, walked)
        return {moid: item for moid, item in found.items() if self.paths(item) is not None}

    def _walk(self, item: Managed, parts: list[Any], found: dict[str, Managed], walked: set[tuple[str, int]]) -> None:
        for part in parts:
            step = part if isinstance(part, Query.TraversalSpec) else self.named[part.name]
            if not issubclass(item.kind, step.type) or (item.moid, id(step)) in walked:
                continue
            walked.add((item.moid, id(step)))
            value = item.value(step.path)
            for ref in value if isinstance(value, list) else [value]:
                target = self.world.objects.get(ref._moId) if ref is not None else None
                if target is None:
                    continue
                if not step.skip:
                    found[target.moid] = target
                self._walk(target, step.selectSet, found, walked)

    def paths(self, item: Managed) -> list[str] | None:
        """What is asked of an object; None where no propSet is for its kind."""
        if item.kind not in self._paths:
            fitting = [part for part in self.spec.propSet if issubclass(item.kind, part.type)]
            wanted: dict[str, None] = {}
            for part in fitting:
                wanted.update(dict.fromkeys(property_names(item.kind) if part.all else part.pathSet))
            self._paths[item.kind] = list(wanted) if fitting else ["\0"]
        paths = self._paths[item.kind]
        return None if paths == ["\0"] else paths

    def read(self, item: Managed, version: str) -> dict[str, str]:
        return {path: xml for path in self.paths(item) or () if (xml := item.xml(path, version))}


class Filter(Managed):
    def __init__(self, moid: str, selection: Selection, collector: "Collector") -> None:
        facts = {"spec": selection.spec, "partialUpdates": False}
        super().__init__(Query.Filter, moid, facts)
        self.selection = selection
        self.collector = collector
        self.reset()

    def reset(self) -> None:
        self.sent: dict[str, dict[str, str]] = {}
        self.items: dict[str, Managed] = {}  # as last sent: one that has left is still named
        self.seen: dict[str, int] = {}

    def pending(self, version: str) -> Iterator[str]:
        """ObjectUpdates as XML; taking one commits it."""
        now = self.selection.objects()
        for moid in [moid for moid in self.sent if moid not in now]:
            item = self.items.pop(moid)
            del self.sent[moid], self.seen[moid]
            yield f"<objectSet><kind>leave</kind>{reference(item)}</objectSet>"
        for moid, item in now.items():
            if item.cached and self.seen.get(moid) == item.version:
                continue
            values = self.selection.read(item, version)
            before = self.sent.get(moid)
            self.sent[moid], self.items[moid], self.seen[moid] = values, item, item.version
            changes = _changes(before or {}, values)
            if before is None or changes:
                kind = "enter" if before is None else "modify"
                yield f"<objectSet><kind>{kind}</kind>{reference(item)}{changes}</objectSet>"


def _changes(before: dict[str, str], now: dict[str, str]) -> str:
    """Changed properties. One that became unset is an assignment of nothing, which is how vCenter says it."""
    parts = [(path, xml) for path, xml in now.items() if before.get(path) != xml]
    parts += [(path, "") for path in before if path not in now]
    return "".join(f"<changeSet><name>{path}</name><op>assign</op>{xml}</changeSet>" for path, xml in parts)


class Collector(Managed):
    """The filters of one session (or of one collector that the session created) and how far its client has read."""

    def __init__(self, moid: str, world: World) -> None:
        super().__init__(Query, moid, {"filter": lambda: [item.ref for item in self.filters]}, cached=False)
        self.world = world
        self.filters: list[Filter] = []
        self.current = 0
        self.answered = ""  # the version that the last answer was for, and that answer
        self.answer = ""
        self.cancelled = False

    def update(self, since: str, limit: int, version: str) -> str | None:
        """The UpdateSet as XML, or None while there is nothing to say."""
        if not since:
            for item in self.filters:
                item.reset()
        elif since == self.answered and self.answer:
            return self.answer
        elif since != str(self.current):
            raise soap.fault_named("InvalidCollectorVersion", f"Version {since} is not known here.")
        budget = limit or 1 << 30
        sets, truncated = [], False
        for item in self.filters:
            updates = []
            pending = item.pending(version)
            while budget and (update := next(pending, None)):
                updates.append(update)
                budget -= 1
            if updates:
                sets.append(f"<filterSet>{reference(item, 'filter')}{''.join(updates)}</filterSet>")
            if not budget:
                truncated = True  # perhaps nothing is left: vCenter, too, finds out at the next call
                break
        if not sets:
            return None
        self.current += 1
        flag = "<truncated>true</truncated>" if truncated else ""
        self.answered = since
        self.answer = f"<returnval><version>{self.current}</version>{''.join(sets)}{flag}</returnval>"
        return self.answer


class PropertyCollector:
    """The methods. `page`: the most objects of one answer, whatever the client asks (0: as it asks)."""

    def __init__(self, state: State, page: int = 0) -> None:
        self.state = state
        self.world = state.world
        self.page = page
        self.world.add(Managed(Query, "propertyCollector", cached=False))

    def _collector(self, call: Call) -> Collector:
        if isinstance(call.this, Collector):
            return call.this
        own = next((c for c in call.who.owned if isinstance(c, Collector) and c.moid.endswith("-default")), None)
        if own is None:
            own = Collector(f"session[{call.who.key[:8]}]-default", self.world)
            call.who.owned.append(own)
        return own

    # one-time reads

    def RetrieveProperties(self, call: Call, specSet: list[Any]) -> soap.Raw:
        contents = [self._content(call, item, part, "returnval") for item, part in self._select(specSet)]
        return soap.Raw("".join(contents))

    def RetrievePropertiesEx(self, call: Call, specSet: list[Any], options: Any = None) -> soap.Raw | None:
        found = self._select(specSet)
        limits = [limit for limit in (options and options.maxObjects, self.page) if limit and limit > 0]
        return self._page(call, found, min(limits, default=len(found))) if found else None

    def ContinueRetrievePropertiesEx(self, call: Call, token: str) -> soap.Raw:
        if token not in call.who.tokens:
            raise invalid_argument("token")
        return self._page(call, *call.who.tokens.pop(token))

    def CancelRetrievePropertiesEx(self, call: Call, token: str) -> None:
        if call.who.tokens.pop(token, None) is None:
            raise invalid_argument("token")

    def Fetch(self, call: Call, prop: str) -> Any:
        declared_type(call.this.kind, prop)
        return call.this.value(prop)

    def _select(self, specs: list[Any]) -> list[tuple[Managed, Selection]]:
        found: list[tuple[Managed, Selection]] = []
        for spec in specs:
            selection = Selection(self.world, spec)
            found += [(item, selection) for item in selection.objects().values()]
        return found

    def _page(self, call: Call, found: list[tuple[Managed, Selection]], size: int) -> soap.Raw:
        # what went away between two pages is left out, as on vCenter
        now = [(item, part) for item, part in found[:size] if self.world.objects.get(item.moid) is item]
        objects = "".join(self._content(call, item, part, "objects") for item, part in now)
        token = ""
        if found[size:]:
            number = str(uuid4())
            call.who.tokens[number] = found[size:], size
            token = f"<token>{number}</token>"
        return soap.Raw(f"<returnval>{token}{objects}</returnval>")

    def _content(self, call: Call, item: Managed, selection: Selection, tag: str) -> str:
        values = selection.read(item, call.version)
        parts = "".join(f"<propSet><name>{path}</name>{xml}</propSet>" for path, xml in values.items())
        return f"<{tag}>{reference(item)}{parts}</{tag}>"

    # filters and updates

    def CreateFilter(self, call: Call, spec: Any, partialUpdates: bool = False) -> Any:
        collector = self._collector(call)
        moid = f"session[{call.who.key[:8]}]{uuid4()}"
        item = Filter(moid, Selection(self.world, spec), collector)
        item.properties["partialUpdates"] = partialUpdates
        collector.filters.append(item)
        call.who.owned.append(item)
        self.world.add(item)
        return item.ref

    def DestroyPropertyFilter(self, call: Call) -> None:
        assert isinstance(call.this, Filter)
        call.this.collector.filters.remove(call.this)
        call.who.owned.remove(call.this)
        self.world.remove(call.this)

    def CreatePropertyCollector(self, call: Call) -> Any:
        collector = Collector(f"session[{call.who.key[:8]}]{uuid4()}", self.world)
        call.who.owned.append(collector)
        self.world.add(collector)
        return collector.ref

    def DestroyPropertyCollector(self, call: Call) -> None:
        if not isinstance(call.this, Collector):
            raise soap.fault_named("NotSupported", "The default collector stays.")
        for item in call.this.filters:
            call.who.owned.remove(item)
            self.world.remove(item)
        call.who.owned.remove(call.this)
        self.world.remove(call.this)

    def WaitForUpdatesEx(self, call: Call, version: str = "", options: Any = None) -> soap.Raw | None:
        collector = self._collector(call)
        limit = (options and options.maxObjectUpdates) or 0
        longest = options.maxWaitSeconds if options and options.maxWaitSeconds is not None else LONGEST_WAIT
        deadline = time.monotonic() + min(longest, LONGEST_WAIT)
        collector.cancelled = False
        while True:
            if call.who.ended:
                raise soap.fault_named("NotAuthenticated", "The session is not authenticated.")
            if collector.cancelled or self.state.closing.is_set():
                raise soap.fault_named("RequestCanceled", "The wait was cancelled.")
            if xml := collector.update(version or "", limit, call.version):
                return soap.Raw(xml)
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self.world.changed.wait(left)

    def WaitForUpdates(self, call: Call, version: str = "") -> soap.Raw | None:
        return self.WaitForUpdatesEx(call, version)

    def CheckForUpdates(self, call: Call, version: str = "") -> soap.Raw | None:
        return self.WaitForUpdatesEx(call, version, Query.WaitOptions(maxWaitSeconds=0))

    def CancelWaitForUpdates(self, call: Call) -> None:
        self._collector(call).cancelled = True
        self.world.touch()
