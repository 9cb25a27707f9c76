"""Operations: who may, how many, and what is found."""

import asyncio
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from waiting import ended, start

from conftest import ANN, BOB, NAMES
from realtime import operations
from realtime.config import settings
from realtime.models import File, Operation, User

# They go on in the background, in sessions of their own.
pytestmark = [pytest.mark.fastdb(isolation="database"), pytest.mark.usefixtures("people")]


async def test_files_are_looked_at(client: httpx.AsyncClient) -> None:
    """Each of them, the one that is not there too."""
    operation = await start(client, ANN, *NAMES, "missing.txt")
    found = await ended(client, ANN, operation)
    assert found == {"id": operation, "status": "done", "total": 9, "done": 9}
    files = (await client.get(f"/operations/{operation}/files", headers=ANN)).json()
    sizes = {file["name"]: file["size"] for file in files}
    assert sizes == {**{name: number for number, name in enumerate(NAMES)}, "missing.txt": None}
    assert files[-1]["error"] == "FileNotFoundError"
    assert len({file["sha256"] for file in files}) == 9


async def test_file_that_is_named_twice(client: httpx.AsyncClient, session: AsyncSession) -> None:
    """Once is enough: the second is undone by its own savepoint, and the rest stays."""
    operation = await start(client, ANN, "file_1.txt", "file_2.txt", "file_1.txt")
    assert (await ended(client, ANN, operation))["total"] == 2
    assert await session.scalar(select(func.count()).select_from(File)) == 2


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer nobody's"}])
async def test_who_is_unknown(
    headers: dict[str, str], client: httpx.AsyncClient, session: AsyncSession
) -> None:
    """401, and nothing is begun."""
    answer = await client.post("/operations", json={"files": NAMES}, headers=headers)
    assert answer.status_code == 401
    assert await session.scalar(select(func.count()).select_from(Operation)) == 0


async def test_operations_are_private(client: httpx.AsyncClient) -> None:
    """Somebody else's is not there."""
    operation = await start(client, ANN, "file_1.txt")
    await ended(client, ANN, operation)
    assert (await client.get(f"/operations/{operation}/files", headers=BOB)).status_code == 404
    assert (await client.get("/operations", headers=BOB)).json() == []


@pytest.mark.parametrize("name", ["../app.py", ".hidden", "", "a/b", "\x00", "x" * 101])
async def test_names_that_lead_elsewhere(name: str, client: httpx.AsyncClient) -> None:
    """422."""
    answer = await client.post("/operations", json={"files": [name]}, headers=ANN)
    assert answer.status_code == 422


async def test_rate_limit(client: httpx.AsyncClient, session: AsyncSession) -> None:
    """As many as are allowed in a minute, by each user; then 429, which says when again."""
    begun = [await start(client, ANN, "file_1.txt") for _ in range(settings.per_minute)]
    refused = await client.post("/operations", json={"files": ["file_1.txt"]}, headers=ANN)
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    begun_by_bob = await start(client, BOB, "file_1.txt")
    for operation in begun:
        await ended(client, ANN, operation)
    await ended(client, BOB, begun_by_bob)
    oldest = await session.get_one(Operation, begun[0])
    oldest.started -= operations.MINUTE
    await session.commit()
    await ended(client, ANN, await start(client, ANN, "file_1.txt"))


async def test_retry_after_is_long_enough(client: httpx.AsyncClient, session: AsyncSession) -> None:
    """Who waits for so many seconds is let in, though time runs in fractions; and no longer."""
    ann = await session.scalar(select(User.id).where(User.name == "ann"))
    started = datetime.now(UTC) - operations.MINUTE + timedelta(seconds=10.4)
    for _ in range(settings.per_minute):
        session.add(Operation(user_id=ann, started=started, status="done"))
    await session.commit()
    before = datetime.now(UTC)
    refused = await client.post("/operations", json={"files": ["file_1.txt"]}, headers=ANN)
    after = datetime.now(UTC)
    assert refused.status_code == 429
    wait = timedelta(seconds=int(refused.headers["Retry-After"]))
    free = started + operations.MINUTE
    assert after + wait >= free
    assert before + wait < free + timedelta(seconds=1)


async def test_rate_limit_has_no_gap(client: httpx.AsyncClient) -> None:
    """Of thirty at the same time, as many as are allowed are let in."""

    async def post(_: int) -> httpx.Response:
        return await client.post("/operations", json={"files": ["file_1.txt"]}, headers=ANN)

    answers = await asyncio.gather(*map(post, range(30)))
    allowed = settings.per_minute
    assert Counter(each.status_code for each in answers) == {202: allowed, 429: 30 - allowed}
    for each in answers:
        if each.status_code == 202:
            await ended(client, ANN, each.json()["id"])


async def test_not_too_many_at_once(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many files as `parallel` says are looked at at the same time, of all operations."""
    examine, lock, go_on = operations.examine, threading.Lock(), threading.Event()
    inside: set[Path] = set()
    at_once: list[int] = []

    def examine_later(path: Path) -> operations.Found:
        with lock:
            inside.add(path)
            at_once.append(len(inside))
        go_on.wait(30)
        with lock:
            inside.remove(path)
        return examine(path)

    monkeypatch.setattr(operations, "examine", examine_later)
    begun = [await start(client, ANN, *names) for names in (NAMES[:4], NAMES[4:])]
    try:
        async with asyncio.timeout(20):
            while len(at_once) < settings.parallel:  # noqa: ASYNC110 - threads cannot set an event
                await asyncio.sleep(0.01)
        # Meanwhile, the others get as far as they may.
        for _ in range(5):
            assert (await client.get("/operations", headers=ANN)).json()[0]["done"] == 0
    finally:
        go_on.set()
    for operation in begun:
        await ended(client, ANN, operation)
    assert len(at_once) == len(NAMES)
    assert max(at_once) == settings.parallel


async def test_text_that_is_no_text(client: httpx.AsyncClient) -> None:
    """Half a surrogate pair is no UTF-8: neither a row nor an answer could hold it."""
    body = b'{"files": ["\\ud83d"]}'
    headers = {**ANN, "Content-Type": "application/json"}
    assert (await client.post("/operations", content=body, headers=headers)).status_code == 422
