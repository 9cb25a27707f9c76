"""aiosqlite without SQLAlchemy: SQL by hand, one connection that writes and a few that read."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiosqlite
from fastapi import FastAPI, HTTPException

from sqlite.models import HeroIn, HeroOut

_READERS = 4
_COLUMNS = "id, name, age FROM fastdb_benchmark_hero"


class _Pool:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._readers: asyncio.Queue[aiosqlite.Connection] = asyncio.Queue()
        self._writers: asyncio.Queue[aiosqlite.Connection] = asyncio.Queue()

    @asynccontextmanager
    async def lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for queue in [self._writers, *[self._readers] * _READERS]:
                connection = await stack.enter_async_context(
                    aiosqlite.connect(self._path, isolation_level=None)
                )
                connection.row_factory = aiosqlite.Row
                await connection.execute("PRAGMA journal_mode = WAL")
                await connection.execute("PRAGMA synchronous = NORMAL")
                await connection.execute("PRAGMA foreign_keys = ON")
                queue.put_nowait(connection)
            yield

    @asynccontextmanager
    async def reader(self) -> AsyncIterator[aiosqlite.Connection]:
        connection = await self._readers.get()
        try:
            yield connection
        finally:
            self._readers.put_nowait(connection)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[aiosqlite.Connection]:
        connection = await self._writers.get()
        try:
            await connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                await connection.rollback()
                raise
            await connection.commit()
        finally:
            self._writers.put_nowait(connection)


def make_app(path: Path) -> FastAPI:
    pool = _Pool(path)
    app = FastAPI(lifespan=pool.lifespan)

    @app.get("/heroes/{hero_id}", response_model=HeroOut)
    @app.get("/core/{hero_id}", response_model=HeroOut)
    async def read_hero(hero_id: int) -> dict[str, object]:
        async with pool.reader() as connection:
            rows = await connection.execute_fetchall(f"SELECT {_COLUMNS} WHERE id = ?", (hero_id,))
        for row in rows:
            return dict(row)
        raise HTTPException(404)

    @app.get("/heroes", response_model=list[HeroOut])
    async def list_heroes() -> list[dict[str, object]]:
        async with pool.reader() as connection:
            rows = await connection.execute_fetchall(f"SELECT {_COLUMNS} ORDER BY id LIMIT 100")
        return [dict(row) for row in rows]

    @app.post("/heroes", status_code=201, response_model=HeroOut)
    async def create_hero(hero_in: HeroIn) -> dict[str, object]:
        async with pool.transaction() as connection:
            cursor = await connection.execute(
                "INSERT INTO fastdb_benchmark_hero (name, age) VALUES (?, ?)",
                (hero_in.name, hero_in.age),
            )
        return {"id": cursor.lastrowid, **hero_in.model_dump()}

    @app.post("/increment")
    async def increment() -> dict[str, int]:
        async with pool.transaction() as connection:
            ((value,),) = await connection.execute_fetchall(
                "SELECT value FROM fastdb_benchmark_counter WHERE id = 1"
            )
            await connection.execute(
                "UPDATE fastdb_benchmark_counter SET value = ? WHERE id = 1", (value + 1,)
            )
        return {"id": 1, "value": value + 1}

    return app
