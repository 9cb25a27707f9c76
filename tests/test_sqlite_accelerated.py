"""The dialect `sqlite+fastdb`: few ways to the thread, and all that SQLAlchemy promises."""

import asyncio
import inspect
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
import sqlalchemy
from sqlalchemy import event, func, insert, select, text
from sqlalchemy import inspect as inspect_database
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.ext.asyncio import create_async_engine as create_plain_engine
from sqlalchemy.pool import NullPool, QueuePool

from fastdb import (
    Database,
    PoolOptions,
    SQLiteOptions,
    Timeouts,
    TransactionFailed,
    create_async_engine,
)
from fastdb.sqlite.accelerated import AcceleratedConnection
from models import Base, Counter, Hero
from sqlite_hops import Hops
from sqlite_trace import trace

INSERT = text("INSERT INTO hero (name) VALUES (:name)")
FOREVER = text(
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000000000)"
    " SELECT count(*) FROM n"
)
WRITE_FOREVER = text(
    "INSERT INTO counter (value)"
    " WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000000000)"
    " SELECT i FROM n"
)
ROLLED_BACK = (
    "SQLite has rolled back this transaction because of an earlier error: roll back, and begin"
    " again"
)


@pytest.fixture
async def db(sqlite_url: str) -> AsyncIterator[Database]:
    """A database with the tables of `models`, that asks its connections nothing by itself."""
    async with Database(sqlite_url, pool=PoolOptions(ping_after=None)) as database:
        await database.create_all(Base.metadata)
        async with database.read_session() as session:
            await session.execute(select(1))
        yield database
        assert isinstance(database.engine.pool, QueuePool)
        assert database.engine.pool.checkedout() == 0


@pytest.fixture
async def connection(db: Database) -> AsyncIterator[AsyncConnection]:
    """A connection of the engine that writes, in no transaction yet."""
    async with db.engine.connect() as connection:
        yield connection


@pytest.fixture
def hops(monkeypatch: pytest.MonkeyPatch) -> Hops:
    """How often a connection's thread was gone to."""
    return Hops(monkeypatch)


async def names(db: Database) -> list[str]:
    """What was committed."""
    async with db.read_session() as session:
        return list(await session.scalars(select(Hero.name).order_by(Hero.id)))


async def is_free(db: Database) -> bool:
    """Whether somebody else can have the write lock at once."""
    path = db.engine.url.database
    assert path is not None
    async with aiosqlite.connect(path, isolation_level=None, timeout=0) as other:
        try:
            await other.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        return True


def heroes(count: int) -> list[dict[str, Any]]:
    return [{"name": f"hero {number}"} for number in range(count)]


# --- What it stands on --------------------------------------------------------------------------


async def test_the_private_names_of_aiosqlite_that_are_relied_on(tmp_path: Path) -> None:
    """When this fails, `accelerated` must be adapted to that version of aiosqlite.

    `Connection._execute(function, *args)` calls the function in the connection's thread and brings
    back what it returns or raises; calls run in order; `_conn` is the sqlite3 connection.
    """
    assert inspect.iscoroutinefunction(aiosqlite.Connection._execute)
    assert list(inspect.signature(aiosqlite.Connection._execute).parameters)[:2] == ["self", "fn"]
    here = threading.current_thread()

    async with aiosqlite.connect(tmp_path / "private.db") as connection:
        execute: Any = connection._execute
        assert isinstance(connection._conn, sqlite3.Connection)
        there = await execute(threading.current_thread)
        assert there is not here
        assert await execute(threading.current_thread) is there
        assert await execute(lambda number: number + 1, 1) == 2
        with pytest.raises(ZeroDivisionError):
            await execute(lambda: 1 / 0)
        first, second = execute(lambda: order.append(1)), execute(lambda: order.append(2))
        order: list[int] = []
        await asyncio.gather(first, second)
        assert order == [1, 2]
        raw = connection._conn
    with pytest.raises(ValueError, match=r"(?i)no active connection|connection closed"):
        await execute(lambda: None)
    with pytest.raises(ValueError, match="no active connection"):
        assert connection._conn is None
    with pytest.raises(sqlite3.ProgrammingError):
        assert raw.in_transaction


