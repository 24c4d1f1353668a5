"""What would keep orders from being carried out in a cluster, before any source is touched. Called by target.py.

Names, classes, networks, instance types and quotas are looked up; then each object is given to the API server for a dry run,
which asks everything that a real creation asks: rights, admission, KubeVirt's own checks. A dry run sees one object at a
time, so quotas are added up here.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from tranship.cluster.api import (
    ATTACHMENT,
    CLAIM,
    CLUSTER_TYPE,
    INSTANCE_TYPE,
    MACHINE,
    NAMESPACE,
    QUOTA,
    Api,
    Object,
)
from tranship.errors import Denied, Invalid, NotFound, Side, TranshipError
from tranship.migration.checks import Finding
from tranship.migration.mapping import DiskOrder, MachineOrder, NicOrder
from tranship.providers.kubevirt import access, attached
from tranship.providers.kubevirt.jobs import RESOURCES
from tranship.providers.kubevirt.marks import foreign
from tranship.providers.kubevirt.volumes import StorageClass, claim, over_quota, pod_over_quota
from tranship.providers.virtualmachine import virtual_machine
from tranship.resources.conditions import Category

USER_DEFINED_NETWORK = "k8s.ovn.org/primary-user-defined-network"
POD = "pod"


def check(
    api: Api, orders: Sequence[MachineOrder], storage_classes: Callable[[], Mapping[str, StorageClass]]
) -> Iterator[Finding]:
    """All findings at once, but for what cannot be asked while something before it is wrong. Raises what keeps the cluster
    from being asked at all."""
    if not orders:
        return
    namespace = orders[0].namespace
    found = api.find(NAMESPACE, namespace)
    if found is None:
        message = f"the target has no namespace {namespace!r}"
        remedy = "Create it, or correct spec.targetNamespace."
        yield Finding("NamespaceNotValid", Category.CRITICAL, message, remedy, "NotFound", namespace)
        return
    wrong = [*_unique_claims(orders), *_transfer_network(api, orders[0].transfer_network)]
    classes = storage_classes()
    claims: list[Object] = []
    for order in orders:
        wrong += _networks(api, order, found)
        try:
            instance_type_kind(api, order)
            missing, others = _missing_claims(api, order, classes)
            claims += missing
            wrong += others
            wrong += _taken(api, order)
        except TranshipError as error:
            wrong.append(_finding(order, error))
    wrong += _quotas(api, namespace, claims)
    wrong += _rights(api, namespace)
    yield from wrong
    if all(one.category is not Category.CRITICAL for one in wrong):
        yield from _dry_run(api, orders, claims)


def class_of(disk: DiskOrder, classes: Mapping[str, StorageClass]) -> StorageClass:
    """Raises NotFound."""
    if disk.pool in classes:
        return classes[disk.pool]
    remedy = f"Correct the storage map. Known are: {', '.join(sorted(classes)) or 'none'}."
    raise NotFound(what="StorageClass", name=disk.pool, side=Side.TARGET, remedy=remedy)


def instance_type_kind(api: Api, order: MachineOrder) -> str:
    """Of the order's instance type: the namespace's own wins. Raises NotFound."""
    name = order.instance_type
    if name and api.find(INSTANCE_TYPE, name, order.namespace, optional=True) is not None:
        return INSTANCE_TYPE.kind
    if not name or api.find(CLUSTER_TYPE, name, optional=True) is not None:
        return CLUSTER_TYPE.kind
    remedy = "Correct spec.vms[].instanceType, or remove it: the machine then gets what the source has."
    raise NotFound(what="instance type", name=name, side=Side.TARGET, remedy=remedy)


def _unique_claims(orders: Sequence[MachineOrder]) -> Iterator[Finding]:
    users: dict[str, str] = {}
    for order in orders:
        for disk in order.disks:
            if disk.name in users:
                message = f"{users[disk.name]} and {order.name} would both have a volume {disk.name}"
                remedy = "Put the VM's name into spec.pvcNameTemplate."
                yield Finding("NotValid", Category.CRITICAL, message, remedy, "NotUnique", order.name)
            users[disk.name] = order.name


def _networks(api: Api, order: MachineOrder, namespace: Object) -> Iterator[Finding]:
    pods = [nic for nic in order.nics if nic.kind == POD]
    if len(pods) > 1:
        message = f"{order.name}: {len(pods)} NICs are mapped to the pod network, a machine can have one there"
        remedy = "Map the networks of the others to NetworkAttachmentDefinitions, or ignore them."
        type = "VMMultiplePodNetworkMappings"
        yield Finding(type, Category.CRITICAL, message, remedy, "NotValid", order.name)
    if pods and USER_DEFINED_NETWORK in (namespace["metadata"].get("labels") or {}):
        message = f"{order.name}: namespace {order.namespace} has a user-defined primary network"
        remedy = "Move into a namespace without one, or map the networks to NetworkAttachmentDefinitions."
        yield Finding("UnsupportedUserDefinedNetwork", Category.CRITICAL, message, remedy, "NotSupported", order.name)
    for nic in order.nics:
        if nic.kind != POD and not _attachment(api, order, nic):
            name = f"{nic.namespace or order.namespace}/{nic.network}"
            message = f"{order.name}: there is no NetworkAttachmentDefinition {name}"
            remedy = "Create it, or correct the network map."
            yield Finding("NetMapDestinationNADNotValid", Category.CRITICAL, message, remedy, "NotFound", name)


def _transfer_network(api: Api, id: str) -> Iterator[Finding]:
    """id: namespace/name, the same for all of a plan."""
    namespace, _, name = id.partition("/")
    if not id:
        return
    found = api.find(ATTACHMENT, name, namespace, optional=True)
    if found is None:
        message = f"the transfer network: there is no NetworkAttachmentDefinition {id}"
        remedy = (
            "Create it, or correct spec.transferNetwork, the provider's annotation forklift.konveyor.io/defaultTransferNetwork "
            "or controller_transfer_network."
        )
        yield Finding("TransferNetworkNotValid", Category.CRITICAL, message, remedy, "NotFound", id)
        return
    try:
        gateway = attached.route(found)
    except Invalid as error:
        yield Finding("TransferNetworkNotValid", Category.CRITICAL, str(error), error.suggestion, "NotValid", id)
        return
    if gateway is None:
        message = f"the transfer network {id} names no default route: it takes the place of the movers' own network"
        yield Finding("TransferNetworkMissingDefaultRoute", Category.WARN, message, attached.REMEDY, "NotSet", id)


def _attachment(api: Api, order: MachineOrder, nic: NicOrder) -> bool:
    return api.find(ATTACHMENT, nic.network, nic.namespace or order.namespace, optional=True) is not None


def _missing_claims(
    api: Api, order: MachineOrder, classes: Mapping[str, StorageClass]
) -> tuple[list[Object], list[Finding]]:
    """The claims that would be made, and what is wrong with those that are there."""
    missing, wrong = [], []
    for disk in order.disks:
        made = claim(order, disk, class_of(disk, classes))
        found = api.find(CLAIM, disk.name, order.namespace)
        if found is None:
            missing.append(made)
        elif other := foreign(order, found, CLAIM.kind):
            remedy = "Remove it if nobody needs it, or set spec.pvcNameTemplate."
            wrong.append(
                Finding("NotValid", Category.CRITICAL, f"{order.name}: {other}", remedy, "NotUnique", order.name)
            )
    return missing, wrong


def _taken(api: Api, order: MachineOrder) -> Iterator[Finding]:
    found = api.find(MACHINE, order.name, order.namespace)
    if found is not None and (other := foreign(order, found, MACHINE.kind)):
        remedy = "Remove it, or set spec.vms[].targetName."
        yield Finding("VMAlreadyExists", Category.CRITICAL, other, remedy, "NotUnique", order.name)


def _quotas(api: Api, namespace: str, claims: Sequence[Object]) -> Iterator[Finding]:
    try:
        quotas = list(api.list(QUOTA, namespace))
    except Denied as error:  # the cluster still refuses what is too much, only later
        yield Finding("QuotaNotChecked", Category.WARN, str(error), error.suggestion, error.reason, namespace)
        return
    for quota in quotas:
        name = quota["metadata"]["name"]
        for text in over_quota(quota, claims):
            remedy = "Raise the quota, or move fewer or smaller disks into the namespace."
            message = f"ResourceQuota {namespace}/{name}: {text}"
            yield Finding("NotValid", Category.CRITICAL, message, remedy, "ExceededQuota", name)
        for text, never in pod_over_quota(quota, RESOURCES):
            remedy = "Raise the quota, or move into another namespace."
            message = f"ResourceQuota {namespace}/{name}: {text}"
            type, category = ("NotValid", Category.CRITICAL) if never else ("QuotaUsedUp", Category.WARN)
            yield Finding(type, category, message, remedy, "ExceededQuota", name)


def _rights(api: Api, namespace: str) -> Iterator[Finding]:
    if lacking := access.missing_in(api, namespace):
        message = f"in namespace {namespace} the provider's user has no right to {', '.join(lacking)}"
        remedy = "Give the service account or user these rights, by a Role and a RoleBinding in the namespace."
        yield Finding("NotValid", Category.CRITICAL, message, remedy, "Denied", namespace)


def _dry_run(api: Api, orders: Sequence[MachineOrder], claims: Sequence[Object]) -> Iterator[Finding]:
    by_name = {one["metadata"]["name"]: one for one in claims}
    for order in orders:
        made = [(CLAIM, by_name[disk.name]) for disk in order.disks if disk.name in by_name]
        if api.find(MACHINE, order.name, order.namespace) is None:
            made.append((MACHINE, virtual_machine(order, instance_type_kind(api, order))))
        for kind, obj in made:
            try:
                api.create(kind, obj, dry_run=True)
            except TranshipError as error:
                if error.temporary:
                    raise
                yield _finding(order, error)


def _finding(order: MachineOrder, error: TranshipError) -> Finding:
    if error.temporary:
        raise error
    message = f"{order.name}: {error}"
    return Finding("NotValid", Category.CRITICAL, message, error.suggestion, error.reason, order.name)
