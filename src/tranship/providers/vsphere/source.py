"""vSphere as a source: fulfils providers.base.Source with the files beside it.

Made by the registry for a Provider of type vsphere, used by the controllers from several threads. It has two sessions, one for
calls and one for the inventory's long wait; each round's movers are lent one of their own (lending.py).

settings, all of where VMware's VDDK is: vddkDirectory for movers on this host; vddkInitImage (an image) or vddkVolumeClaim (a
claim in the plan's target namespace) for movers in a cluster. Without one that fits the movers go without.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from threading import Event
from urllib.parse import quote, urlencode

from tranship.errors import NotFound, Refused, Side, TranshipError, Unsupported
from tranship.inventory.estate import Estate
from tranship.inventory.vm import VM, Power
from tranship.migration.seen import SourceSeen
from tranship.providers.base import DiskWay, Fence, HostAccess, Identity, Probe, Reading, nothing_fenced
from tranship.providers.vsphere import cbt, facts, leases, power, snapshots, wire
from tranship.providers.vsphere.client import Client, Login
from tranship.providers.vsphere.disks import LiveDisk, live_disks
from tranship.providers.vsphere.hosts import DATACENTER, Hosts, same_disks
from tranship.providers.vsphere.inventory import Inventory
from tranship.providers.vsphere.lending import Handle, Lender, Lent
from tranship.providers.vsphere.sdk import collector, vim
from tranship.providers.vsphere.ways import DATASTORE, NFC, VDDK, WAYS, choose, configured, library
from tranship.transfer import channel
from tranship.transfer.address import DiskAddress, Extent
from tranship.transfer.library import placed

PRIVILEGES = (
    "VirtualMachine.State.CreateSnapshot",
    "VirtualMachine.State.RemoveSnapshot",
    "VirtualMachine.Interact.PowerOn",
    "VirtualMachine.Interact.PowerOff",
    "VirtualMachine.Provisioning.DiskRandomRead",
    "VirtualMachine.Provisioning.GetVmFiles",
    "VirtualMachine.Config.ChangeTracking",
    "Datastore.Browse",
    "Datastore.FileManagement",
)


class VsphereSource:
    def __init__(
        self,
        url: str,
        secret: Mapping[str, str],
        settings: Mapping[str, str],
        *,
        timeout: float = 60.0,
        wait: int = 5,
        fence: Fence = nothing_fenced,
    ) -> None:
        """timeout: seconds for each wait on the network. wait: seconds of one wait for changes. Raises Invalid."""
        self._login = Login.of(url, secret)
        self._vddk = configured(settings)
        self._wait = wait
        self._calls = Client(self._login, timeout=timeout, fence=fence)
        self._lender = Lender(self._calls)
        self._hosts = Hosts(timeout, fence)

    def identify(self) -> Identity:
        self._calls.touch()
        about = self._calls.content.about
        return Identity(
            product=about.name,
            version=about.version,
            uuid=about.instanceUuid or "",
            fingerprint=self._calls.sha1,
            missing_privileges=self._calls.missing_privileges(PRIVILEGES),
            insecure=self._login.trust.insecure,
        )

    def read_from(self, hosts: Sequence[HostAccess]) -> None:
        self._hosts.use(hosts)

    def follow(self, publish: Callable[[Estate], None], stop: Event) -> None:
        client = self._calls.sibling()
        try:
            Inventory(client, self._wait).follow(publish, stop)
        finally:
            client.close()

    def close(self) -> None:
        self._calls.close()
        self._lender.close()
        self._hosts.close()

    # -- the VM ------------------------------------------------------------------------------------------------------

    def observe(self, vm: VM) -> SourceSeen:
        return snapshots.look(self._calls, vm)

    def enable_change_tracking(self, vm: VM, name: str) -> None:
        snapshots.enable_change_tracking(self._calls, vm, name)

    def create_snapshot(self, vm: VM, name: str, *, quiesce: bool, since: str = "") -> None:
        snapshots.create(self._calls, vm, name, quiesce=quiesce)

    def remove_snapshot(self, vm: VM, name: str) -> None:
        snapshots.remove(self._calls, vm, name)

    def remove_checkpoint(self, vm: VM, id: str) -> None:
        """vSphere keeps none: a changeId needs nothing that stays."""

    def consolidate(self, vm: VM) -> None:
        snapshots.consolidate(self._calls, vm)

    def shut_down_guest(self, vm: VM) -> None:
        power.shut_down_guest(self._calls, vm)

    def power_off(self, vm: VM) -> None:
        power.power_off(self._calls, vm)

    def power_on(self, vm: VM) -> None:
        power.power_on(self._calls, vm)

    # -- its bytes -----------------------------------------------------------------------------------------------------

    def ways(self, vm: VM, *, warm: bool, on_this_host: bool) -> tuple[DiskWay, ...]:
        stores = {disk.datastore for disk in vm.disks if disk.datastore}
        vddk = self._vddk.reaches(on_this_host=on_this_host)
        kinds = [] if vddk else [(id, self._kind(id)) for id in stores]
        found = choose(vm, warm=warm, vddk=self._vddk, on_this_host=on_this_host, kinds=kinds)
        host = self._hosts.of(self._calls, vm)
        if host is None:
            return found
        where = f"by host {host.access.address} itself while the VM is on it, as Host {host.access.name} says"
        return tuple(replace(way, why=f"{way.why}; {where}") for way in found)

    def open_disks(
        self,
        vm: VM,
        ways: Mapping[str, str],
        *,
        snapshot: str,
        base: Mapping[str, str],
        before: str,
        remember: Callable[[str], None],
    ) -> Mapping[str, Reading]:
        """One session for all of them, at the vCenter or at the VM's host, and in it one lease for those that are exported."""
        moid, disks = self._frozen(self._calls, vm, snapshot)
        missing = [key for key in ways if key not in disks]
        if missing:
            raise NotFound(f" on VM {vm.name}", what="disk", name=missing[0], side=Side.SOURCE)
        unknown = [key for key, way in ways.items() if way not in WAYS]
        if unknown:
            raise Unsupported("no such way from vSphere", what=f"reading disk {unknown[0]} by {ways[unknown[0]]}")
        # what needs no session first: one that cannot be opened shall not cost one
        flat = {key: _flat(vm, disks[key], snapshot) for key, way in ways.items() if way == DATASTORE}
        host = self._hosts.of(self._calls, vm)
        if Handle.read(before).host != (host.url if host else ""):  # the VM moved, or its Host came or went
            self.close_disks(before)
            before = ""
        if host is None:
            folders = {key: self._datacenter(disks[key].datastore) for key in flat}
            handle, lent = self._lender.lend(vm.id, before, remember)
            there = vm
        else:
            handle, lent = host.lend(vm.id, before, remember)
            there = host.find(lent, vm)
            ours = disks
            moid, disks = self._frozen(lent, there, snapshot)
            same_disks(vm, ours, disks)
            flat = {key: _flat(vm, disks[key], snapshot) for key in flat}
            folders = dict.fromkeys(flat, DATACENTER)
        addresses = {key: _vddk_address(there, moid, disks[key], lent) for key, way in ways.items() if way == VDDK}
        addresses |= {key: _folder_address(*flat[key], folders[key], lent) for key in flat}
        if streamed := [disks[key] for key, way in ways.items() if way == NFC]:
            lease, offered = leases.open_lease(lent, there.id, moid, streamed, Handle.read(before).lease)
            remember(str(replace(handle, lease=lease)))
            addresses |= {key: _stream_address(stream, lent) for key, stream in offered.items()}
        return {key: self._reading(vm, key, address, snapshot, base.get(key, "")) for key, address in addresses.items()}

    def _reading(self, vm: VM, disk: str, address: DiskAddress, snapshot: str, since: str) -> Reading:
        reading = Reading(address, library=self._vddk if address.url.startswith(f"{VDDK}:") else None)
        if not since:
            return reading
        try:
            return replace(reading, delta=True, changed=self.changes(vm, disk, snapshot, since))
        except Refused as error:  # the changeId is of another epoch: everything may have changed
            return replace(reading, full=f"the source knows no changes since {since}: {error.detail}")

    def keep(self, handle: str) -> None:
        lent = Handle.read(handle)
        if lent.host:
            self._hosts.keep(lent)
        else:
            self._lender.keep(handle)

    def close_disks(self, handle: str) -> None:
        lent = Handle.read(handle)
        if lent.host:
            self._hosts.give_back(lent)
        else:
            self._lender.give_back(handle)

    def changes(self, vm: VM, disk: str, snapshot: str, since: str) -> tuple[Extent, ...]:
        """Areas changed between changeId `since` and the own snapshot ("" = the powered-off VM's present), complete: paged
        to the capacity. Raises Refused when `since` is not usable."""
        moid, disks = self._frozen(self._calls, vm, snapshot)
        if disk not in disks:
            raise NotFound(f" on VM {vm.name}", what="disk", name=disk, side=Side.SOURCE)
        now = disks[disk].change_id
        what = f"changes of disk {disk} of {vm.name}"
        if snapshot and not now:
            raise Refused("change tracking is off in this snapshot", what=what, fault="NotTracked", side=Side.SOURCE)
        if since != "*" and now and not cbt.same_epoch(now, since):
            detail = f"tracking began anew: {since} was noted, {now} is current"
            raise Refused(detail, what=what, fault="ChangeTrackingReset", side=Side.SOURCE)
        machine = self._calls.object(vim.VirtualMachine, vm.id)
        frozen = self._calls.object(vim.vm.Snapshot, moid) if moid else None

        def ask(start: int) -> cbt.Page:
            page = self._calls.read(what, lambda: machine.QueryChangedDiskAreas(frozen, int(disk), start, since))
            return cbt.Page(page.startOffset, page.length, [(area.start, area.length) for area in page.changedArea])

        return cbt.collect(ask, disks[disk].capacity)

    def probe(self, vm: VM) -> tuple[Probe, ...]:
        """Try each way on the first disk, from here, as far as the VM's present state allows."""
        seen = self.observe(vm)
        own = next((item.name for item in seen.snapshots if item.name.startswith(snapshots.OWN)), "")
        off = seen.power is Power.OFF
        result = []
        if self._vddk.directory:
            result.append(self._probe(vm, "vddk", own, off or bool(own)))
        elif self._vddk.image or self._vddk.claim:
            result.append(Probe("vddk", None, "cannot be tried from here: only movers in the cluster have the library"))
        result.append(self._probe(vm, "nfc", own, off or bool(own)))
        result.append(self._probe(vm, "datastore", "", off and not seen.snapshots))
        return tuple(result)

    def _probe(self, vm: VM, way: str, snapshot: str, possible: bool) -> Probe:
        if not possible:
            reason = "it needs the VM off" if way == "datastore" else "it needs the VM off, or an own snapshot"
            return Probe(way, None, f"cannot be tried now: {reason}")
        lent: list[str] = []
        try:
            if way == "vddk":
                library(self._vddk.directory)
            disks = self._frozen(self._calls, vm, snapshot)[1]
            first = min(disks, key=int)
            wanted = {first: way}
            opened = self.open_disks(vm, wanted, snapshot=snapshot, base={}, before="", remember=lent.append)
            address = opened[first].address
            if way == "vddk":
                address = placed(address, self._vddk.directory)
            outcome = channel.probe(address, disks[first].capacity)
        except TranshipError as error:
            return Probe(way, False, str(error))
        finally:
            for handle in lent[-1:]:  # each names all that is lent so far
                self.close_disks(handle)
        return Probe(way, outcome.works, outcome.detail)

    # -- addresses -----------------------------------------------------------------------------------------------------

    def _frozen(self, client: Client, vm: VM, snapshot: str) -> tuple[str, dict[str, LiveDisk]]:
        """The snapshot's id and its disks; without a snapshot the disks of the VM, which has to be off."""
        if snapshot:
            moid = snapshots.required(client, vm, snapshot)._moId
            return moid, snapshots.frozen(client, moid)
        said = snapshots.checked(client, vm, ("runtime.powerState", "config.hardware.device"))
        if str(said.get("runtime.powerState")) != "poweredOff":
            detail = "the VM runs, and no snapshot was named"
            raise Refused(detail, what=f"reading {vm.name}", fault="InvalidPowerState", side=Side.SOURCE)
        return "", live_disks(said.get("config.hardware.device", ()))

    def _kind(self, datastore: str) -> str:
        return str(self._calls.properties(datastore, vim.Datastore, ["summary.type"]).get("summary.type", ""))

    def _datacenter(self, datastore: str) -> str:
        """dcPath: names from the root folder's child down to the datacenter."""
        up = collector.TraversalSpec(
            name="up", type=vim.ManagedEntity, path="parent", skip=False, selectSet=[collector.SelectionSpec(name="up")]
        )
        found = self._calls.retrieve(datastore, vim.Datastore, {vim.ManagedEntity: ["name", "parent"]}, [up])
        world = facts.World()
        for item, said in found:
            parent = said.get("parent")
            ref = wire.Ref(type(item).__name__.rpartition(".")[2], item._moId)
            world.put(ref, {"name": said.get("name", ""), "parent": parent._moId if parent else ""})
        path = world.datacenter(datastore)
        if not path:
            raise NotFound(f" above datastore {datastore}", what="datacenter", name="?", side=Side.SOURCE)
        return path


