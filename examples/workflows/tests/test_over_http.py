"""The app in a process of its own: killed in the middle of a run, and started again."""

import asyncio
from collections.abc import Iterator

import httpx
import pytest
from ai_server import AIServer
from stories import DIAMOND, create, ended, interrupted, outcomes, start

from fastdb.testing.servers import AppServer

pytestmark = pytest.mark.fastdb(isolation="database")


@pytest.fixture
def server(database_url: str, ai: AIServer, lease: str) -> Iterator[AppServer]:
    """The app, which takes a run for interrupted after so many seconds without a sign of life."""
    environment = {
        "WORKFLOWS_DATABASE_URL": database_url,
        "WORKFLOWS_AI_URL": ai.url,
        "WORKFLOWS_AI_KEY": "none",
        "WORKFLOWS_AI_SECONDS": "6",  # a thread that waits cannot be stopped, only awaited
        "WORKFLOWS_LEASE_SECONDS": lease,
    }
    with AppServer("workflows.app:app", environment=environment) as server:
        yield server


@pytest.mark.parametrize(("end", "lease"), [("kill", "3"), ("stop", "600")])
async def test_interrupted_run_is_resumed(end: str, server: AppServer, ai: AIServer) -> None:
    """What was done is not done again; what was under way is asked for once more.

    A process that is told to end lets go of its runs; for one that is killed, their time must end.
    """
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=30) as client:
        workflow = await create(client, DIAMOND)
        ai.hold_back("Pros")
        run = await start(client, workflow)
        assert await asyncio.to_thread(ai.holds.wait, 30)
        done = (await client.get(f"/runs/{run}")).json()
        await asyncio.to_thread(server.kill if end == "kill" else server.stop)
        ai.let_go()
        await asyncio.to_thread(server.start)
        assert await interrupted(client) == [run]
        assert (await client.post(f"/runs/{run}/resume")).status_code == 202
        found = await ended(client, run)
    assert found["run"]["status"] == "done"
    assert outcomes(found)["verdict"][0] == "done"
    assert outcomes(done)["facts"][0] == "done"
    assert ai.asked.count("Facts of tea") == 1
    assert [prompt for prompt in ai.asked if "Pros" in prompt][:2] == ["Pros of <Facts of tea>"] * 2
