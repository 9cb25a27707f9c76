"""Secrets that change while the app runs: connections that are open go on, new ones use the new."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from backends import BACKENDS, Backend
from databases import add_database, render
from fastdb import Database, PoolOptions
from fastdb.errors import ErrorKind, classify
from servers import MariaDB, PostgreSQL

pytestmark = [pytest.mark.faults, pytest.mark.backends("postgresql", "mysql")]

CONNECTIONS = 3

# --- The secret ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def postgresql_with_secret() -> Iterator[PostgreSQL]:
    """A server whose user's password is changed."""
    with PostgreSQL() as server:
        add_database(server)
        yield server


@pytest.fixture(scope="module")
def mysql_with_secret() -> Iterator[MariaDB]:
    """A server whose user's password is changed."""
    with MariaDB() as server:
        add_database(server)
        yield server


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Backend:
    """As everywhere, but on a server whose users may be changed; without a password."""
    name, driver = BACKENDS[request.param]
    server: PostgreSQL | MariaDB = request.getfixturevalue(f"{name}_with_secret")
    url = make_url(server.url("fastdb_private")).set(drivername=f"{name}+{driver}")
    return Backend(request.param, render(url.set(password="none")), name, driver)


class Secret:
    """A user's password: where the app reads it, and on the server."""

    def __init__(self, server: PostgreSQL | MariaDB) -> None:
        self.value = "fastdb"
        self.asked = 0
        self._server = server

    def read(self) -> str:
        """Return it, as a file or a vault does."""
        self.asked += 1
        return self.value

    async def fetch(self) -> str:
        """Return it, as a service does."""
        await asyncio.sleep(0)
        return self.read()

    def rotate(self, value: str) -> None:
        """Replace it in both places."""
        statement = {
            PostgreSQL: f"ALTER ROLE fastdb PASSWORD '{value}'",
            MariaDB: f"ALTER USER fastdb@'%' IDENTIFIED BY '{value}'",
        }[type(self._server)]
        self._server.administer(statement)
        self.value = value

    def end_sessions(self) -> None:
        """End the user's sessions, as administrators do who will have no more of the old secret."""
        if isinstance(self._server, PostgreSQL):
            self._server.administer(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE usename = 'fastdb'"
            )
        else:
            self._server.administer("KILL USER fastdb")


@pytest.fixture
def secret(backend: Backend, request: pytest.FixtureRequest) -> Iterator[Secret]:
    """The password of the user; afterwards it is what it was."""
    secret = Secret(request.getfixturevalue(f"{backend.name}_with_secret"))
    yield secret
    secret.rotate("fastdb")


@pytest.fixture(params=["sync", "async"])
def source(secret: Secret, request: pytest.FixtureRequest) -> Callable[[], Any]:
    """What is given to a Database as `password`."""
    return {"sync": secret.read, "async": secret.fetch}[request.param]


def identity(backend: Backend) -> str:
    functions = {"postgresql": "pg_backend_pid()", "mysql": "connection_id()"}
    return f"SELECT {functions[backend.name]}"


async def everyone(engine: AsyncEngine, backend: Backend) -> set[int]:
    """Use all connections at the same time; return their numbers."""
    all_taken = asyncio.Barrier(CONNECTIONS)

    async def one() -> int:
        async with engine.connect() as connection:
            number: int = await connection.scalar(text(identity(backend)))
            await all_taken.wait()
            return number

    return set(await asyncio.gather(*(one() for _ in range(CONNECTIONS))))


# --- It changes ---------------------------------------------------------------------------------


async def test_open_connections_go_on_and_new_ones_ask(
    backend: Backend, secret: Secret, source: Callable[[], Any]
) -> None:
    """Twice: each new connection asks for the secret of its time, and nobody notices a thing."""
    pool = PoolOptions(size=CONNECTIONS)
    async with Database(backend.url, password=source, pool=pool) as db:
        opened = await everyone(db.engine, backend)
        for number in range(1, 3):
            await asyncio.to_thread(secret.rotate, f"secret-{number}")
            assert await everyone(db.engine, backend) == opened
            assert secret.asked == number * CONNECTIONS
            await asyncio.to_thread(secret.end_sessions)
            renewed = await everyone(db.engine, backend)
            assert renewed.isdisjoint(opened)
            opened = renewed
        assert secret.asked == 3 * CONNECTIONS


async def test_connections_drain_by_their_age(backend: Backend, secret: Secret) -> None:
    """Those with the old secret are replaced when they are as old as `recycle`, under load."""
    pool = PoolOptions(size=CONNECTIONS, recycle=0.3)
    async with Database(backend.url, password=secret.read, pool=pool) as db:
        opened = await everyone(db.engine, backend)
        await asyncio.to_thread(secret.rotate, "secret-1")
        async with asyncio.timeout(5):
            while not opened.isdisjoint(await everyone(db.engine, backend)):
                pass
        assert secret.asked >= 2 * CONNECTIONS


async def test_the_twin_asks_as_well(
    backend: Backend, secret: Secret, source: Callable[[], Any]
) -> None:
    """Its threads go on with what is open, and connect with the new secret."""
    pool = PoolOptions(size=CONNECTIONS)
    async with Database(backend.url, password=source, pool=pool) as db:

        def everyone() -> set[int]:
            numbers: set[int] = set()
            all_taken = threading.Barrier(CONNECTIONS)

            def one() -> None:
                with db.sync.session() as session:
                    numbers.add(session.scalar(text(identity(backend))))
                    all_taken.wait()

            threads = [threading.Thread(target=one) for _ in range(CONNECTIONS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return numbers

        opened = await asyncio.to_thread(everyone)
        await asyncio.to_thread(secret.rotate, "secret-1")
        assert await asyncio.to_thread(everyone) == opened
        await asyncio.to_thread(secret.end_sessions)
        renewed = await asyncio.to_thread(everyone)
        assert len(renewed) == CONNECTIONS
        assert renewed.isdisjoint(opened)
        assert secret.asked == 2 * CONNECTIONS


async def test_a_secret_that_was_frozen_is_refused(backend: Backend, secret: Secret) -> None:
    """The canary: a password in the URL is that of the time when the app was started."""
    url = make_url(backend.url).set(password=secret.value)
    async with Database(render(url), pool=PoolOptions(size=CONNECTIONS)) as db:
        await everyone(db.engine, backend)
        await asyncio.to_thread(secret.rotate, "secret-1")
        await asyncio.to_thread(secret.end_sessions)
        with pytest.raises(Exception) as raised:  # noqa: PT011 - each driver has its own
            await db.ping()
        assert classify(raised.value) is ErrorKind.UNAVAILABLE
