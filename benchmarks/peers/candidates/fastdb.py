"""fastdb as its documentation has it: ReadSessionDep under GET, SessionDep to write."""

from typing import Any

from fastapi import FastAPI
from sqlalchemy import Row

from fastdb import Database, PoolOptions, ReadSessionDep, SessionDep, Timeouts
from models import Hero, HeroIn, HeroOut, HeroWithTeam
from peers import work
from peers.places import Place


def make_app(place: Place, read_dep: Any = ReadSessionDep) -> FastAPI:
    db = _database(place)
    app = FastAPI(lifespan=db.lifespan)
    app.state.engines = lambda: [db.engine, db.read_engine]

    @app.get("/heroes/{hero_id}", response_model=HeroOut)
    async def read_hero(hero_id: int, session: read_dep) -> Hero:
        return await work.read_hero(session, hero_id)

    @app.get("/core/{hero_id}", response_model=HeroOut)
    async def read_columns(hero_id: int, session: read_dep) -> Row[tuple[int, str, int]]:
        return await work.read_columns(session, hero_id)

    @app.get("/heroes", response_model=list[HeroWithTeam])
    async def list_heroes(session: read_dep) -> list[Hero]:
        return await work.list_heroes(session)

    @app.post("/heroes", status_code=201, response_model=HeroOut)
    async def create_hero(hero_in: HeroIn, session: SessionDep) -> Hero:
        return await work.add_hero(session, hero_in)

    @app.post("/increment")
    async def increment(session: SessionDep) -> dict[str, int]:
        # On SQLite no update is lost without it; on servers it is what the documentation tells.
        return await work.increment(session, locked=place.database != "sqlite")

    @app.post("/increment-locked")
    async def increment_locked(session: SessionDep) -> dict[str, int]:
        return await work.increment(session, locked=True)

    @app.get("/nothing")
    async def nothing(session: read_dep) -> None:
        pass

    @app.get("/sleep/{milliseconds}")
    async def sleep(milliseconds: int, session: read_dep) -> None:
        await work.sleep(session, milliseconds)

    return app


def _database(place: Place) -> Database:
    if not place.tuned:
        return Database(place.url)
    return Database(
        place.url,
        pool=PoolOptions(size=place.pool_size, max_overflow=place.max_overflow),
        timeouts=Timeouts(pool=place.pool_timeout),
    )