async def test_sqlalchemy_finds_the_dialect_by_its_name(sqlite_url: str) -> None:
    """Also without fastdb's own functions, in a URL."""
    url = sqlite_url.replace("sqlite:", "sqlite+fastdb:")
    engine = create_plain_engine(url, inline_reads=False)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(insert(Hero), heroes(3))
    async with engine.connect() as connection:
        assert await connection.scalar(select(func.count()).select_from(Hero)) == 3
        tables = await connection.run_sync(lambda it: inspect_database(it).get_table_names())
        assert "hero" in tables
        raw = await connection.get_raw_connection()
        assert isinstance(raw.driver_connection, aiosqlite.Connection)
    await engine.dispose()


# --- The number of hops -------------------------------------------------------------------------


async def test_a_read_takes_one_hop(db: Database, hops: Hops) -> None:
    """BEGIN, the statement and its rows together; the end of a transaction that has read, none."""
    for session in (db.read_session(), db.session(), db.session(begin="deferred")):
        with hops.expected(1):
            async with session as session:
                await session.execute(select(Hero))
                with hops.expected(1):
                    await session.execute(select(Hero).order_by(Hero.name))
                hops.count -= 1


async def test_a_write_takes_two_hops(db: Database, hops: Hops) -> None:
    """The statement, with its BEGIN, and COMMIT."""
    with hops.expected(2):
        async with db.session() as session:
            with hops.expected(1):
                await session.execute(INSERT, {"name": "a"})
    with hops.expected(2), pytest.raises(ZeroDivisionError):
        async with db.session() as session:
            await session.execute(INSERT, {"name": "b"})
            raise ZeroDivisionError
    with hops.expected(3):
        async with db.session() as session:
            session.add(Hero(name="c"))
            await session.flush()
            await session.execute(select(Hero))
    assert await names(db) == ["a", "c"]


async def test_many_rows_take_one_hop(db: Database, hops: Hops) -> None:
    """`executemany` goes to the thread once."""
    with hops.expected(2):
        async with db.session() as session:
            await session.execute(INSERT, heroes(100))
    assert len(await names(db)) == 100


async def test_an_unused_session_takes_none(db: Database, hops: Hops) -> None:
    """Nor does a connection that is taken and given back, or a COMMIT with nothing open."""
    with hops.expected(0):
        async with db.session():
            pass
        async with db.session() as session:
            await session.commit()
            await session.rollback()
        async with db.session() as session:
            await session.connection()
        async with db.engine.begin() as connection:
            await connection.commit()
        async with db.engine.connect() as connection:
            await connection.rollback()


async def test_closing_a_cursor_takes_none(connection: AsyncConnection, hops: Hops) -> None:
    """Its rows have come with it."""
    with hops.expected(1):
        result = await connection.execute(select(Hero))
        result.close()
        raw = (await connection.get_raw_connection()).dbapi_connection
        assert raw is not None
        raw.cursor().close()


async def test_savepoints_take_one_hop_each(db: Database, hops: Hops) -> None:
    """SAVEPOINT, which begins as well, the write in it, RELEASE, COMMIT."""
    with hops.expected(4):
        async with db.session() as session, session.begin_nested():
            await session.execute(INSERT, {"name": "a"})
    assert await names(db) == ["a"]


async def test_a_stream_fetches_as_it_goes(db: Database, hops: Hops) -> None:
    """Its hops grow with its rows, which are never all in memory."""
    async with db.session() as session:
        await session.execute(insert(Counter), [{"value": number} for number in range(1000)])
    fetched: list[int] = []

    def note(value: int) -> int:
        fetched.append(value)
        return value

    async with db.engine.connect() as connection:
        raw: Any = (await connection.get_raw_connection()).driver_connection
        await raw.create_function("note", 1, note)
        statement = select(func.note(Counter.value)).execution_options(yield_per=10)
        begun = hops.count
        result = await connection.stream_scalars(statement)
        values = [await anext(result) for _ in range(25)]
        assert values == list(range(25))
        assert len(fetched) < 100
        assert 2 < hops.count - begun < 10
        values += [value async for value in result]
    assert values == list(range(1000))
    assert fetched == values
    assert hops.count - begun > 100


