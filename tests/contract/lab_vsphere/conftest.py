"""pyVmomi as a client of the simulated vCenter, with the certificate verified."""

import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyVim.connect import Disconnect, SmartConnect
from pyVmomi import vim, vmodl

from tranship.lab.vsphere import LabVM, VCenter

Query = vmodl.query.PropertyCollector


class Client:
    """One session. `raw` are answers as they come, the rest is what tests ask often."""

    def __init__(self, center: VCenter, **options: Any) -> None:
        self.center = center
        self.context = ssl.create_default_context(cadata=center.ca_pem)
        arguments = {"user": center.user, "pwd": center.password} | options
        self.service = SmartConnect(
            host="localhost", port=center.port, sslContext=self.context, httpConnectionTimeout=20, **arguments
        )
        self.content = self.service.content
        self.collector = self.content.propertyCollector

    @property
    def cookie(self) -> str:
        return str(self.service._stub.cookie).partition(";")[0]

    def close(self) -> None:
        try:
            Disconnect(self.service)
        except Exception:  # the session may be gone on purpose
            self.service._stub.DropConnections()

    def vm(self, machine: LabVM) -> Any:
        return vim.VirtualMachine(machine.moref, self.service._stub)

    def wait(self, task: Any, deadline: float = 20.0) -> Any:
        """The result of a task; raises its error."""
        until = time.monotonic() + deadline
        pick = Query.FilterSpec(
            propSet=[Query.PropertySpec(type=vim.Task, pathSet=["info"])], objectSet=[Query.ObjectSpec(obj=task)]
        )
        collector = self.collector.CreatePropertyCollector()  # an own one: a fresh start resets all of a collector
        collector.CreateFilter(pick, True)
        version = ""
        try:
            while time.monotonic() < until:
                update = collector.WaitForUpdatesEx(version, Query.WaitOptions(maxWaitSeconds=2))
                if update is None:
                    continue
                version = update.version
                info = update.filterSet[0].objectSet[0].changeSet[0].val
                if info.state == "error":
                    raise info.error
                if info.state == "success":
                    return info.result
        finally:
            collector.Destroy()
        raise AssertionError("the task does not end")

    def snapshot(self, machine: LabVM, name: str, **options: Any) -> Any:
        arguments = {"description": "", "memory": False, "quiesce": False} | options
        return self.wait(self.vm(machine).CreateSnapshot_Task(name=name, **arguments))

    def change_ids(self, snapshot: Any) -> dict[int, str]:
        devices = snapshot.config.hardware.device
        return {d.key: d.backing.changeId for d in devices if isinstance(d, vim.vm.device.VirtualDisk)}

    def view_spec(self, kind: Any, paths: list[str]) -> Any:
        view = self.content.viewManager.CreateContainerView(self.content.rootFolder, [kind], True)
        walk = Query.TraversalSpec(name="view", type=vim.view.ContainerView, path="view", skip=False)
        return Query.FilterSpec(
            objectSet=[Query.ObjectSpec(obj=view, skip=True, selectSet=[walk])],
            propSet=[Query.PropertySpec(type=kind, pathSet=paths)],
        )


@pytest.fixture
def center(tmp_path: Path) -> Iterator[VCenter]:
    with VCenter(tmp_path / "vcenter") as center:
        yield center


@pytest.fixture
def client(center: VCenter) -> Iterator[Client]:
    client = Client(center)
    yield client
    client.close()


@pytest.fixture
def connect(center: VCenter) -> Iterator[Any]:
    """Makes further clients."""
    made: list[Client] = []

    def make(**options: Any) -> Client:
        made.append(Client(center, **options))
        return made[-1]

    yield make
    for client in made:
        client.close()
