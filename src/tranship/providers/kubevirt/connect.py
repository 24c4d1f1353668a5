"""The way to the cluster that a provider names. Called by the registry; the connection is made on first use, in a thread.

A remote cluster is told by URL and by a secret with token and ca.crt (or thumbprint, or insecureSkipVerify), all as for the
other platforms. Without a URL it is the cluster whose objects the controllers work on, with their own access to it; where they
work on a store of their own, the cluster that they run in, as their pod's service account.
"""

import os
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx2

from tranship.cluster.api import Api
from tranship.cluster.kubeconfig import SERVICE_ACCOUNT, Access, Bearer, in_cluster
from tranship.errors import Invalid, Side
from tranship.providers.base import Fence, nothing_fenced
from tranship.providers.trust import Trust, endpoint

CONNECT, ANSWER = 10.0, 60.0  # seconds; a list of many thousand objects takes its time


def connection(
    url: str, secret: Mapping[str, str], own: Access | None = None, fence: Fence = nothing_fenced
) -> Callable[[], Api]:
    """own: the way to the cluster whose objects the controllers work on. Raises Invalid for what cannot be right, before
    anybody is asked."""
    if not url:
        return lambda: _to(own, fence) if own is not None else own_cluster(fence=fence)
    endpoint(url)
    trust = Trust.of(secret)
    token = "".join(secret.get("token", "").split())
    if not token:
        remedy = "Put a service account's token there: kubectl create token NAME."
        raise Invalid("has no token", field="spec.secret", side=Side.TARGET, remedy=remedy)
    insecure = trust.insecure
    return lambda: _open(url, trust.context(*endpoint(url), CONNECT), Bearer(lambda: token), fence, insecure=insecure)


def own_cluster(
    account: Path = SERVICE_ACCOUNT, environ: Mapping[str, str] = os.environ, fence: Fence = nothing_fenced
) -> Api:
    """As the pod's service account. Raises Invalid outside of a pod."""
    try:
        access = in_cluster(account, environ)
    except Invalid as error:
        raise _no_pod(str(error)) from error
    return _to(access, fence)


def _to(access: Access, fence: Fence) -> Api:
    return _open(access.url, access.trust, access.auth, fence, insecure=access.trust.verify_mode is ssl.CERT_NONE)


def _no_pod(why: str) -> Invalid:
    return Invalid(
        f"it is empty, which means the cluster that tranship itself works on or runs in, and it does neither: {why}",
        field="spec.url",
        side=Side.TARGET,
        remedy="Write the cluster's address, https://HOST:6443, and name a secret with token and ca.crt; or have `tranship"
        " serve --kubeconfig` work on that cluster's objects.",
    )


def _open(url: str, trust: ssl.SSLContext, auth: httpx2.Auth, fence: Fence, *, insecure: bool = False) -> Api:
    http = httpx2.Client(
        base_url=url,
        verify=trust,
        auth=auth,
        timeout=httpx2.Timeout(ANSWER, connect=CONNECT),
        trust_env=False,  # a proxy has no business between a controller and its clusters
    )
    return Api(http, fence, insecure=insecure)
