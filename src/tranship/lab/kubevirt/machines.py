"""VirtualMachines: an instance is made and deleted as runStrategy says, and the status told that KubeVirt tells.

The instance is the VirtualMachine's template with its instance type applied. `virtctl start` and `stop` are requests in
`status.stateChangeRequests`; the API that writes them is not here, a patch of the status does the same.
"""

import time
from datetime import UTC, datetime

from tranship.errors import Invalid, NotFound, Refused
from tranship.lab.kubevirt import domain
from tranship.lab.kubevirt.api import Api, Controller, Kind, Mirror, Object, key
from tranship.lab.kubevirt.instances import FINALIZER as INSTANCE_FINALIZER
from tranship.lab.kubevirt.instances import INSTANCES, PVC_NOT_FOUND
from tranship.lab.kubevirt.status import FINAL, condition, dated, find, phase, without, write

MACHINES = Kind("/apis/kubevirt.io/v1", "virtualmachines")
TYPES = Kind("/apis/instancetype.kubevirt.io/v1beta1", "virtualmachineinstancetypes")
CLUSTER_TYPES = Kind("/apis/instancetype.kubevirt.io/v1beta1", "virtualmachineclusterinstancetypes", namespaced=False)
FINALIZER = "kubevirt.io/virtualMachineControllerFinalize"
GENERATION = "kubevirt.io/vm-generation"
FIRST_BACKOFF, LAST_BACKOFF = 10, 300  # seconds; KubeVirt's
_PULL = {"ErrImagePull": "ErrImagePull", "ImagePullBackOff": "ImagePullBackOff"}


