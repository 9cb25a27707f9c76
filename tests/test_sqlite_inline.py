"""Cheap reads on the event loop's own thread: which may, which lose it, and what they see."""

import asyncio
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession

from fastdb import Database, PoolOptions, SQLiteOptions
from fastdb.sqlite import inline
from fastdb.sqlite.inline import InlineReads, is_bounded
from models import Base, Counter, Hero
from sqlite_hops import Hops
from sqlite_rivals import RECOVERY, OtherProcess, other_process

READ = "SELECT name FROM hero WHERE id = ?"
BY_KEY = select(Hero.name).where(Hero.id == 1)
# A few steps where `upto` is small, thousands where it is large; one row at most.
SCAN = text("SELECT id FROM counter WHERE id <= :upto AND value = 77")


# --- What a statement must have earned ----------------------------------------------------------


def earn(reads: InlineReads, statement: str = READ, *, seconds: float = 0, rows: int = 1) -> bool:
    """Run it once in the connection's thread; return whether it is to be looked at."""
    return reads.is_candidate(statement) and reads.has_earned_a_look(
        statement, seconds=seconds, rows=rows
    )


def test_five_cheap_runs_earn_a_look() -> None:
    """And the look decides, for good where the program is not bounded."""
    reads = InlineReads()
    assert [earn(reads) for _ in range(5)] == [False, False, False, False, True]
    assert not reads.allows(READ)
    reads.was_looked_at(READ, bounded=True)
    assert reads.allows(READ)
    assert not reads.is_candidate(READ)
    reads.was_looked_at(READ, bounded=False)
    assert not reads.allows(READ)
    assert not reads.is_candidate(READ)


def test_a_dear_run_begins_anew() -> None:
    """Five in a row are asked for, each below the limit and with few rows."""
    reads = InlineReads()
    for dear in ({"seconds": 0.001}, {"rows": 11}):
        assert [earn(reads) for _ in range(4)] == [False] * 4
        assert not earn(reads, **dear)
    assert [earn(reads, rows=10) for _ in range(5)] == [False, False, False, False, True]


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO hero (name) VALUES ('a') RETURNING id",
        "UPDATE hero SET name = 'a' RETURNING id",
        "PRAGMA user_version",
        "EXPLAIN SELECT 1",
        "BEGIN",
        "SAVEPOINT a",
    ],
)
def test_only_reads_are_candidates(statement: str) -> None:
    """What cannot be a read is not even timed."""
    reads = InlineReads()
    assert not reads.is_candidate(statement)
    assert not reads.is_candidate(statement)
    assert not reads.allows(statement)


def test_what_is_remembered_has_a_limit() -> None:
    """Statements that hold their values do not fill the memory."""
    reads = InlineReads()
    for number in range(2500):
        earn(reads, f"SELECT {number}")
    assert len(reads._runs) <= 1000


# --- Who loses it -------------------------------------------------------------------------------


class Clock:
    """Made-up time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(inline, "perf_counter", lambda: self.now)

    def run(self, reads: InlineReads, seconds: float) -> None:
        """Run a statement on the loop's thread."""
        reads.begin_run()
        self.now += seconds
        reads.end_run()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Made-up time."""
    return Clock(monkeypatch)


@pytest.fixture
def reads() -> InlineReads:
    """Two statements that have earned their place."""
    reads = InlineReads()
    for statement in (READ, "SELECT 2"):
        reads.was_looked_at(statement, bounded=True)
    return reads


def test_quick_runs_stay(clock: Clock, reads: InlineReads) -> None:
    """However many of them there are."""
    for _ in range(10_000):
        clock.run(reads, 0.00009)
    assert reads.allows(READ)


def test_a_statement_that_is_too_much_loses_its_place(reads: InlineReads) -> None:
    """And must earn it anew; others keep theirs."""
    reads.has_lost(READ)
    assert not reads.allows(READ)
    assert reads.is_candidate(READ)
    assert reads.allows("SELECT 2")


def test_a_slow_run_now_and_then_is_forgiven(clock: Clock, reads: InlineReads) -> None:
    """The system has let somebody else run meanwhile, which is not SQLite's doing."""
    for _ in range(100):
        clock.run(reads, 0.004)
        assert reads.allows(READ)
        clock.now += 0.1


