"""The cold itinerary: shut the VM down, copy every disk, make the target.

Started > StorePowerState > PowerOffSource > WaitForPowerOff > CreateDataVolumes > CopyDisks > CreateVM > Completed
"""

from tranship.migration import phases
from tranship.migration.itinerary import Itinerary, Row, Verdict, Wait
from tranship.migration.seen import Seen
from tranship.resources.vm import VMStatus


def copy_disks(vm: VMStatus, seen: Seen) -> Verdict:
    return phases.copy(vm, seen, snapshot="", ways={disk.id: disk.way for disk in vm.disks}, base={})


def completed(vm: VMStatus, seen: Seen) -> Verdict:
    return Wait("ended")


COLD = Itinerary(
    "cold",
    (
        Row("Started", "Initialize", phases.started, slot="to start migration"),
        Row("StorePowerState", "Initialize", phases.store_power, phases.record_power),
        Row("PowerOffSource", "Initialize", phases.power_off_source),
        Row("WaitForPowerOff", "Initialize", phases.wait_for_power_off, phases.record_power_off),
        Row("CreateDataVolumes", "Initialize", phases.create_disks, phases.record_disks),
        Row("CopyDisks", "DiskTransfer", copy_disks, phases.record_all_copied),
        Row(
            "CreateVM",
            "VirtualMachineCreation",
            phases.create_machine,
            phases.record_machine,
            deadline=lambda policy: policy.start_deadline,
        ),
        Row("Completed", "VirtualMachineCreation", completed, point_of_no_return=True),
    ),
    on_failure="failed",
    on_cancel="canceled",
)
