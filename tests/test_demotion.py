"""A primary that takes no writes any more is left at its first refusal, for its successor."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pymysql
import pytest
from sqlalchemy import Connection, Engine, insert, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from asgi import Client, Item
from backends import BACKENDS, Backend
from databases import add_database, render
from fail_over import app_on
from fastdb import (
    CommitOutcomeUnknown,
    Database,
    PoolOptions,
    atomic,
    create_async_engine,
    create_sync_engine,
)
from fastdb.errors import ErrorKind, classify
from fastdb.failover import takes_no_writes
from primaries import Address, Pair
from proxy import Proxy
from servers import MariaDB, PostgreSQL
from standby import Standby

pytestmark = pytest.mark.faults

network = pytest.mark.backends("postgresql", "mysql")

SYNCHRONOUS = {"asyncpg": "psycopg2", "psycopg": "psycopg", "aiomysql": "pymysql"}
one_for_each_synchronous_driver = pytest.mark.backends("postgresql", "mysql-aiomysql")

CONNECTIONS = 3
POOL = PoolOptions(size=CONNECTIONS)

# --- A demoted primary, and the new one ---------------------------------------------------------


@pytest.fixture(scope="module")
def postgresql_pair() -> Iterator[Pair]:
    """A hot standby, which is what a primary is after its demotion, and its primary."""
    with PostgreSQL() as new:
        database = str(make_url(add_database(new)).database)
        with Standby(new) as old:
            yield Pair(old, new, database)


@pytest.fixture(scope="module")
def mysql_pair() -> Iterator[Pair]:
    """Two servers; the first is demoted while connections to it are open."""
    with MariaDB() as old, MariaDB() as new:
        add_database(old)
        yield Pair(old, new, str(make_url(add_database(new)).database))


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Backend:
    """The new primary, for each driver."""
    name, driver = BACKENDS[request.param]
    pair: Pair = request.getfixturevalue(f"{name}_pair")
    url = make_url(pair.new.url(pair.database)).set(drivername=f"{name}+{driver}")
    return Backend(request.param, render(url), name, driver)


@pytest.fixture
async def pair(backend: Backend, request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    """The two servers, with empty tables."""
    pair: Pair = request.getfixturevalue(f"{backend.name}_pair")
    await pair.prepare()
    yield pair
    await asyncio.to_thread(pair.restore)


@pytest.fixture
async def address(pair: Pair) -> AsyncIterator[Address]:
    """The address of the old primary, for the time being."""
    async with Proxy.before(pair.old.url(pair.database)) as proxy:
        yield Address(proxy, pair)


def drivername(backend: Backend) -> str:
    return f"{backend.name}+{backend.driver}"


def port_query(backend_name: str) -> Any:
    """Ask a server who it is."""
    return text({"postgresql": "SELECT inet_server_port()", "mysql": "SELECT @@port"}[backend_name])


def identity_query(backend_name: str) -> Any:
    """Ask for the number of the connection."""
    functions = {"postgresql": "pg_backend_pid()", "mysql": "connection_id()"}
    return text(f"SELECT {functions[backend_name]}")


async def warm_up(engine: AsyncEngine, statement: Any = select(1)) -> list[Any]:  # noqa: B008
    """Open all connections of the pool; return what each answers."""
    all_taken = asyncio.Barrier(CONNECTIONS)

    async def one() -> Any:
        async with engine.connect() as connection:
            answer = await connection.scalar(statement)
            await all_taken.wait()
            return answer

    return await asyncio.gather(*(one() for _ in range(CONNECTIONS)))


def in_threads(engine: Engine, work: Callable[[Connection], Any]) -> list[Any]:
    """Work on as many connections as the pool has, at the same time; what is raised is a result."""
    all_taken = threading.Barrier(CONNECTIONS)

    def one(_: int) -> Any:
        try:
            with engine.begin() as connection:
                all_taken.wait()
                return work(connection)
        except DBAPIError as error:
            return classify(error)

    with ThreadPoolExecutor(CONNECTIONS) as threads:
        return list(threads.map(one, range(CONNECTIONS)))


# --- It is left ---------------------------------------------------------------------------------


@network
async def test_a_demoted_primary_is_left_at_the_first_error(
    backend: Backend, address: Address, caplog: pytest.LogCaptureFixture
) -> None:
    """One request is told, with 503; then every connection of both pools leads to the new one."""
    db = Database(address.url(drivername(backend)), pool=POOL)
    app = app_on(db)
    async with db.lifespan(app):
        client = Client(app, None, db)
        await warm_up(db.engine)
        await warm_up(db.read_engine)
        await address.switch()
        with caplog.at_level(logging.WARNING, "fastdb.pool"):
            answer = await client.post("/items/refused")
        assert (answer.status, answer.json()["kind"]) == (503, "read_only")
        told = [each.getMessage() for each in caplog.records if each.name == "fastdb.pool"]
        assert told == [
            "The server of fastdb_private takes no writes: its connections are given up, and the"
            " next session connects anew. Has another server become the primary?"
        ]
        names = [f"saved-{number}" for number in range(10)]
        answers = await asyncio.gather(*(client.post(f"/items/{name}") for name in names))
        assert {answer.status for answer in answers} == {201}
        async with db.read_session() as session:
            assert await session.scalar(port_query(backend.name)) == address.new_port
            assert set(await session.scalars(select(Item.name))) == set(names)


@network
async def test_who_is_refused_later_gives_up_nothing_new(
    backend: Backend, address: Address
) -> None:
    """Its connection is as old as the one that was refused first: what was opened since stays."""
    async with Database(address.url(drivername(backend)), pool=POOL) as db:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def write_late() -> None:
            async with db.session() as session:
                await session.scalar(select(1))
                begun.set()
                await go_on.wait()
                session.add(Item(name="refused later"))

        async def write(name: str) -> int:
            async with db.session() as session:
                session.add(Item(name=name))
                return await session.scalar(identity_query(backend.name)) or 0

        await warm_up(db.engine)
        late = asyncio.create_task(write_late())
        await begun.wait()
        await address.switch()
        with pytest.raises(DBAPIError):
            await write("refused")
        new = await write("saved")
        go_on.set()
        with pytest.raises(DBAPIError):
            await late
        assert new in await warm_up(db.engine, identity_query(backend.name))


@network
async def test_the_twin_leaves_it_too(backend: Backend, address: Address) -> None:
    """In its threads, as the async sessions."""
    async with Database(address.url(drivername(backend)), pool=POOL) as db:

        def write(name: str) -> None:
            with db.sync.session() as session:
                session.add(Item(name=name))

        await asyncio.to_thread(in_threads, db.sync.engine, lambda c: c.scalar(select(1)))
        await address.switch()
        with pytest.raises(DBAPIError) as raised:
            await asyncio.to_thread(write, "refused")
        assert classify(raised.value) is ErrorKind.READ_ONLY
        for number in range(CONNECTIONS):
            await asyncio.to_thread(write, f"saved-{number}")


@network
async def test_an_engine_alone_leaves_it_too(backend: Backend, address: Address) -> None:
    """One of `create_async_engine`, which has no sessions of ours."""
    engine = create_async_engine(address.url(drivername(backend)), pool=POOL)
    await warm_up(engine)
    await address.switch()

    async def write(name: str) -> None:
        async with engine.begin() as connection:
            await connection.execute(insert(Item).values(name=name))

    with pytest.raises(DBAPIError) as raised:
        await write("refused")
    assert classify(raised.value) is ErrorKind.READ_ONLY
    for number in range(CONNECTIONS):
        await write(f"saved-{number}")
    await engine.dispose()


@one_for_each_synchronous_driver
async def test_a_synchronous_engine_alone_leaves_it_too(backend: Backend, address: Address) -> None:
    """One of `create_sync_engine`, with each synchronous driver."""
    driver = f"{backend.name}+{SYNCHRONOUS[backend.driver]}"
    engine = create_sync_engine(address.url(driver), pool=POOL)

    def write(connection: Connection) -> int:
        connection.execute(insert(Item).values(name=f"{threading.get_ident()}"))
        port: int = connection.scalar(port_query(backend.name))
        return port

    await asyncio.to_thread(in_threads, engine, lambda connection: connection.scalar(select(1)))
    await address.switch()
    refused = await asyncio.to_thread(in_threads, engine, write)
    assert refused == [ErrorKind.READ_ONLY] * CONNECTIONS
    saved = await asyncio.to_thread(in_threads, engine, write)
    assert saved == [address.new_port] * CONNECTIONS
    await asyncio.to_thread(engine.dispose)


@network
async def test_run_begins_anew_on_the_new_primary(backend: Backend, address: Address) -> None:
    """What was refused has done nothing, and the second attempt is on a new connection."""
    attempts: list[int] = []

    async def unit(session: AsyncSession) -> None:
        attempts.append(await session.scalar(port_query(backend.name)) or 0)
        session.add(Item(name="once"))

    async with Database(address.url(drivername(backend)), pool=POOL) as db:
        await warm_up(db.engine)
        await address.switch()
        await db.run(unit)
        assert attempts == [address.pair.old.port, address.new_port]
        async with db.read_session() as session:
            assert (await session.scalars(select(Item.name))).all() == ["once"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (pymysql.err.OperationalError(1290, "read_only"), True),
        (pymysql.err.OperationalError(1836, "Running in read-only mode"), True),
        (pymysql.err.OperationalError(1792, "in a READ ONLY transaction"), False),
        (pymysql.err.OperationalError(), False),
        (psycopg.errors.ReadOnlySqlTransaction("in recovery"), True),
        (psycopg.errors.UniqueViolation(), False),
        (ConnectionError("none of a server's"), False),
    ],
    ids=str,
)
def test_what_says_that_a_server_takes_no_writes(error: Exception, expected: bool) -> None:
    """The code, alone or inside SQLAlchemy's exception; never the message."""
    assert takes_no_writes(error) is expected
    assert takes_no_writes(DBAPIError("INSERT", {}, error)) is expected


