"""fastdb, with the options given: the dependency commits, before the response is sent."""

from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException
from sqlalchemy import Row, select

from fastdb import Database, SessionDep
from sqlite.models import Counter, Hero, HeroIn, HeroOut


def make_app(path: Path, read_dep: Any = SessionDep, **options: Any) -> FastAPI:
    app = FastAPI(lifespan=Database(f"sqlite:///{path}", **options).lifespan)

    @app.get("/heroes/{hero_id}", response_model=HeroOut)
    async def read_hero(hero_id: int, session: read_dep) -> Hero:
        hero = await session.get(Hero, hero_id)
        if hero is None:
            raise HTTPException(404)
        return hero

    @app.get("/core/{hero_id}", response_model=HeroOut)
    async def read_columns(hero_id: int, session: read_dep) -> Row[tuple[int, str, int]]:
        statement = select(Hero.id, Hero.name, Hero.age).where(Hero.id == hero_id)
        return (await session.execute(statement)).one()

    @app.get("/heroes", response_model=list[HeroOut])
    async def list_heroes(session: read_dep) -> list[Hero]:
        return list(await session.scalars(select(Hero).order_by(Hero.id).limit(100)))

    @app.post("/heroes", status_code=201, response_model=HeroOut)
    async def create_hero(hero_in: HeroIn, session: SessionDep) -> Hero:
        hero = Hero(name=hero_in.name, age=hero_in.age)
        session.add(hero)
        await session.flush()  # the response tells its id
        return hero

    @app.post("/increment")
    async def increment(session: SessionDep) -> dict[str, int]:
        counter = await session.get_one(Counter, 1)
        counter.value += 1
        return {"id": counter.id, "value": counter.value}

    return app
