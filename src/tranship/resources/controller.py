"""ForkliftController: the settings of the whole installation, and what they come to.

`Settings.from_spec` gives the settings that are acted on as typed values: the object wins over the environment, the
environment over the default; a plan may override further. The other settings of upstream are kept in the object.
Upstream's misspelt and misnamed settings work under both names. Booleans are the strings "true" and "false".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import Field

from tranship.errors import Invalid
from tranship.resources.meta import FORKLIFT_CONTROLLER, Kind, Resource, Status
from tranship.resources.model import Model
from tranship.resources.plan import PrecopySpec

Number = Any
"""A whole number. Old schemas let a string stand here too, so the model takes anything and `Settings` checks it."""


class ForkliftControllerSpec(Model):
    """Only settings that are acted on are spelt out; all others are kept."""

    model_config = {"alias_generator": None}

    controller_max_vm_inflight: Number = None
    """How many VMs are moved at once, per source host or provider (20)."""
    controller_precopy_interval: Number = None
    """Minutes from the end of one precopy to the next (60)."""
    controller_snapshot_removal_timeout_minuts: Number = None
    """Minutes that the removal of a snapshot may take (120). Spelt as upstream does."""
    controller_snapshot_removal_timeout_minutes: Number = None
    """The same, spelt right; wins."""
    controller_filesystem_overhead: Number = None
    """Percent of a file system that is lost to itself, where the cluster does not tell (10)."""
    controller_block_overhead: Number = None
    """Bytes that a block volume is made larger by (0)."""
    controller_migration_service_account: Any = None
    """Service account of the movers' pods, in the target namespace, where a plan names none."""
    controller_transfer_network: Any = None
    """The NetworkAttachmentDefinition by which disks travel where neither plan nor provider name one: NAMESPACE/NAME, or a
    NAME in the namespace that is moved into."""
    controller_pvc_name_template: Any = None
    """Names of volume claims, where a plan says nothing; braces may be written \\{ \\}."""
    vddk_image: Any = None
    """The image that brings VDDK to movers in a cluster, where a vSphere provider's settings say nothing."""


class ForkliftControllerStatus(Status):
    """Written by upstream's operator, whose conditions are of another shape: anything is kept."""

    conditions: Any = Field(default_factory=list)
    observed_generation: Any = 0


class ForkliftController(Resource):
    """The settings of the whole installation."""

    KIND: ClassVar[Kind] = FORKLIFT_CONTROLLER
    spec: ForkliftControllerSpec = Field(default_factory=ForkliftControllerSpec)
    status: ForkliftControllerStatus = Field(default_factory=ForkliftControllerStatus)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Spans are seconds; filesystem_overhead is a share, block_overhead bytes."""

    precopy_interval: float = 3600.0
    max_vm_inflight: int = 20
    snapshot_removal_timeout: float = 7200.0
    filesystem_overhead: float = 0.1
    block_overhead: int = 0
    pvc_name_template: str = ""
    migration_service_account: str = ""
    transfer_network: str = ""

    @classmethod
    def from_spec(cls, spec: ForkliftControllerSpec | None, env: Mapping[str, str]) -> "Settings":
        """Raises Invalid, which names the setting or the variable."""
        given = spec or ForkliftControllerSpec()

        def number(
            default: float, names: tuple[str, ...], variables: tuple[str, ...], scale: float = 1.0, least: int = 1
        ) -> float:
            for name in names:
                if (value := getattr(given, name)) is not None:
                    return _number(value, f"spec.{name}", least) * scale
            for variable in variables:
                if value := env.get(variable):
                    return _number(value, variable, least) * scale
            return default

        return cls(
            precopy_interval=number(3600, ("controller_precopy_interval",), ("PRECOPY_INTERVAL",), 60),
            max_vm_inflight=int(number(20, ("controller_max_vm_inflight",), ("MAX_VM_INFLIGHT",))),
            snapshot_removal_timeout=number(
                7200,
                ("controller_snapshot_removal_timeout_minutes", "controller_snapshot_removal_timeout_minuts"),
                ("SNAPSHOT_REMOVAL_TIMEOUT_MINUTES", "SNAPSHOT_REMOVAL_TIMEOUT"),
                60,
            ),
            filesystem_overhead=_share(
                number(0.1, ("controller_filesystem_overhead",), ("FILESYSTEM_OVERHEAD",), 0.01, least=0)
            ),
            block_overhead=int(number(0, ("controller_block_overhead",), ("BLOCK_OVERHEAD",), least=0)),
            pvc_name_template=_text(
                given.controller_pvc_name_template or env.get("PVC_NAME_TEMPLATE", ""),
                "spec.controller_pvc_name_template",
            ),
            migration_service_account=_text(
                given.controller_migration_service_account or env.get("MIGRATION_SERVICE_ACCOUNT", ""),
                "spec.controller_migration_service_account",
            ),
            transfer_network=_network(given.controller_transfer_network or ""),
        )

    def precopy_seconds(self, override: PrecopySpec | None) -> float | None:
        """The interval for a plan, whose own wins; None = auto."""
        if override is None or override.interval is None:
            return self.precopy_interval
        return override.interval_seconds


def vddk_image(spec: ForkliftControllerSpec | None, env: Mapping[str, str]) -> str:
    """ "" = none. Apart from `Settings`, for providers: no other setting's mistake shall break a connection."""
    return str((spec and spec.vddk_image) or env.get("VDDK_IMAGE", ""))


def _number(value: Any, field: str, least: int) -> int:
    try:
        if isinstance(value, bool | float):
            raise TypeError
        number = int(value)
    except (TypeError, ValueError):
        raise Invalid(f"{value!r} is no number", field=field, remedy="Write a whole number.") from None
    if number < least:
        raise Invalid(f"{number} is too small", field=field, remedy=f"Write a whole number of at least {least}.")
    return number


def _text(value: Any, field: str) -> str:
    if isinstance(value, str):
        return value
    raise Invalid(f"{value!r} is no text", field=field, remedy="Write a text.")


def _network(value: Any) -> str:
    if isinstance(value, str) and value.count("/") <= 1 and all(value.split("/") if value else ()):
        return value
    remedy = "Write the NetworkAttachmentDefinition as NAMESPACE/NAME."
    raise Invalid(f"{value!r} names no network", field="spec.controller_transfer_network", remedy=remedy)


def _share(share: float) -> float:
    if share > 0.9:
        remedy = "Write a whole number of percent, such as 10."
        raise Invalid(f"{share:.0%} is too much", field="controller_filesystem_overhead", remedy=remedy)
    return share
