"""Streams, server-sent events and JSON lines: what holds a session there, and who leaves early."""

import asyncio
import gc
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import pytest
from blockbuster import BlockBuster
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from sqlalchemy import func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.middleware.base import BaseHTTPMiddleware

from asgi import (
    GENERATOR_ENDPOINTS,
    Client,
    Counter,
    EventSourceResponse,
    HangUp,
    Item,
    SpecVersion,
    cancelled_when,
    checked_out,
    serving,
    until,
)
from fastdb import (
    Database,
    DatabaseDep,
    ReadSessionDep,
    SessionDep,
    SessionEnded,
    SnapshotSessionDep,
    StreamSessionDep,
    SyncSessionDep,
)

Routes = Callable[[FastAPI], object]

every_leaving = pytest.mark.parametrize(
    ("spec_version", "hang_up"),
    [
        ("2.3", "between chunks"),
        ("2.3", "while sending"),
        ("2.4", "between chunks"),
        ("2.4", "while sending"),
    ],
)


async def _write_items(db: Database, go_on: Callable[[int], Any]) -> AsyncIterator[str]:
    """Write ten rows in one unit of work, and yield each name."""
    async with db.session() as session:
        for number in range(10):
            session.add(Item(name=str(number)))
            await session.flush()
            yield str(number)
            await go_on(number)


async def _at_once(_: int) -> None: ...


async def _stop_at_five(number: int) -> None:
    if number == 4:
        await asyncio.Event().wait()


def streaming_response(app: FastAPI, go_on: Callable[[int], Any]) -> None:
    @app.post("/items")
    async def create(db: DatabaseDep) -> StreamingResponse:
        return StreamingResponse(_write_items(db, go_on))


def server_sent_events(app: FastAPI, go_on: Callable[[int], Any]) -> None:
    @app.post("/items", response_class=EventSourceResponse)
    async def create(db: DatabaseDep) -> AsyncIterable[str]:
        async for name in _write_items(db, go_on):
            yield name


def json_lines(app: FastAPI, go_on: Callable[[int], Any]) -> None:
    @app.post("/items")
    async def create(db: DatabaseDep) -> AsyncIterable[str]:
        async for name in _write_items(db, go_on):
            yield name


def sync_streaming_response(app: FastAPI, _go_on: Callable[[int], Any]) -> None:
    @app.post("/items")
    def create(db: DatabaseDep) -> StreamingResponse:
        return StreamingResponse(_write_items_sync(db))


def sync_json_lines(app: FastAPI, _go_on: Callable[[int], Any]) -> None:
    @app.post("/items")
    def create(db: DatabaseDep) -> Iterable[str]:
        yield from _write_items_sync(db)


def _write_items_sync(db: Database) -> Iterator[str]:
    with db.sync.session() as session:
        for number in range(10):
            session.add(Item(name=str(number)))
            session.flush()
            yield str(number)


# Two drivers of one database have the same twin.
TWINS = ("sqlite-file", "postgresql-psycopg", "mysql-aiomysql")

STREAMS = [streaming_response]
SYNC_STREAMS = [sync_streaming_response]
if GENERATOR_ENDPOINTS:
    STREAMS += [server_sent_events, json_lines]
    SYNC_STREAMS += [sync_json_lines]
ALL = [str(number) for number in range(10)]


def ids(functions: Iterable[Any]) -> list[str]:
    return [function.__name__ for function in functions]


# --- A unit of work inside a generator ---------------------------------------------------------


@pytest.mark.parametrize("stream", STREAMS, ids=ids(STREAMS))
async def test_stream_that_finishes_commits(database: Database, stream: Any) -> None:
    """Row 2: a unit of work inside a generator is committed when the generator finishes."""
    app = FastAPI()
    stream(app, _at_once)
    async with serving(app, database, sync=True) as client:
        answer = await client.post("/items")

        assert (answer.status, answer.error) == (200, None)
        assert client.log.count("COMMIT") == 1
        assert client.log[-1] == "end"
        assert await client.rows() == ALL


@pytest.mark.backends(*TWINS)
@pytest.mark.parametrize("stream", SYNC_STREAMS, ids=ids(SYNC_STREAMS))
async def test_sync_stream_that_finishes_commits(database: Database, stream: Any) -> None:
    """Row 2, for a `def` generator with a session of the twin."""
    app = FastAPI()
    stream(app, _at_once)
    async with serving(app, database, sync=True) as client:
        answer = await client.post("/items")

        assert (answer.status, answer.error) == (200, None)
        assert client.log.count("COMMIT") == 1
        assert await client.rows() == ALL


