"""The kinds that the command line knows: their names, where the API has them, and the columns of `get`.

The resources package knows the kinds too, but importing it takes longer than a whole command may; a test holds the two
together.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tranship.errors import Invalid

GROUP = "forklift.konveyor.io"
Object = Mapping[str, Any]


def dig(obj: Object, path: str) -> Any:
    """The value at a dotted path, or None."""
    value: Any = obj
    for part in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value


def condition(obj: Object, type: str) -> Mapping[str, Any] | None:
    conditions = dig(obj, "status.conditions") or []
    return next((one for one in conditions if one.get("type") == type), None)


def holds(obj: Object, type: str) -> bool:
    found = condition(obj, type)
    return found is not None and found.get("status") == "True"


@dataclass(frozen=True, slots=True)
class Column:
    header: str
    value: Callable[[Object], str]
    wide: bool = False


def _field(header: str, path: str, *, wide: bool = False) -> Column:
    return Column(header, lambda obj: str(value) if (value := dig(obj, path)) is not None else "", wide)


def _condition(header: str, type: str | None = None) -> Column:
    name = type or header.capitalize()
    return Column(header, lambda obj: (condition(obj, name) or {}).get("status", ""))


def _count(header: str, path: str, *, wide: bool = False) -> Column:
    return Column(header, lambda obj: str(len(dig(obj, path) or ())), wide)


@dataclass(frozen=True, slots=True)
class Kind:
    """columns: those between NAME and AGE; the status of a condition where Forklift prints one."""

    kind: str
    plural: str
    short: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    group: str = GROUP

    @property
    def singular(self) -> str:
        return self.kind.lower()

    @property
    def api_version(self) -> str:
        return f"{GROUP}/v1beta1" if self.group else "v1"

    @property
    def names(self) -> tuple[str, ...]:
        full = f"{self.plural}.{self.group}", f"{self.singular}.{self.group}"
        return (self.plural, self.singular, *self.short, *(full if self.group else ()))

    def title(self, name: str) -> str:
        """As kubectl prints it: plan.forklift.konveyor.io/x."""
        return f"{self.singular}.{self.group}/{name}" if self.group else f"{self.singular}/{name}"

    def path(self, namespace: str | None, name: str = "") -> str:
        """None = over all namespaces."""
        base = f"/apis/{self.api_version}" if self.group else "/api/v1"
        place = f"/namespaces/{namespace}" if namespace is not None else ""
        return f"{base}{place}/{self.plural}" + (f"/{name}" if name else "")


READY = _condition("READY")

SECRET = Kind("Secret", "secrets", columns=(_field("TYPE", "type"), _count("DATA", "data")), group="")
PROVIDER = Kind(
    "Provider",
    "providers",
    ("prov",),
    (
        _field("TYPE", "spec.type"),
        _field("STATUS", "status.phase"),
        READY,
        _condition("CONNECTED", "ConnectionTestSucceeded"),
        _condition("INVENTORY", "InventoryCreated"),
        _field("URL", "spec.url"),
    ),
)
PLAN = Kind(
    "Plan",
    "plans",
    (),
    (
        READY,
        _condition("EXECUTING"),
        _condition("SUCCEEDED"),
        _condition("FAILED"),
        Column("TYPE", lambda plan: plan_type(plan), wide=True),
        _field("SOURCE", "spec.provider.source.name", wide=True),
        _field("DESTINATION", "spec.provider.destination.name", wide=True),
        _count("VMS", "spec.vms", wide=True),
    ),
)
MIGRATION = Kind(
    "Migration",
    "migrations",
    ("mig",),
    (
        READY,
        _condition("RUNNING"),
        _condition("SUCCEEDED"),
        _condition("FAILED"),
        _field("PLAN", "spec.plan.name", wide=True),
        _field("CUTOVER", "spec.cutover", wide=True),
    ),
)
KINDS = (
    SECRET,
    PROVIDER,
    Kind("NetworkMap", "networkmaps", ("netmap",), (READY,)),
    Kind("StorageMap", "storagemaps", ("stmap",), (READY,)),
    PLAN,
    MIGRATION,
    Kind("Hook", "hooks", (), (READY, _field("IMAGE", "spec.image"))),
    Kind("Host", "hosts", (), (READY, _condition("CONNECTED", "ConnectionTestSucceeded"))),
    Kind("ForkliftController", "forkliftcontrollers", ("fc",)),
    Kind(
        "Conversion",
        "conversions",
        (),
        (_field("TYPE", "spec.type"), _field("PHASE", "status.phase"), _field("STAGE", "status.stage"), READY),
    ),
)
_BY_NAME = {name: kind for kind in KINDS for name in kind.names}


def find_kind(word: str) -> Kind:
    """By plural, singular, short or full name, in any case. Raises Invalid."""
    try:
        return _BY_NAME[word.lower()]
    except KeyError:
        remedy = f"Use one of {', '.join(kind.plural for kind in KINDS)}."
        raise Invalid(f"{word!r} is no kind that this server has", field="KIND", remedy=remedy) from None


def kind_of(manifest: Object) -> Kind:
    """The kind that a manifest says it is. Raises Invalid."""
    name, version = manifest.get("kind"), manifest.get("apiVersion")
    kind = next((kind for kind in KINDS if kind.kind == name), None)
    if kind is None:
        known = ", ".join(kind.kind for kind in KINDS)
        found = "is missing" if not name else f"{name!r} is not known"
        raise Invalid(found, field="kind", remedy=f"Write one of {known}.")
    if version != kind.api_version:
        found = "is missing" if not version else f"{version!r} does not fit kind {name}"
        raise Invalid(found, field="apiVersion", remedy=f"Write apiVersion: {kind.api_version}.")
    return kind


def parse_targets(words: tuple[str, ...]) -> list[tuple[Kind, str]]:
    """`plan a b`, `plan/a secret/b` or `plans`: what a command is to act on; name "" = all of the kind."""
    if not words:
        raise Invalid("is missing", field="KIND", remedy="Write KIND, KIND NAME or KIND/NAME.")
    if "/" in words[0]:
        if wrong := next((word for word in words if word.count("/") != 1), None):
            raise Invalid(f"{wrong!r} does not go with KIND/NAME", field="NAME", remedy="Write each as KIND/NAME.")
        return [(find_kind(kind), name) for kind, name in (word.split("/") for word in words)]
    kind = find_kind(words[0])
    return [(kind, name) for name in words[1:]] or [(kind, "")]


def plan_name(word: str) -> str:
    """A plan's name, also when it is written as plan/NAME."""
    return word.rpartition("/")[2] if word.startswith(("plan/", "plans/", f"plan.{GROUP}/")) else word


def plan_type(plan: Object) -> str:
    return str(dig(plan, "spec.type") or ("warm" if dig(plan, "spec.warm") else "cold"))
