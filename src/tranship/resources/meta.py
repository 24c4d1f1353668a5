"""What all kinds share: their names, metadata, references, and the way from a manifest to a model.

Called by stores (which kind lives where), controllers, server and command line. `parse` turns a manifest into the model
of its kind, or raises Invalid with field, cause and remedy.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import ConfigDict, Field, ValidationError, model_validator

from tranship.errors import Invalid
from tranship.resources.conditions import Condition
from tranship.resources.model import Model, Timestamp

GROUP = "forklift.konveyor.io"
VERSION = "v1beta1"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind as the Kubernetes API names it. group "" = the core group. short: short names, as for kubectl."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    short: tuple[str, ...] = ()

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def singular(self) -> str:
        return self.kind.lower()

    def __str__(self) -> str:
        return self.kind


SECRET = Kind("", "v1", "secrets", "Secret")
PROVIDER = Kind(GROUP, VERSION, "providers", "Provider", short=("prov",))
NETWORK_MAP = Kind(GROUP, VERSION, "networkmaps", "NetworkMap", short=("netmap",))
STORAGE_MAP = Kind(GROUP, VERSION, "storagemaps", "StorageMap", short=("stmap",))
PLAN = Kind(GROUP, VERSION, "plans", "Plan")
MIGRATION = Kind(GROUP, VERSION, "migrations", "Migration", short=("mig",))
HOOK = Kind(GROUP, VERSION, "hooks", "Hook")
HOST = Kind(GROUP, VERSION, "hosts", "Host")
FORKLIFT_CONTROLLER = Kind(GROUP, VERSION, "forkliftcontrollers", "ForkliftController", short=("fc",))
CONVERSION = Kind(GROUP, VERSION, "conversions", "Conversion")

ALL_KINDS = (
    SECRET,
    PROVIDER,
    NETWORK_MAP,
    STORAGE_MAP,
    PLAN,
    MIGRATION,
    HOOK,
    HOST,
    FORKLIFT_CONTROLLER,
    CONVERSION,
)

KINDS: Mapping[str, Kind] = {
    name: kind for kind in ALL_KINDS for name in (kind.plural, kind.kind, kind.singular, *kind.short)
}
"""Every kind under its plural, its kind, its singular and its short names."""


class OwnerReference(Model):
    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool | None = None
    block_owner_deletion: bool | None = None


class ObjectMeta(Model):
    name: str = ""
    generate_name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: Timestamp | None = None
    deletion_timestamp: Timestamp | None = None
    finalizers: list[str] = Field(default_factory=list)
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    owner_references: list[OwnerReference] = Field(default_factory=list)


class ObjectReference(Model):
    """Points to an object of the API. An empty namespace means the referring object's own."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-map-type": "atomic"})

    api_version: str = ""
    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""
    resource_version: str = ""
    field_path: str = ""

    def __bool__(self) -> bool:
        """False for `{}`, which Go clients write where nothing is meant."""
        return bool(self.name or self.uid)


class Ref(Model):
    """Points into a provider's inventory: `id` wins over `name`, which may also be a path."""

    id: str = ""
    name: str = ""
    namespace: str = ""
    type: str = ""

    def __str__(self) -> str:
        return self.name or self.id

    def fits(self, *, id: str, name: str = "") -> bool:
        """Whether this means the thing of that id and name."""
        return self.id == id if self.id else bool(name) and self.name == name


class SourceAndDestination(Model):
    """The pair of providers that maps and plans name."""

    source: ObjectReference
    destination: ObjectReference


class Status(Model):
    conditions: list[Condition] = Field(default_factory=list)
    observed_generation: int = 0


class Resource(Model):
    """Base of all kinds. A subclass sets KIND and is thereby known to `parse`."""

    KIND: ClassVar[Kind]

    api_version: str = ""
    kind: str = ""
    metadata: ObjectMeta = Field(default_factory=ObjectMeta)
    status: Status = Field(default_factory=Status)

    @model_validator(mode="before")
    @classmethod
    def _name_the_kind(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            return {"apiVersion": cls.KIND.api_version, "kind": cls.KIND.kind, **data}
        return data

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        MODELS[cls.KIND] = cls

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def namespace(self) -> str:
        return self.metadata.namespace

    @property
    def uid(self) -> str:
        return self.metadata.uid

    @classmethod
    def read(cls, obj: Mapping[str, Any]) -> Self:
        """Parse an object that must be of this kind. Raises Invalid."""
        resource = parse(obj)
        if not isinstance(resource, cls):
            raise Invalid(f"this is a {resource.kind}, not a {cls.KIND.kind}", field="kind")
        return resource


MODELS: dict[Kind, type[Resource]] = {}


def parse(obj: Mapping[str, Any]) -> Resource:
    """The model of a manifest's kind. Raises Invalid (field, cause, remedy)."""
    model = MODELS[_kind_of(obj)]
    try:
        return model.model_validate(obj, by_alias=True, by_name=False)
    except ValidationError as error:
        # `from None`: the chain would print the input, and a Secret is an input too
        raise _invalid(model.KIND, error) from None


def _kind_of(obj: Mapping[str, Any]) -> Kind:
    name, version = obj.get("kind"), obj.get("apiVersion")
    known = ", ".join(kind.kind for kind in MODELS)
    if not isinstance(name, str) or not name:
        raise Invalid("is missing", field="kind", remedy=f"Write one of {known}.")
    kind = KINDS.get(name)
    if kind is None or kind.kind != name:
        raise Invalid(f"{name!r} is not known", field="kind", remedy=f"Write one of {known}.")
    if version != kind.api_version:
        found = "is missing" if version is None else f"{version!r} does not fit kind {name}"
        raise Invalid(found, field="apiVersion", remedy=f"Write apiVersion: {kind.api_version}.")
    return kind


def _invalid(kind: Kind, error: ValidationError) -> Invalid:
    first, *others = error.errors(include_url=False, include_input=False)
    detail, remedy = _explain(first["type"], first["msg"])
    more = [f"{_path(other['loc'])}: {_explain(other['type'], other['msg'])[0]}" for other in others]
    return Invalid(
        "; ".join([detail, *more]),
        field=_path(first["loc"]),
        remedy=remedy or f"Correct the field: {kind.kind} does not accept it like this.",
    )


def _explain(type: str, message: str) -> tuple[str, str]:
    if type == "missing":
        return "is missing", "Add the field: it is required."
    text = message.removeprefix("Value error, ").removeprefix("Input ")
    return text, ""


def _path(location: tuple[int | str, ...]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".") or "manifest"
