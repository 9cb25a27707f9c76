"""Reports and articles; both versions of the endpoints keep the same promises."""

import httpx
import pytest
from making import article, new_report

from fastdb import Database
from fastdb.testing import assert_query_count, count_queries


async def test_report_is_created(client: httpx.AsyncClient, prefix: str) -> None:
    """It has used no tokens yet, and is in the list."""
    path = await new_report(client, prefix=prefix)
    report = (await client.get(path)).json()
    assert report == {"id": report["id"], "title": "The week", "tokens_used": 0}
    assert (await client.get(f"{prefix}/reports")).json() == [report]


async def test_articles_are_inserted_by_one_statement(
    client: httpx.AsyncClient, db: Database, prefix: str
) -> None:
    """A hundred rows cost a round trip or two, not a hundred."""
    path = await new_report(client, prefix=prefix)
    with count_queries(db) as queries:
        answer = await client.post(f"{path}/articles", json=[article(n) for n in range(100)])
    assert answer.json() == {"added": 100}
    assert_query_count(queries, 2)  # the report is looked for, too


async def test_articles_are_listed_by_pages(client: httpx.AsyncClient, prefix: str) -> None:
    """A page begins after the last id of the one before."""
    path = await new_report(client, *(article(n) for n in range(3)), prefix=prefix)
    first = (await client.get(f"{path}/articles?limit=2")).json()
    rest = (await client.get(f"{path}/articles", params={"after": first[-1]["id"]})).json()
    assert [each["title"] for each in first + rest] == ["Article 0", "Article 1", "Article 2"]


async def test_known_url_is_a_conflict_and_nothing_is_added(
    client: httpx.AsyncClient, prefix: str
) -> None:
    """All rows of a bulk insert, or none."""
    path = await new_report(client, article(1), prefix=prefix)
    answer = await client.post(f"{path}/articles", json=[article(2), article(1)])
    assert (answer.status_code, answer.json()["kind"]) == (409, "unique")
    assert len((await client.get(f"{path}/articles")).json()) == 1


async def test_urls_that_differ_by_case_are_two(client: httpx.AsyncClient, prefix: str) -> None:
    """MySQL's usual collations would take them for one."""
    upper = {**article(1), "url": "https://news.example/A"}
    lower = {**article(2), "url": "https://news.example/a"}
    path = await new_report(client, upper, lower, prefix=prefix)
    assert len((await client.get(f"{path}/articles")).json()) == 2


async def test_longest_body_fits(client: httpx.AsyncClient, prefix: str) -> None:
    """TEXT counts bytes, and a character may have four."""
    path = await new_report(client, prefix=prefix)
    for length, status in ((16_000, 201), (16_001, 422)):
        articles = [article(length, body="🎉" * length)]
        assert (await client.post(f"{path}/articles", json=articles)).status_code == status


async def test_deleted_report_takes_its_articles_along(
    client: httpx.AsyncClient, prefix: str
) -> None:
    """The foreign key says ON DELETE CASCADE."""
    path = await new_report(client, article(1), prefix=prefix)
    assert (await client.delete(path)).status_code == 204
    assert (await client.get(path)).status_code == 404
    assert (await client.get(f"{path}/articles")).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/reports/7", None),
        ("DELETE", "/reports/7", None),
        ("GET", "/reports/7/articles", None),
        ("POST", "/reports/7/articles", [article(1)]),
        ("POST", "/reports/7/summaries", None),
    ],
)
async def test_report_that_is_not_there(
    client: httpx.AsyncClient, prefix: str, method: str, path: str, body: object
) -> None:
    """It is 404, whatever was to be done with it."""
    assert (await client.request(method, prefix + path, json=body)).status_code == 404


async def test_refused_value_is_not_repeated(client: httpx.AsyncClient, prefix: str) -> None:
    """Half a surrogate pair is no UTF-8: an answer that held it could not be sent."""
    answer = await client.post(
        f"{prefix}/reports",
        content=rb'{"title": "\ud800"}',
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "title"]
