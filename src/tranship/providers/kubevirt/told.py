"""What a mover's Job and pods say of it, in their status, their last word and their log. Pure; called by jobs.py."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any

from tranship.errors import Side
from tranship.transfer import channel
from tranship.transfer.channel import Report, State

Object = dict[str, Any]

LARGER = (
    "Its file system takes more for itself than was reckoned with: raise controller_filesystem_overhead, or map the storage to "
    "volumeMode Block or to another class; then start the plan again."
)


def report(word: Mapping[str, Any]) -> Report:
    return channel.report(State(word["state"]), word)


def failure(word: Mapping[str, Any], claim: str) -> Report:
    """claim: what a mover, who sees a path, does not know the name of."""
    said = report(word)
    if said.side != Side.TARGET.value:
        return said
    remedy = LARGER if said.reason == "NoSpace" else said.suggestion
    return replace(said, message=f"claim {claim}: {said.message}", suggestion=remedy)


def lost(job: Object, pod: Object | None) -> Report:
    """The Job is over, and no mover said why."""
    killed = [
        end
        for one in (pod or {}).get("status", {}).get("containerStatuses") or ()
        if (end := one.get("state", {}).get("terminated"))
    ]
    ends = [f"{end.get('reason', '')} (exit code {end.get('exitCode')})" for end in killed]
    said = "; ".join(one.get("message", "") for one in job.get("status", {}).get("conditions") or ())
    memory = " Its node had no memory left, or it took more than its limit." if "OOMKilled" in str(ends) else ""
    return Report(
        State.FAILED,
        reason="MoverLost",
        message=f"{called(job)} ended without a word: {', '.join(ends) or said or 'its pod is gone'}",
        temporary=True,
        suggestion=f"Nothing that was finished is lost: the next try goes on from there.{memory}",
        side=Side.TARGET.value,
    )


def ending(pod: Object) -> Report:
    meta = pod["metadata"]
    node = pod["spec"].get("nodeName", "")
    why = f"pod {meta['namespace']}/{meta['name']} of an earlier try has not ended{f' on node {node}' if node else ''}"
    return Report(State.RUNNING, phase="ending", message=why)


def said(log: str) -> Object:
    """The last line that a pod's mover told."""
    for line in reversed(log.splitlines()):
        with suppress(ValueError):
            told = json.loads(line)
            if isinstance(told, dict) and "state" in told:
                return told
    return {}


def last_word(pod: Object | None) -> Object:
    for container in (pod or {}).get("status", {}).get("containerStatuses") or ():
        with suppress(ValueError, KeyError):
            told = json.loads(container["state"]["terminated"]["message"])
            if isinstance(told, dict):
                return told
    return {}


def why_not(pod: Object | None) -> tuple[str, str]:
    """Why a pod does not run yet, as the scheduler or the node says: a word, and a sentence."""
    status = (pod or {}).get("status", {})
    for one in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
        waits = one.get("state", {}).get("waiting", {})
        if waits.get("message"):
            return str(waits.get("reason")), f"{waits.get('reason')}: {waits['message']}"[:500]
    for one in status.get("conditions") or ():
        if one["type"] == "PodScheduled" and one["status"] == "False":
            return str(one.get("reason")), f"{one.get('reason')}: {one.get('message', '')}"[:500]
    return "", ""


def ended(job: Object) -> bool:
    conditions = job.get("status", {}).get("conditions") or ()
    return any(one["type"] in ("Complete", "Failed") and one["status"] == "True" for one in conditions)


def started(pod: Object) -> bool:
    return str(pod.get("status", {}).get("phase", "Pending")) != "Pending"


def over(pod: Object) -> bool:
    """It writes nothing any more."""
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def called(job: Object) -> str:
    return f"job {job['metadata']['namespace']}/{job['metadata']['name']}"


def when(event: Object) -> str:
    """To be compared. Newer clients leave lastTimestamp empty."""
    return str(event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or "")


def time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
