"""The Database: opening, closing, its engines in every event loop, and its synchronous twin."""

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, func, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from backends import Backend
from fastdb import (
    ConfigurationError,
    Database,
    DatabaseClosed,
    MissingDriver,
    PoolOptions,
    SessionEnded,
    SyncDatabase,
    TransactionFailed,
    WriteLockHeld,
    atomic,
    on_commit,
)
from models import Base, Hero, Late

COUNT = select(func.count()).select_from(Hero)


def in_new_loop(work: Callable[[], Any]) -> Any:
    """Run an async function in an event loop and thread of its own."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(asyncio.run(work())))
    thread.start()
    thread.join()
    return results[0]


# --- Making one ---------------------------------------------------------------------------------


def test_making_one_needs_no_loop_and_no_server() -> None:
    """It belongs at module level: nothing is connected, and the password is not shown."""
    db = Database("postgresql://app:secret@db.invalid/shop")
    assert repr(db) == "Database('postgresql+asyncpg://app:***@db.invalid/shop')"
    assert "secret" not in str(vars(db))


def test_the_callers_dictionaries_are_left_alone() -> None:
    """Options are copied, never changed."""
    options: dict[str, Any] = {"connect_args": {"cached_statements": 7}}
    db = Database(
        "sqlite://", async_options=options, sync_options=options, isolation="SERIALIZABLE"
    )
    assert db.sync.engine.dialect.name == "sqlite"
    assert options == {"connect_args": {"cached_statements": 7}}
    db.sync.close()


def test_a_driver_that_cannot_be_imported_fails_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Not at the first request; and the message says what Python said."""
    (tmp_path / "asyncpg.py").write_text("raise ImportError('libssl is missing')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "asyncpg", raising=False)
    with pytest.raises(MissingDriver) as raised:
        Database("postgresql+asyncpg://localhost/shop")
    assert str(raised.value) == (
        "The driver asyncpg is installed but cannot be imported: libssl is missing"
    )


# --- Opening and closing ------------------------------------------------------------------------


async def test_the_engine_is_the_same_while_open(backend: Backend) -> None:
    """From entering to leaving, and another one afterwards."""
    db = Database(backend.url)
    async with db:
        engine, read_engine = db.engine, db.read_engine
        async with db:
            assert db.engine is engine
        assert (db.engine, db.read_engine) == (engine, read_engine)
        await db.ping()
    async with db:
        assert db.engine is not engine
        await db.ping()


async def test_leaving_closes_every_connection(backend: Backend) -> None:
    """Of both engines, and of the twin."""
    db = Database(backend.url)
    async with db:
        await db.create_all(Base.metadata)
        async with db.session() as session, db.read_session() as reader:
            await session.execute(COUNT)
            await reader.execute(COUNT)
        await asyncio.to_thread(db.sync.ping)
        pools = [db.engine.pool, db.read_engine.pool, db.sync.engine.pool, db.sync.read_engine.pool]
        open_before = [pool.checkedin() for pool in pools]  # type: ignore[attr-defined]
    assert open_before == [1, 1, 0, 1]
    assert [pool.checkedin() for pool in pools] == [0, 0, 0, 0]  # type: ignore[attr-defined]


async def test_closing_twice_is_harmless(backend: Backend) -> None:
    """`aclose()` is idempotent, also inside the block."""
    db = Database(backend.url)
    async with db:
        await db.ping()
        await db.aclose()
        await db.aclose()
    await db.aclose()
    with pytest.raises(DatabaseClosed):
        await db.ping()


async def test_use_opens_and_aclose_closes(backend: Backend) -> None:
    """A script need not enter; what was closed says so when it is used again."""
    db = Database(backend.url)
    await db.ping()
    await db.aclose()
    with pytest.raises(DatabaseClosed) as raised:
        await db.ping()
    assert str(raised.value) == (
        f"{db!r} was closed. Use it while its app runs, or inside `async with db:`, which opens it"
        " again."
    )
    async with db:
        await db.ping()


def test_engines_of_a_loop_that_has_ended_are_forgotten(sqlite_url: str) -> None:
    """A Database that is used in one loop after another keeps nothing of the earlier ones."""
    db = Database(sqlite_url)

    async def use() -> object:
        async with db.session() as session:
            await session.execute(select(1))
        engine = db.engine
        await engine.dispose()
        return engine

    first, second = asyncio.run(use()), asyncio.run(use())
    assert first is not second
    assert len(db._loops._opened) == 1


def test_a_database_that_was_never_closed_warns(sqlite_url: str) -> None:
    """Like a file: connections that were left open are a ResourceWarning."""

    async def use() -> None:
        db = Database(sqlite_url)
        await db.ping()
        with pytest.warns(ResourceWarning, match="was never closed: use `async with db:`"):
            engines = (db.engine, db.read_engine)
            del db
            gc.collect()
        for engine in engines:
            await engine.dispose()

    asyncio.run(use())


async def test_the_engine_asked_for_before_is_the_one_that_is_used(sqlite_url: str) -> None:
    """`db.engine` at import time is the engine of the loop that comes first."""
    db = Database(sqlite_url)
    engine = await asyncio.to_thread(lambda: db.engine)
    async with db:
        assert db.engine is engine


async def test_cancelled_closing_still_closes(backend: Backend) -> None:
    """A cancellation on the way out waits for the connections to be closed, and goes on."""
    db = Database(backend.url)

    async def use() -> None:
        async with db:
            await db.ping()
            task = asyncio.current_task()
            assert task is not None
            task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(use())
    with pytest.raises(DatabaseClosed):
        await db.ping()


# --- Event loops --------------------------------------------------------------------------------


def test_one_loop_after_another(backend: Backend) -> None:
    """Entered again in a new loop, as a second test client does."""
    db = Database(backend.url)

    async def use() -> int | None:
        async with db:
            await db.create_all(Base.metadata)
            async with db.session() as session:
                session.add(Hero(name="a"))
            async with db.read_session() as session:
                return await session.scalar(COUNT)

    first = asyncio.run(use())
    if backend.id == "sqlite-memory":  # gone with the last one out
        assert (first, asyncio.run(use())) == (1, 1)
    else:
        with pytest.raises(IntegrityError):
            asyncio.run(use())


def test_two_loops_at_once(backend: Backend) -> None:
    """Each has engines of its own; the data are the same; the last one out closes."""
    db = Database(backend.url)

    async def inner() -> int | None:
        async with db:
            async with db.read_session() as session:
                count = await session.scalar(COUNT)
            async with db.session() as session:
                session.add(Hero(name="inner"))
            return count

    async def outer() -> tuple[int | None, int | None]:
        async with db:
            await db.create_all(Base.metadata)
            async with db.session() as session:
                session.add(Hero(name="outer"))
            engine = db.engine
            seen = await asyncio.to_thread(in_new_loop, inner)
            assert db.engine is engine
            async with db.read_session() as session:
                return seen, await session.scalar(COUNT)

    assert asyncio.run(outer()) == (1, 2)


async def test_an_engine_without_a_loop_must_be_clear(sqlite_url: str) -> None:
    """Outside of any loop the only one is meant; with two of them that is an error."""
    db = Database(sqlite_url)
    async with db:
        assert await asyncio.to_thread(lambda: db.engine) is db.engine

        async def second() -> None:
            async with db:
                entered.set()
                await asyncio.to_thread(leave.wait)

        entered, leave = threading.Event(), threading.Event()
        thread = threading.Thread(target=lambda: asyncio.run(second()))
        thread.start()
        await asyncio.to_thread(entered.wait)
        try:
            with pytest.raises(DatabaseClosed) as raised:
                await asyncio.to_thread(lambda: db.engine)
        finally:
            leave.set()
            await asyncio.to_thread(thread.join)
    assert str(raised.value) == (
        f"{db!r} is open in 2 event loops, and this code runs in none of them: ask for its engine"
        " from within the loop that is to use it."
    )


# --- create_all, ping ---------------------------------------------------------------------------

CREATE_ALL = """
import asyncio, os, sys, traceback
sys.path.append(sys.argv[2])
from fastdb import Database
from models import Base

async def main(start):
    async with Database(sys.argv[1]) as db:
        await db.ping()
        ready.close()
        os.read(start, 1)  # returns in all at once, when the parent closes its end
        await db.create_all(Base.metadata)
        await db.create_all(Base.metadata)

start, go = os.pipe()
all_ready, ready = os.pipe()
ready = os.fdopen(ready, "w")
children = []
for _ in range(8):
    if not (child := os.fork()):
        os.close(go)
        try:
            asyncio.run(main(start))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    children.append(child)
ready.close()
os.read(all_ready, 1)  # returns when the last child has closed its end
os.close(go)
sys.exit(sum(os.waitpid(child, 0)[1] != 0 for child in children))
"""


@pytest.mark.backends("sqlite-file", "postgresql", "mysql")
def test_eight_processes_create_the_tables_at_once(
    backend: Backend, pytestconfig: pytest.Config
) -> None:
    """Exactly one creates, the others wait, and all succeed."""
    tests = str(pytestconfig.rootpath / "tests")
    command = [sys.executable, "-c", CREATE_ALL, backend.url, tests]
    done = subprocess.run(command, capture_output=True, timeout=50, check=False)
    assert (done.returncode, done.stderr.decode()) == (0, "")


async def test_create_all_of_the_twin(backend: Backend) -> None:
    """Scripts have it too, and it creates nothing twice."""
    async with Database(backend.url) as db:
        await asyncio.to_thread(db.sync.create_all, Base.metadata)
        await asyncio.to_thread(db.sync.create_all, Base.metadata)
        async with db.read_session() as session:
            assert await session.scalar(COUNT) == 0


async def test_ping_raises_what_the_database_raises() -> None:
    """Nothing is hidden, and nothing hangs."""
    async with Database("postgresql+psycopg://app@127.0.0.1:1/shop") as db:
        with pytest.raises(DBAPIError):
            await db.ping()


# --- The twin -----------------------------------------------------------------------------------


@pytest.fixture
def twin(backend: Backend) -> Any:
    """The twin of a database with the tables of `models`, used without any event loop."""
    db = Database(backend.url)
    with db.sync as sync:
        sync.create_all(Base.metadata)
        yield sync
        assert sync.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


def heroes(twin: SyncDatabase) -> list[str]:
    with twin.read_session() as session:
        return list(session.scalars(select(Hero.name).order_by(Hero.id)))


def test_the_twin_commits_and_rolls_back(twin: SyncDatabase) -> None:
    """The same rules as `db.session()`."""
    with twin.session() as session:
        session.add(Hero(name="a"))
    with pytest.raises(ZeroDivisionError), twin.session() as session:
        session.add(Hero(name="b"))
        session.flush()
        raise ZeroDivisionError
    assert heroes(twin) == ["a"]


def test_the_twin_refuses_half_done_commits(twin: SyncDatabase) -> None:
    """An error that was caught refuses COMMIT, whether the flush failed or a statement."""
    with pytest.raises(TransactionFailed), twin.session() as session:
        session.add(Hero(name="a"))
        session.flush()
        with pytest.raises(DBAPIError):
            session.execute(text("SELECT * FROM nothing"))
    with pytest.raises(TransactionFailed), twin.session() as session:
        session.add_all([Hero(name="a"), Hero(name="a")])
        with pytest.raises(IntegrityError):
            session.flush()
    assert heroes(twin) == []


def test_blocks_and_callbacks_of_the_twin(twin: SyncDatabase) -> None:
    """`atomic` and `on_commit` work with `with` as well; a failing callback is only logged."""
    ran: list[str] = []
    with twin.session() as session:
        with pytest.raises(ZeroDivisionError), atomic(session):
            session.add(Hero(name="undone"))
            on_commit(session, lambda: ran.append("undone"))
            raise ZeroDivisionError
        session.add(Hero(name="kept"))
        on_commit(session, lambda: 1 / 0)
        on_commit(session, lambda: ran.append("kept"))
    assert ran == ["kept"]
    assert heroes(twin) == ["kept"]


def test_the_twin_only_reads_where_it_should(twin: SyncDatabase) -> None:
    """The database refuses writes, and changed objects are not dropped in silence."""
    with twin.session() as session:
        session.add(Hero(name="a"))
    for snapshot in (False, True):
        with pytest.raises(DBAPIError), twin.read_session(snapshot=snapshot) as session:
            session.execute(text("DELETE FROM hero"))
    with pytest.raises(DBAPIError), twin.read_session() as session:
        for hero in session.scalars(select(Hero)):
            hero.name = "b"
    with pytest.raises(ZeroDivisionError), twin.read_session() as session:
        session.execute(COUNT)
        raise ZeroDivisionError
    assert heroes(twin) == ["a"]


def test_a_session_of_the_twin_ends(twin: SyncDatabase) -> None:
    """It is refused after its end, with the same words."""
    with twin.session() as session:
        session.execute(COUNT)
    for use in (lambda: session.execute(COUNT), lambda: session.delete(Hero(name="a"))):
        with pytest.raises(SessionEnded):
            use()


@pytest.mark.backends("sqlite", "postgresql")
def test_a_failed_commit_of_the_twin(twin: SyncDatabase) -> None:
    """Nothing is kept, and the connection goes back clean."""
    with pytest.raises(IntegrityError), twin.session() as session:
        session.add(Hero(name="a"))
        session.add(Late(team_id=99))
    assert heroes(twin) == []


@pytest.mark.backends("sqlite")
def test_a_thread_does_not_wait_for_its_own_lock(twin: SyncDatabase) -> None:
    """The second write session of one thread is refused at once."""
    with twin.session() as session:
        session.add(Hero(name="a"))
        session.flush()
        refused = pytest.raises(WriteLockHeld, match="another session of the same thread already")
        with refused, twin.session() as second:
            second.add(Hero(name="b"))
    assert heroes(twin) == ["a"]


@pytest.mark.backends("postgresql", "mysql")
def test_isolation_of_the_twin(backend: Backend) -> None:
    """The Database's level is its default, and a session may have another."""
    db = Database(backend.url, isolation="SERIALIZABLE")
    with db.sync as sync:
        with sync.session() as session:
            assert session.connection().get_isolation_level() == "SERIALIZABLE"
        with sync.session(isolation="READ COMMITTED") as session:
            assert session.connection().get_isolation_level() == "READ COMMITTED"


def test_the_twin_can_be_used_again_after_closing(twin: SyncDatabase) -> None:
    """Closing gives the connections back; the next use opens new ones."""
    engine = twin.engine
    twin.ping()
    twin.close()
    twin.close()
    twin.ping()
    assert twin.engine is not engine


def test_plain_sessions_on_the_twins_engine(twin: SyncDatabase) -> None:
    """Scripts that have their own `Session(engine)` keep working."""
    with Session(twin.engine) as session, session.begin():
        session.add(Hero(name="a"))
    assert heroes(twin) == ["a"]


# --- The pool -----------------------------------------------------------------------------------


async def test_null_pool_keeps_no_connection(backend: Backend) -> None:
    """A connection per session, for both engines, and nothing is left open."""
    async with Database(backend.url, pool=PoolOptions.null()) as db:
        closed: list[object] = []
        event.listen(db.engine.sync_engine, "close", lambda *args: closed.append(args))
        await db.create_all(Base.metadata)
        async with db.session() as session:
            session.add(Hero(name="a"))
        async with db.read_session() as session:
            assert await session.scalar(COUNT) == 1
        assert len(closed) == 2


@pytest.mark.backends("mysql")
async def test_create_all_without_a_database_says_so(backend: Backend) -> None:
    """It is not another process that is waited for."""
    url = make_url(backend.url).set(database="")
    async with Database(url) as db:
        with pytest.raises(ConfigurationError, match="the URL names none"):
            await db.create_all(Base.metadata)
