"""Time limits of PostgreSQL and MySQL: as settings of the server, and as what happens after them.

SQLite's are in `test_sqlite_timeouts`.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest
from sqlalchemy import event, exc, insert, select, text, update
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from backends import Backend
from databases import MySQLConnection, PostgreSQLConnection, render
from fastdb import (
    ConfigurationError,
    Database,
    PoolOptions,
    Timeouts,
    create_async_engine,
    create_sync_engine,
)
from fastdb.errors import ErrorKind, classify
from models import Base, Hero

pytestmark = pytest.mark.backends("postgresql", "mysql")

SETTINGS = {
    "postgresql": "SELECT current_setting('statement_timeout'), current_setting('lock_timeout'),"
    " current_setting('idle_in_transaction_session_timeout')",
    "mysql": "SELECT @@SESSION.max_statement_time, @@SESSION.innodb_lock_wait_timeout,"
    " @@SESSION.idle_transaction_timeout",
}
SLEEP = {"postgresql": "SELECT pg_sleep(5)", "mysql": "SELECT SLEEP(5)"}

# As (statement, lock, idle in transaction), in each server's spelling.
DEFAULTS = {"postgresql": ("30s", "10s", "5min"), "mysql": (30, 10, 300)}
OWN = Timeouts(statement=2, lock=3, idle_in_transaction=4)
OWNS = {"postgresql": ("2s", "3s", "4s"), "mysql": (2, 3, 4)}
NONE = Timeouts(statement=None, lock=3, idle_in_transaction=None)
NONES = {"postgresql": ("0", "3s", "0"), "mysql": (0, 3, 0)}


async def settings(session: AsyncSession | AsyncConnection, backend: Backend) -> tuple[object, ...]:
    return tuple((await session.execute(text(SETTINGS[backend.name]))).one())


def sync_settings(session: Session, backend: Backend) -> tuple[object, ...]:
    return tuple(session.execute(text(SETTINGS[backend.name])).one())


@asynccontextmanager
async def one_connection(url: str, timeouts: Timeouts | None = None) -> AsyncIterator[Database]:
    """Open a Database whose sessions follow one another on one connection."""
    async with Database(url, pool=PoolOptions(size=1), timeouts=timeouts) as db:
        yield db


# --- Of the engine ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("timeouts", "expected"), [(None, DEFAULTS), (OWN, OWNS), (NONE, NONES)], ids=str
)
async def test_all_sessions_have_them(
    backend: Backend, timeouts: Timeouts | None, expected: dict[str, tuple[object, ...]]
) -> None:
    """Those that write, that read, that read from one view, and the twin's."""
    wanted = expected[backend.name]
    async with one_connection(backend.url, timeouts) as db:
        async with db.session() as session:
            assert await settings(session, backend) == wanted
        async with db.read_session() as session:
            assert await settings(session, backend) == wanted
        async with db.read_session(snapshot=True) as session:
            assert await settings(session, backend) == wanted


def test_the_twin_has_them(backend: Backend) -> None:
    """Those that write and those that read."""
    twin = Database(backend.url, timeouts=OWN).sync
    with twin, twin.session() as session, twin.read_session() as reading:
        assert sync_settings(session, backend) == OWNS[backend.name]
        assert sync_settings(reading, backend) == OWNS[backend.name]


async def test_plain_engines_have_them(backend: Backend) -> None:
    """Those of `create_async_engine` and `create_sync_engine`, after a ROLLBACK too."""
    engine = create_async_engine(backend.url, timeouts=OWN)
    async with engine.connect() as connection:
        assert await settings(connection, backend) == OWNS[backend.name]
        await connection.rollback()
        assert await settings(connection, backend) == OWNS[backend.name]
    await engine.dispose()


def test_plain_synchronous_engines_have_them(backend: Backend) -> None:
    """As above."""
    engine = create_sync_engine(backend.url, timeouts=OWN)
    with engine.connect() as connection:
        row = connection.execute(text(SETTINGS[backend.name])).one()
        assert tuple(row) == OWNS[backend.name]
    engine.dispose()


@pytest.mark.backends("postgresql")
async def test_the_servers_own_stay(
    backend: Backend, postgresql_admin: PostgreSQLConnection
) -> None:
    """A limit that the database has is kept where nobody asks for another one."""
    name = make_url(backend.url).database
    postgresql_admin.execute(f'ALTER DATABASE "{name}" SET statement_timeout = 7000')
    async with one_connection(backend.url) as db, db.session() as session:
        assert await settings(session, backend) == ("7s", "10s", "5min")
    async with one_connection(backend.url, OWN) as db, db.session() as session:
        assert await settings(session, backend) == OWNS["postgresql"]


