"""What the inventory reads again for which event, against a small HTTPS server that counts."""

import queue
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tranship.errors import Unreachable
from tranship.inventory.estate import Estate
from tranship.inventory.vm import VM
from tranship.providers.ovirt.client import Client
from tranship.providers.ovirt.inventory import Inventory

SECONDS = 20
LISTS = {
    "/datacenters": "data_center",
    "/clusters": "cluster",
    "/hosts": "host",
    "/networks": "network",
    "/vnicprofiles": "vnic_profile",
    "/storagedomains": "storage_domain",
}
VERSION = {"product_info": {"version": {"full_version": "4.5.6-1.el9"}}}


class World:
    """Answers of an Engine: VMs and disks that a test changes, and a log that it writes to."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.vms: dict[str, dict[str, Any]] = {}
        self.disks: dict[str, dict[str, Any]] = {}
        self.hosts: dict[str, dict[str, Any]] = {}
        self.log: list[dict[str, Any]] = [{"id": "100", "code": "1"}]
        engine.answers["GET", ""] = (200, VERSION)
        for path, kind in LISTS.items():
            engine.answers["GET", path] = lambda request, kind=kind: (200, self._known(kind))
        engine.answers["GET", "/vms"] = lambda request: self._page(request, "vm", self.vms)
        engine.answers["GET", "/disks"] = lambda request: self._page(request, "disk", self.disks)
        engine.answers["GET", "/events"] = self._events

    def _known(self, kind: str) -> dict[str, Any]:
        return {"host": list(self.hosts.values())} if kind == "host" and self.hosts else {}

    def _page(self, request: Any, kind: str, known: dict[str, Any]) -> Any:
        number, size = int(request.query["search"][0].split()[-1]), int(request.query["max"][0])
        found = list(known.values())[(number - 1) * size : number * size]
        return 200, {kind: found} if found else {}

    def _events(self, request: Any) -> Any:
        since = int(request.query.get("from", ["-1"])[0])
        found = [event for event in reversed(self.log) if int(event["id"]) > since][: int(request.query["max"][0])]
        return 200, {"event": found} if found else {}

    def put_vm(self, id: str, **facts: Any) -> None:
        self.vms[id] = {"id": id, "name": f"name-{id}", "status": "down", **self.vms.get(id, {}), **facts}
        self.engine.answers["GET", f"/vms/{id}"] = lambda request: (200, self.vms[id]) if id in self.vms else (404, "")

    def event(self, code: int, **about: str) -> None:
        id = int(self.log[-1]["id"]) + 1 if self.log else 100
        self.log.append({"id": str(id), "code": str(code), **{kind: {"id": value} for kind, value in about.items()}})


class Following:
    def __init__(self, client: Client, **arguments: Any) -> None:
        self.estates: queue.Queue[Estate | Exception] = queue.Queue()
        self.stop = threading.Event()
        self.inventory = Inventory(client, poll=0.02, **arguments)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.inventory.follow(self.estates.put, self.stop)
        except Exception as error:
            self.estates.put(error)

    def next(self) -> Estate:
        told = self.estates.get(timeout=SECONDS)
        if isinstance(told, Exception):
            raise told
        return told

    def close(self) -> None:
        self.stop.set()
        self.thread.join(SECONDS)
        assert not self.thread.is_alive()


@pytest.fixture
def world(engine: Any) -> World:
    world = World(engine)
    for number in range(5):
        world.put_vm(f"vm-{number}")
    return world


@pytest.fixture
def following(world: World, client: Client) -> Iterator[Following]:
    following = Following(client, page=2)
    yield following
    following.close()


def read_for(world: World, code: int, **about: str) -> list[str]:
    """What is read for an event. The first poll behind it may be under way already, the third shows that it was dealt with."""
    engine = world.engine
    with engine.asked:
        seen = len(engine.calls())
        world.event(code, **about)
        assert engine.asked.wait_for(lambda: engine.calls()[seen:].count("/events") >= 3, SECONDS)
        return [call for call in engine.calls()[seen:] if call != "/events"]


def test_lists_everything_by_pages_and_publishes_once(world: World, following: Following) -> None:
    estate = following.next()
    assert sorted(estate.vms) == [f"vm-{number}" for number in range(5)]
    assert world.engine.calls().count("/vms") == 3
    assert (estate.version, estate.vms["vm-0"].revision) == (1, 1)
    asked = next(request for request in world.engine.requests if request.path.endswith("/vms"))
    assert asked.query["follow"] == ["disk_attachments,host_devices,snapshots,watchdogs,nics"]


def test_a_change_costs_one_read_and_shows_in_a_revision(world: World, following: Following) -> None:
    following.next()
    world.put_vm("vm-3", status="up")
    world.event(32, vm="vm-3", host="host-1", cluster="c")
    estate = following.next()
    assert (estate.version, estate.vms["vm-3"].revision, estate.vms["vm-0"].revision) == (2, 2, 1)
    assert estate.vms["vm-3"].traits["status"] == "up"
    assert [call for call in world.engine.calls() if call.startswith("/vms/")] == ["/vms/vm-3"]


def test_added_and_removed(world: World, following: Following) -> None:
    following.next()
    world.put_vm("vm-9")
    world.event(34, vm="vm-9")
    assert "vm-9" in following.next().vms
    del world.vms["vm-9"]
    world.event(113, vm="vm-9")
    assert "vm-9" not in following.next().vms


def test_nothing_is_told_when_nothing_differs(world: World, following: Following) -> None:
    following.next()
    world.event(35, vm="vm-1")
    world.put_vm("vm-2", name="renamed")
    world.event(35, vm="vm-2")
    estate = following.next()
    assert (estate.version, estate.vms["vm-2"].name) == (2, "renamed")


def test_disks_and_hosts_are_read_without_their_vms(world: World, following: Following) -> None:
    following.next()
    world.disks["d"] = {"id": "d", "alias": "new"}
    assert read_for(world, 2021, storage_domain="sd") == ["/disks"]
    world.hosts["h"] = {"id": "h", "name": "node", "status": "maintenance"}
    world.event(15, host="h")
    estate = following.next()
    assert estate.hosts["h"].in_maintenance
    assert world.engine.calls().count("/vms") == 3


def test_our_own_login_is_no_reason_to_read(world: World, following: Following) -> None:
    following.next()
    assert read_for(world, 30, user="u") == []
    assert read_for(world, 36, template="t") == []


@pytest.mark.parametrize("code", [850, 424242, 113])
def test_what_names_nothing_that_we_know_is_a_reason_to_list_everything(
    world: World, following: Following, code: int
) -> None:
    following.next()
    world.put_vm("vm-1", status="up")
    world.event(code)
    assert following.next().vms["vm-1"].traits["status"] == "up"
    assert world.engine.calls().count("/vms") == 6


def test_too_many_events_are_a_reason_to_list_everything(world: World, following: Following) -> None:
    following.next()
    world.put_vm("vm-1", status="up")
    for _ in range(1000):
        world.event(35, vm="vm-1")
    assert following.next().vms["vm-1"].traits["status"] == "up"
    assert world.engine.calls().count("/vms") == 6


def test_another_log_is_a_reason_to_list_everything(world: World, following: Following) -> None:
    following.next()
    world.put_vm("vm-1", status="up")
    world.log = [{"id": "7", "code": "1"}]
    assert following.next().vms["vm-1"].traits["status"] == "up"
    world.put_vm("vm-1", status="down")
    world.event(61, vm="vm-1")
    assert following.next().vms["vm-1"].traits["status"] == "down"


def test_an_engine_without_events_is_followed_too(world: World, client: Client) -> None:
    world.log = []
    following = Following(client)
    following.next()
    world.put_vm("vm-1", status="up")
    world.event(32, vm="vm-1")
    assert following.next().vms["vm-1"].traits["status"] == "up"
    following.close()


def test_from_time_to_time_everything_is_listed(world: World, client: Client) -> None:
    following = Following(client, relist=0.1)
    following.next()
    world.put_vm("vm-1", fqdn="told-without-an-event")
    assert following.next().vms["vm-1"].hostname == "told-without-an-event"
    following.close()


def test_a_disk_of_two_vms_is_seen_by_both(world: World, following: Following) -> None:
    following.next()

    def attached(size: int) -> dict[str, Any]:
        disk = {"id": "d", "alias": "shared", "storage_type": "image", "provisioned_size": str(size)}
        return {"disk_attachments": {"disk_attachment": [{"id": "d", "interface": "virtio", "disk": disk}]}}

    for vm in ("vm-1", "vm-2"):
        world.put_vm(vm, **attached(512))
        world.event(2016, vm=vm)
    size = 0
    while not size:
        estate = following.next()
        size = sum(disk.capacity for vm in ("vm-1", "vm-2") for disk in estate.vms[vm].disks) == 1024
    world.put_vm("vm-1", **attached(1024))
    world.event(88, vm="vm-1")
    estate = following.next()
    assert [estate.vms[vm].disks[0].capacity for vm in ("vm-1", "vm-2")] == [1024, 1024]


def test_pinned_numa_nodes_are_asked_for_only_where_they_can_be(world: World, client: Client) -> None:
    world.put_vm("vm-1", placement_policy={"hosts": {"host": [{"id": "h"}]}})
    pin = {"numa_node_pins": {"numa_node_pin": [{"index": "1", "pinned": "true"}]}}
    world.engine.answers["GET", "/vms/vm-1/numanodes"] = (200, {"vm_numa_node": [{"index": "0", **pin}]})
    following = Following(client)
    vm: VM = following.next().vms["vm-1"]
    assert "ovirt.numa.tuning.detected" in [concern.id for concern in vm.concerns]
    assert [call for call in world.engine.calls() if "numanodes" in call] == ["/vms/vm-1/numanodes"]
    following.close()


def test_an_engine_that_is_gone_ends_the_following_with_an_error(world: World, following: Following) -> None:
    following.next()
    world.engine.answers["GET", "/events"] = lambda request: None
    with pytest.raises(Unreachable):
        following.next()
