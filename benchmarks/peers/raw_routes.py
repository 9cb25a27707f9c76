"""The routes of the raw drivers: SQL by hand, written once for all of them.

The parameters are written `?` here, and as the driver wants them when the app is made.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from itertools import count

from fastapi import FastAPI, HTTPException

from models import HeroIn, HeroOut, HeroWithTeam
from peers.places import Place

Row = Sequence[object]
Fetch = Callable[..., Awaitable[Sequence[Row]]]

_READ = "SELECT id, name, age FROM fastdb_benchmark_hero WHERE id = ?"
_LIST = (
    "SELECT h.id, h.name, h.age, t.id, t.name FROM fastdb_benchmark_hero h"
    " LEFT JOIN fastdb_benchmark_team t ON t.id = h.team_id ORDER BY h.id LIMIT 100"
)
_INSERT = "INSERT INTO fastdb_benchmark_hero (name, age) VALUES (?, ?) RETURNING id"
_VALUE = "SELECT value FROM fastdb_benchmark_counter WHERE id = 1"
_SET_VALUE = "UPDATE fastdb_benchmark_counter SET value = ? WHERE id = 1"
_SLEEP = {
    "sqlite": "SELECT sleep_ms(? * 1000.0)",
    "postgresql": "SELECT pg_sleep(?)",
    "mariadb": "SELECT SLEEP(?)",
}


@dataclass(frozen=True)
class Driver:
    """What a raw driver has to offer.

    Attributes:
        reading: Gives a function that fetches rows; each statement is its own transaction.
        writing: The same in a transaction, which is committed at the end of the block.
        parameter: How the driver writes the parameter with this number, from 1.
    """

    reading: Callable[[], AbstractAsyncContextManager[Fetch]]
    writing: Callable[[], AbstractAsyncContextManager[Fetch]]
    parameter: Callable[[int], str]

    def spell(self, statement: str) -> str:
        numbers = count(1)
        first, *others = statement.split("?")
        return first + "".join(self.parameter(next(numbers)) + other for other in others)


def add_routes(app: FastAPI, driver: Driver, place: Place) -> None:
    _add_reads(app, driver, place)
    _add_writes(app, driver, place)


def _add_reads(app: FastAPI, driver: Driver, place: Place) -> None:
    read, listed, slept = map(driver.spell, (_READ, _LIST, _SLEEP[place.database]))

    @app.get("/heroes/{hero_id}", response_model=HeroOut)
    @app.get("/core/{hero_id}", response_model=HeroOut)
    async def read_hero(hero_id: int) -> dict[str, object]:
        async with driver.reading() as fetch:
            rows = await fetch(read, hero_id)
        for row in rows:
            return {"id": row[0], "name": row[1], "age": row[2]}
        raise HTTPException(404)

    @app.get("/heroes", response_model=list[HeroWithTeam])
    async def list_heroes() -> list[dict[str, object]]:
        async with driver.reading() as fetch:
            rows = await fetch(listed)
        return [
            {"id": row[0], "name": row[1], "age": row[2], "team": {"id": row[3], "name": row[4]}}
            for row in rows
        ]

    @app.get("/nothing")
    async def nothing() -> None:
        pass

    @app.get("/sleep/{milliseconds}")
    async def sleep(milliseconds: int) -> None:
        async with driver.reading() as fetch:
            await fetch(slept, milliseconds / 1000)


def _add_writes(app: FastAPI, driver: Driver, place: Place) -> None:
    insert, value, set_value = map(driver.spell, (_INSERT, _VALUE, _SET_VALUE))
    locked_value = value if place.database == "sqlite" else f"{value} FOR UPDATE"

    @app.post("/heroes", status_code=201, response_model=HeroOut)
    async def create_hero(hero_in: HeroIn) -> dict[str, object]:
        async with driver.writing() as fetch:
            ((key,),) = await fetch(insert, hero_in.name, hero_in.age)
        return {"id": key, **hero_in.model_dump()}

    @app.post("/increment")
    @app.post("/increment-locked")
    async def increment() -> dict[str, object]:
        async with driver.writing() as fetch:
            ((old,),) = await fetch(locked_value)
            new = int(str(old)) + 1
            await fetch(set_value, new)
        return {"id": 1, "value": new}
