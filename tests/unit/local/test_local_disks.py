"""Disks of the local target: whose they are, what a crash leaves, and whether they fit."""

import dataclasses
import json
import os
from pathlib import Path

import pytest

from tranship.errors import AlreadyExists, Invalid, NoSpace, NotFound, Refused
from tranship.migration.mapping import DiskOrder
from tranship.migration.seen import MachineState, TargetSeen
from tranship.providers.local.target import LocalTarget

GIB = 1 << 30


def home_of(settings, order):
    return Path(settings["directory"], order.namespace, order.name)


def test_disks_are_sparse_marked_and_seen(settings, target, make_order, disk_file):
    order = make_order(
        disks=(
            DiskOrder(source="2000", name="d0", pool="default", size=GIB, boot=1),
            DiskOrder(source="2001", name="d1", pool="", size=4096),
        )
    )
    assert target.observe(order) == TargetSeen()
    target.create_disks(order)
    disk = disk_file(target, order, "2000")
    assert disk == home_of(settings, order) / "d0.raw"
    assert (disk.stat().st_size, disk.stat().st_blocks) == (GIB, 0)
    assert json.loads((disk.parent / "owner.json").read_text())["owner"] == order.owner
    assert target.observe(order) == TargetSeen(disks=frozenset({"2000", "2001"}))


def test_own_disks_are_adopted_with_their_data(target, make_order, disk_file):
    order = make_order()
    target.create_disks(order)
    disk = disk_file(target, order, "2000")
    with open(disk, "r+b") as file:
        file.write(b"copied")
    target.create_disks(order)
    assert disk.read_bytes()[:6] == b"copied"


@pytest.mark.parametrize("mark", ['{"owner": "plan-2/vm-7"}', "garbage", None])
def test_what_is_somebody_elses_is_refused_and_kept(settings, target, make_order, mark):
    order = make_order()
    home = home_of(settings, order)
    home.mkdir(parents=True)
    (home / "web01-disk-0.raw").write_bytes(b"theirs")
    if mark is not None:
        (home / "owner.json").write_text(mark)
    before = {path.name: path.read_bytes() for path in home.iterdir()}
    with pytest.raises(AlreadyExists, match=str(home)):
        target.create_disks(order)
    seen = target.observe(order)
    assert str(home) in seen.foreign
    assert seen.disks == frozenset()
    target.delete_disks(order, ["2000"])
    target.stop_machine(order)
    target.delete_machine(order)
    with pytest.raises(AlreadyExists):
        target.create_machine(order)
    with pytest.raises(AlreadyExists):
        target.start_machine(order)
    assert {path.name: path.read_bytes() for path in home.iterdir()} == before


def test_two_plans_cannot_take_the_same_name(target, make_order):
    target.create_disks(make_order())
    with pytest.raises(AlreadyExists, match="plan-1/vm-42"):
        target.create_disks(make_order(owner="plan-2/vm-42"))


class Crash(BaseException):
    pass


def crash_at(monkeypatch, step):
    """Let the process die at the nth call that changes the file system (0 = the first)."""
    calls = iter(range(1000))

    def dying(function):
        def call(*arguments, **keywords):
            if next(calls) == step:
                raise Crash
            return function(*arguments, **keywords)

        return call

    for owner, name in ((Path, "mkdir"), (Path, "rename"), (Path, "unlink"), (Path, "rmdir"), (os, "fsync")):
        monkeypatch.setattr(owner, name, dying(getattr(owner, name)))


def steps_until_done(monkeypatch, call):
    """Crash a call at each of its steps in turn, starting over from what the crash before left; yields after each."""
    for step in range(1000):
        with monkeypatch.context() as patch:
            crash_at(patch, step)
            try:
                call()
            except Crash:
                yield step
                continue
        return
    raise AssertionError("it never ends")


def test_a_crash_at_any_step_leaves_what_the_next_call_adopts(tmp_path, monkeypatch, make_order):
    order = make_order(disks=(*make_order().disks, DiskOrder(source="2001", name="d1", pool="default", size=8192)))
    crashes = 0
    for fresh in range(100):
        target = LocalTarget({"directory": str(tmp_path / str(fresh))})

        def fill(target=target):
            target.create_disks(order)
            target.create_machine(order)

        with monkeypatch.context() as patch:
            crash_at(patch, fresh)
            try:
                fill()
            except Crash:
                crashes += 1
        assert target.observe(order).foreign == ""
        fill()
        assert target.observe(order) == TargetSeen(disks=frozenset({"2000", "2001"}), machine=MachineState.OFF)
        if crashes == fresh:
            break
    assert 30 < crashes < 99


def test_a_crash_at_any_step_of_removal_can_be_finished(settings, target, monkeypatch, make_order):
    order = make_order()

    def clear():
        target.delete_machine(order)
        target.delete_disks(order, ["2000"])

    target.create_disks(order)
    target.create_machine(order)
    crashes = sum(1 for _ in steps_until_done(monkeypatch, clear))
    assert crashes > 3
    assert not home_of(settings, order).exists()