# --- What is no demotion ------------------------------------------------------------------------


@network
@pytest.mark.parametrize("pool", [POOL, PoolOptions.transaction_pooler()], ids=["direct", "pooler"])
async def test_a_read_session_is_told_and_keeps_its_connection(
    backend: Backend, pair: Pair, pool: PoolOptions
) -> None:
    """A mistake of the program's says nothing of the server."""
    async with Database(backend.url, pool=pool) as db:
        identities = set()
        for snapshot in (False, True, False):
            with pytest.raises(DBAPIError) as raised:
                async with db.read_session(snapshot=snapshot) as session:
                    identities.add(await session.scalar(identity_query(backend.name)))
                    session.add(Item(name="a"))
            assert classify(raised.value) is ErrorKind.READ_ONLY
        assert len(identities) == 1


@pytest.mark.backends("postgresql")
async def test_a_declared_read_only_transaction_keeps_its_connection(
    backend: Backend, pair: Pair
) -> None:
    """Declared by SQLAlchemy's option, in a session that could write."""
    async with Database(backend.url) as db:
        identities = set()
        for _ in range(2):
            with pytest.raises(DBAPIError):
                async with db.session() as session:
                    options = {"postgresql_readonly": True}
                    await session.connection(execution_options=options)
                    identities.add(await session.scalar(identity_query(backend.name)))
                    session.add(Item(name="a"))
        assert len(identities) == 1


