"""One VM of a plan, and everything that is recorded about its migration.

PlanVM is what the user writes into Plan.spec.vms[]. VMStatus is the entry of Plan.status.migration.vms[] and of
Migration.status.vms[]: the only memory a migration has. The controller reads it, steps the itinerary and writes it back
before anything is asked of a platform, so it must survive a round trip through JSON unchanged.
Sizes are bytes, spans seconds; the totals of pipeline steps are in the unit that their annotation names.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from tranship.resources.conditions import Condition
from tranship.resources.meta import ObjectReference, Ref
from tranship.resources.model import ALWAYS, Model, Timestamp

PowerState = Literal["on", "off", "auto"]


class HookRef(Model):
    hook: ObjectReference
    step: str
    """PreHook or PostHook."""


class PlanVM(Ref):
    target_name: str = ""
    """Name on the target; empty = made from the source's."""
    hooks: list[HookRef] = Field(default_factory=list)
    luks: ObjectReference | None = None
    nbde_clevis: bool = False
    root_disk: str = ""
    instance_type: str = ""
    pvc_name_template: str = ""
    volume_name_template: str = ""
    network_name_template: str = ""
    target_power_state: PowerState | None = None
    """Overrides the plan's."""
    delete_vm_on_fail_migration: bool | None = None
    migrate_shared_disks: bool | None = None
    enable_nested_virtualization: bool | None = None
    rdm_as_lun: bool | None = None
    scsi_reservation: bool | None = None


class StepError(Model):
    phase: Annotated[str, ALWAYS] = ""
    reasons: Annotated[list[str], ALWAYS] = Field(default_factory=list)


class Progress(Model):
    completed: Annotated[int, ALWAYS] = 0
    total: Annotated[int, ALWAYS] = 0


class Task(Model):
    """Part of a pipeline step, for example one disk."""

    name: Annotated[str, ALWAYS] = ""
    description: str = ""
    phase: str = ""
    """Pending, Running or Completed."""
    reason: str = ""
    progress: Annotated[Progress, ALWAYS] = Field(default_factory=Progress)
    annotations: dict[str, str] = Field(default_factory=dict)
    error: StepError | None = None
    warning: StepError | None = None
    started: Timestamp | None = None
    completed: Timestamp | None = None


class Step(Task):
    """A step of the pipeline that the user sees."""

    tasks: list[Task] = Field(default_factory=list)


class Delta(Model):
    disk: Annotated[str, ALWAYS] = ""
    delta_id: Annotated[str, ALWAYS] = ""


class Precopy(Model):
    """One round of a warm migration."""

    start: Timestamp | None = None
    end: Timestamp | None = None
    snapshot: str = ""
    create_task_id: str = ""
    remove_task_id: str = ""
    deltas: list[Delta] = Field(default_factory=list)
    """changeId of each disk in this round's snapshot."""
    round: int = 0
    bytes: int = 0
    areas: int = 0
    seconds: float = 0.0
    quiesced: bool | None = None
    full: list[str] = Field(default_factory=list)
    """Disks that had to be copied fully in this round."""


class Warm(Model):
    successes: Annotated[int, ALWAYS] = 0
    failures: Annotated[int, ALWAYS] = 0
    consecutive_failures: Annotated[int, ALWAYS] = 0
    next_precopy_at: Timestamp | None = None
    precopies: list[Precopy] = Field(default_factory=list)


class Retry(Model):
    """A temporary error is being waited out: the count of tries so far and when the next one is due."""

    count: int = 0
    at: Timestamp | None = None
    reason: str = ""
    message: str = ""


class LedgerEntry(Model):
    """Something of ours on a platform, written down before it is made, so that it is found after any crash."""

    kind: Annotated[str, ALWAYS] = ""
    name: Annotated[str, ALWAYS] = ""
    side: Annotated[str, ALWAYS] = ""
    """source or target."""
    uid: str = ""
    """Of the object on a cluster, from when it was first seen; only that object is ever removed."""


class StoryEntry(Model):
    at: Timestamp
    phase: str = ""
    why: str = ""
    asked: list[str] = Field(default_factory=list)


class DiskStatus(Model):
    id: Annotated[str, ALWAYS] = ""
    """The source's key of the disk."""
    name: str = ""
    capacity: int = 0
    way: str = ""
    """By which way its bytes come."""
    why: str = ""
    """Why by that way."""
    base: str = ""
    """changeId that the target durably holds."""
    round: int = 0
    digest: str = ""
    verified: bool = False


class Forecast(Model):
    downtime_seconds: float | None = None
    p90_seconds: float | None = None
    converging: bool | None = None
    """Whether precopies get shorter; absent = too early to say."""
    basis: str = ""
    """What the forecast rests on."""


class CutoverStatus(Model):
    asked: Timestamp | None = None
    started: Timestamp | None = None
    powered_off: Timestamp | None = None
    predicted_seconds: float | None = None
    downtime_seconds: float | None = None


class VMStatus(PlanVM):
    """The state of one VM's migration: upstream's fields, then ours."""

    phase: Annotated[str, ALWAYS] = ""
    pipeline: Annotated[list[Step], ALWAYS] = Field(default_factory=list)
    started: Timestamp | None = None
    completed: Timestamp | None = None
    conditions: list[Condition] = Field(default_factory=list)
    error: StepError | None = None
    warm: Warm | None = None
    restore_power_state: str = ""
    """On, Off or Unknown: how the source was before it was powered off."""
    new_name: str = ""
    firmware: str = ""
    operating_system: str = ""
    detected_boot_disk: int | None = None
    disks_copied: bool = False

    itinerary: str = ""
    """Which table of phases the VM follows."""
    entered: Timestamp | None = None
    """When the present phase began."""
    retry: Retry | None = None
    ledger: list[LedgerEntry] = Field(default_factory=list)
    """What was made for this VM on source and target."""
    story: list[StoryEntry] = Field(default_factory=list)
    disks: list[DiskStatus] = Field(default_factory=list)
    forecast: Forecast | None = None
    cutover: CutoverStatus | None = None
    order: dict[str, Any] = Field(default_factory=dict)
    """The target machine as it was ordered when the migration began (migration.mapping.MachineOrder)."""
    why: str = ""
    """What is going on, as a sentence."""
    outcome: str = ""

    def disk(self, id: str) -> DiskStatus | None:
        return next((disk for disk in self.disks if disk.id == id), None)

    def step(self, name: str) -> Step | None:
        return next((step for step in self.pipeline if step.name == name), None)
