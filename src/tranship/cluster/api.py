"""The Kubernetes API as plain objects: what is not ours is read, created, patched and deleted as JSON, never through typed
models, which would drop the fields that they do not know. Called by the KubeVirt provider, and in parts by the store on a
cluster; every call is live and has a timeout.

Whatever the cluster refuses is raised as an error of ours that says which call it was. A deletion names the uid of what was
looked at before: something else that has taken the name meanwhile stays.
"""

import ssl
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx2
import msgspec

from tranship.errors import (
    AlreadyExists,
    AuthFailed,
    Busy,
    Conflict,
    Denied,
    NotFound,
    Refused,
    Side,
    TimedOut,
    TranshipError,
    Unreachable,
    Untrusted,
)
from tranship.resources.meta import Kind

NAMESPACE = Kind("", "v1", "namespaces", "Namespace", namespaced=False)
POD = Kind("", "v1", "pods", "Pod")
CONFIG_MAP = Kind("", "v1", "configmaps", "ConfigMap")
EVENT = Kind("", "v1", "events", "Event")
JOB = Kind("batch", "v1", "jobs", "Job")
CLAIM = Kind("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")
QUOTA = Kind("", "v1", "resourcequotas", "ResourceQuota")
STORAGE_CLASS = Kind("storage.k8s.io", "v1", "storageclasses", "StorageClass", namespaced=False)
MACHINE = Kind("kubevirt.io", "v1", "virtualmachines", "VirtualMachine")
INSTANCE = Kind("kubevirt.io", "v1", "virtualmachineinstances", "VirtualMachineInstance")
_TYPES = "instancetype.kubevirt.io", "v1beta1"
INSTANCE_TYPE = Kind(*_TYPES, "virtualmachineinstancetypes", "VirtualMachineInstancetype")
CLUSTER_TYPE = Kind(
    *_TYPES, "virtualmachineclusterinstancetypes", "VirtualMachineClusterInstancetype", namespaced=False
)
PROFILE = Kind("cdi.kubevirt.io", "v1beta1", "storageprofiles", "StorageProfile", namespaced=False)
CDI_CONFIG = Kind("cdi.kubevirt.io", "v1beta1", "cdiconfigs", "CDIConfig", namespaced=False)
ATTACHMENT = Kind("k8s.cni.cncf.io", "v1", "network-attachment-definitions", "NetworkAttachmentDefinition")
REVIEW = Kind(
    *("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview"),
    namespaced=False,
)
RULES_REVIEW = Kind(
    *("authorization.k8s.io", "v1", "selfsubjectrulesreviews", "SelfSubjectRulesReview"),
    namespaced=False,
)

FIELD_MANAGER = "tranship"
PAGE = 500  # objects of a list that come at once

Object = dict[str, Any]


class Api:
    """http: with the cluster's address as its base, and its trust and credentials. fence: asked before each call that
    changes something, and raises when nothing may be changed any more. insecure: nobody's certificate is checked, because
    the user said so."""

    def __init__(self, http: httpx2.Client, fence: Callable[[], None], *, insecure: bool = False) -> None:
        self._http, self._fence = http, fence
        self.insecure = insecure
        self.address = str(http.base_url).rstrip("/")

    def close(self) -> None:
        self._http.close()

    def path(self, path: str) -> Object:
        """What a path beside the objects says: /version, /apis."""
        return decoded(self._call("GET", path, f"reading {path}"))

    def groups(self) -> frozenset[str]:
        """The API groups that the cluster serves."""
        return frozenset(group["name"] for group in self.path("/apis").get("groups", ()))

    def get(self, kind: Kind, name: str, namespace: str = "") -> Object:
        """Raises NotFound."""
        return decoded(self._call("GET", path_of(kind, namespace, name), saying("reading", kind, name, namespace)))

    def find(self, kind: Kind, name: str, namespace: str = "", *, optional: bool = False) -> Object | None:
        """None = there is none of that name. optional: also where the cluster does not serve the kind; else that raises
        NotFound, because a machine that cannot be seen is not one that is gone."""
        try:
            return self.get(kind, name, namespace)
        except NotFound as error:
            if optional or error.name == name:
                return None
            raise

    def list(self, kind: Kind, namespace: str = "", labels: str = "", fields: str = "") -> Iterator[Object]:
        """All of a namespace; "" = of the whole cluster. labels, fields: selectors."""
        query: dict[str, str | int] = {"limit": PAGE} | ({"labelSelector": labels} if labels else {})
        query |= {"fieldSelector": fields} if fields else {}
        while True:
            page = decoded(
                self._call("GET", path_of(kind, namespace), saying("listing", kind, "", namespace), query=query)
            )
            yield from page.get("items") or ()
            query["continue"] = (page.get("metadata") or {}).get("continue") or ""
            if not query["continue"]:
                return

    def log(self, pod: Object, lines: int) -> str:
        """The end of what a pod of one container has said."""
        meta = pod["metadata"]
        path = f"{path_of(POD, meta['namespace'], meta['name'])}/log"
        doing = saying("reading the log of", POD, meta["name"], meta["namespace"])
        return self._call("GET", path, doing, query={"tailLines": lines}).text

    def create(self, kind: Kind, obj: Object, *, dry_run: bool = False) -> Object:
        """dry_run: everything is checked, by the cluster's own admission too, and nothing made. Raises AlreadyExists."""
        meta = obj.get("metadata", {})
        name, namespace = meta.get("name", ""), meta.get("namespace", "")
        query = {"fieldManager": FIELD_MANAGER} | ({"dryRun": "All"} if dry_run else {})
        doing = saying("creating", kind, name, namespace)
        return decoded(self._call("POST", path_of(kind, namespace), doing, query=query, body=obj))

    def patch(self, kind: Kind, obj: Object, patch: Object) -> Object:
        """A merge patch of precisely the object that was read: Conflict when another one has its name now."""
        meta = obj["metadata"]
        name, namespace = meta["name"], meta.get("namespace", "")
        metadata = {"uid": meta["uid"], **patch.get("metadata", {})}
        return decoded(
            self._call(
                "PATCH",
                path_of(kind, namespace, name),
                saying("changing", kind, name, namespace),
                query={"fieldManager": FIELD_MANAGER},
                body={**patch, "metadata": metadata},
                content_type="application/merge-patch+json",
            )
        )

    def delete(self, kind: Kind, obj: Object) -> None:
        """Precisely the object that was read: gone, or another one of its name, is no error and changes nothing."""
        meta = obj["metadata"]
        name, namespace = meta["name"], meta.get("namespace", "")
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": meta["uid"]}}
        body["propagationPolicy"] = "Background"
        try:
            doing = saying("deleting", kind, name, namespace)
            self._call("DELETE", path_of(kind, namespace, name), doing, body=body)
        except (NotFound, Conflict):
            return

    def _call(
        self,
        method: str,
        path: str,
        doing: str,
        *,
        query: Mapping[str, str | int] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
    ) -> httpx2.Response:
        content = None if body is None else msgspec.json.encode(body)
        headers = {"Accept": "application/json"} | ({"Content-Type": content_type} if content else {})
        if method != "GET":
            self._fence()
        try:
            answer = self._http.request(method, path, params=query, content=content, headers=headers)
        except httpx2.TimeoutException as error:
            seconds = self._http.timeout.read or 0.0
            raise TimedOut(what=f"{doing} at {self.address}", seconds=seconds, side=Side.TARGET) from error
        except httpx2.HTTPError as error:
            raise unreachable(error, self.address, Side.TARGET) from error
        except RuntimeError as error:
            if not self._http.is_closed:
                raise
            raise Unreachable("its provider is being connected anew", address=self.address, side=Side.TARGET) from error
        if answer.is_success:
            return answer
        raise refusal(answer, doing, self.address, Side.TARGET)


