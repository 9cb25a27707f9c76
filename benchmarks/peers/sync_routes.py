"""The routes of the synchronous candidates, for threads or for the event loop."""

import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException
from sqlalchemy import Engine, Row, select
from sqlalchemy.orm import Session

from models import Counter, Hero, HeroIn, HeroOut, HeroWithTeam
from peers import work
from peers.engines import make_sync_engine
from peers.places import Place

_Endpoint = Callable[..., Any]


def open_engine(
    place: Place,
) -> tuple[Engine, Callable[[FastAPI], AbstractAsyncContextManager[None]]]:
    """Return an engine, and the lifespan that closes it."""
    engine = make_sync_engine(place)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        engine.dispose()

    return engine, lifespan


def add_routes(app: FastAPI, session_dep: Any, *, inline: bool = False) -> None:
    """Give an app its routes: with `inline`, they run on the event loop."""
    place = _on_the_loop if inline else _in_a_thread
    _add_reads(app, session_dep, place)
    _add_writes(app, session_dep, place)


def _add_reads(app: FastAPI, session_dep: Any, place: Callable[[_Endpoint], _Endpoint]) -> None:
    @app.get("/heroes/{hero_id}", response_model=HeroOut)
    @place
    def read_hero(hero_id: int, session: session_dep) -> Hero:
        hero: Hero | None = session.get(Hero, hero_id)
        if hero is None:
            raise HTTPException(404)
        return hero

    @app.get("/core/{hero_id}", response_model=HeroOut)
    @place
    def read_columns(hero_id: int, session: session_dep) -> Row[tuple[int, str, int]]:
        row: Row[tuple[int, str, int]] = session.execute(
            select(*work.COLUMNS).where(Hero.id == hero_id)
        ).one()
        return row

    @app.get("/heroes", response_model=list[HeroWithTeam])
    @place
    def list_heroes(session: session_dep) -> list[Hero]:
        return list(session.scalars(work.LISTED))

    @app.get("/nothing")
    @place
    def nothing(session: session_dep) -> None:
        pass

    @app.get("/sleep/{milliseconds}")
    @place
    def sleep(milliseconds: int, session: session_dep) -> None:
        session.execute(work.sleeping(session.get_bind().dialect.name, milliseconds))


def _add_writes(app: FastAPI, session_dep: Any, place: Callable[[_Endpoint], _Endpoint]) -> None:
    @app.post("/heroes", status_code=201, response_model=HeroOut)
    @place
    def create_hero(hero_in: HeroIn, session: session_dep) -> Hero:
        hero = Hero(name=hero_in.name, age=hero_in.age)
        session.add(hero)
        session.commit()
        return hero

    @app.post("/increment")
    @place
    def increment(session: session_dep) -> dict[str, int]:
        return _increment(session, locked=False)

    @app.post("/increment-locked")
    @place
    def increment_locked(session: session_dep) -> dict[str, int]:
        return _increment(session, locked=True)


def _increment(session: Session, *, locked: bool) -> dict[str, int]:
    counter = session.get_one(Counter, 1, with_for_update=locked or None)
    counter.value += 1
    session.commit()
    return {"id": counter.id, "value": counter.value}


def _in_a_thread(endpoint: _Endpoint) -> _Endpoint:
    return endpoint


def _on_the_loop(endpoint: _Endpoint) -> _Endpoint:
    async def on_the_loop(**arguments: Any) -> Any:
        return endpoint(**arguments)

    on_the_loop.__signature__ = inspect.signature(endpoint)  # type: ignore[attr-defined]
    return on_the_loop