@pytest.mark.backends("mysql")
async def test_the_servers_own_stay_on_mariadb(
    backend: Backend, mysql_admin: MySQLConnection
) -> None:
    """But for the wait for locks, which the server always limits, and too widely."""
    async with one_connection(backend.url) as db:
        await asyncio.to_thread(mysql_admin.query, "SET GLOBAL max_statement_time = 7")
        try:
            async with db.session() as session:
                assert await settings(session, backend) == (7, 10, 300)
        finally:
            await asyncio.to_thread(mysql_admin.query, "SET GLOBAL max_statement_time = 0")


# --- Of a session -------------------------------------------------------------------------------


async def test_a_session_has_its_own_and_the_next_one_has_not(backend: Backend) -> None:
    """Of each kind, whether it ends with COMMIT or with ROLLBACK."""
    own, defaults = OWNS[backend.name], DEFAULTS[backend.name]
    async with one_connection(backend.url) as db:
        for _ in range(2):
            async with db.session(timeouts=OWN) as session:
                assert await settings(session, backend) == own
            async with db.session() as session:
                assert await settings(session, backend) == defaults
        with pytest.raises(ZeroDivisionError):
            async with db.session(timeouts=OWN) as session:
                assert await settings(session, backend) == own
                raise ZeroDivisionError
        async with db.session() as session:
            assert await settings(session, backend) == defaults


@pytest.mark.parametrize("snapshot", [False, True])
async def test_a_read_session_too(backend: Backend, snapshot: bool) -> None:
    """Under autocommit there is no transaction to take them back."""
    own, defaults = OWNS[backend.name], DEFAULTS[backend.name]
    async with one_connection(backend.url) as db:
        for _ in range(2):
            async with db.read_session(snapshot=snapshot, timeouts=OWN) as session:
                assert await settings(session, backend) == own
            async with db.read_session() as session:
                assert await settings(session, backend) == defaults
            async with db.read_session(snapshot=True) as session:
                assert await settings(session, backend) == defaults


@pytest.mark.parametrize("reads", [False, True])
async def test_they_are_taken_back_once(backend: Backend, reads: bool) -> None:
    """Whoever comes after the next one pays nothing for them."""
    statements: list[str] = []
    async with one_connection(backend.url) as db:
        make = db.read_session if reads else db.session
        engine = (db.read_engine if reads else db.engine).sync_engine
        async with make(timeouts=OWN) as session:
            await settings(session, backend)
        async with make() as session:
            await session.execute(select(1))
        event.listen(engine, "before_cursor_execute", lambda *told: statements.append(told[2]))
        async with make() as session:
            await session.execute(select(1))
    assert len(statements) == 1


async def test_a_snapshot_between_does_not_keep_them(backend: Backend) -> None:
    """Its ROLLBACK would undo what takes them back."""
    own, defaults = OWNS[backend.name], DEFAULTS[backend.name]
    async with one_connection(backend.url) as db:
        async with db.read_session(timeouts=OWN) as session:
            assert await settings(session, backend) == own
        for snapshot in (True, True, False, False, True):
            async with db.read_session(snapshot=snapshot) as session:
                assert await settings(session, backend) == defaults


async def test_under_autocommit_too(backend: Backend) -> None:
    """Where there is no transaction, they hold for each statement, and are taken back."""
    own, defaults = OWNS[backend.name], DEFAULTS[backend.name]
    async with one_connection(backend.url) as db:
        async with db.session(isolation="AUTOCOMMIT", timeouts=OWN) as session:
            for _ in range(2):
                assert await settings(session, backend) == own
        async with db.session() as session:
            assert await settings(session, backend) == defaults
        async with db.session(isolation="AUTOCOMMIT") as session:
            assert await settings(session, backend) == defaults
    db = Database(backend.url, isolation="AUTOCOMMIT")
    async with db, db.session(timeouts=OWN) as session:
        for _ in range(2):
            assert await settings(session, backend) == own


async def test_in_the_middle_of_a_session_after_a_commit(backend: Backend) -> None:
    """The next transaction of a session has its limits, too; so has a stream."""
    async with one_connection(backend.url) as db:
        async with db.session(timeouts=OWN) as session:
            await settings(session, backend)
            await session.commit()
            assert await settings(session, backend) == OWNS[backend.name]
        async with db.read_session(timeouts=OWN) as session:
            result = await session.stream(text(SETTINGS[backend.name]))
            assert tuple(await result.one()) == OWNS[backend.name]


async def test_each_attempt_of_run_has_them(backend: Backend) -> None:
    """`db.run(…, timeouts=…)`."""
    async with one_connection(backend.url) as db:
        assert await db.run(settings, backend, timeouts=OWN) == OWNS[backend.name]


def test_a_session_of_the_twin_has_its_own(backend: Backend) -> None:
    """Both kinds."""
    twin = Database(backend.url, pool=PoolOptions(size=1)).sync
    with twin:
        with twin.session(timeouts=OWN) as session:
            assert sync_settings(session, backend) == OWNS[backend.name]
        with twin.session() as session:
            assert sync_settings(session, backend) == DEFAULTS[backend.name]
        with twin.read_session(timeouts=OWN) as session:
            assert sync_settings(session, backend) == OWNS[backend.name]
        with twin.read_session() as session:
            assert sync_settings(session, backend) == DEFAULTS[backend.name]


