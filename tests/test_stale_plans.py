"""Prepared statements of PostgreSQL's connections, after somebody else has altered the table."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx
import psycopg
import pytest
from fastapi import FastAPI
from sqlalchemy import Executable, func, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from backends import Backend
from databases import render
from fastdb import Database, PoolOptions, SessionDep, install_error_handlers
from fastdb.errors import ErrorKind, classify

pytestmark = pytest.mark.backends("postgresql")

CONNECTIONS = 5
# psycopg prepares what it has executed five times.
ROUNDS = 7

ALL = text("SELECT * FROM item")
ADD_COLUMN = "ALTER TABLE item ADD COLUMN added integer DEFAULT 7"
CHANGE_TYPE = "ALTER TABLE item ALTER COLUMN amount TYPE bigint"


class Base(DeclarativeBase):
    """The tables of these tests: they are altered."""


class Item(Base):
    """A row whose table gets more columns, or other types."""

    __tablename__ = "item"

    id: Mapped[int] = mapped_column(primary_key=True)
    amount: Mapped[int]


Opener = Callable[[Database], AbstractAsyncContextManager[Any]]
Alter = Callable[[str], Awaitable[None]]

OPENERS: dict[str, Opener] = {
    "session": lambda db: db.session(),
    "autocommit-session": lambda db: db.session(isolation="AUTOCOMMIT"),
    "read-session": lambda db: db.read_session(),
    "snapshot": lambda db: db.read_session(snapshot=True),
    "engine": lambda db: db.engine.begin(),
    "read-engine": lambda db: db.read_engine.connect(),
}


@pytest.fixture
async def db(backend: Backend) -> AsyncIterator[Database]:
    """A database with one item and a pool of a few connections."""
    async with Database(backend.url, pool=PoolOptions(size=CONNECTIONS)) as db:
        await db.create_all(Base.metadata)
        async with db.session() as session:
            session.add(Item(id=1, amount=1))
        yield db


@pytest.fixture
def alter(backend: Backend) -> Alter:
    """Change the schema as a migration does it: from elsewhere."""
    url = render(make_url(backend.url).set(drivername="postgresql"))

    def execute(statement: str) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(statement.encode())

    async def alter(statement: str) -> None:
        await asyncio.to_thread(execute, statement)

    return alter


async def run(opened: AbstractAsyncContextManager[Any], *statements: Executable) -> Any:
    """Execute one statement after the other; return the rows of the last."""
    async with opened as session:
        return [(await session.execute(statement)).all() for statement in statements][-1]


async def warm_up(open_one: Callable[[], AbstractAsyncContextManager[Any]], *work: Any) -> None:
    """Let each connection of the pool prepare what is executed."""
    all_taken = asyncio.Barrier(CONNECTIONS)

    async def one() -> None:
        async with open_one() as session:
            for statement in work:
                await session.execute(statement)
            await all_taken.wait()

    for _ in range(ROUNDS):
        await asyncio.gather(*(one() for _ in range(CONNECTIONS)))


async def amounts(db: Database) -> list[int]:
    async with db.read_session() as session:
        return list(await session.scalars(select(Item.amount).order_by(Item.amount)))


# --- Where nothing else was done in the transaction ---------------------------------------------


@pytest.mark.parametrize("opener", OPENERS.values(), ids=OPENERS)
@pytest.mark.parametrize(
    ("statement", "change"), [(ALL, ADD_COLUMN), (select(Item), CHANGE_TYPE)], ids=["text", "orm"]
)
@pytest.mark.parametrize("at_once", [1, 20], ids=["one-by-one", "at-once"])
async def test_nobody_meets_a_stale_plan(
    db: Database, alter: Alter, opener: Opener, statement: Any, change: str, at_once: int
) -> None:
    """Neither the first to execute it after the change, nor those on the other connections."""
    await warm_up(lambda: opener(db), statement)
    await alter(change)
    for _ in range(20 // at_once):
        everyone = await asyncio.gather(*(run(opener(db), statement) for _ in range(at_once)))
        if change == ADD_COLUMN:
            assert all(rows == [(1, 1, 7)] for rows in everyone)


async def test_every_change_is_survived(db: Database, alter: Alter) -> None:
    """Not only the first one in the life of a connection."""
    for number in range(3):
        await warm_up(db.read_session, ALL)
        await alter(f"ALTER TABLE item ADD COLUMN number_{number} integer")
        for _ in range(CONNECTIONS):
            [row] = await run(db.read_session(), ALL)
            assert len(row) == 3 + number


@pytest.mark.backends("postgresql-asyncpg")  # psycopg's server-side cursors are not prepared
async def test_streams_are_survived(db: Database, alter: Alter) -> None:
    """A cursor of the server's is opened once more."""

    async def stream() -> Any:
        async with db.read_session() as session:
            return [tuple(row) async for row in await session.stream(ALL)]

    assert await stream() == [(1, 1)]
    await alter(ADD_COLUMN)
    assert await stream() == [(1, 1, 7)]


