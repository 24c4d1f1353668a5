"""What every store must do, whoever wrote it: one check per promise of `store/base.py`.

Called by the contract tests for memory, SQLite and a cluster, and by authors of further stores:

    for check in CHECKS:
        await check(Bench(store, namespace="a-fresh-one"))

A check raises AssertionError. None assumes more than the Kubernetes API promises: removal of dependents may take a moment,
resourceVersions are compared for equality only, bookmarks may come at any time. Hooks are written, as their schema is small.
"""

import asyncio
import base64
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from tranship.errors import AlreadyExists, Conflict, Expired, Invalid, NotFound, TranshipError
from tranship.resources.meta import HOOK, SECRET
from tranship.store.base import INITIAL_EVENTS_END, Event, EventType, Object, Store

DEADLINE = 60.0  # seconds that anything eventual may take: a cluster's collector learns of a new kind each 30 s
WRITERS = 200


@dataclass
class Bench:
    """A store and an empty namespace in it. What a store cannot do is None, and the checks of it pass unseen:
    forget() makes it drop the changes so far from its log; reopen() closes it and opens its data again."""

    store: Store
    namespace: str
    forget: Callable[[], Awaitable[None]] | None = None
    reopen: Callable[[], Awaitable[Store]] | None = None

    def hook(self, name: str = "one", **metadata: Any) -> Object:
        meta = {"namespace": self.namespace} | ({"name": name} if name else {}) | metadata
        return {
            "apiVersion": HOOK.api_version,
            "kind": HOOK.kind,
            "metadata": meta,
            "spec": {"image": "registry.example/hook:1", "deadline": 60},
        }

    async def create(self, name: str = "one", **metadata: Any) -> Object:
        return await self.store.create(HOOK, self.hook(name, **metadata))

    async def get(self, name: str = "one") -> Object:
        return await self.store.get(HOOK, self.namespace, name)

    async def patch(self, patch: Object, name: str = "one", *, subresource: str = "") -> Object:
        return await self.store.patch(HOOK, self.namespace, name, patch, subresource=subresource)

    async def delete(self, name: str = "one", **preconditions: str) -> Object:
        return await self.store.delete(HOOK, self.namespace, name, **preconditions)

    async def names(self, **options: Any) -> list[str]:
        return [_name(item) for item in (await self.store.list(HOOK, self.namespace, **options)).items]

    async def gone(self, name: str) -> None:
        present = set()
        async with aclosing(self.watch()) as watch, asyncio.timeout(DEADLINE):
            async for event in watch:
                if event.type is EventType.BOOKMARK and name not in present:
                    return
                if event.type is EventType.ADDED:
                    present.add(_name(event.object))
                if event.type is EventType.DELETED and _name(event.object) == name:
                    return

    def watch(self, since: str | None = None) -> AsyncGenerator[Event, None]:
        return self.store.watch(HOOK, self.namespace, since=since)


async def creates_with_system_fields(bench: Bench) -> None:
    made = await bench.create(labels={"a": "b"}, uid="mine", creationTimestamp="1999-01-01T00:00:00Z")
    meta = made["metadata"]
    assert meta["uid"] not in ("", "mine") and meta["resourceVersion"] and meta["generation"] == 1
    assert meta["creationTimestamp"].endswith("Z") and not meta["creationTimestamp"].startswith("1999")
    assert (made["apiVersion"], made["kind"]) == (HOOK.api_version, HOOK.kind)
    assert meta["labels"] == {"a": "b"} and made["spec"]["deadline"] == 60
    assert await bench.get() == made


async def create_generates_names(bench: Bench) -> None:
    made = [await bench.create("", generateName="night-") for _ in range(5)]
    names = {_name(item) for item in made}
    assert len(names) == 5 and all(name.startswith("night-") and len(name) > 6 for name in names)


async def create_refuses_bad_input(bench: Bench) -> None:
    for name in ("", "Upper", "under_score", "-dash", "dash-", "a..b", "x" * 254, "new\nline", "name\n"):
        await _raises(Invalid, bench.create(name))
    await _raises(Invalid, bench.create(labels={"a": 1}))
    await _raises(Invalid, bench.store.create(HOOK, bench.hook() | {"kind": "Plan"}))
    assert await bench.names() == []


