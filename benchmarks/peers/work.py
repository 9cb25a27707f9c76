"""What an endpoint does with its session: the same for all candidates that have one.

Nothing here commits: that is what the candidates differ in.
"""

import time
from typing import Any

from fastapi import HTTPException
from sqlalchemy import Engine, Row, Select, event, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import selectinload

from models import Counter, Hero, HeroIn

COLUMNS = (Hero.id, Hero.name, Hero.age)
LISTED = select(Hero).options(selectinload(Hero.team)).order_by(Hero.id).limit(100)


async def read_hero(session: AsyncSession, hero_id: int) -> Hero:
    hero = await session.get(Hero, hero_id)
    if hero is None:
        raise HTTPException(404)
    return hero


async def read_columns(session: AsyncSession, hero_id: int) -> Row[tuple[int, str, int]]:
    row = (await session.execute(select(*COLUMNS).where(Hero.id == hero_id))).one_or_none()
    if row is None:
        raise HTTPException(404)
    return row


async def list_heroes(session: AsyncSession) -> list[Hero]:
    return list(await session.scalars(LISTED))


async def add_hero(session: AsyncSession, hero_in: HeroIn) -> Hero:
    hero = Hero(name=hero_in.name, age=hero_in.age)
    session.add(hero)
    await session.flush()  # the response tells its id
    return hero


async def increment(session: AsyncSession, *, locked: bool = False) -> dict[str, int]:
    """Read the counter, and write it back with one more.

    Args:
        session: The session.
        locked: Read it FOR UPDATE, which SQLite does not know.
    """
    counter = await session.get_one(Counter, 1, with_for_update=locked or None)
    counter.value += 1
    return {"id": counter.id, "value": counter.value}


async def sleep(session: AsyncSession, milliseconds: int) -> None:
    await session.execute(sleeping(session.get_bind().dialect.name, milliseconds))


def sleeping(dialect: str, milliseconds: int) -> Select[Any]:
    """Return a query that takes that long in the database, and needs no processor."""
    if dialect == "sqlite":
        return select(func.sleep_ms(milliseconds))
    if dialect == "postgresql":
        return select(func.pg_sleep(milliseconds / 1000))
    return select(func.sleep(milliseconds / 1000))


def sleep_ms(milliseconds: int) -> int:
    """Sleep in the thread that runs the statement: SQLite has no function for it."""
    time.sleep(milliseconds / 1000)
    return 0


@event.listens_for(Engine, "connect")
def _teach_to_sleep(dbapi_connection: Any, _record: Any) -> None:
    if hasattr(dbapi_connection, "create_function"):  # SQLite's
        dbapi_connection.create_function("sleep_ms", 1, sleep_ms)
