"""The network by which movers fetch disks, as Multus takes it: annotations of a pod. Pure; called by jobs.py and preflight.py.

As upstream has it. A NetworkAttachmentDefinition that carries the annotation forklift.konveyor.io/route is a second network of
the pod: with an address there as its default route, with "none" without one. One that carries none takes the place of the
pod's own network, which is the older way and leaves the pod without the cluster's services.
"""

import ipaddress
import json

from tranship.cluster.api import Object
from tranship.errors import Invalid, Side

ROUTE = "forklift.konveyor.io/route"
NETWORKS = "k8s.v1.cni.cncf.io/networks"
DEFAULT = "v1.multus-cni.io/default-network"
NONE = "none"
REMEDY = f'Write the address of the network\'s gateway into its annotation {ROUTE}, or "{NONE}" if it has none.'


def route(definition: Object) -> str | None:
    """The gateway, "none", or None where nothing is said. Raises Invalid."""
    said: str | None = (definition["metadata"].get("annotations") or {}).get(ROUTE)
    if said is None or said == NONE:
        return said
    try:
        return str(ipaddress.ip_address(said))
    except ValueError as error:
        field = f"NetworkAttachmentDefinition {called(definition)}: {ROUTE}"
        raise Invalid(f"{said!r} is no address", field=field, side=Side.TARGET, remedy=REMEDY) from error


def annotations(definition: Object) -> dict[str, str]:
    """Of a pod that is to be attached. Raises Invalid."""
    meta, gateway = definition["metadata"], route(definition)
    if gateway is None:
        return {DEFAULT: called(definition)}
    element: Object = {"name": meta["name"], "namespace": meta["namespace"]}
    if gateway != NONE:
        element["default-route"] = [gateway]
    return {NETWORKS: json.dumps([element])}


def called(definition: Object) -> str:
    return f"{definition['metadata']['namespace']}/{definition['metadata']['name']}"
