"""Faults that a test asks for: as the database's own in everything that follows."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import event, insert, select, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from asgi import until
from backends import Backend
from fastdb import (
    CommitOutcomeUnknown,
    ConfigurationError,
    Database,
    PoolOptions,
    ReadSessionDep,
    SessionDep,
    SyncSessionDep,
    Timeouts,
    TransactionFailed,
    atomic,
    install_error_handlers,
)
from fastdb.errors import ErrorKind, PoolExhausted, classify
from fastdb.testing.faults import (
    CommitError,
    Fault,
    fail_commit,
    full_pool,
    full_sync_pool,
    time_out_query,
)
from fastdb.testing.queries import assert_query_count, count_queries
from models import Base, Hero

ANSWERS: dict[CommitError, tuple[int, str]] = {
    "serialization": (503, "serialization"),
    "lock_timeout": (503, "lock_timeout"),
    "unknown": (500, "commit_outcome_unknown"),
}

by_error = pytest.mark.parametrize("error", ANSWERS)


@pytest.fixture
async def db(backend: Backend) -> AsyncIterator[Database]:
    """A database with a table, and one connection for all sessions that write."""
    limits = Timeouts(pool=0.05)
    async with Database(backend.url, pool=PoolOptions(size=1), timeouts=limits) as db:
        await db.create_all(Base.metadata)
        yield db


@pytest.fixture
async def client(db: Database) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an app with fastdb's handlers."""
    app = FastAPI()
    install_error_handlers(app)

    @app.post("/heroes/{name}", status_code=201)
    async def create(name: str, session: SessionDep) -> None:
        session.add(Hero(name=name))

    @app.post("/sync/{name}", status_code=201)
    def create_sync(name: str, session: SyncSessionDep) -> None:
        session.add(Hero(name=name))

    @app.get("/heroes")
    async def list_heroes(session: ReadSessionDep) -> list[str]:
        return list(await session.scalars(select(Hero.name).order_by(Hero.id)))

    transport = httpx.ASGITransport(app)
    async with db.lifespan(app), httpx.AsyncClient(transport=transport, base_url="http://a") as it:
        yield it


async def names(db: Database) -> list[str]:
    async with db.read_session() as session:
        return list(await session.scalars(select(Hero.name).order_by(Hero.id)))


async def add(db: Database, name: str) -> None:
    async with db.session() as session:
        session.add(Hero(name=name))


# --- COMMIT -----------------------------------------------------------------------------------


@by_error
@pytest.mark.parametrize("path", ["/heroes", "/sync"])
async def test_a_failed_commit_is_answered(
    db: Database, client: httpx.AsyncClient, error: CommitError, path: str
) -> None:
    """The handlers answer as in earnest, nothing is written, and the next request is served."""
    with fail_commit(db, error) as fault:
        answer = await client.post(f"{path}/a")
    assert (answer.status_code, answer.json()["kind"]) == ANSWERS[error]
    assert fault.happened == 1
    assert (await client.get("/heroes")).json() == []
    assert (await client.post(f"{path}/b")).status_code == 201
    assert (await client.get("/heroes")).json() == ["b"]


@pytest.mark.parametrize("error", ["serialization", "lock_timeout"])
async def test_it_is_the_drivers_own_error(db: Database, error: CommitError) -> None:
    """Of the class and with the code that `classify` and every handler look at."""
    with fail_commit(db, error), pytest.raises(DBAPIError) as raised:
        await add(db, "a")
    assert classify(raised.value) is ErrorKind(error)
    assert isinstance(raised.value.orig, db.engine.dialect.loaded_dbapi.Error)
    assert not raised.value.connection_invalidated
    assert await names(db) == []