@pytest.mark.backends("postgresql")
async def test_a_transaction_goes_on_after_a_part_that_was_read_only(
    backend: Backend, pair: Pair
) -> None:
    """A user's own SET costs a new connection for the next session, and no row of this one."""
    async with Database(backend.url) as db:
        async with db.session() as session:
            session.add(Item(name="before"))
            with pytest.raises(DBAPIError):
                async with atomic(session):
                    await session.execute(text("SET TRANSACTION READ ONLY"))
                    await session.execute(insert(Item).values(name="refused"))
            session.add(Item(name="after"))
        async with db.read_session() as session:
            names = (await session.scalars(select(Item.name).order_by(Item.id))).all()
            assert names == ["before", "after"]


@pytest.mark.backends("mysql")
async def test_a_commit_that_was_refused_has_a_known_outcome(
    backend: Backend, address: Address
) -> None:
    """Demoted between the statement and COMMIT: nothing is saved, and that is known."""
    async with Database(address.url(drivername(backend)), pool=POOL) as db:
        with pytest.raises(DBAPIError) as raised:
            async with db.session() as session:
                session.add(Item(name="a"))
                await session.flush()
                await address.switch()
        assert not isinstance(raised.value, CommitOutcomeUnknown)
        assert classify(raised.value) is ErrorKind.READ_ONLY
        async with db.session() as session:
            session.add(Item(name="b"))
    old = Database(address.pair.old.url(address.pair.database))
    async with old, old.read_session() as session:
        assert (await session.scalars(select(Item.name))).all() == []


# --- Nowhere to go ------------------------------------------------------------------------------


@pytest.mark.backends("postgresql")
async def test_no_host_takes_writes(backend: Backend, pair: Pair) -> None:
    """Between the fall of one primary and the promotion of the next: 503, as without a server."""
    url = make_url(pair.old.url(pair.database)).set(drivername=drivername(backend))
    url = url.update_query_dict({"target_session_attrs": "read-write"})
    db = Database(render(url))
    app = app_on(db)
    async with db.lifespan(app):
        answer = await Client(app, None, db).post("/items/a")
    assert (answer.status, answer.json()["kind"]) == (503, "unavailable")
