"""Movers of a machine's disks as Jobs in the namespace of its claims. Fulfils providers.base.Movers; the pod's side of it is
transfer/pod.py.

    ConfigMap  <claim>-<key>        of a disk, over all its rounds; owned by the claim. journal: what is finished, as the pod
                                    told it last, for the pod that comes after it; rounds: why full, and the last reports
    Job        <claim>-<key>-r<N>   of a round. Made suspended, and let go when its Secret is there
    Secret     of the same name     the job, with what is needed to read the source; owned by the Job
    Secret     <machine>-<key>-h<N> the handle of what the source lends for a round

Plain kinds, so a remote cluster needs nothing installed; a pod gets no right on the cluster at all. It is the Job that starts
a lost pod again, whether or not a controller is there to see it. All of it bears the machine's label and goes with `forget`.
"""

import base64
import hashlib
import json
import math
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tranship.cluster.api import ATTACHMENT, CLAIM, CONFIG_MAP, EVENT, JOB, POD, Api, Object
from tranship.errors import AlreadyExists, Busy, Denied, NotFound, Side, TimedOut, TranshipError
from tranship.migration.mapping import MachineOrder
from tranship.migration.seen import CopySeen
from tranship.providers.base import Library, Reading
from tranship.providers.copies import seen
from tranship.providers.kubevirt import attached, told, vddk
from tranship.providers.kubevirt.marks import foreign, is_ours, marked
from tranship.resources.meta import SECRET, Kind
from tranship.transfer import channel
from tranship.transfer.address import DiskAddress, Extent
from tranship.transfer.channel import Report, State

