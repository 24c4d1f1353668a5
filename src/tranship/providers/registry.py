"""Which class serves which provider type. The one place that knows them all; a platform is imported when it is used.

Called by the provider controller.
"""

import os
from collections.abc import Mapping

from tranship.cluster.kubeconfig import Access
from tranship.errors import Unsupported
from tranship.providers.base import Fence, HostAccess, Identity, Source, Target, nothing_fenced
from tranship.resources.provider import LOCAL, OPENSHIFT, OVIRT, VSPHERE

SOURCES = (VSPHERE, OVIRT)
TARGETS = (LOCAL, OPENSHIFT)


def open_source(
    type: str, url: str, secret: Mapping[str, str], settings: Mapping[str, str], fence: Fence = nothing_fenced
) -> Source:
    """Not connected yet. Raises Unsupported, Invalid."""
    if type == VSPHERE:
        from tranship.providers.vsphere.source import VsphereSource

        return VsphereSource(url, secret, settings, fence=fence)
    if type == OVIRT:
        from tranship.providers.ovirt.source import OvirtSource

        return OvirtSource(url, secret, settings, fence=fence)
    raise Unsupported("it is not built yet", what=f"provider type {type} as a source", remedy=_remedy(SOURCES))


def identify_host(type: str, access: HostAccess) -> Identity:
    """Log in at a host that a source's disks are to be read from, and out again. Raises Unsupported for sources that have no
    such hosts, Unreachable, Untrusted, AuthFailed, Refused, Invalid."""
    if type == VSPHERE:
        from tranship.providers.vsphere.hosts import identify

        return identify(access)
    remedy = "Remove the Host: only ESXi hosts need one."
    raise Unsupported("only hosts of vSphere have addresses of their own", what=f"a Host of type {type}", remedy=remedy)


def open_target(
    type: str,
    url: str,
    secret: Mapping[str, str],
    settings: Mapping[str, str],
    own: Access | None = None,
    fence: Fence = nothing_fenced,
) -> Target:
    """Not connected yet. url: of a remote cluster; "" = this host, or the cluster that `own` leads to, on whose objects the
    controllers work (None = in whose pod they run). Raises Unsupported, Invalid."""
    if type == OPENSHIFT:
        from tranship.providers.kubevirt.connect import connection
        from tranship.providers.kubevirt.target import IMAGE, KubevirtTarget

        return KubevirtTarget(connection(url, secret, own, fence), os.environ.get(IMAGE, ""))
    if type == LOCAL:
        from tranship.providers.local.target import LocalTarget

        return LocalTarget(settings)
    raise Unsupported("it is not built yet", what=f"provider type {type} as a target", remedy=_remedy(TARGETS))


def _remedy(types: tuple[str, ...]) -> str:
    return f"Use one of: {', '.join(types)}."
