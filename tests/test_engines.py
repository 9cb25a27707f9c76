"""The engines: SQLAlchemy's arguments, pools, time limits, passwords, poolers."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from unittest.mock import patch

import pytest
from sqlalchemy import Column, LargeBinary, MetaData, Table, event, exc, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool, QueuePool, StaticPool

from backends import Backend
from fastdb import (
    ConfigurationError,
    Database,
    PoolOptions,
    Timeouts,
    TLSOptions,
    create_async_engine,
    create_sync_engine,
)
from models import Base, Hero


async def one(engine: AsyncEngine, statement: str) -> Any:
    """The one value that a statement gives, on a connection of its own."""
    async with engine.connect() as connection:
        return await connection.scalar(text(statement))


# --- Drop-in ------------------------------------------------------------------------------------


async def test_drop_in_for_sqlalchemys_functions(backend: Backend) -> None:
    """Both functions take the same URL, whatever its driver, and give engines that work."""
    engine = create_async_engine(backend.url)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    assert await one(engine, "SELECT count(*) FROM hero") == 0
    await engine.dispose()

    def sync() -> int | None:
        sync_engine = create_sync_engine(backend.url)
        Base.metadata.create_all(sync_engine)
        with sync_engine.begin() as connection:
            count: int | None = connection.scalar(text("SELECT count(*) FROM hero"))
        sync_engine.dispose()
        return count

    assert await asyncio.to_thread(sync) == 0


@pytest.mark.backends("sqlite-memory")
def test_sqlalchemys_arguments_win(backend: Backend) -> None:
    """Over an option that says the same, and over our defaults; SQLite keeps the overflow."""
    pool = PoolOptions(size=3, max_overflow=1, recycle=None)
    engine = create_async_engine(backend.url, pool=pool, timeouts=Timeouts(pool=7))
    queue = engine.pool
    assert isinstance(queue, AsyncAdaptedQueuePool)
    assert (queue.size(), queue._max_overflow, queue._timeout, queue._recycle) == (4, 0, 7, -1)
    engine = create_async_engine(
        backend.url, pool=pool, pool_size=5, max_overflow=2, pool_timeout=1, echo=True
    )
    queue = engine.pool
    assert isinstance(queue, AsyncAdaptedQueuePool)
    assert (queue.size(), queue._max_overflow, queue._timeout) == (5, 2, 1)
    assert engine.echo


@pytest.mark.backends("sqlite-memory")
def test_pools_of_other_kinds(backend: Backend) -> None:
    """A pool class, a pool object and PoolOptions.null() are taken without pool sizes."""
    for options, expected in (
        ({"poolclass": NullPool}, NullPool),
        ({"poolclass": StaticPool}, QueuePool),  # in memory: see test_sqlite
        ({"poolclass": None}, QueuePool),
        ({"pool": PoolOptions.null()}, NullPool),
    ):
        assert isinstance(create_sync_engine(backend.url, **options).pool, expected)
    own = create_sync_engine(backend.url).pool
    assert isinstance(own, QueuePool)
    assert create_sync_engine(backend.url, pool=own).pool is own


def test_default_options_are_the_documented_ones() -> None:
    """Ten connections and none beyond, five seconds of waiting for one of them."""
    queue = create_async_engine("postgresql+asyncpg://localhost/shop").pool
    assert isinstance(queue, AsyncAdaptedQueuePool)
    assert (queue.size(), queue._max_overflow, queue._timeout, queue._recycle) == (10, 0, 5, 1800)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: PoolOptions(size=0),
            "PoolOptions(size=0): a pool keeps at least 1 connection; write PoolOptions.null() to"
            " keep none.",
        ),
        (
            lambda: PoolOptions(max_overflow=-1),
            "PoolOptions(max_overflow=-1): must be 0 or more; an unlimited pool would move the"
            " queue into the database server.",
        ),
        (
            lambda: PoolOptions(recycle=0),
            "PoolOptions(recycle=0): must be a number of seconds, above 0.",
        ),
        (
            lambda: PoolOptions(ping_after=-1),
            "PoolOptions(ping_after=-1): must be a number of seconds, 0 or more.",
        ),
        (lambda: Timeouts(pool=0), "Timeouts(pool=0): must be a number of seconds, above 0."),
        (
            lambda: Timeouts(lock=float("nan")),
            "Timeouts(lock=nan): must be a number of seconds, above 0.",
        ),
        (
            lambda: TLSOptions(mode="on"),  # type: ignore[arg-type]
            "TLSOptions(mode='on'): unknown mode; use one of disable, prefer, require, verify-ca,"
            " verify-full.",
        ),
        (
            lambda: TLSOptions(key_file="client.key"),
            "TLSOptions(key_file=…): a client key needs its certificate; add cert_file=….",
        ),
        (
            lambda: PoolOptions(size="5"),  # type: ignore[arg-type]
            "PoolOptions(size='5'): a pool keeps at least 1 connection; write PoolOptions.null() to"
            " keep none.",
        ),
        (
            lambda: Timeouts(connect=None),  # type: ignore[arg-type]
            "Timeouts(connect=None): must be a number of seconds, above 0.",
        ),
        (
            lambda: Database("sqlite://", pool=PoolOptions.transaction_pooler()),
            "PoolOptions.transaction_pooler() is for PostgreSQL and MySQL; SQLite has no server"
            " and no pooler. Leave `pool` out.",
        ),
        (
            lambda: Database("sqlite://", tls=TLSOptions()),
            "TLSOptions(mode='verify-full'): SQLite has no network, so there is nothing to"
            " encrypt; leave tls out.",
        ),
    ],
)
def test_options_that_cannot_work_are_refused(make: Any, message: str) -> None:
    """When they are made, with the value and what to write."""
    with pytest.raises(ConfigurationError) as raised:
        make()
    assert str(raised.value) == message


@pytest.mark.parametrize("name", ["begin", "journal_mode", "synchronous"])
def test_unknown_sqlite_options_are_refused(name: str) -> None:
    """Nothing of the caller's reaches a PRAGMA unchecked."""
    from fastdb import SQLiteOptions

    with pytest.raises(ConfigurationError, match=f"^SQLiteOptions\\({name}='x; y'\\): unknown"):
        SQLiteOptions(**{name: "x; y"})  # type: ignore[arg-type]


