"""The floor of what SQLAlchemy costs: synchronous, on the event loop, which waits meanwhile.

Nobody should serve like this. One slow statement, or one lock that another process holds, stops
every request.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from fastapi import Depends, FastAPI
from sqlalchemy import Row
from sqlalchemy.orm import Session, sessionmaker

from sqlite.candidates import sync_routes as work
from sqlite.models import Hero, HeroIn, HeroOut


def make_app(path: Path) -> FastAPI:
    engine = work.make_engine(path, pool_size=5)
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

    @app.get("/heroes/{hero_id}", response_model=HeroOut)
    async def read_hero(hero_id: int, session: SessionDep) -> Hero:
        return work.read_hero(session, hero_id)

    @app.get("/core/{hero_id}", response_model=HeroOut)
    async def read_columns(hero_id: int, session: SessionDep) -> Row[tuple[int, str, int]]:
        return work.read_columns(session, hero_id)

    @app.get("/heroes", response_model=list[HeroOut])
    async def list_heroes(session: SessionDep) -> list[Hero]:
        return work.list_heroes(session)

    @app.post("/heroes", status_code=201, response_model=HeroOut)
    async def create_hero(hero_in: HeroIn, session: SessionDep) -> Hero:
        return work.create_hero(session, hero_in)

    @app.post("/increment")
    async def increment(session: SessionDep) -> dict[str, int]:
        return work.increment(session)

    return app
