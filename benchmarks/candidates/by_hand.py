"""The dependency that the documentation of FastAPI and SQLAlchemy teaches to write by hand."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy import event
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)

from models import Hero, HeroIn, HeroOut


def make_app(url: str) -> FastAPI:
    return _app_on(create_async_engine(url))


def make_tuned_app(url: str) -> FastAPI:
    """The same with the pragmas that SQLite needs in order to serve, as fastdb sets them."""
    engine = create_async_engine(url)

    @event.listens_for(engine.sync_engine, "connect")
    def set_pragmas(dbapi_connection: Any, _record: Any) -> None:
        cursor = dbapi_connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    return _app_on(engine)


def _app_on(engine: AsyncEngine) -> FastAPI:
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

    @app.get("/nothing")
    async def nothing(session: SessionDep) -> None:
        pass

    @app.get("/heroes/{hero_id}", response_model=HeroOut)
    async def read_hero(hero_id: int, session: SessionDep) -> Hero:
        hero = await session.get(Hero, hero_id)
        if hero is None:
            raise HTTPException(404)
        return hero

    @app.post("/heroes", status_code=201, response_model=HeroOut)
    async def create_hero(hero_in: HeroIn, session: SessionDep) -> Hero:
        hero = Hero(name=hero_in.name, age=hero_in.age)
        session.add(hero)
        await session.commit()
        return hero

    return app
