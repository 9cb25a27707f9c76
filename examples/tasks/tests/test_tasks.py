"""Tasks: their tags, their versions, and what an answer costs."""

import httpx
import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from fastdb import Database
from fastdb.testing import assert_no_n_plus_one, count_queries
from tasks.models import Project, Tag, Task, tasks_tags


async def create(
    client: httpx.AsyncClient, project: int, title: str, *tags: str
) -> dict[str, object]:
    answer = await client.post(f"/projects/{project}/tasks", json={"title": title, "tags": tags})
    assert answer.status_code == 201
    task: dict[str, object] = answer.json()
    return task


async def test_task_is_created_with_its_tags(client: httpx.AsyncClient, project: int) -> None:
    """The answer is the object of the ORM: by the alphabet, each tag once."""
    task = await create(client, project, "land", "urgent", "big", "urgent")
    assert task["tags"] == [{"name": "big"}, {"name": "urgent"}]
    assert (task["version"], task["done"]) == (1, False)
    assert (await client.get(f"/tasks/{task['id']}")).json() == task


async def test_tags_are_shared(
    client: httpx.AsyncClient, project: int, session: AsyncSession
) -> None:
    """A name that is there is found, not created again."""
    await create(client, project, "land", "urgent")
    await create(client, project, "return", "urgent", "big")
    assert (await client.get("/tags")).json() == [
        {"name": "urgent", "tasks": 2},
        {"name": "big", "tasks": 1},
    ]
    assert await session.scalar(select(func.count()).select_from(Tag)) == 2


async def test_tags_that_are_there_are_only_read(
    client: httpx.AsyncClient, project: int, db: Database
) -> None:
    """An INSERT that does nothing takes a number of the sequence all the same."""
    await create(client, project, "land", "urgent", "big")
    with count_queries(db) as queries:
        await create(client, project, "return", "urgent", "big")
    assert not any("INSERT INTO tags " in query.statement for query in queries)


@pytest.mark.parametrize("tag", ["", "Big", "a b", "x" * 51, "\x00"])
async def test_tag_is_refused(tag: str, client: httpx.AsyncClient, project: int) -> None:
    """A tag is lower case, digits and hyphens."""
    answer = await client.post(f"/projects/{project}/tasks", json={"title": "land", "tags": [tag]})
    assert answer.status_code == 422


async def test_task_of_no_project(client: httpx.AsyncClient, session: AsyncSession) -> None:
    """Nothing is left of it, no tag either."""
    answer = await client.post("/projects/1000000/tasks", json={"title": "land", "tags": ["big"]})
    assert answer.status_code == 404
    assert await session.scalar(select(func.count()).select_from(Tag)) == 0


async def test_task_is_changed(client: httpx.AsyncClient, project: int) -> None:
    """What is not said stays; the answer has the version that the next change must name."""
    task = await create(client, project, "land", "urgent")
    changed = await client.patch(f"/tasks/{task['id']}", json={"version": 1, "done": True})
    assert changed.json() == {**task, "done": True, "version": 2}
    changed = await client.patch(
        f"/tasks/{task['id']}", json={"version": 2, "title": "land softly", "tags": []}
    )
    assert changed.json() == {
        **task,
        "done": True,
        "title": "land softly",
        "tags": [],
        "version": 3,
    }


async def test_new_tags_alone_are_a_new_version(client: httpx.AsyncClient, project: int) -> None:
    """Who has seen the old tags is told, though no column of the task has changed."""
    task = await create(client, project, "land", "urgent")
    path = f"/tasks/{task['id']}"
    assert (await client.patch(path, json={"version": 1, "tags": ["big"]})).json()["version"] == 2
    assert (await client.patch(path, json={"version": 1, "tags": []})).status_code == 409


async def test_outdated_change_is_refused(client: httpx.AsyncClient, project: int) -> None:
    """Nobody overwrites what he has not seen."""
    task = await create(client, project, "land")
    path = f"/tasks/{task['id']}"
    assert (await client.patch(path, json={"version": 1, "title": "first"})).status_code == 200
    refused = await client.patch(path, json={"version": 1, "title": "second"})
    assert refused.status_code == 409
    assert (await client.delete(path, params={"version": 1})).status_code == 409
    assert (await client.get(path)).json()["title"] == "first"


async def test_task_is_deleted(
    client: httpx.AsyncClient, project: int, session: AsyncSession
) -> None:
    """With what it has of tags, which stay themselves."""
    task = await create(client, project, "land", "urgent")
    assert (await client.delete(f"/tasks/{task['id']}", params={"version": 1})).status_code == 204
    assert (await client.get(f"/tasks/{task['id']}")).status_code == 404
    assert await session.scalar(select(func.count()).select_from(tasks_tags)) == 0
    assert await session.scalar(select(func.count()).select_from(Tag)) == 1


async def test_a_page_costs_three_queries(
    client: httpx.AsyncClient, project: int, db: Database
) -> None:
    """The project, its tasks, and the tags of all of them: not of one after the other."""
    for number in range(10):
        await create(client, project, f"step {number}", "urgent", f"tag-{number}")
    with count_queries(db) as queries:
        page = await client.get(f"/projects/{project}/tasks")
    assert len(page.json()["tasks"]) == 10
    assert len(queries) == 3
    assert_no_n_plus_one(queries)


async def test_titles_are_kept_as_they_are(client: httpx.AsyncClient, project: int) -> None:
    """Parameters are parameters."""
    title = "'; DROP TABLE tasks; -- \U0001f680"
    task = await create(client, project, title)
    assert (await client.get(f"/tasks/{task['id']}")).json()["title"] == title


async def test_project_takes_its_tasks_along(
    client: httpx.AsyncClient, project: int, session: AsyncSession
) -> None:
    """The database deletes what refers to it: no orphan is left by whoever deletes a project."""
    await create(client, project, "land", "urgent")
    await session.delete(await session.get_one(Project, project))
    await session.commit()
    assert await session.scalar(select(func.count()).select_from(Task)) == 0
