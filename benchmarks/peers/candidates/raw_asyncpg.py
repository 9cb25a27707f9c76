"""asyncpg without SQLAlchemy."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from fastapi import FastAPI
from sqlalchemy.engine import make_url

from peers.places import Place
from peers.raw_routes import Driver, Fetch, add_routes


def make_app(place: Place) -> FastAPI:
    url = make_url(place.url).set(drivername="postgresql").render_as_string(hide_password=False)
    pool: Any = None

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        nonlocal pool
        async with asyncpg.create_pool(url, min_size=1, max_size=place.pool_size) as pool:
            yield

    @asynccontextmanager
    async def reading() -> AsyncIterator[Fetch]:
        async with pool.acquire() as connection:
            yield connection.fetch

    @asynccontextmanager
    async def writing() -> AsyncIterator[Fetch]:
        async with pool.acquire() as connection, connection.transaction():
            yield connection.fetch

    app = FastAPI(lifespan=lifespan)
    add_routes(app, Driver(reading, writing, lambda number: f"${number}"), place)
    return app
