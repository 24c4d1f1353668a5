"""The target `local`: fulfils providers.base.Target with files and QEMU on this host. Used by the registry.

    <directory>/<namespace>/<machine>/      owner.json first; disks of the default pool as <disk>.raw; then
        domain.xml virtualmachine.yaml      the machine as libvirt and as KubeVirt take it
        machine.json                        how we start it; written last: with it the machine exists
        nvram.fd serial.log serial.sock qmp.sock qemu.pid
    <pool>/<namespace>/<machine>/           owner.json, and the disks of that pool

A crash between any two steps leaves a marked directory with whole files in it, which the next call completes.
Settings: directory; pool.NAME (an absolute path); overcommit ("true": no check that all disks fit at full size);
shutdownDeadline (seconds that a guest has to shut down, 30); firmware (a directory of QEMU firmware descriptors to use
instead of the system's).
"""

import dataclasses
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import structlog
import yaml

from tranship.errors import AlreadyExists, Broken, Busy, Invalid, NoSpace, NotFound, Side, Unsupported
from tranship.inventory.estate import Estate, Network
from tranship.inventory.vm import VM
from tranship.migration.checks import Finding
from tranship.migration.mapping import DiskOrder, MachineOrder
from tranship.migration.seen import MachineState, TargetSeen
from tranship.providers.base import Identity, Library
from tranship.providers.host import HostMovers
from tranship.providers.local import acceleration, firmware, qemu
from tranship.providers.local.acceleration import Accelerator
from tranship.providers.local.domain import domain_xml
from tranship.providers.local.home import Home, file_errors, locked, make_directory, owner_of, write_whole
from tranship.providers.local.pools import DISK_SUFFIX, PREFIX, Pool, check_space, datastores, find_pool, find_pools
from tranship.providers.virtualmachine import virtual_machine
from tranship.resources.conditions import Category
from tranship.transfer.address import DiskAddress

MACHINE = "machine.json"
DOMAIN = "domain.xml"
MANIFEST = "virtualmachine.yaml"
VARIABLES = "nvram.fd"
# machine.json is the last to go: until then the machine exists and its removal is asked for again
MACHINE_FILES = (
    *(DOMAIN, MANIFEST, VARIABLES, qemu.SERIAL_LOG, qemu.SERIAL_SOCKET, qemu.QMP_SOCKET, qemu.PID_FILE),
    MACHINE,
)
POD = "pod"

log = structlog.get_logger(__name__)


