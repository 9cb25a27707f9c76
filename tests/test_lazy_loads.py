"""Lazy loads outside of an `await`: refused before anything is sent, and the message says what to
write instead.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict
from sqlalchemy import ForeignKey, event, select, text
from sqlalchemy.exc import MissingGreenlet
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import (
    DynamicMapped,
    Mapped,
    ORMExecuteState,
    WriteOnlyMapped,
    defer,
    mapped_column,
    relationship,
    selectinload,
    undefer,
)
from sqlalchemy.orm.exc import DetachedInstanceError

from asgi import serving
from fastdb import Database, FastdbError, LazyLoadRefused, SessionDep
from models import Base, Hero, Team

OUTSIDE = "outside of an `await`, where the database cannot be waited for."
TEAM = (
    f"Hero.team was to be loaded lazily, {OUTSIDE} Load it with the query,"
    " `select(Hero).options(selectinload(Hero.team))`; or before it is read,"
    " `await session.refresh(hero, ['team'])`."
)
HEROES = (
    f"Team.heroes was to be loaded lazily, {OUTSIDE} Load it with the query,"
    " `select(Team).options(selectinload(Team.heroes))`; or before it is read,"
    " `await session.refresh(team, ['heroes'])`."
)
NAME = (
    "Hero.name is deferred or expired and was to be loaded outside of an `await`, where the"
    " database cannot be waited for. Where it is expired, load it before it is read,"
    " `await session.refresh(hero, ['name'])`; where it is deferred, with the query,"
    " `select(Hero).options(undefer(Hero.name))`."
)


class City(Base):
    """A class with relationships that are never loaded as a whole."""

    __tablename__ = "city"

    id: Mapped[int] = mapped_column(primary_key=True)
    streets: WriteOnlyMapped["Street"] = relationship()
    houses: DynamicMapped["Street"] = relationship(overlaps="streets")


class Street(Base):
    """What belongs to it."""

    __tablename__ = "street"

    id: Mapped[int] = mapped_column(primary_key=True)
    city_id: Mapped[int] = mapped_column(ForeignKey("city.id"))


@pytest.fixture
async def db(database: Database) -> Database:
    """A database with a hero in a team."""
    await database.create_all(Base.metadata)
    async with database.session() as session:
        session.add(Hero(name="a", team=Team(name="t")))
    return database


def refused(read: Callable[[], Any]) -> str:
    with pytest.raises(LazyLoadRefused) as raised:
        read()
    assert isinstance(raised.value, FastdbError)
    assert isinstance(raised.value, MissingGreenlet)  # who catches SQLAlchemy's still does
    return str(raised.value)


async def test_a_relationship_is_named(db: Database) -> None:
    """With the query that would have loaded it; the transaction goes on as if nothing were."""
    async with db.session() as session:
        hero = (await session.scalars(select(Hero))).one()
        hero.name = "b"
        assert refused(lambda: hero.team) == TEAM
        await session.flush()
        assert refused(lambda: hero.team) == TEAM
        await session.refresh(hero, ["team"])  # as the message says
        assert hero.team is not None
        assert hero.team.name == "t"
        assert refused(lambda: hero.team.heroes) == HEROES  # type: ignore[union-attr]
    async with db.read_session() as session:
        hero = (await session.scalars(select(Hero).options(selectinload(Hero.team)))).one()
        assert (hero.name, hero.team.name) == ("b", "t")  # type: ignore[union-attr]


async def test_nothing_is_taken_from_the_pool(db: Database) -> None:
    """Not even a connection that could be had without waiting."""
    checkouts: list[object] = []
    async with db.session() as session:
        hero = (await session.scalars(select(Hero))).one()
        await session.commit()
        event.listen(db.engine.sync_engine, "checkout", lambda *args: checkouts.append(args))
        assert refused(lambda: hero.team) == TEAM
        assert not session.in_transaction()
    assert checkouts == []


async def test_an_unhandled_one_rolls_back(db: Database) -> None:
    """It leaves the block like any exception, and leaves nothing behind."""
    with pytest.raises(LazyLoadRefused):
        async with db.session() as session:
            session.add(Hero(name="b"))
            await session.flush()
            hero = (await session.scalars(select(Hero).where(Hero.name == "a"))).one()
            _ = hero.team
    async with db.read_session() as session:
        assert (await session.scalars(select(Hero.name))).all() == ["a"]


async def test_a_path_is_named_from_its_beginning(db: Database) -> None:
    """What was reached by a relationship that was loaded is loaded through it."""
    async with db.session() as session:
        query = select(Hero).options(selectinload(Hero.team))
        hero = (await session.scalars(query)).one()
        assert hero.team is not None
        message = refused(lambda: hero.team.heroes)  # type: ignore[union-attr]
    assert "select(Hero).options(selectinload(Hero.team).selectinload(Team.heroes))`" in message
    assert "`await session.refresh(team, ['heroes'])`" in message


async def test_what_is_in_the_session_needs_no_loading(db: Database) -> None:
    """A parent that was loaded before is found by its key, without the database."""
    async with db.read_session() as session:
        team = (await session.scalars(select(Team))).one()
        hero = (await session.scalars(select(Hero))).one()
        assert hero.team is team


@pytest.mark.parametrize("how", ["deferred", "expired"])
async def test_a_column_is_named(db: Database, how: str) -> None:
    """With both cures: which of them fits, the reader knows."""
    async with db.session() as session:
        query = select(Hero).options(defer(Hero.name)) if how == "deferred" else select(Hero)
        hero = (await session.scalars(query)).one()
        if how == "expired":
            session.expire(hero, ["name"])
        assert refused(lambda: hero.name) == NAME
        await session.refresh(hero, ["name"])
        assert hero.name == "a"
        session.expire(hero)
        message = refused(lambda: hero.name)
        assert message.startswith("Hero (id, name, team_id) is deferred or expired")
    async with db.read_session() as session:
        hero = (await session.scalars(select(Hero).options(undefer(Hero.name)))).one()
        assert hero.name == "a"


async def test_other_statements_are_told_as_such(db: Database) -> None:
    """A dynamic relationship, and who uses the inner session; a write-only one needs nothing."""
    async with db.session() as session:
        session.add(city := City())
        await session.flush()
        assert refused(lambda: list(city.houses)) == (
            "A statement on Street was executed outside of an `await`, where the database cannot be"
            " waited for, by a dynamic relationship or through `session.sync_session`. Use the"
            " async session, with `WriteOnlyMapped` for a relationship; or `await"
            " session.run_sync(…)` for synchronous code."
        )
        assert refused(lambda: session.sync_session.execute(text("SELECT 1"))).startswith(
            "A statement was executed outside of an `await`"
        )
        assert (await session.scalars(city.streets.select())).all() == []
        assert await session.run_sync(lambda _: list(city.houses)) == []


async def test_a_listener_may_answer(db: Database) -> None:
    """A cache of SQLAlchemy's own documents answers without the database, and is asked first."""
    async with db.read_session() as session:
        hero = (await session.scalars(select(Hero))).one()
        cached = (await session.execute(select(Team))).freeze()
        session.expunge_all()
        session.add(hero)

        @event.listens_for(session.sync_session, "do_orm_execute")
        def answer(state: ORMExecuteState) -> Any:
            return cached().unique() if state.is_relationship_load else None

        assert hero.team is not None
        event.remove(session.sync_session, "do_orm_execute", answer)
        session.expire(hero, ["team"])
        assert refused(lambda: hero.team) == TEAM


