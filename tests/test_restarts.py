"""A server that restarts: idle connections are replaced unnoticed, open transactions are told."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import patch

import pytest
from sqlalchemy import delete, insert, select
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncSession

from asgi import Base, Client, Item
from backends import BACKENDS, Backend
from databases import add_database, render
from fail_over import app_on
from fastdb import CommitOutcomeUnknown, Database, PoolOptions, create_sync_engine
from fastdb.errors import ErrorKind, classify
from servers import MariaDB, PostgreSQL

pytestmark = [pytest.mark.faults, pytest.mark.backends("postgresql", "mysql")]

CONNECTIONS = 3

Restart = Callable[[], Awaitable[None]]

never_asked = pytest.mark.parametrize("ping_after", [None, 60.0], ids=["never", "not-yet"])

# --- Servers that may be stopped ----------------------------------------------------------------


@pytest.fixture(scope="module")
def postgresql_to_stop() -> Iterator[PostgreSQL]:
    """A server of this module's."""
    with PostgreSQL(settings=PostgreSQL.DURABLE) as server:
        add_database(server)
        yield server


@pytest.fixture(scope="module")
def mysql_to_stop() -> Iterator[MariaDB]:
    """A server of this module's."""
    with MariaDB(settings=MariaDB.DURABLE) as server:
        add_database(server)
        yield server


@pytest.fixture
def server(backend: Backend, request: pytest.FixtureRequest) -> Iterator[PostgreSQL | MariaDB]:
    """The server behind `backend`; it runs when the test begins."""
    server: PostgreSQL | MariaDB = request.getfixturevalue(f"{backend.name}_to_stop")
    yield server
    if server.is_stopped:
        server.start()


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Backend:
    """As everywhere, but on a server that may be stopped."""
    name, driver = BACKENDS[request.param]
    server: PostgreSQL | MariaDB = request.getfixturevalue(f"{name}_to_stop")
    url = make_url(server.url("fastdb_private")).set(drivername=f"{name}+{driver}")
    return Backend(request.param, render(url), name, driver)


@pytest.fixture(params=["killed", "stopped"])
def restart(server: PostgreSQL | MariaDB, request: pytest.FixtureRequest) -> Restart:
    """A function that restarts the server: after a SIGKILL, or as an administrator does it."""

    def again() -> None:
        end = {"killed": server.kill, "stopped": server.stop}[request.param]
        end()
        server.start()

    async def restart() -> None:
        await asyncio.to_thread(again)

    return restart


@pytest.fixture
async def table(server: PostgreSQL | MariaDB, backend: Backend) -> None:
    """An empty table of items."""
    async with Database(backend.url) as db:
        await db.create_all(Base.metadata)
        async with db.session() as session:
            await session.execute(delete(Item))


async def everyone(db: Database) -> list[Any]:
    """Use all connections of both pools, each for a statement; return what it gives or raises."""

    async def one(open_session: Callable[[], Any], all_taken: asyncio.Barrier) -> Any:
        async with open_session() as session:
            await all_taken.wait()
            return await session.scalar(select(1))

    kinds: list[Callable[[], Any]] = [db.session, db.read_session]
    barriers = [asyncio.Barrier(CONNECTIONS) for _ in kinds]
    pairs = [pair for pair in zip(kinds, barriers, strict=True) for _ in range(CONNECTIONS)]
    return await asyncio.gather(*(one(*pair) for pair in pairs), return_exceptions=True)


async def names(db: Database) -> list[str]:
    async with db.read_session() as session:
        return list(await session.scalars(select(Item.name).order_by(Item.id)))


# --- While connections are idle -----------------------------------------------------------------


@never_asked
async def test_no_request_fails(
    backend: Backend, restart: Restart, ping_after: float | None
) -> None:
    """Of all connections, on both engines, however soon after they were used."""
    pool = PoolOptions(size=CONNECTIONS, ping_after=ping_after)
    async with Database(backend.url, pool=pool) as db:
        assert await everyone(db) == [1] * 2 * CONNECTIONS
        await restart()
        assert await everyone(db) == [1] * 2 * CONNECTIONS


async def test_no_request_fails_encrypted_or_not(backend: Backend, restart: Restart) -> None:
    """The other way than above: PostgreSQL's drivers encrypt by themselves, MySQL's do not."""
    query = {"postgresql": "?sslmode=disable", "mysql": "?ssl-mode=REQUIRED"}[backend.name]
    pool = PoolOptions(size=CONNECTIONS, ping_after=None)
    async with Database(backend.url + query, pool=pool) as db:
        assert await everyone(db) == [1] * 2 * CONNECTIONS
        await restart()
        assert await everyone(db) == [1] * 2 * CONNECTIONS


async def test_nobody_is_asked_who_has_said_nothing(
    backend: Backend, server: PostgreSQL | MariaDB
) -> None:
    """A look at the connection is no round trip."""
    pool = PoolOptions(size=CONNECTIONS, ping_after=None)
    async with Database(backend.url, pool=pool) as db:
        await everyone(db)
        with patch.object(db.engine.dialect, "do_ping", wraps=db.engine.dialect.do_ping) as ping:
            for _ in range(20):
                async with db.session() as session:
                    await session.scalar(select(1))
            assert ping.call_count == 0


