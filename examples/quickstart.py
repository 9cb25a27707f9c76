"""The smallest complete app: `fastapi run quickstart.py`, or `uvicorn quickstart:app`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Body, FastAPI, HTTPException
from sqlalchemy import String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from fastdb import Database, ReadSessionDep, SessionDep

db = Database("sqlite:///heroes.db")  # or postgresql://…, mysql://…


class Base(DeclarativeBase): ...


class Hero(Base):
    __tablename__ = "heroes"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))  # MySQL asks for a length


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with db.lifespan(app):
        await db.create_all(Base.metadata)
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/heroes/{hero_id}")
async def read_hero(hero_id: int, session: ReadSessionDep) -> dict[str, str]:
    if hero := await session.get(Hero, hero_id):
        return {"name": hero.name}
    raise HTTPException(404)


@app.post("/heroes", status_code=201)
async def create_hero(
    session: SessionDep, name: str = Body(embed=True, max_length=50)
) -> dict[str, int]:
    session.add(hero := Hero(name=name))
    await session.flush()
    return {"id": hero.id}  # committed before the 201 is sent
