"""context-async-sqlalchemy: a middleware, and `await db_session(connection)` in the endpoint."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from context_async_sqlalchemy import DBConnect, db_session
from context_async_sqlalchemy.fastapi_utils import add_fastapi_http_db_session_middleware
from fastapi import FastAPI
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine

from models import Hero, HeroIn, HeroOut, HeroWithTeam
from peers import work
from peers.engines import make_engine
from peers.places import Place


def make_app(place: Place) -> FastAPI:
    engines: list[AsyncEngine] = []

    def create_engine(host: str) -> AsyncEngine:
        # Its documentation pings each connection; the pool that all share does not.
        if place.tuned:
            engines[:] = [make_engine(place)]
        else:
            engines[:] = [create_async_engine(host, pool_pre_ping=True)]
        return engines[0]

    connection = DBConnect(
        host=place.url,
        engine_creator=create_engine,
        session_maker_creator=lambda engine: async_sessionmaker(engine, expire_on_commit=False),
    )

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await connection.close()

    app = FastAPI(lifespan=lifespan)
    app.state.engines = lambda: engines
    add_fastapi_http_db_session_middleware(app)
    _add_routes(app, connection)
    return app


def _add_routes(app: FastAPI, connection: DBConnect) -> None:
    @app.get("/heroes/{hero_id}", response_model=HeroOut)
    async def read_hero(hero_id: int) -> Hero:
        return await work.read_hero(await db_session(connection), hero_id)

    @app.get("/core/{hero_id}", response_model=HeroOut)
    async def read_columns(hero_id: int) -> Row[tuple[int, str, int]]:
        return await work.read_columns(await db_session(connection), hero_id)

    @app.get("/heroes", response_model=list[HeroWithTeam])
    async def list_heroes() -> list[Hero]:
        return await work.list_heroes(await db_session(connection))

    @app.post("/heroes", status_code=201, response_model=HeroOut)
    async def create_hero(hero_in: HeroIn) -> Hero:
        return await work.add_hero(await db_session(connection), hero_in)

    @app.post("/increment")
    async def increment() -> dict[str, int]:
        return await work.increment(await db_session(connection))

    @app.post("/increment-locked")
    async def increment_locked() -> dict[str, int]:
        return await work.increment(await db_session(connection), locked=True)

    @app.get("/nothing")
    async def nothing() -> None:
        await db_session(connection)

    @app.get("/sleep/{milliseconds}")
    async def sleep(milliseconds: int) -> None:
        await work.sleep(await db_session(connection), milliseconds)
