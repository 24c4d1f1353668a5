"""Plan: which VMs move from where to where, and how. Its status remembers every migration of the plan.

Read by the plan and migration controllers. Fields and defaults are upstream's; precopy, shutdown and verify are ours
and optional. Which fields are not acted on stands in unacted.py.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from tranship.resources.conditions import Condition
from tranship.resources.meta import PLAN, Kind, ObjectReference, Resource, SourceAndDestination, Status
from tranship.resources.model import ALWAYS, SCHEMA_DEFAULT, Duration, Model, Timestamp
from tranship.resources.vm import PlanVM, PowerState, VMStatus
from tranship.units import parse_duration

AUTO = "auto"


def _interval(value: str) -> str:
    if value != AUTO and parse_duration(value) <= 0:
        raise ValueError('an interval must be longer than nothing: write a duration such as 15m, or "auto"')
    return value


class PrecopySpec(Model):
    """How a warm migration repeats its copy before the cutover."""

    interval: Annotated[str, AfterValidator(_interval)] | None = None
    """Time from the end of one precopy to the next: 15m or the like, or auto. Absent = the controller's setting."""
    target_downtime: Duration | None = None
    """The downtime to aim for, a duration: with interval auto precopies come often enough to stay below it."""
    enable_change_tracking: Annotated[bool, SCHEMA_DEFAULT] = False
    """Switch changed block tracking on where it is off. Activating it takes a short-lived snapshot."""
    quiesce: Annotated[bool, SCHEMA_DEFAULT] = False
    """Ask guest tools to flush file systems for precopy snapshots; falls back to crash-consistent ones, and says so."""

    @property
    def auto(self) -> bool:
        return self.interval == AUTO

    @property
    def interval_seconds(self) -> float | None:
        """None = not given, or auto."""
        return parse_duration(self.interval) if self.interval and not self.auto else None

    @property
    def target_downtime_seconds(self) -> float | None:
        return parse_duration(self.target_downtime) if self.target_downtime else None


class ShutdownSpec(Model):
    """How the source VM is shut down for the cutover."""

    deadline: Duration | None = None
    """How long the guest has to shut down by itself, a duration."""
    hard_power_off: Annotated[bool, SCHEMA_DEFAULT] = True
    """After the deadline: true = power off hard; false = give up, the VM keeps running."""

    @property
    def deadline_seconds(self) -> float | None:
        """None = not given."""
        return parse_duration(self.deadline) if self.deadline else None


class PlanMap(Model):
    network: ObjectReference
    storage: ObjectReference


class TagMapping(Model):
    disabled: bool = False
    label_tags: list[str] = Field(default_factory=list)


