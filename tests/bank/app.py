"""The app under test, written as any user of fastdb would."""

import asyncio
import os
from typing import Any

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncSession

from bank.tables import Account, Entry
from fastdb import (
    Database,
    DatabaseDep,
    PoolOptions,
    SessionDep,
    SyncSessionDep,
    Timeouts,
    install_error_handlers,
)

connections = os.environ.get("BANK_CONNECTIONS")
db = Database(
    os.environ["BANK_URL"],
    pool=PoolOptions(size=int(connections), max_overflow=0) if connections else None,
    timeouts=Timeouts(connect=2.0, pool=2.0, lock=2.0, close=1.0),
)
app = FastAPI(lifespan=db.lifespan)
install_error_handlers(app)
stuck: list[str] = []


class Order(BaseModel):
    """A transfer that somebody wants."""

    transfer: str
    source: int
    target: int
    amount: int


def both_accounts(order: Order) -> Select[Any]:
    """Select both accounts and lock them, always in the same order."""
    ids = (order.source, order.target)
    return select(Account).where(Account.id.in_(ids)).order_by(Account.id).with_for_update()


def move(order: Order, accounts: dict[int, Account]) -> Entry:
    """Change both balances; return the entry that belongs to it."""
    accounts[order.source].balance -= order.amount
    accounts[order.target].balance += order.amount
    return Entry(**order.model_dump())


def refuse_overdraft(order: Order, accounts: dict[int, Account]) -> None:
    """Raise once everything is written: it must all be taken back."""
    if accounts[order.source].balance < 0:
        raise HTTPException(409, "The account does not hold as much.")


async def transfer(session: AsyncSession, order: Order) -> None:
    """Move money in one unit of work."""
    accounts = {account.id: account for account in await session.scalars(both_accounts(order))}
    session.add(move(order, accounts))
    await session.flush()
    refuse_overdraft(order, accounts)


@app.post("/once", status_code=201)
async def once(order: Order, session: SessionDep) -> None:
    """In the session of the request."""
    await transfer(session, order)


@app.post("/again", status_code=201)
async def again(order: Order, database: DatabaseDep) -> None:
    """As often as it takes, where that is safe."""
    await database.run(transfer, order)


@app.post("/sync", status_code=201)
def sync(order: Order, session: SyncSessionDep) -> None:
    """In the synchronous twin, on a thread."""
    accounts = {account.id: account for account in session.scalars(both_accounts(order))}
    session.add(move(order, accounts))
    session.flush()
    refuse_overdraft(order, accounts)


@app.post("/slowly", status_code=201)
async def slowly(order: Order, session: SessionDep) -> None:
    """With a while to think between the changes and the COMMIT."""
    await transfer(session, order)
    await asyncio.sleep(0.02)


@app.post("/never", status_code=201)
async def never(order: Order, session: SessionDep) -> None:
    """In a transaction that does not end by itself."""
    await transfer(session, order)
    stuck.append(order.transfer)
    await asyncio.Event().wait()


@app.get("/stuck")
async def those_stuck() -> list[str]:
    """Which transfers will never end."""
    return stuck


@app.get("/taken")
async def taken() -> int:
    """How many connections are in use."""
    return db.engine.pool.checkedout()  # type: ignore[attr-defined, no-any-return]


@app.get("/ready")
async def ready() -> None:
    """Answer, without the database."""
