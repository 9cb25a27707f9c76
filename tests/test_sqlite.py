"""SQLite made to serve: foreign keys, real transactions, WAL, and databases in memory."""

import asyncio
import gc
import random
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from functools import partial
from pathlib import Path

import aiosqlite
import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool, StaticPool

from fastdb import (
    ConfigurationError,
    ConnectionRefused,
    Database,
    ForeignKeysNotEnforced,
    SQLiteOptions,
    Timeouts,
    create_async_engine,
    create_sync_engine,
)
from fastdb.sqlite.connection import connection_class
from models import Base, Hero, Late
from sqlite_trace import trace

INSERT = text("INSERT INTO hero (name) VALUES (:name)")
ORPHAN = text("INSERT INTO hero (name, team_id) VALUES ('orphan', 99)")


@pytest.fixture
def begins(db: Database) -> list[str]:
    """The BEGIN statements that were sent by the writing engine."""
    seen: list[str] = []

    def record(statement: str) -> None:
        if statement.startswith("BEGIN"):
            seen.append(statement)

    trace(db.engine.sync_engine, record)
    return seen


@pytest.fixture
async def db(sqlite_url: str) -> AsyncIterator[Database]:
    """A file with the tables of `models`."""
    async with Database(sqlite_url) as database:
        await database.create_all(Base.metadata)
        yield database


def elsewhere(url: str) -> aiosqlite.Connection:
    """A plain connection to the same file, as another process would have it."""
    path = url.removeprefix("sqlite:///")
    return aiosqlite.connect(path, isolation_level=None, timeout=0)


# --- Foreign keys -------------------------------------------------------------------------------


async def test_foreign_keys_are_enforced_on_all_engines(db: Database) -> None:
    """On the async engine, on the one that reads, and on both of the twin's."""
    pragma = text("PRAGMA foreign_keys")
    for engine in (db.engine, db.read_engine):
        async with engine.connect() as connection:
            assert await connection.scalar(pragma) == 1

    def look() -> list[int | None]:
        found = []
        for sync_engine in (db.sync.engine, db.sync.read_engine):
            with sync_engine.connect() as sync_connection:
                found.append(sync_connection.scalar(pragma))
        return found

    assert await asyncio.to_thread(look) == [1, 1]
    with pytest.raises(IntegrityError, match="FOREIGN KEY constraint failed"):
        async with db.session() as session:
            await session.execute(ORPHAN)


async def test_foreign_keys_of_the_drop_in_engines(sqlite_url: str) -> None:
    """Whoever changes only the import gets them too, with every pool."""
    for make in (create_async_engine, partial(create_async_engine, poolclass=NullPool)):
        engine = make(sqlite_url)
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
            with pytest.raises(IntegrityError):
                await connection.execute(ORPHAN)
            await connection.rollback()
        await engine.dispose()


def test_foreign_keys_of_the_sync_drop_in_engine(sqlite_url: str) -> None:
    """The same for the synchronous function."""
    engine = create_sync_engine(sqlite_url)
    Base.metadata.create_all(engine)
    with Session(engine) as session, pytest.raises(IntegrityError):
        session.execute(ORPHAN)
    engine.dispose()


def test_foreign_keys_can_be_left_off(sqlite_url: str) -> None:
    """Who says so gets SQLite's own default."""
    engine = create_sync_engine(sqlite_url, sqlite=SQLiteOptions(foreign_keys=False))
    with engine.connect() as connection:
        assert connection.scalar(text("PRAGMA foreign_keys")) == 0
    engine.dispose()


def test_a_connection_without_foreign_keys_is_refused(sqlite_url: str) -> None:
    """The pragma is read back; an SQLite that ignores it is not used."""

    class Ignores(sqlite3.Connection):
        def execute(self, sql: str, *args: object) -> sqlite3.Cursor:
            return super().execute("SELECT 0" if "foreign_keys" in sql else sql)

    engine = create_sync_engine(sqlite_url, connect_args={"factory": Ignores})
    with pytest.raises(ForeignKeysNotEnforced) as raised:
        engine.connect()
    assert str(raised.value) == (
        "SQLite does not enforce foreign keys on this connection although PRAGMA foreign_keys = ON"
        " was sent. Use an SQLite library built with foreign keys, or say"
        " SQLiteOptions(foreign_keys=False)."
    )
    engine.dispose()


