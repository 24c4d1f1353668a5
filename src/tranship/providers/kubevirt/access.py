"""Which rights in the cluster are missing. Called by target.py when a provider is tested, and by preflight.py for a namespace.

What is asked for of the provider is what the whole cluster's target needs; a token that has a right in one namespace only is
told there as lacking it, which is a warning and keeps nobody from moving VMs into that namespace. Of the namespace that a plan
moves into all that a migration does there is asked: without it VMs would be shut down for nothing. The ClusterRole
tranship-target of `deploy/` has just these rights.
"""

from collections.abc import Mapping
from typing import Any

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
    RULES_REVIEW,
    STORAGE_CLASS,
    Api,
)
from tranship.resources.meta import SECRET, Kind

NEEDED: tuple[tuple[Kind, str, tuple[str, ...]], ...] = (
    (NAMESPACE, "", ("get", "list")),
    (STORAGE_CLASS, "", ("list",)),
    (PROFILE, "", ("list",)),
    (CDI_CONFIG, "", ("list",)),
    (ATTACHMENT, "", ("list", "get")),
    (INSTANCE_TYPE, "", ("get", "list")),
    (CLUSTER_TYPE, "", ("get", "list")),
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
USED = (CLAIM, MACHINE, INSTANCE, JOB, SECRET, CONFIG_MAP, POD)
"""Kinds without which nothing can be moved into a namespace."""


def missing(api: Api) -> tuple[str, ...]:
    """As "create virtualmachines.kubevirt.io", in the order of NEEDED. One question to the cluster for each, and none for what
    it does not serve."""
    groups = api.groups()
    needed = [one for one in NEEDED if not one[0].group or one[0].group in groups]
    wanted = ((kind, part, verb) for kind, part, verbs in needed for verb in verbs)
    return tuple(_called(*one) for one in wanted if not _allowed(api, *one))


def missing_in(api: Api, namespace: str) -> tuple[str, ...]:
    """The same for one namespace. One question for all; what seems to be missing is asked for once more by itself, because
    not every authorizer can list its rules."""
    asked = {"apiVersion": RULES_REVIEW.api_version, "kind": RULES_REVIEW.kind, "spec": {"namespace": namespace}}
    rules = api.create(RULES_REVIEW, asked).get("status", {}).get("resourceRules") or ()
    wanted = ((kind, part, verb) for kind, part, verbs in NEEDED if kind in USED for verb in verbs)
    doubtful = [one for one in wanted if not any(_gives(rule, *one) for rule in rules)]
    return tuple(_called(*one) for one in doubtful if not _allowed(api, *one, namespace))


def _gives(rule: Mapping[str, Any], kind: Kind, part: str, verb: str) -> bool:
    resource = f"{kind.plural}/{part}" if part else kind.plural

    def names(what: str, *any_of: str) -> bool:
        return not {"*", *any_of}.isdisjoint(rule.get(what) or ())

    return (
        not rule.get("resourceNames")
        and names("verbs", verb)
        and names("apiGroups", kind.group)
        and names("resources", resource)
    )


def _allowed(api: Api, kind: Kind, part: str, verb: str, namespace: str = "") -> bool:
    asked = {"verb": verb, "group": kind.group, "resource": kind.plural, "subresource": part, "namespace": namespace}
    review = {"apiVersion": REVIEW.api_version, "kind": REVIEW.kind, "spec": {"resourceAttributes": asked}}
    return bool(api.create(REVIEW, review).get("status", {}).get("allowed"))


def _called(kind: Kind, part: str, verb: str) -> str:
    group = f".{kind.group}" if kind.group else ""
    return f"{verb} {kind.plural}{f'/{part}' if part else ''}{group}"
