"""One transaction for all sessions of a test: what they see of each other, and what is undone."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import exc, func, select, text

from asgi import Base, Item
from backends import Backend
from fastdb import Database, TransactionFailed, atomic, on_commit
from fastdb.errors import ErrorKind, NotUndone, UnitsOverlap, classify
from fastdb.testing import captured_on_commit, rolled_back


@pytest.fixture
async def undone(database: Database) -> AsyncIterator[Database]:
    """A Database inside of `rolled_back`; afterwards it must be as it was, and usable."""
    await database.create_all(Base.metadata)
    async with database.session() as session:
        session.add(Item(name="before"))
    async with rolled_back(database):
        yield database
    assert await names(database) == ["before"]
    async with database.session() as session:
        session.add(Item(name="after"))
    assert await names(database) == ["before", "after"]


async def names(database: Database) -> list[str]:
    async with database.read_session() as session:
        return list(await session.scalars(select(Item.name).order_by(Item.id)))


async def add(database: Database, name: str) -> None:
    async with database.session() as session:
        session.add(Item(name=name))


async def test_commit_is_seen_and_undone(undone: Database) -> None:
    """What one session has committed, the next one sees."""
    await add(undone, "a")
    assert await names(undone) == ["before", "a"]


async def test_unit_that_raises_is_undone_alone(undone: Database) -> None:
    """A rollback inside of the test undoes its own unit of work and no other."""
    await add(undone, "a")
    with pytest.raises(ZeroDivisionError):
        async with undone.session() as session:
            session.add(Item(name="b"))
            await session.flush()
            raise ZeroDivisionError
    await add(undone, "c")
    assert await names(undone) == ["before", "a", "c"]


async def test_explicit_commit_in_the_middle(undone: Database) -> None:
    """What comes after it can be undone, what came before cannot."""
    async with undone.session() as session:
        session.add(Item(name="a"))
        await session.commit()
        session.add(Item(name="b"))
        await session.rollback()
        session.add(Item(name="c"))
    assert await names(undone) == ["before", "a", "c"]


async def test_savepoints_of_the_app(undone: Database) -> None:
    """`atomic()` is a savepoint inside of a savepoint, also where two sessions have one each."""
    async with undone.session() as session:
        session.add(Item(name="a"))
        with pytest.raises(ZeroDivisionError):
            async with atomic(session):
                session.add(Item(name="b"))
                await session.flush()
                raise ZeroDivisionError
        async with atomic(session):
            session.add(Item(name="c"))
    assert await names(undone) == ["before", "a", "c"]


async def test_failed_statement_refuses_commit(undone: Database) -> None:
    """A caught error is as bad as in the app: COMMIT is refused, all of the unit is undone."""
    with pytest.raises(TransactionFailed):
        async with undone.session() as session:
            await session.execute(text("INSERT INTO item (name) VALUES ('a')"))
            with pytest.raises(exc.DBAPIError):
                await session.execute(text("INSERT INTO nothing VALUES (1)"))
    assert await names(undone) == ["before"]


async def test_conflict_has_its_kind(undone: Database) -> None:
    """Errors are the driver's own."""
    with pytest.raises(exc.IntegrityError) as caught:
        async with undone.session() as session:
            await session.execute(text("INSERT INTO item (id, name) VALUES (1, 'again')"))
    assert classify(caught.value) is ErrorKind.UNIQUE


async def test_read_session_refuses_to_write(undone: Database) -> None:
    """By the database itself, and the writers after it are not read-only."""
    with pytest.raises(exc.DBAPIError) as caught:
        async with undone.read_session() as session:
            await session.execute(text("INSERT INTO item (name) VALUES ('a')"))
    assert classify(caught.value) is ErrorKind.READ_ONLY
    await add(undone, "b")
    assert await names(undone) == ["before", "b"]


async def test_reader_in_the_middle_of_a_writer(undone: Database) -> None:
    """A request that reads in one session and writes in another waits for nobody."""
    async with undone.session() as writer, undone.read_session() as reader:
        writer.add(Item(name="a"))
        await writer.flush()
        assert await reader.scalar(select(func.count()).select_from(Item)) == 2
        writer.add(Item(name="b"))
        await writer.flush()
        with pytest.raises(exc.DBAPIError):
            await reader.execute(text("SELECT nothing FROM nowhere"))
        writer.add(Item(name="c"))
    assert await names(undone) == ["before", "a", "b", "c"]