class LocalTarget:
    """Thread-safe; several may work on one directory."""

    on_this_host = True

    def __init__(self, settings: Mapping[str, str]) -> None:
        directory = settings.get("directory", "")
        if not directory:
            raise Invalid(
                "name the directory for disks and machines", field="spec.settings.directory", side=Side.TARGET
            )
        self._settings = dict(settings)
        self._directory = Path(directory).resolve()
        self._grace = _seconds(settings.get("shutdownDeadline", "30"))
        self._descriptors = (Path(settings["firmware"]),) if "firmware" in settings else firmware.DIRECTORIES

    # -- what is here

    def identify(self) -> Identity:
        with file_errors(f"make {self._directory}"):
            make_directory(self._directory)
        accelerator = self._accelerator()
        why = f": {accelerator.why}" if accelerator.why else ""
        try:
            uuid = Path("/etc/machine-id").read_text().strip()
        except OSError:
            uuid = ""
        return Identity(product="QEMU", version=f"{qemu.version()} ({accelerator.name.upper()}{why})", uuid=uuid)

    def estate(self) -> Estate:
        networks = {POD: Network(id=POD, name=POD, kind="pod")}
        networks |= {name: Network(id=name, name=name, kind="bridge") for name in _bridges()}
        vms = {}
        for path in sorted(self._directory.glob("*/*/")):
            if not path.parent.name.startswith((PREFIX, ".")):
                name = f"{path.parent.name}/{path.name}"
                traits = {"owner": owner_of(path)}
                vms[name] = VM(id=name, name=path.name, path=name, power=qemu.power(path), traits=traits)
        return Estate(vms=vms, networks=networks, datastores=datastores(self._pools()))

    def observe(self, order: MachineOrder) -> TargetSeen:
        home = self._home(order)
        places = self._places(order)
        foreign = next((found for each in (home, *(place.home for place in places)) if (found := each.foreign())), "")
        disks = frozenset(
            place.disk.source for place in places if place.home.owned() and place.size() == place.disk.size
        )
        state = MachineState.ABSENT
        if home.owned() and (home.path / MACHINE).is_file():
            state = MachineState.OFF if qemu.running(home.path) is None else MachineState.RUNNING
        return TargetSeen(disks=disks, machine=state, foreign=foreign)

    def check(self, orders: Sequence[MachineOrder], libraries: Collection[Library] = ()) -> list[Finding]:
        found = [finding for order in orders for finding in _left_out(order)]
        wanted = []
        for order in orders:
            try:
                places = self._places(order)
                for place in places:
                    place.home.refuse_foreign("directory")
                wanted += [place for place in places if not place.exists()]
            except (AlreadyExists, Invalid, NotFound) as error:
                message = f"{order.name}: {error}"
                found.append(
                    Finding("NotValid", Category.CRITICAL, message, error.suggestion, error.reason, order.name)
                )
        if wanted and self._counts_space:
            try:
                with file_errors(f"measure {self._directory}"):
                    make_directory(self._directory)
                    check_space(self._pools(), [(place.pool, place.path, place.disk.size) for place in wanted])
            except NoSpace as error:  # a warning: until the disks are made there may be room
                text, remedy = str(error), error.suggestion
                found.append(Finding("TargetSpaceShort", Category.WARN, text, remedy, error.reason))
        return found

    # -- disks

    def create_disks(self, order: MachineOrder) -> None:
        home, places = self._home(order), self._places(order)
        for each in (home, *(place.home for place in places)):
            each.refuse_foreign("directory")
        missing = [place for place in places if not place.exists()]
        with locked(self._directory):
            if missing and self._counts_space:
                with file_errors(f"measure {self._directory}"):
                    check_space(self._pools(), [(place.pool, place.path, place.disk.size) for place in places])
            home.claim("directory")
            for place in places:
                place.home.claim("directory")
                if not place.exists():
                    with file_errors(f"make {place.path}"):
                        write_whole(place.path, b"", size=place.disk.size)

    def address(self, order: MachineOrder, disk: str) -> DiskAddress:
        place = next((place for place in self._places(order) if place.disk.source == disk), None)
        if place is None:
            raise Broken(f"disk {disk!r} is not in the order of machine {order.name!r}")
        return DiskAddress(place.path.as_uri())

    def movers(self, order: MachineOrder, work: Path) -> HostMovers:
        return HostMovers(work)

    def delete_disks(self, order: MachineOrder, disks: Iterable[str]) -> None:
        """What is not ours, or not there, is left as it is. Raises Busy while the machine runs."""
        keys = set(disks)
        home = self._home(order)
        if home.owned() and qemu.running(home.path) is not None:
            raise Busy("stop it first", what=f"deleting disks of {order.name}", fault="running", side=Side.TARGET)
        with locked(self._directory):
            for place in self._places(order):
                if place.disk.source in keys:
                    place.home.remove([place.path.name])
            home.remove([])

    # -- machine

    def create_machine(self, order: MachineOrder) -> None:
        home, places = self._home(order), self._places(order)
        for each in (home, *(place.home for place in places)):
            each.refuse_foreign("directory")
        self._check_machine(order, places)
        with file_errors(f"make {self._directory}"):
            make_directory(self._directory)
        disks = [(place.disk, place.path) for place in places]
        boot = firmware.find_firmware(order.secure_boot, self._descriptors) if order.firmware == "efi" else None
        variables = home.path / VARIABLES
        arguments = qemu.command(order, disks, boot, home.path, variables)
        domain = domain_xml(order, disks, boot, home.path, variables, self._accelerator())
        machine = {"format": 1, "owner": order.owner, "program": qemu.PROGRAM, "arguments": arguments}
        with locked(self._directory), file_errors(f"write {home.path}"):
            home.claim("directory")
            if boot is not None and not variables.exists():
                write_whole(variables, boot.variables.read_bytes())
            write_whole(home.path / DOMAIN, domain.encode())
            write_whole(home.path / MANIFEST, yaml.safe_dump(virtual_machine(order), sort_keys=False).encode())
            write_whole(home.path / MACHINE, json.dumps(machine, indent=2).encode() + b"\n")

    def start_machine(self, order: MachineOrder) -> None:
        home = self._home(order)
        home.refuse_foreign("machine")
        if home.owned() and qemu.running(home.path) is not None:
            return
        if order.tpm:
            raise Unsupported(
                "QEMU needs a TPM emulator beside it",
                what=f"starting {order.name} with a TPM",
                side=Side.TARGET,
                remedy=f"Start it by libvirt, which runs one: virsh define {home.path / DOMAIN}",
            )
        try:
            arguments = json.loads((home.path / MACHINE).read_text())["arguments"]
        except (OSError, ValueError, KeyError) as error:
            raise NotFound(f": {home.path / MACHINE}", what="machine", name=order.name, side=Side.TARGET) from error
        accelerator = self._accelerator()
        qemu.start(home.path, arguments, accelerator)
        log.info(
            "machine started",
            machine=order.name,
            directory=str(home.path),
            accelerator=accelerator.name,
            why=accelerator.why,
        )

    def stop_machine(self, order: MachineOrder) -> None:
        home = self._home(order)
        if home.owned():
            qemu.stop(home.path, self._grace)

    def delete_machine(self, order: MachineOrder, uid: str = "") -> None:
        """A machine that still runs is ended at once; stop_machine is the gentle way. Its disks stay."""
        home = self._home(order)
        if home.owned():
            qemu.stop(home.path, 0)
            with locked(self._directory):
                home.remove(MACHINE_FILES)

    def close(self) -> None:
        """Machines run on."""

    # -- inside

    @property
    def _counts_space(self) -> bool:
        return self._settings.get("overcommit", "").lower() != "true"

    def _accelerator(self) -> Accelerator:
        return acceleration.choose(qemu.program(), self._directory)

    def _pools(self) -> dict[str, Pool]:
        return find_pools(self._directory, self._settings)

    def _home(self, order: MachineOrder) -> Home:
        return Home(self._directory / _name(order.namespace, "namespace") / _name(order.name, "name"), order.owner)

    def _places(self, order: MachineOrder) -> list["Place"]:
        pools = self._pools()
        places = []
        for disk in order.disks:
            pool = find_pool(pools, disk.pool)
            home = Home(pool.path / _name(order.namespace, "namespace") / _name(order.name, "name"), order.owner)
            places.append(Place(disk, pool, home))
        paths = [place.path for place in places]
        if len(set(paths)) < len(paths):
            raise Invalid("two disks have the same name", field=f"machine {order.name}: disks", side=Side.TARGET)
        return places

    def _check_machine(self, order: MachineOrder, places: "list[Place]") -> None:
        for place in places:
            if not place.exists():
                raise NotFound(f": {place.path}", what="disk", name=place.disk.name, side=Side.TARGET)
        bridges = _bridges()
        for nic in order.nics:
            if nic.kind != POD and nic.network not in bridges:
                raise NotFound(
                    f": this host has {', '.join(bridges) or 'none'}",
                    what="bridge",
                    name=nic.network,
                    side=Side.TARGET,
                    remedy="Make the bridge, or map the network to another destination.",
                )


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where a disk lives."""

    disk: DiskOrder
    pool: Pool
    home: Home

    @property
    def path(self) -> Path:
        return self.home.path / f"{_name(self.disk.name, 'disk')}{DISK_SUFFIX}"

    def size(self) -> int | None:
        """Bytes; None = no such file."""
        with file_errors(f"look at {self.path}"):
            return self.path.stat().st_size if self.path.is_file() and not self.path.is_symlink() else None

    def exists(self) -> bool:
        """Whether it is there at its size. Raises AlreadyExists for one that is there and differs."""
        if self.disk.size <= 0 or self.disk.size % 512:
            raise Invalid(f"{self.disk.size} bytes", field=f"disk {self.disk.name}: size", side=Side.TARGET)
        size = self.size()
        if size not in (None, self.disk.size):
            raise AlreadyExists(
                f" with {size} bytes, the order says {self.disk.size}",
                what="disk",
                name=str(self.path),
                side=Side.TARGET,
                remedy="The source disk was resized since: delete the target disk and start again.",
            )
        return size is not None


def _left_out(order: MachineOrder) -> Iterator[Finding]:
    """What the order says and a host does not know."""
    asked = {
        "spec.targetNodeSelector": order.node_selector,
        "spec.targetAffinity": order.affinity,
        "spec.transferNetwork": order.transfer_network,
        "spec.vms[].instanceType": order.instance_type,
        "spec.enableNestedVirtualization": order.nested is False,
        "the storage map's accessMode": next((disk.access_mode for disk in order.disks if disk.access_mode), ""),
        "the storage map's volumeMode": next((disk.volume_mode for disk in order.disks if disk.volume_mode), ""),
    }
    for field in (field for field, value in asked.items() if value):
        message = f"{field}: it means something in a cluster; disks and machines here are on this host"
        yield Finding("FieldsNotActedOn", Category.ADVISORY, message, "", "NotSupported", field)


def _name(name: str, field: str) -> str:
    """A name that is one step of a path and nothing else."""
    if name in ("", ".", "..") or "/" in name or "\0" in name or name.startswith((".", PREFIX)):
        raise Invalid(f"{name!r} cannot name a file", field=field, side=Side.TARGET)
    return name


def _bridges() -> list[str]:
    return sorted(path.parent.name for path in Path("/sys/class/net").glob("*/bridge"))


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise Invalid(f"{text!r} is not a number", field="spec.settings.shutdownDeadline", side=Side.TARGET) from error