USER = 107  # qemu's, in KubeVirt and everywhere else
MACHINE_LABEL = "tranship.io/machine"
JOB_NAME = "batch.kubernetes.io/job-name"
MOST_AREAS = 8000  # of a delta, in a Secret: 240 KiB of text at most
KEPT_ROUNDS = 20  # whose reports are kept
RETRIES = 6  # pods of one Job
RESOURCES: Object = {"requests": {"cpu": "200m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}}
GRACE = 8  # seconds that a mover gets to close its journal; who cancels waits for it
START_DEADLINE = 900.0  # seconds from the Job's start to a pod that runs: a cluster may have to get a node first
STOP_DEADLINE = 60.0
SILENT = 300.0  # seconds without a line, although movers have a heartbeat: the pod hangs, and is replaced
AWAY = 60  # seconds that a pod waits for a node that does not answer
HOPELESS = ("ErrImageNeverPull", "InvalidImageName")  # what no waiting changes
EXPECTED = ("WaitForFirstConsumer", "WaitForPodScheduled")  # of a claim that waits for us
POLL = 0.2


class Heard:
    """Since when each Job's pod has said nothing new, by the clock of this process: clocks of nodes may be wrong."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[str, float]] = {}

    def silent(self, job: Object) -> bool:
        return time.monotonic() - self._last.get(job["metadata"]["uid"], ("", math.inf))[1] > SILENT

    def note(self, job: Object, line: str) -> None:
        uid = job["metadata"]["uid"]
        if uid not in self._last or self._last[uid][0] != line:
            self._last[uid] = (line, time.monotonic())

    def forget(self, job: Object) -> None:
        self._last.pop(job["metadata"]["uid"], None)


class JobMovers:
    """image: the container image of tranship. heard: shared by all movers of a target."""

    def __init__(self, api: Api, order: MachineOrder, image: str, heard: Heard) -> None:
        self._api, self._order, self._image, self._heard = api, order, image, heard

    # -- what is there

    def look(self, disk: str, round_: int) -> CopySeen:
        """What a pod told since the last look is kept, for the pod that comes after it."""
        memory = self._api.find(CONFIG_MAP, self._name(disk), self._order.namespace)
        round_memory = _rounds(memory).get(str(round_))
        released = not self.handle(round_)
        if memory is None or round_memory is None:
            return seen(Report(State.ABSENT), full="", released=released)
        full = str(round_memory.get("full", ""))
        if "report" in round_memory:
            return seen(told.report(round_memory["report"]), full=full, released=released)
        return seen(self._ask(memory, disk, round_), full=full, released=released)

    def _ask(self, memory: Object, disk: str, round_: int) -> Report:
        job = self._job(disk, round_)
        pods = self._pods(self._name_of(disk, round_))
        if job is None or job["metadata"].get("deletionTimestamp"):
            left = next((one for one in pods if not told.over(one)), None)
            return Report(State.LOST) if left is None else told.ending(left)
        if job["spec"].get("suspend"):
            return Report(State.ABSENT)
        pod = max(pods, key=lambda one: one["metadata"]["creationTimestamp"], default=None)
        word = told.last_word(pod)
        if word.get("state") == State.DONE.value:
            journal = {"journal": word.pop("journal", None)}
            self._remember(memory, round_, journal, report=word)
            return told.report(word)
        if told.ended(job):
            if word.get("state") != State.FAILED.value:
                return vddk.broken(job, pod) or told.lost(job, pod)
            return vddk.blamed(job, told.failure(word, f"{self._order.namespace}/{self._claim(disk)}"))
        if pod is None or not told.started(pod):
            return self._waiting(disk, job, pod)
        return self._listen(memory, round_, job, pod)

    def _listen(self, memory: Object, round_: int, job: Object, pod: Object) -> Report:
        """LOST = the pod hangs; the next start replaces it."""
        said: Object = {}
        with suppress(TranshipError):  # a node that does not answer for a while: the copy goes on
            line = self._api.log(pod, 1)
            self._heard.note(job, line)
            said = told.said(line)
            said.pop("reason", None)  # of a pod that has ended: what comes of it is the Job's to say
            self._remember(memory, round_, said)
        state = State.LOST if self._heard.silent(job) else State.RUNNING
        return told.report({**said, "state": state.value})

    def _remember(self, memory: Object, round_: int, said: Object, report: Object | None = None) -> None:
        data: dict[str, str] = {}
        if journal := said.get("journal"):
            data["journal"] = json.dumps(journal)
        if report is not None:
            rounds = _rounds(memory)
            rounds[str(round_)]["report"] = report
            data["rounds"] = _packed(rounds)
        if any((memory.get("data") or {}).get(name) != text for name, text in data.items()):
            self._api.patch(CONFIG_MAP, memory, {"data": data})

    def _waiting(self, disk: str, job: Object, pod: Object | None) -> Report:
        """No mover runs yet. After a while somebody has to do something about it: then a reason is given, and the Job stays
        until it is stopped."""
        reason, why = told.why_not(pod)
        said = [why or self._events(pod or job, warning=True), self._unbound(disk)]
        why = "; ".join(one for one in said if one)
        began = told.time(job.get("status", {}).get("startTime"))
        waited = 0.0 if began is None else (datetime.now(UTC) - began).total_seconds()
        if waited < START_DEADLINE and reason not in HOPELESS:
            return Report(State.RUNNING, phase="waiting", message=why)
        late = Report(
            State.RUNNING,
            phase="waiting",
            reason="MoverNotStarted",
            message=f"no pod of {told.called(job)} runs after {waited:.0f} s: {why or 'no reason is given'}",
            suggestion=f"See: kubectl describe job,pod,pvc -n {self._order.namespace}. {self._remedy(reason)}".strip(),
            side=Side.TARGET.value,
        )
        return vddk.unpulled(job, pod, late)

    def _remedy(self, reason: str) -> str:
        if "Image" not in reason:
            return "Correct what is named there, then start the plan again."
        return f"Put the image {self._image} where the cluster's nodes find it, or correct the controller's setting."

    def _events(self, obj: Object, *, warning: bool) -> str:
        """What was said of it last; of a complaint, or of anything that is not a matter of course."""
        try:
            about = f"involvedObject.uid={obj['metadata']['uid']}"
            events = list(self._api.list(EVENT, self._order.namespace, fields=about))
        except Denied:
            return ""
        wanted = [one for one in events if one.get("reason") not in EXPECTED]
        wanted = [one for one in wanted if one.get("type") == "Warning" or not warning]
        latest = max(wanted, key=told.when, default=None)
        return str(latest.get("message", ""))[:500] if latest else ""

    def _unbound(self, disk: str) -> str:
        """Why the disk's claim has no volume, if that is not a matter of course."""
        claim = self._api.find(CLAIM, self._claim(disk), self._order.namespace)
        if claim is None or (claim.get("status") or {}).get("phase") != "Pending":
            return ""
        why = self._events(claim, warning=False)
        return f"claim {self._order.namespace}/{self._claim(disk)} has no volume: {why}" if why else ""

    # -- start and end

    def start(
        self, disk: str, round_: int, *, source: Reading, target: DiskAddress, size: int, point: str, verify: bool
    ) -> None:
        claim = self._api.get(CLAIM, _claim_of(target), self._order.namespace)
        memory = self._memory(disk, claim)
        rounds = _rounds(memory)
        if "report" in rounds.get(str(round_), {}):
            return
        job = self._job(disk, round_)
        over = job is None or told.ended(job) or self._heard.silent(job)
        if job is not None and not over and not job["spec"].get("suspend"):
            return
        if over:
            self.stop(disk, round_)  # what is left of an earlier try
            job = None
        address = vddk.address_in_pod(self._api, source, self._order.namespace)
        rounds[str(round_)] = {"full": source.full}
        self._api.patch(CONFIG_MAP, memory, {"data": {"rounds": _packed(rounds)}})
        task = channel.Job(
            disk=disk,
            source=address,
            target=target,
            size=size,
            round=str(round_),
            point=point,
            state=_NOWHERE,
            base=str(round_ - 1) if source.delta else None,
            changed=None if source.changed is None else coarse(source.changed, MOST_AREAS),
            verify=verify,
            along=True,
            identity=f"claim {claim['metadata']['uid']}",
        )
        if job is None:
            job = self._api.create(JOB, self._manifest(disk, round_, claim, source.library))
        self._tell(job, task)
        self._api.patch(JOB, job, {"spec": {"suspend": False}})

    def _memory(self, disk: str, claim: Object) -> Object:
        """The disk's ConfigMap, made if it is not there."""
        name = self._name(disk)
        found = self._api.find(CONFIG_MAP, name, self._order.namespace)
        if found is None:
            metadata = {**self._marked(name), "ownerReferences": [_owner(CLAIM, claim)]}
            found = self._api.create(CONFIG_MAP, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
        self._refuse_foreign(found, CONFIG_MAP)
        return found

    def _tell(self, job: Object, task: channel.Job) -> None:
        """The Secret: one that an earlier try left holds an older ticket."""
        name = job["metadata"]["name"]
        words = {"job.json": json.dumps(channel.told(task))}
        if task.changed is not None:
            words["changed"] = "".join(channel.listed(task.changed))
        metadata = {**self._marked(name), "ownerReferences": [_owner(JOB, job)]}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": words}
        old = self._api.find(SECRET, name, self._order.namespace)
        if old is not None:
            self._refuse_foreign(old, SECRET)
            self._api.delete(SECRET, old)
        self._api.create(SECRET, secret)

    def stop(self, disk: str, round_: int) -> None:
        """None of its pods is left then: two movers on one volume would be the end of it."""
        job = self._job(disk, round_)
        if job is not None:
            self._api.delete(JOB, job)
        until = time.monotonic() + STOP_DEADLINE
        name, namespace = self._name_of(disk, round_), self._order.namespace
        while self._pods(name) or (job is not None and self._api.find(JOB, name, namespace)):
            if time.monotonic() > until:
                raise TimedOut(
                    what=f"the end of job {namespace}/{name}",
                    seconds=STOP_DEADLINE,
                    side=Side.TARGET,
                    remedy=f"See: kubectl get pod -n {namespace} -l {JOB_NAME}={name} -o wide; is its node alive?",
                )
            time.sleep(POLL)
        if job is not None:
            self._heard.forget(job)

    def end(self, disk: str, round_: int) -> None:
        job = self._job(disk, round_)
        if job is not None:
            self._api.delete(JOB, job)
            self._heard.forget(job)

    # -- what the source lends

    def handle(self, round_: int) -> str:
        found = self._api.find(SECRET, self._handle(round_), self._order.namespace)
        if found is None or not is_ours(self._order, found):
            return ""
        return base64.b64decode((found.get("data") or {}).get("handle", "")).decode()

    def remember_handle(self, round_: int, handle: str) -> None:
        if not handle:
            return
        metadata = self._marked(self._handle(round_))
        made = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"handle": handle}}
        try:
            self._api.create(SECRET, made)
        except AlreadyExists:
            found = self._api.get(SECRET, metadata["name"], self._order.namespace)
            self._refuse_foreign(found, SECRET)
            self._api.patch(SECRET, found, {"stringData": {"handle": handle}})

    def forget_handle(self, round_: int) -> None:
        found = self._api.find(SECRET, self._handle(round_), self._order.namespace)
        if found is not None and is_ours(self._order, found):
            self._api.delete(SECRET, found)

    def forget(self) -> None:
        with suppress(NotFound):  # the namespace is gone, and all with it
            for kind in (JOB, SECRET, CONFIG_MAP):
                for found in self._api.list(kind, self._order.namespace, f"{MACHINE_LABEL}={self._key('')}"):
                    if is_ours(self._order, found):
                        self._api.delete(kind, found)

    # -- objects

    def _job(self, disk: str, round_: int) -> Object | None:
        found = self._api.find(JOB, self._name_of(disk, round_), self._order.namespace)
        if found is not None:
            self._refuse_foreign(found, JOB)
        return found

    def _pods(self, job: str) -> list[Object]:
        """Also those that their Job, which is gone, has left behind for the cluster's collector."""
        return list(self._api.list(POD, self._order.namespace, f"{JOB_NAME}={job}"))

    def _manifest(self, disk: str, round_: int, claim: Object, library: Library | None) -> Object:
        name = self._name_of(disk, round_)
        metadata = self._marked(name)
        metadata["annotations"] |= {"tranship.io/disk": disk, "tranship.io/round": str(round_)}
        pod_labels = dict(metadata["labels"])
        spec = _pod_spec(self._image, claim, secret=name, journal=self._name(disk))
        if account := self._order.service_account:  # for what policies allow it; its token is not mounted
            spec["serviceAccountName"] = account
        if library is not None:
            vddk.add(spec, library)
            metadata["annotations"][vddk.ORIGIN] = vddk.origin(library)
        failures = [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": {"containerName": "mover", "operator": "In", "values": [1]}},
            *vddk.failures(library),
        ]
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": metadata,
            "spec": {
                "suspend": True,
                "backoffLimit": RETRIES,
                "podFailurePolicy": {"rules": failures},
                "template": {"metadata": {"labels": pod_labels, "annotations": self._attached()}, "spec": spec},
            },
        }

    def _attached(self) -> dict[str, str]:
        """To the network by which the plan wants disks to travel. Raises NotFound, Invalid."""
        if not self._order.transfer_network:
            return {}
        namespace, _, name = self._order.transfer_network.partition("/")
        return attached.annotations(self._api.get(ATTACHMENT, name, namespace))

    def _marked(self, name: str) -> Object:
        labels = {key: self._order.labels[key] for key in ("plan", "vmID", "migration") if key in self._order.labels}
        return marked(self._order, name, labels={**labels, MACHINE_LABEL: self._key("")})

    def _refuse_foreign(self, found: Object, kind: Kind) -> None:
        if other := foreign(self._order, found, kind.kind):
            raise AlreadyExists(f": {other}", what=kind.kind, name=found["metadata"]["name"], side=Side.TARGET)
        if kind is not JOB and found["metadata"].get("deletionTimestamp"):
            name = found["metadata"]["name"]
            raise Busy("it is being deleted", what=f"{kind.kind} {name}", fault="Terminating", side=Side.TARGET)

    def _key(self, disk: str) -> str:
        return hashlib.sha256(f"{self._order.owner}\0{disk}".encode()).hexdigest()[:10]

    def _claim(self, disk: str) -> str:
        return next(one.name for one in self._order.disks if one.source == disk)

    def _name(self, disk: str) -> str:
        """Of what belongs to the disk over all its rounds."""
        return f"{_label(self._claim(disk))}-{self._key(disk)}"

    def _name_of(self, disk: str, round_: int) -> str:
        """Of what belongs to one round."""
        return f"{self._name(disk)}-r{round_}"

    def _handle(self, round_: int) -> str:
        return f"{_label(self._order.name)}-{self._key('')}-h{round_}"


