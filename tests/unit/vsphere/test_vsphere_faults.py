"""Every fault becomes one of our errors, with its name and message; temporary ones say so."""

import pytest
from pyVmomi import vim, vmodl

from tranship.errors import AuthFailed, Busy, Denied, NotFound, Refused, Side, Unreachable
from tranship.providers.vsphere.faults import explain

machine = vim.VirtualMachine("vm-42", None)


@pytest.mark.parametrize(
    ("fault", "error", "temporary"),
    [
        (vim.fault.InvalidLogin(), AuthFailed, False),
        (vim.fault.NotAuthenticated(object=machine, privilegeId="System.View"), AuthFailed, False),
        (vim.fault.NoPermission(object=machine, privilegeId="VirtualMachine.Interact.PowerOff"), Denied, False),
        (vim.fault.TaskInProgress(task=vim.Task("task-1", None)), Busy, True),
        (vim.fault.InvalidPowerState(existingState="poweredOff"), Busy, True),
        (vim.fault.InvalidState(), Busy, True),
        (vim.fault.ResourceInUse(), Busy, True),
        (vim.fault.FileLocked(), Busy, True),
        (vim.fault.FileFault(file="x"), Refused, False),
        (vim.fault.ApplicationQuiesceFault(), Refused, False),
        (vmodl.fault.HostNotConnected(), Unreachable, True),
        (vmodl.fault.HostCommunication(), Unreachable, True),
        (vmodl.fault.ManagedObjectNotFound(obj=machine), NotFound, False),
        (vmodl.fault.InvalidArgument(invalidProperty="changeId"), Refused, False),
        (vmodl.fault.SystemError(reason="?"), Busy, True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_fault_means(fault: object, error: type[Exception], temporary: bool) -> None:
    fault.msg = "The server's words."  # type: ignore[attr-defined]
    found = explain(fault, "power off web", address="vc:443", user="me")
    assert type(found) is error
    assert found.temporary is temporary
    assert found.side is Side.SOURCE
    if error in (Busy, Refused):
        assert found.fault == type(fault).__name__.rpartition(".")[2]
        assert "The server's words." in str(found)


def test_a_missing_privilege_is_named() -> None:
    fault = vim.fault.NoPermission(object=machine, privilegeId="VirtualMachine.Interact.PowerOff")
    text = str(explain(fault, "power off web"))
    assert "VirtualMachine.Interact.PowerOff" in text
    assert "vm-42" in text


def test_long_messages_are_cut() -> None:
    fault = vmodl.fault.InvalidArgument()
    fault.msg = "x" * 100_000
    assert len(str(explain(fault, "asking"))) < 1000