@every_leaving
@pytest.mark.parametrize("stream", STREAMS, ids=ids(STREAMS))
async def test_client_that_leaves_a_stream_undoes_it(
    database: Database, stream: Any, spec_version: SpecVersion, hang_up: HangUp
) -> None:
    """Row 2: a client that is gone after five of ten rows has written none, and nothing is held."""
    app = FastAPI()
    # Where Starlette cancels, the generator is waiting; where `send` raises, it is about to.
    stream(app, _stop_at_five if spec_version == "2.3" else _at_once)
    async with serving(app, database) as client:
        await client.post("/items", spec_version=spec_version, hang_up_after=5, hang_up=hang_up)
        await until(lambda: checked_out(database) == 0)

        assert "hung up" in client.log
        assert "COMMIT" not in client.log
        assert await client.rows() == []


@pytest.mark.backends(*TWINS)
@every_leaving
@pytest.mark.parametrize("stream", SYNC_STREAMS, ids=ids(SYNC_STREAMS))
async def test_client_that_leaves_a_sync_stream_undoes_it(
    database: Database,
    no_blocking_calls: BlockBuster,
    stream: Any,
    spec_version: SpecVersion,
    hang_up: HangUp,
) -> None:
    """Row 2, for a `def` generator with a session of the twin, which runs in a thread."""
    # Nobody closes a `def` generator that is given up: it ends where the last reference to it
    # goes, which may be on the loop.
    no_blocking_calls.deactivate()
    app = FastAPI()
    stream(app, _at_once)
    async with serving(app, database, sync=True) as client:
        await client.post("/items", spec_version=spec_version, hang_up_after=5, hang_up=hang_up)
        gc.collect()  # anyio leaves the cancelled generator in a cycle
        await until(lambda: checked_out(database) == 0)

        assert "COMMIT" not in client.log
        assert await client.rows() == []


@every_leaving
async def test_next_writer_is_not_locked_out_by_a_client_that_left(
    database: Database, spec_version: SpecVersion, hang_up: HangUp
) -> None:
    """A stream that was given up holds no lock on its rows."""
    app = FastAPI()
    streaming_response(app, _stop_at_five if spec_version == "2.3" else _at_once)

    @app.post("/next", status_code=201)
    async def write_on(session: SessionDep) -> None:
        session.add_all([Item(name=name) for name in ALL])

    async with serving(app, database) as client:
        await client.post("/items", spec_version=spec_version, hang_up_after=5, hang_up=hang_up)

        assert (await client.post("/next")).status == 201
        assert sorted(await client.rows()) == ALL


@pytest.mark.parametrize("stream", STREAMS, ids=ids(STREAMS))
async def test_stream_that_fails_rolls_back(database: Database, stream: Any) -> None:
    """An error in the generator undoes its unit of work, although the response has started."""
    app = FastAPI()

    async def fail_at_five(number: int) -> None:
        if number == 4:
            raise ValueError("broken")

    stream(app, fail_at_five)
    async with serving(app, database) as client:
        answer = await client.post("/items")

        assert answer.status == 200
        assert answer.error is not None
        assert "COMMIT" not in client.log
        assert await client.rows() == []


@pytest.mark.parametrize("cancel", ["task", "timeout", "anyio"])
async def test_server_that_cancels_a_stream_undoes_it(database: Database, cancel: str) -> None:
    """A stream cancelled from outside, by a shutdown or a time limit, is rolled back."""
    app = FastAPI()
    reached = asyncio.Event()

    async def stop(number: int) -> None:
        if number == 4:
            reached.set()
            await asyncio.Event().wait()

    streaming_response(app, stop)
    async with serving(app, database) as client:
        await cancelled_when(reached, cancel, lambda: client.post("/items"))

        assert checked_out(database) == 0
        assert "COMMIT" not in client.log
        assert await client.rows() == []


