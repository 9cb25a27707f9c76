"""The synchronous twin on the thread of an event loop: refused before it blocks anything."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from blockbuster import BlockBuster
from fastapi import FastAPI
from sqlalchemy import select, text

from asgi import Item, serving
from backends import Backend
from fastdb import (
    Database,
    EventLoopBlocked,
    PoolOptions,
    SyncDatabase,
    SyncSessionDep,
    create_sync_engine,
)
from models import Base, Hero

BLOCKED = (
    "The synchronous twin, db.sync, was used on the thread of an event loop, where each of its"
    " statements stops all other tasks. Use `async with db.session() as session:`; or call the"
    " synchronous code with `await asyncio.to_thread(…)`; or, where nobody else is served, as in a"
    " notebook, say so: `db.sync.session(on_event_loop=True)`,"
    " `db.sync.engine.execution_options(fastdb_on_event_loop=True)`."
)

# Two drivers of one database have the same twin.
twins = pytest.mark.backends("sqlite-file", "postgresql-psycopg", "mysql-aiomysql")


@pytest.fixture
async def db(backend: Backend, no_blocking_calls: BlockBuster) -> Any:
    """A database whose twin has no connection yet."""
    async with Database(backend.url) as db:
        await db.create_all(Base.metadata)
        yield db
        for engine in (db.sync.engine, db.sync.read_engine):
            assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]


def use_session(twin: SyncDatabase) -> None:
    with twin.session() as session:
        session.execute(select(1))


def flush_session(twin: SyncDatabase) -> None:
    with twin.session() as session:
        session.add(Hero(name="a"))


def use_connection_of_session(twin: SyncDatabase) -> None:
    with twin.session(isolation="SERIALIZABLE") as session:
        session.connection()


def use_read_session(twin: SyncDatabase) -> None:
    with twin.read_session() as session:
        session.scalar(select(1))


def use_snapshot(twin: SyncDatabase) -> None:
    with twin.read_session(snapshot=True) as session:
        session.scalars(select(1))


USES: list[Callable[[SyncDatabase], object]] = [
    use_session,
    flush_session,
    use_connection_of_session,
    use_read_session,
    use_snapshot,
]
by_use = pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__)


@twins
@by_use
async def test_a_session_is_refused(db: Database, use: Callable[[SyncDatabase], object]) -> None:
    """Before it asks the pool for a connection, which could block as well."""
    with pytest.raises(EventLoopBlocked) as raised:
        use(db.sync)
    assert str(raised.value) == BLOCKED
    await asyncio.to_thread(use, db.sync)


@twins
async def test_an_engine_is_refused(db: Database, no_blocking_calls: BlockBuster) -> None:
    """As soon as it has a connection, which goes back."""
    no_blocking_calls.deactivate()  # only afterwards is it known
    engines = (
        db.sync.engine,
        db.sync.read_engine,
        db.sync.engine.execution_options(isolation_level="AUTOCOMMIT"),
    )
    for engine in engines:
        with pytest.raises(EventLoopBlocked):
            engine.connect()
    with pytest.raises(EventLoopBlocked):
        db.sync.ping()
    with pytest.raises(EventLoopBlocked):
        db.sync.create_all(Base.metadata)
    await asyncio.to_thread(db.sync.ping)
    await asyncio.to_thread(db.sync.create_all, Base.metadata)


@twins
async def test_it_is_allowed_where_one_says_so(
    db: Database, no_blocking_calls: BlockBuster
) -> None:
    """In a notebook, an event loop runs for nobody else."""
    no_blocking_calls.deactivate()
    db.sync.create_all(Base.metadata, on_event_loop=True)
    db.sync.ping(on_event_loop=True)
    with db.sync.session(on_event_loop=True) as session:
        session.add(Hero(name="a"))
    with db.sync.read_session(on_event_loop=True) as session:
        assert session.scalars(select(Hero.name)).all() == ["a"]
    with db.sync.read_session(snapshot=True, on_event_loop=True) as session:
        assert session.scalars(select(Hero.name)).all() == ["a"]
    engine = db.sync.engine.execution_options(fastdb_on_event_loop=True)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT name FROM hero")) == "a"
    db.sync.close()


@pytest.mark.backends("sqlite-file")
async def test_it_is_allowed_for_a_whole_database(
    backend: Backend, no_blocking_calls: BlockBuster
) -> None:
    """By the engine's own argument."""
    no_blocking_calls.deactivate()
    options = {"execution_options": {"fastdb_on_event_loop": True}}
    async with Database(backend.url, sync_options=options) as db:
        db.sync.create_all(Base.metadata)
        flush_session(db.sync)
        use_read_session(db.sync)


@pytest.mark.backends("postgresql-psycopg", "mysql-aiomysql")
async def test_a_twin_for_poolers_is_refused(backend: Backend) -> None:
    """Where reading is a variant of the engine that writes."""
    async with Database(backend.url, pool=PoolOptions.transaction_pooler()) as db:
        await asyncio.to_thread(use_snapshot, db.sync)
        for use in (use_session, use_read_session, use_snapshot):
            with pytest.raises(EventLoopBlocked):
                use(db.sync)


@twins
async def test_a_session_that_began_in_a_thread_is_refused_on_the_loop(db: Database) -> None:
    """Each statement is looked at, not only the first."""
    block = db.sync.session()
    session = await asyncio.to_thread(block.__enter__)
    await asyncio.to_thread(session.execute, select(1))
    with pytest.raises(EventLoopBlocked) as raised:
        session.execute(select(1))
    await asyncio.to_thread(block.__exit__, EventLoopBlocked, raised.value, None)


@pytest.mark.backends("sqlite-file")
async def test_a_plain_engine_is_left_alone(
    backend: Backend, no_blocking_calls: BlockBuster
) -> None:
    """`create_sync_engine` is a drop-in: it does what SQLAlchemy's does."""
    no_blocking_calls.deactivate()
    engine = create_sync_engine(backend.url)
    with engine.connect() as connection:
        assert connection.scalar(select(1)) == 1
    engine.dispose()


@twins
async def test_endpoints(backend: Backend) -> None:
    """`def` endpoints and the end of their sessions run in threads; `async def` does not."""
    db = Database(backend.url)
    app = FastAPI(lifespan=db.lifespan)

    @app.post("/def")
    def create(session: SyncSessionDep) -> None:
        session.add(Item(name="a"))

    @app.post("/async-def")
    async def create_on_loop(session: SyncSessionDep) -> None:
        session.add(Item(name="b"))
        session.flush()

    async with serving(app, db, sync=True) as client:
        assert (await client.request("POST", "/def")).status == 200
        answer = await client.request("POST", "/async-def")
        assert answer.status == 500
        assert isinstance(answer.error, EventLoopBlocked)
        assert await client.rows() == ["a"]
