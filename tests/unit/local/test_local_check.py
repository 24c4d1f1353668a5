"""What the local target says of orders before anything is touched."""

from pathlib import Path

from tranship.migration.mapping import DiskOrder
from tranship.resources.conditions import Category


def test_orders_that_fit_have_no_findings_and_leave_no_trace(settings, target, make_order):
    assert target.check([make_order(), make_order(name="web02")]) == []
    assert not list(Path(settings["directory"]).glob("*/*"))


def test_what_is_in_the_way(settings, target, make_order):
    home = Path(settings["directory"], "shop", "web01")
    home.mkdir(parents=True)
    (home / "theirs").touch()
    lost = make_order(name="web02", disks=(DiskOrder(source="2000", name="d0", pool="nowhere", size=512),))
    found = target.check([make_order(), lost])
    assert [(one.type, one.category, one.reason, one.item) for one in found] == [
        ("NotValid", Category.CRITICAL, "AlreadyExists", "web01"),
        ("NotValid", Category.CRITICAL, "NotFound", "web02"),
    ]
    assert all(one.suggestion for one in found)


def test_disks_of_all_orders_together_may_not_fit(target, make_order):
    def order(name):
        return make_order(name=name, disks=(DiskOrder(source="2000", name="d0", pool="default", size=size),))

    target.identify()
    free = target.estate().datastores["default"].free
    size = free * 2 // 3 // 512 * 512
    assert target.check([order("a")]) == []
    (found,) = target.check([order("a"), order("b")])
    assert (found.type, found.category, found.reason) == ("TargetSpaceShort", Category.WARN, "NoSpace")


def test_what_only_a_cluster_knows_is_named(target, make_order):
    disk = DiskOrder(source="2000", name="d0", pool="default", size=512, volume_mode="Block")
    order = make_order(
        disks=(disk,), node_selector={"zone": "a"}, instance_type="u1.small", transfer_network="net/fast"
    )
    found = target.check([order])
    assert {one.type for one in found} == {"FieldsNotActedOn"}
    assert [one.item for one in found] == [
        "spec.targetNodeSelector",
        "spec.transferNetwork",
        "spec.vms[].instanceType",
        "the storage map's volumeMode",
    ]