# --- What a cursor knows ------------------------------------------------------------------------


async def test_counts_keys_and_columns(connection: AsyncConnection) -> None:
    """`rowcount`, `lastrowid` and `description` are what the driver's own cursor says."""
    result: Any = await connection.execute(insert(Hero).values(id=7, name="a"))
    assert (result.rowcount, result.lastrowid, result.inserted_primary_key) == (1, 7, (7,))
    result = await connection.execute(text("INSERT INTO hero (name) VALUES ('b'), ('c')"))
    assert (result.rowcount, result.lastrowid, result.returns_rows) == (2, 9, False)
    result = await connection.execute(text("UPDATE hero SET team_id = NULL"))
    assert result.rowcount == 3
    result = await connection.execute(INSERT, heroes(5))
    assert result.rowcount == 5
    result = await connection.execute(text("DELETE FROM hero WHERE id > 8"))
    assert result.rowcount == 6
    result = await connection.execute(text("SELECT id AS one, name AS two FROM hero"))
    assert list(result.keys()) == ["one", "two"]
    assert [column[0] for column in result.cursor.description] == ["one", "two"]
    result = await connection.execute(text("SELECT id AS one FROM hero WHERE 0"))
    assert (list(result.keys()), result.all()) == (["one"], [])


async def test_returning(connection: AsyncConnection) -> None:
    """Rows of INSERT, UPDATE and DELETE come back, of many at once in the order given."""
    adding = insert(Hero).returning(Hero.id, Hero.name, sort_by_parameter_order=True)
    result = await connection.execute(adding, heroes(5))
    assert result.all() == [(number + 1, f"hero {number}") for number in range(5)]
    changing = text("UPDATE hero SET name = name || '!' WHERE id < 3 RETURNING name")
    assert (await connection.scalars(changing)).all() == ["hero 0!", "hero 1!"]
    removing = text("DELETE FROM hero WHERE id < 3 RETURNING id")
    assert (await connection.scalars(removing)).all() == [1, 2]


async def test_the_ways_to_fetch(connection: AsyncConnection) -> None:
    """One, some, all of what is left, and none after that."""
    await connection.execute(INSERT, heroes(6))
    result = await connection.execute(select(Hero.id).order_by(Hero.id))
    assert result.fetchone() == (1,)
    assert result.fetchmany(2) == [(2,), (3,)]
    assert next(iter(result)) == (4,)
    assert result.fetchall() == [(5,), (6,)]
    streamed = await connection.stream(select(Hero.id).order_by(Hero.id))
    assert await streamed.fetchone() == (1,)
    assert await streamed.fetchmany(2) == [(2,), (3,)]
    assert await anext(streamed) == (4,)
    assert await streamed.fetchall() == [(5,), (6,)]
    assert await streamed.fetchone() is None


async def test_a_dbapi_cursor_of_ones_own(connection: AsyncConnection) -> None:
    """Events and `run_sync` hand out the DBAPI's objects; they work as SQLAlchemy's own do."""

    def use(sync_connection: sqlalchemy.Connection) -> None:
        raw: Any = sync_connection.connection.dbapi_connection
        assert isinstance(raw, AcceleratedConnection)
        for server_side in (False, True):
            cursor = raw.cursor(server_side=server_side)
            assert cursor.fetchone() is None
            cursor.execute("SELECT 1 UNION SELECT 2 UNION SELECT 3")
            assert cursor.fetchmany() == [(1,)]
            assert list(cursor) == [(2,), (3,)]
            cursor.close()
            assert cursor.fetchall() == []
            cursor.close()
        assert raw.execute("SELECT ?", (5,)).fetchall() == [(5,)]

    await connection.run_sync(use)


# --- Transactions -------------------------------------------------------------------------------


@asynccontextmanager
async def begins(engine: AsyncEngine) -> AsyncIterator[list[str]]:
    """Note what SQLite is told of transactions."""
    words = ("BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE", "PRAGMA")
    seen: list[str] = []
    trace(engine.sync_engine, lambda it: seen.append(it) if it.upper().startswith(words) else None)
    yield seen


