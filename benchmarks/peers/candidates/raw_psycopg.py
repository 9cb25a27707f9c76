"""psycopg and its pool, without SQLAlchemy."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool
from sqlalchemy.engine import make_url

from peers.places import Place
from peers.raw_routes import Driver, Fetch, add_routes


def make_app(place: Place) -> FastAPI:
    url = make_url(place.url).set(drivername="postgresql").render_as_string(hide_password=False)
    pool = AsyncConnectionPool(
        url, min_size=1, max_size=place.pool_size, open=False, kwargs={"autocommit": True}
    )

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with pool:
            yield

    @asynccontextmanager
    async def reading() -> AsyncIterator[Fetch]:
        async with pool.connection() as connection:
            yield _fetch_on(connection)

    @asynccontextmanager
    async def writing() -> AsyncIterator[Fetch]:
        async with pool.connection() as connection, connection.transaction():
            yield _fetch_on(connection)

    app = FastAPI(lifespan=lifespan)
    add_routes(app, Driver(reading, writing, lambda _number: "%s"), place)
    return app


def _fetch_on(connection: AsyncConnection[Any]) -> Fetch:
    async def fetch(statement: str, *values: object) -> Sequence[Any]:
        cursor = await connection.execute(statement, values)
        return await cursor.fetchall() if cursor.description else []

    return fetch
