"""What several tests begin with. The fixtures `client`, `session` and so on are fastdb's."""

import httpx
import pytest_asyncio


@pytest_asyncio.fixture
async def project(client: httpx.AsyncClient) -> int:
    """The id of a project."""
    answer = await client.post("/projects", json={"name": "moon"})
    assert answer.status_code == 201
    return int(answer.json()["id"])