# --- Waiting ------------------------------------------------------------------------------------


async def test_a_full_pool_is_waited_for_so_long_only(backend: Backend) -> None:
    """Then SQLAlchemy's TimeoutError is raised, and nothing is lost."""
    pool = PoolOptions(size=1, max_overflow=0)
    async with Database(backend.url, pool=pool, timeouts=Timeouts(pool=0.05)) as db:
        async with db.session(begin="deferred") as session:
            await session.execute(select(1))
            with pytest.raises(exc.TimeoutError):
                async with db.session(begin="deferred") as second:
                    await second.execute(select(1))
        async with db.session() as session:
            assert await session.scalar(select(1)) == 1


@pytest.mark.backends("postgresql", "mysql")
async def test_a_lock_is_waited_for_so_long_only(backend: Backend) -> None:
    """The server ends the waiting; the rows of the one who held the lock are there."""
    async with Database(backend.url, timeouts=Timeouts(lock=1)) as db:
        await db.create_all(Base.metadata)
        async with db.session() as session:
            session.add(Hero(id=1, name="a"))
        with pytest.raises(exc.DBAPIError, match=r"lock timeout|Lock wait timeout"):
            async with db.session() as session:
                await session.execute(text("UPDATE hero SET name = 'b'"))
                async with db.session() as second:
                    await second.execute(text("UPDATE hero SET name = 'c'"))
        async with db.read_session() as session:
            assert await session.scalar(select(Hero.name)) == "a"


@pytest.mark.backends("postgresql", "mysql")
async def test_the_servers_limits_are_set_on_every_engine(backend: Backend) -> None:
    """On both async engines, on the twin's, and outside of any transaction that could undo it."""
    statement = {
        "postgresql": "SHOW lock_timeout",
        "mysql": "SELECT @@innodb_lock_wait_timeout + @@lock_wait_timeout",
    }[backend.name]
    expected = {"postgresql": "3s", "mysql": 6}[backend.name]
    async with Database(backend.url, timeouts=Timeouts(lock=3)) as db:
        assert await one(db.engine, statement) == expected
        assert await one(db.read_engine, statement) == expected

        def sync() -> object:
            with db.sync.engine.connect() as connection:
                connection.rollback()
                return connection.scalar(text(statement))

        assert await asyncio.to_thread(sync) == expected


def test_the_connect_limit_of_the_url_and_of_the_option() -> None:
    """The URL wins over the default, an explicit option over the URL."""
    url = "postgresql://localhost/shop?connect_timeout=3"

    def limit(**options: Any) -> object:
        arguments: dict[str, Any] = {}
        engine = create_async_engine(url, **options)

        @event.listens_for(engine.sync_engine, "do_connect")
        def stop(_dialect: Any, _entry: Any, _arguments: Any, keywords: dict[str, Any]) -> None:
            arguments.update(keywords)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            engine.sync_engine.raw_connection()
        return arguments["timeout"]

    assert limit() == 3
    assert limit(timeouts=Timeouts(connect=4.5)) == 5
    assert limit(connect_args={"timeout": 6}) == 6