def test_what_is_slow_sends_everything_to_the_threads(clock: Clock, reads: InlineReads) -> None:
    """So long that it takes a twentieth of the loop's time, and no more."""
    begun, taken = clock.now, 0.0
    while clock.now < begun + 20:
        if reads.allows(READ):
            clock.run(reads, 0.001)
            taken += 0.001
        else:
            assert not reads.allows("SELECT 2")
            clock.now += 0.001
    assert 0.9 < taken < 1.1
    clock.now += 2
    assert reads.allows(READ)


def test_what_the_system_has_held_up_does_not_count(
    clock: Clock, reads: InlineReads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine nearly every slow run is one that lost the processor for a while."""
    preemptions = 0
    monkeypatch.setattr(inline, "_preemptions", lambda: preemptions)
    clock.run(reads, 0.001)  # from the first one on, it is looked at
    for _ in range(1000):
        reads.begin_run()
        clock.now += 0.005
        preemptions += 1
        reads.end_run()
        assert reads.allows(READ)
    for _ in range(10):
        clock.run(reads, 0.001)
    assert not reads.allows(READ)


def test_the_system_is_not_asked_while_nothing_is_slow(
    clock: Clock, reads: InlineReads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs more than anything else that is done for a read."""
    asked: list[float] = []

    def ask() -> int:
        asked.append(clock.now)
        return 0

    monkeypatch.setattr(inline, "_preemptions", ask)
    clock.run(reads, 0.00001)
    assert not asked
    clock.run(reads, 0.001)
    clock.run(reads, 0.00001)
    assert asked
    clock.now += 1
    assert reads.allows(READ)
    asked.clear()
    clock.run(reads, 0.00001)
    assert not asked


_TWO_ON_ONE_PROCESSOR = """
import os, subprocess, sys, time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from fastdb.sqlite.inline import _preemptions
busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
try:
    before, end = _preemptions(), time.monotonic() + 10
    while _preemptions() == before:
        assert time.monotonic() < end
finally:
    busy.kill()
    busy.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts them for a thread")
def test_the_system_tells_of_a_thread_that_loses_the_processor() -> None:
    """It does where another process wants the same one."""
    subprocess.run([sys.executable, "-c", _TWO_ON_ONE_PROCESSOR], check=True)


def test_sqlite_is_told_to_stop_when_it_is_over_time(clock: Clock, reads: InlineReads) -> None:
    """Not before: SQLite asks now and then."""
    reads.begin_run()
    assert not reads.is_over_time()
    clock.now += 0.00009
    assert not reads.is_over_time()
    clock.now += 0.00002
    assert reads.is_over_time()


# --- Which programs are bounded -----------------------------------------------------------------


@pytest.fixture
def raw() -> Iterator[sqlite3.Connection]:
    """A connection with tables, an index and a function of the user's."""
    connection = sqlite3.connect(":memory:")
    connection.create_function("mine", 1, lambda value: value)
    connection.executescript(
        """
        CREATE TABLE hero (id INTEGER PRIMARY KEY, name TEXT UNIQUE, age INTEGER, team_id INTEGER);
        CREATE TABLE team (id INTEGER PRIMARY KEY, name TEXT);
        CREATE VIEW named AS SELECT mine(name) AS name FROM hero;
        """
    )
    yield connection
    connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM hero WHERE id = 1",
        "SELECT * FROM hero WHERE name = 'a'",
        "SELECT * FROM hero WHERE id IN (1, 2, 3)",
        "SELECT * FROM hero WHERE id > 5 ORDER BY id LIMIT 10 OFFSET 2",
        "SELECT id FROM hero ORDER BY name DESC LIMIT 1",
        "SELECT * FROM hero JOIN team ON team.id = hero.team_id WHERE hero.id = 1",
        "SELECT * FROM hero LEFT JOIN team ON team.id = hero.team_id WHERE hero.name = 'a'",
        "SELECT EXISTS (SELECT 1 FROM hero WHERE id = 1)",
        "WITH one AS (SELECT * FROM hero WHERE id = 1) SELECT * FROM one",
        "SELECT 1",
        "VALUES (1)",
    ],
)
def test_lookups_are_bounded(raw: sqlite3.Connection, statement: str) -> None:
    """Their steps cost the same, however large the tables are."""
    assert is_bounded(raw, statement, ())


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT count(*) FROM hero",
        "SELECT max(age) FROM hero",
        "SELECT * FROM hero WHERE name LIKE '%a'",
        "SELECT * FROM hero WHERE name GLOB '*a'",
        "SELECT * FROM hero ORDER BY age",
        "SELECT age FROM hero GROUP BY age",
        "SELECT mine(name) FROM hero WHERE id = 1",
        "SELECT * FROM named",
        "SELECT lower(name) FROM hero WHERE id = 1",
        "SELECT hex(randomblob(1000))",
        "SELECT value FROM json_each('[1]')",
        "SELECT * FROM pragma_table_info('hero')",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 5) SELECT * FROM n",
        "INSERT INTO hero (name) VALUES ('a') RETURNING id",
        "UPDATE hero SET age = 1 WHERE id = 1 RETURNING id",
        "DELETE FROM hero WHERE id = 1 RETURNING id",
        "WITH n AS (SELECT 'a') INSERT INTO hero (name) SELECT * FROM n",
        "WITH n AS (SELECT 1) DELETE FROM hero WHERE id IN n",
        "SELECT * FROM absent",
        "SELECT",
    ],
)
def test_what_else_is_not(raw: sqlite3.Connection, statement: str) -> None:
    """Sorters, functions, virtual tables, whole tables in one step, writes, what does not run."""
    assert not is_bounded(raw, statement, ())
    assert not raw.in_transaction


