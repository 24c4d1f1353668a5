"""ESXi hosts that disks are read from directly, where a Host of the user says so.

Called by the source. Theory of operation: what is done to a VM, and what changed on its disks, stays the vCenter's; only the
bytes come from the host that the VM is on when a round begins. The host knows the same VM and the same snapshot by ids of its
own. The VM is found there by its instance uuid, the snapshot by its name, and the disks have to be the same as the vCenter's.
Nothing is read from anywhere else when a host does not answer: whoever wrote the Host may have closed the other way.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

from tranship.errors import AuthFailed, Busy, Invalid, Refused, Side, TimedOut, TranshipError, Unreachable, Untrusted
from tranship.inventory.vm import VM
from tranship.providers.base import Fence, HostAccess, Identity
from tranship.providers.trust import Trust
from tranship.providers.vsphere import snapshots
from tranship.providers.vsphere.client import Client, Login
from tranship.providers.vsphere.disks import LiveDisk
from tranship.providers.vsphere.lending import Handle, Lender, Lent
from tranship.providers.vsphere.sdk import vim

DATACENTER = "ha-datacenter"  # the one that every host has
_LOST = Unreachable, TimedOut, Untrusted, AuthFailed


class Esxi:
    def __init__(self, access: HostAccess, timeout: float, fence: Fence) -> None:
        """Raises Invalid."""
        self.access = access
        login = Login.of(f"https://{access.address}/sdk", access.secret)
        self.url = login.url
        self.lender = Lender(Client(login, timeout=timeout, fence=fence), host=True)

    def lend(self, purpose: str, before: str, remember: Callable[[str], None]) -> tuple[Handle, Lent]:
        with _told(self.access):
            return self.lender.lend(purpose, before, remember)

    def find(self, lent: Lent, vm: VM) -> VM:
        """The VM by the id that it has here. Raises Busy when it is not here (any more)."""
        index = lent.content.searchIndex
        found = list(
            lent.read(f"find {vm.name}", lambda: index.FindAllByUuid(None, vm.instance_uuid, True, True)) or ()
        )
        if len(found) == 1:
            return replace(vm, id=found[0]._moId)
        detail = f"{len(found)} VMs there have instance uuid {vm.instance_uuid}"
        remedy = f"Check that the address of Host {self.access.name} is that of the host which the vCenter means."
        what = f"reading {vm.name} from host {self.access.address}"
        raise Busy(detail, what=what, fault="NotOnHost", side=Side.SOURCE, remedy=remedy)


class Hosts:
    """Thread-safe. timeout: seconds for each wait on the network."""

    def __init__(self, timeout: float, fence: Fence) -> None:
        self._timeout, self._fence = timeout, fence
        self._lock = threading.Lock()
        self._known: dict[str, Esxi] = {}  # by the Host's name
        self._left: dict[tuple[str, str], Lender] = {}  # of Hosts that are gone, by address and certificate

    def use(self, hosts: Sequence[HostAccess]) -> None:
        with self._lock:
            old, self._known = self._known, {}
            for access in sorted(hosts, key=lambda one: one.name):
                same = old.get(access.name)
                if same and same.access == access:
                    self._known[access.name] = same
                    continue
                with suppress(Invalid):  # its secret was changed this moment: the Host's next validation will say so
                    self._known[access.name] = Esxi(access, self._timeout, self._fence)
            gone = [one for one in old.values() if self._known.get(one.access.name) is not one]
        for one in gone:
            one.lender.close()

    def of(self, calls: Client, vm: VM) -> Esxi | None:
        """That which the VM is on now, by the vCenter's word; None: it has no Host."""
        with self._lock:
            known = list(self._known.values())
        if not known:
            return None
        ref = snapshots.checked(calls, vm, ("runtime.host",)).get("runtime.host")
        if ref is None:
            return None
        name = calls.properties(ref._moId, vim.HostSystem, ["name"]).get("name", "")
        return next((one for one in known if _means(one.access, ref._moId, name)), None)

    def keep(self, handle: Handle) -> None:
        """A host that does not answer is none of our trouble here: its readers notice."""
        if lender := self._lender(handle):
            with suppress(*_LOST):
                lender.keep(str(handle))

    def give_back(self, handle: Handle) -> None:
        """A host that is lost keeps nobody waiting: what was lent there ends by itself when nobody uses it, or has ended with
        the host."""
        if lender := self._lender(handle):
            with suppress(*_LOST):
                lender.give_back(str(handle))

    def close(self) -> None:
        with self._lock:
            lenders = [one.lender for one in self._known.values()] + list(self._left.values())
            self._known, self._left = {}, {}
        for one in lenders:
            one.close()

    def _lender(self, handle: Handle) -> Lender | None:
        """Also when its Host is gone; None where only that could have helped: a session of which we have but the name."""
        with self._lock:
            found = next((one.lender for one in self._known.values() if one.url == handle.host), None)
            found = found or self._left.get((handle.host, handle.pin))
            if found is None and handle.pin:
                login = Login(handle.host, "", "", Trust.of({"thumbprint": handle.pin}))
                found = Lender(Client(login, timeout=self._timeout, fence=self._fence), host=True)
                self._left[handle.host, handle.pin] = found
            return found


def identify(access: HostAccess) -> Identity:
    """Log in at the host and out again. Raises Unreachable, Untrusted, AuthFailed, Invalid, Refused when it is no host."""
    client = Client(Login.of(f"https://{access.address}/sdk", access.secret), timeout=15.0)
    try:
        with _told(access):
            about = client.content.about
        if about.apiType != "HostAgent":
            remedy = "Write the address of the ESXi host itself into spec.ipAddress."
            what = f"reading from {access.address}"
            raise Refused(f"it is {about.name}", what=what, fault="NotAHost", side=Side.SOURCE, remedy=remedy)
        return Identity(about.name, about.version, "", client.sha1, insecure=client.login.trust.insecure)
    finally:
        client.close()


def same_disks(vm: VM, ours: Mapping[str, LiveDisk], there: Mapping[str, LiveDisk]) -> None:
    """Whether the host means the disks that the vCenter means. Raises Refused."""
    for key, disk in ours.items():
        other = there.get(key)
        if other is None or (other.capacity, other.backing_uuid) != (disk.capacity, disk.backing_uuid):
            detail = f"disk {disk.label or key} is another one there, or not there"
            raise Refused(detail, what=f"reading {vm.name} from its host", fault="AnotherMachine", side=Side.SOURCE)


def _means(access: HostAccess, id: str, name: str) -> bool:
    return access.id == id if access.id else access.host.rpartition("/")[2] == name


@contextmanager
def _told(access: HostAccess) -> Iterator[None]:
    """Troubles at a host tell of its Host, not of its provider."""
    try:
        yield
    except Unreachable as error:
        remedy = (
            f"Mend the host or the way to {access.address} (443, and 902 for VDDK). To read through the vCenter instead,"
            f" delete Host {access.name}."
        )
        raise _again(error, remedy) from error
    except AuthFailed as error:
        raise _again(error, f"Correct user and password in the secret of Host {access.name}.") from error


def _again(error: TranshipError, remedy: str) -> TranshipError:
    return type(error)(error.detail, side=error.side, remedy=remedy, **error.facts)
