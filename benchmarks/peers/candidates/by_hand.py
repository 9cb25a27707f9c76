"""The dependency that the documentation of FastAPI and SQLAlchemy teaches to write by hand."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from models import Hero, HeroIn, HeroOut, HeroWithTeam
from peers import work
from peers.engines import make_engine
from peers.places import Place


def make_app(place: Place) -> FastAPI:
    engine = make_engine(place)
    session_local = async_sessionmaker(engine, expire_on_commit=False)

    async def get_db() -> AsyncIterator[AsyncSession]:
        async with session_local() as session:
            yield session

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await engine.dispose()

    app = FastAPI(lifespan=lifespan)
    app.state.engines = lambda: [engine]
    _add_routes(app, Annotated[AsyncSession, Depends(get_db)])
    return app


def _add_routes(app: FastAPI, session_dep: Any) -> None:
    @app.get("/heroes/{hero_id}", response_model=HeroOut)
    async def read_hero(hero_id: int, session: session_dep) -> Hero:
        return await work.read_hero(session, hero_id)

    @app.get("/core/{hero_id}", response_model=HeroOut)
    async def read_columns(hero_id: int, session: session_dep) -> Row[tuple[int, str, int]]:
        return await work.read_columns(session, hero_id)

    @app.get("/heroes", response_model=list[HeroWithTeam])
    async def list_heroes(session: session_dep) -> list[Hero]:
        return await work.list_heroes(session)

    @app.post("/heroes", status_code=201, response_model=HeroOut)
    async def create_hero(hero_in: HeroIn, session: session_dep) -> Hero:
        hero = await work.add_hero(session, hero_in)
        await session.commit()
        return hero

    @app.post("/increment")
    async def increment(session: session_dep) -> dict[str, int]:
        counter = await work.increment(session)
        await session.commit()
        return counter

    @app.post("/increment-locked")
    async def increment_locked(session: session_dep) -> dict[str, int]:
        counter = await work.increment(session, locked=True)
        await session.commit()
        return counter

    @app.get("/nothing")
    async def nothing(session: session_dep) -> None:
        pass

    @app.get("/sleep/{milliseconds}")
    async def sleep(milliseconds: int, session: session_dep) -> None:
        await work.sleep(session, milliseconds)
