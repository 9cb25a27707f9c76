"""aiomysql and asyncmy without SQLAlchemy: they are used alike."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from sqlalchemy.engine import make_url

from peers.places import Place
from peers.raw_routes import Driver, Fetch, add_routes


def app_on(place: Place, driver: Any, **options: Any) -> FastAPI:
    url = make_url(place.url)
    pool: Any = None

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        nonlocal pool
        pool = await driver.create_pool(
            host=url.host,
            port=url.port or 3306,
            user=url.username,
            password=url.password or "",
            db=url.database,
            minsize=1,
            maxsize=place.pool_size,
            autocommit=True,
            **options,
        )
        yield
        pool.close()
        await pool.wait_closed()

    @asynccontextmanager
    async def reading() -> AsyncIterator[Fetch]:
        async with pool.acquire() as connection:
            yield _fetch_on(connection)

    @asynccontextmanager
    async def writing() -> AsyncIterator[Fetch]:
        async with pool.acquire() as connection:
            await connection.begin()
            try:
                yield _fetch_on(connection)
            except BaseException:
                await connection.rollback()
                raise
            await connection.commit()

    app = FastAPI(lifespan=lifespan)
    add_routes(app, Driver(reading, writing, lambda _number: "%s"), place)
    return app


def _fetch_on(connection: Any) -> Fetch:
    async def fetch(statement: str, *values: object) -> Sequence[Any]:
        async with connection.cursor() as cursor:
            await cursor.execute(statement, values)
            return list(await cursor.fetchall()) if cursor.description else []

    return fetch