async def test_task_that_outlives_its_request_keeps_its_session(database: Database) -> None:
    """Only what nobody will end is ended with the response: a task of its own goes on."""
    app = FastAPI()
    sent = asyncio.Event()
    tasks: list[asyncio.Task[None]] = []

    async def work(db: Database, begun: asyncio.Event) -> None:
        async with db.session() as session:
            session.add(Item(name="a"))
            await session.flush()
            begun.set()
            await sent.wait()
            session.add(Item(name="b"))

    @app.post("/items")
    async def create(db: DatabaseDep) -> None:
        begun = asyncio.Event()
        tasks.append(asyncio.create_task(work(db, begun)))
        await begun.wait()

    async with serving(app, database) as client:
        assert (await client.post("/items")).status == 200
        sent.set()
        await tasks[0]

        assert await client.rows() == ["a", "b"]


async def test_a_unit_of_work_per_chunk_keeps_what_was_committed(database: Database) -> None:
    """Who wants to keep what a client has got opens `db.session()` for each part."""
    app = FastAPI()

    async def write(db: Database) -> AsyncIterator[str]:
        for number in range(10):
            async with db.session() as session:
                session.add(Item(name=str(number)))
            yield str(number)

    @app.post("/items")
    async def create(db: DatabaseDep) -> StreamingResponse:
        return StreamingResponse(write(db))

    async with serving(app, database) as client:
        await client.post("/items", spec_version="2.4", hang_up_after=5)

        rows = await client.rows()
        assert rows == ALL[: len(rows)]
        assert len(rows) >= 5


# --- Plain endpoints ---------------------------------------------------------------------------


@pytest.mark.backends("sqlite-memory", "postgresql-asyncpg")
@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
async def test_client_that_leaves_a_plain_endpoint_changes_nothing(
    database: Database, spec_version: SpecVersion
) -> None:
    """An endpoint is not told that its client is gone: it ends, and is committed."""
    app = FastAPI()
    client: Client

    @app.post("/items")
    async def create(session: SessionDep, request: Request) -> None:
        session.add(Item(name="a"))
        await session.flush()
        assert client.exchange is not None
        client.exchange.gone.set()
        await until(request.is_disconnected)

    async with serving(app, database) as client:
        await client.post("/items", spec_version=spec_version)

        assert client.log[:2] == ["BEGIN", "COMMIT"]
        assert await client.rows() == ["a"]


@pytest.mark.backends("sqlite-memory", "postgresql-asyncpg")
@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
async def test_commit_comes_first_behind_http_middleware(
    database: Database, spec_version: SpecVersion
) -> None:
    """Middleware that wraps `send` and `receive` in tasks of its own changes nothing."""
    app = FastAPI()

    async def pass_on(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    app.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)

    @app.post("/items", status_code=201)
    async def create(session: SessionDep) -> None:
        session.add(Item(name="a"))

    async with serving(app, database) as client:
        answer = await client.post("/items", spec_version=spec_version)

        assert client.log[:3] == ["BEGIN", "COMMIT", "start 201"]
        assert answer.rows_at_start == ["a"]


# --- The request's session in a stream ---------------------------------------------------------


@pytest.mark.parametrize("touched", [False, True], ids=["untouched", "used before"])
async def test_request_session_in_a_stream_is_refused(database: Database, touched: bool) -> None:
    """Row 3: the request's session has ended when the stream runs; nothing leaks or gets lost."""
    app = FastAPI()

    async def write(session: AsyncSession) -> AsyncIterator[str]:
        yield "first"
        session.add(Item(name="late"))
        await session.commit()
        yield "second"

    @app.post("/items")
    async def create(session: SessionDep) -> StreamingResponse:
        if touched:
            session.add(Item(name="a"))
        return StreamingResponse(write(session))

    async with serving(app, database) as client:
        answer = await client.post("/items")

        assert isinstance(answer.error, SessionEnded)
        assert "db.session()" in str(answer.error)
        assert answer.body == b"first"
        assert "end" not in client.log
        assert await client.rows() == (["a"] if touched else [])


async def test_request_read_session_in_a_stream_is_refused(database: Database) -> None:
    """Row 3, for reading: the error names StreamSessionDep."""
    app = FastAPI()

    async def read(session: AsyncSession) -> AsyncIterator[str]:
        for name in await session.scalars(select(Item.name)):
            yield name

    @app.get("/items")
    async def export(session: ReadSessionDep) -> StreamingResponse:
        return StreamingResponse(read(session))

    async with serving(app, database) as client:
        answer = await client.get("/items")

        assert isinstance(answer.error, SessionEnded)
        assert "StreamSessionDep" in str(answer.error)
        assert client.log.checkouts == 0


