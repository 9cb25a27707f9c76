"""The database and the language model, together."""

import asyncio
from collections.abc import Iterator

import httpx
import pytest
from language_model import LanguageModel
from making import article, new_report, refused
from sqlalchemy import Pool, delete, event, select
from sqlalchemy.ext.asyncio import AsyncSession

from fastdb import Database
from reports.models import Article
from stand_in import TOKENS


async def summaries(client: httpx.AsyncClient, path: str) -> list[str | None]:
    return [each["summary"] for each in (await client.get(f"{path}/articles")).json()]


@pytest.fixture
def in_use() -> Iterator[set[object]]:
    """The connections that are out of their pools: each event loop has pools of its own."""
    connections: set[object] = set()

    def check_out(_: object, record: object, _proxy: object) -> None:
        connections.add(record)

    def check_in(_: object, record: object) -> None:
        connections.discard(record)

    event.listen(Pool, "checkout", check_out)
    event.listen(Pool, "checkin", check_in)
    yield connections
    event.remove(Pool, "checkout", check_out)
    event.remove(Pool, "checkin", check_in)


async def test_articles_are_summed_up(client: httpx.AsyncClient, prefix: str) -> None:
    """What the model has answered is saved, and what it has cost is added."""
    path = await new_report(client, article(1), article(2), prefix=prefix)
    answer = await client.post(f"{path}/summaries")
    assert answer.json() == {"summarized": 2, "failed": 0}
    assert await summaries(client, path) == [
        "In short: What happened on day 1.",
        "In short: What happened on day 2.",
    ]
    assert (await client.get(path)).json()["tokens_used"] == 2 * TOKENS


async def test_nothing_is_summed_up_twice(client: httpx.AsyncClient, prefix: str) -> None:
    """Each request takes the next articles, until there are none."""
    path = await new_report(client, *(article(n) for n in range(25)), prefix=prefix)
    answers = [(await client.post(f"{path}/summaries")).json() for _ in range(3)]
    assert [answer["summarized"] for answer in answers] == [20, 5, 0]
    assert (await client.get(path)).json()["tokens_used"] == 25 * TOKENS


async def test_what_has_been_answered_is_kept(client: httpx.AsyncClient, prefix: str) -> None:
    """One call that fails does not throw away what the others have cost."""
    path = await new_report(client, article(1), refused(2), article(3), prefix=prefix)
    answer = await client.post(f"{path}/summaries")
    assert answer.json() == {"summarized": 2, "failed": 1}
    assert (await summaries(client, path))[1] is None


async def test_model_that_answers_nothing_is_a_bad_gateway(
    client: httpx.AsyncClient, prefix: str
) -> None:
    """The client is to know that it is not the app's fault, nor its own."""
    path = await new_report(client, refused(1), prefix=prefix)
    assert (await client.post(f"{path}/summaries")).status_code == 502


@pytest.mark.fastdb(isolation="database")
@pytest.mark.parametrize(("prefix", "number"), [("", 50), ("/sync", 20)], ids=["async", "sync"])
async def test_no_connection_is_held_while_the_model_thinks(
    client: httpx.AsyncClient, model: LanguageModel, in_use: set[object], prefix: str, number: int
) -> None:
    """So more requests wait for it at the same time than the pool has connections."""
    paths = [await new_report(client, article(n), prefix=prefix) for n in range(number)]
    model.hold()
    async with asyncio.TaskGroup() as group:
        answers = [group.create_task(client.post(f"{path}/summaries")) for path in paths]
        await asyncio.to_thread(model.wait_for, number)
        held = len(in_use)
        model.release()
    assert held == 0
    assert [each.result().json()["summarized"] for each in answers] == [1] * number


@pytest.mark.fastdb(isolation="database")
async def test_connections_in_use_are_seen(db: Database, in_use: set[object]) -> None:
    """The test above would notice a session that is open."""
    async with db.read_session() as session:
        await session.execute(select(1))
        assert len(in_use) == 1
    assert not in_use


@pytest.mark.fastdb(isolation="database")
async def test_tokens_of_all_requests_are_counted(
    client: httpx.AsyncClient, model: LanguageModel, prefix: str
) -> None:
    """No addition is lost, and no summary is written twice, by requests that overlap."""
    path = await new_report(client, article(1), prefix=prefix)
    model.hold()
    async with asyncio.TaskGroup() as group:
        answers = [group.create_task(client.post(f"{path}/summaries")) for _ in range(10)]
        await asyncio.to_thread(model.wait_for, 10)
        model.release()
    assert sum(each.result().json()["summarized"] for each in answers) == 1
    assert (await client.get(path)).json()["tokens_used"] == 10 * TOKENS  # all were paid for


@pytest.mark.fastdb(isolation="database")
async def test_article_may_go_while_the_model_thinks(
    client: httpx.AsyncClient, session: AsyncSession, model: LanguageModel, prefix: str
) -> None:
    """The rest is saved: what has become of the articles is looked at after the wait."""
    path = await new_report(client, article(1), article(2), prefix=prefix)
    model.hold()
    async with asyncio.TaskGroup() as group:
        answer = group.create_task(client.post(f"{path}/summaries"))
        await asyncio.to_thread(model.wait_for, 2 if prefix == "" else 1)
        first = await session.scalar(select(Article.id).order_by(Article.id))
        await session.execute(delete(Article).where(Article.id == first))
        await session.commit()
        model.release()
    assert answer.result().json() == {"summarized": 1, "failed": 0}
    assert await summaries(client, path) == ["In short: What happened on day 2."]


@pytest.mark.fastdb(isolation="database")
async def test_report_may_go_while_the_model_thinks(
    client: httpx.AsyncClient, model: LanguageModel, prefix: str
) -> None:
    """Then there is nothing to save."""
    path = await new_report(client, article(1), prefix=prefix)
    model.hold()
    async with asyncio.TaskGroup() as group:
        answer = group.create_task(client.post(f"{path}/summaries"))
        await asyncio.to_thread(model.wait_for, 1)
        assert (await client.delete(path)).status_code == 204
        model.release()
    assert answer.result().json() == {"summarized": 0, "failed": 0}


async def test_event_loop_is_free(client: httpx.AsyncClient, responsive_loop: None) -> None:
    """Twenty calls and what is written after them hold nobody up."""
    path = await new_report(client, *(article(n) for n in range(20)))
    assert (await client.post(f"{path}/summaries")).json()["summarized"] == 20
