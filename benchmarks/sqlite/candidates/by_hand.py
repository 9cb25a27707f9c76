"""The dependency that the documentation of FastAPI and SQLAlchemy teaches to write by hand."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)

from sqlite.models import Counter, Hero, HeroIn, HeroOut


def make_app(path: Path) -> FastAPI:
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    return app_on(engine, engine)


def app_on(read_engine: AsyncEngine, write_engine: AsyncEngine) -> FastAPI:
    ReadSessionDep = Annotated[AsyncSession, Depends(_get_db(read_engine))]  # noqa: N806
    SessionDep = Annotated[AsyncSession, Depends(_get_db(write_engine))]  # noqa: N806

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await read_engine.dispose()
        await write_engine.dispose()

    app = FastAPI(lifespan=lifespan)

    @app.get("/heroes/{hero_id}", response_model=HeroOut)
    async def read_hero(hero_id: int, session: ReadSessionDep) -> Hero:
        hero = await session.get(Hero, hero_id)
        if hero is None:
            raise HTTPException(404)
        return hero

    @app.get("/core/{hero_id}", response_model=HeroOut)
    async def read_columns(hero_id: int, session: ReadSessionDep) -> Row[tuple[int, str, int]]:
        statement = select(Hero.id, Hero.name, Hero.age).where(Hero.id == hero_id)
        return (await session.execute(statement)).one()

    @app.get("/heroes", response_model=list[HeroOut])
    async def list_heroes(session: ReadSessionDep) -> list[Hero]:
        return list(await session.scalars(select(Hero).order_by(Hero.id).limit(100)))

    @app.post("/heroes", status_code=201, response_model=HeroOut)
    async def create_hero(hero_in: HeroIn, session: SessionDep) -> Hero:
        hero = Hero(name=hero_in.name, age=hero_in.age)
        session.add(hero)
        await session.commit()
        return hero

    @app.post("/increment")
    async def increment(session: SessionDep) -> dict[str, int]:
        counter = await session.get_one(Counter, 1)
        counter.value += 1
        await session.commit()
        return {"id": counter.id, "value": counter.value}

    return app


def _get_db(engine: AsyncEngine) -> Callable[[], AsyncIterator[AsyncSession]]:
    session_local = async_sessionmaker(engine, expire_on_commit=False)

    async def get_db() -> AsyncIterator[AsyncSession]:
        async with session_local() as session:
            yield session

    return get_db