@pytest.mark.backends("postgresql", "mysql")
async def test_a_deadlock_is_the_servers(db: Database, client: httpx.AsyncClient) -> None:
    """As the other conflicts; SQLite knows none."""
    with fail_commit(db, "deadlock"):
        answer = await client.post("/heroes/a")
    assert (answer.status_code, answer.json()["kind"]) == (503, "deadlock")
    with fail_commit(db, "deadlock"), pytest.raises(DBAPIError) as raised:
        await add(db, "a")
    assert classify(raised.value) is ErrorKind.DEADLOCK
    assert await names(db) == []


async def test_an_unknown_outcome_is_raised_as_such(db: Database) -> None:
    """With the connection kept: nothing of it was cut, and it is clean."""
    connects: list[object] = []
    event.listen(db.engine.sync_engine, "connect", lambda *args: connects.append(args))
    await add(db, "a")
    with fail_commit(db, "unknown"), pytest.raises(CommitOutcomeUnknown):
        await add(db, "b")
    assert db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    await add(db, "c")
    assert await names(db) == ["a", "c"]
    assert connects == []


@by_error
@pytest.mark.parametrize("how", ["explicit", "begin", "engine", "twin", "twin_engine"])
async def test_every_commit_can_fail(db: Database, error: CommitError, how: str) -> None:
    """That of `session.commit()`, of a block, of SQLAlchemy's own connections, and the twin's."""
    with fail_commit(db, error), pytest.raises(Exception) as raised:  # noqa: PT011 - see below
        await COMMITS[how](db)
    expected: type[Exception] = DBAPIError
    if error == "unknown":
        expected = ConnectionResetError if "engine" in how else CommitOutcomeUnknown
    assert isinstance(raised.value, expected)
    assert await names(db) == []
    await COMMITS[how](db)
    assert await names(db) == ["a"]


async def _explicit(db: Database) -> None:
    async with db.session() as session:
        session.add(Hero(name="a"))
        await session.commit()


async def _begin(db: Database) -> None:
    async with db.session() as session, session.begin():
        session.add(Hero(name="a"))


async def _engine(db: Database) -> None:
    async with db.engine.begin() as connection:
        await connection.execute(insert(Hero).values(name="a"))


async def _twin(db: Database) -> None:
    def work() -> None:
        with db.sync.session() as session:
            session.add(Hero(name="a"))

    await asyncio.to_thread(work)


async def _twin_engine(db: Database) -> None:
    def work() -> None:
        with db.sync.engine.begin() as connection:
            connection.execute(insert(Hero).values(name="a"))

    await asyncio.to_thread(work)


COMMITS: dict[str, Callable[[Database], Any]] = {
    "explicit": _explicit,
    "begin": _begin,
    "engine": _engine,
    "twin": _twin,
    "twin_engine": _twin_engine,
}


async def test_run_begins_anew(db: Database) -> None:
    """As often as COMMIT fails, and then it is written once."""
    attempts = 0

    async def unit(session: AsyncSession) -> None:
        nonlocal attempts
        attempts += 1
        session.add(Hero(name="a"))

    with fail_commit(db, "serialization", times=2) as fault:
        await db.run(unit)
    assert (attempts, fault.happened) == (3, 2)
    assert await names(db) == ["a"]


async def test_run_leaves_an_unknown_outcome_alone(db: Database) -> None:
    """It might be written twice."""
    with fail_commit(db, "unknown"), pytest.raises(CommitOutcomeUnknown):
        await db.run(lambda session: session.execute(insert(Hero).values(name="a")))
    assert await names(db) == []


async def test_savepoints_are_no_commits(db: Database) -> None:
    """What ends with `atomic` is not durable yet: the COMMIT is the one around it."""
    with fail_commit(db), pytest.raises(DBAPIError):
        async with db.session() as session:
            async with atomic(session):
                session.add(Hero(name="a"))
            assert await session.scalar(select(Hero.name)) == "a"
    assert await names(db) == []


# --- Time limits ------------------------------------------------------------------------------