async def test_connections_made_elsewhere_must_enforce_foreign_keys(sqlite_url: str) -> None:
    """A `creator` of the user's own is not trusted to have turned them on."""
    path = sqlite_url.removeprefix("sqlite:///")
    engine = create_async_engine(sqlite_url, async_creator=lambda: aiosqlite.connect(path))
    with pytest.raises(ForeignKeysNotEnforced, match="was given its own way to connect"):
        await engine.connect()
    await engine.dispose()

    async def create() -> aiosqlite.Connection:
        connection = await aiosqlite.connect(path)
        await connection.execute("PRAGMA foreign_keys = ON")
        return connection

    async with Database(sqlite_url, async_options={"async_creator": create}) as db:
        async with db.session() as session:
            assert await session.scalar(select(1)) == 1
        with pytest.raises(ConnectionRefused, match="was given its own way to connect"):
            async with db.read_session() as session:
                await session.scalar(select(1))


# --- Transactions -------------------------------------------------------------------------------


async def test_savepoints_and_ddl_roll_back(db: Database) -> None:
    """Python's `sqlite3` by itself keeps both, although the transaction was rolled back."""
    with pytest.raises(ZeroDivisionError):
        async with db.session() as session:
            await session.execute(text("CREATE TABLE extra (id INTEGER)"))
            async with session.begin_nested():
                await session.execute(INSERT, {"name": "a"})
            raise ZeroDivisionError
    async with db.read_session() as session:
        assert (await session.scalars(select(Hero.name))).all() == []
        with pytest.raises(OperationalError, match="no such table: extra"):
            await session.execute(text("SELECT * FROM extra"))


async def test_a_second_select_sees_what_the_first_saw(db: Database) -> None:
    """In a deferred transaction too, whatever others commit meanwhile."""
    async with db.session(begin="deferred") as session:
        assert (await session.scalars(select(Hero.name))).all() == []
        async with db.session() as other:
            other.add(Hero(name="a"))
        assert (await session.scalars(select(Hero.name))).all() == []


async def test_write_intent_begins_immediate(db: Database, begins: list[str]) -> None:
    """`db.session()` takes the write lock with its first statement."""
    async with db.session() as session:
        await session.execute(select(1))
    async with db.session(begin="deferred") as session:
        await session.execute(select(1))
    assert begins == ["BEGIN IMMEDIATE", "BEGIN DEFERRED"]


@pytest.mark.parametrize(
    ("begin", "expected"), [("immediate", "BEGIN IMMEDIATE"), ("deferred", "BEGIN DEFERRED")]
)
async def test_the_option_decides_for_all(sqlite_url: str, begin: str, expected: str) -> None:
    """`SQLiteOptions(begin=…)` holds for sessions and for the engine alone."""
    async with Database(sqlite_url, sqlite=SQLiteOptions(begin=begin)) as db:  # type: ignore[arg-type]
        seen: list[str] = []
        trace(db.engine.sync_engine, seen.append)
        async with db.session() as session:
            await session.execute(select(1))
        async with db.engine.begin() as connection:
            await connection.execute(select(1))
    assert [statement for statement in seen if "BEGIN" in statement] == [expected, expected]


async def test_a_stale_read_cannot_write(db: Database) -> None:
    """A deferred transaction that another commit has overtaken is refused, never a lost update."""
    async with db.session() as session:
        await session.execute(INSERT, {"name": "a"})
    with pytest.raises(OperationalError, match="database is locked"):
        async with db.session(begin="deferred") as session:
            await session.execute(select(Hero))
            async with db.session() as other:
                await other.execute(text("UPDATE hero SET name = 'b'"))
            await session.execute(text("UPDATE hero SET name = name || '!'"))
    async with db.read_session() as session:
        assert (await session.scalars(select(Hero.name))).all() == ["b"]


