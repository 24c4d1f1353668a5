"""Tasks: work that goes on after the call has returned, one at a time per virtual machine.

power.py, snapshots.py and the rest hand a function to `start`; a thread runs it. What it raises becomes Task.info.error.
A finished task is forgotten after `state.task_expiry` seconds, and a client that asks later gets ManagedObjectNotFound.
"""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from tranship.errors import TranshipError
from tranship.lab.vsphere import soap
from tranship.lab.vsphere.calls import Call
from tranship.lab.vsphere.machine import LabVM
from tranship.lab.vsphere.state import State
from tranship.lab.vsphere.vmomi import Fault, VmomiSupport, vim
from tranship.lab.vsphere.world import Managed


class Task(Managed):
    def __init__(self, moid: str, method: str, vm: LabVM, user: str) -> None:
        super().__init__(vim.Task, moid, {"info": self._info, "customValue": []})
        self.method = method
        self.vm = vm
        self.user = user
        self.state = "queued"
        self.error: Fault | None = None
        self.result: Any = None
        self.progress: int | None = None
        self.queued = datetime.now(UTC)
        self.started: datetime | None = None
        self.completed: datetime | None = None

    def _info(self) -> Any:
        name = self.method.removesuffix("_Task")
        return vim.TaskInfo(
            key=self.moid,
            task=self.ref,
            name=VmomiSupport.GetWsdlMethod(soap.NAMESPACE, self.method),
            descriptionId=f"VirtualMachine.{name[:1].lower()}{name[1:]}",
            entity=self.vm.ref,
            entityName=self.vm.name,
            state=self.state,
            cancelled=False,
            cancelable=False,
            error=self.error,
            result=self.result,
            progress=self.progress,
            reason=vim.TaskReasonUser(userName=self.user),
            queueTime=self.queued,
            startTime=self.started,
            completeTime=self.completed,
            eventChainId=int(self.moid.removeprefix("task-")),
        )


class Tasks:
    def __init__(self, state: State) -> None:
        self.state = state
        self.world = state.world
        facts = {"recentTask": lambda: [task.ref for task in self._recent()], "maxCollector": 32, "description": None}
        self.manager = Managed(vim.TaskManager, "TaskManager", facts, cached=False)
        self.world.add(self.manager)

    def _recent(self) -> list[Task]:
        return [item for item in self.world.objects.values() if isinstance(item, Task)][-200:]

    def start(self, call: Call, vm: LabVM, work: Callable[[Task], Any]) -> Any:
        """The task's reference. `work` runs without the world's lock and takes it for what it changes."""
        task = Task(self.world.new_id("task-"), call.method, vm, call.who.user)
        busy = vm.task
        if busy is None:
            vm.task = task
        self.world.add(task, vm)
        threading.Thread(target=self._run, args=(task, work, busy), name=task.moid, daemon=True).start()
        return task.ref

    def _run(self, task: Task, work: Callable[[Task], Any], busy: Managed | None) -> None:
        self.state.pause(self.state.task_delay)
        with self.world.lock:
            task.state, task.started = "running", datetime.now(UTC)
            self.world.touch(task)
        try:
            if busy is not None:
                raise soap.fault_named("TaskInProgress", "Another task is already in progress.", task=busy.ref)
            for script in self.state.faults.due(task.method, task.vm.name, "task"):
                self.state.pause(script.delay)
                if error := script.error():
                    raise error
            result, error = work(task), None
        except Fault as fault:
            result, error = None, fault
        except (TranshipError, OSError) as fault:
            result, error = None, soap.fault_named("SystemError", str(fault), reason=str(fault))
        except Exception as bug:
            result, error = None, soap.fault_named("SystemError", repr(bug), reason=repr(bug))
            self._finish(task, result, error)
            raise
        self._finish(task, result, error)

    def _finish(self, task: Task, result: Any, error: Fault | None) -> None:
        with self.world.lock:
            if task.vm.task is task:
                task.vm.task = None
            task.state = "error" if error else "success"
            task.result, task.error, task.completed = result, error, datetime.now(UTC)
            task.done_at = time.monotonic()
            self.world.touch(task, task.vm)

    def sweep(self) -> None:
        """Forget the tasks and leases that ended long ago; the server calls it before each call."""
        horizon = time.monotonic() - self.state.task_expiry
        for item in list(self.world.objects.values()):
            if item.done_at is not None and item.done_at < horizon:
                self.world.remove(item)

    def CancelTask(self, call: Call) -> None:
        raise soap.fault_named("NotSupported", "This task cannot be cancelled.")
