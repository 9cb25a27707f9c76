"""`db.session()`: who commits, who rolls back, and what happens on the way."""

import asyncio
import logging
from typing import Any, assert_type

import anyio
import pytest
import sqlmodel
from sqlalchemy import event, func, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError, InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool
from sqlmodel import Field, SQLModel
from sqlmodel.ext.asyncio.session import AsyncSession as SQLModelSession

from backends import Backend
from fastdb import (
    ConfigurationError,
    Database,
    PoolOptions,
    SessionEnded,
    Timeouts,
    TransactionFailed,
    WriteLockHeld,
    atomic,
    on_commit,
)
from models import Base, Counter, Hero, Late, Team


@pytest.fixture
async def db(database: Database) -> Database:
    """A database with the tables of `models`."""
    await database.create_all(Base.metadata)
    return database


async def names(db: Database) -> list[str]:
    """What another connection sees."""
    async with db.read_session() as session:
        return list(await session.scalars(select(Hero.name).order_by(Hero.id)))


def checked_out(db: Database) -> int:
    """How many connections are in use."""
    assert isinstance(db.engine.pool, QueuePool)
    return db.engine.pool.checkedout()


# --- Commit and rollback ------------------------------------------------------------------------


async def test_success_commits(db: Database) -> None:
    """A block that ends is committed."""
    async with db.session() as session:
        session.add(Hero(name="a"))
    assert await names(db) == ["a"]


async def test_an_exception_rolls_back_and_goes_on(db: Database) -> None:
    """A block that raises leaves nothing behind, and its exception is the caller's."""
    with pytest.raises(ZeroDivisionError):
        async with db.session() as session:
            session.add(Hero(name="a"))
            await session.flush()
            raise ZeroDivisionError
    assert await names(db) == []


@pytest.mark.backends("sqlite", "postgresql")
async def test_a_failed_commit_rolls_back_and_raises(db: Database) -> None:
    """Where COMMIT itself fails, nothing is kept and the connection goes back clean."""
    with pytest.raises(IntegrityError):
        async with db.session() as session:
            session.add(Hero(name="a"))
            session.add(Late(team_id=99))
    assert await names(db) == []
    async with db.session() as session:
        session.add(Hero(name="b"))
    assert await names(db) == ["b"]


@pytest.mark.backends("sqlite", "postgresql")
async def test_the_session_goes_on_after_an_explicit_commit_has_failed(db: Database) -> None:
    """It has been rolled back already: what comes next is a transaction of its own."""
    async with db.session() as session:
        session.add(Hero(name="a"))
        session.add(Late(team_id=99))
        with pytest.raises(IntegrityError):
            await session.commit()
        session.add(Hero(name="b"))
    assert await names(db) == ["b"]


async def test_an_untouched_session_takes_no_connection(db: Database) -> None:
    """A unit of work that never touches the database never asks the pool."""
    checkouts: list[object] = []
    event.listen(db.engine.sync_engine, "checkout", lambda *args: checkouts.append(args))
    async with db.session(), db.session():
        pass
    assert checkouts == []


async def test_explicit_commit_keeps_what_came_before(db: Database) -> None:
    """What was committed in the middle stays; the end of the block commits what came after."""
    with pytest.raises(ZeroDivisionError):
        async with db.session() as session:
            session.add(Hero(name="kept"))
            await session.commit()
            session.add(Hero(name="dropped"))
            await session.flush()
            raise ZeroDivisionError
    async with db.session() as session:
        session.add(Hero(name="a"))
        await session.commit()
        session.add(Hero(name="b"))
    assert await names(db) == ["kept", "a", "b"]


async def test_explicit_rollback_starts_over(db: Database) -> None:
    """After an explicit rollback the same session goes on with a new transaction."""
    async with db.session() as session:
        session.add(Hero(name="dropped"))
        await session.flush()
        await session.rollback()
        session.add(Hero(name="kept"))
    assert await names(db) == ["kept"]


