"""The target `openshift`: fulfils providers.base.Target with volume claims and KubeVirt machines. Used by the registry.

    PersistentVolumeClaim  <disk's name>      made first; the movers' Jobs fill it; owned by the machine once that is there,
                                              as Forklift has it: who deletes the machine deletes its disks
    VirtualMachine         <machine's name>   made Halted; started and stopped by its runStrategy

Both bear the order's owner mark in an annotation (marks.py), and only what bears it is adopted, changed or deleted. Whatever
a deletion or a start follows from is read then and there. Claims of WaitForFirstConsumer classes stay unbound until a
mover uses them: nothing here waits for Bound.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from tranship.cluster.api import (
    ATTACHMENT,
    CDI_CONFIG,
    CLAIM,
    CLUSTER_TYPE,
    INSTANCE,
    INSTANCE_TYPE,
    MACHINE,
    NAMESPACE,
    PROFILE,
    STORAGE_CLASS,
    Api,
    Object,
)
from tranship.errors import AlreadyExists, Broken, Busy, Denied, Invalid, NotFound, Side, Unsupported
from tranship.inventory.estate import Datastore, Estate
from tranship.migration.checks import Finding
from tranship.migration.mapping import DiskOrder, MachineOrder
from tranship.migration.seen import TargetSeen
from tranship.providers.base import Identity, Library
from tranship.providers.kubevirt import access, facts, preflight, vddk
from tranship.providers.kubevirt.jobs import Heard, JobMovers
from tranship.providers.kubevirt.marks import MANAGED_BY, OWNER, foreign, is_ours
from tranship.providers.kubevirt.volumes import (
    BLOCK,
    FILESYSTEM,
    StorageClass,
    choose_modes,
    claim,
    claim_size,
    quantity,
)
from tranship.providers.virtualmachine import virtual_machine
from tranship.resources.meta import Kind
from tranship.transfer.address import DiskAddress

ESTATE_SECONDS = 5.0  # for so long an estate is given again: many plans ask at once, and it serves checks alone
REMEDY = "Give the VM another target name, or remove what is there if nobody needs it."


IMAGE = "TRANSHIP_IMAGE"  # of the environment: what a controller in a cluster was started from


class KubevirtTarget:
    """Thread-safe. connect: to the cluster that the provider names; called on first use. image: of tranship, for the
    movers' Jobs."""

    on_this_host = False

    def __init__(self, connect: Callable[[], Api], image: str = "") -> None:
        self._connect, self._image = connect, image
        self._heard = Heard()
        self._opened: Api | None = None
        self._opening, self._reading = threading.Lock(), threading.Lock()
        self._estate: Estate | None = None
        self._read_at = 0.0

    @property
    def _api(self) -> Api:
        with self._opening:
            if self._opened is None:
                self._opened = self._connect()
            return self._opened

    def close(self) -> None:
        with self._opening:
            if self._opened is not None:
                self._opened.close()

    # -- what is here

    def identify(self) -> Identity:
        """Raises Unsupported where KubeVirt is not installed."""
        version = str(self._api.path("/version").get("gitVersion", ""))
        groups = self._api.groups()
        if MACHINE.group not in groups:
            raise Unsupported(
                f"the cluster at {self._api.address} has no KubeVirt",
                what="a target without KubeVirt",
                side=Side.TARGET,
                remedy="Install OpenShift Virtualization, or KubeVirt.",
            )
        product = "OpenShift" if "config.openshift.io" in groups else "Kubernetes"
        return Identity(
            product=f"{product} with KubeVirt",
            version=version,
            uuid=str(self._api.get(NAMESPACE, "kube-system")["metadata"]["uid"]),
            missing_privileges=access.missing(self._api),
            insecure=self._api.insecure,
        )

    def estate(self) -> Estate:
        with self._reading:
            if self._estate is None or time.monotonic() - self._read_at > ESTATE_SECONDS:
                self._estate = self._read_estate()
                self._read_at = time.monotonic()
            return self._estate

    def _read_estate(self) -> Estate:
        machines = [facts.vm(obj) for obj in self._api.list(MACHINE)]
        groups = self._api.groups()
        attachments = list(self._api.list(ATTACHMENT)) if ATTACHMENT.group in groups else []
        objects = list(self._api.list(STORAGE_CLASS))
        classes = self._with_profiles(objects)
        stores = {one.name: Datastore(id=one.name, name=one.name, kind="storageclass") for one in classes.values()}
        types = INSTANCE_TYPE.group in groups
        others = {
            "namespaces": facts.things(self._listed(NAMESPACE)),
            "storageclasses": facts.things(objects, lambda obj: facts.class_facts(classes[obj["metadata"]["name"]])),
            "networkattachmentdefinitions": facts.things(attachments),
            "instancetypes": facts.things(self._listed(INSTANCE_TYPE) if types else (), facts.instance_type_facts),
            "clusterinstancetypes": facts.things(
                self._listed(CLUSTER_TYPE) if types else (), facts.instance_type_facts
            ),
        }
        networks = facts.networks(attachments)
        return Estate(vms={one.id: one for one in machines}, networks=networks, datastores=stores, others=others)

    def _listed(self, kind: Kind) -> list[Object]:
        """Of what only the inventory shows: not allowed is not there, and identify says which right is missing."""
        try:
            return list(self._api.list(kind))
        except Denied:
            return []

    def storage_classes(self) -> dict[str, StorageClass]:
        """By name, with what CDI says of each where it is installed."""
        return self._with_profiles(list(self._api.list(STORAGE_CLASS)))

    def _with_profiles(self, classes: Sequence[Object]) -> dict[str, StorageClass]:
        profiles: Mapping[str, Object] = {}
        config: Object | None = None
        if PROFILE.group in self._api.groups():
            profiles = {one["metadata"]["name"]: one for one in self._api.list(PROFILE)}
            config = next(self._api.list(CDI_CONFIG), None)
        found = (facts.storage_class(one, profiles.get(one["metadata"]["name"]), config) for one in classes)
        return {one.name: one for one in found}

    def observe(self, order: MachineOrder) -> TargetSeen:
        machine = self._api.find(MACHINE, order.name, order.namespace)
        instance = self._api.find(INSTANCE, order.name, order.namespace)
        claims = self._claims(order)
        others = [foreign(order, one, CLAIM.kind) for one in claims.values()]
        others += [foreign(order, machine, MACHINE.kind)] if machine else []
        if machine is None and instance is not None and not instance["metadata"].get("deletionTimestamp"):
            others.append(f"{INSTANCE.kind} {order.namespace}/{order.name} has no {MACHINE.kind}")
        disks = frozenset(
            disk.source for disk in order.disks if disk.source in claims and _usable(order, disk, claims[disk.source])
        )
        named = [("disk", one) for one in claims.values()] + ([("machine", machine)] if machine else [])
        uids = {
            (kind, str(one["metadata"]["name"])): str(one["metadata"]["uid"])
            for kind, one in named
            if is_ours(order, one) and not _leaving(one)
        }
        state = facts.machine_state(machine, instance)
        foreign_ = next((other for other in others if other), "")
        return TargetSeen(disks=disks, machine=state, foreign=foreign_, uids=uids)

    def check(self, orders: Sequence[MachineOrder], libraries: Collection[Library] = ()) -> list[Finding]:
        found = list(preflight.check(self._api, orders, self.storage_classes))
        namespaces = {order.namespace for order in orders}
        return found + [
            one for name in namespaces for library in libraries for one in vddk.check(self._api, library, name)
        ]

    # -- disks

    def create_disks(self, order: MachineOrder) -> None:
        """Raises AlreadyExists for somebody else's or an unfit one, NotFound for a class that is not there, and what the
        cluster refuses (a quota: Refused)."""
        classes = self.storage_classes()
        wanted = [(disk, preflight.class_of(disk, classes)) for disk in order.disks]
        claims = self._claims(order)
        for disk, storage in wanted:
            if disk.source in claims:
                self._adopt(order, disk, claims[disk.source], storage)
        for disk, storage in wanted:
            if disk.source not in claims:
                self._create(order, disk, storage)

    def _create(self, order: MachineOrder, disk: DiskOrder, storage: StorageClass) -> None:
        try:
            self._api.create(CLAIM, claim(order, disk, storage))
        except AlreadyExists:  # of an earlier call whose answer was lost, or somebody's who was quicker
            self._adopt(order, disk, self._api.get(CLAIM, disk.name, order.namespace), storage)

    def _adopt(self, order: MachineOrder, disk: DiskOrder, found: Object, storage: StorageClass) -> None:
        if other := foreign(order, found, CLAIM.kind):
            raise AlreadyExists(f": {other}", what=CLAIM.kind, name=disk.name, side=Side.TARGET, remedy=REMEDY)
        _refuse_leaving(found, f"use of volume {disk.name}")
        modes = choose_modes(disk, storage)._replace(volume=_mode(found))
        has, needs = (
            quantity(found["spec"]["resources"]["requests"]["storage"]),
            claim_size(order, disk, modes, storage),
        )
        if has < needs:
            raise AlreadyExists(
                f" with {has} bytes, {needs} are needed",
                what=CLAIM.kind,
                name=f"{order.namespace}/{disk.name}",
                side=Side.TARGET,
                remedy="The source disk or a setting changed since: delete the claim and start again.",
            )

    def address(self, order: MachineOrder, disk: str) -> DiskAddress:
        """For a Job in the claim's namespace, which mounts it."""
        named = next((one for one in order.disks if one.source == disk), None)
        if named is None:
            raise Broken(f"disk {disk!r} is not in the order of machine {order.name!r}")
        found = self._api.get(CLAIM, named.name, order.namespace)
        self._refuse_foreign(order, found, CLAIM.kind)
        return DiskAddress(f"pvc://{quote(order.namespace)}/{quote(named.name)}?mode={_mode(found)}")

    def movers(self, order: MachineOrder, work: Path) -> JobMovers:
        """Raises Invalid where no image is named for them."""
        if not self._image:
            remedy = f"Set {IMAGE} to the image of tranship that the cluster can pull."
            raise Invalid("is not set: movers have no image to run", field=IMAGE, side=Side.TARGET, remedy=remedy)
        return JobMovers(self._api, order, self._image, self._heard)

    def delete_disks(self, order: MachineOrder, made: Mapping[str, str]) -> None:
        """What has not the uid that is given is left as it is. Raises Busy while the machine may run."""
        seen = self.observe(order)
        if seen.may_run and not seen.foreign:
            what = f"deleting disks of {order.name}"
            raise Busy("stop it first", what=what, fault=seen.machine.value, side=Side.TARGET)
        for disk in order.disks:
            found = self._api.find(CLAIM, disk.name, order.namespace) if made.get(disk.source) else None
            if found is not None and _is(order, found, made[disk.source]) and not _leaving(found):
                self._api.delete(CLAIM, found)

    # -- machine

    def create_machine(self, order: MachineOrder) -> None:
        """One of ours that is there already stays as it is. Raises AlreadyExists, NotFound."""
        claims = self._claims(order)
        for disk in order.disks:
            if disk.source not in claims:
                raise NotFound(what=CLAIM.kind, name=f"{order.namespace}/{disk.name}", side=Side.TARGET)
            self._refuse_foreign(order, claims[disk.source], CLAIM.kind)
        machine = self._api.find(MACHINE, order.name, order.namespace)
        if machine is None:
            try:
                machine = self._api.create(MACHINE, self._machine(order))
            except AlreadyExists:
                machine = self._api.get(MACHINE, order.name, order.namespace)
        self._refuse_foreign(order, machine, MACHINE.kind)
        _refuse_leaving(machine, f"use of machine {order.name}")
        for one in claims.values():
            self._give(one, machine)

    def _machine(self, order: MachineOrder) -> Object:
        machine = virtual_machine(order, preflight.instance_type_kind(self._api, order))
        machine["metadata"]["labels"] |= MANAGED_BY
        machine["metadata"]["annotations"] |= {OWNER: order.owner}
        return machine

    def _give(self, found: Object, machine: Object) -> None:
        """The claim belongs to the machine from now on."""
        meta = machine["metadata"]
        owners = found["metadata"].get("ownerReferences") or []
        if all(one["uid"] != meta["uid"] for one in owners):
            reference = {
                "apiVersion": MACHINE.api_version,
                "kind": MACHINE.kind,
                "name": meta["name"],
                "uid": meta["uid"],
            }
            self._set_owners(found, [*owners, reference])

    def _set_owners(self, found: Object, owners: list[Object]) -> None:
        version = found["metadata"]["resourceVersion"]  # a list is replaced whole: nobody's addition is lost
        self._api.patch(CLAIM, found, {"metadata": {"ownerReferences": owners, "resourceVersion": version}})

    def start_machine(self, order: MachineOrder) -> None:
        self._run(order, self._own_machine(order), facts.ALWAYS)

    def stop_machine(self, order: MachineOrder) -> None:
        """Gently, as the machine's grace period says; it runs until observe says that it does not. No machine is no error."""
        machine = self._api.find(MACHINE, order.name, order.namespace)
        if machine is not None and is_ours(order, machine):
            self._run(order, machine, facts.HALTED)

    def _own_machine(self, order: MachineOrder) -> Object:
        machine = self._api.get(MACHINE, order.name, order.namespace)
        self._refuse_foreign(order, machine, MACHINE.kind)
        return machine

    def _run(self, order: MachineOrder, machine: Object, strategy: str) -> None:
        _refuse_leaving(machine, f"use of machine {order.name}")
        if facts.run_strategy(machine) != strategy:
            self._api.patch(MACHINE, machine, {"spec": {"runStrategy": strategy, "running": None}})

    def delete_machine(self, order: MachineOrder, uid: str) -> None:
        """A machine that still runs is ended; stop_machine is the gentle way. Its disks stay: they are taken back first. One
        that has not that uid is left as it is."""
        machine = self._api.find(MACHINE, order.name, order.namespace)
        if machine is None or not _is(order, machine, uid):
            return
        for one in self._claims(order).values():
            owners = one["metadata"].get("ownerReferences") or []
            left = [owner for owner in owners if owner["uid"] != uid]
            if is_ours(order, one) and len(left) < len(owners):
                self._set_owners(one, left)
        self._api.delete(MACHINE, machine)

    # -- inside

    def _claims(self, order: MachineOrder) -> dict[str, Object]:
        """By the key of the source disk. Ours come with one call, by their labels; others are asked for by name."""
        selector = ",".join(f"{key}={order.labels[key]}" for key in ("plan", "vmID") if key in order.labels)
        listed = {one["metadata"]["name"]: one for one in self._list_claims(order, selector)}
        found = {}
        for disk in order.disks:
            one = listed.get(disk.name) or self._api.find(CLAIM, disk.name, order.namespace)
            if one is not None:
                found[disk.source] = one
        return found

    def _list_claims(self, order: MachineOrder, selector: str) -> Iterator[Object]:
        return self._api.list(CLAIM, order.namespace, selector) if selector else iter(())

    def _refuse_foreign(self, order: MachineOrder, obj: Object, kind: str) -> None:
        if other := foreign(order, obj, kind):
            raise AlreadyExists(f": {other}", what=kind, name=obj["metadata"]["name"], side=Side.TARGET, remedy=REMEDY)


def _usable(order: MachineOrder, disk: DiskOrder, found: Object) -> bool:
    return is_ours(order, found) and not _leaving(found) and _size(found) >= disk.size


def _size(found: Object) -> int:
    return quantity(found["spec"]["resources"]["requests"]["storage"])


def _mode(found: Object) -> str:
    return BLOCK if found["spec"].get("volumeMode") == BLOCK else FILESYSTEM


def _is(order: MachineOrder, obj: Object, uid: str) -> bool:
    return is_ours(order, obj) and obj["metadata"]["uid"] == uid


def _refuse_leaving(obj: Object, what: str) -> None:
    if _leaving(obj):
        raise Busy("it is being deleted", what=what, fault="Terminating", side=Side.TARGET)


def _leaving(obj: Object) -> bool:
    return bool(obj["metadata"].get("deletionTimestamp"))
