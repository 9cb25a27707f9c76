"""The floor: what FastAPI itself costs."""

import asyncio

from fastapi import FastAPI

from models import HeroIn, HeroOut, HeroWithTeam
from peers.places import Place

_TEAMS = [{"id": n + 1, "name": f"Team {n}"} for n in range(10)]
_HEROES = [
    {"id": n + 1, "name": f"Hero {n}", "age": n % 90, "team": _TEAMS[n % 10]} for n in range(100)
]


def make_app(_place: Place) -> FastAPI:
    app = FastAPI()
    count = 0

    @app.get("/heroes/{hero_id}", response_model=HeroOut)
    @app.get("/core/{hero_id}", response_model=HeroOut)
    async def read_hero(hero_id: int) -> dict[str, object]:
        return _HEROES[hero_id - 1]

    @app.get("/heroes", response_model=list[HeroWithTeam])
    async def list_heroes() -> list[dict[str, object]]:
        return _HEROES

    @app.post("/heroes", status_code=201, response_model=HeroOut)
    async def create_hero(hero_in: HeroIn) -> dict[str, object]:
        return {"id": 1001, "name": hero_in.name, "age": hero_in.age}

    @app.post("/increment")
    @app.post("/increment-locked")
    async def increment() -> dict[str, int]:
        nonlocal count
        count += 1
        return {"id": 1, "value": count}

    @app.get("/nothing")
    async def nothing() -> None:
        pass

    @app.get("/sleep/{milliseconds}")
    async def sleep(milliseconds: int) -> None:
        await asyncio.sleep(milliseconds / 1000)

    return app