# --- Passwords ----------------------------------------------------------------------------------


@pytest.mark.backends("postgresql", "mysql")
@pytest.mark.parametrize("kind", ["text", "function", "coroutine"])
async def test_the_password_may_be_asked_for(backend: Backend, kind: str) -> None:
    """As text, by a function, or by an async function: at each new connection, for the twin too."""
    url = make_url(backend.url)
    asked: list[str] = []

    def function() -> str:
        asked.append("asked")
        return str(url.password)

    async def coroutine() -> str:
        await asyncio.sleep(0)
        return function()

    password = {"text": str(url.password), "function": function, "coroutine": coroutine}[kind]
    plain = url.set(password="wrong")
    async with Database(plain, password=password, pool=PoolOptions.null()) as db:  # type: ignore[arg-type]
        assert await one(db.engine, "SELECT 1") == 1
        assert await one(db.read_engine, "SELECT 1") == 1
        await asyncio.to_thread(db.sync.ping)
    assert len(asked) == (0 if kind == "text" else 3)


# --- Dead connections ---------------------------------------------------------------------------


@pytest.fixture
def killed(backend: Backend) -> Callable[[], Awaitable[None]]:
    """A function that ends all sessions of the database on the server but the one that says so."""

    async def kill() -> None:
        url = backend.url
        killer = create_async_engine(url, poolclass=NullPool)
        async with killer.connect() as connection:
            if backend.name == "postgresql":
                await connection.execute(
                    text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname ="
                        " current_database() AND pid <> pg_backend_pid()"
                    )
                )
            else:
                found = await connection.execute(
                    text(
                        "SELECT id FROM information_schema.processlist WHERE db = DATABASE()"
                        " AND id <> CONNECTION_ID()"
                    )
                )
                for (number,) in found.all():
                    await connection.execute(text(f"KILL {number}"))
        await killer.dispose()

    return kill


@pytest.mark.backends("postgresql", "mysql")
async def test_idle_connections_are_checked_before_use(
    backend: Backend, killed: Callable[[], Awaitable[None]]
) -> None:
    """A server that has closed them costs no request, on either engine."""
    async with Database(backend.url, pool=PoolOptions(ping_after=0)) as db:
        for _ in range(3):
            await asyncio.gather(*(one(db.engine, "SELECT 1") for _ in range(3)))
            await one(db.read_engine, "SELECT 1")
            await killed()
        assert await one(db.engine, "SELECT 1") == 1
        assert await one(db.read_engine, "SELECT 1") == 1


@pytest.mark.backends("postgresql", "mysql")
async def test_busy_connections_are_not_checked(backend: Backend) -> None:
    """A connection that was used a moment ago is handed out without a question."""
    for ping_after, expected in ((60.0, 0), (None, 0), (0.0, 2)):
        async with Database(backend.url, pool=PoolOptions(ping_after=ping_after)) as db:
            with patch.object(
                db.engine.dialect, "do_ping", wraps=db.engine.dialect.do_ping
            ) as ping:
                for _ in range(3):
                    await one(db.engine, "SELECT 1")
            assert ping.call_count == expected


@pytest.mark.backends("postgresql", "mysql")
async def test_a_connection_that_comes_back_in_a_transaction_is_rolled_back(
    backend: Backend,
) -> None:
    """Even where SQLAlchemy believes that the transaction has ended."""
    async with Database(backend.url, pool=PoolOptions(size=1, max_overflow=0)) as db:
        await db.create_all(Base.metadata)
        autocommit = db.engine.execution_options(isolation_level="AUTOCOMMIT")
        async with autocommit.connect() as connection:
            # SQLAlchemy skips what it would do at the end: it has begun nothing.
            await connection.execute(text("BEGIN"))
            await connection.execute(text("INSERT INTO hero (name) VALUES ('ghost')"))
        async with db.session() as session:
            session.add(Hero(name="a"))
        async with db.read_session() as session:
            assert (await session.scalars(select(Hero.name))).all() == ["a"]


# --- Through a transaction pooler ---------------------------------------------------------------


@pytest.fixture(params=["asyncpg", "psycopg"])
def pooled_url(pgbouncer_url: str, request: pytest.FixtureRequest) -> str:
    """PgBouncer in transaction mode, for each driver."""
    return pgbouncer_url.replace("postgresql://", f"postgresql+{request.param}://")


