"""The four ways to serve that the claims are about, each as an app with the same endpoints.

    GET /query/{milliseconds}    a query that takes that long
    POST /conversions            reads rates, asks another service for 40 ms, writes one row
    GET /work                    five queries of 50 ms, one after the other
    GET /compute                 250 ms of Python's own work

Synchronous ones wait with `time.sleep` for the other service, as a synchronous HTTP client does.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Annotated

from anyio import to_thread
from fastapi import Depends, FastAPI
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

from peers import claim_work as work
from peers.claim_work import ConversionIn, ConversionOut
from peers.engines import make_engine, make_sync_engine
from peers.places import Place


def threads(place: Place, limit: int) -> FastAPI:
    """`def` endpoints, which FastAPI runs in its pool of `limit` threads (40, if not told)."""
    engine = make_sync_engine(place)
    get_db = _get_sync_db(sessionmaker(engine, expire_on_commit=False))
    SessionDep = Annotated[Session, Depends(get_db)]  # noqa: N806

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        to_thread.current_default_thread_limiter().total_tokens = limit
        yield
        engine.dispose()

    app = FastAPI(lifespan=lifespan)

    @app.get("/query/{milliseconds}")
    def query(milliseconds: int, session: SessionDep) -> None:
        session.execute(work.slow(place.database, milliseconds))

    @app.post("/conversions", status_code=201)
    def convert(wanted: ConversionIn, session: SessionDep) -> ConversionOut:
        rates = session.scalars(work.rates(wanted)).all()
        time.sleep(work.OUTWARD_SECONDS)
        conversion = work.convert(wanted, rates)
        session.add(conversion)
        session.commit()
        return ConversionOut.model_validate(conversion)

    @app.get("/work")
    def do_work(session: SessionDep) -> None:
        for _ in range(work.QUERIES):
            session.execute(work.slow(place.database, work.QUERY_MS))

    @app.get("/compute")
    def compute() -> int:
        return work.compute()

    return app


def blocking(place: Place, _limit: int) -> FastAPI:
    """Synchronous calls in `async def` endpoints: each stops the event loop until it is done."""
    engine = make_sync_engine(place)
    session_local = sessionmaker(engine, expire_on_commit=False)

    async def get_db() -> AsyncIterator[Session]:
        with session_local() as session:
            yield session

    SessionDep = Annotated[Session, Depends(get_db)]  # noqa: N806

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        engine.dispose()

    app = FastAPI(lifespan=lifespan)

    @app.get("/query/{milliseconds}")
    async def query(milliseconds: int, session: SessionDep) -> None:
        session.execute(work.slow(place.database, milliseconds))

    @app.post("/conversions", status_code=201)
    async def convert(wanted: ConversionIn, session: SessionDep) -> ConversionOut:
        rates = session.scalars(work.rates(wanted)).all()
        time.sleep(work.OUTWARD_SECONDS)  # noqa: ASYNC251 - this is what the way is about
        conversion = work.convert(wanted, rates)
        session.add(conversion)
        session.commit()
        return ConversionOut.model_validate(conversion)

    @app.get("/work")
    async def do_work(session: SessionDep) -> None:
        for _ in range(work.QUERIES):
            session.execute(work.slow(place.database, work.QUERY_MS))

    @app.get("/compute")
    async def compute() -> int:
        return work.compute()

    return app


def by_hand(place: Place, _limit: int) -> FastAPI:
    """The async session that one writes by hand."""
    engine = make_engine(place)
    session_local = async_sessionmaker(engine, expire_on_commit=False)

    async def get_db() -> AsyncIterator[AsyncSession]:
        async with session_local() as session:
            yield session

    SessionDep = Annotated[AsyncSession, Depends(get_db)]  # noqa: N806

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await engine.dispose()

    app = FastAPI(lifespan=lifespan)

    @app.get("/query/{milliseconds}")
    async def query(milliseconds: int, session: SessionDep) -> None:
        await session.execute(work.slow(place.database, milliseconds))

    @app.post("/conversions", status_code=201)
    async def convert(wanted: ConversionIn, session: SessionDep) -> ConversionOut:
        rates = (await session.scalars(work.rates(wanted))).all()
        await asyncio.sleep(work.OUTWARD_SECONDS)
        conversion = work.convert(wanted, rates)
        session.add(conversion)
        await session.commit()
        return ConversionOut.model_validate(conversion)

    @app.get("/work")
    async def do_work(session: SessionDep) -> None:
        for _ in range(work.QUERIES):
            await session.execute(work.slow(place.database, work.QUERY_MS))

    @app.get("/compute")
    async def compute() -> int:
        return work.compute()

    return app


def fastdb(place: Place, _limit: int) -> FastAPI:
    """fastdb, as its documentation has it: nothing is held while another service is asked."""
    from fastdb import Database, DatabaseDep, PoolOptions, ReadSessionDep, Timeouts

    db = Database(
        place.url,
        pool=PoolOptions(size=place.pool_size, max_overflow=place.max_overflow),
        timeouts=Timeouts(pool=place.pool_timeout),
    )
    app = FastAPI(lifespan=db.lifespan)

    @app.get("/query/{milliseconds}")
    async def query(milliseconds: int, session: ReadSessionDep) -> None:
        await session.execute(work.slow(place.database, milliseconds))

    @app.post("/conversions", status_code=201)
    async def convert(wanted: ConversionIn, db: DatabaseDep) -> ConversionOut:
        async with db.read_session() as session:
            rates = (await session.scalars(work.rates(wanted))).all()
        await asyncio.sleep(work.OUTWARD_SECONDS)
        conversion = work.convert(wanted, rates)
        async with db.session() as session:
            session.add(conversion)
        return ConversionOut.model_validate(conversion)

    @app.get("/work")
    async def do_work(session: ReadSessionDep) -> None:
        for _ in range(work.QUERIES):
            await session.execute(work.slow(place.database, work.QUERY_MS))

    @app.get("/compute")
    async def compute() -> int:
        return work.compute()

    return app


def _get_sync_db(session_local: sessionmaker[Session]) -> Callable[[], Iterator[Session]]:
    def get_db() -> Iterator[Session]:
        with session_local() as session:
            yield session

    return get_db


WAYS: dict[str, Callable[[Place, int], FastAPI]] = {
    "synchronous": threads,
    "blocking-in-async": blocking,
    "hand-written async": by_hand,
    "fastdb": fastdb,
}
