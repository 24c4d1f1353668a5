"""The way to the cluster that a provider names. Called by the registry; the connection is made on first use, in a thread.

A remote cluster is told by URL and by a secret with token and ca.crt (or thumbprint, or insecureSkipVerify), all as for the
other platforms. Without a URL it is the cluster that the controller runs in, as its pod's service account.
"""

import os
from collections.abc import Callable, Generator, Mapping
from pathlib import Path

import httpx2

from tranship.cluster.api import Api
from tranship.errors import Invalid, Side
from tranship.providers.trust import Trust, endpoint

CONNECT, ANSWER = 10.0, 60.0  # seconds; a list of many thousand objects takes its time
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def connection(url: str, secret: Mapping[str, str]) -> Callable[[], Api]:
    """Raises Invalid for what cannot be right, before anybody is asked."""
    if not url:
        return own_cluster
    endpoint(url)
    trust = Trust.of(secret)
    token = "".join(secret.get("token", "").split())
    if not token:
        remedy = "Put a service account's token there: kubectl create token NAME."
        raise Invalid("has no token", field="spec.secret", side=Side.TARGET, remedy=remedy)
    return lambda: _open(url, trust, _Bearer(lambda: token))


def own_cluster(account: Path = SERVICE_ACCOUNT, environ: Mapping[str, str] = os.environ) -> Api:
    """As the pod's service account. Raises Invalid outside of a pod."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT_HTTPS", "443")
    token, ca = account / "token", account / "ca.crt"
    try:
        trust = Trust(ca=ca.read_text())
        token.read_text()
    except OSError as error:
        raise _no_pod(str(error)) from error
    if not host:
        raise _no_pod("KUBERNETES_SERVICE_HOST is not set")
    url = f"https://{f'[{host}]' if ':' in host else host}:{port}"
    return _open(url, trust, _Bearer(lambda: token.read_text().strip()))


def _no_pod(why: str) -> Invalid:
    return Invalid(
        f"it is empty, which means the cluster that tranship runs in, and it runs in none: {why}",
        field="spec.url",
        side=Side.TARGET,
        remedy="Write the cluster's address, https://HOST:6443, and name a secret with token and ca.crt.",
    )


class _Bearer(httpx2.Auth):
    """The token is asked for with every call: the one of a pod is renewed in its file every hour or so."""

    def __init__(self, token: Callable[[], str]) -> None:
        self._token = token

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        request.headers["Authorization"] = f"Bearer {self._token()}"
        yield request


def _open(url: str, trust: Trust, auth: httpx2.Auth) -> Api:
    http = httpx2.Client(
        base_url=url,
        verify=trust.context(*endpoint(url), CONNECT),
        auth=auth,
        timeout=httpx2.Timeout(ANSWER, connect=CONNECT),
        trust_env=False,  # a proxy has no business between a controller and its clusters
    )
    return Api(http, insecure=trust.insecure)