async def test_a_query_that_takes_too_long_is_answered(
    db: Database, client: httpx.AsyncClient
) -> None:
    """504, of the driver's own class, nothing is written, and the next request is served."""
    with time_out_query(db):
        answer = await client.get("/heroes")
    assert (answer.status_code, answer.json()["kind"]) == (504, "statement_timeout")
    for path in ("/heroes/a", "/sync/a"):
        with time_out_query(db) as fault:
            answer = await client.post(path)
        assert (answer.status_code, fault.happened) == (504, 1)
    assert (await client.get("/heroes")).json() == []
    assert (await client.post("/heroes/b")).status_code == 201


async def test_only_a_query_that_matches(db: Database) -> None:
    """The others run; so do BEGIN, savepoints, and what fastdb sets by itself."""
    with time_out_query(db, "insert into HERO"), pytest.raises(DBAPIError) as raised:
        async with db.session(timeouts=Timeouts(statement=7)) as session:
            assert await session.scalar(text("SELECT 1")) == 1
            session.add(Hero(name="a"))
            await session.flush()
    assert classify(raised.value) is ErrorKind.STATEMENT_TIMEOUT
    assert (raised.value.statement or "").startswith("INSERT INTO hero")
    assert "a" in str(raised.value.params)
    assert await names(db) == []
    with time_out_query(db), pytest.raises(DBAPIError) as raised:
        async with db.session(timeouts=Timeouts(statement=7)) as session, atomic(session):
            await session.execute(text("SELECT 2"))
    assert raised.value.statement == "SELECT 2"


async def test_every_way_to_execute_can_time_out(db: Database) -> None:
    """Many rows at once, rows that are streamed, and what is given to the driver as it is."""

    async def many(session: AsyncSession) -> None:
        await session.execute(insert(Hero), [{"name": "a"}, {"name": "b"}])

    async def streamed(session: AsyncSession) -> None:
        await session.stream(select(Hero))

    async def driver(session: AsyncSession) -> None:
        await (await session.connection()).exec_driver_sql("SELECT 1")

    async def unprepared(session: AsyncSession) -> None:
        connection = await session.connection(execution_options={"no_parameters": True})
        await connection.exec_driver_sql("SELECT 1")

    for execute in (many, streamed, driver, unprepared):
        with time_out_query(db), pytest.raises(DBAPIError) as raised:
            async with db.session() as session:
                await execute(session)
        assert classify(raised.value) is ErrorKind.STATEMENT_TIMEOUT
    assert await names(db) == []


async def test_a_time_out_that_is_caught_is_not_committed(db: Database) -> None:
    """As after any statement that has failed; inside of `atomic` the rest goes on."""
    with time_out_query(db, "SELECT 1"), pytest.raises(TransactionFailed):
        async with db.session() as session:
            session.add(Hero(name="a"))
            await session.flush()
            with pytest.raises(DBAPIError):
                await session.execute(text("SELECT 1"))
    assert await names(db) == []
    with time_out_query(db, "SELECT 1"):
        async with db.session() as session:
            session.add(Hero(name="b"))
            with pytest.raises(DBAPIError):
                async with atomic(session):
                    await session.execute(text("SELECT 1"))
    assert await names(db) == ["b"]


# --- A full pool ------------------------------------------------------------------------------


async def test_a_full_pool_is_answered(db: Database, client: httpx.AsyncClient) -> None:
    """503, of fastdb's own class and SQLAlchemy's; and afterwards all connections are there."""
    async with full_pool(db):
        answer = await client.post("/heroes/a")
        assert (answer.status_code, answer.json()["kind"]) == (503, "pool_exhausted")
        with pytest.raises(PoolExhausted) as raised:
            await add(db, "a")
        assert isinstance(raised.value, SQLAlchemyError)
        assert (await client.get("/heroes")).json() == []  # another pool
    assert (await client.post("/heroes/b")).status_code == 201
    async with full_pool(db, read=True):
        assert (await client.get("/heroes")).status_code == 503
    assert (await client.get("/heroes")).json() == ["b"]


