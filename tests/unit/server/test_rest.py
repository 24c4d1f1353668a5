"""The REST API over real HTTP: objects, watches, tokens and the shape of errors."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest

from tranship.errors import Busy, Invalid
from tranship.inventory.estate import Estate, Network, Thing
from tranship.inventory.vm import VM, Disk, Power
from tranship.resources.meta import HOOK, PLAN, PROVIDER, parse
from tranship.server.app import make_app
from tranship.server.serve import Serving, serve
from tranship.store.memory import MemoryStore
from tranship.store.table import Keep

TOKEN = "only-for-this-test"
HOOKS = "/apis/forklift.konveyor.io/v1beta1/namespaces/default/hooks"
ALL_HOOKS = "/apis/forklift.konveyor.io/v1beta1/hooks"
SECRETS = "/api/v1/namespaces/default/secrets"
MERGE = {"Content-Type": "application/merge-patch+json"}


def check(obj: dict[str, Any]) -> Mapping[str, Any]:
    parse(obj)
    return obj


@dataclass
class House:
    store: MemoryStore
    http: httpx2.AsyncClient
    serving: Serving
    estates: dict[str, Estate] = field(default_factory=dict)

    async def call(self, method: str, path: str, expect: int = 200, **options: Any) -> Any:
        response = await self.http.request(method, path, **options)
        assert response.status_code == expect, response.text
        return response.json()

    async def hook(self, name: str = "one", **metadata: Any) -> Any:
        return await self.call("POST", HOOKS, 201, json=hook(name, **metadata))

    @asynccontextmanager
    async def watch(self, path: str = HOOKS, **params: str) -> AsyncIterator[AsyncIterator[Any]]:
        async with asyncio.timeout(10):
            async with self.http.stream("GET", path, params={"watch": "true"} | params) as response:
                assert response.status_code == 200
                yield (json.loads(line) async for line in response.aiter_lines() if line)


def hook(name: str = "one", **metadata: Any) -> dict[str, Any]:
    meta = {"name": name} | metadata
    spec = {"image": "registry.example/hook:1", "deadline": 60}
    return {"apiVersion": HOOK.api_version, "kind": "Hook", "metadata": meta, "spec": spec}


@asynccontextmanager
async def house(**options: Any) -> AsyncIterator[House]:
    store = MemoryStore(**options)
    estates: dict[str, Estate] = {}
    app = make_app(store, token=TOKEN, inventory=estates.get, validate=check, version="0.0.0")
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with serve(app) as serving:
        async with httpx2.AsyncClient(base_url=serving.url, headers=headers, timeout=10) as http:
            yield House(store, http, serving, estates)


def told(story: Callable[[House], Awaitable[None]]) -> Callable[[], None]:
    """A test from a coroutine that wants a house."""

    def test() -> None:
        async def run() -> None:
            async with house() as it:
                await story(it)

        asyncio.run(run())

    test.__name__ = story.__name__
    test.__doc__ = story.__doc__
    return test


@told
async def test_an_object_lives_and_dies(house: House) -> None:
    made = await house.hook()
    assert made["metadata"]["namespace"] == "default" and made["metadata"]["generation"] == 1
    assert await house.call("GET", f"{HOOKS}/one") == made
    new = await house.call("PATCH", f"{HOOKS}/one", json={"spec": {"deadline": 5}}, headers=MERGE)
    assert (new["spec"]["deadline"], new["metadata"]["generation"]) == (5, 2)
    new["spec"]["deadline"] = 6
    new = await house.call("PUT", f"{HOOKS}/one", json=new)
    status = {"status": {"observedGeneration": 3}, "spec": {"deadline": 9}}
    noted = await house.call("PATCH", f"{HOOKS}/one/status", json=status, headers=MERGE)
    assert (noted["status"], noted["spec"]["deadline"]) == ({"observedGeneration": 3}, 6)
    noted["status"]["observedGeneration"] = 4
    noted = await house.call("PUT", f"{HOOKS}/one/status", json=noted)
    assert noted["status"]["observedGeneration"] == 4
    gone = await house.call("DELETE", f"{HOOKS}/one")
    assert (gone["kind"], gone["status"], gone["details"]["name"]) == ("Status", "Success", "one")
    await house.call("GET", f"{HOOKS}/one", 404)


@told
async def test_unknown_fields_are_kept_whole(house: House) -> None:
    obj = hook() | {"spec": {"image": "x", "someday": {"nested": [1, {"deep": None}]}}}
    made = await house.call("POST", HOOKS, 201, json=obj)
    assert made["spec"] == obj["spec"]


@told
async def test_a_finalizer_holds_what_is_deleted(house: House) -> None:
    await house.hook(finalizers=["example.com/a"])
    marked = await house.call("DELETE", f"{HOOKS}/one")
    assert marked["kind"] == "Hook" and marked["metadata"]["deletionTimestamp"]
    await house.call("PATCH", f"{HOOKS}/one", json={"metadata": {"finalizers": None}}, headers=MERGE)
    await house.call("GET", f"{HOOKS}/one", 404)


@told
async def test_lists(house: House) -> None:
    for name, labels in (("a", {"wave": "1"}), ("b", {"wave": "2", "x": "y"}), ("c", {})):
        await house.hook(name, labels=labels)
    other = HOOKS.replace("default", "elsewhere")
    await house.call("POST", other, 201, json=hook("d"))

    async def names(path: str = HOOKS, **params: str) -> str:
        listing = await house.call("GET", path, params=params)
        assert (listing["kind"], listing["apiVersion"]) == ("HookList", HOOK.api_version)
        return " ".join(item["metadata"]["name"] for item in listing["items"])

    assert await names() == "a b c"
    assert await names(ALL_HOOKS) == "a b c d"
    for selector, expected in (
        ("wave=1", "a"),
        ("wave==1,x=y", ""),
        ("wave=1,wave=2", ""),
        ("wave!=1", "b c"),
        ("wave in (1, 2),x", "b"),
        ("wave notin (1)", "b c"),
        ("!wave", "c"),
    ):
        assert await names(labelSelector=selector) == expected, selector
    assert await names(fieldSelector="metadata.name=b") == "b"
    first = await house.call("GET", HOOKS, params={"limit": "2"})
    token = first["metadata"]["continue"]
    second = await house.call("GET", HOOKS, params={"limit": "2", "continue": token})
    assert [item["metadata"]["name"] for item in first["items"] + second["items"]] == ["a", "b", "c"]
    assert "continue" not in second["metadata"]


@told
async def test_every_error_is_a_status(house: House) -> None:
    made = await house.hook()
    stale = made | {"metadata": made["metadata"] | {"resourceVersion": "0"}, "spec": {"image": "x"}}
    bad = hook("bad") | {"spec": {"image": "x", "deadline": "soon"}}
    old = {"apiVersion": HOOK.api_version, "kind": "Plan", "metadata": {"name": "x"}}
    text = {"Content-Type": "text/plain"}
    apply = {"Content-Type": "application/apply-patch+yaml"}
    for method, path, options, code, reason in (
        ("GET", f"{HOOKS}/two", {}, 404, "NotFound"),
        ("GET", "/nowhere", {}, 404, "NotFound"),
        ("GET", "/apis/forklift.konveyor.io/v1beta1/namespaces/default/toys", {}, 404, "NotFound"),
        ("POST", HOOKS, {"json": hook()}, 409, "AlreadyExists"),
        ("PUT", f"{HOOKS}/one", {"json": stale}, 409, "Conflict"),
        ("POST", HOOKS, {"json": bad}, 422, "Invalid"),
        ("POST", HOOKS, {"json": hook("Upper")}, 422, "Invalid"),
        ("POST", HOOKS, {"content": b"{", "headers": {"Content-Type": "application/json"}}, 400, "BadRequest"),
        ("POST", HOOKS, {"content": b"[]", "headers": {"Content-Type": "application/json"}}, 400, "BadRequest"),
        ("POST", HOOKS, {"json": old}, 400, "BadRequest"),
        ("POST", HOOKS, {"json": hook() | {"metadata": []}}, 400, "BadRequest"),
        ("POST", HOOKS, {"json": hook(namespace="other")}, 400, "BadRequest"),
        ("PUT", f"{HOOKS}/one", {"json": hook("two")}, 400, "BadRequest"),
        ("POST", HOOKS, {"json": hook("x"), "params": {"dryRun": "All"}}, 400, "BadRequest"),
        ("POST", HOOKS, {"content": b"hello", "headers": text}, 415, "UnsupportedMediaType"),
        ("PATCH", f"{HOOKS}/one", {"json": {}, "headers": apply}, 415, "UnsupportedMediaType"),
        ("PATCH", f"{HOOKS}/one", {"json": {"metadata": {"name": "two"}}, "headers": MERGE}, 400, "BadRequest"),
        ("POST", HOOKS, {"json": hook("x") | {"spec": "x" * 4_000_000}}, 413, "RequestEntityTooLarge"),
        ("DELETE", HOOKS, {}, 405, "MethodNotAllowed"),
        ("DELETE", f"{HOOKS}/one", {"params": {"propagationPolicy": "Orphan"}}, 400, "BadRequest"),
        ("GET", HOOKS, {"params": {"limit": "-1"}}, 400, "BadRequest"),
        ("GET", HOOKS, {"params": {"labelSelector": "a=(b"}}, 400, "BadRequest"),
        ("GET", HOOKS, {"params": {"fieldSelector": "spec.image=x"}}, 400, "BadRequest"),
        ("GET", HOOKS, {"params": {"limit": "1", "continue": "rubbish"}}, 422, "Invalid"),
    ):
        status = await house.call(method, path, code, **options)
        assert (status["kind"], status["status"], status["code"]) == ("Status", "Failure", code), path
        assert status["reason"] == reason and status["message"], status
    status = await house.call("POST", HOOKS, 422, json=bad)
    assert status["details"]["causes"][0]["field"] == "spec.deadline" and status["details"]["suggestion"]
    status = await house.call("GET", f"{HOOKS}/two", 404)
    assert (status["details"]["kind"], status["details"]["name"]) == ("Hook", "two")
    assert [item["metadata"]["name"] for item in (await house.call("GET", HOOKS))["items"]] == ["one"]


@told
async def test_a_patch_is_validated_before_it_is_stored(house: House) -> None:
    made = await house.hook()
    await house.call("PATCH", f"{HOOKS}/one", 422, json={"spec": {"deadline": "soon"}}, headers=MERGE)
    assert await house.call("GET", f"{HOOKS}/one") == made


@told
async def test_concurrent_patches_are_all_kept(house: House) -> None:
    await house.hook()
    patches = [{"metadata": {"labels": {f"l{number}": "1"}}} for number in range(10)]
    calls = (house.call("PATCH", f"{HOOKS}/one", json=patch, headers=MERGE) for patch in patches)
    await asyncio.gather(*calls)
    assert len((await house.call("GET", f"{HOOKS}/one"))["metadata"]["labels"]) == 10
    stale = {"metadata": {"resourceVersion": "1", "labels": None}}
    await house.call("PATCH", f"{HOOKS}/one", 409, json=stale, headers=MERGE)


@told
async def test_a_watch_tells_the_state_and_then_changes(house: House) -> None:
    made = await house.hook()
    async with house.watch() as events:
        assert await anext(events) == {"type": "ADDED", "object": made}
        new = await house.call("PATCH", f"{HOOKS}/one", json={"spec": {"deadline": 5}}, headers=MERGE)
        assert await anext(events) == {"type": "MODIFIED", "object": new}
        await house.call("DELETE", f"{HOOKS}/one")
        assert (await anext(events))["type"] == "DELETED"
    version = made["metadata"]["resourceVersion"]
    async with house.watch(ALL_HOOKS, resourceVersion=version) as events:
        assert [(await anext(events))["type"] for _ in range(2)] == ["MODIFIED", "DELETED"]


@told
async def test_a_watch_can_send_the_initial_list(house: House) -> None:
    await house.hook()
    options = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
    async with house.watch(**options) as events:
        assert (await anext(events))["type"] == "ADDED"
        mark = await anext(events)
        assert mark["type"] == "BOOKMARK"
        assert mark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


@told
async def test_a_watch_through_a_selector(house: House) -> None:
    await house.hook("in", labels={"wave": "1"})
    await house.hook("out")
    async with house.watch(labelSelector="wave=1") as events:
        assert (await anext(events))["object"]["metadata"]["name"] == "in"
        for name, wave, expected in (("out", "1", "ADDED"), ("in", "2", "DELETED"), ("out", None, "DELETED")):
            patch = {"metadata": {"labels": {"wave": wave}}}
            await house.call("PATCH", f"{HOOKS}/{name}", json=patch, headers=MERGE)
            event = await anext(events)
            assert (event["type"], event["object"]["metadata"]["name"]) == (expected, name)


@told
async def test_a_watch_ends_at_its_time(house: House) -> None:
    await house.hook()
    async with house.watch(timeoutSeconds="1") as events:
        assert [event["type"] async for event in events] == ["ADDED"]


def test_a_forgotten_version_is_told_inside_the_watch() -> None:
    async def story() -> None:
        async with house(keep=Keep(changes=4)) as it:
            for number in range(10):
                await it.hook(f"h{number}")
            async with it.watch(resourceVersion="1") as events:
                event = await anext(events)
                assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")

    asyncio.run(story())


def test_the_server_stops_at_once_under_an_open_watch() -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(10):
            store = MemoryStore()
            app = make_app(store, token=TOKEN, inventory=lambda uid: None, version="0")
            headers = {"Authorization": f"Bearer {TOKEN}"}
            async with httpx2.AsyncClient(headers=headers, timeout=10) as http:
                async with serve(app) as serving:
                    request = http.build_request("GET", serving.url + HOOKS, params={"watch": "true"})
                    response = await http.send(request, stream=True)
                    lines = response.aiter_lines()
                    waiting = asyncio.ensure_future(anext(lines, "end"))
                    begun = loop.time()
                assert await waiting == "end", "the stream ends as a whole answer, it does not break off"
                assert loop.time() - begun < 4
                await response.aclose()

    asyncio.run(story())


@told
async def test_a_client_that_leaves_takes_its_watch_along(house: House) -> None:
    before = len(asyncio.all_tasks())
    async with house.watch() as events:
        await house.hook()
        await anext(events)
        assert len(asyncio.all_tasks()) > before
    async with asyncio.timeout(10):
        while [task for task in asyncio.all_tasks() if "_next" in repr(task.get_coro())]:
            await asyncio.sleep(0)


@told
async def test_only_the_token_opens(house: House) -> None:
    async with httpx2.AsyncClient(base_url=house.serving.url, timeout=10) as stranger:
        assert (await stranger.get("/healthz")).text == "ok"
        for path in ("/readyz", "/version", "/apis", HOOKS, SECRETS, "/providers", "/nowhere"):
            for headers in (
                {},
                {"Authorization": "Bearer wrong"},
                {"Authorization": f"Basic {TOKEN}"},
                {"Authorization": TOKEN},
                {"Authorization": f"Bearer {TOKEN}x"},
            ):
                answer = await stranger.get(path, headers=headers)
                assert answer.status_code == 401 and answer.json()["reason"] == "Unauthorized"
                assert answer.headers["www-authenticate"] == "Bearer" and TOKEN not in answer.text
    assert (await house.http.get("/readyz")).text == "ok"


@told
async def test_secrets_are_shown_as_base64_and_patched_as_kubectl_does(house: House) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"password": "hunter2"}}
    made = await house.call("POST", SECRETS, 201, json=secret)
    assert made["data"] == {"password": base64.b64encode(b"hunter2").decode()} and "stringData" not in made
    strategic = {"Content-Type": "application/strategic-merge-patch+json"}
    new = await house.call("PATCH", f"{SECRETS}/s", json={"stringData": {"user": "a"}}, headers=strategic)
    assert sorted(new["data"]) == ["password", "user"]
    directive = {"metadata": {"$retainKeys": ["name"]}}
    await house.call("PATCH", f"{SECRETS}/s", 415, json=directive, headers=strategic)
    bad = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bad"}, "data": {"password": "hunter2 is it"}}
    answer = await house.http.post(SECRETS, json=bad)
    assert answer.status_code == 422 and "hunter2" not in answer.text


@told
async def test_discovery(house: House) -> None:
    assert (await house.call("GET", "/api"))["versions"] == ["v1"]
    assert (await house.call("GET", "/apis"))["groups"][0]["name"] == "forklift.konveyor.io"
    resources = (await house.call("GET", "/apis/forklift.konveyor.io/v1beta1"))["resources"]
    assert {"plans", "plans/status", "migrations", "providers"} <= {resource["name"] for resource in resources}
    assert [resource["name"] for resource in (await house.call("GET", "/api/v1"))["resources"]] == ["secrets"]
    accept = {"Accept": "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"}
    answer = await house.http.get("/apis", headers=accept)
    assert answer.headers["content-type"].endswith("as=APIGroupDiscoveryList")
    assert answer.json()["items"][0]["versions"][0]["version"] == "v1beta1"
    assert (await house.call("GET", "/version"))["tranship"] == "0.0.0"


@told
async def test_tables(house: House) -> None:
    condition = {"type": "Ready", "status": "True"}
    path = HOOKS.replace("hooks", "plans")
    await house.store.create(PLAN, {"metadata": {"name": "p", "namespace": "default"}, "spec": {}})
    await house.store.patch(PLAN, "default", "p", {"status": {"conditions": [condition]}}, subresource="status")
    accept = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}
    table = await house.call("GET", path, headers=accept)
    assert table["kind"] == "Table"
    cells = dict(zip((one["name"] for one in table["columnDefinitions"]), table["rows"][0]["cells"], strict=True))
    assert cells["Name"] == "p" and cells["Ready"] == "True" and cells["Executing"] == "" and cells["Age"].endswith("s")
    assert table["rows"][0]["object"]["kind"] == "PartialObjectMetadata"


@told
async def test_inventory(house: House) -> None:
    assert await house.call("GET", "/providers") == {}
    provider = {
        "metadata": {"name": "vc", "namespace": "default"},
        "spec": {"type": "vsphere", "url": "https://vc/sdk"},
    }
    uid = (await house.store.create(PROVIDER, provider))["metadata"]["uid"]
    path = f"/providers/vsphere/{uid}"
    assert (await house.call("GET", f"{path}/vms", 206))["reason"] == "ServiceUnavailable"
    disk = Disk(key="2000", label="Hard disk 1", path="[ds] a/a.vmdk", datastore="ds-1", capacity=1 << 30, bus="scsi")
    vms = {"vm-1": VM(id="vm-1", name="web", power=Power.ON, disks=(disk,), traits={"tags": {"a"}})}
    networks = {f"net-{number}": Network(id=f"net-{number}", name=f"lan{number}") for number in range(3)}
    house.estates[uid] = Estate(vms=vms, networks=networks, version=7)
    (listed,) = await house.call("GET", f"{path}/vms")
    assert (listed["name"], listed["power"], listed["disks"][0]["capacity"]) == ("web", "On", 1 << 30)
    assert await house.call("GET", "/" + listed["selfLink"]) == listed
    assert [item["id"] for item in await house.call("GET", f"{path}/networks?limit=1&offset=1")] == ["net-1"]
    assert [item["id"] for item in await house.call("GET", f"{path}/networks?name=lan2")] == ["net-2"]
    assert (await house.call("GET", path))["vmCount"] == 1
    assert (await house.call("GET", "/providers"))["vsphere"][0]["name"] == "vc"
    assert len(await house.call("GET", "/providers/vsphere")) == 1
    await house.call("GET", f"{path}/toys", 404)
    await house.call("GET", f"{path}/vms/vm-2", 404)
    answer = await house.http.get("/providers/vsphere/unknown/vms")
    assert (answer.status_code, answer.headers["x-reason"]) == (404, "ProviderNotFound")


@told
async def test_a_cluster_has_collections_of_its_own(house: House) -> None:
    provider = {"metadata": {"name": "host", "namespace": "default"}, "spec": {"type": "openshift"}}
    uid = (await house.store.create(PROVIDER, provider))["metadata"]["uid"]
    path = f"/providers/openshift/{uid}"
    await house.call("GET", f"{path}/storageclasses", 206)
    fast = Thing(
        id="fast", name="fast", path="fast", uid="u-1", facts={"default": True}, object={"kind": "StorageClass"}
    )
    nads = {f"{ns}/br0": Thing(id=f"{ns}/br0", name="br0", path=f"{ns}/br0", namespace=ns) for ns in ("a", "b")}
    others = {"storageclasses": {"fast": fast}, "networkattachmentdefinitions": nads}
    house.estates[uid] = Estate(others=others)
    (shown,) = await house.call("GET", f"{path}/storageclasses")
    assert (shown["name"], shown["default"], shown["object"]["kind"]) == ("fast", True, "StorageClass")
    assert await house.call("GET", f"{path}/storageclasses/u-1") == shown
    in_b = await house.call("GET", f"{path}/networkattachmentdefinitions?namespace=b")
    assert [one["id"] for one in in_b] == ["b/br0"]
    assert await house.call("GET", f"{path}/networkattachmentdefinitions/b/br0") == in_b[0]
    assert await house.call("GET", f"{path}/namespaces") == []
    counts = await house.call("GET", path)
    assert (counts["storageclassCount"], counts["networkattachmentdefinitionCount"]) == (1, 2)
    other = {"metadata": {"name": "vc2", "namespace": "default"}, "spec": {"type": "vsphere", "url": "https://vc/sdk"}}
    uid = (await house.store.create(PROVIDER, other))["metadata"]["uid"]
    await house.call("GET", f"/providers/vsphere/{uid}/storageclasses", 404)


def test_a_taken_port_and_a_wrong_host_are_told() -> None:
    async def story() -> None:
        app = make_app(MemoryStore(), token=TOKEN, inventory=lambda uid: None, version="0")
        async with serve(app) as serving:
            with pytest.raises(Busy, match=str(serving.port)):
                async with serve(app, port=serving.port):
                    pass
        with pytest.raises(Invalid):
            async with serve(app, host="192.0.2.1"):
                pass

    asyncio.run(story())
