"""aiosqlite without SQLAlchemy: one connection that writes, and those of the pool that read."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiosqlite
from fastapi import FastAPI
from sqlalchemy.engine import make_url

from peers.places import Place
from peers.raw_routes import Driver, Fetch, add_routes
from peers.work import sleep_ms


class _Pool:
    def __init__(self, place: Place) -> None:
        self._path = make_url(place.url).database or ""
        self._size = place.pool_size
        self._readers: asyncio.Queue[aiosqlite.Connection] = asyncio.Queue()
        self._writers: asyncio.Queue[aiosqlite.Connection] = asyncio.Queue()

    @asynccontextmanager
    async def lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for queue in [self._writers, *[self._readers] * self._size]:
                connection = await stack.enter_async_context(
                    aiosqlite.connect(self._path, isolation_level=None)
                )
                await connection.create_function("sleep_ms", 1, sleep_ms)
                await connection.execute("PRAGMA journal_mode = WAL")
                await connection.execute("PRAGMA synchronous = NORMAL")
                await connection.execute("PRAGMA foreign_keys = ON")
                queue.put_nowait(connection)
            yield

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Fetch]:
        connection = await self._readers.get()
        try:
            yield _fetch_on(connection)
        finally:
            self._readers.put_nowait(connection)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[Fetch]:
        connection = await self._writers.get()
        try:
            await connection.execute("BEGIN IMMEDIATE")
            try:
                yield _fetch_on(connection)
            except BaseException:
                await connection.rollback()
                raise
            await connection.commit()
        finally:
            self._writers.put_nowait(connection)


def _fetch_on(connection: aiosqlite.Connection) -> Fetch:
    async def fetch(statement: str, *values: object) -> Sequence[Any]:
        return list(await connection.execute_fetchall(statement, values))

    return fetch


def make_app(place: Place) -> FastAPI:
    pool = _Pool(place)
    app = FastAPI(lifespan=pool.lifespan)
    add_routes(app, Driver(pool.reading, pool.writing, lambda _number: "?"), place)
    return app