async def test_the_twins_pool_is_filled(db: Database) -> None:
    """For `def` endpoints and scripts; it too wants somebody to be refused."""

    def work() -> None:
        for read, session in ((False, db.sync.session), (True, db.sync.read_session)):
            with full_sync_pool(db.sync, read=read), pytest.raises(PoolExhausted), session() as it:
                it.execute(text("SELECT 1"))
            with pytest.raises(AssertionError), full_sync_pool(db.sync, read=read):
                pass
            with session() as it:
                it.execute(text("SELECT 1"))

    await asyncio.to_thread(work)


async def test_a_def_endpoint_meets_a_full_pool(db: Database, client: httpx.AsyncClient) -> None:
    """What has filled it may be another thread, for as long as the requests take."""
    filled, answered = threading.Event(), threading.Event()

    def fill() -> None:
        with full_sync_pool(db.sync):
            filled.set()
            answered.wait(5)

    filling = asyncio.create_task(asyncio.to_thread(fill))
    await until(filled.is_set)
    assert (await client.post("/sync/a")).status_code == 503
    answered.set()
    await filling
    assert (await client.post("/sync/b")).status_code == 201


async def test_all_of_a_larger_pool_are_taken(backend: Backend) -> None:
    """What overflows, too, and what is in use already; given back where the block fails."""
    pool = PoolOptions(size=2, max_overflow=1)
    async with Database(backend.url, pool=pool, timeouts=Timeouts(pool=0.05)) as db:
        with pytest.raises(ZeroDivisionError):
            async with db.engine.connect(), full_pool(db):
                assert db.engine.pool.checkedout() == 3  # type: ignore[attr-defined]
                1 / 0  # noqa: B018
        assert db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_a_pool_without_limit_is_never_full(backend: Backend) -> None:
    """And says so at once, instead of connecting for ever."""
    async with Database(backend.url, pool=PoolOptions.null()) as db:
        with pytest.raises(ConfigurationError) as raised:
            async with full_pool(db):
                pass
        assert str(raised.value) == (
            f"full_pool({db!r}): its pool is a NullPool, which is never full. Give the Database of"
            " this test a queue, `pool=PoolOptions(size=1)`."
        )


# --- The blocks -------------------------------------------------------------------------------


async def test_what_never_happens_fails_the_test(db: Database) -> None:
    """A test that does not see its fault tests nothing; nor does one that sees too few."""
    with pytest.raises(AssertionError) as raised, fail_commit(db, "unknown"):
        await names(db)
    assert str(raised.value) == (
        f"fail_commit({db!r}, 'unknown'): happened 0 of 1 times in its block, so the test has not"
        " seen what it is about."
    )
    with (
        pytest.raises(AssertionError) as raised,
        time_out_query(db, "SELECT 1", times=2),
        pytest.raises(DBAPIError),
    ):
        async with db.session() as session:
            await session.execute(text("SELECT 1"))
    assert str(raised.value) == (
        f"time_out_query({db!r}, matching='SELECT 1'): happened 1 of 2 times in its block, so the"
        " test has not seen what it is about."
    )
    with pytest.raises(AssertionError) as raised:
        async with full_pool(db):
            await names(db)
    assert str(raised.value) == (
        f"The pool of {db.engine.url.database} was full, and nobody was refused a connection, so"
        " the test has not seen what it is about."
    )


async def test_an_error_of_the_block_is_not_hidden(db: Database) -> None:
    """What has gone wrong before the fault could happen is what the test must show."""
    for block in (fail_commit(db), time_out_query(db)):
        with pytest.raises(ZeroDivisionError), block:
            1 / 0  # noqa: B018
    with pytest.raises(ZeroDivisionError):
        async with full_pool(db):
            1 / 0  # noqa: B018
    await add(db, "a")  # and nothing is left of them


