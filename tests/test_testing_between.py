"""One test that is rolled back after the other, on one connection: nothing of the first is left."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import exc, select, text

from asgi import Base, Item
from backends import Backend
from fastdb import Database
from fastdb.errors import NotUndone
from fastdb.testing.guest_engines import GuestEngines
from fastdb.testing.home import Home
from fastdb.testing.rollbacks import Rollbacks


class Run:
    """A run of tests on one database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.home = Home()
        self.rollbacks = Rollbacks(self.home, database.supply)

    @asynccontextmanager
    async def test(self) -> AsyncIterator[GuestEngines]:
        """One of them."""
        guests = await asyncio.to_thread(self.rollbacks.begin)
        try:
            with self.database.supplied_by(guests.supply()):
                yield guests
        finally:
            await asyncio.to_thread(self.rollbacks.roll_back)

    async def close(self) -> None:
        try:
            await asyncio.to_thread(self.rollbacks.close)
        finally:
            await asyncio.to_thread(self.home.close)


@pytest.fixture
async def run(database: Database) -> AsyncIterator[Run]:
    """A run on a database with a table."""
    await database.create_all(Base.metadata)
    run = Run(database)
    yield run
    await run.close()
    assert await names(database) == []


async def names(database: Database) -> list[str]:
    async with database.read_session() as session:
        return list(await session.scalars(select(Item.name).order_by(Item.id)))


async def add(database: Database, name: str) -> None:
    async with database.session() as session:
        session.add(Item(name=name))


async def test_each_begins_with_nothing(run: Run) -> None:
    """Whether the one before has written, read, or asked nothing at all."""
    for name in ("a", "b"):
        async with run.test():
            assert await names(run.database) == []
            await add(run.database, name)
        async with run.test():
            pass


@pytest.mark.backends("sqlite")
async def test_what_a_transaction_was_told_goes_with_it(run: Run) -> None:
    """As that it is to look at foreign keys only in the end."""
    async with run.database.engine.begin() as connection:
        await connection.execute(text("CREATE TABLE parent (id INTEGER PRIMARY KEY)"))
        await connection.execute(text("CREATE TABLE child (id INTEGER REFERENCES parent (id))"))
    async with run.test(), run.database.engine.begin() as connection:
        await connection.execute(text("PRAGMA defer_foreign_keys = ON"))
    async with run.test():
        with pytest.raises(exc.IntegrityError):
            async with run.database.engine.begin() as connection:
                await connection.execute(text("INSERT INTO child VALUES (7)"))


@pytest.mark.backends("sqlite")
async def test_pragma_that_writes_is_undone(run: Run) -> None:
    """What is in parentheses is a value, for some of them."""
    async with run.test(), run.database.session() as session:
        await session.execute(text("PRAGMA user_version(7)"))
        await session.rollback()
        assert await session.scalar(text("PRAGMA user_version")) == 0


@pytest.mark.backends("sqlite", "postgresql")
async def test_stream_that_is_left_open_ends_with_its_test(run: Run) -> None:
    """The next test may drop its table, and whoever reads on is told."""
    async with run.test():
        for number in range(100):
            await add(run.database, f"{number}")
        connection = await run.database.engine.connect().start()
        stream = await connection.stream(select(Item.name))
        assert await stream.fetchone() is not None
    async with run.test():
        with pytest.raises(NotUndone):
            while await stream.fetchone() is not None:
                pass
        async with run.database.engine.begin() as other:
            await other.execute(text("DROP TABLE item"))
    async with run.test():
        await connection.close()
        await add(run.database, "a")
        assert await names(run.database) == ["a"]


KILLS = {
    "postgresql": ("SELECT pg_backend_pid()", "SELECT pg_terminate_backend({})"),
    "mysql": ("SELECT CONNECTION_ID()", "KILL {}"),
}


async def kill(run: Run, backend: Backend) -> None:
    """Kill the connection that they share."""
    which, how = KILLS[backend.name]
    async with run.test(), run.database.session() as session:
        number = await session.scalar(text(which))
    async with Database(backend.url) as other, other.session() as session:
        await session.execute(text(how.format(number)))


@pytest.mark.backends(*KILLS)
async def test_connection_lost_between_two_of_them(run: Run, backend: Backend) -> None:
    """It costs one test, and the next one has another connection."""
    await kill(run, backend)
    with pytest.raises(NotUndone):
        async with run.test():
            with pytest.raises(exc.DBAPIError):
                await add(run.database, "a")
    for _ in range(2):
        async with run.test():
            await add(run.database, "b")
            assert await names(run.database) == ["b"]


@pytest.mark.backends(*KILLS)
async def test_connection_lost_after_the_last(run: Run, backend: Backend) -> None:
    """There is nothing left to be undone: the run ends well."""
    await kill(run, backend)


async def test_commit_that_waits_for_its_turn_at_the_end(run: Run) -> None:
    """That of a host, on which an app has written: it is too late, and disturbs nobody."""
    async with run.test() as guests:
        host = await guests.host_supply().loops.here().main.connect().start()
        await host.execute(text("INSERT INTO item (name) VALUES ('host')"))
        app = run.database.engine.connect()

        async def write() -> None:
            await app.start()
            await app.execute(text("INSERT INTO item (name) VALUES ('app')"))

        await asyncio.create_task(write())
        late = asyncio.create_task(host.commit())
        await asyncio.sleep(0.1)
        assert not late.done()
    with pytest.raises(NotUndone):
        await late
    async with run.test():
        await add(run.database, "next")
        assert await names(run.database) == ["next"]
        await host.close()
        await app.close()


@pytest.mark.backends("sqlite-file", "postgresql", "mysql")
async def test_database_that_commits_by_itself(backend: Backend) -> None:
    """Its statements do, and all of them are undone."""
    async with Database(backend.url) as plain:
        await plain.create_all(Base.metadata)
        async with Database(backend.url, isolation="AUTOCOMMIT") as database:
            run = Run(database)
            for _ in range(2):
                async with run.test(), database.engine.connect() as connection:
                    await connection.execute(text("INSERT INTO item (name) VALUES ('a')"))
                    await connection.rollback()
                    assert await names(database) == ["a"]
            await run.close()
        assert await names(plain) == []
