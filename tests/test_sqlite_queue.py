"""The queue for SQLite's write lock: who waits, for whom, and who is next."""

import asyncio
import random
import re
import sqlite3
import sys
import threading
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import anyio
import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import event, select, text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.pool import QueuePool

from fastdb import Database, PoolOptions, SessionDep, SQLiteOptions, Timeouts, WriteLockHeld
from fastdb.sqlite.writelock import WriteLock
from models import Base, Hero, Late
from sqlite_rivals import RECOVERY, OtherLoop, OtherProcess, other_process

INSERT = text("INSERT INTO hero (name) VALUES (:name)")
FOREVER = text(
    "INSERT INTO hero (name) WITH RECURSIVE n(i) AS"
    " (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000000000) SELECT max(i) FROM n"
)
STRANGER = "another process or connection that fastdb does not know of holds it"


@pytest.fixture(params=[True, False], ids=["accelerated", "plain"])
def accelerate(request: pytest.FixtureRequest) -> bool:
    """With the dialect `sqlite+fastdb`, and with SQLAlchemy's own."""
    return bool(request.param)


def make(url: str, accelerate: bool, *, lock: float = 10.0, connections: int = 32) -> Database:
    """Make a Database whose pool is never what is waited for, and asks no connection anything."""
    return Database(
        url,
        sqlite=SQLiteOptions(accelerate=accelerate),
        pool=PoolOptions(size=connections, max_overflow=0, ping_after=None),
        timeouts=Timeouts(lock=lock),
    )


async def warm_up(db: Database, connections: int) -> None:
    """Open connections, so that whoever comes is in the queue at once."""
    async with AsyncExitStack() as stack:
        for _ in range(connections):
            await stack.enter_async_context(db.engine.connect())


@asynccontextmanager
async def opened(db: Database, connections: int) -> AsyncIterator[Database]:
    """Open `db` with the tables of `models`; afterwards nobody may have kept a connection."""
    async with db:
        await db.create_all(Base.metadata)
        await warm_up(db, connections)
        yield db
        assert isinstance(db.engine.pool, QueuePool)
        assert db.engine.pool.checkedout() == 0


@pytest.fixture
async def db(sqlite_url: str, accelerate: bool) -> AsyncIterator[Database]:
    """A database with the tables of `models`, and connections for all."""
    async with opened(make(sqlite_url, accelerate), 32) as db:
        yield db


@pytest.fixture
async def accelerated(sqlite_url: str) -> AsyncIterator[Database]:
    """The same, with the dialect `sqlite+fastdb` only."""
    async with opened(make(sqlite_url, accelerate=True), 32) as db:
        yield db


@pytest.fixture
async def impatient(sqlite_url: str, accelerate: bool) -> AsyncIterator[Database]:
    """The same, where nobody waits for long."""
    async with opened(make(sqlite_url, accelerate, lock=0.2), 3) as db:
        yield db


@pytest.fixture
def process(sqlite_url: str) -> Iterator[OtherProcess]:
    """Another process that uses the file."""
    with other_process(sqlite_url) as process:
        yield process


async def names(db: Database) -> list[str]:
    """What was committed, in the order in which it was written."""
    async with db.read_session() as session:
        return list(await session.scalars(select(Hero.name).order_by(Hero.id)))


async def write(db: Database, name: str) -> None:
    """A unit of work with one row."""
    async with db.session() as session:
        await session.execute(INSERT, {"name": name})