async def test_savepoints(db: Database) -> None:
    """What is rolled back to is gone, what is released stays, what is around it is not touched."""
    async with db.session() as session:
        await session.execute(INSERT, {"name": "before"})
        with pytest.raises(ZeroDivisionError):
            async with session.begin_nested():
                await session.execute(INSERT, {"name": "lost"})
                async with session.begin_nested():
                    await session.execute(INSERT, {"name": "lost too"})
                raise ZeroDivisionError
        async with session.begin_nested():
            await session.execute(INSERT, {"name": "kept"})
            with pytest.raises(IntegrityError):
                async with session.begin_nested():
                    await session.execute(INSERT, {"name": "kept"})
    assert await names(db) == ["before", "kept"]


async def test_ddl_is_rolled_back(connection: AsyncConnection) -> None:
    """A table and its rows go with their transaction."""
    await connection.execute(text("CREATE TABLE extra (id INTEGER)"))
    await connection.execute(text("INSERT INTO extra VALUES (1)"))
    await connection.rollback()
    with pytest.raises(OperationalError, match="no such table: extra"):
        await connection.execute(text("SELECT * FROM extra"))


async def test_serializable_and_read_uncommitted(db: Database) -> None:
    """As SQLAlchemy documents them: a pragma, for one connection, and reset afterwards."""
    pragma = text("PRAGMA read_uncommitted")
    for level, value in (("READ UNCOMMITTED", 1), ("SERIALIZABLE", 0)):
        async with db.engine.connect() as connection:
            await connection.execution_options(isolation_level=level)
            assert await connection.get_isolation_level() == level
            assert await connection.scalar(pragma) == value
            await connection.execute(INSERT, {"name": level})
            await connection.rollback()
        async with db.engine.connect() as connection:
            assert await connection.scalar(pragma) == 0
    assert await names(db) == []
    engine = create_async_engine(db.engine.url, isolation_level="READ UNCOMMITTED")
    async with engine.connect() as connection:
        assert await connection.scalar(pragma) == 1
    await engine.dispose()


async def test_autocommit(db: Database) -> None:
    """Each statement is committed by itself, BEGIN is never sent, and the next user is told."""
    async with begins(db.engine) as seen:
        async with db.engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            await connection.execute(INSERT, {"name": "a"})
            assert await names(db) == ["a"]
            await connection.execute(INSERT, {"name": "b"})
            await connection.rollback()
        assert [word for word in seen if not word.startswith("PRAGMA")] == []
        async with db.engine.connect() as connection:
            await connection.execute(INSERT, {"name": "c"})
            await connection.rollback()
    assert [word for word in seen if not word.startswith("PRAGMA")] == [
        "BEGIN IMMEDIATE",
        "ROLLBACK",
    ]
    assert await names(db) == ["a", "b"]


async def test_an_abandoned_stream_in_autocommit_keeps_no_snapshot(sqlite_url: str) -> None:
    """The next user of its connection sees what is committed, and can write."""
    async with Database(sqlite_url, pool=PoolOptions(size=1, max_overflow=0)) as db:
        await db.create_all(Base.metadata)
        async with db.session() as session:
            await session.execute(INSERT, heroes(100))
        autocommit = db.engine.execution_options(isolation_level="AUTOCOMMIT")
        async with autocommit.connect() as connection:
            stream = await connection.stream(select(Hero.id).execution_options(yield_per=1))
            await anext(stream)

        def write() -> None:
            with db.sync.session() as session:
                session.execute(INSERT, {"name": "new"})

        await asyncio.to_thread(write)
        async with db.session(begin="deferred") as session:
            names_seen = list(await session.scalars(select(Hero.name)))
        assert "new" in names_seen
        async with db.session() as session:
            await session.execute(INSERT, {"name": "newer"})


async def test_for_update_takes_the_write_lock(db: Database) -> None:
    """SQLite has no words for it: the transaction that it begins is a writer's."""
    async with begins(db.engine) as seen:
        for statement in (
            select(Hero).with_for_update(),
            select(select(Hero.id).with_for_update().subquery()),
            select(Hero),
        ):
            for _ in range(2):  # compiled, and from the cache
                async with db.session(begin="deferred") as session:
                    await session.execute(statement)
        async with db.session(begin="deferred") as session:
            await session.get(Hero, 1, with_for_update=True)
        async with db.session(begin="deferred") as session:
            await session.stream(select(Hero).with_for_update())
    assert [word for word in seen if "BEGIN" in word] == [
        *["BEGIN IMMEDIATE"] * 4,
        *["BEGIN DEFERRED"] * 2,
        *["BEGIN IMMEDIATE"] * 2,
    ]