@pytest.mark.backends(*TWINS)
async def test_request_sync_session_in_a_stream_is_refused(database: Database) -> None:
    """Row 3, for the twin."""
    app = FastAPI()

    def read(session: Any) -> Iterator[str]:
        yield from session.scalars(select(Item.name))

    @app.get("/items")
    def export(session: SyncSessionDep) -> StreamingResponse:
        return StreamingResponse(read(session))

    async with serving(app, database, sync=True) as client:
        assert isinstance((await client.get("/items")).error, SessionEnded)


# --- StreamSessionDep --------------------------------------------------------------------------


def _insert_three() -> Any:
    return text("INSERT INTO item (name) VALUES ('a'), ('b'), ('c')")


async def _by_streaming(session: AsyncSession) -> AsyncIterator[str]:
    async for name in await session.stream_scalars(select(Item.name).order_by(Item.id)):
        yield name


async def _by_statements(session: AsyncSession) -> AsyncIterator[str]:
    for offset in range(3):
        name = await session.scalar(select(Item.name).order_by(Item.id).offset(offset).limit(1))
        assert name is not None
        yield name


READS = [_by_streaming, _by_statements]


def _as_response(app: FastAPI, read: Any) -> None:
    @app.get("/items")
    async def export(session: StreamSessionDep) -> StreamingResponse:
        return StreamingResponse(read(session))


def _as_events(app: FastAPI, read: Any) -> None:
    @app.get("/items", response_class=EventSourceResponse)
    async def export(session: StreamSessionDep) -> AsyncIterable[str]:
        async for name in read(session):
            yield name


def _as_lines(app: FastAPI, read: Any) -> None:
    @app.get("/items")
    async def export(session: StreamSessionDep) -> AsyncIterable[str]:
        async for name in read(session):
            yield name


SHAPES = [_as_response, _as_events, _as_lines] if GENERATOR_ENDPOINTS else [_as_response]


@pytest.mark.backends("sqlite-memory", "postgresql", "mysql")
@pytest.mark.parametrize("read", READS, ids=ids(READS))
@pytest.mark.parametrize("shape", SHAPES, ids=ids(SHAPES))
async def test_stream_session_lives_until_the_response_was_sent(
    database: Database, shape: Any, read: Any
) -> None:
    """A stream reads to its end, on one connection, which is given back after it."""
    app = FastAPI()
    held: list[int] = []

    async def noting(session: AsyncSession) -> AsyncIterator[str]:
        async for name in read(session):
            held.append(checked_out(database))
            yield name

    shape(app, noting)
    async with serving(app, database) as client:
        await client.execute(_insert_three())
        answer = await client.get("/items")

        assert (answer.status, answer.error) == (200, None)
        assert [letter for letter in answer.body.decode() if letter in "bc"] == ["b", "c"]
        assert held == [1, 1, 1]
        assert checked_out(database) == 0


@every_leaving
@pytest.mark.parametrize("read", READS, ids=ids(READS))
async def test_stream_session_is_given_back_when_the_client_leaves(
    database: Database, read: Any, spec_version: SpecVersion, hang_up: HangUp
) -> None:
    """A client that hangs up frees the stream's connection when the request ends."""
    app = FastAPI()

    async def reading(session: AsyncSession) -> AsyncIterator[str]:
        async for name in read(session):
            yield name
            if spec_version == "2.3":
                await asyncio.Event().wait()

    _as_response(app, reading)
    async with serving(app, database) as client:
        await client.execute(_insert_three())
        await client.get("/items", spec_version=spec_version, hang_up_after=1, hang_up=hang_up)

        assert "hung up" in client.log
        assert checked_out(database) == 0
        assert await client.rows() == ["a", "b", "c"]


@pytest.mark.parametrize("cancel", ["task", "timeout", "anyio"])
async def test_stream_session_is_given_back_when_the_server_cancels(
    database: Database, cancel: str
) -> None:
    """A stream cancelled from outside frees its connection before the request's task ends."""
    app = FastAPI()
    reached = asyncio.Event()

    async def reading(session: AsyncSession) -> AsyncIterator[str]:
        async for name in _by_streaming(session):
            yield name
            reached.set()
            await asyncio.Event().wait()

    _as_response(app, reading)
    async with serving(app, database) as client:
        await client.execute(_insert_three())
        await cancelled_when(reached, cancel, lambda: client.get("/items"))

        assert checked_out(database) == 0