class Arrivals:
    """Notices who asks for the lock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        take_turn = WriteLock.take_turn
        self._arrived: asyncio.Queue[object] = asyncio.Queue()

        async def note(lock: WriteLock, connection: object, **limits: Any) -> None:
            self._arrived.put_nowait(connection)
            await take_turn(lock, connection, **limits)

        monkeypatch.setattr(WriteLock, "take_turn", note)

    def forget(self) -> None:
        """Forget those who have come."""
        while not self._arrived.empty():
            self._arrived.get_nowait()

    async def line_up(self, *writers: Coroutine[Any, Any, None]) -> "list[asyncio.Task[None]]":
        """Start writers, each when the one before it stands in the queue."""
        tasks = []
        self.forget()
        for writer in writers:
            tasks.append(asyncio.create_task(writer))
            await self.one()
        return tasks

    async def one(self) -> None:
        """Wait until somebody else stands in the queue."""
        async with asyncio.timeout(5):
            await self._arrived.get()
        await asyncio.sleep(0)


@pytest.fixture
def arrivals(monkeypatch: pytest.MonkeyPatch) -> Arrivals:
    """Those who ask for the lock."""
    return Arrivals(monkeypatch)


class Holder:
    """A task that has taken the write lock, and ends when it is told to."""

    def __init__(self, db: Database, name: str = "holder") -> None:
        self._db = db
        self._name = name
        self.has_it = asyncio.Event()
        self._may_end = asyncio.Event()
        self.task = asyncio.create_task(self._hold(), name=name)

    async def _hold(self) -> None:
        async with self._db.session() as session:
            await session.execute(INSERT, {"name": self._name})
            self.has_it.set()
            await self._may_end.wait()

    async def __aenter__(self) -> "Holder":
        await self.has_it.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end()

    async def end(self) -> None:
        """Let it commit."""
        self._may_end.set()
        await self.task


class Writer:
    """Writes a row, and can be stopped in several ways."""

    def __init__(self, db: Database, name: str, how: str = "task.cancel") -> None:
        self._db = db
        self.name = name
        self._how = how

    async def run(self) -> None:
        """Write; be silent where it was stopped."""
        self._task = asyncio.current_task()
        self._scope = anyio.CancelScope()
        self._limit = asyncio.timeout(None)
        async with AsyncExitStack() as limits:
            limits.enter_context(suppress(asyncio.CancelledError, TimeoutError))
            if self._how == "anyio.CancelScope":
                limits.enter_context(self._scope)
            if self._how == "asyncio.timeout":
                await limits.enter_async_context(self._limit)
            await write(self._db, self.name)

    def stop(self) -> None:
        """Cancel it."""
        if self._how == "anyio.CancelScope":
            self._scope.cancel()
        elif self._how == "asyncio.timeout":
            self._limit.reschedule(asyncio.get_running_loop().time())
        elif self._task is not None:
            self._task.cancel()


async def end_within_bounds(tasks: Iterable[Awaitable[object]]) -> None:
    """Wait for all; none of them may have lost its turn."""
    async with asyncio.timeout(5):
        await asyncio.gather(*tasks)


# --- The order ----------------------------------------------------------------------------------


async def test_the_first_to_come_is_the_first_served(db: Database, arrivals: Arrivals) -> None:
    """Thirty writers get the lock in the order in which they have asked for it."""
    async with Holder(db):
        writers = await arrivals.line_up(*(write(db, str(number)) for number in range(30)))
    await asyncio.gather(*writers)
    assert await names(db) == ["holder", *map(str, range(30))]


async def test_the_pool_keeps_the_order(sqlite_url: str) -> None:
    """Who waits for a connection first, and then for the lock, is not overtaken either."""
    async with opened(make(sqlite_url, accelerate=True, connections=3), 3) as db:
        async with Holder(db):
            writers = [asyncio.create_task(write(db, str(number))) for number in range(30)]
            await asyncio.sleep(0)
        await asyncio.gather(*writers)
        assert await names(db) == ["holder", *map(str, range(30))]


async def test_readers_do_not_queue(db: Database, arrivals: Arrivals) -> None:
    """They need no lock: the writer that holds it and those who wait do not stop them."""
    async with Holder(db):
        [writer] = await arrivals.line_up(write(db, "next"))
        assert await names(db) == []
        async with db.session(begin="deferred") as session:
            assert (await session.scalars(select(Hero))).all() == []
        assert not writer.done()
    await writer


async def test_autocommit_writes_queue(sqlite_url: str, arrivals: Arrivals) -> None:
    """A statement that commits itself takes its turn, and gives it on."""
    async with opened(make(sqlite_url, accelerate=True), 16) as db:
        await write_in_turn(db, arrivals)


async def write_in_turn(db: Database, arrivals: Arrivals) -> None:
    autocommit = db.engine.execution_options(isolation_level="AUTOCOMMIT")

    async def write_alone(name: str) -> None:
        async with autocommit.connect() as connection:
            await connection.execute(INSERT, {"name": name})

    async with Holder(db):
        writers = await arrivals.line_up(
            *(
                write_alone(str(number)) if number % 2 else write(db, str(number))
                for number in range(10)
            )
        )
    await asyncio.gather(*writers)
    assert await names(db) == ["holder", *map(str, range(10))]


async def test_autocommit_writes_wait(db: Database) -> None:
    """They are not refused while somebody holds the lock."""
    autocommit = db.engine.execution_options(isolation_level="AUTOCOMMIT")

    async def work(name: str) -> None:
        async with autocommit.connect() as connection:
            await connection.execute(INSERT, {"name": name})

    async with Holder(db):
        writers = [asyncio.create_task(work(str(number))) for number in range(5)]
        await beats(20)
    await end_within_bounds(writers)
    assert sorted(await names(db)) == ["0", "1", "2", "3", "4", "holder"]


async def test_two_databases_on_one_file_share_the_queue(
    sqlite_url: str, accelerate: bool, arrivals: Arrivals
) -> None:
    """The lock is the file's: it does not matter how many objects know of it."""
    spelled_otherwise = sqlite_url.replace("/test.db", "/./test.db")
    one, two = make(sqlite_url, accelerate), make(spelled_otherwise, accelerate)
    async with opened(one, 16), opened(two, 16):
        async with Holder(one):
            writers = await arrivals.line_up(
                *(write(two if number % 2 else one, str(number)) for number in range(20))
            )
        await asyncio.gather(*writers)
        assert await names(one) == ["holder", *map(str, range(20))]


