"""Which rights in the cluster are missing. Called by target.py when a provider is tested.

What is asked for is what the whole cluster's target needs; a token that has a right in one namespace only is told here as
lacking it, which is a warning and keeps nobody from moving VMs into that namespace. The ClusterRole tranship-target of
`deploy/` has just these rights.
"""

from tranship.cluster.api import (
    ATTACHMENT,
    CDI_CONFIG,
    CLAIM,
    CLUSTER_TYPE,
    CONFIG_MAP,
    EVENT,
    INSTANCE,
    INSTANCE_TYPE,
    JOB,
    MACHINE,
    NAMESPACE,
    POD,
    PROFILE,
    QUOTA,
    REVIEW,
    STORAGE_CLASS,
    Api,
)
from tranship.resources.meta import SECRET, Kind

NEEDED: tuple[tuple[Kind, str, tuple[str, ...]], ...] = (
    (NAMESPACE, "", ("get",)),
    (STORAGE_CLASS, "", ("list",)),
    (PROFILE, "", ("list",)),
    (CDI_CONFIG, "", ("list",)),
    (ATTACHMENT, "", ("list", "get")),
    (INSTANCE_TYPE, "", ("get",)),
    (CLUSTER_TYPE, "", ("get",)),
    (QUOTA, "", ("list",)),
    (CLAIM, "", ("get", "list", "create", "patch", "delete")),
    (MACHINE, "", ("get", "list", "create", "patch", "delete")),
    (INSTANCE, "", ("get",)),
    (JOB, "", ("get", "list", "create", "patch", "delete")),
    (SECRET, "", ("get", "list", "create", "patch", "delete")),
    (CONFIG_MAP, "", ("get", "list", "create", "patch", "delete")),
    (EVENT, "", ("list",)),
    (POD, "", ("list",)),
    (POD, "log", ("get",)),
)


def missing(api: Api) -> tuple[str, ...]:
    """As "create virtualmachines.kubevirt.io", in the order of NEEDED. One question to the cluster for each, and none for what
    it does not serve."""
    lacking = []
    groups = api.groups()
    for kind, part, verbs in NEEDED:
        if kind.group and kind.group not in groups:
            continue
        for verb in verbs:
            asked = {"verb": verb, "group": kind.group, "resource": kind.plural, "subresource": part}
            review = {"apiVersion": REVIEW.api_version, "kind": REVIEW.kind, "spec": {"resourceAttributes": asked}}
            if not api.create(REVIEW, review).get("status", {}).get("allowed"):
                group = f".{kind.group}" if kind.group else ""
                lacking.append(f"{verb} {kind.plural}{f'/{part}' if part else ''}{group}")
    return tuple(lacking)