@pytest.mark.parametrize(
    "write",
    [
        "INSERT INTO hero (name) VALUES ('a')",
        "insert into hero (name) values ('a') returning id",
        " \n UPDATE hero SET name = 'a'",
        "DELETE FROM hero",
        "REPLACE INTO hero (name) VALUES ('a')",
        "WITH n AS (SELECT 'a') INSERT INTO hero (name) SELECT * FROM n",
        "CREATE TABLE more (id INTEGER)",
        "DROP TABLE late",
        "ALTER TABLE hero ADD COLUMN more INTEGER",
    ],
)
async def test_a_first_statement_that_writes_takes_the_write_lock(db: Database, write: str) -> None:
    """A deferred transaction need not read before, so it waits for its turn."""
    async with begins(db.engine) as seen:
        async with db.session(begin="deferred") as session:
            await session.execute(text(write))
        async with db.session(begin="deferred") as session:
            if "returning" in write:
                await session.stream(text(write.replace("'a'", "'b'")))
    assert seen[:2] == ["BEGIN IMMEDIATE", "COMMIT"]
    assert "BEGIN DEFERRED" not in seen


async def test_executemany_takes_the_write_lock(db: Database) -> None:
    """Many rows as a first statement."""
    async with begins(db.engine) as seen, db.session(begin="deferred") as session:
        await session.execute(INSERT, heroes(3))
    assert seen == ["BEGIN IMMEDIATE", "COMMIT"]