class PlanSpec(Model):
    description: str = ""
    archived: bool = False
    """The plan is done with: what it left behind is cleaned up."""
    provider: SourceAndDestination
    map: PlanMap
    vms: list[PlanVM]
    target_namespace: str
    type: Literal["cold", "warm", "live", "conversion"] | None = None
    """cold or warm; wins over the field warm."""
    warm: bool = False
    """Deprecated: use type."""
    target_power_state: PowerState | None = None
    """on, off, or auto (default): as the source was."""
    delete_vm_on_fail_migration: Annotated[bool, SCHEMA_DEFAULT] = True
    """What was made on the target is removed after a failure."""
    skip_guest_conversion: Annotated[bool, SCHEMA_DEFAULT] = False
    """Move the disks as they are, without preparing the guest for KVM."""
    use_compatibility_mode: Annotated[bool, SCHEMA_DEFAULT] = True
    """With skipGuestConversion: devices that any guest knows (SATA, E1000E) instead of virtio."""
    target_labels: dict[str, str] = Field(default_factory=dict)
    precopy: PrecopySpec | None = None
    shutdown: ShutdownSpec | None = None
    verify: Annotated[bool, SCHEMA_DEFAULT] = True
    """Read every copied block back from the target and compare it."""

    service_account: str = Field(default="", max_length=253, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    transfer_network: ObjectReference | None = None
    preserve_static_ips: Annotated[bool, SCHEMA_DEFAULT] = True
    preserve_cluster_cpu_model: bool = False
    target_node_selector: dict[str, str] = Field(default_factory=dict)
    target_affinity: dict[str, Any] = Field(default_factory=dict)
    convertor_labels: dict[str, str] = Field(default_factory=dict)
    convertor_node_selector: dict[str, str] = Field(default_factory=dict)
    convertor_affinity: dict[str, Any] = Field(default_factory=dict)
    conversion_temp_storage_class: str = ""
    conversion_temp_storage_size: str = ""
    pvc_name_template: str = ""
    pvc_name_template_use_generate_name: bool | None = None
    volume_name_template: str = ""
    network_name_template: str = ""
    migrate_shared_disks: Annotated[bool, SCHEMA_DEFAULT] = True
    rdm_as_lun: bool = False
    scsi_reservation: bool = False
    delete_guest_conversion_pod: bool = False
    install_legacy_drivers: bool | None = None
    enable_nested_virtualization: bool | None = None
    xfs_compatibility: Annotated[bool, SCHEMA_DEFAULT] = False
    virt_v2v_image: str = ""
    run_preflight_inspection: Annotated[bool, SCHEMA_DEFAULT] = True
    customization_scripts: ObjectReference | None = None
    tag_mapping: TagMapping | None = None
    skip_zone_node_selector: bool = False
    disk_bus: str = ""

    @property
    def migration_type(self) -> Literal["cold", "warm", "live", "conversion"]:
        return self.type or ("warm" if self.warm else "cold")

    @property
    def is_warm(self) -> bool:
        """Type wins over the deprecated flag."""
        return self.migration_type == "warm"

    def power_state(self, vm: PlanVM) -> PowerState:
        return vm.target_power_state or self.target_power_state or "auto"

    def deletes_on_failure(self, vm: PlanVM) -> bool:
        """The VM's own word wins, in either direction; upstream lets a plan's true hide it."""
        own = vm.delete_vm_on_fail_migration
        return self.delete_vm_on_fail_migration if own is None else own


class SnapshotRef(Model):
    """An object as it was when a migration started."""

    name: Annotated[str, ALWAYS] = ""
    namespace: Annotated[str, ALWAYS] = ""
    uid: Annotated[str, ALWAYS] = ""
    generation: Annotated[int, ALWAYS] = 0

    @classmethod
    def of(cls, resource: Resource) -> "SnapshotRef":
        meta = resource.metadata
        return cls(name=meta.name, namespace=meta.namespace, uid=meta.uid, generation=meta.generation)


class SnapshotProviders(Model):
    source: Annotated[SnapshotRef, ALWAYS] = Field(default_factory=SnapshotRef)
    destination: Annotated[SnapshotRef, ALWAYS] = Field(default_factory=SnapshotRef)


class SnapshotMaps(Model):
    network: Annotated[SnapshotRef, ALWAYS] = Field(default_factory=SnapshotRef)
    storage: Annotated[SnapshotRef, ALWAYS] = Field(default_factory=SnapshotRef)


class HistoryEntry(Model):
    """One migration of the plan: what it was made of, and how it stands."""

    conditions: list[Condition] = Field(default_factory=list)
    plan: Annotated[SnapshotRef, ALWAYS] = Field(default_factory=SnapshotRef)
    migration: Annotated[SnapshotRef, ALWAYS] = Field(default_factory=SnapshotRef)
    map: Annotated[SnapshotMaps, ALWAYS] = Field(default_factory=SnapshotMaps)
    provider: Annotated[SnapshotProviders, ALWAYS] = Field(default_factory=SnapshotProviders)


class MigrationStatus(Model):
    """The part of a plan's status that tells its migrations."""

    started: Timestamp | None = None
    completed: Timestamp | None = None
    history: list[HistoryEntry] = Field(default_factory=list)
    vms: list[VMStatus] = Field(default_factory=list)

    def vm(self, id: str) -> VMStatus | None:
        return next((vm for vm in self.vms if vm.id == id), None)


class PlanStatus(Status):
    migration: MigrationStatus = Field(default_factory=MigrationStatus)
    net_app_shift_destination: bool = False


def _nothing() -> PlanSpec:
    nobody = ObjectReference()
    return PlanSpec(
        provider=SourceAndDestination(source=nobody, destination=nobody),
        map=PlanMap(network=nobody, storage=nobody),
        vms=[],
        target_namespace="",
    )


class Plan(Resource):
    """Which virtual machines move from where to where, and how."""

    KIND: ClassVar[Kind] = PLAN
    spec: PlanSpec = Field(default_factory=_nothing)
    status: PlanStatus = Field(default_factory=PlanStatus)

    @property
    def warm(self) -> bool:
        return self.spec.is_warm