async def test_the_end_is_noticed_before_the_loop_is(
    backend: Backend, server: PostgreSQL | MariaDB
) -> None:
    """A loop that was busy meanwhile has told the driver nothing: the socket is looked at."""
    pool = PoolOptions(size=1, ping_after=None)
    async with Database(backend.url, pool=pool) as db:
        async with db.session() as session:
            await session.scalar(select(1))
        thread = threading.Thread(target=lambda: (server.kill(), server.start()))
        thread.start()
        _wait_in_the_loop(thread)
        async with db.session() as session:
            assert await session.scalar(select(1)) == 1


def _wait_in_the_loop(thread: threading.Thread) -> None:
    """Block the event loop, as a slow computation does."""
    while thread.is_alive():
        pass


@never_asked
@pytest.mark.backends("postgresql", "mysql-aiomysql")
async def test_no_thread_of_the_twin_fails(
    backend: Backend, restart: Restart, ping_after: float | None
) -> None:
    """With each synchronous driver."""
    pool = PoolOptions(size=CONNECTIONS, ping_after=ping_after)
    driver = {"asyncpg": "psycopg2", "psycopg": "psycopg", "aiomysql": "pymysql"}[backend.driver]
    url = make_url(backend.url).set(drivername=f"{backend.name}+{driver}")
    engine = create_sync_engine(url, pool=pool)

    def everyone() -> list[Any]:
        all_taken = threading.Barrier(CONNECTIONS)

        def one(_: int) -> Any:
            with engine.connect() as connection:
                all_taken.wait()
                return connection.scalar(select(1))

        with ThreadPoolExecutor(CONNECTIONS) as threads:
            return list(threads.map(one, range(CONNECTIONS)))

    assert await asyncio.to_thread(everyone) == [1] * CONNECTIONS
    await restart()
    assert await asyncio.to_thread(everyone) == [1] * CONNECTIONS
    await asyncio.to_thread(engine.dispose)


async def test_while_the_server_is_down(
    backend: Backend, server: PostgreSQL | MariaDB, table: None
) -> None:
    """503 at once, and 201 as soon as it is back."""
    db = Database(backend.url, pool=PoolOptions(size=CONNECTIONS))
    app = app_on(db)
    async with db.lifespan(app):
        client = Client(app, None, db)
        assert (await client.post("/items/before")).status == 201
        await asyncio.to_thread(server.kill)
        async with asyncio.timeout(5):
            answers = await asyncio.gather(*(client.post(f"/items/{n}") for n in range(10)))
        found = {(answer.status, answer.json()["kind"]) for answer in answers}
        assert found == {(503, "unavailable")}
        await asyncio.to_thread(server.start)
        answers = await asyncio.gather(*(client.post(f"/items/{n}") for n in range(10)))
        assert {answer.status for answer in answers} == {201}


# --- In the middle of a transaction -------------------------------------------------------------


async def test_a_transaction_is_not_continued_elsewhere(
    backend: Backend, restart: Restart, table: None
) -> None:
    """The next statement raises, whatever was caught before; no row is there."""
    async with Database(backend.url) as db:
        kinds = []
        with pytest.raises(Exception) as raised:  # noqa: PT011 - each driver has its own
            async with db.session() as session:
                session.add(Item(name="before"))
                await session.flush()
                await restart()
                kinds += [await _kind_of(session), await _kind_of(session)]
        assert kinds[0] is ErrorKind.DISCONNECTED
        assert kinds[1] is not None
        assert not isinstance(raised.value, CommitOutcomeUnknown)
        assert await names(db) == []


async def _kind_of(session: AsyncSession) -> ErrorKind | None:
    try:
        await session.execute(insert(Item).values(name="after"))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told of
        return classify(error)
    return None


async def test_a_connection_that_is_lost_at_commit(
    backend: Backend, restart: Restart, table: None
) -> None:
    """Whether COMMIT arrived is not known by who has sent it; here it has not."""
    async with Database(backend.url) as db:
        with pytest.raises(CommitOutcomeUnknown) as raised:
            async with db.session() as session:
                session.add(Item(name="a"))
                await session.flush()
                await restart()
        assert classify(raised.value) is ErrorKind.DISCONNECTED
        assert await names(db) == []


async def test_run_begins_anew_after_a_restart(
    backend: Backend, restart: Restart, table: None
) -> None:
    """What was lost before COMMIT is done once."""
    attempts = 0

    async def unit(session: AsyncSession) -> None:
        nonlocal attempts
        attempts += 1
        session.add(Item(name="once"))
        await session.flush()
        if attempts == 1:
            await restart()
        await session.scalar(select(1))

    async with Database(backend.url) as db:
        await db.run(unit)
        assert (attempts, await names(db)) == (2, ["once"])