async def test_autocommit_begins_nothing(db: Database, begins: list[str]) -> None:
    """SQLAlchemy's AUTOCOMMIT is respected, per connection and per engine, and reset after."""
    autocommit = db.engine.execution_options(isolation_level="AUTOCOMMIT")
    async with autocommit.connect() as connection:
        await connection.execute(INSERT, {"name": "a"})
        await connection.rollback()
    assert begins == []
    with pytest.raises(ZeroDivisionError):
        async with db.session() as session:
            await session.execute(INSERT, {"name": "b"})
            raise ZeroDivisionError
    async with db.read_session() as session:
        assert (await session.scalars(select(Hero.name))).all() == ["a"]
    engine = create_async_engine(db.engine.url, isolation_level="autocommit")
    async with engine.connect() as connection:
        await connection.execute(INSERT, {"name": "c"})
        raw = await connection.get_raw_connection()
        assert raw.driver_connection is not None
        assert not raw.driver_connection.in_transaction
    await engine.dispose()


async def test_isolation_levels_of_one_session(db: Database) -> None:
    """SQLAlchemy's names for SQLite are taken, those of servers too, and transactions stay real."""
    for level in ("SERIALIZABLE", "REPEATABLE READ", "READ COMMITTED", "READ UNCOMMITTED"):
        with pytest.raises(ZeroDivisionError):
            async with db.session(isolation=level) as session:
                await session.execute(INSERT, {"name": level})
                raise ZeroDivisionError
    async with db.read_session() as session:
        assert (await session.scalars(select(Hero.name))).all() == []


async def test_an_isolation_level_of_a_server_can_stay(sqlite_url: str) -> None:
    """SQLite gives more than is asked for, so the same code runs on both."""
    async with Database(sqlite_url, isolation="REPEATABLE READ") as db, db.session() as session:
        assert await session.scalar(select(1)) == 1


async def test_an_unknown_intent_is_refused(db: Database) -> None:
    """A typing error must not choose for the user."""
    with pytest.raises(ConfigurationError) as raised:
        async with db.session(begin="imediate"):  # type: ignore[arg-type]
            pass
    assert str(raised.value) == (
        "session(begin='imediate'): unknown value; use one of immediate, deferred."
    )


# --- A connection that comes back in its transaction --------------------------------------------


async def test_a_failed_commit_of_a_foreign_session_does_not_poison_the_pool(
    sqlite_url: str,
) -> None:
    """SQLAlchemy's own session, closed after a failed COMMIT, leaves no transaction behind."""
    engine = create_async_engine(sqlite_url, pool_size=1, max_overflow=0)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    maker = async_sessionmaker(engine)
    with pytest.raises(IntegrityError):
        async with maker() as session:
            session.add(Hero(name="ghost"))
            session.add(Late(team_id=99))
            await session.commit()  # fails, and SQLite's transaction stays open
    async with elsewhere(sqlite_url) as other:
        await other.execute("BEGIN IMMEDIATE")
    async with maker() as session:
        await session.execute(INSERT, {"name": "a"})
        await session.commit()
        assert (await session.scalars(select(Hero.name))).all() == ["a"]
    await engine.dispose()


@pytest.mark.parametrize("accelerate", [True, False], ids=["accelerated", "plain"])
async def test_a_busy_commit_is_rolled_back(sqlite_url: str, accelerate: bool) -> None:
    """In rollback-journal mode a reader makes COMMIT fail; others are not locked out after."""
    options = SQLiteOptions(journal_mode="DELETE", accelerate=accelerate)
    async with Database(sqlite_url, sqlite=options, timeouts=Timeouts(lock=0.05)) as db:
        await db.create_all(Base.metadata)
        async with elsewhere(sqlite_url) as reader:
            await reader.execute("BEGIN")
            await reader.execute_fetchall("SELECT * FROM hero")
            with pytest.raises(OperationalError, match="database is locked"):
                async with db.session() as session:
                    session.add(Hero(name="a"))
            await reader.rollback()
            await reader.execute("BEGIN IMMEDIATE")
        async with db.read_session() as session:
            assert (await session.scalars(select(Hero.name))).all() == []


