"""The pod that stands for a machine in the cluster, as KubeVirt's virt-launcher does.

Through it the genuine scheduler chooses the node and binds volumes that wait for a consumer, quotas and Pod Security have
their say, the kubelet makes the volumes ready for group 107, and claims are protected while the machine runs. QEMU itself
does not run in it but beside it, on the same volumes: the pod only waits.
"""

from tranship.lab.kubevirt.api import Kind, Object
from tranship.lab.kubevirt.domain import claims, memory, topology

PODS = Kind("/api/v1", "pods")
USER = 107
_SPEC = ("nodeSelector", "affinity", "tolerations", "priorityClassName", "schedulerName", "topologySpreadConstraints")


def name(instance: Object) -> str:
    meta = instance["metadata"]
    return f"virt-launcher-{meta['name'][:40].rstrip('-.')}-{meta['uid'][:5]}"


def pod(instance: Object, image: str, block: frozenset[str]) -> Object:
    """block: the volumes that are devices."""
    meta, spec = instance["metadata"], instance["spec"]
    held = claims(spec)
    placed: Object = {field: spec[field] for field in _SPEC if field in spec}
    if spec["domain"].get("cpu", {}).get("dedicatedCpuPlacement"):
        placed["nodeSelector"] = {**placed.get("nodeSelector", {}), "cpumanager": "true"}  # KubeVirt's label of a node
    container = {
        "name": "compute",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "resources": {"requests": _requests(spec)},
        "volumeDevices": [{"name": one, "devicePath": f"/dev/{one}"} for one in held if one in block],
        "volumeMounts": [{"name": one, "mountPath": f"/disks/{one}"} for one in held if one not in block],
    }
    user = {"runAsUser": USER, "runAsGroup": USER, "runAsNonRoot": True, "fsGroup": USER}
    owner = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "name": meta["name"], "uid": meta["uid"]}
    labels = {"kubevirt.io": "virt-launcher", "kubevirt.io/created-by": meta["uid"]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name(instance),
            "namespace": meta["namespace"],
            "labels": {**meta.get("labels", {}), **labels},
            "annotations": {"kubevirt.io/domain": meta["name"]},
            "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": True}],
        },
        "spec": {
            **placed,
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 5,
            "securityContext": {**user, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
            "volumes": [{"name": one, "persistentVolumeClaim": {"claimName": held[one]}} for one in held],
        },
    }


def _requests(spec: Object) -> Object:
    """KubeVirt's: a tenth of a CPU for each virtual one, and the guest's memory (it adds what QEMU takes itself)."""
    cpus = topology(spec)
    asked = {"cpu": f"{100 * cpus['sockets'] * cpus['cores'] * cpus['threads']}m", "memory": str(memory(spec))}
    said: Object = spec["domain"].get("resources", {}).get("requests", {})
    return asked | said


def unschedulable(pod: Object) -> str:
    """Why no node takes it, "" if one does or may."""
    for one in pod.get("status", {}).get("conditions", ()):
        if (one["type"], one["status"], one.get("reason")) == ("PodScheduled", "False", "Unschedulable"):
            return str(one.get("message", "")) or "Unschedulable"
    return ""


def trouble(pod: Object) -> tuple[str, str]:
    """Reason and message when its container cannot start; two empty words else."""
    for one in pod.get("status", {}).get("containerStatuses", ()):
        waiting = one.get("state", {}).get("waiting", {})
        if waiting.get("reason") in ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "CreateContainerError"):
            return waiting["reason"], waiting.get("message", "")
    return "", ""
