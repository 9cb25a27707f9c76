"""Units of work that are run again: what is won by it, and what is never repeated."""

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from sqlalchemy import insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession

from backends import Backend
from fastdb import (
    CommitOutcomeUnknown,
    ConfigurationError,
    Database,
    PoolOptions,
    SQLiteOptions,
    Timeouts,
    TransactionFailed,
    on_commit,
)
from models import Base, Counter, Hero

COUNT = select(Counter.value).where(Counter.id == 1)


@pytest.fixture
async def db(backend: Backend) -> AsyncIterator[Database]:
    """A database with two counters."""
    async with Database(backend.url) as db:
        await db.create_all(Base.metadata)
        async with db.session() as session:
            await session.execute(insert(Counter), [{"id": 1, "value": 0}, {"id": 2, "value": 0}])
        yield db


async def count(db: Database) -> int:
    async with db.read_session() as session:
        return await session.scalar(COUNT) or 0


async def increase(session: AsyncSession, counter_id: int = 1) -> None:
    change = update(Counter).where(Counter.id == counter_id).values(value=Counter.value + 1)
    await session.execute(change)


class Counted:
    """A unit of work that counts its attempts: the one that is running is in the count."""

    def __init__(self, unit: Callable[..., Awaitable[Any]]) -> None:
        self.attempts = 0
        self._unit = unit

    async def __call__(self, session: AsyncSession, *args: Any) -> Any:
        self.attempts += 1
        return await self._unit(session, *args)


# --- What is won --------------------------------------------------------------------------------


async def test_what_succeeds_runs_once(db: Database) -> None:
    """With its arguments, in one unit of work; what it returns comes back."""
    sessions = []

    async def add(session: AsyncSession, first: int, second: int) -> int:
        sessions.append(session)
        await increase(session)
        return first + second

    assert await db.run(add, 2, 3) == 5
    assert len(sessions) == 1
    assert await count(db) == 1


@pytest.mark.backends("postgresql", "mysql")
async def test_a_deadlock_is_won(db: Database) -> None:
    """Both have their way, one of them the second time."""
    both = asyncio.Barrier(2)

    @Counted
    async def change(session: AsyncSession, first: int, second: int) -> None:
        await increase(session, first)
        if change.attempts <= 2:
            await both.wait()
        await increase(session, second)

    await asyncio.gather(db.run(change, 1, 2), db.run(change, 2, 1))
    assert change.attempts == 3
    assert await count(db) == 2


@pytest.mark.backends("postgresql")
async def test_serialization_failures_are_won(db: Database) -> None:
    """The isolation level is that of every attempt: of five that have read the same, one writes."""
    all_five = asyncio.Barrier(5)

    @Counted
    async def add(session: AsyncSession) -> None:
        value = await session.scalar(COUNT)
        assert value is not None
        if add.attempts <= 5:
            await all_five.wait()
        await session.execute(update(Counter).where(Counter.id == 1).values(value=value + 1))

    work = (db.run(add, attempts=50, isolation="SERIALIZABLE") for _ in range(5))
    await asyncio.gather(*work)
    assert await count(db) == 5
    assert add.attempts >= 5 + 4


@pytest.mark.backends("postgresql")
async def test_a_failure_in_commit_is_won(db: Database) -> None:
    """Write skew: each reads what the other one writes, and COMMIT finds out."""
    both = asyncio.Barrier(2)

    @Counted
    async def skew(session: AsyncSession, read: int, write: int) -> None:
        await session.scalar(select(Counter.value).where(Counter.id == read))
        await increase(session, write)
        if skew.attempts <= 2:
            await both.wait()

    work = (db.run(skew, *ids, isolation="SERIALIZABLE") for ids in ((1, 2), (2, 1)))
    await asyncio.gather(*work)
    assert skew.attempts == 3


@pytest.mark.backends("sqlite")
async def test_a_locked_file_is_won(backend: Backend) -> None:
    """A connection that fastdb does not know of holds the lock for longer than an attempt waits."""
    async with Database(backend.url, timeouts=Timeouts(lock=0.05)) as db:
        await db.create_all(Base.metadata)
        async with db.session() as session:
            await session.execute(insert(Counter).values(id=1, value=0))

        @Counted
        async def increase_in_the_end(session: AsyncSession) -> None:
            if increase_in_the_end.attempts == 3:
                await asyncio.to_thread(other.close)
            await increase(session)

        connect = partial(sqlite3.connect, isolation_level=None, check_same_thread=False)
        other = await asyncio.to_thread(connect, str(db.engine.url.database))
        try:
            await asyncio.to_thread(other.execute, "BEGIN IMMEDIATE")
            with pytest.raises(OperationalError, match="database is locked"):
                await db.run(increase, attempts=2)
            await db.run(increase_in_the_end)
        finally:
            await asyncio.to_thread(other.close)
        assert increase_in_the_end.attempts == 3
        assert await count(db) == 1


