"""Migration: a plan is to run now.

Created to start it, edited to set the cutover or to cancel VMs, deleted to cancel all of them.
"""

from datetime import datetime
from typing import ClassVar

from pydantic import Field

from tranship.resources.meta import MIGRATION, Kind, ObjectReference, Ref, Resource, Status
from tranship.resources.model import Model, Timestamp
from tranship.resources.vm import VMStatus


class VMCutover(Model):
    id: str = Field(min_length=1)
    """The VM's id in the source's inventory."""
    cutover: Timestamp


class MigrationSpec(Model):
    plan: ObjectReference
    cutover: Timestamp | None = None
    """When warm VMs are shut down and moved for good; a time in the past means now, none means not yet."""
    cancel: list[Ref] = Field(default_factory=list)
    vm_cutover: list[VMCutover] = Field(default_factory=list)
    """Cutover times of single VMs; they win over cutover."""
    resume_conversion: bool = False


class RunStatus(Status):
    started: Timestamp | None = None
    completed: Timestamp | None = None
    vms: list[VMStatus] = Field(default_factory=list)


def _nothing() -> MigrationSpec:
    return MigrationSpec(plan=ObjectReference())


class Migration(Resource):
    """A run of a plan."""

    KIND: ClassVar[Kind] = MIGRATION
    spec: MigrationSpec = Field(default_factory=_nothing)
    status: RunStatus = Field(default_factory=RunStatus)

    def cutover_of(self, id: str) -> datetime | None:
        """When that VM is to be cut over: its own time, else that of all."""
        own = next((entry.cutover for entry in self.spec.vm_cutover if entry.id == id), None)
        return own or self.spec.cutover

    def cancels(self, *, id: str, name: str = "") -> bool:
        return self.metadata.deletion_timestamp is not None or any(
            ref.fits(id=id, name=name) for ref in self.spec.cancel
        )