def _vddk_address(vm: VM, moid: str, disk: LiveDisk, lent: Lent) -> DiskAddress:
    query = {"moref": vm.id, "disk": disk.path, "port": str(lent.port)}
    if moid:
        query["snapshot"] = moid
    session = {"user": lent.login.user, "cookie": lent.cookie, "key": lent.key}
    return DiskAddress(f"vddk://{lent.netloc}/?{urlencode(query)}", {**session, "fingerprint": lent.sha1})


def _stream_address(stream: leases.Stream, lent: Lent) -> DiskAddress:
    """The session's cookie goes to whom it is of only; another host knows the caller by the ticket in the URL."""
    credentials = {"fingerprint": stream.thumbprint} if stream.thumbprint else lent.login.trust.credentials()
    if stream.local:
        credentials["cookie"] = lent.header
    return DiskAddress(f"nfc+{stream.url}", credentials)


def _folder_address(store: str, path: str, datacenter: str, lent: Lent) -> DiskAddress:
    query = urlencode({"dcPath": datacenter, "dsName": store}, quote_via=quote)
    credentials = {**lent.login.trust.credentials(), "cookie": lent.header}
    return DiskAddress(f"datastore+https://{lent.netloc}/folder/{quote(path)}?{query}", credentials)


def _flat(vm: VM, disk: LiveDisk, snapshot: str) -> tuple[str, str]:
    """Datastore and path of the disk's flat file. Raises Unsupported where there is none to be read."""
    what = f"reading disk {disk.label or disk.key} of {vm.name} from its datastore"
    if snapshot or disk.chained:
        raise Unsupported("a host serves no file of a chain of snapshots", what=what, side=Side.SOURCE)
    store, _, path = disk.path.removeprefix("[").partition("] ")
    if not path.endswith(".vmdk") or not store:
        raise Unsupported(f"its file is {disk.path!r}", what=what, side=Side.SOURCE)
    return store, f"{path.removesuffix('.vmdk')}-flat.vmdk"