@pytest.mark.backends("sqlite")
async def test_a_view_that_is_too_old_is_won(db: Database) -> None:
    """A reader that becomes a writer after somebody else's COMMIT."""

    @Counted
    async def read_then_write(session: AsyncSession) -> None:
        await session.scalar(COUNT)
        if read_then_write.attempts == 1:
            async with db.session() as other:
                await increase(other)
        await increase(session)

    options = SQLiteOptions(begin="deferred")
    async with Database(f"sqlite:///{db.engine.url.database}", sqlite=options) as late:
        await late.run(read_then_write)
    assert read_then_write.attempts == 2
    assert await count(db) == 2


# PostgreSQL's waits until the connection has ended, for 5 seconds at most.
END = {"postgresql": "SELECT pg_terminate_backend({}, 5000)", "mysql": "KILL {}"}
OWN = {"postgresql": "SELECT pg_backend_pid()", "mysql": "SELECT connection_id()"}


@pytest.mark.backends("postgresql", "mysql")
async def test_a_lost_connection_is_won(db: Database, backend: Backend) -> None:
    """Before COMMIT, nothing of it is in the database."""

    @Counted
    async def lose_first(session: AsyncSession) -> None:
        await increase(session)
        if lose_first.attempts == 1:
            number = await session.scalar(text(OWN[backend.name]))
            async with db.session() as other:
                await other.execute(text(END[backend.name].format(number)))
        await increase(session, 2)

    await db.run(lose_first)
    assert lose_first.attempts == 2
    assert await count(db) == 1


async def test_on_commit_runs_once(db: Database) -> None:
    """After the attempt that was committed."""
    told: list[int] = []

    @Counted
    async def fail_first(session: AsyncSession) -> None:
        number = fail_first.attempts
        on_commit(session, lambda: told.append(number))
        await increase(session)
        if number < 3:
            raise transient()

    await db.run(fail_first)
    assert told == [3]
    assert await count(db) == 1


def transient(code: int = sqlite3.SQLITE_BUSY_SNAPSHOT) -> DBAPIError:
    """An error as SQLite gives it to who is too late."""
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorcode = code
    return OperationalError("SELECT 1", {}, error)


# --- What is not repeated -----------------------------------------------------------------------


async def attempts_until(db: Database, error: BaseException, **options: Any) -> int:
    """Return how often a unit of work is run that raises this."""

    @Counted
    async def fail(session: AsyncSession) -> None:
        await increase(session)
        raise error

    with pytest.raises(type(error)) as caught:
        await db.run(fail, **options)
    assert caught.value is error
    assert await count(db) == 0
    return fail.attempts


only_one = pytest.mark.backends("sqlite-memory")


def raised_from(cause: BaseException) -> RuntimeError:
    """An error of the unit of work's own, in place of what it has met."""
    error = RuntimeError(f"from {type(cause).__name__}")
    error.__cause__ = cause
    return error


@only_one
@pytest.mark.parametrize("code", [sqlite3.SQLITE_BUSY, sqlite3.SQLITE_BUSY_SNAPSHOT])
async def test_an_error_is_what_has_caused_it(db: Database, code: int) -> None:
    """A unit of work may raise an error of its own from the database's."""
    assert await attempts_until(db, transient(code)) == 3
    assert await attempts_until(db, raised_from(transient(code))) == 3