async def test_another_thread_is_refused_too(db: Database) -> None:
    """Where nobody waits for the event loop that the connection belongs to."""
    async with db.read_session() as session:
        hero = (await session.scalars(select(Hero))).one()
        with pytest.raises(LazyLoadRefused):
            await asyncio.to_thread(lambda: hero.team)


@pytest.mark.backends("sqlite")
async def test_a_cheap_read_of_sqlite_does_not_work_by_chance(db: Database) -> None:
    """A statement that has earned its place on the event loop's thread waits for nothing there."""
    for _ in range(20):
        async with db.read_session() as session:
            hero = (await session.scalars(select(Hero))).one()
            assert (await session.get_one(Team, 1)).name == "t"
    for _ in range(20):
        async with db.read_session() as session:
            hero = (await session.scalars(select(Hero))).one()
            await session.run_sync(lambda _: hero.team)  # noqa: B023 - called at once; earns it
    async with db.read_session() as session:
        hero = (await session.scalars(select(Hero))).one()
        assert refused(lambda: hero.team) == TEAM
        assert db.read_engine.pool.checkedout() == 1  # type: ignore[attr-defined]


async def test_it_can_be_caught(db: Database) -> None:
    """No statement has failed, so there is nothing that COMMIT would have to be refused for."""
    async with db.session() as session:
        hero = (await session.scalars(select(Hero))).one()
        hero.name = "b"
        refused(lambda: hero.team)
    async with db.read_session() as session:
        assert (await session.scalars(select(Hero.name))).all() == ["b"]


async def test_after_the_end_it_is_sqlalchemys_message(db: Database) -> None:
    """The session is gone, so nobody is asked; it names the class and the attribute."""
    async with db.read_session() as session:
        hero = (await session.scalars(select(Hero))).one()
    with pytest.raises(DetachedInstanceError, match=r"of attribute 'team' cannot proceed"):
        _ = hero.team


class TeamOut(BaseModel):
    """A part of a response."""

    model_config = ConfigDict(from_attributes=True)

    name: str


class HeroOut(BaseModel):
    """A response with a relationship in it."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    team: TeamOut


async def test_in_a_response_model(db: Database) -> None:
    """The client gets 500, the transaction is rolled back, and the log says what to write."""
    app = FastAPI(lifespan=db.lifespan)

    @app.post("/heroes", response_model=HeroOut)
    async def create(session: SessionDep) -> Any:
        session.add(Hero(name="b", team_id=1))
        await session.flush()
        return (await session.scalars(select(Hero).where(Hero.name == "b"))).one()

    @app.get("/hero", response_model=HeroOut)
    async def show(session: SessionDep) -> Any:
        return (await session.scalars(select(Hero).options(selectinload(Hero.team)))).one()

    async with serving(app, db) as client:
        answer = await client.request("POST", "/heroes")
        assert answer.status == 500
        assert f"LazyLoadRefused: {TEAM}" in str(answer.error)
        assert answer.held_at_start == 0
        answer = await client.request("GET", "/hero")
        assert answer.json() == {"name": "a", "team": {"name": "t"}}


@pytest.mark.backends("sqlite-memory")
async def test_a_plain_session_is_left_alone(db: Database) -> None:
    """Only sessions of fastdb say it in this way."""
    async with AsyncSession(db.engine) as session:
        hero = (await session.scalars(select(Hero))).one()
        with pytest.raises(MissingGreenlet) as raised:
            _ = hero.team
    assert not isinstance(raised.value, FastdbError)
