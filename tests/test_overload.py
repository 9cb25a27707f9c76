"""A full pool: who is told what, who is to blame, and that nothing is lost."""

import asyncio
import contextvars
import logging
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from sqlalchemy import exc, select
from sqlalchemy.ext.asyncio import AsyncConnection

from backends import Backend
from fastdb import (
    Database,
    DatabaseDep,
    PoolExhausted,
    PoolOptions,
    SessionDep,
    Timeouts,
    create_sync_engine,
    install_error_handlers,
)
from fastdb.server.capacity import workers

ONE = PoolOptions(size=1, warn_after=None)
SOON = Timeouts(pool=0.2)


@asynccontextmanager
async def calling(app: FastAPI, db: Database) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app)
    async with (
        db.lifespan(app),
        httpx.AsyncClient(transport=transport, base_url="http://app") as client,
    ):
        yield client


# --- The error ----------------------------------------------------------------------------------


async def test_others_are_answered_soon_and_the_holder_goes_on(backend: Backend) -> None:
    """503 within the limit, with the time to wait; the holder's answer comes when it is ready."""
    holding, let_go = asyncio.Event(), asyncio.Event()
    db = Database(backend.url, pool=ONE, timeouts=SOON)
    app = FastAPI()
    install_error_handlers(app, retry_after=3)

    @app.get("/reports/{report}")
    async def make_report(session: SessionDep) -> None:
        await session.execute(select(1))
        holding.set()
        await let_go.wait()

    @app.get("/items")
    async def read_items(session: SessionDep) -> None:
        await session.execute(select(1))

    async with calling(app, db) as client:
        report = asyncio.create_task(client.get("/reports/7"))
        await holding.wait()
        begun = time.monotonic()
        answers = await asyncio.gather(*(client.get("/items") for _ in range(20)))
        assert time.monotonic() - begun < SOON.pool + 1
        assert [answer.status_code for answer in answers] == [503] * 20
        assert {answer.headers["retry-after"] for answer in answers} == {"3"}
        assert {answer.json()["kind"] for answer in answers} == {"pool_exhausted"}
        assert "report" not in answers[0].text
        waiting = asyncio.create_task(client.get("/items"))
        let_go.set()
        assert (await report).status_code == 200
        assert (await waiting).status_code == 200


async def test_the_error_names_the_holder(backend: Backend) -> None:
    """The route, for how long, and the line that it is at."""
    holding, let_go = asyncio.Event(), asyncio.Event()
    app = FastAPI()
    db = Database(backend.url, pool=PoolOptions(size=2), timeouts=SOON)

    @app.get("/reports/{report}")
    async def make_report(session: SessionDep) -> None:
        await session.execute(select(1))
        holding.set()
        await ask_a_slow_service()

    async def ask_a_slow_service() -> None:
        await let_go.wait()

    async with calling(app, db) as client:
        name = db.engine.url.database
        report = asyncio.create_task(client.get("/reports/7?key=secret"))
        await holding.wait()
        async with db.engine.connect():
            with pytest.raises(exc.TimeoutError) as raised:
                await asyncio.create_task(use(db))
        let_go.set()
        await report
    error = raised.value
    assert isinstance(error, PoolExhausted)
    assert (error.size, error.in_use) == (2, 2)
    assert error.database == name
    assert error.holder == "GET /reports/{report}"
    assert error.held_seconds is not None
    assert SOON.pool <= error.held_seconds < SOON.pool + 1
    assert not error.holds_one_itself
    assert "in ask_a_slow_service()" in str(error)
    assert "secret" not in str(error)


async def use(db: Database) -> None:
    async with db.engine.connect() as connection:
        await connection.execute(select(1))


async def test_who_waits_for_itself_is_told_so(backend: Backend) -> None:
    """A second session in the same task, and in a task of the same request."""
    told: list[BaseException | None] = []
    app = FastAPI()
    db = Database(backend.url, pool=ONE, timeouts=SOON)

    @app.get("/")
    async def read(session: SessionDep, database: DatabaseDep) -> None:
        await session.execute(select(1))
        with pytest.raises(PoolExhausted) as first:
            await use(database)
        with pytest.raises(PoolExhausted, match="Another task of the same request") as second:
            await asyncio.create_task(use(database))
        assert "Who waits here holds one of them, too" in str(first.value)
        told.extend((first.value, second.value))

    async with calling(app, db) as client:
        await client.get("/")
    for error in told:
        assert isinstance(error, PoolExhausted)
        assert error.holds_one_itself
        assert error.holder == "GET /"