def coarse(areas: tuple[Extent, ...], most: int) -> tuple[Extent, ...]:
    """At most so many areas that cover the given ones: the smallest gaps are read as well."""
    areas = tuple(sorted(areas))
    if len(areas) <= most:
        return areas
    gaps = sorted(range(1, len(areas)), key=lambda at: areas[at].start - areas[at - 1].end)
    cuts = sorted(gaps[len(areas) - most :])
    begins, ends = [0, *cuts], [*cuts, len(areas)]
    return tuple(
        Extent(areas[first].start, max(one.end for one in areas[first:last]) - areas[first].start)
        for first, last in zip(begins, ends, strict=True)
    )


# --- the pod -------------------------------------------------------------------------------------------------------------


def _pod_spec(image: str, claim: Object, *, secret: str, journal: str) -> Object:
    """Fits Pod Security "restricted"."""
    block = claim["spec"].get("volumeMode") == "Block"
    container: Object = {
        "name": "mover",
        "image": image,
        "command": ["python3", "-m", "tranship.transfer.pod"],
        "resources": RESOURCES,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "job", "mountPath": "/job", "readOnly": True},
            {"name": "journal", "mountPath": "/journal", "readOnly": True},
            {"name": "work", "mountPath": "/work"},
        ],
    }
    if block:
        container["volumeDevices"] = [{"name": "disk", "devicePath": "/disk"}]
    else:
        container["volumeMounts"].append({"name": "disk", "mountPath": "/disk"})
    away = {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": AWAY}
    return {
        "restartPolicy": "Never",  # what a pod's exit code means is for the Job to judge
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "tolerations": [{"key": f"node.kubernetes.io/{what}", **away} for what in ("not-ready", "unreachable")],
        "containers": [container],
        "volumes": [
            {"name": "job", "secret": {"secretName": secret, "defaultMode": 0o440}},
            {"name": "journal", "configMap": {"name": journal, "optional": True}},
            {"name": "work", "emptyDir": {"medium": "Memory", "sizeLimit": "768Mi"}},
            {"name": "disk", "persistentVolumeClaim": {"claimName": claim["metadata"]["name"]}},
        ],
    }


# --- what objects say ----------------------------------------------------------------------------------------------------

_NOWHERE = Path("/work/state")


def _rounds(memory: Object | None) -> dict[str, Object]:
    rounds: dict[str, Object] = json.loads(((memory or {}).get("data") or {}).get("rounds", "{}"))
    return rounds


def _packed(rounds: Mapping[str, Object]) -> str:
    return json.dumps({number: rounds[number] for number in sorted(rounds, key=int)[-KEPT_ROUNDS:]})


def _owner(kind: Kind, obj: Object) -> Object:
    meta = obj["metadata"]
    return {"apiVersion": kind.api_version, "kind": kind.kind, "name": meta["name"], "uid": meta["uid"]}


def _claim_of(address: DiskAddress) -> str:
    return unquote(urlsplit(address.url).path.strip("/"))


def _label(name: str) -> str:
    """The beginning of a DNS label."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower())[:36].strip("-") or "disk"
