"""Scripted trouble: faults, delays, drops and expiry by method, number and VM."""

import time
from typing import Any

import pytest
from pyVmomi import vim, vmodl

from tranship.lab.vsphere import VCenter

MIB = 1 << 20


def test_nth_call_fails_inside_its_task(center: VCenter, client: Any) -> None:
    vm = center.add_vm("a", [MIB])
    center.faults.add("CreateSnapshot_Task", nth=2, fault="TaskInProgress", message="wait")
    client.snapshot(vm, "one")
    with pytest.raises(vim.fault.TaskInProgress):
        client.snapshot(vm, "two")
    client.snapshot(vm, "three")
    assert vm.snapshots == ["one", "three"]
    assert [c.method for c in center.calls if c.vm == "a"].count("CreateSnapshot_Task") == 3


def test_faults_may_be_for_one_vm_for_ever_and_at_the_call(center: VCenter, client: Any) -> None:
    a, b = center.add_vm("a", [MIB]), center.add_vm("b", [MIB])
    center.faults.add("PowerOnVM_Task", vm="a", count=0, fault="NoPermission", where="call")
    for _ in range(3):
        with pytest.raises(vim.fault.NoPermission):
            client.vm(a).PowerOnVM_Task()
    client.wait(client.vm(b).PowerOnVM_Task())
    center.faults.clear()
    client.wait(client.vm(a).PowerOnVM_Task())
    with pytest.raises(KeyError):
        center.faults.add("PowerOnVM_Task", fault="NoSuchFault")


def test_connection_breaks_before_or_after_the_effect(center: VCenter, client: Any) -> None:
    vm = center.add_vm("a", [MIB])
    center.faults.add("CreateSnapshot_Task", drop="before")
    with pytest.raises(ConnectionError):
        client.vm(vm).CreateSnapshot_Task("one", "", False, False)
    center.faults.add("CreateSnapshot_Task", drop="after")
    with pytest.raises(ConnectionError):
        client.vm(vm).CreateSnapshot_Task("two", "", False, False)
    with center.world.changed:
        assert center.world.changed.wait_for(lambda: vm.snapshots == ["two"], 10)


def test_session_expires_midway_and_calls_are_delayed(center: VCenter, client: Any, connect: Any) -> None:
    center.faults.add("CurrentTime", expire=True)
    with pytest.raises(vim.fault.NotAuthenticated):
        client.service.CurrentTime()
    other = connect()
    center.faults.add("CurrentTime", delay=0.1, fault="SystemError")
    began = time.monotonic()
    with pytest.raises(vmodl.fault.SystemError):
        other.service.CurrentTime()
    assert time.monotonic() - began >= 0.1
    other.service.CurrentTime()