# --- Who leaves the queue -----------------------------------------------------------------------


@pytest.mark.parametrize("how", ["task.cancel", "asyncio.timeout", "anyio.CancelScope"])
@pytest.mark.parametrize(
    "leaving", [[0], [2], [4], [0, 1, 2, 3, 4]], ids=["head", "middle", "last", "all"]
)
async def test_a_writer_that_is_cancelled_leaves_the_queue(
    db: Database, arrivals: Arrivals, leaving: Sequence[int], how: str
) -> None:
    """Nothing of it is written, and the others are served as if it had never come."""
    async with Holder(db):
        writers = [Writer(db, str(number), how) for number in range(5)]
        tasks = await arrivals.line_up(*(writer.run() for writer in writers))
        for number in leaving:
            writers[number].stop()
        await end_within_bounds(tasks[number] for number in leaving)
        tasks += await arrivals.line_up(write(db, "late"))
    await end_within_bounds(tasks)
    staying = [str(number) for number in range(5) if number not in leaving]
    assert await names(db) == ["holder", *staying, "late"]


async def test_a_cancelled_wait_costs_no_connection(
    accelerated: Database, arrivals: Arrivals
) -> None:
    """Nothing was sent yet: the same connections serve afterwards."""
    db = accelerated

    def connections() -> set[int]:
        return {id(entry.driver_connection) for entry in entries}

    entries: list[Any] = []
    event.listen(db.engine.sync_engine, "checkout", lambda _, entry, __: entries.append(entry))
    await warm_up(db, 32)
    before = connections()
    async with Holder(db):
        writers = [Writer(db, str(number)) for number in range(5)]
        tasks = await arrivals.line_up(*(writer.run() for writer in writers))
        for writer in writers:
            writer.stop()
        await end_within_bounds(tasks)
    entries.clear()
    await warm_up(db, 32)
    assert connections() == before


async def test_no_wake_up_is_lost_at_any_moment(db: Database, arrivals: Arrivals) -> None:
    """Whenever writers are cancelled, also as they are given the lock, the next one gets it."""
    moments = random.Random(7)  # noqa: S311 - the same moments in each run
    for turn in range(40):
        holder = Holder(db, f"holder {turn}")
        await holder.has_it.wait()
        writers = [Writer(db, f"{turn}/{number}") for number in range(4)]
        tasks = await arrivals.line_up(*(writer.run() for writer in writers))
        ending = asyncio.create_task(holder.end())
        for writer in moments.sample(writers, 3):
            for _ in range(moments.randrange(12)):
                await asyncio.sleep(0)
            writer.stop()
        await end_within_bounds([ending, *tasks, write(db, f"after {turn}")])


# --- Who has it, and how it ends ----------------------------------------------------------------