@pytest.mark.parametrize("begin", ["BEGIN", "BEGIN IMMEDIATE", "begin exclusive"])
async def test_the_users_own_begin(sqlite_url: str, begin: str) -> None:
    """By SQLAlchemy's documented recipe: it is sent as it is, and no other besides."""
    engine = create_async_engine(sqlite_url)

    @event.listens_for(engine.sync_engine, "connect")
    def connect(dbapi_connection: Any, _: object) -> None:
        dbapi_connection.isolation_level = None

    @event.listens_for(engine.sync_engine, "begin")
    def begin_so(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql(begin)

    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with begins(engine) as seen:
        async with engine.begin() as connection:
            await connection.execute(INSERT, {"name": "a"})
        async with engine.connect() as connection:
            await connection.execute(INSERT, {"name": "b"})
            async with connection.begin_nested():
                await connection.execute(INSERT, {"name": "c"})
            await connection.rollback()
        async with engine.connect() as connection:
            assert (await connection.scalars(select(Hero.name))).all() == ["a"]
    await engine.dispose()
    savepoint = ["SAVEPOINT sa_savepoint_1", "RELEASE SAVEPOINT sa_savepoint_1"]
    assert seen == [begin, "COMMIT", begin, *savepoint, "ROLLBACK", begin, "ROLLBACK"]


@pytest.mark.parametrize("begin", ["BEGIN", "BEGIN IMMEDIATE", "begin exclusive transaction"])
async def test_a_begin_as_a_first_statement(db: Database, begin: str) -> None:
    """It is the one that is sent, and the session's COMMIT ends it."""
    async with begins(db.engine) as seen, db.session(begin="deferred") as session:
        await session.execute(text(begin))
        await session.execute(INSERT, {"name": "a"})
    assert seen == [begin, "COMMIT"]
    assert await names(db) == ["a"]


# --- Transactions that SQLite itself ends -------------------------------------------------------


async def conflict(session: Any) -> None:
    """Let SQLite roll back: the transaction is gone, and nobody has ended it."""
    with pytest.raises(IntegrityError):
        await session.execute(text("INSERT OR ROLLBACK INTO hero (name) VALUES ('a')"))


@pytest.mark.parametrize("how", ["accelerated", "plain", "twin"])
async def test_what_comes_after_a_lost_transaction_is_not_committed(
    sqlite_url: str, how: str
) -> None:
    """Statement by statement, as SQLite would, where the error was caught."""
    db = Database(sqlite_url, sqlite=SQLiteOptions(accelerate=how == "accelerated"))
    async with db:
        await db.create_all(Base.metadata)
        if how == "twin":

            def work() -> None:
                with db.sync.session() as session:
                    session.execute(INSERT, {"name": "a"})
                    with pytest.raises(IntegrityError):
                        session.execute(text("INSERT OR ROLLBACK INTO hero (name) VALUES ('a')"))
                    session.execute(INSERT, {"name": "b"})

            with pytest.raises(OperationalError) as raised:
                await asyncio.to_thread(work)
        else:
            with pytest.raises(OperationalError) as raised:
                async with db.session() as session:
                    await session.execute(INSERT, {"name": "a"})
                    await conflict(session)
                    await session.execute(INSERT, {"name": "b"})
        assert str(raised.value.orig) == ROLLED_BACK
        assert await names(db) == []


async def test_a_lost_transaction_takes_no_more(db: Database) -> None:
    """Neither statements, nor savepoints, nor COMMIT; after ROLLBACK it goes on."""
    engine = create_async_engine(db.engine.url)
    try:
        async with engine.connect() as connection:
            await use_lost_transaction(connection, db)
    finally:
        await engine.dispose()
    assert await names(db) == ["c"]


async def use_lost_transaction(connection: AsyncConnection, db: Database) -> None:
    await connection.execute(INSERT, {"name": "a"})
    await conflict(connection)
    assert await is_free(db)
    for attempt in (
        lambda: connection.execute(INSERT, {"name": "b"}),
        lambda: connection.execute(INSERT, heroes(3)),
        lambda: connection.execute(select(Hero)),
        lambda: connection.stream(select(Hero)),
        lambda: connection.begin_nested().start(),
    ):
        with pytest.raises(OperationalError) as raised:
            await attempt()
        assert str(raised.value.orig) == ROLLED_BACK
    with pytest.raises(OperationalError) as raised:
        await connection.commit()
    assert str(raised.value.orig) == ROLLED_BACK
    await connection.rollback()
    assert await names(db) == []
    await connection.execute(INSERT, {"name": "c"})
    await connection.commit()


async def commit_it(connection: AsyncConnection) -> None:
    with pytest.raises(OperationalError):
        await connection.commit()


async def close_it(connection: AsyncConnection) -> None:
    await connection.close()


async def roll_it_back(connection: AsyncConnection) -> None:
    await connection.rollback()


@pytest.mark.parametrize("end", [commit_it, close_it, roll_it_back])
async def test_a_lost_transaction_is_forgotten_with_its_end(
    db: Database, end: Callable[[AsyncConnection], Awaitable[None]]
) -> None:
    """Whoever is given the connection next, begins anew; so does the same user."""
    engine = create_async_engine(db.engine.url, pool_size=1, max_overflow=0)
    try:
        async with engine.connect() as connection:
            await connection.execute(INSERT, {"name": "a"})
            await conflict(connection)
            await end(connection)
        async with engine.begin() as connection:
            await connection.execute(INSERT, {"name": "b"})
        async with engine.connect() as connection:
            await connection.execute(INSERT, {"name": "c"})
            await conflict_with_b(connection)
            if end is not close_it:
                await end(connection)
                await connection.rollback()  # asked for by SQLAlchemy after a COMMIT that failed
                await connection.execute(INSERT, {"name": "d"})
                await connection.commit()
    finally:
        await engine.dispose()
    assert await names(db) == (["b"] if end is close_it else ["b", "d"])


async def conflict_with_b(connection: AsyncConnection) -> None:
    with pytest.raises(IntegrityError):
        await connection.execute(text("INSERT OR ROLLBACK INTO hero (name) VALUES ('b')"))


async def test_a_refused_commit_does_not_reach_the_next_session(sqlite_url: str) -> None:
    """The one that lost its transaction is told; who comes after it has nothing to do with it."""
    async with Database(sqlite_url, pool=PoolOptions(size=1, max_overflow=0)) as db:
        await db.create_all(Base.metadata)
        with pytest.raises(TransactionFailed):
            async with db.session() as session:
                await session.execute(INSERT, {"name": "a"})
                await conflict(session)
        async with db.session() as session:
            await session.execute(INSERT, {"name": "b"})
        assert await names(db) == ["b"]


# --- Cancellation -------------------------------------------------------------------------------


async def is_running(connection: AsyncConnection) -> asyncio.Event:
    """Return an event that is set when SQLite works on the connection's next statement."""
    loop, running = asyncio.get_running_loop(), asyncio.Event()
    raw: Any = (await connection.get_raw_connection()).driver_connection

    def started() -> int:
        loop.call_soon_threadsafe(running.set)
        return 0

    await raw.set_progress_handler(started, 1000)
    return running


async def cancel_when_running(connection: AsyncConnection, statement: Any) -> None:
    running = await is_running(connection)
    task = asyncio.create_task(connection.execute(statement))
    async with asyncio.timeout(5):
        await running.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(5):
            await task


async def driver(connection: AsyncConnection) -> Any:
    return (await connection.get_raw_connection()).driver_connection


async def test_a_cancelled_statement_keeps_its_connection(db: Database) -> None:
    """It is stopped, so the same connection serves on: in its transaction, and in the pool."""
    async with db.engine.connect() as connection:
        before = await driver(connection)
        await connection.execute(INSERT, {"name": "a"})
        await cancel_when_running(connection, FOREVER)
        assert not connection.invalidated
        assert await connection.scalar(select(Hero.name)) == "a"
        await connection.rollback()
        await connection.execute(INSERT, {"name": "b"})
        await connection.commit()
    assert isinstance(db.engine.pool, QueuePool)
    assert db.engine.pool.checkedout() == 0
    async with db.engine.connect() as connection:
        assert await driver(connection) is before
        assert (await connection.scalars(select(Hero.name))).all() == ["b"]


async def test_a_cancelled_write_is_rolled_back_by_sqlite(db: Database) -> None:
    """With all of its transaction, which then takes no more; the lock is free at once."""
    async with db.engine.connect() as connection:
        before = await driver(connection)
        await connection.execute(INSERT, {"name": "a"})
        await cancel_when_running(connection, WRITE_FOREVER)
        assert await is_free(db)
        with pytest.raises(OperationalError) as raised:
            await connection.execute(INSERT, {"name": "b"})
        assert str(raised.value.orig) == ROLLED_BACK
        await connection.rollback()
        assert await driver(connection) is before
        await connection.execute(INSERT, {"name": "c"})
        await connection.commit()
    assert await names(db) == ["c"]


async def test_a_cancelled_stream_keeps_its_connection(db: Database) -> None:
    """Also where it is cancelled while it fetches."""
    endless = text(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000000000)"
        " SELECT i FROM n WHERE i < 10 OR i = 2000000000"
    )
    async with db.engine.connect() as connection:
        before = await driver(connection)
        stream = await connection.stream(endless.execution_options(yield_per=1))
        await anext(stream)
        running = await is_running(connection)

        async def fetch() -> None:
            async for _ in stream:
                pass

        task = asyncio.create_task(fetch())
        async with asyncio.timeout(5):
            await running.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with db.engine.connect() as connection:
        assert await driver(connection) is before
        assert await connection.scalar(select(1)) == 1