async def test_objects_stay_readable_after_commit(db: Database) -> None:
    """What was loaded or written can be read when the session has ended."""
    async with db.session() as session:
        hero = Hero(name="a")
        session.add(hero)
    assert (hero.id, hero.name) == (1, "a")


async def test_begin_block_commits_and_the_unit_goes_on(db: Database) -> None:
    """`session.begin()`, as SQLAlchemy's documents show it, works inside a unit of work."""
    ran: list[str] = []
    async with db.session() as session:
        async with session.begin():
            session.add(Hero(name="a"))
            on_commit(session, lambda: ran.append("a"))
        session.add(Hero(name="b"))
    assert await names(db) == ["a", "b"]
    assert ran == ["a"]


# --- Errors that were caught --------------------------------------------------------------------

FAILED = (
    "A statement of this transaction failed ({}) and the error was caught, so its COMMIT was"
    " refused and everything was rolled back. Put what may fail into `async with"
    " atomic(session):`, so that only that part is undone; or let the error go on; or `await"
    " session.rollback()` and start over."
)


async def test_a_caught_flush_error_is_not_committed(db: Database) -> None:
    """An error of the ORM's flush, once caught, refuses COMMIT and names `atomic()`."""
    async with db.session() as session:
        session.add(Hero(name="a"))
    with pytest.raises(TransactionFailed) as raised:
        async with db.session() as session:
            session.add(Hero(name="half"))
            await session.flush()
            session.add(Hero(name="a"))
            with pytest.raises(IntegrityError):
                await session.flush()
    assert str(raised.value) == FAILED.format("IntegrityError")
    assert isinstance(raised.value.__cause__, IntegrityError)
    assert await names(db) == ["a"]


async def test_a_caught_statement_error_is_not_committed(db: Database) -> None:
    """PostgreSQL would answer COMMIT with a silent ROLLBACK, the others commit the half."""
    insert = text("INSERT INTO hero (name) VALUES (:name)")
    async with db.session() as session:
        await session.execute(insert, {"name": "a"})
    with pytest.raises(TransactionFailed) as raised:
        async with db.session() as session:
            await session.execute(insert, {"name": "half"})
            with pytest.raises(IntegrityError):
                await session.execute(insert, {"name": "a"})
    assert str(raised.value) == FAILED.format("IntegrityError")
    assert await names(db) == ["a"]


async def test_an_explicit_commit_is_refused_as_well(db: Database) -> None:
    """It does not matter who commits after a caught error."""
    with pytest.raises(TransactionFailed):
        async with db.session() as session:
            session.add(Hero(name="half"))
            await session.flush()
            with pytest.raises(DBAPIError):
                await session.execute(text("SELECT * FROM nothing"))
            await session.commit()
    assert await names(db) == []


async def test_rollback_after_a_caught_error_starts_over(db: Database) -> None:
    """One of the three cures that the message names."""
    async with db.session() as session:
        with pytest.raises(DBAPIError):
            await session.execute(text("SELECT * FROM nothing"))
        await session.rollback()
        session.add(Hero(name="a"))
    assert await names(db) == ["a"]


async def test_looking_for_a_missing_table_is_no_failure(db: Database) -> None:
    """SQLAlchemy's inspection may provoke errors of its own (on MySQL), and expects them."""
    async with db.session() as session:
        session.add(Hero(name="a"))
        connection = await session.connection()
        await connection.run_sync(Base.metadata.create_all)
        assert not await connection.run_sync(
            lambda sync: sync.dialect.has_table(sync, "no_such_table")
        )
    assert await names(db) == ["a"]


# --- atomic -------------------------------------------------------------------------------------


async def test_atomic_undoes_only_its_block(db: Database) -> None:
    """What failed inside is undone, what came before and after it is committed."""
    async with db.session() as session:
        session.add(Hero(name="a"))
        await session.flush()
        with pytest.raises(IntegrityError):
            async with atomic(session):
                session.add(Hero(name="b"))
                await session.flush()
                session.add(Hero(name="a"))
        session.add(Hero(name="c"))
    assert await names(db) == ["a", "c"]