async def test_stream_session_reads_one_snapshot(database: Database) -> None:
    """What others commit while a stream runs stays out of it."""
    app = FastAPI()
    client: Client

    async def reading(session: AsyncSession) -> AsyncIterator[str]:
        count = select(func.count()).select_from(Item)
        yield str(await session.scalar(count))
        await client.execute(_insert_three())
        yield str(await session.scalar(count))

    _as_response(app, reading)
    async with serving(app, database) as client:
        assert (await client.get("/items")).body == b"00"
        assert len(await client.rows()) == 3


async def test_stream_sees_what_its_own_request_committed(database: Database) -> None:
    """The request's session ends before the stream begins, so the stream reads what it wrote."""
    app = FastAPI()

    @app.post("/items")
    async def create(session: SessionDep, stream: StreamSessionDep) -> StreamingResponse:
        session.add(Item(name="a"))
        return StreamingResponse(_by_streaming(stream))

    async with serving(app, database) as client:
        answer = await client.post("/items")

        assert answer.body == b"a"
        assert answer.rows_at_start == ["a"]


async def test_stream_session_is_kept_for_background_tasks(database: Database) -> None:
    """Background tasks belong to the sending of the response: the stream's session still reads."""
    app = FastAPI()
    read: list[str] = []

    @app.get("/items")
    async def export(session: StreamSessionDep) -> StreamingResponse:
        async def again() -> None:
            read.extend(await session.scalars(select(Item.name)))

        from starlette.background import BackgroundTask

        return StreamingResponse(_by_streaming(session), background=BackgroundTask(again))

    async with serving(app, database) as client:
        await client.execute(_insert_three())
        answer = await client.get("/items")

        assert answer.error is None
        assert sorted(read) == ["a", "b", "c"]


async def test_stream_session_is_refused_after_the_response(database: Database) -> None:
    """When the response has been sent, the stream's session has ended too."""
    app = FastAPI()
    kept: list[AsyncSession] = []

    @app.get("/items")
    async def export(session: StreamSessionDep) -> StreamingResponse:
        kept.append(session)
        return StreamingResponse(_by_streaming(session))

    async with serving(app, database) as client:
        await client.get("/items")

        with pytest.raises(SessionEnded):
            await kept[0].scalars(select(Item))


@pytest.mark.parametrize(
    "dependency", [ReadSessionDep, SnapshotSessionDep], ids=["read", "snapshot"]
)
async def test_read_session_can_stream_within_its_endpoint(
    database: Database, dependency: Any
) -> None:
    """`session.stream()` works in every read session, before the endpoint returns."""
    app = FastAPI()

    async def export(session: AsyncSession) -> list[str]:
        await session.scalar(select(1))
        return [name async for name in _by_streaming(session)]

    export.__annotations__["session"] = dependency
    app.get("/items")(export)
    async with serving(app, database) as client:
        await client.execute(_insert_three())

        assert (await client.get("/items")).json() == ["a", "b", "c"]


# --- Cancelled requests ------------------------------------------------------------------------


@pytest.mark.parametrize("cancel", ["task", "timeout", "anyio"])
async def test_request_cancelled_between_statements_is_rolled_back(
    database: Database, cancel: str
) -> None:
    """Cancelled before COMMIT was sent: ROLLBACK, and the connection is back."""
    app = FastAPI()
    reached = asyncio.Event()

    @app.post("/items")
    async def create(session: SessionDep) -> None:
        session.add(Item(name="a"))
        await session.flush()
        reached.set()
        await asyncio.Event().wait()

    async with serving(app, database) as client:
        await cancelled_when(reached, cancel, lambda: client.post("/items"))

        assert checked_out(database) == 0
        assert client.log == ["BEGIN", "ROLLBACK"]
        assert await client.rows() == []


@pytest.mark.backends(*TWINS)
@pytest.mark.parametrize("cancel", ["task", "timeout", "anyio"])
async def test_request_cancelled_in_a_def_endpoint_is_all_or_nothing(
    database: Database, cancel: str
) -> None:
    """A thread cannot be cancelled: what it writes on its way out is never committed alone."""
    app = FastAPI()
    reached = asyncio.Event()
    go_on = threading.Event()
    loop = asyncio.get_running_loop()

    @app.post("/items")
    def create(session: SyncSessionDep) -> None:
        session.add(Item(name="a"))
        session.flush()
        loop.call_soon_threadsafe(reached.set)
        go_on.wait()
        session.add(Item(name="b"))
        session.flush()

    async with serving(app, database, sync=True) as client:
        call = asyncio.ensure_future(cancelled_when(reached, cancel, lambda: client.post("/items")))
        await reached.wait()
        await asyncio.wait({call}, timeout=0.1)
        go_on.set()
        await call
        await until(lambda: checked_out(database) == 0)

        assert await client.rows() == (["a", "b"] if "COMMIT" in client.log else [])


