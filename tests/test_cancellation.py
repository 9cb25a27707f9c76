"""Cancelled at every await: no slot is lost, all rows or none, and what was acknowledged is there.

Each unit of work is run once to count where it waits, and then again and again, cancelled at the
first of these places, at the second, and so on (see `awaits`).
"""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from sqlalchemy import event, make_url, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

from asgi import Base, Client, Item, until
from awaits import WAYS, Run, cancel_at
from backends import Backend
from fastdb import (
    Database,
    PoolOptions,
    ReadSessionDep,
    SessionDep,
    SQLiteOptions,
    StreamSessionDep,
    Timeouts,
    atomic,
    on_commit,
)

pytestmark = pytest.mark.faults

LIMITS = Timeouts(connect=3, pool=2, lock=2, close=2)
LONGEST = LIMITS.close + 2  # for the end of what was cancelled: at most `close`, and to be cut off
SOON = 3.0  # for the next unit of work

FIRST = [str(number) for number in range(1, 6)]
IN_PARTS = select(Item.name).order_by(Item.id).limit(5).execution_options(yield_per=2)

# One connection: whoever loses it stops everybody. It is pinged each time.
POOL = PoolOptions(size=1, ping_after=0)


# --- What is cancelled -------------------------------------------------------------------------


class Scene:
    """A database, an app on it, and what became of the unit of work that runs at the moment."""

    def __init__(self, db: Database, bystander: "Bystander") -> None:
        self.db = db
        self.bystander = bystander
        self.app = app_of(self)
        self.name = ""  # what the rows of this run begin with
        self.acknowledged = False
        self.told = False  # by the callback
        self.ending = ""  # COMMIT or ROLLBACK, once it is about to be sent
        self.ending_when_cancelled = ""
        self.connects = {"main": 0, "read": 0}
        for name, engine in (("main", db.engine), ("read", db.read_engine)):
            event.listen(engine.sync_engine, "commit", lambda _: self._ends("COMMIT"))
            event.listen(engine.sync_engine, "rollback", lambda _: self._ends("ROLLBACK"))
            event.listen(engine.sync_engine, "connect", partial(self._connects, name))

    def begin(self, name: str) -> None:
        self.name = name
        self.acknowledged = self.told = False
        self.ending = self.ending_when_cancelled = ""

    def note_cancelled(self) -> None:
        self.ending_when_cancelled = self.ending

    def _ends(self, how: str) -> None:
        self.ending = how

    def _connects(self, name: str, *_: object) -> None:
        self.connects[name] += 1

    async def callback(self) -> None:
        self.told = True
        await asyncio.sleep(0)


async def insert_two(scene: Scene, session: AsyncSession) -> None:
    """Write, in a savepoint as well, and read; with an await that is not the database's."""
    on_commit(session, scene.callback)
    session.add(Item(name=f"{scene.name} a"))
    await session.flush()
    async with atomic(session):
        session.add(Item(name=f"{scene.name} b"))
    await asyncio.sleep(0)
    found = await session.scalars(select(Item.name).where(Item.name.startswith(scene.name)))
    assert len(found.all()) == 2


async def write(scene: Scene) -> None:
    async with scene.db.session() as session:
        await insert_two(scene, session)
    scene.acknowledged = True


async def isolated(scene: Scene) -> None:
    """Write on a connection that is first told another isolation level, and afterwards its own."""
    async with scene.db.session(isolation="REPEATABLE READ") as session:
        await insert_two(scene, session)
    scene.acknowledged = True


async def run(scene: Scene) -> None:
    async def unit(session: AsyncSession) -> None:
        await insert_two(scene, session)

    await scene.db.run(unit)
    scene.acknowledged = True


class Undo(Exception):
    """Raised in a unit of work to undo it."""


async def undo(scene: Scene) -> None:
    with suppress(Undo):
        async with scene.db.session() as session:
            await insert_two(scene, session)
            raise Undo


async def read(scene: Scene) -> None:
    async with scene.db.read_session() as session:
        names = await session.scalars(select(Item.name).order_by(Item.id).limit(5))
        assert names.all() == FIRST
        assert await session.scalar(select(Item.name).where(Item.name == "2")) == "2"


async def snapshot(scene: Scene) -> None:
    async with scene.db.read_session(snapshot=True) as session:
        for name in "12":
            assert await session.scalar(select(Item.name).where(Item.name == name)) == name


async def stream(scene: Scene) -> None:
    async with scene.db.read_session() as session:
        names = await session.stream_scalars(IN_PARTS)
        assert [name async for name in names] == FIRST