async def test_statements_without_parameters_are_survived(db: Database, alter: Alter) -> None:
    """SQLAlchemy has another way for those that must not be looked at for placeholders."""

    async def read() -> Any:
        async with db.read_engine.connect() as connection:
            driver_sql = connection.exec_driver_sql
            return (await driver_sql(str(ALL), execution_options={"no_parameters": True})).all()

    for _ in range(ROUNDS):
        await read()
    await alter(ADD_COLUMN)
    assert await read() == [(1, 1, 7)]


@pytest.mark.backends("postgresql-psycopg")
@pytest.mark.parametrize("kind", ["session", "read_session"])
async def test_the_twin_survives(db: Database, alter: Alter, kind: str) -> None:
    """As the async sessions, in threads."""

    def everyone() -> list[Any]:
        all_taken = threading.Barrier(CONNECTIONS)

        def one(_: int) -> Any:
            with getattr(db.sync, kind)() as session:
                session.connection()
                all_taken.wait()
                return session.execute(ALL).all()

        with ThreadPoolExecutor(CONNECTIONS) as threads:
            return list(threads.map(one, range(CONNECTIONS)))

    for _ in range(ROUNDS):
        await asyncio.to_thread(everyone)
    await alter(ADD_COLUMN)
    for _ in range(3):
        assert await asyncio.to_thread(everyone) == [[(1, 1, 7)]] * CONNECTIONS


@pytest.mark.parametrize("isolation", [None, "AUTOCOMMIT"])
async def test_rows_are_written_once(db: Database, alter: Alter, isolation: str | None) -> None:
    """What is run once more was refused before it did anything."""
    insert = text("INSERT INTO item (amount) VALUES (2) RETURNING *")
    await alter("ALTER SEQUENCE item_id_seq RESTART 100")
    await warm_up(lambda: db.session(isolation=isolation), insert)
    before = await amounts(db)
    await alter(ADD_COLUMN)
    for _ in range(CONNECTIONS):
        await run(db.session(isolation=isolation), insert)
    assert await amounts(db) == [*before, *[2] * CONNECTIONS]


async def test_a_session_keeps_what_it_has_not_written_yet(db: Database, alter: Alter) -> None:
    """Pending objects know nothing of it, and are written by the COMMIT."""
    await warm_up(db.session, ALL)
    await alter(ADD_COLUMN)
    for number in range(CONNECTIONS):
        async with db.session() as session:
            item = Item(id=100 + number, amount=2)
            session.add(item)
            with session.no_autoflush:
                assert len((await session.execute(ALL)).all()) == 1 + number
            assert item in session.new
    assert await amounts(db) == [1, *[2] * CONNECTIONS]


@pytest.mark.parametrize("kind", ["serializable", "snapshot"])
async def test_the_transaction_is_as_it_was_asked_for(
    db: Database, alter: Alter, kind: str
) -> None:
    """The second BEGIN says the same as the first, and what follows is in this transaction."""
    setting = "current_setting('transaction_{}')".format
    look = f"{setting('isolation')}, {setting('read_only')}, txid_current_snapshot()::text"
    statement = text(f"SELECT item.*, {look} FROM item")

    def opened() -> AbstractAsyncContextManager[Any]:
        if kind == "snapshot":
            return db.read_session(snapshot=True)
        return db.session(isolation="SERIALIZABLE")

    await warm_up(opened, statement)
    await alter(ADD_COLUMN)
    async with opened() as session:
        [row] = (await session.execute(statement)).all()
        await alter("ALTER SEQUENCE item_id_seq RESTART 100")  # a transaction that is not seen
        [again] = (await session.execute(text(f"SELECT {look}"))).all()
    expected = ("serializable", "off") if kind == "serializable" else ("repeatable read", "on")
    assert row[3:5] == expected
    assert row[3:] == again


# --- In the middle of a transaction -------------------------------------------------------------

OTHER = text("SELECT 1")


async def test_in_the_middle_it_is_an_error_once(db: Database, alter: Alter) -> None:
    """What came before cannot be repeated. The other connections prepare anew and do not fail."""
    await warm_up(db.session, OTHER, ALL)
    await alter(ADD_COLUMN)
    with pytest.raises(DBAPIError) as refused:
        await run(db.session(), OTHER, ALL)
    assert classify(refused.value) is ErrorKind.STALE_PLAN
    await warm_up(db.session, OTHER, ALL)