# --- How a file is opened -----------------------------------------------------------------------


async def test_settings_of_a_connection(sqlite_url: str) -> None:
    """WAL, NORMAL and the lock's time limit by default; what was asked for otherwise."""
    default = Database(sqlite_url, sqlite=SQLiteOptions(accelerate=False))
    async with default as db, db.engine.connect() as connection:
        settings = [
            await connection.scalar(text(f"PRAGMA {name}"))
            for name in ("journal_mode", "synchronous", "busy_timeout", "query_only")
        ]
    assert settings == ["wal", 1, 10_000, 0]
    options = SQLiteOptions(synchronous="FULL", accelerate=False)
    other = Database(sqlite_url, sqlite=options, timeouts=Timeouts(lock=2.5))
    async with other as db, db.read_engine.connect() as connection:
        settings = [
            await connection.scalar(text(f"PRAGMA {name}"))
            for name in ("journal_mode", "synchronous", "busy_timeout", "query_only")
        ]
    assert settings == ["wal", 2, 2_500, 1]


async def test_the_lock_limit_is_kept(sqlite_url: str) -> None:
    """Who waits for another process's lock is told when the limit is over."""
    async with Database(sqlite_url, timeouts=Timeouts(lock=0.05)) as db:
        await db.create_all(Base.metadata)
        async with elsewhere(sqlite_url) as other:
            await other.execute("BEGIN IMMEDIATE")
            with pytest.raises(OperationalError, match="database is locked"):
                async with db.session() as session:
                    await session.execute(select(1))


def test_a_read_only_file_can_be_read(tmp_path: Path) -> None:
    """The journal mode is left as it is where it cannot be changed."""
    path = tmp_path / "read.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (id INTEGER)")
    engine = create_sync_engine(f"sqlite:///file:{path}?mode=ro&uri=true")
    with engine.connect() as sync_connection:
        assert sync_connection.scalar(text("PRAGMA journal_mode")) == "delete"
        assert sync_connection.execute(text("SELECT * FROM t")).all() == []
    engine.dispose()