def test_full_text_search_is_not(raw: sqlite3.Connection) -> None:
    """A virtual table does as much as it likes in one step."""
    try:
        raw.execute("CREATE VIRTUAL TABLE words USING fts5(word)")
    except sqlite3.OperationalError:
        pytest.skip("this SQLite has no FTS5")
    assert not is_bounded(raw, "SELECT * FROM words WHERE words MATCH 'a'", ())


def test_values_do_not_matter_to_the_look(raw: sqlite3.Connection) -> None:
    """Positional and named, as they come from SQLAlchemy."""
    assert is_bounded(raw, READ, (1,))
    assert is_bounded(raw, "SELECT name FROM hero WHERE id = :id", {"id": 1})


# --- From end to end ----------------------------------------------------------------------------


@pytest.fixture
def hops(monkeypatch: pytest.MonkeyPatch) -> Hops:
    """How often a connection's thread was gone to."""
    return Hops(monkeypatch)


@pytest.fixture(autouse=True)
def no_hurry(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no machine be too slow for a test from end to end."""
    if "db" in request.fixturenames or "hops" in request.fixturenames:
        monkeypatch.setattr(inline, "EARNED_BELOW_SECONDS", 3600.0)
        monkeypatch.setattr(inline, "LOST_ABOVE_SECONDS", 3600.0)


@pytest.fixture
async def db(sqlite_url: str) -> AsyncIterator[Database]:
    """A database with a hero and many numbers."""
    pool = PoolOptions(size=2, max_overflow=0, ping_after=None)
    async with Database(sqlite_url, pool=pool) as database:
        await database.create_all(Base.metadata)
        async with database.session() as session:
            session.add(Hero(id=1, name="a"))
            numbers = [{"id": number, "value": number} for number in range(1, 5001)]
            await session.execute(insert(Counter), numbers)
        yield database


async def run(db: Database, statement: Any, **values: Any) -> Any:
    """Run one statement in a transaction of its own, which reads; return the first value."""
    async with db.session(begin="deferred") as session:
        return await session.scalar(statement, values)


async def make_inline(db: Database, hops: Hops, statement: Any, **values: Any) -> None:
    """Let a statement earn its place."""
    for _ in range(6):
        await run(db, statement, **values)
    with hops.expected(0):
        await run(db, statement, **values)


async def test_a_cheap_read_takes_no_hop(db: Database, hops: Hops) -> None:
    """After five runs, the fifth with a look at its program; on every connection of the engine."""
    taken = []
    for _ in range(8):
        before = hops.count
        assert await run(db, BY_KEY) == "a"
        taken.append(hops.count - before)
    assert taken == [1, 1, 1, 1, 2, 0, 0, 0]
    async with db.session(begin="deferred") as one, db.session(begin="deferred") as other:
        for session in (one, other):
            await session.scalar(text("SELECT count(*) FROM hero"))
        with hops.expected(0):
            assert [await session.scalar(BY_KEY) for session in (one, other)] == ["a", "a"]


async def test_a_read_that_is_not_bounded_is_looked_at_once(db: Database, hops: Hops) -> None:
    """It takes its hop for ever, and no second look."""
    with hops.expected(21):
        for _ in range(20):
            assert await run(db, text("SELECT count(*) FROM hero")) == 1


async def test_writes_never_run_on_the_loop(db: Database, hops: Hops) -> None:
    """Not those that return rows either, nor those that begin with WITH."""
    statements = [
        text("INSERT INTO hero (name) VALUES (:name) RETURNING id"),
        text("WITH n AS (SELECT :name) INSERT INTO hero (name) SELECT * FROM n RETURNING id"),
    ]
    for number in range(20):
        async with db.session() as session:
            for index, statement in enumerate(statements):
                before = hops.count
                await session.execute(statement, {"name": f"{index} {number}"})
                assert hops.count > before


@pytest.mark.parametrize(
    "options", [SQLiteOptions(inline_reads=False), SQLiteOptions(journal_mode="TRUNCATE")]
)
async def test_inline_reads_can_be_turned_off(
    sqlite_url: str, hops: Hops, options: SQLiteOptions
) -> None:
    """By its option, and by a journal in which readers wait for the writer."""
    async with Database(sqlite_url, sqlite=options, pool=PoolOptions(ping_after=None)) as db:
        await db.create_all(Base.metadata)
        await run(db, select(1))
        for _ in range(20):
            async with db.session(begin="deferred") as session:
                with hops.expected(1):
                    await session.scalar(BY_KEY)


async def test_a_read_that_becomes_dear_is_stopped(
    db: Database, hops: Hops, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And run again in the thread, with the right answer; then it must earn its place anew."""
    stops = watch_stops(monkeypatch)
    await make_inline(db, hops, SCAN, upto=1)
    monkeypatch.setattr(inline, "LOST_ABOVE_SECONDS", -1.0)
    assert not any(stops)
    with hops.expected(1):
        assert await run(db, SCAN, upto=5000) == 77
    assert stops == [True]
    monkeypatch.setattr(inline, "LOST_ABOVE_SECONDS", 3600.0)
    with hops.expected(1):
        assert await run(db, SCAN, upto=5000) == 77


def watch_stops(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Note what SQLite was told when it asked on the loop's thread."""
    answers: list[bool] = []
    is_over_time = InlineReads.is_over_time

    def note(reads: InlineReads) -> bool:
        answers.append(is_over_time(reads))
        return answers[-1]

    monkeypatch.setattr(InlineReads, "is_over_time", note)
    return answers


async def test_stopping_a_read_leaves_its_transaction(
    db: Database, hops: Hops, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written in it before is still there, and is committed."""
    stops = watch_stops(monkeypatch)
    await make_inline(db, hops, SCAN, upto=1)
    async with db.session() as session:
        await session.execute(insert(Hero).values(name="b"))
        monkeypatch.setattr(inline, "LOST_ABOVE_SECONDS", -1.0)
        assert await session.scalar(SCAN, {"upto": 5000}) == 77
        assert stops == [True]
    assert await run(db, select(Hero.id).where(Hero.name == "b")) == 2


async def test_a_read_of_many_rows_goes_to_the_thread(db: Database, hops: Hops) -> None:
    """As soon as there are more than a few, although there were few before."""
    statement = text("SELECT id FROM counter WHERE id <= :upto")
    await make_inline(db, hops, statement, upto=10)
    async with db.session(begin="deferred") as session:
        with hops.expected(1):
            rows = (await session.scalars(statement, {"upto": 11})).all()
    assert rows == list(range(1, 12))


async def test_a_read_of_a_large_value_goes_to_the_thread(db: Database, hops: Hops) -> None:
    """It is brought whole, and what comes after it is not smaller for that."""
    statement = text("SELECT name FROM hero WHERE id = :id")
    await make_inline(db, hops, statement, id=1)
    large = "x" * 1_000_000
    async with db.session() as session:
        await session.execute(insert(Hero).values(id=2, name=large))
    with hops.expected(1):
        assert await run(db, statement, id=2) == large
    await make_inline(db, hops, statement, id=1)
    async with db.session() as session:
        await session.execute(insert(Hero).values(id=3, name=large + "!"))
        await session.rollback()


async def test_a_large_value_to_look_for_goes_to_the_thread(db: Database, hops: Hops) -> None:
    """It could not even be handed to SQLite within the limit."""
    statement = text("SELECT id FROM hero WHERE name = :name")
    await make_inline(db, hops, statement, name="a")
    with hops.expected(1):
        assert await run(db, statement, name="x" * 1_000_000) is None


async def test_a_read_in_a_write_transaction_sees_its_writes(db: Database, hops: Hops) -> None:
    """It runs on the same connection; after the rollback it sees them no more."""
    await make_inline(db, hops, BY_KEY)
    with pytest.raises(ZeroDivisionError):
        async with db.session() as session:
            with hops.expected(1):
                await session.scalar(BY_KEY)  # which takes the lock
            await session.execute(text("UPDATE hero SET name = 'changed'"))
            with hops.expected(0):
                assert await session.scalar(BY_KEY) == "changed"
            raise ZeroDivisionError
    assert await run(db, BY_KEY) == "a"


async def test_a_read_begins_a_transaction_that_stays(db: Database, hops: Hops) -> None:
    """Also on the loop's thread: the second read sees what the first saw, and a write upgrades."""
    await make_inline(db, hops, BY_KEY)
    async with db.session(begin="deferred") as session:
        assert await session.scalar(BY_KEY) == "a"
        await asyncio.create_task(rename(db, "b"))
        assert await session.scalar(BY_KEY) == "a"
        with pytest.raises(OperationalError, match="database is locked"):
            await session.execute(text("UPDATE hero SET name = 'lost'"))
        await session.rollback()
        assert await session.scalar(BY_KEY) == "b"
        await session.execute(text("UPDATE hero SET name = 'c'"))
    assert await run(db, BY_KEY) == "c"


async def rename(db: Database, name: str) -> None:
    async with db.session() as session:
        await session.execute(text("UPDATE hero SET name = :name"), {"name": name})


@pytest.fixture
def process(sqlite_url: str) -> Iterator[OtherProcess]:
    """Another process that uses the file."""
    with other_process(sqlite_url) as process:
        yield process


async def test_another_process_that_writes_does_not_matter(
    db: Database, hops: Hops, process: OtherProcess
) -> None:
    """Its lock stops no reader; what it has committed is seen by the next transaction."""
    await make_inline(db, hops, BY_KEY)
    await process.execute("BEGIN IMMEDIATE")
    await process.execute("UPDATE hero SET name = 'theirs'")
    with hops.expected(0):
        assert await run(db, BY_KEY) == "a"
    await process.execute("COMMIT")
    with hops.expected(0):
        assert await run(db, BY_KEY) == "theirs"


@pytest.fixture
def recovery(sqlite_url: str) -> Iterator[OtherProcess]:
    """Another process, which clears up after one that was killed."""
    with other_process(sqlite_url, RECOVERY) as process:
        yield process


@pytest.mark.skipif(sys.platform != "linux", reason="uses the locks of SQLite's files itself")
async def test_a_read_that_meets_a_lock_waits_in_the_thread(
    db: Database, hops: Hops, recovery: OtherProcess
) -> None:
    """The loop does not wait, the read succeeds in the end, and its transaction is like others."""
    await make_inline(db, hops, BY_KEY)
    assert await recovery.execute("begin") == "recovering"
    begun = hops.count
    read = asyncio.create_task(run(db, BY_KEY))
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert not read.done()
    assert hops.count > begun
    assert await recovery.execute("end") == "recovered"
    async with asyncio.timeout(5):
        assert await read == "a"
    async with db.session(begin="deferred") as session:
        assert await session.scalar(BY_KEY) == "a"
        await session.execute(text("UPDATE hero SET name = 'b'"))
    assert await run(db, BY_KEY) == "b"


async def test_a_changed_table_is_noticed(db: Database, hops: Hops, process: OtherProcess) -> None:
    """SQLite prepares the statement anew: columns, results and errors are the table's of now."""
    statement = text("SELECT * FROM hero WHERE id = 1")
    await make_inline(db, hops, statement)
    await process.execute("ALTER TABLE hero ADD COLUMN age INTEGER DEFAULT 30")
    async with db.session(begin="deferred") as session:
        result = await session.execute(statement)
        assert list(result.keys()) == ["id", "name", "team_id", "age"]
        assert result.all() == [(1, "a", None, 30)]
    await process.execute("DROP TABLE hero")
    with pytest.raises(OperationalError, match="no such table: hero"):
        await run(db, statement)
    assert await run(db, SCAN, upto=100) == 77


async def test_other_tasks_have_their_turn(db: Database, hops: Hops) -> None:
    """After sixteen reads in a row at the latest, although none of them waits for anything."""
    await make_inline(db, hops, BY_KEY)
    turns: list[int] = []
    reads = 0

    async def other() -> None:
        while True:
            turns.append(reads)
            await asyncio.sleep(0)

    async with db.session(begin="deferred") as session:
        await session.scalar(BY_KEY)
        task = asyncio.create_task(other())
        with hops.expected(0):
            for _ in range(160):
                await session.scalar(BY_KEY)
                reads += 1
        task.cancel()
    assert len(turns) >= 10
    assert max(after - before for before, after in pairwise(turns)) <= 16


async def test_a_connection_that_is_busy_is_left_alone(db: Database, hops: Hops) -> None:
    """A read waits for the statement that runs in the thread, and the loop does not."""
    await make_inline(db, hops, BY_KEY)
    loop, working, may_end = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def work() -> int:
        loop.call_soon_threadsafe(working.set)
        may_end.wait(6)
        return 1

    async with db.engine.connect() as connection:
        raw: Any = (await connection.get_raw_connection()).driver_connection
        await raw.create_function("work", 0, work)
        at_work = asyncio.create_task(connection.scalar(text("SELECT work()")))
        await working.wait()
        read = asyncio.create_task(connection.scalar(BY_KEY))
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert not read.done()
        assert not at_work.done()
        may_end.set()
        assert await at_work == 1
        assert await read == "a"


async def test_sessions_of_the_read_engine_read_inline_too(db: Database, hops: Hops) -> None:
    """Each engine learns by itself."""

    async def read() -> str | None:
        async with db.read_session() as session:
            return await one(session)

    for _ in range(6):
        assert await read() == "a"
    with hops.expected(0):
        assert await read() == "a"


async def one(session: AsyncSession) -> str | None:
    return await session.scalar(BY_KEY)