async def create_refuses_a_taken_name(bench: Bench) -> None:
    first = await bench.create()
    await _raises(AlreadyExists, bench.create())
    assert await bench.get() == first


async def one_of_many_creators_wins(bench: Bench) -> None:
    outcomes = await _all(bench.create() for _ in range(20))
    assert sum(isinstance(outcome, dict) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, AlreadyExists) for outcome in outcomes) == 19


async def missing_objects_are_not_found(bench: Bench) -> None:
    await _raises(NotFound, bench.get())
    await _raises(NotFound, bench.delete())
    await _raises(NotFound, bench.patch({"spec": {"deadline": 1}}))
    await _raises(NotFound, bench.store.replace(HOOK, bench.hook(resourceVersion="1")))


async def objects_are_the_callers_own(bench: Bench) -> None:
    given = bench.hook()
    made = await bench.store.create(HOOK, given)
    given["spec"]["deadline"] = made["spec"]["deadline"] = 1
    (await bench.get())["spec"]["deadline"] = 2
    (await bench.store.list(HOOK, bench.namespace)).items[0]["spec"]["deadline"] = 3
    assert (await bench.get())["spec"]["deadline"] == 60


async def replace_keeps_identity(bench: Bench) -> None:
    made = await bench.create()
    changed = _with(made, creationTimestamp="1999-01-01T00:00:00Z", generation=77) | {"spec": {"image": "other"}}
    try:
        new = await bench.store.replace(HOOK, changed)
    except Invalid:  # allowed: a store may refuse instead of keeping
        new = await bench.store.replace(HOOK, made | {"spec": {"image": "other"}})
    assert new["spec"] == {"image": "other"} and new["metadata"]["generation"] == 2
    for field in ("uid", "creationTimestamp"):
        assert new["metadata"][field] == made["metadata"][field]
    await _raises((Conflict, Invalid), bench.store.replace(HOOK, _with(new, uid="another")))
    assert await bench.get() == new


async def stale_writes_conflict(bench: Bench) -> None:
    old = await bench.create()
    new = await bench.patch({"spec": {"deadline": 1}})
    stale = old["metadata"]["resourceVersion"]
    assert stale != new["metadata"]["resourceVersion"]
    await _raises(Conflict, bench.store.replace(HOOK, old | {"spec": {"image": "stale"}}))
    await _raises(
        Conflict, bench.store.replace(HOOK, old | {"status": {"observedGeneration": 1}}, subresource="status")
    )
    await _raises(Conflict, bench.patch({"metadata": {"resourceVersion": stale}, "spec": {"deadline": 2}}))
    await _raises(Conflict, bench.delete(resource_version=stale))
    await _raises(Conflict, bench.delete(uid="00000000-0000-0000-0000-000000000000"))
    assert await bench.get() == new
    await bench.delete(uid=new["metadata"]["uid"], resource_version=new["metadata"]["resourceVersion"])
    await _raises(NotFound, bench.get())


async def patch_merges(bench: Bench) -> None:
    await bench.create(labels={"keep": "1", "drop": "1"}, annotations={"a": "1"})
    meta = {"labels": {"drop": None, "add": "1"}, "annotations": None, "finalizers": ["example.com/a"]}
    new = await bench.patch({"metadata": meta, "spec": {"deadline": None, "playbook": "cGxheQ=="}})
    assert new["metadata"]["labels"] == {"keep": "1", "add": "1"} and not new["metadata"].get("annotations")
    assert new["spec"] == {"image": "registry.example/hook:1", "playbook": "cGxheQ=="}
    new = await bench.patch({"metadata": {"finalizers": ["example.com/b"]}})
    assert new["metadata"]["finalizers"] == ["example.com/b"], "lists are replaced, not merged"
    await bench.patch({"metadata": {"finalizers": None}})


async def patch_cannot_rename(bench: Bench) -> None:
    made = await bench.create()
    await _raises((Invalid, Conflict, NotFound), bench.patch({"metadata": {"name": "two"}}))
    await _raises((Invalid, Conflict, NotFound), bench.patch({"metadata": {"namespace": "elsewhere"}}))
    assert await bench.get() == made


async def concurrent_patches_are_all_kept(bench: Bench) -> None:
    await bench.create()
    await asyncio.gather(*(bench.patch({"metadata": {"labels": {f"l{n}": "1"}}}) for n in range(20)))
    assert len((await bench.get())["metadata"]["labels"]) == 20


