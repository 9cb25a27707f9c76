"""An app for servers with several worker processes; it may use its database before they fork."""

import asyncio
import os
from typing import Any

from fastapi import FastAPI
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from fastdb import Database, PoolOptions, ReadSessionDep, SessionDep, SyncSessionDep
from models import Base, Counter

IDENTITY = {
    "postgresql": "SELECT pg_backend_pid()",
    "mysql": "SELECT connection_id()",
    "sqlite": "SELECT 0",
}

# Without a ping, which would find that another process has used a connection, and hide it.
db = Database(os.environ["URL"], pool=PoolOptions(ping_after=None))
app = FastAPI(lifespan=db.lifespan)


async def read(session: AsyncSession, number: int) -> dict[str, Any]:
    """Read one row, and say who has read it through which connection."""
    identity = text(IDENTITY[session.get_bind().dialect.name])
    counter = await session.scalar(select(Counter).where(Counter.id == number))
    return {
        "value": counter and counter.value,
        "process": os.getpid(),
        "connection": await session.scalar(identity),
    }


@app.get("/read/{number}")
async def by_reading(number: int, session: ReadSessionDep) -> dict[str, Any]:
    return await read(session, number)


@app.get("/write/{number}")
async def in_a_transaction(number: int, session: SessionDep) -> dict[str, Any]:
    return await read(session, number)


@app.get("/sync/{number}")
def on_a_thread(number: int, session: SyncSessionDep) -> dict[str, Any]:
    counter = session.get(Counter, number)
    return {
        "value": counter and counter.value,
        "process": os.getpid(),
        "connection": session.scalar(text(IDENTITY[session.get_bind().dialect.name])),
    }


async def use() -> None:
    """Read with each engine; the connections stay in their pools."""
    async with db.session() as writing, db.read_session() as reading:
        await asyncio.gather(read(writing, 1), read(reading, 2))


if os.environ.get("USE_AT_IMPORT"):
    db.sync.create_all(Base.metadata)
    with db.sync.session() as session:
        session.get(Counter, 1)
    asyncio.run(use())