def test_deleting_takes_only_what_is_named(settings, target, make_order, disk_file):
    order = make_order(
        disks=tuple(DiskOrder(source=str(2000 + n), name=f"d{n}", pool="default", size=512) for n in range(3))
    )
    target.create_disks(order)
    target.create_machine(order)
    target.delete_disks(order, ["2001", "2099"])
    assert target.observe(order).disks == {"2000", "2002"}
    target.delete_machine(order)
    assert target.observe(order) == TargetSeen(disks=frozenset({"2000", "2002"}))
    target.delete_disks(order, ["2000", "2002"])
    assert not home_of(settings, order).exists()
    target.delete_disks(order, ["2000"])


def test_a_disk_of_another_size_is_named_and_kept(target, make_order, disk_file):
    order = make_order()
    target.create_disks(order)
    grown = dataclasses.replace(order, disks=(dataclasses.replace(order.disks[0], size=4 << 20),))
    with pytest.raises(AlreadyExists, match=r"disk-0\.raw.*2097152 bytes.*4194304"):
        target.create_disks(grown)
    assert target.observe(grown).disks == frozenset()
    assert disk_file(target, order, "2000").stat().st_size == 2 << 20


def test_pools_by_sub_directory_setting_and_path(tmp_path, settings, make_order, disk_file):
    fast = tmp_path / "fast"
    slow = Path(settings["directory"], "pool.slow")
    fast.mkdir()
    slow.mkdir(parents=True)
    target = LocalTarget(settings | {"pool.fast": str(fast)})
    assert set(target.estate().datastores) == {"default", "fast", "slow"}
    assert all(0 < store.free <= store.capacity for store in target.estate().datastores.values())
    pools = {"2000": "fast", "2001": str(fast), "2002": "slow", "2003": "default"}
    disks = (DiskOrder(source=key, name=f"d{key}", pool=pool, size=512) for key, pool in pools.items())
    order = make_order(disks=tuple(disks))
    target.create_disks(order)
    roots = [disk_file(target, order, key).parents[2] for key in pools]
    assert roots == [fast, fast, slow, Path(settings["directory"])]
    assert (fast / "shop/web01/owner.json").exists()
    assert list(target.estate().vms) == ["shop/web01"]
    target.delete_disks(order, pools)
    assert not (fast / "shop/web01").exists()


def test_a_foreign_directory_in_a_pool_is_foreign(tmp_path, settings, make_order):
    theirs = tmp_path / "fast/shop/web01"
    theirs.mkdir(parents=True)
    (theirs / "data").touch()
    target = LocalTarget(settings | {"pool.fast": str(tmp_path / "fast")})
    order = make_order(disks=(DiskOrder(source="2000", name="d0", pool="fast", size=512),))
    with pytest.raises(AlreadyExists, match=str(theirs)):
        target.create_disks(order)
    assert str(theirs) in target.observe(order).foreign


def test_an_unknown_or_missing_pool_is_named(tmp_path, settings, make_order):
    target = LocalTarget(settings | {"pool.gone": str(tmp_path / "not-mounted")})
    for pool in ("nowhere", "gone", "../..", "/etc"):
        order = make_order(disks=(DiskOrder(source="2000", name="d0", pool=pool, size=512),))
        with pytest.raises(NotFound, match=pool) as caught:
            target.create_disks(order)
        assert "default, gone" in caught.value.suggestion
    with pytest.raises(Invalid, match=r"pool\.x"):
        LocalTarget(settings | {"pool.x": "relative"}).estate()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", ".hidden", "pool.fast"])
def test_names_stay_inside_the_directory(target, make_order, name):
    disk = DiskOrder(source="2000", name=name, pool="default", size=512)
    for order in (make_order(name=name), make_order(namespace=name), make_order(disks=(disk,))):
        with pytest.raises(Invalid):
            target.create_disks(order)


def test_disks_that_do_not_fit_are_refused_before_anything_is_made(settings, target, make_order):
    free = target_free(settings)
    order = make_order(disks=(DiskOrder(source="2000", name="d0", pool="default", size=free + 100 * GIB),))
    with pytest.raises(NoSpace) as caught:
        target.create_disks(order)
    assert caught.value.path == settings["directory"]
    assert caught.value.needed == free + 100 * GIB
    assert caught.value.free < caught.value.needed
    assert not home_of(settings, order).exists()
    LocalTarget(settings | {"overcommit": "true"}).create_disks(order)
    target.create_disks(order)  # adopted: nothing is to be made


def test_what_sparse_neighbours_may_still_take_is_not_given_twice(settings, target, make_order):
    size = target_free(settings) // 8 * 5 // 512 * 512
    disk = DiskOrder(source="2000", name="d0", pool="default", size=size)
    target.create_disks(make_order(disks=(disk,)))
    with pytest.raises(NoSpace, match="may still grow"):
        target.create_disks(make_order(name="web02", disks=(disk,)))


def target_free(settings):
    directory = Path(settings["directory"])
    directory.mkdir(exist_ok=True)
    space = os.statvfs(directory)
    return space.f_bavail * space.f_frsize


def test_a_directory_that_cannot_be_made_is_an_error_of_ours(tmp_path, make_order):
    (tmp_path / "file").touch()
    with pytest.raises(Refused):
        LocalTarget({"directory": str(tmp_path / "file/machines")}).create_disks(make_order())
    with pytest.raises(Invalid, match="directory"):
        LocalTarget({})
