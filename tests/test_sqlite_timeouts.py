"""Time limits on SQLite: of each statement, and of the wait for the lock, by session."""

import asyncio
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import CursorResult, event, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool

from fastdb import (
    Database,
    PoolOptions,
    SessionDep,
    SQLiteOptions,
    SyncSessionDep,
    Timeouts,
    TransactionFailed,
    create_async_engine,
    install_error_handlers,
)
from fastdb.errors import ErrorKind, classify
from fastdb.sqlite import watchdog
from models import Base, Hero
from sqlite_rivals import OtherProcess, other_process

T = TypeVar("T")

INSERT = text("INSERT INTO hero (name) VALUES (:name)")
NUMBERS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < {})"
# Without limit it would take many times as long as any limit here.
BUSY = text(NUMBERS.format(50_000_000) + " SELECT count(*) FROM c")
ROLLED_BACK = "SQLite has rolled back this transaction"

pytestmark = pytest.mark.timeout(40)


def pauses(count: int, seconds: float = 0.01) -> Any:
    """A statement that takes so many pauses, which cost nothing, and can be stopped after each."""
    return text(f"{NUMBERS.format(count)} SELECT sum(pause({seconds})) FROM c")


FOREVER = pauses(500)
# Far above the limits that are meant to be kept to, so that a busy machine makes no difference.
LONG = pauses(30)

WRITE_FOREVER = text(
    f"INSERT INTO hero (name) {NUMBERS.format(500)} SELECT 'half ' || x || pause(0.01) FROM c"
)
UPDATE_FOREVER = text("UPDATE hero SET name = 'half ' || id || pause(0.05)")


