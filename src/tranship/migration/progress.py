"""The pipeline that the user sees: a projection of the itinerary's rows and of the movers' numbers. Nothing is stored twice.

Called by the migration controller after every step.
"""

from collections.abc import Sequence
from datetime import datetime

from tranship.inventory.vm import Power
from tranship.migration.itinerary import LEFT, Book, Itinerary, Verdict, Wait
from tranship.migration.seen import CopySeen, CopyState, Seen
from tranship.resources.conditions import Category, Conditions
from tranship.resources.vm import DiskStatus, Progress, StepError, Task, VMStatus
from tranship.resources.vm import Step as PipelineStep

CLEANUP = "Cleanup"  # the step of failure and cancel
DESCRIPTIONS = {
    "Initialize": "Initialize migration.",
    "DiskTransfer": "Transfer disks.",
    "Cutover": "Shut the source down and copy what has changed since.",
    "VirtualMachineCreation": "Create the target VM.",
    "WaitForFinalSnapshotConsolidation": "Wait until the source's last snapshot is consolidated.",
    CLEANUP: "Bring the source back and remove what was made.",
}
_COPYING = ("DiskTransfer", "Cutover")
MIB = 1 << 20


def project(vm: VMStatus, seen: Seen, book: Book) -> list[PipelineStep]:
    """The whole pipeline anew; what an earlier look knew better (times, finished disks) is taken over. A failure or cancel
    leaves the steps so far as they stand, and adds its own."""
    old = {step.name: step for step in vm.pipeline}
    table = book[vm.itinerary]
    steps = [_step(name, old.get(name), vm, table, seen) for name in dict.fromkeys(row.step for row in table.rows)]
    if table.on_failure:
        return steps
    return [_broken_off(step, vm, seen.now) for name, step in old.items() if name != CLEANUP] + steps


def _broken_off(step: PipelineStep, vm: VMStatus, now: datetime) -> PipelineStep:
    step = step.model_copy(deep=True)
    if step.phase == "Running":
        step.error = vm.error or StepError(phase=vm.phase, reasons=["cancelled by the user"])
        _finish(step, now, done=False)
    return step


def _step(name: str, old: PipelineStep | None, vm: VMStatus, table: Itinerary, seen: Seen) -> PipelineStep:
    step = old.model_copy(deep=True) if old else PipelineStep(name=name, description=DESCRIPTIONS.get(name, name))
    step.phase = _phase(name, vm, table)
    if step.phase != "Pending":
        step.started = step.started or seen.now
    step.reason = vm.why if step.phase == "Running" else ""
    if name in _COPYING:
        _transfer(step, vm, seen)
    else:
        step.progress = Progress(completed=int(step.phase == "Completed"), total=1)
    if step.phase == "Completed":
        _finish(step, seen.now, done=True)
    return step


def _phase(name: str, vm: VMStatus, table: Itinerary) -> str:
    at = next(index for index, row in enumerate(table.rows) if row.phase == vm.phase)
    own = [index for index, row in enumerate(table.rows) if row.step == name]
    if at > own[-1] or vm.completed:
        return "Completed"
    return "Running" if at >= own[0] else "Pending"


def _finish(step: PipelineStep, now: datetime, *, done: bool) -> None:
    step.completed = step.completed or now
    step.phase = "Completed"
    if done:
        step.progress.completed = step.progress.total


