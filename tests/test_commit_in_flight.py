"""The connection is lost around COMMIT: what is known, what the client is told, and what is done.

The proxy loses it either before COMMIT reaches the server, or when its answer is there already. To
who waits for the answer both look the same.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from backends import Backend
from fastdb import CommitOutcomeUnknown, Database, SessionDep, install_error_handlers
from models import Base, Hero
from proxy import Proxy

pytestmark = [pytest.mark.faults, pytest.mark.backends("postgresql", "mysql")]

by_moment = pytest.mark.parametrize("answered", [False, True], ids=["before", "after"])


@dataclass
class Place:
    """An app behind a proxy, and its database."""

    backend: Backend
    proxy: Proxy
    db: Database
    client: httpx.AsyncClient

    async def warm_up(self) -> None:
        """Open a connection of each twin, as what is said on new ones ends with COMMIT, too."""

        def read() -> None:
            with self.db.sync.session() as session:
                session.scalar(select(1))

        async with self.db.session() as session:
            await session.scalar(select(1))
        await asyncio.to_thread(read)

    async def names(self) -> list[str]:
        """What is in the table, asked past the proxy."""
        async with Database(self.backend.url) as direct, direct.read_session() as session:
            return list(await session.scalars(select(Hero.name)))


@pytest.fixture
async def place(backend: Backend) -> AsyncIterator[Place]:
    """An app that writes a row, with the connection already open."""
    async with Database(backend.url) as direct:
        await direct.create_all(Base.metadata)
    plain = "?sslmode=disable" if backend.name == "postgresql" else ""
    async with (
        Proxy.before(backend.url) as proxy,
        Database(proxy.url + plain) as db,
    ):
        app = make_app(db)
        transport = httpx.ASGITransport(app)
        async with (
            db.lifespan(app),
            httpx.AsyncClient(transport=transport, base_url="http://test") as client,
        ):
            place = Place(backend, proxy, db, client)
            await place.warm_up()
            yield place
            assert db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


def make_app(db: Database) -> FastAPI:
    app = FastAPI()
    install_error_handlers(app)

    @app.post("/heroes/{name}", status_code=201)
    async def create(name: str, session: SessionDep) -> None:
        session.add(Hero(name=name))

    @app.post("/flushed/{name}", status_code=201)
    async def flushed(name: str, session: SessionDep) -> None:
        session.add(Hero(name=name))
        await session.flush()

    @app.post("/again/{name}", status_code=201)
    async def again(name: str) -> None:
        async def unit(session: AsyncSession) -> None:
            session.add(Hero(name=name))

        await db.run(unit)

    return app


@by_moment
async def test_the_client_is_told_that_nobody_knows(place: Place, answered: bool) -> None:
    """500 without `Retry-After`; the row is there or not; and the app goes on."""
    place.proxy.when(b"COMMIT", place.proxy.cut, answered=answered)
    answer = await place.client.post("/heroes/a")
    assert answer.status_code == 500
    assert answer.json()["kind"] == "commit_outcome_unknown"
    assert "retry-after" not in answer.headers
    assert await place.names() == (["a"] if answered else [])
    assert (await place.client.post("/heroes/b")).status_code == 201


@by_moment
async def test_it_is_never_run_again(place: Place, answered: bool) -> None:
    """`db.run` would write the row twice, where its name allowed that."""
    runs = 0

    async def unit(session: AsyncSession) -> None:
        nonlocal runs
        runs += 1
        session.add(Hero(name=f"a{runs}"))

    place.proxy.when(b"COMMIT", place.proxy.cut, answered=answered)
    with pytest.raises(CommitOutcomeUnknown):
        await place.db.run(unit)
    assert runs == 1
    assert await place.names() == (["a1"] if answered else [])


async def test_a_connection_lost_with_a_statement_is_an_ordinary_error(place: Place) -> None:
    """COMMIT was never sent: nothing is there, and the client may try again."""
    place.proxy.when(b"INSERT", place.proxy.cut)
    answer = await place.client.post("/flushed/a")
    assert answer.status_code == 503
    assert "retry-after" in answer.headers
    assert await place.names() == []
    assert (await place.client.post("/flushed/a")).status_code == 201


@pytest.mark.parametrize("answered", [False, True])
async def test_what_was_lost_with_a_statement_is_run_again(place: Place, answered: bool) -> None:
    """Even where the server has executed it: its transaction is rolled back."""
    place.proxy.when(b"INSERT", place.proxy.cut, answered=answered)
    answer = await place.client.post("/again/a")
    assert answer.status_code == 201
    assert await place.names() == ["a"]


async def test_the_twin_does_not_know_either(place: Place) -> None:
    """The same for scripts; in a thread, as the proxy lives on this event loop."""

    def write(twin: Any) -> None:
        with twin.session() as session:
            session.add(Hero(name="a"))

    place.proxy.when(b"COMMIT", place.proxy.cut, answered=True)
    with pytest.raises(CommitOutcomeUnknown):
        await asyncio.to_thread(write, place.db.sync)
    assert await place.names() == ["a"]
