"""fastdb's session for endpoints that only read."""

from fastapi import FastAPI, HTTPException

from fastdb import Database, ReadSessionDep
from models import Hero, HeroOut


def make_app(url: str) -> FastAPI:
    app = FastAPI(lifespan=Database(url).lifespan)

    @app.get("/nothing")
    async def nothing(session: ReadSessionDep) -> None:
        pass

    @app.get("/heroes/{hero_id}", response_model=HeroOut)
    async def read_hero(hero_id: int, session: ReadSessionDep) -> Hero:
        hero = await session.get(Hero, hero_id)
        if hero is None:
            raise HTTPException(404)
        return hero

    return app
