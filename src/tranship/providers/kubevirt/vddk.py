"""VMware's VDDK in movers' pods: from an image or a claim, and what its failures look like. Used by jobs.py.

From an image: an init container runs it as it is, with an empty volume at /opt, where its entrypoint copies the library to;
that is how upstream has its images built (vddkInitImage). From a claim of the namespace: mounted read-only. Either way the
mover finds it below /vddk.
"""

from collections.abc import Iterator
from dataclasses import replace

from tranship.cluster.api import CLAIM, Api, Object
from tranship.errors import NotFound, Side, Unsupported
from tranship.migration.checks import Finding
from tranship.providers.base import Library, Reading
from tranship.resources.conditions import Category
from tranship.transfer.address import DiskAddress
from tranship.transfer.channel import Report, State
from tranship.transfer.library import DISTRIBUTION, placed

PLACE = "/vddk"  # in the mover's container
INIT = "vddk"  # the init container's name, and the volume's
ORIGIN = "tranship.io/vddk"  # annotation of a Job: where its library comes from
_SIZE = "1Gi"  # more than any version takes
_KILLED = [137, 143]  # exit codes that say nothing of the image
_IMAGE_REMEDY = (
    "Correct vddkInitImage in the source provider's settings (or vddk_image of the ForkliftController), or let the namespace's "
    "default service account pull it."
)
_LIBRARY_REMEDY = f"Build it with the unpacked VDDK at /{DISTRIBUTION}, copied to /opt by its entrypoint."
_CLAIM_REMEDY = (
    "Create it in the plan's target namespace with the unpacked VDDK in it, or correct vddkVolumeClaim in the source "
    "provider's settings."
)


def origin(library: Library) -> str:
    return f"image {library.image}" if library.image else f"volume claim {library.claim}"


def address_in_pod(api: Api, source: Reading, namespace: str) -> DiskAddress:
    """What the mover reads. Raises NotFound for a claim that is not there, Unsupported without a library for pods."""
    library = source.library
    if library is None:
        return source.address
    if not library.reaches(on_this_host=False):
        remedy = "Set vddkInitImage or vddkVolumeClaim in the source provider's settings, or start the plan again."
        detail = "neither vddkInitImage nor vddkVolumeClaim is set any more"
        raise Unsupported(detail, what="reading by VDDK in a cluster", remedy=remedy)
    if library.claim and api.find(CLAIM, library.claim, namespace) is None:
        raise NotFound(
            ": VDDK was to be on it",
            what=CLAIM.kind,
            name=f"{namespace}/{library.claim}",
            side=Side.TARGET,
            remedy=_CLAIM_REMEDY,
        )
    return placed(source.address, PLACE)


def add(pod: Object, library: Library) -> None:
    """To a pod's spec whose first container is the mover's. Fits Pod Security "restricted", as the pod does."""
    (mover,) = pod["containers"]
    mover["volumeMounts"].append({"name": INIT, "mountPath": PLACE, "readOnly": True})
    if library.claim:
        claim = {"claimName": library.claim, "readOnly": True}  # so nobody changes whose files they are
        pod["volumes"].append({"name": INIT, "persistentVolumeClaim": claim})
        return
    pod["volumes"].append({"name": INIT, "emptyDir": {"sizeLimit": _SIZE}})
    pod["initContainers"] = [
        {
            "name": INIT,
            "image": library.image,
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "resources": mover["resources"],
            "securityContext": mover["securityContext"],
            "volumeMounts": [{"name": INIT, "mountPath": "/opt"}],
        }
    ]


def failures(library: Library | None) -> list[Object]:
    """Rules of a Job's podFailurePolicy: an image that cannot do it fails at once."""
    if library is None or not library.image:
        return []
    return [{"action": "FailJob", "onExitCodes": {"containerName": INIT, "operator": "NotIn", "values": [0, *_KILLED]}}]


def unpulled(job: Object, pod: Object | None, report: Report) -> Report:
    """The report on a pod that does not come to run at all, when it is for want of the image."""
    for one in (pod or {}).get("status", {}).get("initContainerStatuses") or ():
        waits = one.get("state", {}).get("waiting", {})
        if "Image" in waits.get("reason", ""):
            message = f"{_origin(job)}: {waits['reason']}: {waits.get('message', '')}"[:500]
            return replace(report, reason="VDDKInitImageUnavailable", message=message, suggestion=_IMAGE_REMEDY)
    return report


def broken(job: Object, pod: Object | None) -> Report | None:
    """Of a Job that ended because the image's own program failed."""
    for one in (pod or {}).get("status", {}).get("initContainerStatuses") or ():
        end = one.get("state", {}).get("terminated", {})
        code = end.get("exitCode", 0)
        if code:
            said = end.get("message", "").strip() or end.get("reason", "")
            return Report(
                State.FAILED,
                reason="VDDKInvalid",
                message=f"{_origin(job)} did not copy the library: exit code {code}: {said}"[:500],
                temporary=code in _KILLED,
                suggestion=_LIBRARY_REMEDY,
                side=Side.TARGET.value,
            )
    return None


def blamed(job: Object, report: Report) -> Report:
    """A mover that cannot load the library knows only where it looked for it."""
    if report.reason != "ToolMissing" or not _origin(job):
        return report
    remedy = _LIBRARY_REMEDY if _origin(job).startswith("image") else _CLAIM_REMEDY
    return replace(report, reason="VDDKInvalid", message=f"{_origin(job)}: {report.message}", suggestion=remedy)


def check(api: Api, library: Library, namespace: str) -> Iterator[Finding]:
    """Before anything is started. An image is found out about when a node pulls it."""
    if library.claim and api.find(CLAIM, library.claim, namespace) is None:
        message = f"VDDK is to be on volume claim {library.claim}, and namespace {namespace} has none of that name"
        yield Finding("VDDKInvalid", Category.CRITICAL, message, _CLAIM_REMEDY, "NotFound", library.claim)


def _origin(job: Object) -> str:
    return str((job["metadata"].get("annotations") or {}).get(ORIGIN, ""))
