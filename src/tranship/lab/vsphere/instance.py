"""ServiceInstance: who the server says that it is, and where its managers are. One for the vCenter, one for each host."""

from datetime import UTC, datetime
from typing import Any

from tranship.lab.vsphere.calls import Call
from tranship.lab.vsphere.soap import fill
from tranship.lab.vsphere.state import State
from tranship.lab.vsphere.vmomi import vim, vmodl
from tranship.lab.vsphere.world import Managed

VCENTER = {
    "name": "VMware vCenter Server",
    "fullName": "VMware vCenter Server 8.0.3 build-24022515",
    "build": "24022515",
    "osType": "linux-x64",
    "productLineId": "vpx",
    "apiType": "VirtualCenter",
    "instanceUuid": "b6c5a7a1-3c0e-4d6f-9d21-1f0e5a0c8f11",
    "licenseProductName": "VMware VirtualCenter Server",
}
ESXI = {
    "name": "VMware ESXi",
    "fullName": "VMware ESXi 8.0.3 build-24022510",
    "build": "24022510",
    "osType": "vmnix-x86",
    "productLineId": "embeddedEsx",
    "apiType": "HostAgent",
    "licenseProductName": "VMware ESX Server",
}


class Instance:
    """about: what differs between vCenter and host. root: id of the root folder."""

    def __init__(self, state: State, about: dict[str, str], root: str) -> None:
        self._about, self._root = about, root
        facts = {"content": self._content, "capability": lambda: fill(vim.Capability), "serverClock": _now}
        state.world.add(Managed(vim.ServiceInstance, "ServiceInstance", facts, cached=False))

    def _content(self) -> Any:
        about = vim.AboutInfo(
            vendor="VMware, Inc.",
            version="8.0.3",
            patchLevel="00000",
            localeVersion="INTL",
            localeBuild="000",
            apiVersion="8.0.3.0",
            licenseProductVersion="8.0",
            **self._about,
        )
        return vim.ServiceInstanceContent(
            about=about,
            rootFolder=vim.Folder(self._root),
            propertyCollector=vmodl.query.PropertyCollector("propertyCollector"),
            viewManager=vim.view.ViewManager("ViewManager"),
            sessionManager=vim.SessionManager("SessionManager"),
            authorizationManager=vim.AuthorizationManager("AuthorizationManager"),
            searchIndex=vim.SearchIndex("SearchIndex"),
            taskManager=vim.TaskManager("TaskManager"),
        )

    def RetrieveServiceContent(self, call: Call) -> Any:
        return self._content()

    def CurrentTime(self, call: Call) -> Any:
        return _now()


def _now() -> datetime:
    return datetime.now(UTC)