def test_an_engine_may_have_its_own(backend: Backend) -> None:
    """By the execution option, as in Alembic's `env.py`; the engine it comes from has not."""
    with Database(backend.url, pool=PoolOptions(size=1)).sync as twin:
        engine = twin.engine.execution_options(fastdb_timeouts=OWN)
        for expected, each in ((OWNS, engine), (DEFAULTS, twin.engine)):
            with each.begin() as connection:
                row = connection.execute(text(SETTINGS[backend.name])).one()
                assert tuple(row) == expected[backend.name]


# --- Through a pooler ---------------------------------------------------------------------------


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_through_a_pooler_they_are_set_for_the_transaction(
    pgbouncer_url: str, driver: str
) -> None:
    """And reach nobody else: another client of the same server connection has the server's."""
    url = render(make_url(pgbouncer_url).set(drivername=f"postgresql+{driver}"))
    backend = Backend("", url, "postgresql", driver)
    pool = PoolOptions.transaction_pooler(size=1)
    async with Database(url, pool=pool) as db:
        async with db.session() as session:
            before = await settings(session, backend)
        async with db.session(timeouts=OWN) as session:
            assert await settings(session, backend) == OWNS["postgresql"]
        async with db.read_session(timeouts=OWN) as session:
            assert await settings(session, backend) == OWNS["postgresql"]
        async with db.session() as session:
            assert await settings(session, backend) == before
    async with Database(url, pool=pool, timeouts=OWN) as db, db.session() as session:
        assert await settings(session, backend) == OWNS["postgresql"]
    with psycopg.connect(pgbouncer_url, prepare_threshold=None) as other:
        assert other.execute(SETTINGS["postgresql"]).fetchone() == before


@pytest.mark.backends("mysql")
async def test_mysql_has_none_for_the_transaction(backend: Backend) -> None:
    """What would reach other clients of the pooler is refused."""
    async with Database(backend.url, pool=PoolOptions.transaction_pooler()) as db:
        with pytest.raises(ConfigurationError, match="Time limits of a session through"):
            db.session(timeouts=OWN)
        with pytest.raises(ConfigurationError, match="Time limits of a session through"):
            db.read_session(timeouts=OWN)
        engine = db.engine.execution_options(fastdb_timeouts=OWN)
        with pytest.raises(ConfigurationError, match="Time limits of a session through"):
            async with engine.connect() as connection:
                await connection.execute(select(1))


# --- What happens then --------------------------------------------------------------------------


async def test_a_statement_is_stopped(backend: Backend) -> None:
    """In time, as what it is; the connection serves the next session."""
    short = Timeouts(statement=0.1)
    async with one_connection(backend.url) as db:
        for session_of in (db.session, db.read_session):
            begun = time.monotonic()
            with pytest.raises(exc.DBAPIError) as raised:
                async with session_of(timeouts=short) as session:
                    await session.execute(text(SLEEP[backend.name]))
            assert time.monotonic() - begun < 2
            assert classify(raised.value) is ErrorKind.STATEMENT_TIMEOUT
            async with session_of() as session:
                assert await session.scalar(select(1)) == 1


async def test_a_lock_is_not_waited_for_any_longer(backend: Backend) -> None:
    """Than the session says; MySQL counts whole seconds."""
    async with Database(backend.url) as db:
        await db.create_all(Base.metadata)
        async with db.session() as session:
            await session.execute(insert(Hero).values(name="a"))
        async with db.session() as holder:
            await holder.execute(update(Hero).values(name="b"))
            begun = time.monotonic()
            with pytest.raises(exc.DBAPIError) as raised:
                async with db.session(timeouts=Timeouts(lock=0.5)) as session:
                    await session.execute(update(Hero).values(name="c"))
            assert time.monotonic() - begun < 4
        assert classify(raised.value) is ErrorKind.LOCK_TIMEOUT


async def test_a_transaction_that_does_nothing_is_ended(backend: Backend) -> None:
    """By the server, with its locks; who holds it is told with the next statement."""
    async with Database(backend.url) as db:
        await db.create_all(Base.metadata)
        async with db.session() as session:
            await session.execute(insert(Hero).values(name="a"))
        limits = Timeouts(idle_in_transaction=1)
        with pytest.raises(exc.DBAPIError) as raised:
            async with db.session(timeouts=limits) as forgotten:
                await forgotten.execute(update(Hero).values(name="b"))
                async with db.session() as session:  # waits until the lock is free
                    await session.execute(update(Hero).values(name="c"))
                await forgotten.execute(select(1))
        assert classify(raised.value) is ErrorKind.DISCONNECTED
        async with db.session() as session:
            assert await session.scalar(select(Hero.name)) == "c"