@only_one
@pytest.mark.parametrize(
    "error",
    [
        ValueError("the user's own"),
        CommitOutcomeUnknown(),
        raised_from(CommitOutcomeUnknown()),
        TransactionFailed(),
        IntegrityError("INSERT", {}, sqlite3.IntegrityError()),
        asyncio.CancelledError(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_another_attempt_would_meet_again(db: Database, error: BaseException) -> None:
    """Or what must not be done twice."""
    assert await attempts_until(db, error) == 1


@pytest.mark.backends("postgresql", "mysql")
async def test_a_lock_that_was_waited_for_in_vain(backend: Backend) -> None:
    """On a server, it was waited for as long as was asked for."""
    wait = Counted(increase)
    async with Database(backend.url, timeouts=Timeouts(lock=1)) as db:
        await db.create_all(Base.metadata)
        async with db.session() as session:
            await session.execute(insert(Counter).values(id=1, value=0))
        async with db.session() as session:
            await increase(session)
            with pytest.raises(DBAPIError):
                await db.run(wait)
    assert wait.attempts == 1


@only_one
async def test_so_often_only(db: Database) -> None:
    """The last error comes out."""
    assert await attempts_until(db, transient()) == 3
    assert await attempts_until(db, transient(), attempts=1) == 1
    assert await attempts_until(db, transient(), attempts=5) == 5


@only_one
async def test_for_so_long_only(db: Database) -> None:
    """However many attempts are left."""
    assert await attempts_until(db, transient(), attempts=10_000, seconds=0.2) < 100


@only_one
async def test_a_part_that_is_committed_is_not_repeated(db: Database) -> None:
    """What came before `session.commit()` would be there twice."""

    @Counted
    async def commit_and_fail(session: AsyncSession) -> None:
        await increase(session)
        await session.commit()
        raise transient()

    with pytest.raises(OperationalError):
        await db.run(commit_and_fail)
    assert commit_and_fail.attempts == 1
    assert await count(db) == 1


@only_one
async def test_a_savepoint_is_no_commit(db: Database) -> None:
    """A savepoint that is released can still be undone."""

    @Counted
    async def nest_and_fail(session: AsyncSession) -> None:
        async with session.begin_nested():
            await increase(session)
        if nest_and_fail.attempts == 1:
            raise transient()

    await db.run(nest_and_fail)
    assert nest_and_fail.attempts == 2
    assert await count(db) == 1


async def test_who_was_cancelled_stops(db: Database) -> None:
    """Also where the cancellation came out as an error of the database."""

    @Counted
    async def cancelled(session: AsyncSession) -> None:
        await increase(session)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            raise transient() from None

    task = asyncio.create_task(db.run(cancelled))
    with pytest.raises(OperationalError):
        await task
    assert cancelled.attempts == 1
    assert await count(db) == 0


@only_one
async def test_a_cancellation_ends_the_waiting(db: Database) -> None:
    """Between two attempts: the third has ended when it comes, as it never had to wait."""
    third = asyncio.Event()

    @Counted
    async def fail(_session: AsyncSession) -> None:
        if fail.attempts == 3:
            third.set()
        raise transient()

    task = asyncio.create_task(db.run(fail, attempts=10_000))
    await third.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert fail.attempts == 3


AUTOCOMMIT_REFUSED = (
    'db.run() with isolation="AUTOCOMMIT": an attempt that fails half-way would be repeated'
    " although its first half is committed. Leave the level out, here or in the Database, or choose"
    " a stricter one."
)


@only_one
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attempts": 0}, "run(attempts=0): must be a whole number, 1 or more."),
        ({"attempts": "3"}, "run(attempts='3'): must be a whole number, 1 or more."),
        ({"attempts": True}, "run(attempts=True): must be a whole number, 1 or more."),
        ({"seconds": 0}, "run(seconds=0): must be a number of seconds, above 0."),
        ({"seconds": "3"}, "run(seconds='3'): must be a number of seconds, above 0."),
        ({"seconds": None}, "run(seconds=None): must be a number of seconds, above 0."),
        ({"isolation": "autocommit"}, AUTOCOMMIT_REFUSED),
    ],
)
async def test_options_that_cannot_be_meant(
    db: Database, options: dict[str, Any], message: str
) -> None:
    """They are refused before anything runs."""
    with pytest.raises(ConfigurationError) as caught:
        await db.run(increase, **options)
    assert str(caught.value) == message
    assert await count(db) == 0


@pytest.mark.backends("sqlite-memory", "postgresql-psycopg")
@pytest.mark.parametrize(
    "options",
    [
        {"isolation": "AUTOCOMMIT"},
        {"async_options": {"isolation_level": "autocommit"}},
        {"async_options": {"execution_options": {"isolation_level": "AUTOCOMMIT"}}},
    ],
    ids=["isolation", "engine", "execution"],
)
async def test_a_database_in_autocommit(backend: Backend, options: dict[str, Any]) -> None:
    """What each attempt does is in the database at once, as if the level were given to `run`."""
    async with Database(backend.url, **options) as db:
        with pytest.raises(ConfigurationError) as caught:
            await db.run(increase)
        assert str(caught.value) == AUTOCOMMIT_REFUSED


@pytest.mark.backends("postgresql")
async def test_a_level_that_is_given_wins(backend: Backend) -> None:
    """A Database in autocommit has units of work as well, where they are asked for."""
    async with Database(backend.url, isolation="AUTOCOMMIT") as db:
        await db.create_all(Base.metadata)
        async with db.session() as session:
            await session.execute(insert(Counter).values(id=1, value=0))

        @Counted
        async def fail_first(session: AsyncSession) -> None:
            await increase(session)
            if fail_first.attempts == 1:
                raise transient()

        await db.run(fail_first, isolation="READ COMMITTED")
        assert fail_first.attempts == 2
        assert await count(db) == 1


_WITHOUT_STAMINA = """
import asyncio, sys
sys.modules["stamina"] = None
from fastdb import ConfigurationError, Database

async def main():
    async with Database("sqlite://") as db:
        try:
            await db.run(print)
        except ConfigurationError as error:
            assert "pip install 'fastapi-fastdb[retry]'" in str(error), error
            return
    raise AssertionError

asyncio.run(main())
"""


def test_without_stamina() -> None:
    """The error says what to install."""
    subprocess.run([sys.executable, "-c", _WITHOUT_STAMINA], check=True)


async def test_no_slot_is_lost(backend: Backend) -> None:
    """However often it is run."""
    async with Database(backend.url, pool=PoolOptions(size=1)) as db:
        await db.create_all(Base.metadata)

        async def fail(session: AsyncSession, number: int) -> None:
            session.add(Hero(name=f"{number}"))
            await session.flush()
            if number % 2:
                raise transient()

        for number in range(20):
            with suppress(OperationalError):
                await db.run(fail, number, attempts=2)
        assert db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
        async with db.read_session() as session:
            names = set(await session.scalars(select(Hero.name)))
    assert names == {f"{number}" for number in range(0, 20, 2)}