class Machines(Controller):
    def __init__(self, api: Api, machines: Mirror, instances: Mirror, claims: Mirror) -> None:
        super().__init__(machines, instances, claims)
        self._api = api
        self._machines, self._instances, self._claims = machines, instances, claims

    async def look(self, obj: Object) -> None:
        meta = obj["metadata"]
        instance = self._instances.get(*key(obj))
        if "deletionTimestamp" in meta:
            await self._leave(obj, instance)
            return
        if FINALIZER not in meta.get("finalizers", ()):
            finalizers = [*meta.get("finalizers", ()), FINALIZER]
            obj = await self._api.patch(MACHINES, obj, {"metadata": {"finalizers": finalizers}})
            self._machines.update(obj)
        failure, starts = None, _start_failure(obj, instance)
        obj = await write(self._api, self._machines, obj, {"startFailure": starts})  # before what has failed is deleted
        try:
            obj = await self._sync(obj, instance)
        except (Invalid, NotFound, Refused) as error:
            words = f"Error creating virtual machine instance: {error}"
            failure = condition("Failure", True, "FailedCreate", words)
        if instance is None:
            instance = self._instances.get(*key(obj))
        await write(self._api, self._machines, obj, self._status(obj, instance, failure))

    # -- what is done

    async def _leave(self, obj: Object, instance: Object | None) -> None:
        if instance is None:
            await without(self._api, self._machines, obj, FINALIZER)
            return
        await self._delete(instance)
        await write(self._api, self._machines, obj, self._status(obj, instance, None))

    async def _sync(self, obj: Object, instance: Object | None) -> Object:
        strategy, stage, requests = run_strategy(obj), phase(instance), _requests(obj)
        start = bool(requests) and requests[0]["action"] == "Start"
        if instance is not None:
            if _owner(instance) != obj["metadata"]["uid"]:
                raise Refused("an instance of that name belongs to somebody else", what="its start", fault="Conflict")
            asked = requests[0] if requests else {}
            stop = (asked.get("action"), asked.get("uid")) == ("Stop", instance["metadata"]["uid"])
            ends = stage in FINAL and strategy in ("Always", "RerunOnFailure")
            if strategy == "Halted" or ((stop or ends) and strategy != "Once"):
                await self._delete(instance)
                if strategy == "RerunOnFailure" and stage == "Failed" and not start:
                    request = {"stateChangeRequests": [*requests, {"action": "Start"}]}
                    return await write(self._api, self._machines, obj, request)
            return obj
        again = strategy == "RerunOnFailure" and (start or obj.get("status", {}).get("runStrategy") != strategy)
        if strategy == "Halted" and start:
            obj = await self._api.patch(MACHINES, obj, {"spec": {"runStrategy": "Always", "running": None}})
            self._machines.update(obj)
        elif strategy in ("Always", "Once") or again or (strategy == "Manual" and start):
            rest = _backoff_left(obj)
            if rest > 0 and strategy in ("Always", "RerunOnFailure"):
                self.wake_in(rest)
            else:
                await self._api.ensure(INSTANCES, await self._instance(obj))
        return obj

    async def _delete(self, instance: Object) -> None:
        if "deletionTimestamp" not in instance["metadata"]:
            await self._api.delete(INSTANCES, instance)

    async def _instance(self, obj: Object) -> Object:
        """What is to run. Raises Invalid, NotFound."""
        meta, template = obj["metadata"], obj["spec"]["template"]
        spec = await self._typed(obj, template["spec"])
        domain.check(spec)
        labels, notes = (
            template.get("metadata", {}).get("labels", {}),
            template.get("metadata", {}).get("annotations", {}),
        )
        owner = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": meta["name"], "uid": meta["uid"]}
        return {
            "apiVersion": "kubevirt.io/v1",
            "kind": "VirtualMachineInstance",
            "metadata": {
                "name": meta["name"],
                "namespace": meta["namespace"],
                "labels": labels,
                "annotations": {**notes, GENERATION: str(meta["generation"])},
                "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": True}],
                "finalizers": [INSTANCE_FINALIZER],
            },
            "spec": spec,
        }

    async def _typed(self, obj: Object, spec: Object) -> Object:
        """With processors and memory of the instance type that the machine names."""
        named = obj["spec"].get("instancetype")
        if not named:
            return spec
        mine = named.get("kind", "").lower() == "virtualmachineinstancetype"
        kind, namespace = (TYPES, obj["metadata"]["namespace"]) if mine else (CLUSTER_TYPES, "")
        found = await self._api.find(kind, named["name"], namespace)
        if found is None:
            raise NotFound(what=kind.plural, name=named["name"])
        if "memory" in spec["domain"] or "cpu" in spec["domain"]:
            field = "spec.template.spec.domain"
            raise Invalid("cpu and memory conflict with the selected instance type", field=field)
        size = {"cpu": {"sockets": found["spec"]["cpu"]["guest"], "cores": 1, "threads": 1}}
        return {**spec, "domain": {**spec["domain"], **size, "memory": {"guest": found["spec"]["memory"]["guest"]}}}

    # -- what is told

    def _status(self, obj: Object, instance: Object | None, failure: Object | None) -> Object:
        known, strategy = obj.get("status", {}), run_strategy(obj)
        conditions = [_ready(instance)]
        conditions += [
            one for one in (instance or {}).get("status", {}).get("conditions", ()) if one["type"] != "Ready"
        ]
        conditions += [failure] if failure else []
        status: Object = {
            "created": instance is not None,
            "ready": find(instance, "Ready").get("status") == "True",
            "conditions": dated(obj, conditions),
            "stateChangeRequests": _left(obj, instance) or None,
        }
        if instance is not None:
            generation = instance["metadata"].get("annotations", {}).get(GENERATION)
            status |= {"desiredGeneration": obj["metadata"]["generation"]}
            status |= {"observedGeneration": int(generation)} if generation else {}
        if known.get("runStrategy") or instance is not None:
            status["runStrategy"] = strategy
        status["printableStatus"] = self._printable({**obj, "status": {**known, **status}}, instance)
        return status

    def _printable(self, obj: Object, instance: Object | None) -> str:
        """One word, the first that fits, in KubeVirt's order."""
        stage, synchronized = phase(instance), find(instance, "Synchronized").get("reason")
        if "deletionTimestamp" in obj["metadata"]:
            return "Terminating"
        if instance is not None and stage not in FINAL and "deletionTimestamp" in instance["metadata"]:
            return "Stopping"
        if stage == "Running":
            return "Running"
        if synchronized == PVC_NOT_FOUND:
            return "ErrorPvcNotFound"
        if find(instance, "PodScheduled").get("reason") == "Unschedulable":
            return "ErrorUnschedulable"
        if _set_to_start(obj, instance) and self._unbound(obj):
            return "WaitingForVolumeBinding"
        if synchronized in _PULL:
            return _PULL[synchronized]
        if instance is not None and stage not in FINAL:
            return "Starting"
        crashes = (obj["status"].get("startFailure") or {}).get("consecutiveFailCount", 0)
        if crashes and run_strategy(obj) in ("Always", "RerunOnFailure", "Once"):
            return "CrashLoopBackOff"
        return "Stopped"

    def _unbound(self, obj: Object) -> bool:
        """A claim that is not there is not unbound."""
        names = domain.claims(obj["spec"]["template"]["spec"]).values()
        found = (self._claims.get(obj["metadata"]["namespace"], name) for name in names)
        return any(claim is not None and phase(claim) != "Bound" for claim in found)