async def test_a_statement_that_does_not_stop_costs_the_connection(sqlite_url: str) -> None:
    """Nobody waits for it longer than `Timeouts.close`, and nobody else is given it."""
    async with Database(sqlite_url, timeouts=Timeouts(close=0.05)) as db:
        await db.create_all(Base.metadata)
        may_end = threading.Event()
        loop, stuck = asyncio.get_running_loop(), asyncio.Event()

        def hang() -> int:
            loop.call_soon_threadsafe(stuck.set)
            may_end.wait(6)  # in one step of SQLite's: no interrupt is heard
            return 1

        try:
            async with db.engine.connect() as connection:
                before = await driver(connection)
                await before.create_function("hang", 0, hang)
                task = asyncio.create_task(connection.execute(text("SELECT hang()")))
                await stuck.wait()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    async with asyncio.timeout(4):
                        await task
                assert connection.invalidated
            async with db.engine.connect() as connection:
                assert await driver(connection) is not before
                assert await connection.scalar(select(1)) == 1
        finally:
            may_end.set()
        await asyncio.to_thread(before._thread.join)


# --- Streams that nobody reads to their end -----------------------------------------------------


async def test_an_abandoned_stream_keeps_no_snapshot(sqlite_url: str) -> None:
    """The end of its transaction closes it: what the connection reads next is up to date."""
    async with Database(sqlite_url, pool=PoolOptions(size=1, max_overflow=0)) as db:
        await db.create_all(Base.metadata)
        async with db.session() as session:
            await session.execute(INSERT, heroes(100))
        kept = []
        for end in ("commit", "rollback", "close"):
            async with db.engine.connect() as connection:
                stream = await connection.stream(select(Hero.id).execution_options(yield_per=1))
                kept.append(stream)
                await anext(stream)
                await getattr(connection, end)()

                def write(end: str = end) -> None:
                    with db.sync.session() as session:
                        session.execute(INSERT, {"name": end})

                await asyncio.to_thread(write)
            async with db.session(begin="deferred") as session:
                assert end in (await session.scalars(select(Hero.name))).all()
                await session.execute(INSERT, {"name": f"after {end}"})