async def test_writers_take_turns(undone: Database) -> None:
    """Tasks that write at the same time each keep what is theirs: commits and rollbacks."""

    async def work(number: int) -> None:
        async with undone.session() as session:
            await session.scalar(select(func.count()).select_from(Item))
            session.add(Item(name=f"{number}"))
            await session.flush()
            await asyncio.sleep(0.001)
            if number % 2:
                await session.rollback()

    await asyncio.gather(*(work(number) for number in range(8)))
    assert sorted(await names(undone)) == ["0", "2", "4", "6", "before"]


async def test_task_that_would_wait_for_itself_is_told(undone: Database) -> None:
    """A second writer inside of the first, in one task, would wait for ever."""
    async with undone.session() as outer:
        outer.add(Item(name="outer"))
        await outer.flush()
        with pytest.raises(UnitsOverlap, match="INSERT INTO item"):
            await add(undone, "inner")
    assert await names(undone) == ["before", "outer"]


async def test_reader_that_turns_to_writing_joins_nobody(undone: Database) -> None:
    """What it writes is its own: it would be undone with the unit that it has read in."""
    async with undone.session() as outer:
        outer.add(Item(name="outer"))
        await outer.flush()
        async with undone.session() as inner:
            assert await inner.scalar(select(func.count()).select_from(Item)) == 2
            inner.add(Item(name="inner"))
            with pytest.raises(UnitsOverlap, match="INSERT INTO item"):
                await inner.flush()
            await inner.rollback()
    assert await names(undone) == ["before", "outer"]


async def test_twin_shares_the_transaction(undone: Database) -> None:
    """What the async sessions have written, the synchronous ones see, and the other way round."""
    await add(undone, "a")

    def work() -> list[str]:
        with undone.sync.session() as session:
            session.add(Item(name="b"))
        with undone.sync.engine.begin() as connection:
            connection.execute(text("INSERT INTO item (name) VALUES ('c')"))
        with undone.sync.read_session() as session:
            return list(session.scalars(select(Item.name).order_by(Item.id)))

    assert await asyncio.to_thread(work) == ["before", "a", "b", "c"]
    assert await names(undone) == ["before", "a", "b", "c"]


async def test_engine_shares_the_transaction(undone: Database) -> None:
    """Connections without a session, `create_all` and `ping` too."""
    async with undone.engine.begin() as connection:
        await connection.execute(text("INSERT INTO item (name) VALUES ('a')"))
    async with undone.engine.connect() as connection:
        await connection.execute(text("INSERT INTO item (name) VALUES ('lost')"))
    autocommits = undone.engine.execution_options(isolation_level="AUTOCOMMIT")
    async with autocommits.connect() as connection:
        await connection.execute(text("INSERT INTO item (name) VALUES ('b')"))
    await undone.create_all(Base.metadata)
    await undone.ping()
    assert await names(undone) == ["before", "a", "b"]


@pytest.mark.backends("postgresql")
async def test_connection_that_asks_to_be_read_only(undone: Database) -> None:
    """By SQLAlchemy's own option; the next one on it may write."""
    engine = undone.engine.execution_options(postgresql_readonly=True, postgresql_deferrable=True)
    insert = text("INSERT INTO item (name) VALUES ('a')")
    async with engine.connect() as connection:
        with pytest.raises(exc.DBAPIError) as caught:
            await connection.execute(insert)
    assert classify(caught.value) is ErrorKind.READ_ONLY
    async with undone.engine.begin() as connection:
        await connection.execute(insert)
    assert await names(undone) == ["before", "a"]


async def test_stream(undone: Database) -> None:
    """A server-side cursor gives its rows one after the other."""
    await add(undone, "a")
    async with undone.read_session() as session:
        stream = await session.stream_scalars(select(Item.name).order_by(Item.id))
        assert [name async for name in stream] == ["before", "a"]


async def test_many_rows_at_once(undone: Database) -> None:
    """One INSERT of many rows, with the keys that the database has given them."""
    async with undone.session() as session:
        items = [Item(name=f"{number}") for number in range(50)]
        session.add_all(items)
        await session.flush()
        assert len({item.id for item in items}) == 50


async def test_many_rows_are_changed_at_once(undone: Database) -> None:
    """A flush that changes several rows counts them, as it does outside of a test."""
    async with undone.session() as session:
        session.add_all(Item(name=name) for name in "abc")
        await session.flush()
        for item in await session.scalars(select(Item)):
            item.name += "!"
    assert sorted(await names(undone)) == ["a!", "b!", "before!", "c!"]