async def cancelled_while_idle(session: AsyncSession) -> None:
    await session.execute(INSERT, {"name": "lost"})
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.Event().wait()


async def cancelled_in_a_statement(session: AsyncSession) -> None:
    await session.execute(INSERT, {"name": "lost"})
    running = asyncio.Event()
    connection = await session.connection()
    raw = await connection.get_raw_connection()
    driver_connection: Any = raw.driver_connection
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def started() -> int:
        loop.call_soon_threadsafe(running.set)
        return 0

    async def cancel() -> None:
        await running.wait()
        task.cancel()

    cancelling = asyncio.create_task(cancel())
    await driver_connection.set_progress_handler(started, 1000)
    try:
        await session.execute(FOREVER)
    finally:
        await cancelling


async def invalidated(session: AsyncSession) -> None:
    await session.execute(INSERT, {"name": "lost"})
    await (await session.connection()).invalidate()
    raise ZeroDivisionError


async def commit_fails(session: AsyncSession) -> None:
    session.add(Late(team_id=99))
    await session.flush()


async def closed_by_hand(session: AsyncSession) -> None:
    await session.execute(INSERT, {"name": "lost"})
    await session.close()


async def rolled_back_by_hand(session: AsyncSession) -> None:
    await session.execute(INSERT, {"name": "lost"})
    await session.rollback()


async def rolled_back_by_sqlite(session: AsyncSession) -> None:
    await session.execute(INSERT, {"name": "lost"})
    await session.execute(text("INSERT OR ROLLBACK INTO hero (name) VALUES ('lost')"))


async def raises(session: AsyncSession) -> None:
    await session.execute(INSERT, {"name": "lost"})
    raise ZeroDivisionError


@pytest.mark.parametrize(
    "end",
    [
        cancelled_while_idle,
        cancelled_in_a_statement,
        invalidated,
        commit_fails,
        closed_by_hand,
        rolled_back_by_hand,
        rolled_back_by_sqlite,
        raises,
    ],
)
async def test_the_next_writer_gets_the_lock(
    db: Database, arrivals: Arrivals, end: Callable[[AsyncSession], Awaitable[None]]
) -> None:
    """However the one before it has ended, and nothing of that one is left."""
    has_it, may_end = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with db.session() as session:
            await session.scalar(select(1))
            has_it.set()
            await may_end.wait()
            await end(session)

    holder = asyncio.create_task(hold())
    await has_it.wait()
    waiting = await arrivals.line_up(*(write(db, str(number)) for number in range(3)))
    may_end.set()
    with suppress(asyncio.CancelledError, ZeroDivisionError, IntegrityError, OperationalError):
        await holder
    await end_within_bounds(waiting)
    assert await names(db) == ["0", "1", "2"]


async def test_a_failed_first_statement_gives_the_lock_on(db: Database, arrivals: Arrivals) -> None:
    """The transaction has begun all the same; its end frees the lock."""
    async with Holder(db):
        failing, waiting = await arrivals.line_up(fail_at_once(db), write(db, "next"))
    with pytest.raises(OperationalError, match="no such table"):
        await failing
    await end_within_bounds([waiting])
    assert await names(db) == ["holder", "next"]


async def fail_at_once(db: Database) -> None:
    async with db.session() as session:
        await session.execute(text("INSERT INTO absent VALUES (1)"))


async def test_a_commit_in_the_middle_gives_the_lock_on(db: Database, arrivals: Arrivals) -> None:
    """What the same session writes afterwards stands in the queue again."""
    async with db.session() as session:
        await session.execute(INSERT, {"name": "first"})
        [waiting] = await arrivals.line_up(write(db, "between"))
        await session.commit()
        await session.execute(INSERT, {"name": "last"})
    await waiting
    assert await names(db) == ["first", "between", "last"]


async def test_what_commits_itself_gives_the_lock_on_at_once(db: Database) -> None:
    """Its connection may stay in use for as long as it likes."""
    autocommit = db.engine.execution_options(isolation_level="AUTOCOMMIT")
    async with autocommit.connect() as connection:
        for number in range(3):
            await connection.execute(INSERT, {"name": f"mine {number}"})
            await end_within_bounds([asyncio.create_task(write(db, f"theirs {number}"))])
    assert len(await names(db)) == 6


