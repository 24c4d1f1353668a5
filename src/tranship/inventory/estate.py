"""What a source or target holds, as one immutable-by-convention snapshot with lookups.

Providers publish an Estate; controllers resolve references of manifests in it. `id` wins over `name`; a name must fit
exactly one object (a path such as /DC/vm/folder/name is also accepted).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from tranship.errors import NotFound, NotUnique, Side
from tranship.inventory.vm import VM


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    id: str
    name: str
    path: str = ""
    kind: str = "standard"  # standard, dvportgroup, opaque; on a target: pod, multus, bridge
    vlan: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Datastore:
    id: str
    name: str
    path: str = ""
    kind: str = ""
    capacity: int = 0
    free: int = 0
    datacenter: str = ""  # name of the datacenter, as /folder wants it


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    id: str
    name: str
    path: str = ""
    cluster: str = ""
    in_maintenance: bool = False
    status: str = "green"
    thumbprint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """What only some platforms have, a cluster's namespaces and classes. facts: what is worth knowing of it, in plain values;
    object: as the platform writes it."""

    id: str
    name: str
    path: str = ""
    namespace: str = ""
    uid: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    object: Mapping[str, Any] = field(default_factory=dict)


class Named(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def path(self) -> str: ...


T = TypeVar("T", bound=Named)


def find(what: str, objects: Mapping[str, T], *, id: str = "", name: str = "") -> T:
    """The one object that the reference means. Raises NotFound or NotUnique."""
    if id:
        if id in objects:
            return objects[id]
        raise NotFound(what=what, name=id, side=Side.SOURCE, remedy="Check the id in the provider's inventory.")
    fitting = [item for item in objects.values() if name in (item.name, item.path)]
    if not fitting:
        raise NotFound(what=what, name=name, side=Side.SOURCE, remedy="Check the name in the provider's inventory.")
    if len(fitting) > 1:
        raise NotUnique(what=what, name=name, count=len(fitting), side=Side.SOURCE)
    return fitting[0]


@dataclass(frozen=True, slots=True)
class Estate:
    """Everything by id. others: collections that only this platform has, by their names in the inventory's REST. version
    counts up with every published change."""

    vms: Mapping[str, VM] = field(default_factory=dict)
    networks: Mapping[str, Network] = field(default_factory=dict)
    datastores: Mapping[str, Datastore] = field(default_factory=dict)
    hosts: Mapping[str, Host] = field(default_factory=dict)
    others: Mapping[str, Mapping[str, Thing]] = field(default_factory=dict)
    version: int = 0