async def test_rows_are_fetched_in_each_of_the_ways(undone: Database) -> None:
    """As from a connection of one's own, and with many parameters at once."""
    insert = text("INSERT INTO item (name) VALUES (:name)")
    async with undone.engine.begin() as connection:
        await connection.execute(insert, [{"name": "a"}, {"name": "b"}, {"name": "c"}])
        rows = await connection.execute(text("SELECT name FROM item ORDER BY id"))
        assert rows.fetchone() == ("before",)
        assert rows.fetchmany(2) == [("a",), ("b",)]
        assert list(rows) == [("c",)]
        async with connection.stream(text("SELECT name FROM item ORDER BY id")) as stream:
            assert await stream.fetchone() == ("before",)
            assert await stream.fetchmany(1) == [("a",)]
            assert await stream.fetchall() == [("b",), ("c",)]

        def cursor(synchronous: Any) -> None:
            raw = synchronous.connection.dbapi_connection
            for one in (raw.cursor(), raw.cursor("a_stream")):
                one.execute("SELECT name FROM item ORDER BY id")
                assert [tuple(row) for row in one][-1] == ("c",)
                one.close()

        if undone.engine.dialect.driver == "psycopg":
            await connection.run_sync(cursor)


async def test_callbacks_run_after_the_commit(undone: Database) -> None:
    """And not after a rollback; they can be captured, and kept from running."""
    ran: list[str] = []
    async with undone.session() as session:
        session.add(Item(name="a"))
        on_commit(session, lambda: ran.append("a"))
    with pytest.raises(ZeroDivisionError):
        async with undone.session() as session:
            on_commit(session, lambda: ran.append("b"))
            raise ZeroDivisionError
    with captured_on_commit(run=False) as kept:
        async with undone.session() as session:
            on_commit(session, lambda: ran.append("c"))
    with captured_on_commit() as run:
        async with undone.session() as session:
            on_commit(session, lambda: ran.append("d"))
    assert ran == ["a", "d"]
    assert (len(kept.callbacks), len(run.callbacks)) == (1, 1)


async def test_autocommit_is_not_undone_by_a_failure(undone: Database) -> None:
    """Each statement is a transaction: one that fails takes no other with it."""
    autocommits = undone.engine.execution_options(isolation_level="AUTOCOMMIT")
    async with autocommits.connect() as connection:
        await connection.execute(text("INSERT INTO item (name) VALUES ('a')"))
        with pytest.raises(exc.DBAPIError):
            await connection.execute(text("INSERT INTO nothing VALUES (1)"))
        await add(undone, "b")  # nobody waits for it
        await connection.execute(text("INSERT INTO item (name) VALUES ('c')"))
    assert await names(undone) == ["before", "a", "b", "c"]


FUNCTIONS = {
    "postgresql": "CREATE FUNCTION put() RETURNS int LANGUAGE sql AS"
    " $$ INSERT INTO item (name) VALUES ('put') RETURNING 1 $$",
    "mysql": "CREATE FUNCTION put() RETURNS int BEGIN"
    " INSERT INTO item (name) VALUES ('put'); RETURN 1; END",
}


@pytest.mark.backends(*FUNCTIONS)
async def test_function_that_writes_is_undone(database: Database, backend: Backend) -> None:
    """A SELECT may write, which only the database knows."""
    await database.create_all(Base.metadata)
    async with database.engine.begin() as connection:
        await connection.execute(text(FUNCTIONS[backend.name]))
    async with rolled_back(database):
        async with database.session() as session:
            await session.execute(text("SELECT put()"))
            await session.rollback()
        assert await names(database) == []
        async with database.session() as session:
            await session.execute(text("SELECT put()"))
        assert await names(database) == ["put"]
    assert await names(database) == []


async def test_task_that_outlives_its_test_writes_nothing(database: Database) -> None:
    """Neither into the next test nor into the database: what it had begun was undone."""
    await database.create_all(Base.metadata)
    flushed, go_on = asyncio.Event(), asyncio.Event()

    async def outlive() -> None:
        async with database.session() as session:
            session.add(Item(name="a"))
            await session.flush()
            flushed.set()
            await go_on.wait()
            session.add(Item(name="b"))

    async with rolled_back(database):
        task = asyncio.create_task(outlive())
        await flushed.wait()
    go_on.set()
    with pytest.raises((NotUndone, RuntimeError)):
        await task
    assert await names(database) == []


async def test_cancelled_while_waiting_for_a_turn(undone: Database) -> None:
    """What was not sent yet is never sent."""
    async with undone.session() as session:
        session.add(Item(name="a"))
        await session.flush()
        task = asyncio.create_task(add(undone, "b"))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert await names(undone) == ["before", "a"]
    await add(undone, "c")
    assert await names(undone) == ["before", "a", "c"]