def _transfer(step: PipelineStep, vm: VMStatus, seen: Seen) -> None:
    step.annotations = {"unit": "MB"}
    if step.phase == "Running" and seen.copies:
        known = {task.name: task for task in step.tasks}
        step.tasks = [_disk(disk, known.get(disk.name), seen) for disk in vm.disks]
    step.progress = Progress(
        completed=sum(task.progress.completed for task in step.tasks),
        total=sum(task.progress.total for task in step.tasks) or sum(disk.capacity // MIB for disk in vm.disks),
    )


def _disk(disk: DiskStatus, task: Task | None, seen: Seen) -> Task:
    one = seen.copies.get(disk.id)
    if one is None or (one.state is CopyState.ABSENT and task):
        return task or Task(name=disk.name)
    return Task(
        name=disk.name,
        phase={CopyState.RUNNING: "Running", CopyState.DONE: "Completed"}.get(one.state, "Pending"),
        progress=Progress(completed=one.done // MIB, total=one.total // MIB),
        annotations=_numbers(one) | {"unit": "MB", "way": disk.way},
    )


def _numbers(one: CopySeen) -> dict[str, str]:
    """Real bytes beside upstream's MB."""
    return {
        "bytesTotal": str(one.total),
        "bytesDone": str(one.done),
        "bytesCopied": str(one.copied),
        "bytesPerSecond": str(int(one.rate)),
    }


def queue(vm: VMStatus, verdict: Verdict, now: datetime) -> None:
    """Upstream's condition of a VM that waits for its turn, or none."""
    conditions = Conditions(vm.conditions)
    if isinstance(verdict, Wait) and verdict.slot:
        remedy = "Others come to an end first; or raise controller_max_vm_inflight."
        conditions.set("Pending", Category.ADVISORY, now, message=verdict.why, suggestion=remedy, durable=True)
    else:
        conditions.delete("Pending")


def conclude(vm: VMStatus, seen: Seen) -> None:
    """The VM's last word, as a condition: Succeeded, Failed or Canceled; and what is not as it should be."""
    conditions, now = Conditions(vm.conditions), seen.now
    if vm.outcome == "succeeded":
        conditions.set("Succeeded", Category.ADVISORY, now, message="the VM was moved", durable=True)
    elif vm.outcome == "canceled":
        conditions.set("Canceled", Category.ADVISORY, now, message="cancelled by the user", durable=True)
    else:
        message = "; ".join(vm.error.reasons[:1]) if vm.error else "the migration failed"
        remedy = " ".join(vm.error.reasons[1:]) if vm.error else ""
        conditions.set("Failed", Category.ERROR, now, message=message, suggestion=remedy, durable=True)
    left, remedies = _left(vm, seen)
    if left:
        text, remedy = "; ".join(left), " ".join(remedies)
        conditions.set("LeftBehind", Category.WARN, now, message=text, suggestion=remedy, durable=True)


def conclude_run(outcomes: Sequence[str], conditions: Conditions, now: datetime) -> None:
    """How a migration of several VMs ended, for the Migration and for its plan: Succeeded, Failed or Canceled."""
    total, moved, failed = len(outcomes), outcomes.count("succeeded"), outcomes.count("failed")
    if total and moved == total:
        conditions.set("Succeeded", Category.ADVISORY, now, message=f"{total} VMs were moved", durable=True)
    elif failed:
        reason = "PartlySucceeded" if moved else "Failed"
        text = f"{failed} of {total} VMs failed, {moved} were moved"
        conditions.set("Failed", Category.ADVISORY, now, reason=reason, message=text, durable=True)
    else:
        text = f"{total - moved} of {total} VMs were cancelled, {moved} were moved"
        conditions.set("Canceled", Category.ADVISORY, now, message=text, durable=True)


def _left(vm: VMStatus, seen: Seen) -> tuple[list[str], list[str]]:
    """What stubborn rows could not do, and the remedies."""
    left = [f"{entry.kind} {entry.name} on the {entry.side}" for entry in vm.ledger if entry.kind == "snapshot"]
    remedies = ["Remove it in the source's console."] if left else []
    if vm.outcome != "succeeded" and vm.restore_power_state == Power.ON.value and seen.source.power is not Power.ON:
        left.append("the source VM ran and is powered off now")
        remedies.append("Power it on in the source's console, if no target VM runs in its place.")
    reasons = [entry.why.removeprefix(LEFT) for entry in vm.story if entry.why.startswith(LEFT)]
    if reasons and not remedies:
        remedies.append("Remove by hand what is named.")
    return left + reasons, remedies