async def test_what_raises_later_undoes_an_atomic_block(db: Database) -> None:
    """A block that succeeded is a savepoint, not a transaction of its own."""
    with pytest.raises(ZeroDivisionError):
        async with db.session() as session:
            async with atomic(session):
                session.add(Hero(name="a"))
            raise ZeroDivisionError
    assert await names(db) == []


async def test_atomic_blocks_nest(db: Database) -> None:
    """An inner block fails alone; an outer one takes the inner with it."""
    async with db.session() as session:
        with pytest.raises(ZeroDivisionError):
            async with atomic(session):
                async with atomic(session):
                    session.add(Hero(name="inner"))
                raise ZeroDivisionError
        async with atomic(session):
            session.add(Hero(name="outer"))
            with pytest.raises(ZeroDivisionError):
                async with atomic(session):
                    session.add(Hero(name="failed"))
                    await session.flush()
                    raise ZeroDivisionError
    assert await names(db) == ["outer"]


@pytest.mark.backends("sqlite", "mysql")
async def test_an_error_caught_inside_an_atomic_block_fails_the_whole(db: Database) -> None:
    """A block whose error was caught inside it is half done: releasing it hides nothing."""
    insert = text("INSERT INTO hero (name) VALUES ('a')")
    with pytest.raises(TransactionFailed):
        async with db.session() as session:
            await session.execute(insert)
            async with atomic(session):
                with pytest.raises(IntegrityError):
                    await session.execute(insert)
            with pytest.raises(ZeroDivisionError):
                async with atomic(session):
                    await session.execute(select(1))
                    raise ZeroDivisionError
    assert await names(db) == []


async def test_atomic_elsewhere_is_the_transaction(db: Database) -> None:
    """In a plain SQLAlchemy session without a transaction, the block is one."""
    async with async_sessionmaker(db.engine)() as session:
        async with atomic(session):
            session.add(Hero(name="a"))
        assert not session.in_transaction()
    assert await names(db) == ["a"]


# --- on_commit ----------------------------------------------------------------------------------


async def test_on_commit_runs_after_the_connection_is_back(db: Database) -> None:
    """A callback sees the rows and may open a session of its own, SQLite's writers included."""
    seen: list[object] = []

    async def callback() -> None:
        seen.append(await names(db))
        async with db.session() as other:
            other.add(Hero(name="b"))

    async with db.session() as session:
        session.add(Hero(name="a"))
        on_commit(session, callback)
        assert seen == []
    assert seen == [["a"]]
    assert await names(db) == ["a", "b"]


async def test_on_commit_runs_after_an_explicit_commit(db: Database) -> None:
    """Once, and at the COMMIT that it was waiting for."""
    ran: list[str] = []
    async with db.session() as session:
        session.add(Hero(name="a"))
        on_commit(session, lambda: ran.append("first"))
        await session.commit()
        assert ran == ["first"]
        on_commit(session, lambda: ran.append("second"))
    assert ran == ["first", "second"]


async def test_on_commit_is_dropped_on_rollback(db: Database) -> None:
    """No COMMIT, no callback: neither by an exception nor by an explicit rollback."""
    ran: list[str] = []
    with pytest.raises(ZeroDivisionError):
        async with db.session() as session:
            on_commit(session, lambda: ran.append("raised"))
            raise ZeroDivisionError
    async with db.session() as session:
        session.add(Hero(name="a"))
        await session.flush()
        on_commit(session, lambda: ran.append("rolled back"))
        await session.rollback()
    assert ran == []