async def test_what_sqlite_has_rolled_back_gives_the_lock_on_at_once(sqlite_url: str) -> None:
    """The session that has lost its transaction may take its time to notice."""
    async with opened(make(sqlite_url, accelerate=True), 2) as db:
        async with db.session() as session:
            await session.execute(INSERT, {"name": "a"})
            with pytest.raises(IntegrityError):
                await rolled_back_by_sqlite(session)
            await end_within_bounds([asyncio.create_task(write(db, "other"))])
            await session.rollback()
        assert await names(db) == ["other"]


# --- Other processes, threads and event loops ---------------------------------------------------


async def beats(count: int) -> None:
    """Let the event loop show that it is alive."""
    for _ in range(count):
        await asyncio.sleep(0.001)


async def test_another_process_is_waited_for(
    db: Database, arrivals: Arrivals, process: OtherProcess
) -> None:
    """The loop goes on meanwhile, and the write succeeds when the other one is done."""
    await process.execute("BEGIN IMMEDIATE")
    writers = await arrivals.line_up(*(write(db, str(number)) for number in range(3)))
    await beats(50)
    assert not any(writer.done() for writer in writers)
    await process.execute("COMMIT")
    await end_within_bounds(writers)
    assert await names(db) == ["0", "1", "2"]


@pytest.fixture
def recovery(sqlite_url: str) -> Iterator[OtherProcess]:
    """Another process, which clears up after one that was killed."""
    with other_process(sqlite_url, RECOVERY) as process:
        yield process


@pytest.mark.skipif(sys.platform != "linux", reason="uses the locks of SQLite's files itself")
async def test_the_recovery_by_another_process_is_waited_for(
    db: Database, recovery: OtherProcess
) -> None:
    """Nobody can read or write as long as it lasts, and nobody need be told so."""
    await write(db, "before")
    assert await recovery.execute("begin") == "recovering"
    reader = asyncio.create_task(names(db))
    writer = asyncio.create_task(write(db, "after"))
    await beats(50)
    assert not reader.done()
    assert not writer.done()
    assert await recovery.execute("end") == "recovered"
    await end_within_bounds([reader, writer])
    assert "before" in reader.result()
    assert await names(db) == ["before", "after"]


async def test_a_wait_for_another_process_can_be_cancelled(
    accelerated: Database, arrivals: Arrivals, process: OtherProcess
) -> None:
    """The one who is next then waits in its place; the plain dialect sleeps inside SQLite."""
    db = accelerated
    await process.execute("BEGIN IMMEDIATE")
    writers = [Writer(db, str(number)) for number in range(3)]
    tasks = await arrivals.line_up(*(writer.run() for writer in writers))
    await beats(20)
    writers[0].stop()
    await end_within_bounds(tasks[:1])
    await beats(20)
    await process.execute("COMMIT")
    await end_within_bounds(tasks)
    assert await names(db) == ["1", "2"]


async def test_the_wait_for_another_process_has_a_limit(
    impatient: Database, process: OtherProcess
) -> None:
    """The error says who waited, and that nobody here holds the lock."""
    await process.execute("BEGIN IMMEDIATE")
    writer = asyncio.create_task(write(impatient, "a"), name="waiting")
    with pytest.raises(OperationalError) as raised:
        await writer
    assert str(raised.value.orig) == (
        f"database is locked: Task 'waiting' waited 0.2 s for the SQLite write lock, and {STRANGER}"
    )
    assert isinstance(raised.value.orig, sqlite3.OperationalError)
    assert raised.value.orig.sqlite_errorcode == sqlite3.SQLITE_BUSY
    assert raised.value.orig.sqlite_errorname == "SQLITE_BUSY"
    await process.execute("COMMIT")
    await write(impatient, "b")
    assert await names(impatient) == ["b"]


async def test_a_holder_of_this_process_is_named(impatient: Database) -> None:
    """The error of one who has waited too long names the task that has the lock."""
    async with Holder(impatient, name="greedy"):
        writer = asyncio.create_task(write(impatient, "a"), name="waiting")
        with pytest.raises(OperationalError) as raised:
            await writer
    assert without_figures(raised.value) == (
        "database is locked: Task 'waiting' waited 0.2 s for the SQLite write lock, and"
        " Task 'greedy' has held it for … s"
    )