async def test_a_transaction_pooler_gives_no_errors(pooled_url: str) -> None:
    """No prepared statement is looked for on a server connection that does not know it."""
    async with Database(pooled_url, pool=PoolOptions.transaction_pooler(size=8)) as db:
        await db.create_all(Base.metadata)

        async def work(client: int) -> None:
            for turn in range(10):
                async with db.session() as session:
                    session.add(Hero(name=f"{client}/{turn}"))
                async with db.read_session() as session:
                    await session.scalar(select(Hero.id).where(Hero.name == f"{client}/{turn}"))

        await asyncio.gather(*(work(client) for client in range(8)))
        async with db.read_session(snapshot=True) as session:
            assert len((await session.scalars(select(Hero))).all()) == 80


@pytest.mark.parametrize("snapshot", [False, True], ids=["plain", "snapshot"])
async def test_read_sessions_through_a_pooler(pooled_url: str, snapshot: bool) -> None:
    """They cannot write, and leave no session state behind for the next client."""
    async with Database(pooled_url, pool=PoolOptions.transaction_pooler()) as db:
        await db.create_all(Base.metadata)
        with pytest.raises(exc.DBAPIError, match="read-only transaction"):
            async with db.read_session(snapshot=snapshot) as session:
                level = await session.scalar(text("SHOW transaction_isolation"))
                assert level == ("repeatable read" if snapshot else "read committed")
                session.add(Hero(name="a"))
        async with db.session() as session:
            assert await session.scalar(text("SHOW default_transaction_read_only")) == "off"
            session.add(Hero(name="b"))
        async with db.read_session() as session:
            streamed = await session.stream_scalars(select(Hero.name))
            assert [name async for name in streamed] == ["b"]


async def test_limits_through_a_pooler_are_the_transactions(pooled_url: str) -> None:
    """A lock limit that was asked for is set with each BEGIN, and for it only."""
    options = PoolOptions.transaction_pooler(size=1, max_overflow=0)
    asked = Database(pooled_url, pool=options, timeouts=Timeouts(lock=3))
    async with asked as db, db.session() as session:
        assert await session.scalar(text("SHOW lock_timeout")) == "3s"
    async with Database(pooled_url, pool=options) as db:
        assert await one(db.engine, "SHOW lock_timeout") == "0"


async def test_a_url_that_names_a_pooler_is_enough(pgbouncer_url: str) -> None:
    """`?pgbouncer=true` says the same as the option."""
    url = pgbouncer_url.replace("postgresql://", "postgresql+asyncpg://") + "?pgbouncer=true"
    async with Database(url) as db:
        await asyncio.gather(*(one(db.engine, f"SELECT {n}") for n in range(20)))
        assert db.read_engine.pool is db.engine.pool


@pytest.mark.backends("mysql")
async def test_read_sessions_through_a_pooler_on_mysql(backend: Backend) -> None:
    """There they begin with START TRANSACTION READ ONLY, on the connections that write."""
    async with Database(backend.url, pool=PoolOptions.transaction_pooler()) as db:
        await db.create_all(Base.metadata)
        for snapshot in (False, True):
            with pytest.raises(exc.DBAPIError, match="READ ONLY transaction"):
                async with db.read_session(snapshot=snapshot) as session:
                    session.add(Hero(name="a"))
        async with db.session() as session:
            session.add(Hero(name="b"))


@pytest.mark.backends("mysql")
async def test_a_snapshot_on_a_server_with_a_weaker_default(backend: Backend) -> None:
    """One consistent view needs REPEATABLE READ; it is asked for where it is not the default."""
    options = {"init_command": "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"}
    async with Database(backend.url, async_options={"connect_args": options}) as db:
        await db.create_all(Base.metadata)
        async with db.read_session(snapshot=True) as session:
            assert (await session.scalars(select(Hero))).all() == []
            async with db.session() as writer:
                writer.add(Hero(name="a"))
            assert (await session.scalars(select(Hero))).all() == []
        async with db.read_session() as session:
            assert len((await session.scalars(select(Hero))).all()) == 1


async def test_bytes_come_back_as_they_went(database: Database) -> None:
    """By each driver in the versions that are installed together."""
    table = Table("blobs", MetaData(), Column("content", LargeBinary))
    content = bytes(range(256))
    async with database.engine.begin() as connection:
        await connection.run_sync(table.create)
        await connection.execute(table.insert().values(content=content))
        assert await connection.scalar(select(table.c.content)) == content