def unreachable(error: httpx2.HTTPError, address: str, side: Side) -> TranshipError:
    """Why there was no answer at all."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Untrusted(cause.verify_message, address=address, side=side)
        cause = cause.__cause__ or cause.__context__
    return Unreachable(str(error) or type(error).__name__, address=address, side=side)


def path_of(kind: Kind, namespace: str, name: str = "") -> str:
    base = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
    inside = f"/namespaces/{namespace}" if kind.namespaced and namespace else ""
    return f"{base}{inside}/{kind.plural}" + (f"/{name}" if name else "")


def saying(verb: str, kind: Kind, name: str, namespace: str) -> str:
    return " ".join(part for part in (verb, kind.kind, "/".join(p for p in (namespace, name) if p)) if part)


def decoded(answer: httpx2.Response) -> Object:
    try:
        found = msgspec.json.decode(answer.content)
    except msgspec.DecodeError:
        found = None
    return found if isinstance(found, dict) else {}


def refusal(answer: httpx2.Response, doing: str, address: str, side: Side) -> TranshipError:
    """What the cluster said no to, as an error of ours."""
    status = decoded(answer)
    said = str(status.get("message") or answer.reason_phrase)[:1000]
    reason = str(status.get("reason") or f"HTTP {answer.status_code}")
    details = status.get("details") or {}
    what, name = details.get("kind") or doing, details.get("name") or ""
    match answer.status_code, reason:
        case 401, _:
            remedy = "Put a token that is valid into the provider's secret."
            return AuthFailed(said, address=address, user="of the token", side=side, remedy=remedy)
        case 403, _ if 'User "' in said:
            remedy = "Give the service account or user that right, by a Role or ClusterRole."
            return Denied(said, what=doing, side=side, remedy=remedy)
        case 404, "NotFound" if name:
            return NotFound(f": {said}", what=what, name=name, side=side, remedy="Check the name.")
        case 404, "NotFound":
            remedy = "The cluster does not serve this kind: install what brings it."
            return NotFound(f": {said}", what="API of", name=doing, side=side, remedy=remedy)
        case 409, "AlreadyExists":
            return AlreadyExists(f": {said}", what=what, name=name, side=side)
        case 409, _:
            return Conflict(f": {said}", what=what, name=name, side=side)
        case 429, _:
            return Busy(said, what=doing, fault=reason, side=side)
        case code, _ if code >= 500 or not status:  # a proxy's page, no answer of the API
            return Unreachable(f"{doing}: {said} (HTTP {code})", address=address, side=side)
    return Refused(said, what=doing, fault=reason, side=side, remedy=_remedy(said))


def _remedy(said: str) -> str:
    if "exceeded quota" in said:
        return "Raise the namespace's ResourceQuota, or move fewer or smaller disks into it."
    return "Correct what the cluster names, in the plan or in the cluster's policies."
