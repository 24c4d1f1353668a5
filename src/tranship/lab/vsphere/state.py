"""What the services of one vCenter share: the world, the machines, the settings, the fault scripts.

`VCenter` is one; the services take this and not `VCenter`, so that they know each other only where they are told.
"""

import threading
from pathlib import Path

from tranship.lab.certificates import Identity
from tranship.lab.vsphere.faults import Faults
from tranship.lab.vsphere.machine import LabVM
from tranship.lab.vsphere.world import World


class State:
    """Seconds: session_timeout, task_expiry, lease_timeout, task_delay, lease_delay. cbt_page: areas per answer of
    QueryChangedDiskAreas. nfc_host is what lease URLs name; `*` is vCenter's own way to say "the host you talk to"."""

    def __init__(
        self,
        directory: Path,
        user: str,
        password: str,
        identity: Identity,
        datacenter: str,
        beside: World | None = None,
    ) -> None:
        self.directory = directory
        self.user = user
        self.password = password
        self.identity = identity
        self.datacenter_name = datacenter
        self.session_timeout = 1800.0
        self.cbt_page = 2000
        self.task_delay = 0.0
        self.task_expiry = 600.0
        self.lease_timeout = 300.0
        self.lease_delay = 0.0
        self.nfc_host = "*"
        self.missing_privileges: set[str] = set()
        self.vms: dict[str, LabVM] = {}
        self.world = World(beside)
        self.faults = Faults()
        self.closing = threading.Event()

    @property
    def thumbprint(self) -> str:
        """SHA-1 of the server's certificate, as VMware writes it: AA:BB:..."""
        return self.identity.sha1

    def pause(self, seconds: float) -> None:
        """A delay that the end of the vCenter cuts short."""
        if seconds > 0:
            self.closing.wait(seconds)