def test_a_journal_mode_that_is_not_kept_is_logged(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """SQLite answers with the old mode instead of an error."""

    class Keeps(sqlite3.Connection):
        def execute(self, sql: str, *args: object) -> sqlite3.Cursor:
            return super().execute("PRAGMA journal_mode" if "journal_mode =" in sql else sql)

    engine = create_sync_engine(sqlite_url, connect_args={"factory": Keeps})
    engine.connect().close()
    engine.dispose()
    assert caplog.messages == ["SQLite kept journal_mode=delete; WAL is not possible"]


class BusyConnection(sqlite3.Connection):
    """Answers "database is locked" to the change of the journal mode, `times` times."""

    times = 2

    def execute(self, sql: str, *args: object) -> sqlite3.Cursor:
        if "journal_mode =" in sql and self.times:
            self.times -= 1
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = sqlite3.SQLITE_BUSY
            raise error
        return super().execute(sql)


def test_a_locked_journal_mode_is_tried_again(sqlite_url: str) -> None:
    """The change has no busy handler in SQLite: the waiting is done here."""
    engine = create_sync_engine(sqlite_url, connect_args={"factory": BusyConnection})
    with engine.connect() as connection:
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
    engine.dispose()


def test_a_locked_journal_mode_is_given_up_at_the_limit(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then SQLite's own error is raised."""
    monkeypatch.setattr(BusyConnection, "times", 1_000_000)
    engine = create_sync_engine(
        sqlite_url, timeouts=Timeouts(lock=0.05), connect_args={"factory": BusyConnection}
    )
    with pytest.raises(OperationalError, match="database is locked"):
        engine.connect()
    engine.dispose()


def test_an_error_that_is_no_lock_goes_on(tmp_path: Path) -> None:
    """A file that is no database is not waited for."""
    path = tmp_path / "not.db"
    path.write_text("this is not a database, but long enough to be looked at" * 10)
    engine = create_sync_engine(f"sqlite:///{path}")
    with pytest.raises(DBAPIError, match="file is not a database"):
        engine.connect()
    engine.dispose()


def test_a_cursor_that_failed_holds_nothing(sqlite_url: str) -> None:
    """Else the garbage collector resets its statement in any thread, and waits for the others."""
    engine = create_sync_engine(sqlite_url)
    raw = engine.raw_connection()
    for fail in ("execute", "executemany"):
        cursor = raw.cursor()
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            getattr(cursor, fail)("INSERT INTO absent VALUES (?)", [(1,)])
        with pytest.raises(sqlite3.ProgrammingError, match="closed cursor"):
            cursor.execute("SELECT 1")
    raw.close()
    engine.dispose()


async def test_a_closed_connection_holds_no_lock(sqlite_url: str) -> None:
    """Although a cursor with rows left is still somewhere, as after a cancellation."""
    path = sqlite_url.removeprefix("sqlite:///")
    made = connection_class(SQLiteOptions(), lock_seconds=0)

    def leave_a_cursor() -> sqlite3.Cursor:
        connection = made(path, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("CREATE TABLE t (id INTEGER)")
        cursor = connection.execute("SELECT 1 UNION SELECT 2")
        cursor.fetchone()
        connection.close()
        connection.close()
        return cursor

    cursor = await asyncio.to_thread(leave_a_cursor)
    async with elsewhere(sqlite_url) as other:
        await other.execute("BEGIN IMMEDIATE")
        assert await other.execute_fetchall("SELECT * FROM sqlite_schema") == []
    del cursor


async def test_cancellation_at_any_moment_frees_thread_and_lock(memory: Database) -> None:
    """A long statement is stopped whenever its task is cancelled, and the next writer goes on."""
    forever = text(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000000000)"
        " SELECT count(*) FROM n"
    )
    moments = random.Random(1)  # noqa: S311 - the same moments in each run

    async def work() -> None:
        async with memory.session() as session:
            await session.execute(select(1))
            await session.execute(forever)

    for _ in range(300):
        task = asyncio.create_task(work())
        for _ in range(moments.randrange(6)):
            await asyncio.sleep(0)
        await asyncio.sleep(moments.choice([0, 0.0001, 0.0003, 0.001, 0.002]))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with memory.session() as session:
        session.add(Hero(name="a"))


OPEN_AT_ONCE = """
import os, sys
from fastdb import create_sync_engine

start, go = os.pipe()
children = []
for _ in range(20):
    if not (child := os.fork()):
        os.close(go)
        os.read(start, 1)  # returns in all at once, when the parent closes its end
        create_sync_engine(sys.argv[1]).connect().close()
        os._exit(0)
    children.append(child)
os.close(go)
sys.exit(sum(os.waitpid(child, 0)[1] != 0 for child in children))
"""


def test_twenty_processes_open_a_new_file_at_once(sqlite_url: str) -> None:
    """Changing to WAL needs a lock for which SQLite itself does not wait."""
    command = [sys.executable, "-c", OPEN_AT_ONCE, sqlite_url]
    done = subprocess.run(command, capture_output=True, timeout=50, check=False)
    assert (done.returncode, done.stderr.decode()) == (0, "")


# --- In memory ----------------------------------------------------------------------------------


@pytest.fixture
async def memory() -> AsyncIterator[Database]:
    """A database in memory with the tables of `models`."""
    async with Database("sqlite://") as database:
        await database.create_all(Base.metadata)
        yield database


async def test_sessions_in_memory_are_isolated(memory: Database) -> None:
    """One session's rollback does not erase what another has written."""
    async with memory.session() as session:
        session.add(Hero(name="a"))
        await session.flush()
        async with memory.read_session() as other:
            assert (await other.scalars(select(Hero))).all() == []
    async with memory.read_session() as session:
        assert (await session.scalars(select(Hero.name))).all() == ["a"]


async def test_one_connection_for_all_is_not_taken_in_memory() -> None:
    """SQLAlchemy's recipe for tests would put all sessions into one transaction."""
    recipe = {"poolclass": StaticPool, "connect_args": {"check_same_thread": False}}
    async with Database("sqlite://", async_options=recipe) as db:
        await db.create_all(Base.metadata)
        async with db.session() as session:
            session.add(Hero(name="a"))
            await session.flush()
            async with db.session(begin="deferred") as other:
                assert (await other.scalars(select(Hero))).all() == []
        async with db.read_session() as session:
            assert (await session.scalars(select(Hero.name))).all() == ["a"]


async def test_named_memory_is_a_private_file_too() -> None:
    """A URI of SQLite's shared cache means the same."""
    async with Database("sqlite:///file:x?mode=memory&cache=shared&uri=true") as db:
        await db.create_all(Base.metadata)
        async with db.read_session() as session:
            assert (await session.scalars(select(Hero))).all() == []


async def test_threads_that_come_first_share_one_memory() -> None:
    """The twin's first use from several threads at once still is one database."""
    for _ in range(10):
        async with Database("sqlite://") as db:

            def work(name: str, db: Database = db) -> None:
                db.sync.create_all(Base.metadata)
                with db.sync.session() as session:
                    session.add(Hero(name=name))

            await asyncio.gather(*(asyncio.to_thread(work, name) for name in "abcd"))
            async with db.read_session() as session:
                assert len((await session.scalars(select(Hero))).all()) == 4


async def test_memory_survives_a_cancelled_query(memory: Database) -> None:
    """The connection is lost, the data are not."""
    forever = text(
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 3000000)"
        " SELECT max(n) FROM c"
    )
    async with memory.session() as session:
        session.add(Hero(name="a"))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05), memory.read_session() as session:
            await session.execute(forever)
    async with memory.read_session() as session:
        assert (await session.scalars(select(Hero.name))).all() == ["a"]


