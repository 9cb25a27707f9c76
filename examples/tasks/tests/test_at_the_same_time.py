"""Requests that meet: in databases of their own, as those of a rollback take turns."""

import asyncio
from collections import Counter

import httpx
import pytest
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from fastdb import Database
from tasks.models import Tag, Task
from tasks.repositories import TagRepository

pytestmark = pytest.mark.fastdb(isolation="database")


async def until_waiting(db: Database, sessions: int) -> None:
    """Wait until so many sessions wait for a lock of another one."""
    query = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with asyncio.timeout(30):
        waiting = -1
        while waiting != sessions:
            async with db.read_session() as session:
                waiting = await session.scalar(query)


async def test_same_tags_from_many(
    client: httpx.AsyncClient, project: int, session: AsyncSession
) -> None:
    """In whichever order they are named: no duplicate, no error, no deadlock."""
    names = [f"tag-{number}" for number in range(10)]

    async def create(number: int) -> int:
        tags = names[number % 10 :] + names[: number % 10]
        body = {"title": f"task {number}", "tags": tags if number % 2 else tags[::-1]}
        return (await client.post(f"/projects/{project}/tasks", json=body)).status_code

    assert Counter(await asyncio.gather(*map(create, range(40)))) == {201: 40}
    assert await session.scalar(select(func.count()).select_from(Tag)) == 10
    assert {tag["tasks"] for tag in (await client.get("/tags")).json()} == {40}


async def test_who_comes_second_waits_for_the_first(db: Database) -> None:
    """Until that one has committed, nobody knows whether the tag is there."""
    async with asyncio.TaskGroup() as group, db.session() as first:
        (created,) = await TagRepository(first).bulk_get_or_create(["new"])

        async def second() -> int:
            async with db.session() as session:
                (found,) = await TagRepository(session).bulk_get_or_create(["new"])
                return found.id

        other = group.create_task(second())
        await until_waiting(db, 1)
        await first.commit()
        assert await other == created.id


async def test_tags_in_the_opposite_order(
    client: httpx.AsyncClient, project: int, db: Database
) -> None:
    """Unsorted, one would have "z" and wait for "a", and the other have "a" and wait for "z"."""

    def create(*tags: str) -> asyncio.Task[httpx.Response]:
        body = {"title": "land", "tags": tags}
        return asyncio.create_task(client.post(f"/projects/{project}/tasks", json=body))

    async with db.session() as other:
        await TagRepository(other).bulk_get_or_create(["m"])
        first = create("z", "m", "a")
        await until_waiting(db, 1)
        second = create("a", "m", "z")
        await until_waiting(db, 2)
    assert [(await answer).status_code for answer in (first, second)] == [201, 201]


async def test_one_of_many_changes_wins(
    client: httpx.AsyncClient, project: int, session: AsyncSession
) -> None:
    """All have seen version 1: one is saved, the others are told; nothing is lost silently."""
    body = {"title": "land"}
    task = (await client.post(f"/projects/{project}/tasks", json=body)).json()

    async def change(number: int) -> tuple[int, str]:
        title = f"title {number}"
        answer = await client.patch(f"/tasks/{task['id']}", json={"version": 1, "title": title})
        return answer.status_code, title

    answers = await asyncio.gather(*map(change, range(20)))
    assert Counter(status for status, _ in answers) == {200: 1, 409: 19}
    (winner,) = (title for status, title in answers if status == 200)
    assert await session.scalar(select(Task.title)) == winner


async def test_update_finds_who_came_between(
    client: httpx.AsyncClient, project: int, db: Database
) -> None:
    """Between reading the version and writing: the UPDATE names it, and is answered 409 too."""
    body = {"title": "land"}
    task = (await client.post(f"/projects/{project}/tasks", json=body)).json()
    async with db.session() as other:
        locked = await other.get_one(Task, task["id"], with_for_update=True)
        locked.title = "theirs"
        ours = asyncio.create_task(
            client.patch(f"/tasks/{task['id']}", json={"version": 1, "title": "ours"})
        )
        await until_waiting(db, 1)  # it has read version 1: only its UPDATE waits
    assert (await ours).status_code == 409
    assert (await client.get(f"/tasks/{task['id']}")).json()["title"] == "theirs"


async def test_tags_come_before_the_task(
    client: httpx.AsyncClient, project: int, db: Database
) -> None:
    """All changes lock in one order: else one would hold the task, and one the tag, for good."""
    task = (await client.post(f"/projects/{project}/tasks", json={"title": "land"})).json()

    def change(**what: object) -> asyncio.Task[httpx.Response]:
        body = {"version": 1, **what}
        return asyncio.create_task(client.patch(f"/tasks/{task['id']}", json=body))

    async with db.session() as other:
        await TagRepository(other).bulk_get_or_create(["b"])
        first = change(tags=["a", "b"])  # it has created "a", and waits for "b"
        await until_waiting(db, 1)
        second = change(tags=["a"], title="land softly")  # it waits for "a"
        await until_waiting(db, 2)
    statuses = [(await answer).status_code for answer in (first, second)]
    assert sorted(statuses) == [200, 409]


async def test_task_is_changed_and_deleted(
    client: httpx.AsyncClient, project: int, db: Database
) -> None:
    """Both lock the task before its tags: who comes second is told, and neither is a deadlock."""
    body = {"title": "land", "tags": ["urgent"]}
    path = f"/tasks/{(await client.post(f'/projects/{project}/tasks', json=body)).json()['id']}"
    async with db.session() as other:
        await other.scalars(select(Task).with_for_update())
        change = asyncio.create_task(client.patch(path, json={"version": 1, "tags": []}))
        await until_waiting(db, 1)
        deletion = asyncio.create_task(client.delete(path, params={"version": 1}))
        await until_waiting(db, 2)
    assert [(await change).status_code, (await deletion).status_code] == [200, 409]
