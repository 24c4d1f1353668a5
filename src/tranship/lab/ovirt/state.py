"""What the services of one Engine share: its settings, its objects, its faults, and the work behind answers.

`Engine` is one; the services take this and not `Engine`, so that they know each other only where they are told.
"""

import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from random import Random
from uuid import UUID

from tranship.errors import TranshipError
from tranship.lab.certificates import Identity
from tranship.lab.ovirt.faults import Faults, Script
from tranship.lab.ovirt.model import (
    Cluster,
    DataCenter,
    Disk,
    DiskProfile,
    Host,
    LabVM,
    Network,
    StorageDomain,
    Transfer,
    VnicProfile,
    now,
)


class Fault(Exception):
    """The Engine's refusal: an HTTP status and the text in its fault."""

    def __init__(self, status: int, detail: str, reason: str = "Operation Failed") -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.reason = reason


def conflict(detail: str) -> Fault:
    return Fault(409, detail)


def refused(detail: str) -> Fault:
    return Fault(400, detail)


def missing(what: str, id: str) -> Fault:
    return Fault(404, f"Entity not found: {what}: id={id}")


class StepFailed(Exception):
    """A script ended a step."""


@dataclass(eq=False)
class Job:
    """What the Engine shows of work behind an answer. status: started, finished or failed."""

    id: str
    description: str
    correlation: str
    status: str = "started"
    started: datetime = field(default_factory=now)
    ended: datetime | None = None


class State:
    """Seconds: session_timeout, transfer_timeout (a client's inactivity), ticket_timeout, complete_timeout (until a
    transfer that was read through ends by itself: two looks of the Engine), kept_success and kept_failure (how long
    finished backups and transfers are shown), phase_delay (how long each phase of work lasts at least)."""

    def __init__(self, directory: Path, identity: Identity, user: str, password: str, version: str, seed: int) -> None:
        self.directory = directory
        self.identity = identity
        self.user = user
        self.password = password
        self.version = version
        self.session_timeout = 1800.0
        self.transfer_timeout = 60
        self.ticket_timeout = 300
        self.complete_timeout = 20.0
        self.kept_success = 900.0
        self.kept_failure = 1800.0
        self.phase_delay = 0.0
        self.faults = Faults()
        self.lock = threading.RLock()
        self.closing = threading.Event()
        self.data_centers: dict[str, DataCenter] = {}
        self.clusters: dict[str, Cluster] = {}
        self.hosts: dict[str, Host] = {}
        self.networks: dict[str, Network] = {}
        self.profiles: dict[str, VnicProfile] = {}
        self.storage: dict[str, StorageDomain] = {}
        self.disk_profiles: dict[str, DiskProfile] = {}
        self.disks: dict[str, Disk] = {}
        self.vms: dict[str, LabVM] = {}
        self.transfers: dict[str, Transfer] = {}
        self.jobs: dict[str, Job] = {}
        self._random = Random(seed)
        self._threads: list[threading.Thread] = []

    @property
    def numbers(self) -> tuple[int, int, int]:
        """The version as numbers."""
        major, minor, build = (int(part) for part in self.version.split("-")[0].split(".")[:3])
        return major, minor, build

    def uuid(self) -> str:
        with self.lock:
            return str(UUID(int=self._random.getrandbits(128), version=4))

    def find_vm(self, id: str) -> LabVM:
        if id not in self.vms:
            raise missing("VM", id)
        return self.vms[id]

    def disk(self, id: str) -> Disk:
        if id not in self.disks:
            raise missing("Disk", id)
        return self.disks[id]

    def owners(self, disk: Disk) -> list[LabVM]:
        return [vm for vm in self.vms.values() if disk in vm.disks]

    # work behind an answer

    def pause(self, seconds: float) -> None:
        """A delay that the end of the Engine cuts short."""
        if seconds > 0:
            self.closing.wait(seconds)

    def step(self, operation: str, vm: LabVM | None = None) -> list[Script]:
        """A point where scripts can delay, hold or end the work. Never under the lock."""
        self.pause(self.phase_delay)
        scripts = self.faults.due(operation, vm.name if vm else "")
        for script in scripts:
            self.pause(script.delay)
            while script.hold and not self.closing.is_set() and not script.released.wait(0.02):
                pass
            if script.fail:
                raise StepFailed(script.detail or f"{operation} failed")
        return scripts

    def run_job(
        self, description: str, correlation: str, work: Callable[[], None], failed: Callable[[str], None]
    ) -> Job:
        """Runs `work` in a thread, without the lock; if it fails, `failed` with the reason, under the lock."""
        job = Job(self.uuid(), description, correlation)
        self.jobs[job.id] = job

        def run() -> None:
            try:
                work()
                job.status = "finished"
            except (StepFailed, TranshipError, OSError, Fault) as error:
                self._fail(job, failed, str(error))
            except Exception as bug:
                traceback.print_exc()
                self._fail(job, failed, repr(bug))
            job.ended = now()

        thread = threading.Thread(target=run, name=f"engine-{description}", daemon=True)
        with self.lock:
            self._threads = [item for item in self._threads if item.is_alive()]
            self._threads.append(thread)
        thread.start()
        return job

    def _fail(self, job: Job, failed: Callable[[str], None], why: str) -> None:
        job.status = "failed"
        with self.lock:
            failed(why)

    def join(self, seconds: float) -> None:
        """Wait for the work that still runs."""
        for thread in list(self._threads):
            thread.join(seconds)