def pause(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def teach(dbapi_connection: Any, *_: Any) -> None:
    """Let the connection know what `pause` is."""
    dbapi_connection.create_function("pause", 1, pause)


@dataclass
class Kind:
    """A Database, and which of its engines do the work."""

    db: Database
    is_twin: bool

    async def run(self, unit: Callable[[Session], T], **options: Any) -> T:
        """Run `unit` in a session that writes."""
        return await self._run(unit, reads=False, **options)

    async def read(self, unit: Callable[[Session], T], **options: Any) -> T:
        """Run `unit` in a session that reads."""
        return await self._run(unit, reads=True, **options)

    async def _run(self, unit: Callable[[Session], T], *, reads: bool, **options: Any) -> T:
        if self.is_twin:
            return await asyncio.to_thread(self._run_here, unit, reads, options)
        make: Callable[..., Any] = self.db.read_session if reads else self.db.session
        async with make(**options) as session:
            answer: T = await session.run_sync(unit)
            return answer

    def _run_here(self, unit: Callable[[Session], T], reads: bool, options: dict[str, Any]) -> T:
        make: Callable[..., Any] = self.db.sync.read_session if reads else self.db.sync.session
        with make(**options) as session:
            return unit(session)

    async def names(self) -> list[str]:
        """What is committed."""
        return await self.read(
            lambda session: list(session.scalars(select(Hero.name).order_by(Hero.id)))
        )


@pytest.fixture(params=["accelerated", "plain", "twin"])
def kind_name(request: pytest.FixtureRequest) -> str:
    """The dialect `sqlite+fastdb`, SQLAlchemy's own, and the synchronous twin."""
    return str(request.param)


@asynccontextmanager
async def opened(
    kind_name: str, url: str, timeouts: Timeouts | None, **options: Any
) -> AsyncIterator[Kind]:
    """Open a Database whose sessions share one connection, as far as they may."""
    sqlite = SQLiteOptions(accelerate=kind_name != "plain", **options.pop("sqlite", {}))
    pool = PoolOptions(size=1, max_overflow=0)
    db = Database(url, sqlite=sqlite, pool=pool, timeouts=timeouts, **options)
    async with db:
        engines = [db.engine.sync_engine, db.read_engine.sync_engine]
        engines += [db.sync.engine, db.sync.read_engine]
        for engine in engines:
            event.listen(engine, "connect", teach)
        await db.create_all(Base.metadata)
        yield Kind(db, kind_name == "twin")
        for engine in engines:
            assert isinstance(engine.pool, QueuePool)
            assert engine.pool.checkedout() == 0


@asynccontextmanager
async def limited(
    kind_name: str, url: str, statement: float | None = 30.0, lock: float = 10.0, **options: Any
) -> AsyncIterator[Kind]:
    async with opened(kind_name, url, Timeouts(statement=statement, lock=lock), **options) as kind:
        yield kind


@pytest.fixture
async def quick(kind_name: str, sqlite_url: str) -> AsyncIterator[Kind]:
    """A Database whose statements may take 0.15 seconds."""
    async with limited(kind_name, sqlite_url, 0.15) as kind:
        yield kind


@pytest.fixture
async def usual(kind_name: str, sqlite_url: str) -> AsyncIterator[Kind]:
    """A Database with the limits by default."""
    async with opened(kind_name, sqlite_url, None) as kind:
        yield kind


def executing(*statements: Any) -> Callable[[Session], Any]:
    """A unit of work that executes these, and returns all rows of the last."""

    def unit(session: Session) -> Any:
        rows: Any = None
        for statement in statements:
            result: Any = session.execute(statement)
            rows = result.all() if result.returns_rows else None
        return rows

    return unit


def adding(name: str) -> Callable[[Session], Any]:
    return executing(INSERT.bindparams(name=name))


@pytest.fixture
def process(sqlite_url: str) -> Iterator[OtherProcess]:
    """Another process that uses the file."""
    with other_process(sqlite_url) as process:
        yield process


def message(seconds: str) -> str:
    return f"interrupted: the statement ran for longer than Timeouts.statement ({seconds} s)"


# --- The limit of a statement -------------------------------------------------------------------


@pytest.mark.parametrize("statement", [BUSY, FOREVER], ids=["busy", "asleep"])
async def test_a_statement_that_takes_too_long_is_interrupted(quick: Kind, statement: Any) -> None:
    """Soon after its time, with an error that names the limit; the next session works."""
    begun = time.monotonic()
    with pytest.raises(OperationalError) as raised:
        await quick.run(executing(statement))
    assert 0.15 <= time.monotonic() - begun < 2
    error = raised.value.orig
    assert isinstance(error, sqlite3.OperationalError)
    assert str(error) == message("0.15")
    assert (error.sqlite_errorcode, error.sqlite_errorname) == (
        sqlite3.SQLITE_INTERRUPT,
        "SQLITE_INTERRUPT",
    )
    assert classify(raised.value) == ErrorKind.STATEMENT_TIMEOUT
    await quick.run(adding("after"))
    assert await quick.names() == ["after"]


async def test_no_limit_is_too_short_to_be_kept_to(usual: Kind) -> None:
    """Also one that is over before SQLite has begun, so that the first interrupt is lost."""
    for _ in range(10):
        with pytest.raises(OperationalError, match="interrupted: the statement ran for longer"):
            await usual.run(executing(FOREVER), timeouts=Timeouts(statement=0.000_001))


async def test_reads_are_limited_too(quick: Kind) -> None:
    """In the engine that only reads, by its own limit and by the session's."""
    with pytest.raises(OperationalError, match=r"\(0\.15 s\)"):
        await quick.read(executing(FOREVER))
    with pytest.raises(OperationalError, match=r"\(0\.05 s\)"):
        await quick.read(executing(FOREVER), timeouts=Timeouts(statement=0.05))


async def test_rows_that_are_long_in_coming_count(quick: Kind) -> None:
    """A statement whose first row comes at once is limited all the same."""
    rows = text(f"{NUMBERS.format(500)} SELECT pause(0.01) FROM c")
    with pytest.raises(OperationalError, match="interrupted: the statement ran for longer"):
        await quick.run(executing(rows))
    row_by_row = text(f"{NUMBERS.format(500)} SELECT x FROM c WHERE x = 1 OR pause(0.01) > 1")
    with pytest.raises(OperationalError, match="interrupted: the statement ran for longer"):
        await quick.run(lambda session: list(session.execute(row_by_row)))


async def test_without_limit_it_may_take_as_long_as_it_likes(
    kind_name: str, sqlite_url: str
) -> None:
    """For a whole Database."""
    async with limited(kind_name, sqlite_url, None) as kind:
        await kind.run(executing(LONG))


async def test_a_session_may_have_a_longer_limit_or_none(quick: Kind) -> None:
    """The next one on the same connection has the Database's again."""
    for more in (None, 20):
        await quick.run(executing(LONG), timeouts=Timeouts(statement=more))
        with pytest.raises(OperationalError, match=r"\(0\.15 s\)"):
            await quick.run(executing(FOREVER))


async def test_a_session_may_have_a_shorter_limit(usual: Kind) -> None:
    """Also while a longer one is being watched; the next one has the Database's again."""
    await usual.run(executing(select(1)))
    with pytest.raises(OperationalError, match=r"\(0\.1 s\)"):
        await usual.run(executing(FOREVER), timeouts=Timeouts(statement=0.1))
    await usual.run(executing(LONG))


async def test_a_statement_may_have_a_limit_of_its_own(usual: Kind) -> None:
    """By the execution option, also where it begins the transaction."""
    options = {"fastdb_timeouts": Timeouts(statement=0.1)}
    with pytest.raises(OperationalError, match=r"\(0\.1 s\)"):
        await usual.run(lambda session: session.execute(FOREVER, execution_options=options))


async def test_statements_do_not_add_up(kind_name: str, sqlite_url: str) -> None:
    """Each has the whole limit, however long its transaction takes."""
    async with limited(kind_name, sqlite_url, 0.6) as kind:
        await kind.run(executing(LONG, LONG, LONG))


async def test_executemany_is_one_statement(quick: Kind) -> None:
    """All of its parameters have one limit, and what they have written is undone."""
    insert = text("INSERT INTO hero (name) VALUES (:name || pause(0.01))")
    many = [{"name": str(number)} for number in range(300)]
    with pytest.raises(OperationalError, match="interrupted: the statement ran for longer"):
        await quick.run(lambda session: session.execute(insert, many))
    assert await quick.names() == []

    def go_on(session: Session) -> None:
        with pytest.raises(OperationalError, match="interrupted: the statement ran for longer"):
            session.execute(insert, many)
        adding("too late")(session)

    with pytest.raises(OperationalError, match=ROLLED_BACK):
        await quick.run(go_on)
    await quick.run(lambda session: session.execute(insert, many[:3]))
    assert len(await quick.names()) == 3


def stream_of(rows: str, session: Session) -> "CursorResult[Any]":
    options = {"stream_results": True, "yield_per": 5}
    result = session.execute(text(rows), execution_options=options)
    assert isinstance(result, CursorResult)
    return result


async def test_each_fetch_of_a_stream_has_the_limit(kind_name: str, sqlite_url: str) -> None:
    """A stream may take as long as it likes; one that stands still is interrupted."""
    long = f"{NUMBERS.format(60)} SELECT pause(0.01) FROM c"
    stands_still = f"{NUMBERS.format(500)} SELECT x FROM c WHERE x <= 10 OR pause(0.01) > 1"
    async with limited(kind_name, sqlite_url, 0.3) as kind:
        assert await kind.run(lambda session: sum(1 for _ in stream_of(long, session))) == 60
        seen: list[Any] = []

        def watch(session: Session) -> None:
            for row in stream_of(stands_still, session):
                seen.append(row)  # noqa: PERF402

        with pytest.raises(OperationalError, match="interrupted: the statement ran for longer"):
            await kind.run(watch)
        assert 5 <= len(seen) <= 10
        await kind.run(adding("after"))


async def test_an_async_stream_has_the_limit(sqlite_url: str) -> None:
    """As one of `session.stream`."""
    rows = text(f"{NUMBERS.format(500)} SELECT x FROM c WHERE x <= 10 OR pause(0.01) > 1")
    async with limited("accelerated", sqlite_url, 0.15) as kind:
        seen = []
        with pytest.raises(OperationalError, match="interrupted: the statement ran for longer"):
            async with kind.db.session() as session:
                async for row in (await session.stream(rows)).yield_per(5):
                    seen.append(row)  # noqa: PERF401
        assert 5 <= len(seen) <= 10


# --- What becomes of the transaction ------------------------------------------------------------


async def twenty(kind: Kind) -> list[str]:
    """Write so many rows that an UPDATE of all takes too long."""
    names = [str(number) for number in range(20)]
    await kind.run(lambda session: session.execute(INSERT, [{"name": name} for name in names]))
    return names


@pytest.mark.parametrize("write", [WRITE_FOREVER, UPDATE_FOREVER], ids=["insert", "update"])
@pytest.mark.parametrize("others", [(), (INSERT.bindparams(name="before"),)], ids=["", "second"])
async def test_an_interrupted_write_leaves_nothing(
    quick: Kind, write: Any, others: tuple[Any, ...]
) -> None:
    """Of itself, and of what came before it in the transaction; the next session writes."""
    names = await twenty(quick)
    with pytest.raises(OperationalError, match="interrupted: the statement ran for longer"):
        await quick.run(executing(*others, write))
    assert await quick.names() == names
    await quick.run(adding("after"))
    assert await quick.names() == [*names, "after"]


def catch(session: Session, *statements: Any) -> None:
    """Execute, and let nobody know that the last was interrupted."""
    with pytest.raises(OperationalError, match="interrupted: the statement ran for longer"):
        executing(*statements)(session)


@pytest.mark.parametrize("others", [(), (INSERT.bindparams(name="before"),)], ids=["", "second"])
async def test_what_is_left_of_it_is_not_committed(quick: Kind, others: tuple[Any, ...]) -> None:
    """A caught error lets nothing be written or committed that came before it or comes after."""
    names = await twenty(quick)
    with pytest.raises(TransactionFailed):
        await quick.run(lambda session: catch(session, *others, UPDATE_FOREVER))

    def go_on(session: Session) -> None:
        catch(session, *others, UPDATE_FOREVER)
        adding("too late")(session)

    with pytest.raises(OperationalError, match=ROLLED_BACK):
        await quick.run(go_on)
    assert await quick.names() == names


async def test_a_caught_read_is_not_committed_either(quick: Kind) -> None:
    """As with any statement that fails; SQLite rolls back nothing then."""

    def read(session: Session) -> None:
        adding("before")(session)
        catch(session, FOREVER)
        assert session.scalars(select(Hero.name)).all() == ["before"]

    with pytest.raises(TransactionFailed):
        await quick.run(read)
    assert await quick.names() == []


@pytest.mark.parametrize("accelerate", [True, False], ids=["accelerated", "plain"])
async def test_engines_alone_commit_nothing_either(sqlite_url: str, accelerate: bool) -> None:
    """An async engine by itself refuses what follows, and the COMMIT."""
    limits, options = Timeouts(statement=0.15), SQLiteOptions(accelerate=accelerate)
    engine = create_async_engine(sqlite_url, timeouts=limits, sqlite=options)
    event.listen(engine.sync_engine, "connect", teach)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with engine.connect() as connection:
        with pytest.raises(OperationalError, match="interrupted: the statement ran for longer"):
            await connection.execute(WRITE_FOREVER)
        with pytest.raises(OperationalError, match=ROLLED_BACK):
            await connection.execute(INSERT, {"name": "too late"})
        with pytest.raises((OperationalError, sqlite3.OperationalError), match=ROLLED_BACK):
            await connection.commit()
        await connection.rollback()
        await connection.execute(INSERT, {"name": "after"})
        await connection.commit()
    async with engine.connect() as connection:
        assert (await connection.scalars(select(Hero.name))).all() == ["after"]
    await engine.dispose()


async def test_the_lock_is_free_again_at_once(quick: Kind, process: OtherProcess) -> None:
    """While the session that was interrupted is still open."""
    loop = asyncio.get_running_loop()

    def write(session: Session) -> None:
        catch(session, WRITE_FOREVER)
        if quick.is_twin:
            other = asyncio.run_coroutine_threadsafe(process.execute("BEGIN IMMEDIATE"), loop)
            assert other.result() == "[]"
        session.rollback()

    if quick.is_twin:
        await quick.run(write)
    else:
        async with quick.db.session() as session:
            await session.run_sync(lambda session: catch(session, WRITE_FOREVER))
            assert await process.execute("BEGIN IMMEDIATE") == "[]"
            await session.rollback()
    await process.execute("COMMIT")


async def test_nobody_is_named_as_its_holder(sqlite_url: str) -> None:
    """The same task may write in another session: it would not wait for itself."""
    async with Database(sqlite_url, timeouts=Timeouts(statement=0.15)) as db:
        event.listen(db.engine.sync_engine, "connect", teach)
        await db.create_all(Base.metadata)
        async with db.session() as session:
            await session.run_sync(lambda session: catch(session, WRITE_FOREVER))
            async with db.session() as other:
                await other.execute(INSERT, {"name": "other"})
            await session.rollback()


# --- Whose interrupt it is ----------------------------------------------------------------------


@pytest.mark.parametrize("accelerate", [True, False], ids=["accelerated", "plain"])
async def test_a_cancelled_statement_is_cancelled(sqlite_url: str, accelerate: bool) -> None:
    """It ends at once, as a cancellation, and the next statement is served."""
    async with limited("accelerated" if accelerate else "plain", sqlite_url, 5) as kind:
        task = asyncio.create_task(kind.run(executing(FOREVER)))
        await asyncio.sleep(0.1)
        task.cancel()
        begun = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - begun < 3
        await kind.run(adding("after"))
        assert await kind.names() == ["after"]


@pytest.mark.parametrize("kind_name", ["accelerated", "plain"], indirect=True)
async def test_a_wait_that_ends_earlier_is_told_as_such(quick: Kind) -> None:
    """`asyncio.timeout` is the caller's own limit: its error is TimeoutError."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await quick.run(executing(FOREVER))
    with pytest.raises(OperationalError, match="interrupted: the statement ran for longer"):
        await quick.run(executing(FOREVER))


class Interruptible(sqlite3.Connection):
    """A user's own class of connections, with a function that interrupts them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.create_function("interrupt", 0, self.interrupt)


async def test_an_interrupt_of_the_users_own_stays_as_it_is(
    kind_name: str, sqlite_url: str
) -> None:
    """Nothing was said of a limit; one that is exceeded on the same connection names it."""
    given = {"connect_args": {"factory": Interruptible}}
    async with limited(
        kind_name, sqlite_url, 0.15, async_options=given, sync_options=given
    ) as kind:
        interrupting = text(f"{NUMBERS.format(100_000)} SELECT count(interrupt()) FROM c")
        with pytest.raises(OperationalError) as raised:
            await kind.run(executing(interrupting))
        assert str(raised.value.orig) == "interrupted"
        with pytest.raises(OperationalError, match="interrupted: the statement ran for longer"):
            await kind.run(executing(FOREVER))


class SlowlyInterrupted(sqlite3.Connection):
    """What interrupts it takes its time, so that the statement ends before."""

    def interrupt(self) -> None:
        time.sleep(0.2)
        super().interrupt()


async def test_an_interrupt_under_way_is_not_for_the_next_statement(
    kind_name: str, sqlite_url: str
) -> None:
    """What ends at the moment at which it is due has ended well, and so does the next one."""
    given = {"connect_args": {"factory": SlowlyInterrupted}}
    async with limited(kind_name, sqlite_url, 0.1, async_options=given, sync_options=given) as kind:
        await kind.run(adding("a"))
        update = text("UPDATE hero SET name = 'b' || pause(0.15)")
        steps = text(f"{NUMBERS.format(50_000)} SELECT count(*) FROM c")
        options = {"fastdb_timeouts": Timeouts(statement=None)}

        def unit(session: Session) -> None:
            session.execute(update)
            for _ in range(30):
                session.execute(steps, execution_options=options).all()

        await kind.run(unit)
        assert await kind.names() == ["b0.15"]


async def test_nothing_is_interrupted_late(kind_name: str, sqlite_url: str) -> None:
    """Many statements end just before or after their time; none of the next ones is hit."""
    steps = text(f"{NUMBERS.format(2000)} SELECT count(*) FROM c")
    async with limited(kind_name, sqlite_url, 0.01) as kind:
        without_limit = Timeouts(statement=None)
        for turn in range(60):
            with suppress(OperationalError):
                await kind.read(executing(pauses(1, 0.009 + turn % 10 * 0.0002)))
            assert await kind.read(executing(steps), timeouts=without_limit) == [(2000,)]


# --- The thread that watches --------------------------------------------------------------------


@pytest.fixture
def own_watchdog(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that nobody else's limits keep awake."""
    monkeypatch.setattr(watchdog, "_watchdog", watchdog._Watchdog())


def is_watched() -> bool:
    return any(
        thread.is_alive() and thread.name == "fastdb SQLite watchdog"
        for thread in threading.enumerate()
    )


def interrupted_after(connection: sqlite3.Connection, seconds: float) -> None:
    with (
        pytest.raises(sqlite3.OperationalError, match="ran for longer"),
        watchdog.statement_limit(connection, seconds),
    ):
        connection.execute(str(FOREVER))


def test_the_watchdog_comes_back_after_it_has_ended(own_watchdog: None) -> None:
    """It ends when there is nothing to watch, and watches the next statement all the same."""
    with closing(sqlite3.connect(":memory:")) as connection:
        teach(connection)
        for _ in range(3):
            interrupted_after(connection, 0.05)
            mine = watchdog._watchdog._thread
            if mine is not None:
                mine.join(5)
                assert not mine.is_alive()


def test_the_watchdog_watches_many(own_watchdog: None) -> None:
    """Each at its own time, whoever has come first."""
    ends: list[float] = []

    def run(seconds: float) -> None:
        with closing(sqlite3.connect(":memory:")) as connection:
            teach(connection)
            interrupted_after(connection, seconds)
            ends.append(seconds)

    threads = [threading.Thread(target=run, args=[seconds]) for seconds in (0.9, 0.1, 0.5)]
    for thread in threads:
        thread.start()
        time.sleep(0.01)
    for thread in threads:
        thread.join()
    assert ends == [0.1, 0.5, 0.9]


def test_the_watchdog_survives_a_connection_that_is_gone(own_watchdog: None) -> None:
    """What was closed in the middle needs no interrupt; others do."""
    gone = sqlite3.connect(":memory:")
    with watchdog.statement_limit(gone, 0.05):
        gone.close()
        time.sleep(0.1)
        with closing(sqlite3.connect(":memory:")) as connection:
            teach(connection)
            interrupted_after(connection, 0.05)


FORKING = """
import os, sqlite3, sys
from fastdb.sqlite.watchdog import statement_limit

def run(seconds, steps):
    connection = sqlite3.connect(":memory:")
    with statement_limit(connection, seconds):
        connection.execute(
            "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < ?)"
            " SELECT count(*) FROM c", [steps]
        )

run(30, 10)
child = os.fork()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
try:
    run(0.1, 100_000_000)
except sqlite3.OperationalError as error:
    os._exit(0 if "longer than" in str(error) else 3)
os._exit(4)
"""


@pytest.mark.skipif(not hasattr(sys.modules["os"], "fork"), reason="needs fork")
def test_a_forked_process_has_a_watchdog_of_its_own() -> None:
    """Threads are not inherited."""
    done = subprocess.run([sys.executable, "-c", FORKING], timeout=20, check=False)
    assert done.returncode == 0


# --- The limit of the wait for the lock ---------------------------------------------------------


JOURNALS = pytest.mark.parametrize("journal", ["WAL", "DELETE"])


@JOURNALS
async def test_the_wait_for_the_lock_does_not_count(
    kind_name: str, sqlite_url: str, journal: str, process: OtherProcess
) -> None:
    """It has a limit of its own."""
    steps = text(f"INSERT INTO hero (name) {NUMBERS.format(50)} SELECT 'n' || x FROM c")
    interrupts: list[object] = []

    class Counting(sqlite3.Connection):
        def interrupt(self) -> None:
            interrupts.append(self)
            super().interrupt()

    given = {"connect_args": {"factory": Counting}}
    options: dict[str, Any] = {"async_options": given, "sync_options": given}
    options["sqlite"] = {"journal_mode": journal}
    async with limited(kind_name, sqlite_url, 0.15, **options) as kind:
        await process.execute("BEGIN IMMEDIATE")
        writer = asyncio.create_task(kind.run(executing(steps)))
        await asyncio.sleep(0.6)
        assert not writer.done()
        await process.execute("COMMIT")
        await writer
        assert len(await kind.names()) == 50
        assert not interrupts


@JOURNALS
async def test_a_session_may_wait_less_for_the_lock(
    kind_name: str, sqlite_url: str, journal: str, process: OtherProcess
) -> None:
    """The next one on the same connection waits as the Database does."""
    async with limited(kind_name, sqlite_url, sqlite={"journal_mode": journal}) as kind:
        await kind.run(adding("before"))
        await process.execute("BEGIN IMMEDIATE")
        begun = time.monotonic()
        with pytest.raises(OperationalError, match="database is locked") as raised:
            await kind.run(adding("impatient"), timeouts=Timeouts(lock=0.1))
        assert 0.05 <= time.monotonic() - begun < 3
        assert classify(raised.value) == ErrorKind.LOCK_TIMEOUT
        if kind_name != "accelerated" or journal == "WAL":
            assert "waited 0.1 s for the SQLite write lock" in str(raised.value)
        writer = asyncio.create_task(kind.run(adding("patient")))
        await asyncio.sleep(0.5)
        assert not writer.done()
        await process.execute("COMMIT")
        await writer
        assert await kind.names() == ["before", "patient"]


@JOURNALS
async def test_a_session_may_wait_longer_for_the_lock(
    kind_name: str, sqlite_url: str, journal: str, process: OtherProcess
) -> None:
    """Than the Database would."""
    options = {"journal_mode": journal}
    async with limited(kind_name, sqlite_url, lock=0.1, sqlite=options) as kind:
        await process.execute("BEGIN IMMEDIATE")
        patient = Timeouts(lock=20)
        writer = asyncio.create_task(kind.run(adding("patient"), timeouts=patient))
        await asyncio.sleep(0.5)
        assert not writer.done()
        await process.execute("COMMIT")
        await writer
        await process.execute("BEGIN IMMEDIATE")
        with pytest.raises(OperationalError, match="database is locked"):
            await kind.run(adding("impatient"))
        await process.execute("COMMIT")


@pytest.mark.parametrize("kind_name", ["accelerated", "plain"], indirect=True)
async def test_a_session_may_wait_less_in_the_queue(kind_name: str, sqlite_url: str) -> None:
    """For a writer of the same event loop."""
    options = SQLiteOptions(accelerate=kind_name == "accelerated")
    async with Database(sqlite_url, sqlite=options) as db:
        await db.create_all(Base.metadata)
        async with db.session() as session:
            await session.execute(INSERT, {"name": "holder"})

            async def wait() -> None:
                async with db.session(timeouts=Timeouts(lock=0.1)) as other:
                    await other.execute(INSERT, {"name": "impatient"})

            with pytest.raises(OperationalError, match=r"waited 0\.1 s for the SQLite write lock"):
                await asyncio.create_task(wait())


# --- In an app ----------------------------------------------------------------------------------


async def test_a_request_is_answered_504(kind_name: str, sqlite_url: str) -> None:
    """As for every database, by the handlers."""
    async with limited(kind_name, sqlite_url, 0.15) as kind:
        app = FastAPI(lifespan=kind.db.lifespan)
        install_error_handlers(app)

        @app.post("/async")
        async def run(session: SessionDep) -> None:
            await session.execute(FOREVER)

        @app.post("/twin")
        def run_in_thread(session: SyncSessionDep) -> None:
            session.execute(FOREVER)

        transport = httpx.ASGITransport(app)
        async with (
            kind.db.lifespan(app),
            httpx.AsyncClient(transport=transport, base_url="http://test") as client,
        ):
            answer = await client.post("/twin" if kind.is_twin else "/async")
        assert (answer.status_code, answer.json()["kind"]) == (504, "statement_timeout")
