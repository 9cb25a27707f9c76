"""Pages by keyset: each task once, whatever comes and goes meanwhile."""

from base64 import urlsafe_b64encode

import httpx
import pytest


async def create(client: httpx.AsyncClient, project: int, *titles: str) -> None:
    for title in titles:
        body = {"title": title, "tags": ["even" if int(title) % 2 == 0 else "odd"]}
        assert (await client.post(f"/projects/{project}/tasks", json=body)).status_code == 201


async def titles_of_pages(
    client: httpx.AsyncClient, project: int, **parameters: str | int
) -> list[list[str]]:
    """Follow `next` until there is none."""
    pages: list[list[str]] = []
    after = None
    while after is not None or not pages:
        query = {**parameters, **({} if after is None else {"after": after})}
        answer = await client.get(f"/projects/{project}/tasks", params=query)
        assert answer.status_code == 200
        pages.append([task["title"] for task in answer.json()["tasks"]])
        after = answer.json()["next"]
    return pages


async def test_pages_are_complete(client: httpx.AsyncClient, project: int) -> None:
    """The newest first, none twice, none missing, and no empty page at the end."""
    await create(client, project, *"123456")
    assert await titles_of_pages(client, project, limit=4) == [[*"6543"], [*"21"]]
    assert await titles_of_pages(client, project, limit=3) == [[*"654"], [*"321"]]
    assert await titles_of_pages(client, project) == [[*"654321"]]


async def test_pages_of_a_tag(client: httpx.AsyncClient, project: int) -> None:
    """The tag narrows all of them."""
    await create(client, project, *"123456")
    assert await titles_of_pages(client, project, tag="even", limit=2) == [[*"64"], [*"2"]]
    assert await titles_of_pages(client, project, tag="none") == [[]]


async def test_what_comes_and_goes_moves_no_page(client: httpx.AsyncClient, project: int) -> None:
    """With OFFSET, the second page would show "4" again, or leave out "3"."""
    await create(client, project, *"12345")
    first = (await client.get(f"/projects/{project}/tasks", params={"limit": 2})).json()
    assert [task["title"] for task in first["tasks"]] == ["5", "4"]
    await create(client, project, "6")
    deleted = first["tasks"][1]
    await client.delete(f"/tasks/{deleted['id']}", params={"version": deleted["version"]})
    query = {"limit": 10, "after": first["next"]}
    second = (await client.get(f"/projects/{project}/tasks", params=query)).json()
    assert [task["title"] for task in second["tasks"]] == ["3", "2", "1"]
    assert second["next"] is None


@pytest.mark.parametrize(
    "after",
    [
        "nonsense",
        "====",
        "é",
        urlsafe_b64encode(b"{}").decode(),
        urlsafe_b64encode(b'{"created_at": "2026-01-01T00:00:00Z", "id": 0}').decode(),
        urlsafe_b64encode(b'{"created_at": "2026-01-01T00:00:00", "id": 1}').decode(),
        urlsafe_b64encode(b'{"created_at": "2026-01-01T00:00:00Z", "id": 1e400}').decode(),
        "x" * 201,
    ],
)
async def test_cursor_that_is_not_ours(after: str, client: httpx.AsyncClient, project: int) -> None:
    """422, and nothing of it reaches the database."""
    answer = await client.get(f"/projects/{project}/tasks", params={"after": after})
    assert answer.status_code == 422