def app_of(scene: Scene) -> FastAPI:
    app = FastAPI()

    @app.post("/items", status_code=201)
    async def create(session: SessionDep) -> None:
        await insert_two(scene, session)

    @app.get("/items")
    async def list_all(session: ReadSessionDep) -> list[str]:
        return list(await session.scalars(select(Item.name).limit(5)))

    @app.get("/stream")
    async def export(session: StreamSessionDep) -> StreamingResponse:
        async def chunks() -> AsyncIterator[str]:
            async for name in await session.stream_scalars(IN_PARTS):
                yield name
                await asyncio.sleep(0)

        return StreamingResponse(chunks())

    return app


async def request(scene: Scene, method: str, path: str) -> Any:
    client = Client(scene.app)
    try:
        answer = await client.request(method, path)
    finally:
        exchange = client.exchange
        assert exchange is not None
        scene.acknowledged = exchange.answer.status == 201
    if answer.error is not None:
        raise answer.error
    return answer


async def post(scene: Scene) -> None:
    assert (await request(scene, "POST", "/items")).status == 201


async def get(scene: Scene) -> None:
    assert len((await request(scene, "GET", "/items")).json()) == 5


async def get_stream(scene: Scene) -> None:
    assert (await request(scene, "GET", "/stream")).body == "".join(FIRST).encode()


@dataclass(frozen=True)
class Unit:
    """A unit of work.

    Attributes:
        work: Runs it.
        least: How often it waits at the least, on a connection that was pinged already.
        writes: Whether it leaves its rows.
        reads_only: It takes its connection from the other pool.
    """

    work: Callable[[Scene], Coroutine[Any, Any, None]]
    least: int
    writes: bool = False
    reads_only: bool = False


UNITS = {
    "session": Unit(write, 7, writes=True),
    "isolated": Unit(isolated, 7, writes=True),
    "run": Unit(run, 7, writes=True),
    "undo": Unit(undo, 7),
    "read": Unit(read, 2, reads_only=True),
    "snapshot": Unit(snapshot, 2, reads_only=True),
    "stream": Unit(stream, 2, reads_only=True),
    "post": Unit(post, 7, writes=True),
    "get": Unit(get, 1, reads_only=True),
    "get-stream": Unit(get_stream, 7, reads_only=True),
}


# --- Who looks ---------------------------------------------------------------------------------


