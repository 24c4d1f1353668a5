"""The way to the cluster that a provider names. Called by the registry; the connection is made on first use, in a thread.

A remote cluster is told by URL and by a secret with token and ca.crt (or thumbprint, or insecureSkipVerify), all as for the
other platforms.
"""

from collections.abc import Callable, Mapping

import httpx2

from tranship.errors import Invalid, Side, Unsupported
from tranship.providers.kubevirt.api import Api
from tranship.providers.trust import Trust, endpoint

CONNECT, ANSWER = 10.0, 60.0  # seconds; a list of many thousand objects takes its time


def connection(url: str, secret: Mapping[str, str]) -> Callable[[], Api]:
    """Raises Invalid for what cannot be right, before anybody is asked."""
    if not url:
        return _own_cluster
    host, port = endpoint(url)
    trust = Trust.of(secret)
    token = "".join(secret.get("token", "").split())
    if not token:
        remedy = "Put a service account's token there: kubectl create token NAME."
        raise Invalid("has no token", field="spec.secret", side=Side.TARGET, remedy=remedy)

    def connect() -> Api:
        context = trust.context(host, port, CONNECT)
        http = httpx2.Client(
            base_url=url,
            verify=context,
            headers={"Authorization": f"Bearer {token}"},
            timeout=httpx2.Timeout(ANSWER, connect=CONNECT),
            trust_env=False,
        )
        return Api(http, insecure=trust.insecure)

    return connect


def _own_cluster() -> Api:
    raise Unsupported(
        "tranship does not run on a cluster's API yet",
        what="the cluster itself as a target",
        side=Side.TARGET,
        remedy="Write the cluster's address into spec.url, and name a secret with token and ca.crt.",
    )
