"""Another Database in the place of the app's own, however the app is called."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from asgi import Base, Item, TestClient
from backends import Backend
from fastdb import ConfigurationError, Database, SessionDep, SyncSessionDep
from fastdb.errors import DatabaseNotBound
from fastdb.testing import bind

UNREACHABLE = "sqlite:////nowhere/at/all.db"


def app_on(own: Database, *, lifespan: bool = True) -> FastAPI:
    """Return an app that uses its Database in each of the ways."""
    app = FastAPI(lifespan=own.lifespan if lifespan else None)

    @app.post("/dependency", status_code=201)
    async def by_dependency(session: SessionDep) -> None:
        session.add(Item(name="dependency"))

    @app.post("/method", status_code=201)
    async def by_method(session: AsyncSession = Depends(own.get_session)) -> None:
        session.add(Item(name="method"))

    @app.post("/module", status_code=201)
    async def by_module() -> None:
        async with own.session() as session:
            session.add(Item(name="module"))

    @app.post("/thread", status_code=201)
    def by_thread(session: SyncSessionDep) -> None:
        session.add(Item(name="thread"))

    return app


WAYS = ["dependency", "method", "module", "thread"]


@asynccontextmanager
async def client_of(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://test"
    ) as client:
        yield client


@pytest.fixture
def backend_database(backend: Backend) -> Iterator[Database]:
    """A Database for a synchronous test."""
    database = Database(backend.url)
    database.sync.create_all(Base.metadata)
    yield database
    database.sync.close()


async def names(database: Database) -> list[str]:
    async with database.read_session() as session:
        return list(await session.scalars(select(Item.name).order_by(Item.id)))


async def test_lifespan_that_runs_in_the_block(database: Database) -> None:
    """The app's own Database leads to the other one, whichever way it is asked."""
    await database.create_all(Base.metadata)
    app = app_on(Database(UNREACHABLE))
    with bind(app, database):
        async with app.router.lifespan_context(app), client_of(app) as client:
            for way in WAYS:
                assert (await client.post(f"/{way}")).status_code == 201
    assert await names(database) == WAYS


async def test_lifespan_that_is_running_already(database: Database) -> None:
    """The block may begin later, and may end before."""
    await database.create_all(Base.metadata)
    app = app_on(Database(UNREACHABLE))
    async with app.router.lifespan_context(app), client_of(app) as client:
        with bind(app, database):
            for way in WAYS:
                assert (await client.post(f"/{way}")).status_code == 201
    assert await names(database) == WAYS


async def test_lifespan_that_does_not_run(database: Database) -> None:
    """httpx's transport runs no lifespan: the dependencies find the other Database all the same."""
    await database.create_all(Base.metadata)
    app = app_on(Database(UNREACHABLE))
    async with client_of(app) as client:
        with bind(app, database):
            assert (await client.post("/dependency")).status_code == 201
        with pytest.raises(DatabaseNotBound):
            await client.post("/dependency")
    assert await names(database) == ["dependency"]


@pytest.mark.backends("sqlite-file", "postgresql-asyncpg", "mysql-aiomysql")
def test_client_in_another_thread(backend_database: Database) -> None:
    """FastAPI's TestClient has an event loop and a thread of its own, and runs the lifespan."""
    app = app_on(Database(UNREACHABLE))
    with bind(app, backend_database), TestClient(app) as client:
        assert [client.post(f"/{way}").status_code for way in WAYS] == [201] * len(WAYS)
    with backend_database.sync.read_session() as session:
        assert session.scalar(select(func.count()).select_from(Item)) == len(WAYS)


async def test_one_of_several(database: Database) -> None:
    """An app with several Databases has to be told which one is meant."""
    await database.create_all(Base.metadata)
    own, other = Database("sqlite://"), Database("sqlite://")
    app = app_on(own)
    async with app.router.lifespan_context(app), other.lifespan(app), client_of(app) as client:
        with (
            pytest.raises(ConfigurationError, match=r"the app has 2 Databases .*instead_of"),
            bind(app, database),
        ):
            raise AssertionError
        with bind(app, database, instead_of=own):
            assert (await client.post("/method")).status_code == 201
    assert await names(database) == ["method"]


async def test_two_that_one_lifespan_opens(database: Database) -> None:
    """One cannot stand in for both."""
    own, other = Database("sqlite://"), Database("sqlite://")
    app = FastAPI()
    with bind(app, database):
        async with own.lifespan(app):
            with pytest.raises(ConfigurationError, match="it is unclear which one is meant"):
                async with other.lifespan(app):
                    raise AssertionError


async def test_inside_of_another(database: Database) -> None:
    """The outer one is there again when the inner one is over."""
    await database.create_all(Base.metadata)
    app = app_on(Database(UNREACHABLE))
    async with client_of(app) as client:
        with bind(app, database):
            with bind(app, Database("sqlite://")):
                pass
            assert (await client.post("/dependency")).status_code == 201
    assert await names(database) == ["dependency"]


@pytest.mark.parametrize(
    "options",
    [
        {"async_options": {"creator": print}},
        {"async_options": {"connect_args": {"database": "production"}}},
        {"sync_options": {"connect_args": {"host": "production"}}},
    ],
)
def test_place_that_is_no_url_is_refused(options: Any) -> None:
    """Tests must not reach the app's own database, whatever the URL says."""
    own = Database("sqlite://", **options)
    with pytest.raises(ConfigurationError, match="wherever the URL leads"):
        own.elsewhere("sqlite:///test.db")
