"""fastapi-async-sqlalchemy: a middleware, and `db.session` wherever it is needed."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi_async_sqlalchemy import create_middleware_and_session_proxy
from sqlalchemy import Row

from models import Hero, HeroIn, HeroOut, HeroWithTeam
from peers import work
from peers.engines import make_engine
from peers.places import Place


def make_app(place: Place) -> FastAPI:
    middleware, db = create_middleware_and_session_proxy()
    engine = make_engine(place)  # as the middleware would, with none of its engine_args

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await engine.dispose()

    app = FastAPI(lifespan=lifespan)
    app.state.engines = lambda: [engine]
    app.add_middleware(middleware, custom_engine=engine, commit_on_exit=True)
    _add_routes(app, db)
    return app


def _add_routes(app: FastAPI, db: Any) -> None:
    @app.get("/heroes/{hero_id}", response_model=HeroOut)
    async def read_hero(hero_id: int) -> Hero:
        return await work.read_hero(db.session, hero_id)

    @app.get("/core/{hero_id}", response_model=HeroOut)
    async def read_columns(hero_id: int) -> Row[tuple[int, str, int]]:
        return await work.read_columns(db.session, hero_id)

    @app.get("/heroes", response_model=list[HeroWithTeam])
    async def list_heroes() -> list[Hero]:
        return await work.list_heroes(db.session)

    @app.post("/heroes", status_code=201, response_model=HeroOut)
    async def create_hero(hero_in: HeroIn) -> Hero:
        return await work.add_hero(db.session, hero_in)

    @app.post("/increment")
    async def increment() -> dict[str, int]:
        return await work.increment(db.session)

    @app.post("/increment-locked")
    async def increment_locked() -> dict[str, int]:
        return await work.increment(db.session, locked=True)

    @app.get("/nothing")
    async def nothing() -> None:
        _ = db.session

    @app.get("/sleep/{milliseconds}")
    async def sleep(milliseconds: int) -> None:
        await work.sleep(db.session, milliseconds)