class Bystander:
    """Looks at the database through a connection that is not fastdb's."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._name = connection.dialect.name

    async def names(self, beginning: str) -> list[str]:
        names = select(Item.name).where(Item.name.startswith(beginning)).order_by(Item.id)
        return list((await self._connection.execute(names)).scalars())

    async def sees_nothing_open(self) -> None:
        """Fail if a transaction is open; a server notices a connection that was cut soon."""
        if self._name == "sqlite":
            assert await self.nothing_is_open()
        else:
            await until(self.nothing_is_open)

    async def nothing_is_open(self) -> bool:
        """Return whether no transaction is open."""
        if self._name == "postgresql":
            return bool(await self._connection.scalar(text(OPEN_ON_POSTGRESQL)) == 0)
        try:
            for statement in LOCKS[self._name]:
                await self._connection.execute(text(statement))
        except OperationalError:
            return False
        return True

    async def no_transaction_is_listed(self) -> bool:
        """Return whether MySQL lists no transaction; it looks ten times a second at most."""
        await asyncio.sleep(0.11)
        return bool(await self._connection.scalar(text(OPEN_ON_MYSQL)) == 0)


OPEN_ON_POSTGRESQL = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    " AND backend_type = 'client backend' AND pid <> pg_backend_pid() AND xact_start IS NOT NULL"
)
OPEN_ON_MYSQL = (
    "SELECT count(*) FROM information_schema.innodb_trx JOIN information_schema.processlist"
    " ON id = trx_mysql_thread_id WHERE db = DATABASE()"
)
LOCKS = {
    "mysql": ["SELECT id FROM item FOR UPDATE NOWAIT"],
    "sqlite": ["BEGIN IMMEDIATE", "ROLLBACK"],
}


@asynccontextmanager
async def bystander(db: Database) -> AsyncIterator[Bystander]:
    url = make_url(db.engine.url)
    arguments: dict[str, Any] = {}
    if url.get_backend_name() == "sqlite":
        url = url.set(drivername="sqlite+aiosqlite")
        arguments["timeout"] = 0
    engine = create_async_engine(
        url, connect_args=arguments, poolclass=NullPool, isolation_level="AUTOCOMMIT"
    )
    async with engine.connect() as connection:
        yield Bystander(connection)
    await engine.dispose()


@asynccontextmanager
async def scene_on(db: Database) -> AsyncIterator[Scene]:
    await db.create_all(Base.metadata)
    async with db.session() as session:
        session.add_all([Item(name=name) for name in FIRST])
    async with bystander(db) as looking:
        scene = Scene(db, looking)
        async with db.lifespan(scene.app):
            yield scene


def checked_out(engine: AsyncEngine) -> int:
    return engine.pool.checkedout()  # type: ignore[attr-defined, no-any-return]


async def next_unit(scene: Scene, name: str) -> None:
    """Write and read, as whoever comes next does."""
    async with asyncio.timeout(SOON):
        async with scene.db.session() as session:
            session.add(Item(name=name))
        async with scene.db.read_session() as session:
            assert await session.scalar(select(Item.name).where(Item.name == name)) == name


# --- Before it begins --------------------------------------------------------------------------


@dataclass
class Start:
    """What is the case when a unit of work begins.

    Attributes:
        at_first: Called when it waits for the first time.
        behind: Those who wait for a connection behind it.
    """

    at_first: Callable[[], object] = lambda: None
    behind: "list[asyncio.Future[Any]]" = field(default_factory=list)


async def cold(scene: Scene, _unit: Unit) -> Start:
    """The pool is empty: connecting, and the settings that follow it, are among the awaits."""
    await scene.db.engine.dispose()
    await scene.db.read_engine.dispose()
    return Start()


async def warm(_scene: Scene, _unit: Unit) -> Start:
    """The connection of the last unit of work is idle, and pinged."""
    return Start()


async def full(scene: Scene, unit: Unit) -> Start:
    """The connection is in use, and given back as the unit waits for it, before somebody else."""
    engine = scene.db.read_engine if unit.reads_only else scene.db.engine
    holder = await engine.connect()
    start = Start()

    def at_first() -> None:
        somebody = next_unit(scene, f"behind {scene.name}")
        start.behind += map(asyncio.ensure_future, (somebody, holder.close()))

    start.at_first = at_first
    return start


STARTS = {"cold": cold, "warm": warm, "full": full}


# --- Each place in turn ------------------------------------------------------------------------


async def cancel_everywhere(scene: Scene, start: str, name: str, way: str) -> None:
    """Cancel a unit wherever it waits, and look after it."""
    unit = UNITS[name]
    places = 2 if start == "full" else None  # beyond the wait for a connection, nothing is new
    runs = [await cancelled_once(scene, start, unit, way, place=None) for _ in range(3)]
    least = min(places or sys.maxsize, *(run.places for run, _ in runs))
    assert least >= (places or unit.least)
    outcomes: set[bool] = set()
    for place in count(1):
        if place > least and places is not None:
            break
        has_rows = await cancelled_at(
            scene, start, unit, way, place, tries=5 if place <= least else 1
        )
        if has_rows is None:
            assert place > least, f"place {place} of {least} was never reached"
            break
        outcomes.add(has_rows)
    if unit.writes and places is None:
        assert outcomes == {True, False}


async def cancelled_at(
    scene: Scene, start: str, unit: Unit, way: str, place: int, *, tries: int
) -> bool | None:
    """Cancel `unit` at one place; return whether its rows are there, None if it never came there.

    Where the network has brought two answers at once, it waits once less.
    """
    for _ in range(tries):
        run, has_rows = await cancelled_once(scene, start, unit, way, place=place)
        if run.reached:
            return has_rows
    return None


numbers = count()


async def cancelled_once(
    scene: Scene, start: str, unit: Unit, way: str, *, place: int | None
) -> tuple[Run, bool]:
    """Cancel `unit` at one place; return how it went, and whether its rows are there."""
    scene.begin(f"{next(numbers):06}")
    started = await STARTS[start](scene, unit)
    run = await cancel_at(
        place,
        WAYS[way](),
        unit.work(scene),
        within=LONGEST,
        at_place=scene.note_cancelled,
        at_first=started.at_first,
    )
    try:
        return run, await look_after(scene, unit, run, started)
    except BaseException as error:
        error.add_note(str(run))
        raise


async def look_after(scene: Scene, unit: Unit, run: Run, started: Start) -> bool:
    """Look at everything that a cancellation may have left; return whether the rows are there."""
    db, pool = scene.db, "read" if unit.reads_only else "main"
    connects = scene.connects[pool]
    assert run.cancelled is run.reached
    if not started.behind:
        assert [checked_out(engine) for engine in (db.engine, db.read_engine)] == [0, 0]
    await asyncio.gather(*started.behind)
    await scene.bystander.sees_nothing_open()
    await next_unit(scene, f"next {scene.name}")
    assert [checked_out(engine) for engine in (db.engine, db.read_engine)] == [0, 0]

    rows = await scene.bystander.names(scene.name)
    all_rows = [f"{scene.name} a", f"{scene.name} b"]
    assert rows in ([], all_rows)
    if scene.acknowledged or scene.ending_when_cancelled == "COMMIT" or not run.cancelled:
        assert rows == (all_rows if unit.writes else [])
    assert scene.told is bool(rows)
    if scene.ending_when_cancelled == "ROLLBACK":
        assert scene.connects[pool] == connects, "the ROLLBACK was cut in two"
    return bool(rows)


@asynccontextmanager
async def scene_of(url: str, options: SQLiteOptions) -> AsyncIterator[Scene]:
    async with Database(url, pool=POOL, timeouts=LIMITS, sqlite=options) as db, scene_on(db) as it:
        yield it


@pytest.fixture(autouse=True)
def psycopg_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it wait for the loop at each call that has nothing else to wait for.

    By itself it does so where the loop has been busy, which no test can plan.
    """
    monkeypatch.setattr("psycopg.waiting.MAX_BUSY_TIME", -1.0)


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A cancellation is nothing to warn of."""
    yield
    warnings = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert warnings == []


# What a way adds to the others: "answered" may lose what was just handed over, "again" and "anyio"
# interrupt the way out, "timeout" is a "task" that its own task catches.
CASES = {
    "cold session": "task answered again anyio",
    "cold read": "answered anyio",
    "cold post": "anyio",
    "warm isolated": "task answered again anyio",
    "warm session": "task answered again timeout anyio",
    "warm run": "task timeout",
    "warm undo": "task answered again anyio",
    "warm read": "answered anyio",
    "warm snapshot": "answered again anyio",
    "warm stream": "task answered again anyio",
    "warm post": "task answered again timeout anyio",
    "warm get": "task timeout anyio",
    "warm get-stream": "task answered timeout anyio",
    "full session": "task answered anyio",
    "full read": "answered anyio",
    "full post": "answered",
}

every_case = pytest.mark.parametrize(
    "case", [f"{case} {way}" for case, ways in CASES.items() for way in ways.split()]
)


@every_case
@pytest.mark.backends("sqlite-file", "postgresql", "mysql")
async def test_cancelled_at_every_await(backend: Backend, case: str, quiet: None) -> None:
    """No slot is lost, nothing stays open, all rows or none, and an acknowledged one is there."""
    # In plain text: asyncpg's own TLS code leaves a future behind where connecting is cancelled.
    url = backend.url + ("?sslmode=disable" if backend.name == "postgresql" else "")
    async with scene_of(url, SQLiteOptions(inline_reads=False)) as scene:
        await cancel_everywhere(scene, *case.split())
        if backend.name == "mysql":
            await until(scene.bystander.no_transaction_is_listed)


@every_case
async def test_cancelled_at_every_await_of_plain_aiosqlite(
    sqlite_url: str, case: str, quiet: None
) -> None:
    """The same guarantees, by events on SQLAlchemy's own dialect."""
    async with scene_of(sqlite_url, SQLiteOptions(accelerate=False)) as scene:
        await cancel_everywhere(scene, *case.split())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["session", "stream"])