async def test_readers_on_a_writer_step_aside_in_order(undone: Database) -> None:
    """Two of them, and the lower one turns to writing: it is told, and nothing breaks."""
    async with undone.session() as writer, undone.session() as lower, undone.session() as upper:
        writer.add(Item(name="a"))
        await writer.flush()
        for reader in (lower, upper):
            await reader.scalar(select(func.count()).select_from(Item))
        lower.add(Item(name="b"))
        with pytest.raises(UnitsOverlap):
            await lower.flush()
        await lower.rollback()
        writer.add(Item(name="c"))
    assert await names(undone) == ["before", "a", "c"]


@pytest.mark.parametrize("statement", ["COMMIT", "ROLLBACK WORK", "BEGIN", "-- why?\nEND"])
async def test_transaction_is_not_ended_by_sql(undone: Database, statement: str) -> None:
    """It is refused before it is sent."""
    async with undone.session() as session:
        with pytest.raises(NotUndone, match="this is not left to SQL"):
            await session.execute(text(statement))
        await session.rollback()


@pytest.mark.backends("mysql")
async def test_statement_that_mysql_would_commit_is_refused(undone: Database) -> None:
    """No rollback could undo it, nor what came before it."""
    async with undone.session() as session:
        session.add(Item(name="a"))
        await session.flush()
        with pytest.raises(NotUndone, match="MySQL commits by itself before this"):
            await session.execute(text("CREATE TABLE extra (id INT)"))
        await session.rollback()


@pytest.mark.backends("sqlite", "postgresql")
async def test_tables_are_undone(undone: Database) -> None:
    """Where the database has transactions for them."""
    async with undone.session() as session:
        await session.execute(text("CREATE TABLE extra (id INT)"))
    async with undone.session() as session:
        await session.execute(text("INSERT INTO extra VALUES (1)"))
        await session.execute(text("DROP TABLE extra"))


async def test_cancelled_statement_is_undone_alone(undone: Database) -> None:
    """The connection goes on to be the test's, with what it had before."""
    await add(undone, "a")
    sleeps = {"postgresql": "SELECT pg_sleep(30)", "mysql": "SELECT SLEEP(0.3)"}
    counting = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM n) SELECT max(x) FROM n"
    slow = sleeps.get(undone.engine.dialect.name.replace("mariadb", "mysql"), counting)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1), undone.session() as session:
            session.add(Item(name="b"))
            await session.flush()
            await session.execute(text(slow))
    assert await names(undone) == ["before", "a"]


@pytest.mark.backends("sqlite", "mysql")
async def test_transaction_that_has_ended_is_told(database: Database) -> None:
    """What the test wrote may be there, which the end of the test says."""
    await database.create_all(Base.metadata)
    with pytest.raises(NotUndone, match="was ended inside of it"):
        async with rolled_back(database):
            await add(database, "a")
            async with database.session() as session:
                connection = await session.connection()
                raw: Any = (await connection.get_raw_connection()).dbapi_connection
                await connection.run_sync(lambda _: raw.visit(lambda real: real.commit()))
    assert await names(database) == ["a"]


@pytest.mark.backends("postgresql")
async def test_lost_connection_is_told(database: Database) -> None:
    """What the test wrote is gone with it."""
    await database.create_all(Base.metadata)
    with pytest.raises(NotUndone, match="was ended inside of it"):
        async with rolled_back(database):
            await add(database, "a")
            with pytest.raises(exc.DBAPIError):
                async with database.session() as session:
                    await session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    assert await names(database) == []


@pytest.mark.backends("mysql")
async def test_connection_may_idle(undone: Database) -> None:
    """The transaction goes on between tests, and in a debugger: nobody ends it meanwhile."""
    async with undone.engine.connect() as connection:
        assert await connection.scalar(text("SELECT @@idle_transaction_timeout")) == 0


async def test_two_databases(database: Database, tmp_path: Path) -> None:
    """One is rolled back, the other is not."""
    await database.create_all(Base.metadata)
    async with Database(f"sqlite:///{tmp_path}/other.db") as other:
        await other.create_all(Base.metadata)
        async with rolled_back(database):
            await add(database, "a")
            await add(other, "b")
        assert await names(database) == []
        assert await names(other) == ["b"]


@pytest.mark.backends("sqlite-file", "postgresql", "mysql")
def test_synchronous_code(backend: Backend) -> None:
    """Without any event loop of one's own."""
    database = Database(backend.url)
    database.sync.create_all(Base.metadata)
    with rolled_back(database), database.sync.session() as session:
        session.add(Item(name="a"))
        session.commit()
        assert session.scalar(select(func.count()).select_from(Item)) == 1
    with database.sync.read_session() as session:
        assert session.scalar(select(func.count()).select_from(Item)) == 0
    database.sync.close()