async def test_on_commit_follows_savepoints(db: Database) -> None:
    """What was registered in a savepoint goes with it, if an outer one is rolled back too."""
    ran: list[str] = []
    async with db.session() as session:
        on_commit(session, lambda: ran.append("unit"))
        with pytest.raises(ZeroDivisionError):
            async with atomic(session):
                on_commit(session, lambda: ran.append("outer"))
                async with atomic(session):
                    on_commit(session, lambda: ran.append("inner, released"))
                raise ZeroDivisionError
        async with atomic(session):
            on_commit(session, lambda: ran.append("kept"))
            with pytest.raises(ZeroDivisionError):
                async with atomic(session):
                    on_commit(session, lambda: ran.append("inner, failed"))
                    raise ZeroDivisionError
    assert ran == ["unit", "kept"]


async def test_a_failing_callback_is_logged_and_the_others_run(
    db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """What is committed stays committed, whatever comes after it."""
    ran: list[str] = []

    async def failing() -> None:
        raise ZeroDivisionError

    with caplog.at_level(logging.ERROR, "fastdb.session"):
        async with db.session() as session:
            session.add(Hero(name="a"))
            on_commit(session, lambda: 1 / 0)
            on_commit(session, failing)
            on_commit(session, lambda: ran.append("last"))
    assert ran == ["last"]
    assert [record.exc_info is not None for record in caplog.records] == [True, True]
    assert await names(db) == ["a"]


async def test_a_callback_cannot_use_the_session_that_has_ended(
    db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told what to open instead, and neither a connection nor a lock is left behind."""
    async with db.session() as session:
        session.add(Hero(name="a"))

        async def callback() -> None:
            session.add(Hero(name="lost"))
            await session.flush()

        on_commit(session, callback)
    [record] = caplog.records
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], SessionEnded)
    assert checked_out(db) == 0
    async with db.session() as session:
        session.add(Hero(name="b"))
    assert await names(db) == ["a", "b"]


async def test_a_callback_runs_for_what_was_committed_before_an_error(db: Database) -> None:
    """An explicit block is committed for good, whatever the unit of work does after it."""
    ran: list[str] = []
    for untouched in (True, False):
        with pytest.raises(ZeroDivisionError):
            async with db.session() as session:
                async with session.begin():
                    session.add(Hero(name=f"{untouched}"))
                    on_commit(session, lambda: ran.append("ran"))
                if not untouched:
                    await session.execute(select(1))
                raise ZeroDivisionError
    assert await names(db) == ["True", "False"]
    assert ran == ["ran", "ran"]


async def test_a_callback_is_awaited_after_a_commit_by_run_sync(db: Database) -> None:
    """Code that is given the inner session may commit it; the async session awaits afterwards."""
    ran: list[str] = []

    async def callback() -> None:
        ran.append("ran")

    async with db.session() as session:
        session.add(Hero(name="a"))
        on_commit(session, callback)
        await session.run_sync(lambda inner: inner.commit())
    assert ran == ["ran"]


async def test_a_cancelled_callback_cuts_nobody_elses_connection(backend: Backend) -> None:
    """After COMMIT the connection belongs to others: giving up must not abort it."""
    pool = PoolOptions(size=1, max_overflow=0)
    async with Database(backend.url, pool=pool, timeouts=Timeouts(close=0.05)) as db:
        await db.create_all(Base.metadata)
        committed = asyncio.Event()

        async def endless() -> None:
            committed.set()
            await asyncio.Event().wait()

        async def work() -> None:
            async with db.session() as session:
                session.add(Hero(name="a"))
                on_commit(session, endless)

        task = asyncio.create_task(work())
        await committed.wait()
        async with db.session() as session:
            session.add(Hero(name="b"))
            await session.flush()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await names(db) == ["a", "b"]


async def test_an_error_of_a_hook_is_not_taken_for_a_lost_connection(db: Database) -> None:
    """What fails before COMMIT is sent has a known outcome."""
    with pytest.raises(FileNotFoundError):
        async with db.session() as session:
            session.add(Hero(name="a"))

            @event.listens_for(session.sync_session, "before_commit")
            def hook(_: object) -> None:
                raise FileNotFoundError

    assert await names(db) == []


@pytest.mark.backends("sqlite-memory")
async def test_an_end_that_fails_gives_its_connection_back(db: Database) -> None:
    """Its rollback is stopped half-way, by whatever listens; nobody else would give it back."""
    listeners = [db.engine.sync_engine, db.sync.engine]

    def fail(_: object) -> None:
        raise FileNotFoundError

    def write() -> int:
        with pytest.raises(ZeroDivisionError), db.sync.session() as session:
            session.add(Hero(name="b"))
            session.flush()
            raise ZeroDivisionError
        assert isinstance(db.sync.engine.pool, QueuePool)
        return db.sync.engine.pool.checkedout()

    for engine in listeners:
        event.listen(engine, "rollback", fail)
    with pytest.raises(ZeroDivisionError):
        async with db.session() as session:
            session.add(Hero(name="a"))
            await session.flush()
            raise ZeroDivisionError
    assert checked_out(db) == 0
    assert await asyncio.to_thread(write) == 0
    for engine in listeners:
        event.remove(engine, "rollback", fail)
    assert await names(db) == []


async def test_on_commit_refuses_sessions_that_never_commit(db: Database) -> None:
    """A callback that could never run is an error, not a silence."""
    async with db.read_session() as session:
        with pytest.raises(ConfigurationError, match=r"^on_commit\(\) in a read session"):
            on_commit(session, lambda: None)
    async with AsyncSession(db.engine) as session:
        with pytest.raises(ConfigurationError, match=r"not AsyncSession: open it with db\.session"):
            on_commit(session, lambda: None)


# --- After the end ------------------------------------------------------------------------------

ENDED = (
    "This session has ended with its unit of work: the request's session ends before the response"
    " is sent, so a stream or a background task cannot use it. Open one there, with `async with"
    " db.session() as session:`; for a stream that only reads, take StreamSessionDep."
)


async def test_every_use_after_the_end_is_refused(db: Database) -> None:
    """The error says what to do, and no connection is taken."""
    async with db.session() as session:
        await session.execute(select(1))
    hero = Hero(name="a")
    for use in (
        lambda: session.execute(select(1)),
        lambda: session.get(Hero, 1),
        lambda: session.scalars(select(Hero)),
        lambda: session.stream(select(Hero)),
        lambda: session.commit(),
        lambda: session.connection(),
        lambda: session.merge(hero),
    ):
        with pytest.raises(SessionEnded) as raised:
            await use()
        assert str(raised.value) == ENDED
    for begin in (session.begin, session.begin_nested):
        with pytest.raises(SessionEnded):
            await begin()
    with pytest.raises(SessionEnded):
        session.add(hero)
    with pytest.raises(SessionEnded):
        session.add_all([hero])
    with pytest.raises(SessionEnded):
        on_commit(session, lambda: None)
    assert checked_out(db) == 0


# --- Reading ------------------------------------------------------------------------------------


@pytest.mark.parametrize("snapshot", [False, True], ids=["plain", "snapshot"])
async def test_a_read_session_cannot_write(db: Database, snapshot: bool) -> None:
    """The database itself refuses, whichever way the write is made."""
    for write in (
        text("INSERT INTO hero (name) VALUES ('a')"),
        text("UPDATE hero SET name = 'b'"),
        text("DELETE FROM hero"),
        text("CREATE TABLE other (id INTEGER)"),
    ):
        with pytest.raises(DBAPIError):
            async with db.read_session(snapshot=snapshot) as session:
                await session.execute(write)
    assert await names(db) == []


async def test_the_read_engine_cannot_write(db: Database) -> None:
    """Neither can a connection taken straight from it."""
    with pytest.raises(DBAPIError):
        async with db.read_engine.begin() as connection:
            await connection.execute(text("INSERT INTO hero (name) VALUES ('a')"))
    assert await names(db) == []


async def test_changes_in_a_read_session_are_refused_not_dropped(db: Database) -> None:
    """An object that was changed by mistake is sent to the database, which says no."""
    async with db.session() as session:
        session.add(Hero(name="a"))
    with pytest.raises(DBAPIError):
        async with db.read_session() as session:
            hero = await session.scalar(select(Hero))
            assert hero is not None
            hero.name = "b"
    assert await names(db) == ["a"]


async def test_a_snapshot_sees_one_view(db: Database) -> None:
    """What others commit meanwhile is not seen by its second statement."""
    async with db.read_session(snapshot=True) as session:
        count = select(func.count()).select_from(Hero)
        before = await session.scalar(count)
        async with db.session() as writer:
            writer.add(Hero(name="a"))
        assert await session.scalar(count) == before == 0


@pytest.mark.backends("postgresql", "mysql")
async def test_a_plain_read_sees_what_is_committed_now(db: Database) -> None:
    """Each statement is a transaction of its own."""
    async with db.read_session() as session:
        count = select(func.count()).select_from(Hero)
        assert await session.scalar(count) == 0
        async with db.session() as writer:
            writer.add(Hero(name="a"))
        assert await session.scalar(count) == 1


async def test_streaming_in_a_read_session(db: Database) -> None:
    """A stream takes one consistent view, also where statements were run before it."""
    async with db.session() as session:
        session.add_all([Hero(name=f"{n:03}") for n in range(300)])
    async with db.read_session() as session:
        assert await session.scalar(select(func.count()).select_from(Hero)) == 300
        streamed: list[str] = []
        async for name in await session.stream_scalars(
            select(Hero.name).order_by(Hero.name), execution_options={"yield_per": 50}
        ):
            if not streamed:
                async with db.session() as writer:
                    writer.add(Hero(name="999"))
            streamed.append(name)
    assert streamed == [f"{n:03}" for n in range(300)]


# --- Isolation ----------------------------------------------------------------------------------


@pytest.mark.backends("postgresql", "mysql")
async def test_isolation_of_one_session(db: Database) -> None:
    """The level is the transaction's; the next one has the default again."""
    level = {
        "postgresql": "SHOW transaction_isolation",
        "mysql": "SELECT REPLACE(@@tx_isolation, '-', ' ')",
    }[db.engine.dialect.name]
    async with db.session(isolation="SERIALIZABLE") as session:
        assert (await session.scalar(text(level))).upper() == "SERIALIZABLE"
    async with db.session() as session:
        assert (await session.scalar(text(level))).upper() != "SERIALIZABLE"


@pytest.mark.backends("postgresql", "mysql")
async def test_isolation_of_the_database(backend: Backend) -> None:
    """Every writing transaction has it, and read sessions work beside it."""
    async with Database(backend.url, isolation="SERIALIZABLE") as db:
        async with db.session() as session:
            connection = await session.connection()
            assert await connection.get_isolation_level() == "SERIALIZABLE"
        async with db.read_session() as session:
            assert await session.scalar(select(1)) == 1


# --- Cancellation -------------------------------------------------------------------------------


@pytest.fixture
async def slow(db: Database) -> asyncio.Event:
    """Set when a statement is about to be executed."""
    started = asyncio.Event()
    event.listen(
        db.engine.sync_engine, "after_cursor_execute", lambda *_: started.set(), retval=False
    )
    return started


@pytest.mark.parametrize("how", ["task.cancel", "asyncio.timeout", "anyio.fail_after"])
async def test_cancellation_rolls_back(db: Database, slow: asyncio.Event, how: str) -> None:
    """However the cancellation comes, nothing is kept and the connection is back."""

    async def work() -> None:
        async with db.session() as session:
            session.add(Hero(name="a"))
            await session.flush()
            await asyncio.Event().wait()

    if how == "task.cancel":
        task = asyncio.create_task(work())
        await slow.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        with pytest.raises(TimeoutError):
            if how == "asyncio.timeout":
                async with asyncio.timeout(0.2):
                    await work()
            else:
                with anyio.fail_after(0.2):
                    await work()
    assert checked_out(db) == 0
    assert await names(db) == []


# --- Concurrency --------------------------------------------------------------------------------


async def test_no_update_is_lost(db: Database) -> None:
    """Twelve tasks, five read-modify-writes each: on SQLite without any care, elsewhere locked."""
    async with db.session() as session:
        session.add(Counter(id=1, value=0))

    async def increment() -> None:
        for _ in range(5):
            async with db.session() as session:
                counter = await session.scalar(select(Counter).with_for_update())
                assert counter is not None
                await asyncio.sleep(0)
                counter.value += 1

    await asyncio.gather(*(increment() for _ in range(12)))
    async with db.read_session() as session:
        assert await session.scalar(select(Counter.value)) == 60


@pytest.mark.backends("sqlite")
async def test_a_second_write_session_of_the_same_task_is_refused(db: Database) -> None:
    """On SQLite it would wait for itself until the time limit."""
    name = asyncio.current_task().get_name()  # type: ignore[union-attr]
    async with db.session() as session:
        session.add(Hero(name="a"))
        await session.flush()
        with pytest.raises(WriteLockHeld) as raised:
            async with db.session() as second:
                second.add(Hero(name="b"))
    assert str(raised.value) == (
        f"Task {name!r} asks for the SQLite write lock, which another session of the same task"
        " already holds: it would wait for itself. Use the session that is open, or end it first;"
        " for reading beside it, open db.read_session()."
    )
    assert await names(db) == ["a"]


@pytest.mark.backends("sqlite")
async def test_a_deferred_session_that_wrote_holds_the_lock_too(db: Database) -> None:
    """The lock comes with its first write; then a second writer of the same task is refused."""
    async with db.session(begin="deferred") as session:
        await session.execute(select(Hero))
        async with db.session() as second:
            second.add(Hero(name="before"))
    async with db.session(begin="deferred") as session:
        session.add(Hero(name="a"))
        await session.flush()
        with pytest.raises(WriteLockHeld):
            async with db.session(begin="deferred") as second:
                second.add(Hero(name="b"))
    assert await names(db) == ["before", "a"]


@pytest.mark.backends("sqlite")
async def test_the_lock_is_free_again_after_each_end(db: Database) -> None:
    """Commit, rollback, failure and explicit commit in the middle all free it."""
    with pytest.raises(ZeroDivisionError):
        async with db.session() as session:
            session.add(Hero(name="x"))
            await session.flush()
            raise ZeroDivisionError
    async with db.session() as session:
        session.add(Hero(name="a"))
        await session.commit()
        async with db.session() as second:
            second.add(Hero(name="b"))
        session.add(Hero(name="c"))
        await session.flush()
        await session.rollback()
        async with db.session() as second:
            second.add(Hero(name="d"))
    async with db.session(begin="deferred") as reader:
        await reader.execute(select(1))  # on the connection that held the lock
        async with db.session() as second:
            second.add(Hero(name="e"))
    assert await names(db) == ["a", "b", "d", "e"]


# --- Session classes ----------------------------------------------------------------------------


class Villain(SQLModel, table=True):
    """A table of SQLModel."""

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(max_length=50)


async def test_sqlmodel_sessions(backend: Backend) -> None:
    """SQLModel's session class works, with its `exec`, and keeps all of fastdb's promises."""
    async with Database(backend.url, session_class=SQLModelSession) as db:
        await db.create_all(SQLModel.metadata)
        async with db.session() as session:
            assert isinstance(session, SQLModelSession)
            session.add(Villain(name="a"))
            await session.flush()
            found = await session.exec(sqlmodel.select(Villain.name))
            assert found.all() == ["a"]
        with pytest.raises(SessionEnded):
            await session.exec(sqlmodel.select(Villain))


@pytest.mark.backends("sqlite-memory")
async def test_session_class_is_known_to_type_checkers(backend: Backend) -> None:
    """What is opened is of the class that was given; without one, it is SQLAlchemy's."""

    async def count(session: SQLModelSession, name: str) -> int:
        return len((await session.exec(sqlmodel.select(Villain).where(Villain.name == name))).all())

    async with Database(backend.url, session_class=SQLModelSession) as db:
        assert_type(db, Database[SQLModelSession])
        await db.create_all(SQLModel.metadata)
        async with db.read_session() as session:
            assert_type(session, SQLModelSession)
            assert isinstance(session, SQLModelSession)
        assert await db.run(count, "a") == 0
    async with Database(backend.url) as plain, plain.session() as plain_session:
        assert_type(plain_session, AsyncSession)
        assert not isinstance(plain_session, SQLModelSession)


@pytest.mark.backends("sqlite-memory")
async def test_session_options_reach_the_session(backend: Backend) -> None:
    """Further arguments are the session's; those of fastdb are defaults."""
    options = {"autoflush": False, "expire_on_commit": True}
    async with Database(backend.url, session_options=options) as db:
        await db.create_all(Base.metadata)
        async with db.session() as session:
            assert not session.sync_session.autoflush
            team = Team(name="a")
            session.add(team)
            await session.commit()
            assert "name" not in team.__dict__
        with db.sync.session() as sync:
            assert not sync.autoflush
    assert options == {"autoflush": False, "expire_on_commit": True}


class Tenant(AsyncSession):
    """A session class with an attribute of its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tenant: int | None = None


async def test_what_an_app_keeps_on_its_session_stays_there(backend: Backend) -> None:
    """The first statement does not set it back."""
    async with Database(backend.url, session_class=Tenant) as db, db.session() as session:
        assert isinstance(session, Tenant)
        session.tenant = 42
        await session.execute(select(1))
        assert session.tenant == 42


@pytest.mark.backends("sqlite-memory")
async def test_a_class_for_the_inner_session(backend: Backend) -> None:
    """SQLAlchemy's option for it is taken, for the twin too."""

    class Inner(Session):
        pass

    async with Database(backend.url, session_options={"sync_session_class": Inner}) as db:
        async with db.session() as session:
            assert isinstance(session.sync_session, Inner)
        with db.sync.session() as sync:
            assert isinstance(sync, Inner)


def test_a_session_class_that_would_be_bypassed_is_refused() -> None:
    """A commit() of the user's own that is never called is worse than an error."""

    class Audited(AsyncSession):
        async def commit(self) -> None:
            raise NotImplementedError

    with pytest.raises(ConfigurationError) as raised:
        Database("sqlite://", session_class=Audited)
    assert str(raised.value) == (
        "session_class=Audited overrides commit(), which the unit of work would not call. Listen"
        " to SQLAlchemy's session events instead (before_commit, after_commit, after_rollback)."
    )


async def test_bulk_update_without_objects(db: Database) -> None:
    """A statement that the ORM runs without loading objects is part of the unit as well."""
    async with db.session() as session:
        session.add(Counter(id=1, value=1))
    with pytest.raises(InvalidRequestError):
        async with db.session() as session:
            await session.execute(update(Counter).values(value=2))
            raise InvalidRequestError
    async with db.read_session() as session:
        assert await session.scalar(select(Counter.value)) == 1


@pytest.mark.backends("sqlite")
async def test_a_level_of_its_own_under_autocommit(backend: Backend) -> None:
    """A session that asks for a transaction gets one, also where the Database has none."""
    async with Database(backend.url, isolation="AUTOCOMMIT") as db:
        await db.create_all(Base.metadata)
        with pytest.raises(ZeroDivisionError):
            async with db.session(isolation="SERIALIZABLE") as session:
                session.add(Team(name="a"))
                await session.flush()
                raise ZeroDivisionError
        async with db.session() as session:
            assert await session.scalar(select(func.count()).select_from(Team)) == 0