async def writing_the_same_changes_nothing(bench: Bench) -> None:
    made = await bench.create()
    assert await bench.store.replace(HOOK, made) == made
    assert await bench.patch({"spec": {"deadline": 60}}) == made
    status = {"status": {"observedGeneration": 1}}
    noted = await bench.patch(status, subresource="status")
    assert await bench.patch(status, subresource="status") == noted
    assert await bench.get() == noted


async def generation_counts_changes_of_spec(bench: Bench) -> None:
    await bench.create()
    assert _generation(await bench.patch({"metadata": {"labels": {"a": "b"}, "finalizers": ["example.com/a"]}})) == 1
    assert _generation(await bench.patch({"status": {"observedGeneration": 1}}, subresource="status")) == 1
    assert _generation(await bench.patch({"spec": {"deadline": 1}})) == 2
    assert _generation(await bench.patch({"metadata": {"generation": 9}, "spec": {"deadline": 2}})) == 3
    await bench.patch({"metadata": {"finalizers": None}})


async def status_has_its_own_door(bench: Bench) -> None:
    made = await bench.store.create(HOOK, bench.hook() | {"status": {"observedGeneration": 5}})
    assert not made.get("status")
    both = {"spec": {"deadline": 1}, "status": {"observedGeneration": 1}}
    new = await bench.patch(both, subresource="status")
    assert (new["status"], new["spec"]["deadline"]) == ({"observedGeneration": 1}, 60)
    new = await bench.patch({"spec": {"deadline": 2}, "status": {"observedGeneration": 2}})
    assert (new["status"], new["spec"]["deadline"]) == ({"observedGeneration": 1}, 2)
    new = await bench.store.replace(HOOK, new | both, subresource="status")
    assert (new["status"], new["spec"]["deadline"]) == ({"observedGeneration": 1}, 2)
    bare = {key: value for key, value in new.items() if key != "status"}
    assert (await bench.store.replace(HOOK, bare))["status"] == {"observedGeneration": 1}


async def finalizers_hold_an_object(bench: Bench) -> None:
    made = await bench.create(finalizers=["example.com/a", "example.com/b"])
    marked = await bench.delete()
    assert marked["metadata"]["deletionTimestamp"] and marked["metadata"]["uid"] == made["metadata"]["uid"]
    await bench.delete()
    again = await bench.get()
    assert again["metadata"]["deletionTimestamp"] == marked["metadata"]["deletionTimestamp"]
    await _raises(Invalid, bench.patch({"metadata": {"finalizers": ["example.com/a", "example.com/c"]}}))
    await bench.patch({"metadata": {"finalizers": ["example.com/b"]}})
    assert (await bench.get())["metadata"]["finalizers"] == ["example.com/b"]
    await _raises(AlreadyExists, bench.create())
    await bench.patch({"metadata": {"finalizers": None}})
    await _raises(NotFound, bench.get())
    assert (await bench.create())["metadata"]["uid"] != made["metadata"]["uid"]


async def deletion_cannot_be_undone(bench: Bench) -> None:
    await bench.create(finalizers=["example.com/a"])
    await bench.delete()
    for attempt in ({"deletionTimestamp": None}, {"deletionTimestamp": "2099-01-01T00:00:00Z"}):
        await _all([bench.patch({"metadata": attempt})])  # refused or not, the mark stays
        mark = (await bench.get())["metadata"]["deletionTimestamp"]
        assert mark and not mark.startswith("2099")
    await bench.patch({"metadata": {"finalizers": None}})
    await _raises(NotFound, bench.get())


async def dependents_go_with_their_owner(bench: Bench) -> None:
    owner = await bench.create("owner")
    child = await bench.create("child", ownerReferences=[_owner(owner)])
    await bench.create("grandchild", ownerReferences=[_owner(child)])
    await bench.create("stranger")
    await bench.delete("owner")
    for name in ("child", "grandchild"):
        await bench.gone(name)
    assert await bench.names() == ["stranger"]


