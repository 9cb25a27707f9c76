"""Projects: created once, found by id."""

import httpx
import pytest


async def test_project_is_created(client: httpx.AsyncClient) -> None:
    """What was answered is what is read."""
    created = await client.post("/projects", json={"name": "  moon "})
    assert created.status_code == 201
    read = await client.get(f"/projects/{created.json()['id']}")
    assert read.json() == created.json()
    assert read.json()["name"] == "moon"


async def test_name_is_taken(client: httpx.AsyncClient, project: int) -> None:
    """The unique constraint decides; fastdb's handlers answer."""
    answer = await client.post("/projects", json={"name": "moon"})
    assert answer.status_code == 409
    assert answer.json()["kind"] == "unique"


@pytest.mark.parametrize("name", ["", " ", "x" * 101, "\x00", None, 7])
async def test_name_is_refused(name: object, client: httpx.AsyncClient) -> None:
    """No name that is none, and none that the column does not take."""
    assert (await client.post("/projects", json={"name": name})).status_code == 422


@pytest.mark.parametrize("path", ["/projects/1000000", "/projects/1000000/tasks", "/tasks/1000000"])
async def test_what_is_not_there(path: str, client: httpx.AsyncClient) -> None:
    """404, which names it."""
    answer = await client.get(path)
    assert answer.status_code == 404
    assert "1000000" in answer.json()["detail"]


@pytest.mark.parametrize("number", ["0", "-1", str(2**63), "one"])
async def test_numbers_that_no_row_can_have(number: str, client: httpx.AsyncClient) -> None:
    """They do not reach the database."""
    assert (await client.get(f"/tasks/{number}")).status_code == 422


async def test_text_that_is_no_text(client: httpx.AsyncClient) -> None:
    """Half a surrogate pair is no UTF-8: neither a row nor an answer could hold it."""
    body = b'{"name": "\\ud83d"}'
    headers = {"Content-Type": "application/json"}
    assert (await client.post("/projects", content=body, headers=headers)).status_code == 422