# --- Other ways to connect ----------------------------------------------------------------------


async def test_without_a_pool(sqlite_url: str) -> None:
    """A connection for each session, closed after it."""
    async with Database(sqlite_url, pool=PoolOptions.null()) as db:
        await db.create_all(Base.metadata)
        for name in "ab":
            async with db.session() as session:
                await session.execute(INSERT, {"name": name})
        with pytest.raises(ZeroDivisionError):
            async with db.session() as session:
                await session.execute(INSERT, {"name": "c"})
                raise ZeroDivisionError
        assert isinstance(db.engine.pool, NullPool)
        assert await names(db) == ["a", "b"]


async def test_another_journal_mode_keeps_sqlites_own_waiting(sqlite_url: str, hops: Hops) -> None:
    """It locks in many places: nothing of it runs on the loop's thread."""
    options = SQLiteOptions(journal_mode="DELETE")
    async with Database(sqlite_url, sqlite=options, timeouts=Timeouts(lock=3)) as db:
        await db.create_all(Base.metadata)
        async with db.engine.connect() as connection:
            assert await connection.scalar(text("PRAGMA busy_timeout")) == 3000
        statement = select(Hero.name).where(Hero.id == 1)
        for _ in range(20):
            async with db.session() as session:
                with hops.expected(1):
                    await session.execute(statement)
        async with db.session() as session:
            await session.execute(INSERT, {"name": "a"})
        assert await names(db) == ["a"]


async def test_connections_that_keep_to_their_thread(sqlite_url: str, hops: Hops) -> None:
    """A `creator` that leaves `check_same_thread` on: SQLite is never used on the loop's thread."""
    path = sqlite_url.removeprefix("sqlite:///")

    async def create() -> aiosqlite.Connection:
        connection = await aiosqlite.connect(path, isolation_level=None, check_same_thread=True)
        await connection.execute("PRAGMA foreign_keys = ON")
        await connection.execute("PRAGMA journal_mode = WAL")
        return connection

    engine = create_async_engine(sqlite_url, async_creator=create)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(INSERT, {"name": "a"})
    statement = select(Hero.name).where(Hero.id == 1)
    for _ in range(20):
        async with engine.connect() as connection:
            with hops.expected(1):
                assert await connection.scalar(statement) == "a"
    async with engine.connect() as connection:
        before = await driver(connection)
        task = asyncio.create_task(connection.execute(FOREVER))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await driver(connection) is before
    await engine.dispose()


async def test_all_at_once_on_one_connection_is_refused_by_nobody(db: Database) -> None:
    """Statements that several tasks send on one connection are done one after the other."""
    async with db.engine.connect() as connection:
        await connection.execute(INSERT, heroes(20))
        lookups = [
            connection.scalar(select(Hero.name).where(Hero.id == number + 1))
            for number in range(20)
        ]
        assert await asyncio.gather(*lookups) == [f"hero {number}" for number in range(20)]