async def dependents_stay_for_another_owner(bench: Bench) -> None:
    one, two = await bench.create("one"), await bench.create("two")
    await bench.create("shared", ownerReferences=[_owner(one), _owner(two)])
    await bench.create("single", ownerReferences=[_owner(one)])
    await bench.delete("one")
    await bench.gone("single")
    assert "shared" in await bench.names()
    await bench.delete("two")
    await bench.gone("shared")


async def dependents_wait_for_their_finalizers(bench: Bench) -> None:
    owner = await bench.create("owner")
    await bench.create("child", ownerReferences=[_owner(owner)], finalizers=["example.com/a"])
    async with aclosing(bench.watch()) as events:
        await bench.delete("owner")
        async with asyncio.timeout(DEADLINE):
            while True:
                event = await _news(events)
                if _name(event.object) == "child" and "deletionTimestamp" in event.object["metadata"]:
                    break
    await bench.patch({"metadata": {"finalizers": None}}, "child")
    await bench.gone("child")


async def lists_by_label(bench: Bench) -> None:
    await bench.create("b", labels={"wave": "1", "site": "x"})
    await bench.create("a", labels={"wave": "1"})
    await bench.create("c")
    assert await bench.names() == ["a", "b", "c"]
    assert await bench.names(labels={"wave": "1"}) == ["a", "b"]
    assert await bench.names(labels={"wave": "1", "site": "x"}) == ["b"]
    assert await bench.names(labels={"wave": "2"}) == []
    everywhere = await bench.store.list(HOOK)
    ours = [_name(item) for item in everywhere.items if item["metadata"]["namespace"] == bench.namespace]
    assert ours == ["a", "b", "c"]


async def lists_in_pages(bench: Bench) -> None:
    expected = [f"hook-{n:02}" for n in range(7)]
    for name in reversed(expected):
        await bench.create(name)
    found, cont, pages = [], "", 0
    while pages == 0 or cont:
        page = await bench.store.list(HOOK, bench.namespace, limit=3, cont=cont)
        found += [_name(item) for item in page.items]
        cont, pages = page.cont, pages + 1
    assert found == expected and pages == 3


async def pages_and_a_watch_miss_nothing(bench: Bench) -> None:
    """Whatever changes between two pages is in the later pages or in a watch from the list's resourceVersion."""
    for name in ("b", "c", "d"):
        await bench.create(name)
    first = await bench.store.list(HOOK, bench.namespace, limit=2)
    await bench.create("a")
    await bench.delete("c")
    last = await bench.store.list(HOOK, bench.namespace, limit=2, cont=first.cont)
    await bench.create("end")
    state = {_name(item) for item in [*first.items, *last.items]}
    for event in await _until(bench.watch(last.resource_version), lambda event: _name(event.object) == "end"):
        (state.discard if event.type is EventType.DELETED else state.add)(_name(event.object))
    assert state == {"a", "b", "d", "end"}


async def watch_begins_with_the_present_state(bench: Bench) -> None:
    one, two = await bench.create("one"), await bench.create("two")
    async with aclosing(bench.watch()) as watch, asyncio.timeout(DEADLINE):
        first, second, bookmark = [await anext(watch) for _ in range(3)]
        assert [first, second] == [Event(EventType.ADDED, one), Event(EventType.ADDED, two)]
        assert bookmark.type is EventType.BOOKMARK and bookmark.resource_version
        assert bookmark.object["metadata"]["annotations"][INITIAL_EVENTS_END] == "true"
        new = await bench.patch({"spec": {"deadline": 1}})
        assert await _news(watch) == Event(EventType.MODIFIED, new)
        await bench.delete("two")
        event = await _news(watch)
        assert event.type is EventType.DELETED and _name(event.object) == "two"
        assert event.object["spec"] == two["spec"]


async def watch_continues_from_a_version(bench: Bench) -> None:
    made = await bench.create()
    listing = await bench.store.list(HOOK, bench.namespace)
    changed = await bench.patch({"spec": {"deadline": 1}})
    noted = await bench.patch({"status": {"observedGeneration": 2}}, subresource="status")
    for since in (made["metadata"]["resourceVersion"], listing.resource_version):
        async with aclosing(bench.watch(since)) as watch, asyncio.timeout(DEADLINE):
            assert await _news(watch) == Event(EventType.MODIFIED, changed)
            assert await _news(watch) == Event(EventType.MODIFIED, noted)


