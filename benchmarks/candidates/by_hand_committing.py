"""A dependency written by hand that commits for its endpoints, before the response is sent.

What fastdb's SessionDep does for an endpoint that only reads must be compared with this one.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from models import Hero, HeroIn, HeroOut


def make_app(url: str) -> FastAPI:
    engine = create_async_engine(url)
    session_local = async_sessionmaker(engine, expire_on_commit=False)

    async def get_db() -> AsyncIterator[AsyncSession]:
        async with session_local() as session:
            yield session
            await session.commit()

    SessionDep = Annotated[AsyncSession, Depends(get_db, scope="function")]  # noqa: N806

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
        await session.flush()  # the response tells its id
        return hero

    return app