def without_figures(error: OperationalError) -> str:
    """Return the driver's message, but for how long the lock was held."""
    return re.sub(r"held it for \d+\.\d s", "held it for … s", str(error.orig))


async def test_requests_are_named(sqlite_url: str, accelerate: bool) -> None:
    """By method and path, who waits and who holds."""
    db = make(sqlite_url, accelerate, lock=0.2)
    app = FastAPI(lifespan=db.lifespan)
    has_it, may_end = asyncio.Event(), asyncio.Event()

    @app.post("/hold/{number}")
    async def hold(session: SessionDep) -> None:
        await session.execute(INSERT, {"name": "a"})
        has_it.set()
        await may_end.wait()

    @app.put("/wait")
    async def wait(session: SessionDep) -> None:
        await session.execute(INSERT, {"name": "b"})

    async with opened(db, 2), db.lifespan(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            holding = asyncio.create_task(client.post("/hold/7?secret=1"))
            await has_it.wait()
            waiting = asyncio.create_task(client.put("/wait"))
            with pytest.raises(OperationalError) as raised:
                await waiting
            may_end.set()
            assert (await holding).status_code == 200
    assert without_figures(raised.value) == (
        "database is locked: PUT /wait waited 0.2 s for the SQLite write lock, and"
        " POST /hold/{number} has held it for … s"
    )


async def test_a_thread_of_the_twin_is_waited_for(db: Database) -> None:
    """A synchronous session that holds the lock does not stop the event loop."""
    has_it, may_end = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def hold() -> None:
        with db.sync.session() as session:
            session.execute(INSERT, {"name": "thread"})
            loop.call_soon_threadsafe(has_it.set)
            may_end.wait(10)

    holding = asyncio.create_task(asyncio.to_thread(hold))
    await has_it.wait()
    writer = asyncio.create_task(write(db, "task"))
    await beats(50)
    assert not writer.done()
    may_end.set()
    await end_within_bounds([writer])
    await holding
    assert await names(db) == ["thread", "task"]


async def test_a_thread_of_the_twin_is_named(impatient: Database) -> None:
    """It belongs to no task, so it is called by its own name."""
    has_it, may_end = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def hold() -> None:
        with impatient.sync.session() as session:
            session.execute(INSERT, {"name": "thread"})
            loop.call_soon_threadsafe(has_it.set)
            may_end.wait(10)

    thread = threading.Thread(target=hold, name="importer")
    thread.start()
    await has_it.wait()
    writer = asyncio.create_task(write(impatient, "task"), name="waiting")
    with pytest.raises(OperationalError) as raised:
        await writer
    may_end.set()
    await asyncio.to_thread(thread.join)
    assert without_figures(raised.value) == (
        "database is locked: Task 'waiting' waited 0.2 s for the SQLite write lock, and"
        " Thread 'importer' has held it for … s"
    )


async def test_a_thread_of_the_twin_waits_for_a_task(db: Database) -> None:
    """It gets the lock when the task is done."""

    def work() -> None:
        with db.sync.session() as session:
            session.execute(INSERT, {"name": "thread"})

    async with Holder(db):
        waiting = asyncio.create_task(asyncio.to_thread(work))
        await beats(50)
        assert not waiting.done()
    await end_within_bounds([waiting])
    assert await names(db) == ["holder", "thread"]


async def test_the_limit_of_a_thread_of_the_twin(impatient: Database) -> None:
    """It is told who has the lock, as a task is."""

    def work() -> None:
        with impatient.sync.session() as session:
            session.execute(INSERT, {"name": "thread"})

    errors: list[OperationalError] = []

    def fail() -> None:
        try:
            work()
        except OperationalError as error:
            errors.append(error)

    async with Holder(impatient, name="greedy"):
        thread = threading.Thread(target=fail, name="importer")
        thread.start()
        await asyncio.to_thread(thread.join)
    assert [without_figures(error) for error in errors] == [
        "database is locked: Thread 'importer' waited 0.2 s for the SQLite write lock, and"
        " Task 'greedy' has held it for … s"
    ]
    await asyncio.to_thread(work)


async def test_another_event_loop_is_waited_for(db: Database, arrivals: Arrivals) -> None:
    """Each loop has a queue of its own; their heads meet at the file, and neither loop stops."""
    has_it = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with OtherLoop() as other:
        may_end = asyncio.Event()

        async def hold() -> None:
            async with db, db.session() as session:
                await session.execute(INSERT, {"name": "there"})
                loop.call_soon_threadsafe(has_it.set)
                await may_end.wait()

        holding = asyncio.wrap_future(other.start(hold()))
        await has_it.wait()
        writers = await arrivals.line_up(*(write(db, str(number)) for number in range(3)))
        await beats(50)
        assert not any(writer.done() for writer in writers)
        await other.run(beats(1))
        other.call(may_end.set)
        await end_within_bounds(writers)
        await holding
    assert await names(db) == ["there", "0", "1", "2"]


async def test_a_task_of_another_event_loop_is_named(impatient: Database) -> None:
    """It is of this process, so it is known."""
    has_it = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with OtherLoop() as other:
        may_end = asyncio.Event()

        async def hold() -> None:
            task = asyncio.current_task()
            assert task is not None
            task.set_name("far away")
            async with impatient, impatient.session() as session:
                await session.execute(INSERT, {"name": "there"})
                loop.call_soon_threadsafe(has_it.set)
                await may_end.wait()

        holding = asyncio.wrap_future(other.start(hold()))
        await has_it.wait()
        writer = asyncio.create_task(write(impatient, "here"), name="waiting")
        with pytest.raises(OperationalError) as raised:
            await writer
        other.call(may_end.set)
        await holding
    assert without_figures(raised.value) == (
        "database is locked: Task 'waiting' waited 0.2 s for the SQLite write lock, and"
        " Task 'far away' has held it for … s"
    )


async def test_writers_of_two_event_loops_lose_nothing(db: Database) -> None:
    """Whatever the order between them is."""
    async with OtherLoop() as other:

        async def work(where: str) -> None:
            async with db:
                await asyncio.gather(*(write(db, f"{where} {number}") for number in range(20)))

        there = asyncio.wrap_future(other.start(work("there")))
        async with asyncio.timeout(20):
            await work("here")
            await there
    assert len(await names(db)) == 40


# --- Who waits for itself -----------------------------------------------------------------------

SELF_WAIT = (
    "Task 'me' asks for the SQLite write lock, which another session of the same task already"
    " holds: it would wait for itself. Use the session that is open, or end it first; for reading"
    " beside it, open db.read_session()."
)


def take_a_name() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.set_name("me")


async def write_deferred(db: Database) -> None:
    async with db.session(begin="deferred") as session:
        await session.execute(INSERT, {"name": "inner"})


async def upgrade(db: Database) -> None:
    async with db.session(begin="deferred") as session:
        await session.execute(select(Hero))
        await session.execute(INSERT, {"name": "inner"})


async def write_autocommit(db: Database) -> None:
    autocommit = db.engine.execution_options(isolation_level="AUTOCOMMIT")
    async with autocommit.connect() as connection:
        await connection.execute(INSERT, {"name": "inner"})


async def write_inner(db: Database) -> None:
    await write(db, "inner")


@pytest.mark.parametrize("inner", [write_inner, write_deferred, upgrade, write_autocommit])
@pytest.mark.parametrize("outer", ["immediate", "deferred"])
async def test_a_task_that_waits_for_itself_is_told_so(
    db: Database, inner: Callable[[Database], Awaitable[None]], outer: Any
) -> None:
    """At once, whichever way each of its sessions has begun; both are as before."""
    take_a_name()
    async with db.session(begin=outer) as session:
        await session.execute(INSERT, {"name": "outer"})
        with pytest.raises(WriteLockHeld) as raised:
            await inner(db)
        await session.execute(INSERT, {"name": "outer too"})
    assert str(raised.value) == SELF_WAIT
    await inner(db)
    assert await names(db) == ["outer", "outer too", "inner"]


async def test_a_write_that_failed_holds_the_lock_too(db: Database) -> None:
    """SQLite has taken it before it found the conflict; a savepoint does not give it back."""
    take_a_name()
    await write(db, "a")
    async with db.session(begin="deferred") as session:
        await session.execute(select(Hero))
        with pytest.raises(IntegrityError):
            async with session.begin_nested():
                await session.execute(INSERT, {"name": "a"})
        with pytest.raises(WriteLockHeld) as raised:
            await write(db, "inner")
    assert str(raised.value) == SELF_WAIT
    await write(db, "inner")


async def test_another_database_on_the_file_is_the_same_lock(
    sqlite_url: str, accelerate: bool
) -> None:
    """A task would wait for itself there too."""
    take_a_name()
    one, two = make(sqlite_url, accelerate), make(sqlite_url, not accelerate)
    async with opened(one, 1), opened(two, 1):
        async with one.session() as session:
            await session.execute(INSERT, {"name": "outer"})
            with pytest.raises(WriteLockHeld) as raised:
                await write(two, "inner")
        await write(two, "inner")
        assert await names(two) == ["outer", "inner"]
    assert str(raised.value) == SELF_WAIT


async def test_a_thread_that_waits_for_itself_is_told_so(db: Database) -> None:
    """Two synchronous sessions in one thread."""
    errors: list[str] = []

    def work() -> None:
        with db.sync.session() as session:
            session.execute(INSERT, {"name": "outer"})
            try:
                with db.sync.session() as other:
                    other.execute(INSERT, {"name": "inner"})
            except WriteLockHeld as error:
                errors.append(str(error))

    thread = threading.Thread(target=work, name="me")
    thread.start()
    await asyncio.to_thread(thread.join)
    assert errors == [
        SELF_WAIT.replace("Task 'me'", "Thread 'me'").replace("same task", "same thread")
    ]
    assert await names(db) == ["outer"]


async def test_a_task_may_read_beside_its_writing(db: Database) -> None:
    """Nothing is waited for then."""
    async with db.session() as session:
        await session.execute(INSERT, {"name": "a"})
        async with db.read_session() as reader:
            assert (await reader.scalars(select(Hero))).all() == []
        async with db.session(begin="deferred") as other:
            assert (await other.scalars(select(Hero))).all() == []


async def test_one_session_after_the_other_waits_for_nobody(db: Database) -> None:
    """What has ended, in whichever way, is not taken for a holder."""
    for number in range(20):
        with suppress(ZeroDivisionError):
            async with db.session() as session:
                await session.execute(INSERT, {"name": str(number)})
                if number % 2:
                    raise ZeroDivisionError
    assert await names(db) == [str(number) for number in range(0, 20, 2)]


# --- Transactions that begin as readers ---------------------------------------------------------


async def test_a_view_that_is_not_true_any_more_is_refused_at_once(db: Database) -> None:
    """Waiting would not help: SQLite never lets it write."""
    async with db.session(begin="deferred") as session:
        await session.execute(select(Hero))
        await asyncio.create_task(write(db, "other"))
        with pytest.raises(OperationalError) as raised:
            await session.execute(INSERT, {"name": "stale"})
        await session.rollback()
        await session.execute(INSERT, {"name": "fresh"})
    assert str(raised.value.orig) == "database is locked"
    assert await names(db) == ["other", "fresh"]


async def test_a_savepoint_at_the_beginning_takes_no_snapshot(db: Database) -> None:
    """The write in it waits for its turn, as it would without the savepoint."""

    async def work(name: str) -> None:
        async with db.session(begin="deferred") as session, session.begin_nested():
            await session.execute(INSERT, {"name": name})

    async with Holder(db):
        writers = [asyncio.create_task(work(str(number))) for number in range(5)]
        await beats(20)
    await end_within_bounds(writers)
    assert sorted(await names(db)) == ["0", "1", "2", "3", "4", "holder"]


async def test_a_begin_of_the_users_own_takes_no_snapshot(db: Database) -> None:
    """By SQLAlchemy's documented recipe for SQLite; the first write waits for its turn."""
    engine = create_async_engine(db.engine.url, pool_size=5, connect_args={"timeout": 10.0})

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN")

    async def work(name: str) -> None:
        async with engine.begin() as connection:
            await connection.execute(INSERT, {"name": name})

    try:
        async with Holder(db):
            writers = [asyncio.create_task(work(str(number))) for number in range(5)]
            await beats(20)
        await end_within_bounds(writers)
    finally:
        await engine.dispose()
    assert sorted(await names(db)) == ["0", "1", "2", "3", "4", "holder"]