async def watch_tells_of_its_kind_and_namespace_only(bench: Bench) -> None:
    since = (await bench.store.list(HOOK, bench.namespace)).resource_version
    secret = {"metadata": {"name": "other-kind", "namespace": bench.namespace}}
    await bench.store.create(SECRET, secret)
    await bench.create("end")
    async with aclosing(bench.watch(since)) as watch, asyncio.timeout(DEADLINE):
        assert _name((await _news(watch)).object) == "end"
    async with aclosing(bench.store.watch(HOOK, since=since)) as watch, asyncio.timeout(DEADLINE):
        assert _name((await _news(watch)).object) == "end"
    async with aclosing(bench.store.watch(HOOK, "elsewhere", since=None)) as watch, asyncio.timeout(DEADLINE):
        assert (await anext(watch)).type is EventType.BOOKMARK


async def watch_of_the_forgotten_expires(bench: Bench) -> None:
    if bench.forget is None:
        return
    since = (await bench.create())["metadata"]["resourceVersion"]
    await bench.forget()
    async with asyncio.timeout(DEADLINE):
        await _raises(Expired, anext(bench.watch(since)))
        listing = await bench.store.list(HOOK, bench.namespace)
        new = await bench.patch({"spec": {"deadline": 1}})
        async with aclosing(bench.watch(listing.resource_version)) as watch:
            assert (await _news(watch)).object == new


async def old_pages_expire(bench: Bench) -> None:
    if bench.forget is None:
        return
    await bench.create("one")
    await bench.create("two")
    page = await bench.store.list(HOOK, bench.namespace, limit=1)
    await bench.forget()
    await _raises(Expired, bench.store.list(HOOK, bench.namespace, limit=1, cont=page.cont))


async def many_writers_lose_no_update(bench: Bench) -> None:
    """Each adds one to a counter by read, change, write with a lock, and retries on Conflict."""
    await bench.store.create(HOOK, bench.hook() | {"spec": {"image": "x", "deadline": 0}})

    at_once = asyncio.Semaphore(20)  # more would only add conflicts: all but one of them lose each round

    async def add_one() -> None:
        while True:
            async with at_once:
                obj = await bench.get()
                obj["spec"]["deadline"] += 1
                try:
                    await bench.store.replace(HOOK, obj)
                    return
                except Conflict:
                    continue

    await asyncio.gather(*(add_one() for _ in range(WRITERS)))
    last = await bench.get()
    assert last["spec"]["deadline"] == WRITERS and _generation(last) == WRITERS + 1


async def a_watch_replays_to_the_listed_state(bench: Bench) -> None:
    """Many writers at once; a follower that saw each event once and in order holds what a list shows."""
    since = (await bench.store.list(HOOK, bench.namespace)).resource_version

    async def write(n: int) -> None:
        name = f"hook-{n % 10}"
        await _all([bench.create(name), bench.patch({"spec": {"deadline": n + 1}}, name)])
        if n % 3 == 0:
            await _all([bench.delete(name)])

    await asyncio.gather(*(write(n) for n in range(WRITERS)))
    await bench.create("zz-end")
    listing = await bench.store.list(HOOK, bench.namespace)
    state: dict[str, Object] = {}
    versions = []
    for event in await _until(bench.watch(since), lambda event: _name(event.object) == "zz-end"):
        name = _name(event.object)
        versions.append(event.resource_version)
        assert (event.type is EventType.ADDED) == (name not in state), f"{event.type} of {name} came out of order"
        if event.type is EventType.DELETED:
            del state[name]
        else:
            state[name] = event.object
    assert len(versions) == len(set(versions))
    assert sorted(state.values(), key=_name) == listing.items


async def secrets_fold_string_data(bench: Bench) -> None:
    meta = {"name": "login", "namespace": bench.namespace}
    made = await bench.store.create(SECRET, {"metadata": meta, "stringData": {"user": "a"}, "data": {"url": "eA=="}})
    assert made["data"] == {"user": base64.b64encode(b"a").decode(), "url": "eA=="}
    assert "stringData" not in made and made["type"] == "Opaque"
    new = await bench.store.patch(SECRET, bench.namespace, "login", {"stringData": {"user": "b"}})
    assert new["data"] == {"user": base64.b64encode(b"b").decode(), "url": "eA=="}
    bad = {"metadata": meta | {"name": "bad"}, "data": {"password": "not base64 but secret"}}
    error = await _raises(Invalid, bench.store.create(SECRET, bad))
    assert "but secret" not in str(error)


