"""The cluster's token is changed while a VM moves: walkers wait while it is wrong, and go on with one that is right."""

import asyncio
from typing import Any

from tranship.resources.meta import MIGRATION, PROVIDER, SECRET

from .conftest import MIB
from .in_cluster import ClusterSite, assert_moved


def test_a_token_that_is_wrong_for_a_while_and_then_another_one(cluster_site: ClusterSite) -> None:
    site, size = cluster_site, 64 * MIB
    vm = site.add_vm(f"token-{site.mode.lower()}", size)
    site.lab.faults.add("GET /folder", vm=vm.name, count=0, delay=0.3)
    fresh = site.cluster.kubectl("create", "token", "tranship", "-n", "default", "--duration=2h").strip()

    async def change(app: Any) -> None:
        async def token(value: str) -> None:
            await app.store.patch(SECRET, "default", "here", {"stringData": {"token": value}})

        def copying(run: Any) -> bool:
            return any(one.phase == "CopyDisks" and one.why.startswith("copying") for one in run.status.vms)

        await site.until(app, MIGRATION, "run", copying, 60)
        await token("wrong")
        await site.says(app, PROVIDER, "here", "ConnectionAuthFailed")

        def waits(run: Any) -> bool:
            return any(one.why.startswith("waiting: ") for one in run.status.vms)

        await site.until(app, MIGRATION, "run", waits, 30)
        await token(fresh)

    migration = asyncio.run(site.move(vm, warm=False, during=change, deadline=150))
    (status,) = migration.status.vms
    assert status.outcome == "succeeded", status.error
    assert not [entry for entry in status.story if entry.phase == "StopCopies"]
    assert_moved(site, vm, size)
