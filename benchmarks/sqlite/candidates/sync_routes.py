"""The work of the synchronous candidates, wherever it is run."""

from fastapi import HTTPException
from sqlalchemy import Engine, Row, create_engine, event, select
from sqlalchemy.orm import Session

from sqlite.candidates.pragmas import set_pragmas
from sqlite.models import Counter, Hero, HeroIn


def make_engine(path: object, pool_size: int) -> Engine:
    engine = create_engine(f"sqlite:///{path}", pool_size=pool_size)
    event.listen(engine, "connect", set_pragmas)
    return engine


def read_hero(session: Session, hero_id: int) -> Hero:
    hero = session.get(Hero, hero_id)
    if hero is None:
        raise HTTPException(404)
    return hero


def read_columns(session: Session, hero_id: int) -> Row[tuple[int, str, int]]:
    statement = select(Hero.id, Hero.name, Hero.age).where(Hero.id == hero_id)
    return session.execute(statement).one()


def list_heroes(session: Session) -> list[Hero]:
    return list(session.scalars(select(Hero).order_by(Hero.id).limit(100)))


def create_hero(session: Session, hero_in: HeroIn) -> Hero:
    hero = Hero(name=hero_in.name, age=hero_in.age)
    session.add(hero)
    session.commit()
    return hero


def increment(session: Session) -> dict[str, int]:
    counter = session.get_one(Counter, 1)
    counter.value += 1
    session.commit()
    return {"id": counter.id, "value": counter.value}