async def test_run_wins(db: Database, alter: Alter) -> None:
    """`db.run` begins anew; nothing of the attempt that failed is left."""
    attempts = 0

    async def add(session: Any, amount: int) -> Any:
        nonlocal attempts
        attempts += 1
        session.add(Item(amount=amount))
        await session.flush()
        return (await session.execute(ALL)).all()

    await alter("ALTER SEQUENCE item_id_seq RESTART 100")
    await warm_up(db.session, OTHER, ALL)
    await alter(ADD_COLUMN)
    assert len(await db.run(add, 2)) == 2
    assert attempts == 2
    assert await amounts(db) == [1, 2]


async def test_requests_are_told_to_come_again(db: Database, alter: Alter) -> None:
    """With 503 and `Retry-After`, and the next one succeeds."""
    app = FastAPI()
    install_error_handlers(app)

    @app.get("/")
    async def read(session: SessionDep) -> int:
        await session.execute(OTHER)
        return len((await session.execute(ALL)).all())

    await warm_up(db.session, OTHER, ALL)
    await alter(ADD_COLUMN)
    transport = httpx.ASGITransport(app)
    async with (
        db.lifespan(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        refused = await client.get("/")
        assert refused.status_code == 503
        assert refused.headers["Retry-After"] == "1"
        assert refused.json()["kind"] == "stale_plan"
        assert (await client.get("/")).json() == 1


async def test_other_unsupported_features_go_on(db: Database) -> None:
    """They have the same SQLSTATE."""
    with pytest.raises(DBAPIError) as refused:
        await run(db.session(), select(func.count()).select_from(Item).with_for_update())
    assert classify(refused.value) is ErrorKind.OTHER


# --- Others that prepare, or do not -------------------------------------------------------------


async def test_through_a_pooler_nothing_is_prepared(backend: Backend, alter: Alter) -> None:
    """So that nothing is stale, also in the middle of a transaction."""
    pool = PoolOptions.transaction_pooler(size=CONNECTIONS)
    async with Database(backend.url, pool=pool) as db:
        await db.create_all(Base.metadata)
        await warm_up(db.session, OTHER, ALL)
        [[prepared]] = await run(db.session(), text("SELECT count(*) FROM pg_prepared_statements"))
        assert prepared == 0
        await alter(ADD_COLUMN)
        await warm_up(db.session, OTHER, ALL)


@pytest.fixture
async def pairs(db: Database, alter: Alter) -> None:
    """A column of a composite type."""
    await alter("CREATE TYPE pair AS (x integer, y integer)")
    await alter("CREATE TABLE pairs (pair pair)")
    await alter("INSERT INTO pairs VALUES ((1, 2))")


PAIRS = text("SELECT pair FROM pairs")
ADD_ATTRIBUTE = "ALTER TYPE pair ADD ATTRIBUTE z integer"


@pytest.mark.backends("postgresql-asyncpg")
@pytest.mark.usefixtures("pairs")
@pytest.mark.parametrize("opener", ["session", "read-session", "snapshot", "engine"])
async def test_a_composite_type_may_change(db: Database, alter: Alter, opener: str) -> None:
    """asyncpg knows the old attributes; SQLAlchemy keeps the statement that asyncpg has closed."""
    await warm_up(lambda: OPENERS[opener](db), PAIRS)
    await alter(ADD_ATTRIBUTE)
    for _ in range(CONNECTIONS):
        assert await run(OPENERS[opener](db), PAIRS) == [((1, 2, None),)]


@pytest.mark.backends("postgresql-asyncpg")
@pytest.mark.usefixtures("pairs")
async def test_what_is_committed_is_not_repeated(db: Database, alter: Alter) -> None:
    """asyncpg fails when it reads the rows: in autocommit, they are in the table by then."""
    insert = text("INSERT INTO pairs SELECT pair FROM pairs LIMIT 1 RETURNING pair")
    count = text("SELECT count(*) FROM pairs")

    def opened() -> AbstractAsyncContextManager[Any]:
        return db.session(isolation="AUTOCOMMIT")

    await warm_up(opened, insert)
    [[before]] = await run(opened(), count)
    await alter(ADD_ATTRIBUTE)
    with pytest.raises(DBAPIError) as failed:
        await run(opened(), insert)
    assert classify(failed.value) is ErrorKind.STALE_PLAN
    assert await run(opened(), count) == [(before + 1,)]
    assert await run(opened(), insert) == [((1, 2, None),)]
