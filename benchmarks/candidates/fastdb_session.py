"""fastdb's session: the dependency commits, before the response is sent."""

from fastapi import FastAPI, HTTPException

from fastdb import Database, SessionDep
from models import Hero, HeroIn, HeroOut


def make_app(url: str) -> FastAPI:
    app = FastAPI(lifespan=Database(url).lifespan)

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