@pytest.mark.backends(*TWINS)
@pytest.mark.parametrize("cancel", ["task", "timeout", "anyio"])
async def test_request_cancelled_while_a_thread_is_in_a_statement_leaks_nothing(
    database: Database, cancel: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A session is not torn from under the thread that uses it: it ends when the thread is back."""
    app = FastAPI()
    reached = asyncio.Event()
    loop = asyncio.get_running_loop()

    @app.post("/items")
    def create(session: SyncSessionDep) -> None:
        loop.call_soon_threadsafe(reached.set)
        session.execute(update(Counter).values(value=1))
        session.add(Item(name="a"))
        session.flush()

    @app.post("/next", status_code=201)
    def write_on(session: SyncSessionDep) -> None:
        session.add(Item(name="next"))

    async with serving(app, database, sync=True) as client:
        await client.execute(text("INSERT INTO counter (id, value) VALUES (1, 0)"))
        async with database.session() as blocker:
            await blocker.execute(update(Counter).values(value=2))
            call = asyncio.ensure_future(
                cancelled_when(reached, cancel, lambda: client.post("/items"))
            )
            await reached.wait()
            await asyncio.wait({call}, timeout=0.1)
        await call
        await until(lambda: checked_out(database) == 0)

        assert (await client.post("/next")).status == 201
        assert [
            record.getMessage() for record in caplog.records if record.levelname != "DEBUG"
        ] == []
        assert await client.rows() in (["next"], ["a", "next"])


SLOW = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200000000)"
    " SELECT count(*) FROM n",
    "postgresql": "SELECT pg_sleep(1)",
    "mysql": "SELECT sleep(1)",  # the server does not notice that its client has gone
}


@pytest.mark.parametrize("cancel", ["task", "timeout", "anyio"])
async def test_request_cancelled_in_a_query_is_rolled_back(database: Database, cancel: str) -> None:
    """Cancelled in the middle of a statement: rolled back, and the next request is served."""
    app = FastAPI()
    reached = asyncio.Event()

    @app.post("/items")
    async def create(session: SessionDep) -> None:
        session.add(Item(name="a"))
        await session.flush()
        asyncio.get_running_loop().call_soon(reached.set)
        await session.execute(text(SLOW[database.engine.dialect.name]))
        pytest.fail("the query was not cancelled")

    @app.post("/next", status_code=201)
    async def write_on(session: SessionDep) -> None:
        session.add(Item(name="next"))

    async with serving(app, database) as client:
        await cancelled_when(reached, cancel, lambda: client.post("/items"))

        assert checked_out(database) == 0
        assert "COMMIT" not in client.log
        assert (await client.post("/next")).status == 201
        assert await client.rows() == ["next"]


@pytest.mark.backends("postgresql")
@pytest.mark.parametrize("cancel", ["task", "timeout"])
async def test_cancelled_statement_stops_on_the_server(database: Database, cancel: str) -> None:
    """PostgreSQL is told to stop a statement whose request was cancelled, locks and all."""
    await _statement_stops(database, cancel)


@pytest.mark.backends("postgresql-asyncpg")
async def test_statement_cancelled_by_anyio_stops_on_the_server(database: Database) -> None:
    """As above; psycopg cuts its connection then, and the statement runs on (see the docs)."""
    await _statement_stops(database, "anyio")


async def _statement_stops(database: Database, cancel: str) -> None:
    app = FastAPI()
    running = text("SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(1000)'")

    @app.get("/")
    async def wait(session: SessionDep) -> None:
        await session.execute(text("SELECT pg_sleep(1000)"))

    async with serving(app, database) as client:
        reached = asyncio.Event()

        async def count(expected: int) -> bool:
            return await client.look(running) == [expected]

        async def watch() -> None:
            await until(lambda: count(1))
            reached.set()

        watching = asyncio.ensure_future(watch())
        await cancelled_when(reached, cancel, lambda: client.get("/"))
        await watching

        await until(lambda: count(0))