async def data_outlives_the_store(bench: Bench) -> None:
    if bench.reopen is None:
        return
    made = await bench.create()
    held = await bench.create("held", finalizers=["example.com/a"])
    child = await bench.create("child", ownerReferences=[_owner(held)])
    await bench.store.create(
        SECRET, {"metadata": {"name": "login", "namespace": bench.namespace}, "data": {"a": "eA=="}}
    )
    new = await bench.patch({"spec": {"deadline": 1}})
    await bench.delete("child")
    bench.store = await bench.reopen()
    assert await bench.get() == new and await bench.get("held") == held
    assert (await bench.store.get(SECRET, bench.namespace, "login"))["data"] == {"a": "eA=="}
    end = await bench.create("end")
    told = await _until(bench.watch(made["metadata"]["resourceVersion"]), lambda event: event.object == end)
    assert [(event.type.name, _name(event.object)) for event in told] == [
        ("ADDED", "held"),
        ("ADDED", "child"),
        ("MODIFIED", "one"),
        ("DELETED", "child"),
        ("ADDED", "end"),
    ]
    assert child["metadata"]["uid"] == told[3].object["metadata"]["uid"]
    assert len({event.resource_version for event in told}) == 5, "numbers go on where they were"
    await bench.patch({"metadata": {"finalizers": None}}, "held")


CHECKS: Sequence[Callable[[Bench], Awaitable[None]]] = (
    creates_with_system_fields,
    create_generates_names,
    create_refuses_bad_input,
    create_refuses_a_taken_name,
    one_of_many_creators_wins,
    missing_objects_are_not_found,
    objects_are_the_callers_own,
    replace_keeps_identity,
    stale_writes_conflict,
    patch_merges,
    patch_cannot_rename,
    concurrent_patches_are_all_kept,
    writing_the_same_changes_nothing,
    generation_counts_changes_of_spec,
    status_has_its_own_door,
    finalizers_hold_an_object,
    deletion_cannot_be_undone,
    dependents_go_with_their_owner,
    dependents_stay_for_another_owner,
    dependents_wait_for_their_finalizers,
    lists_by_label,
    lists_in_pages,
    pages_and_a_watch_miss_nothing,
    watch_begins_with_the_present_state,
    watch_continues_from_a_version,
    watch_tells_of_its_kind_and_namespace_only,
    watch_of_the_forgotten_expires,
    old_pages_expire,
    many_writers_lose_no_update,
    a_watch_replays_to_the_listed_state,
    secrets_fold_string_data,
    data_outlives_the_store,
)


def _name(obj: Object) -> str:
    return str(obj["metadata"]["name"])


def _generation(obj: Object) -> int:
    return int(obj["metadata"]["generation"])


def _with(obj: Object, **metadata: Any) -> Object:
    return obj | {"metadata": obj["metadata"] | metadata}


def _owner(obj: Object) -> Object:
    meta = obj["metadata"]
    return {"apiVersion": obj["apiVersion"], "kind": obj["kind"], "name": meta["name"], "uid": meta["uid"]}


async def _all(calls: Iterable[Awaitable[Object]]) -> list[Object | BaseException]:
    """Every outcome; an error that is not of our taxonomy is a failure of the store."""
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, TranshipError):
            raise AssertionError(f"not an error of the contract: {outcome!r}") from outcome
    return outcomes


async def _raises(
    expected: type[TranshipError] | tuple[type[TranshipError], ...], call: Awaitable[object]
) -> TranshipError:
    try:
        outcome = await call
    except expected as error:
        return error
    raise AssertionError(f"{expected} was expected, but it gave {outcome!r}")


async def _news(watch: AsyncGenerator[Event, None]) -> Event:
    """The next event that is no bookmark."""
    while (event := await anext(watch)).type is EventType.BOOKMARK:
        pass
    return event


async def _until(watch: AsyncGenerator[Event, None], last: Callable[[Event], bool]) -> list[Event]:
    events: list[Event] = []
    async with aclosing(watch), asyncio.timeout(DEADLINE):
        while not events or not last(events[-1]):
            events.append(await _news(watch))
    return events
