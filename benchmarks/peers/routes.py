"""The routes of libraries whose dependency hands out a session and commits it."""

from typing import Any

from fastapi import FastAPI
from sqlalchemy import Row

from models import Hero, HeroIn, HeroOut, HeroWithTeam
from peers import work


def add_routes(
    app: FastAPI, session_dep: Any, read_dep: Any = None, *, locks: bool = False
) -> None:
    """Give an app its routes.

    Args:
        app: The app.
        session_dep: What the annotation of an endpoint's session is.
        read_dep: The same where an endpoint only reads, if that is another one.
        locks: Whether a read-modify-write takes a lock: if the library's documentation says so.
    """
    _add_reads(app, read_dep or session_dep)

    @app.post("/heroes", status_code=201, response_model=HeroOut)
    async def create_hero(hero_in: HeroIn, session: session_dep) -> Hero:
        return await work.add_hero(session, hero_in)

    @app.post("/increment")
    async def increment(session: session_dep) -> dict[str, int]:
        return await work.increment(session, locked=locks)

    @app.post("/increment-locked")
    async def increment_locked(session: session_dep) -> dict[str, int]:
        return await work.increment(session, locked=True)


def _add_reads(app: FastAPI, read_dep: Any) -> None:
    @app.get("/heroes/{hero_id}", response_model=HeroOut)
    async def read_hero(hero_id: int, session: read_dep) -> Hero:
        return await work.read_hero(session, hero_id)

    @app.get("/core/{hero_id}", response_model=HeroOut)
    async def read_columns(hero_id: int, session: read_dep) -> Row[tuple[int, str, int]]:
        return await work.read_columns(session, hero_id)

    @app.get("/heroes", response_model=list[HeroWithTeam])
    async def list_heroes(session: read_dep) -> list[Hero]:
        return await work.list_heroes(session)

    @app.get("/nothing")
    async def nothing(session: read_dep) -> None:
        pass

    @app.get("/sleep/{milliseconds}")
    async def sleep(milliseconds: int, session: read_dep) -> None:
        await work.sleep(session, milliseconds)