def run_strategy(obj: Object) -> str:
    """`running`, which went before it, means Always or Halted."""
    spec = obj["spec"]
    return str(spec.get("runStrategy") or ("Always" if spec.get("running") else "Halted"))


def _requests(obj: Object) -> list[Object]:
    return list(obj.get("status", {}).get("stateChangeRequests") or ())


def _left(obj: Object, instance: Object | None) -> list[Object]:
    """The requests without the first when that is done."""
    requests = _requests(obj)
    if not requests:
        return []
    first = requests[0]
    if first["action"] == "Stop":
        done = instance is None or instance["metadata"]["uid"] != first.get("uid")
    else:
        done = instance is not None and phase(instance) not in FINAL and "deletionTimestamp" not in instance["metadata"]
    return requests[1:] if done else requests


def _owner(instance: Object) -> str:
    return next((one["uid"] for one in instance["metadata"].get("ownerReferences", ()) if one.get("controller")), "")


def _set_to_start(obj: Object, instance: Object | None) -> bool:
    match run_strategy(obj):
        case "Always":
            return True
        case "RerunOnFailure":
            return phase(instance) != "Succeeded"
        case "Once":
            return instance is None
        case "Manual":
            return instance is not None or any(one["action"] == "Start" for one in _requests(obj)[:1])
    return False


def _ready(instance: Object | None) -> Object:
    if instance is None:
        return condition("Ready", False, "VMINotExists", "VMI does not exist")
    return find(instance, "Ready") or condition(
        "Ready", False, "VMIConditionMissing", "VMI is missing the Ready condition"
    )


def _start_failure(obj: Object, instance: Object | None) -> Object | None:
    """Starts in a row that never came to Running, each counted once; the next is put off longer and longer."""
    known: Object | None = obj.get("status", {}).get("startFailure")
    passed = [one["phase"] for one in (instance or {}).get("status", {}).get("phaseTransitionTimestamps", ())]
    if "Running" in passed or run_strategy(obj) == "Halted":
        return None
    if instance is None or phase(instance) != "Failed" or "deletionTimestamp" in instance["metadata"]:
        return known
    uid = instance["metadata"]["uid"]
    if known and known.get("lastFailedVMIUID") == uid:
        return known
    count = (known or {}).get("consecutiveFailCount", 0) + 1
    until = datetime.fromtimestamp(time.time() + min(FIRST_BACKOFF * count**2, LAST_BACKOFF), UTC)
    retry = until.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"consecutiveFailCount": count, "lastFailedVMIUID": uid, "retryAfterTimestamp": retry}


def _backoff_left(obj: Object) -> float:
    until = (obj.get("status", {}).get("startFailure") or {}).get("retryAfterTimestamp")
    return datetime.fromisoformat(until).timestamp() - time.time() if until else 0.0