async def test_a_session_of_the_endpoints_own_is_named(backend: Backend) -> None:
    """By the route, also where a middleware of the user's is around it; afterwards by the task."""
    answered = asyncio.Event()
    told: list[str] = []
    tasks: list[asyncio.Task[None]] = []
    app = FastAPI()
    db = Database(backend.url, pool=ONE, timeouts=SOON)

    @app.middleware("http")
    async def around(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    @app.get("/own/{name}")
    async def read(database: DatabaseDep) -> None:
        async with database.session() as session:
            await session.execute(select(1))
            await ask_somebody(database, told)
        tasks.append(asyncio.create_task(go_on(database)))

    async def go_on(database: Database) -> None:
        await answered.wait()
        async with database.session() as session:
            await session.execute(select(1))
            await ask_somebody(database, told)

    async with calling(app, db) as client:
        await asyncio.create_task(client.get("/own/a"))
        answered.set()
        await asyncio.gather(*tasks)
    first, second = told
    assert "GET /own/{name} for" in first
    assert "in ask_somebody()" in first
    assert "by Task" in second


async def ask_somebody(database: Database, told: list[str]) -> None:
    context = contextvars.Context()
    with pytest.raises(PoolExhausted) as raised:
        await asyncio.create_task(use(database), context=context)
    told.append(str(raised.value))


async def test_after_dispose_too(backend: Backend) -> None:
    """SQLAlchemy goes on with another pool, like the first."""
    async with Database(backend.url, pool=ONE, timeouts=SOON) as db:
        await db.engine.dispose()
        async with db.engine.connect():
            with pytest.raises(PoolExhausted, match="Held longest by Task"):
                await use(db)


async def test_a_task_that_has_ended_is_named_as_that(backend: Backend) -> None:
    """A connection that nobody has given back."""
    async with Database(backend.url, pool=ONE, timeouts=SOON) as db:
        connection = await asyncio.create_task(take(db), name="careless")
        with pytest.raises(PoolExhausted, match="which has ended without giving it back"):
            await use(db)
        await connection.close()
        await use(db)


async def take(db: Database) -> AsyncConnection:
    return await db.engine.connect()


async def test_ten_thousand_times_and_no_slot_is_lost(backend: Backend) -> None:
    """With waiters that give up, that are cancelled, and that are served in the last moment."""
    limits = Timeouts(pool=0.002)
    gave_up = served = left = 0

    async def ask(db: Database, number: int) -> None:
        nonlocal gave_up, served, left
        try:
            async with asyncio.timeout(0.001 if number % 7 == 0 else None):
                async with db.engine.connect():
                    await asyncio.sleep(0.001 if number % 3 == 0 else 0)
        except PoolExhausted:
            gave_up += 1
            await asyncio.sleep(0.01)  # to ask again at once would leave a slow machine for nobody
        except TimeoutError:
            left += 1
        else:
            served += 1

    async with Database(backend.url, pool=PoolOptions(size=2), timeouts=limits) as db:
        numbers = iter(range(10_000))

        async def ask_again_and_again() -> None:
            for number in numbers:
                await ask(db, number)

        await asyncio.gather(*(ask_again_and_again() for _ in range(40)))
        assert gave_up + served + left == 10_000
        assert min(gave_up, served, left) > 100, (gave_up, served, left)
        assert db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
        async with db.engine.connect(), db.engine.connect():
            pass  # both slots are there


def test_the_twin_names_threads(backend: Backend) -> None:
    """The pool of a synchronous engine says as much."""
    engine = create_sync_engine(backend.url, pool=PoolOptions(size=1), timeouts=SOON)
    taken, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with engine.connect():
            taken.set()
            let_go.wait(10)

    holder = threading.Thread(target=hold, name="reports")
    holder.start()
    taken.wait(10)
    try:
        with pytest.raises(PoolExhausted, match=r"test_overload\.py:\d+ in hold\(\)") as raised:
            engine.connect()
    finally:
        let_go.set()
        holder.join()
    assert raised.value.holder == "Thread 'reports'"
    assert not raised.value.holds_one_itself
    with engine.connect(), pytest.raises(PoolExhausted) as raised:
        engine.connect()
    assert raised.value.holds_one_itself
    engine.dispose()


# --- The warning --------------------------------------------------------------------------------


class Warnings(logging.Handler):
    """What the pools warn of, as it comes."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []
        self._come = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
        self._come.set()

    async def next(self) -> str:
        """Wait for one more."""
        self._come.clear()
        async with asyncio.timeout(5):
            await self._come.wait()
        return self.messages[-1]


@pytest.fixture
def warnings() -> Iterator[Warnings]:
    handler = Warnings()
    logging.getLogger("fastdb.pool").addHandler(handler)
    yield handler
    logging.getLogger("fastdb.pool").removeHandler(handler)


async def test_a_connection_held_for_long_is_warned_of_once(
    backend: Backend, warnings: Warnings
) -> None:
    """While it is held, with the route and the line; not again for the same route."""
    app = FastAPI()
    db = Database(backend.url, pool=PoolOptions(size=2, warn_after=0.1))

    @app.get("/slow/{number}")
    async def slow(session: SessionDep) -> None:
        await session.execute(select(1))
        if not warnings.messages:
            await warnings.next()
        await asyncio.sleep(0.25)

    async with calling(app, db) as client:
        for number in (1, 2):  # in tasks, as a server does: a request is known by its context
            await asyncio.create_task(client.get(f"/slow/{number}"))
        (warning,) = warnings.messages
        assert f"A connection of {db.engine.url.database} is held by" in warning
        assert "GET /slow/{number}" in warning
        assert "test_overload.py" in warning
        assert "1 of 2 are in use" in warning
        async with db.engine.connect():
            assert "held by Task" in await warnings.next()


async def test_each_is_warned_of_in_its_time(backend: Backend, warnings: Warnings) -> None:
    """Also where nobody asks for a connection any more who would look."""
    let_go = asyncio.Event()
    async with Database(backend.url, pool=PoolOptions(size=2, warn_after=0.2)) as db:

        async def hold() -> None:
            async with db.engine.connect():
                await let_go.wait()

        async def hold_too() -> None:
            await hold()

        first = asyncio.create_task(hold(), name="first")
        await asyncio.sleep(0.1)
        second = asyncio.create_task(hold_too(), name="second")
        await asyncio.sleep(0.5)
        assert ["'first'" in told for told in warnings.messages] == [True, False]
        let_go.set()
        await asyncio.gather(first, second)


async def test_short_ones_are_not(backend: Backend, warnings: Warnings) -> None:
    """Many after one another on one connection, for longer than the limit in all."""
    async with Database(backend.url, pool=PoolOptions(size=1, warn_after=0.2)) as db:
        begun = time.monotonic()
        while time.monotonic() - begun < 0.6:
            await use(db)
            await asyncio.sleep(0.001)
    assert warnings.messages == []


async def test_no_warning_where_none_is_wanted(backend: Backend, warnings: Warnings) -> None:
    """`warn_after=None`."""
    async with Database(backend.url, pool=ONE) as db, db.engine.connect():
        await asyncio.sleep(0.1)
    assert warnings.messages == []


def test_threads_are_warned_of_by_who_comes_next(backend: Backend, warnings: Warnings) -> None:
    """The twin has no clock: who finds nothing idle looks around."""
    options = PoolOptions(size=2, warn_after=0.05)
    engine = create_sync_engine(backend.url, pool=options)
    with engine.connect():
        time.sleep(0.1)
        with engine.connect():
            (warning,) = warnings.messages
    assert f"held by Thread {threading.current_thread().name!r}" in warning
    engine.dispose()


# --- The server's room --------------------------------------------------------------------------


MAX_CONNECTIONS = {
    "postgresql": "SELECT current_setting('max_connections')",
    "mysql": "SELECT @@max_connections",
}


@pytest.mark.backends("postgresql", "mysql")
@pytest.mark.parametrize("size", [10, 5000])
async def test_more_than_the_server_takes_is_told(
    backend: Backend, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    """Once for both engines, with the arithmetic; as a warning where it does not fit."""
    caplog.set_level(logging.INFO, "fastdb.pool")
    async with Database(backend.url, pool=PoolOptions(size=size)) as db:
        await db.ping()
        async with db.engine.connect() as connection:
            asks = (
                "SHOW max_connections"
                if backend.name == "postgresql"
                else "SELECT @@max_connections"
            )
            room = int((await connection.exec_driver_sql(asks)).scalar_one())
        (record,) = [record for record in caplog.records if "may be asked for" in record.message]
    assert record.levelno == (logging.INFO if size == 10 else logging.WARNING)
    reserved = 3 if backend.name == "postgresql" else 0
    assert f"{2 * size} connections: 1 worker(s) x 2 pool(s) x {size}" in record.message
    assert f"takes {room - reserved}, other clients included" in record.message


@pytest.mark.parametrize(
    ("line", "environment", "expected"),
    [
        ("uvicorn app:app", {}, 1),
        ("uvicorn app:app --workers 4", {}, 4),
        ("uvicorn app:app --workers=4", {"WEB_CONCURRENCY": "2"}, 4),
        ("gunicorn -w 8 -k uvicorn.workers.UvicornWorker app:app", {}, 8),
        ("gunicorn -w8 app:app", {}, 8),
        ("fastapi run app.py --workers 3", {}, 3),
        ("uvicorn app:app", {"WEB_CONCURRENCY": "5"}, 5),
        ("uvicorn app:app", {"WEB_CONCURRENCY": ""}, 1),
        ("pytest -w", {}, 1),
        ("app --workers none", {}, 1),
        ("uvicorn app:app --workers 0", {}, 1),
    ],
)
def test_workers(line: str, environment: dict[str, str], expected: int) -> None:
    """As the common servers are told."""
    assert workers(line.split(), environment) == expected