async def test_other_databases_are_left_alone(db: Database) -> None:
    """One in another, each meets its own."""
    async with Database("sqlite://") as other:
        await other.create_all(Base.metadata)
        with fail_commit(db), time_out_query(other, "hero"):
            await names(db)
            with pytest.raises(DBAPIError) as raised:
                await add(other, "a")
            assert classify(raised.value) is ErrorKind.STATEMENT_TIMEOUT
            await add(other, "b")
            with pytest.raises(DBAPIError) as raised:
                await add(db, "a")
            assert classify(raised.value) is ErrorKind.SERIALIZATION
            await add(db, "b")
        assert await names(other) == ["b"]
    assert await names(db) == ["b"]


async def test_several_faults_of_one_database(db: Database) -> None:
    """The outer one comes first, and each happens as often as it is to."""
    with (
        fail_commit(db, "unknown") as unknown,
        fail_commit(db, "lock_timeout", times=2) as locked,
        time_out_query(db, "hero") as late,
    ):
        for _ in range(4):
            with pytest.raises((DBAPIError, CommitOutcomeUnknown)):
                await add(db, "a")
        await add(db, "b")
    assert (unknown.happened, locked.happened, late.happened) == (1, 2, 1)
    assert await names(db) == ["b"]


async def test_faults_are_no_queries(db: Database) -> None:
    """A counter around them counts what the application has executed, or tried to."""
    with count_queries(db) as queries:
        with fail_commit(db), pytest.raises(DBAPIError):
            await add(db, "a")
        with time_out_query(db), pytest.raises(DBAPIError):
            await add(db, "b")
    assert_query_count(queries, 2)


async def test_an_engine_made_meanwhile_fails_too(backend: Backend) -> None:
    """The block may begin before the app has started, in another thread and loop."""
    db = Database(backend.url)

    async def work() -> None:
        async with db:
            await db.create_all(Base.metadata)

    with fail_commit(db), pytest.raises(DBAPIError):
        await work()


async def test_wrong_arguments_are_told(db: Database) -> None:
    """When the block is entered, before anything else."""
    choices = "serialization, deadlock, lock_timeout, unknown"
    wrong: list[tuple[Any, str]] = [
        (
            fail_commit(db.engine),  # type: ignore[arg-type]
            f"fail_commit({db.engine!r}): must be a fastdb.Database, not one of its engines or its"
            " twin.",
        ),
        (
            fail_commit(db, "disconnected"),  # type: ignore[arg-type]
            f"fail_commit({db!r}, 'disconnected'): no such failure of COMMIT; use one of"
            f" {choices}.",
        ),
        (
            fail_commit(db, times=0),
            f"fail_commit({db!r}, 'serialization'), times=0: must be a whole number, 1 or more.",
        ),
        (
            time_out_query(db, 1),  # type: ignore[arg-type]
            "time_out_query(matching=1): must be a string.",
        ),
        (
            full_sync_pool(db),  # type: ignore[arg-type]
            f"full_sync_pool({db!r}): must be a twin, `db.sync`.",
        ),
    ]
    for block, message in wrong:
        with pytest.raises(ConfigurationError) as raised, block:
            pass
        assert str(raised.value) == message


@pytest.mark.backends("sqlite")
async def test_sqlite_knows_no_deadlocks(db: Database) -> None:
    """What cannot happen is not tested."""
    with pytest.raises(ConfigurationError) as raised, fail_commit(db, "deadlock"):
        pass
    assert str(raised.value) == (
        f"fail_commit({db!r}, 'deadlock'): SQLite knows no deadlocks. Use \"serialization\" or"
        ' "lock_timeout".'
    )


def test_a_fault_is_counted() -> None:
    """By as many threads as there are."""
    fault = Fault("it", 2)
    assert [fault.is_due(), fault.is_due(), fault.is_due()] == [True, True, False]
    assert fault.happened == 2
    fault.assert_happened()