async def test_cancelled_at_every_await_in_memory(name: str, way: str, quiet: None) -> None:
    """It is a file, and nothing cancelled destroys it."""
    async with scene_of("sqlite://", SQLiteOptions(inline_reads=False)) as scene:
        await cancel_everywhere(scene, "warm", name, way)


# --- A statement that would run for long -------------------------------------------------------

FOREVER = text(
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000000000)"
    " SELECT count(*) FROM n"
)


async def write_and_compute(scene: Scene) -> None:
    async with scene.db.session() as session:
        session.add(Item(name=f"{scene.name} a"))
        await session.flush()
        scene.ending = "computing"
        await session.execute(FOREVER)


@pytest.mark.parametrize("way", ["task", "again", "timeout", "anyio"])
@pytest.mark.parametrize("accelerate", [True, False], ids=["accelerated", "plain"])
async def test_a_statement_of_sqlite_is_interrupted(
    sqlite_url: str, accelerate: bool, way: str, quiet: None
) -> None:
    """It would keep its thread and the write lock, and everybody else out, until its end."""
    unit = Unit(write_and_compute, 1)
    async with scene_of(sqlite_url, SQLiteOptions(accelerate=accelerate)) as scene:
        for place in count(1):
            run, _ = await cancelled_once(scene, "warm", unit, way, place=place)
            assert run.reached
            if scene.ending_when_cancelled:
                break
