"""Privileges: what the one user of the lab may do. Tests put names into `state.missing_privileges`.

server.py refuses methods whose privilege is missing, by pyVmomi's own table of method privileges.
"""

from typing import Any

from tranship.lab.vsphere import soap
from tranship.lab.vsphere.calls import Call
from tranship.lab.vsphere.state import State
from tranship.lab.vsphere.vmomi import vim
from tranship.lab.vsphere.world import Managed

KNOWN = (
    "System.Anonymous",
    "System.Read",
    "System.View",
    "Datastore.Browse",
    "Datastore.FileManagement",
    "VApp.Export",
    "VirtualMachine.Config.ChangeTracking",
    "VirtualMachine.Config.Rename",
    "VirtualMachine.Config.Annotation",
    "VirtualMachine.Interact.PowerOff",
    "VirtualMachine.Interact.PowerOn",
    "VirtualMachine.Inventory.Delete",
    "VirtualMachine.Provisioning.DiskRandomAccess",
    "VirtualMachine.Provisioning.DiskRandomRead",
    "VirtualMachine.Provisioning.GetVmFiles",
    "VirtualMachine.State.CreateSnapshot",
    "VirtualMachine.State.RemoveSnapshot",
    "VirtualMachine.State.RenameSnapshot",
    "VirtualMachine.State.RevertToSnapshot",
)


class Privileges:
    def __init__(self, state: State) -> None:
        self.state = state
        facts = {"privilegeList": self._list, "roleList": [], "description": None}
        state.world.add(Managed(vim.AuthorizationManager, "AuthorizationManager", facts))

    def _list(self) -> list[Any]:
        kind = vim.AuthorizationManager.Privilege
        return [
            kind(privId=name, onParent=False, name=name.rpartition(".")[2], privGroupName=name.rpartition(".")[0])
            for name in KNOWN
        ]

    def granted(self, name: str) -> bool:
        return name not in self.state.missing_privileges

    def demand(self, name: str | None, item: Managed) -> None:
        """Raises the fault NoPermission."""
        if name and not self.granted(name):
            message = "Permission to perform this operation was denied."
            raise soap.fault_named("NoPermission", message, object=item.ref, privilegeId=name)

    def HasPrivilegeOnEntities(
        self, call: Call, entity: list[Any], sessionId: str, privId: list[str] | None = None
    ) -> list[Any]:
        kind = vim.AuthorizationManager
        return [
            kind.EntityPrivilege(
                entity=self.state.world.find(ref._moId).ref,
                privAvailability=[
                    kind.PrivilegeAvailability(privId=name, isGranted=self.granted(name)) for name in privId or []
                ],
            )
            for ref in entity
        ]

    def HasPrivilegeOnEntity(
        self, call: Call, entity: Any, sessionId: str, privId: list[str] | None = None
    ) -> list[bool]:
        self.state.world.find(entity._moId)
        return [self.granted(name) for name in privId or []]

    def HasUserPrivilegeOnEntities(
        self, call: Call, entities: list[Any], userName: str, privId: list[str] | None = None
    ) -> list[Any]:
        self._known(userName)
        return self.HasPrivilegeOnEntities(call, entities, "", privId)

    def FetchUserPrivilegeOnEntities(self, call: Call, entities: list[Any], userName: str) -> list[Any]:
        self._known(userName)
        names = [name for name in KNOWN if self.granted(name)]
        kind = vim.AuthorizationManager.UserPrivilegeResult
        return [kind(entity=self.state.world.find(ref._moId).ref, privileges=names) for ref in entities]

    def _known(self, user: str) -> None:
        if user.lower() != self.state.user.lower():
            raise soap.fault_named("NotFound", f"There is no user {user}.")
