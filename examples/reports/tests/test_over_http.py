"""The app as it is deployed: a process of its own, on a database of its own."""

import asyncio

import httpx
import pytest
from language_model import LanguageModel
from making import article, new_report

from fastdb.testing.servers import AppServer

POOL_SIZE = 5


@pytest.mark.fastdb(isolation="database")
async def test_fifty_requests_share_five_connections(
    database_url: str, model: LanguageModel
) -> None:
    """While all of them wait for the model, others are served, and nobody holds a connection."""
    environment = {
        "REPORTS_DATABASE_URL": database_url,
        "REPORTS_DATABASE_POOL_SIZE": str(POOL_SIZE),
        "REPORTS_DATABASE_WARN_AFTER": "0.5",
    }
    with AppServer("reports.app:app", environment=environment) as server:
        async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=60) as client:
            paths = [await new_report(client, article(n)) for n in range(50)]
            model.hold()
            async with asyncio.TaskGroup() as group:
                answers = [group.create_task(client.post(f"{path}/summaries")) for path in paths]
                await asyncio.to_thread(model.wait_for, 50)
                meanwhile = await client.get("/reports")
                model.release()
        log = server.log()
    assert len(meanwhile.json()) == 50
    assert {answer.result().status_code for answer in answers} == {200}
    assert "held" not in log


@pytest.mark.fastdb(isolation="database")
async def test_both_versions_serve_the_same_reports(database_url: str) -> None:
    """What one of them has committed, the other one continues: endpoints move one by one."""
    environment = {"REPORTS_DATABASE_URL": database_url}
    with AppServer("reports.app:app", environment=environment) as server:
        async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=60) as client:
            path = await new_report(client, article(1), prefix="/sync")
            answer = await client.post(f"{path.removeprefix('/sync')}/summaries")
            (summed_up,) = (await client.get(f"{path}/articles")).json()
    assert answer.json() == {"summarized": 1, "failed": 0}
    assert summed_up["summary"] == "In short: What happened on day 1."