async def test_the_twin_sees_the_same_memory(memory: Database) -> None:
    """What one writes, the other reads."""
    async with memory.session() as session:
        session.add(Hero(name="a"))

    def work() -> list[str]:
        with memory.sync.session() as session:
            session.add(Hero(name="b"))
        with memory.sync.read_session() as session:
            return list(session.scalars(select(Hero.name).order_by(Hero.id)))

    assert await asyncio.to_thread(work) == ["a", "b"]
    async with memory.read_session() as session:
        assert len((await session.scalars(select(Hero))).all()) == 2


async def test_memory_is_gone_when_closed() -> None:
    """The file is deleted, and the next opening starts empty."""
    db = Database("sqlite://")
    async with db:
        await db.create_all(Base.metadata)
        async with db.engine.connect() as connection:
            name = await connection.scalar(text("SELECT file FROM pragma_database_list"))
        assert await asyncio.to_thread(Path(name).exists)
    assert not await asyncio.to_thread(Path(name).parent.exists)
    async with db:
        with pytest.raises(OperationalError, match="no such table"):
            async with db.session() as session:
                session.add(Hero(name="a"))


def test_memory_of_the_drop_in_engine_lives_as_long_as_it() -> None:
    """Its connections see the same data, and the file goes with the engine."""
    engine = create_sync_engine("sqlite:///:memory:")
    Base.metadata.create_all(engine)
    with Session(engine) as one, Session(engine) as two:
        one.add(Hero(name="a"))
        one.commit()
        assert two.scalars(select(Hero.name)).all() == ["a"]
    database = engine.url.database
    assert database is not None
    engine.dispose()
    assert Path(database).exists()
    del engine, one, two
    gc.collect()
    assert not Path(database).exists()


async def test_two_databases_in_memory_are_two() -> None:
    """Each object has data of its own."""
    async with Database("sqlite://") as one, Database("sqlite://") as two:
        await one.create_all(Base.metadata)
        with pytest.raises(OperationalError, match="no such table"):
            async with two.session() as session:
                await session.execute(select(Hero))
