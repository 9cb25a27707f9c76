"""How often a request waits for the server, counted on the wire.

In production a round trip costs more than everything else that a library does. Counted are
requests as they are in service: the connection open, the statement known to driver and server.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from backends import Backend
from fastdb import Database, PoolOptions, ReadSessionDep, SessionDep, SnapshotSessionDep
from proxy import Proxy

# psycopg prepares a statement when it is executed for the sixth time.
WARM_UP_REQUESTS = 8


class Base(DeclarativeBase):
    pass


class Hero(Base):
    __tablename__ = "hero"

    id: Mapped[int] = mapped_column(primary_key=True)
    age: Mapped[int]


router = APIRouter()


@router.get("/nothing")
async def nothing(session: SessionDep) -> None:
    pass


@router.get("/read")
async def read(session: ReadSessionDep) -> int | None:
    return await session.scalar(select(Hero.age).where(Hero.id == 1))


@router.get("/snapshot")
async def snapshot(session: SnapshotSessionDep) -> int | None:
    return await session.scalar(select(Hero.age).where(Hero.id == 1))


@router.get("/session")
async def session_read(session: SessionDep) -> int | None:
    return await session.scalar(select(Hero.age).where(Hero.id == 1))


@router.post("/session")
async def session_write(session: SessionDep) -> None:
    await session.execute(insert(Hero).values(age=30))


@pytest.fixture
async def proxy(backend: Backend) -> AsyncIterator[Proxy]:
    """A proxy before the server under test, whose database has one hero."""
    engine = create_async_engine(backend.url)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(insert(Hero).values(age=30))
    await engine.dispose()
    async with Proxy.before(backend.url) as proxy:
        yield proxy


@asynccontextmanager
async def by_hand(url: str) -> AsyncIterator[FastAPI]:
    """An app with the session dependency of the documentation."""
    engine = create_async_engine(url)
    session_local = async_sessionmaker(engine, expire_on_commit=False)

    async def get_db() -> AsyncIterator[AsyncSession]:
        async with session_local() as session:
            yield session

    app = FastAPI()

    @app.get("/read")
    async def read(session: Annotated[AsyncSession, Depends(get_db)]) -> int | None:
        return await session.scalar(select(Hero.age).where(Hero.id == 1))

    yield app
    await engine.dispose()


@asynccontextmanager
async def with_fastdb(url: str) -> AsyncIterator[FastAPI]:
    """An app with fastdb's sessions."""
    # A slow machine may let a connection idle for long enough that it is asked whether it lives.
    db = Database(url, pool=PoolOptions(ping_after=None))
    app = FastAPI()
    app.include_router(router)
    async with db.lifespan(app):
        yield app


async def count_round_trips(proxy: Proxy, app: FastAPI, method: str, path: str) -> int:
    """Return the round trips of one request, after others like it."""
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for _ in range(WARM_UP_REQUESTS):
            (await client.request(method, path)).raise_for_status()
        with proxy.counted() as count:
            (await client.request(method, path)).raise_for_status()
    assert count.connections == 0
    return count.round_trips


@pytest.mark.backends("postgresql", "mysql")
async def test_read_session_takes_one_round_trip(proxy: Proxy) -> None:
    """A single SELECT in a read session is all that the server hears of a request."""
    async with with_fastdb(proxy.url) as app:
        assert await count_round_trips(proxy, app, "GET", "/read") == 1


@pytest.mark.backends("postgresql")
async def test_hand_written_session_takes_three_on_postgresql(proxy: Proxy) -> None:
    """What is compared with: BEGIN, SELECT, ROLLBACK."""
    async with by_hand(proxy.url) as app:
        assert await count_round_trips(proxy, app, "GET", "/read") == 3


@pytest.mark.backends("mysql")
async def test_hand_written_session_takes_three_on_mysql(proxy: Proxy) -> None:
    """What is compared with: SELECT, ROLLBACK by the session, ROLLBACK by the pool."""
    async with by_hand(proxy.url) as app:
        assert await count_round_trips(proxy, app, "GET", "/read") == 3


@pytest.mark.backends("postgresql", "mysql")
async def test_unused_session_takes_none(proxy: Proxy) -> None:
    """A request that does not touch its session does not touch the server."""
    async with with_fastdb(proxy.url) as app:
        assert await count_round_trips(proxy, app, "GET", "/nothing") == 0


@pytest.mark.backends("postgresql")
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_session_takes_three_on_postgresql(proxy: Proxy, method: str) -> None:
    """BEGIN, the statement, COMMIT: as many as by hand."""
    async with with_fastdb(proxy.url) as app:
        assert await count_round_trips(proxy, app, method, "/session") == 3


@pytest.mark.backends("mysql")
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_session_takes_two_on_mysql(proxy: Proxy, method: str) -> None:
    """The statement, which begins by itself, and COMMIT; by hand the pool's ROLLBACK is a third."""
    async with with_fastdb(proxy.url) as app:
        assert await count_round_trips(proxy, app, method, "/session") == 2


@pytest.mark.backends("postgresql", "mysql")
async def test_snapshot_takes_three(proxy: Proxy) -> None:
    """BEGIN READ ONLY, the statement, ROLLBACK: one consistent view has its price."""
    async with with_fastdb(proxy.url) as app:
        assert await count_round_trips(proxy, app, "GET", "/snapshot") == 3
