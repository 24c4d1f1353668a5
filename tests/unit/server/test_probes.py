"""The probes by genuine HTTP."""

import asyncio

import httpx2

from tranship.errors import Unreachable
from tranship.server.probes import make_probes
from tranship.server.serve import serve


def test_alive_and_ready_are_two_questions() -> None:
    trouble: list[str] = []

    def state() -> str:
        if trouble:
            raise Unreachable(trouble[0], address="https://10.0.0.1")
        return "leading"

    async def ask() -> None:
        async with serve(make_probes(state)) as server, httpx2.AsyncClient(base_url=server.url) as http:
            assert (await http.get("/healthz")).status_code == 200
            ready = await http.get("/readyz")
            assert (ready.status_code, ready.text) == (200, "leading\n")
            trouble.append("no route")
            ready = await http.get("/readyz")
            assert (ready.status_code, ready.text) == (503, "https://10.0.0.1 does not answer: no route\n")
            assert (await http.get("/healthz")).status_code == 200
            assert (await http.get("/")).status_code == 404

    asyncio.run(ask())
