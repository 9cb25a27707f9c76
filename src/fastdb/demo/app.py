"""The demo's app: one file, as you would write your own.

It also runs by itself:

    FASTDB_URL=sqlite:///demo.db uvicorn --factory fastdb.demo.app:create_app
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

from fastapi import APIRouter, FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import ForeignKey, String, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from fastdb import Database, ReadSessionDep, SessionDep, SnapshotSessionDep, atomic

Row = TypeVar("Row")


class Base(DeclarativeBase):
    """The tables of this app."""


class Counter(Base):
    """A number that many clients increment at the same time."""

    __tablename__ = "fastdb_demo_counters"

    id: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[int] = mapped_column(default=0)


class Account(Base):
    """An account, with a name that no other has."""

    __tablename__ = "fastdb_demo_accounts"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)


class Entry(Base):
    """Money that came to an account, or left it."""

    __tablename__ = "fastdb_demo_entries"

    id: Mapped[int] = mapped_column(primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey(Account.id))
    amount: Mapped[int]
    memo: Mapped[str] = mapped_column(String(100))


class AccountIn(BaseModel):
    """An account to be opened."""

    name: str = Field(max_length=100)


class Movement(BaseModel):
    """Money to be deposited or withdrawn."""

    amount: int = Field(gt=0, le=1_000_000)
    memo: str = Field(default="", max_length=100)


class Answer(BaseModel):
    """What is read from a row of the database."""

    model_config = ConfigDict(from_attributes=True)

    id: int


class CounterOut(Answer):
    """A counter, as clients see it."""

    value: int


class AccountOut(Answer):
    """An account, as clients see it."""

    name: str


class EntryOut(Answer):
    """An entry, as clients see it."""

    account_id: int
    amount: int
    memo: str


class Summary(BaseModel):
    """How much there is of everything."""

    counted: int
    accounts: int
    entries: int


router = APIRouter()


@router.post("/counters", status_code=201, response_model=CounterOut)
async def create_counter(session: SessionDep) -> Counter:
    """Start a counter at 0. It is committed before the 201 is sent."""
    counter = Counter()
    session.add(counter)
    await session.flush()
    return counter


@router.get("/counters/{counter_id}", response_model=CounterOut)
async def read_counter(counter_id: int, session: ReadSessionDep) -> Counter:
    """Read one row, in a session that cannot write."""
    return _found(await session.get(Counter, counter_id))


@router.post("/counters/{counter_id}/increment", response_model=CounterOut)
async def increment(counter_id: int, session: SessionDep) -> Counter:
    """Read, modify, write. FOR UPDATE makes the others wait, so that none overwrites another."""
    counter = _found(await session.get(Counter, counter_id, with_for_update=True))
    counter.value += 1
    return counter


@router.post("/accounts", status_code=201, response_model=AccountOut)
async def open_account(wanted: AccountIn, session: SessionDep) -> Account:
    """Answer 409 where the name is taken: the database decides, so that two can never win."""
    account = Account(name=wanted.name)
    try:
        async with atomic(session):
            session.add(account)
    except IntegrityError:
        raise HTTPException(409, "This name is taken") from None
    return account


@router.post("/accounts/{account_id}/deposits", status_code=201, response_model=EntryOut)
async def deposit(account_id: int, wanted: Movement, session: SessionDep) -> Entry:
    """Answer 409 where there is no such account: its foreign key says so, on SQLite too."""
    entry = Entry(account_id=account_id, amount=wanted.amount, memo=wanted.memo)
    try:
        async with atomic(session):
            session.add(entry)
    except IntegrityError:
        raise HTTPException(409, "There is no such account") from None
    return entry


@router.post("/accounts/{account_id}/withdrawals", status_code=201, response_model=EntryOut)
async def withdraw(account_id: int, wanted: Movement, session: SessionDep) -> Entry:
    """Write first and fail afterwards: raising undoes everything that the request has written."""
    _found(await session.get(Account, account_id, with_for_update=True))
    entry = Entry(account_id=account_id, amount=-wanted.amount, memo=wanted.memo)
    session.add(entry)
    await session.flush()
    balance = select(func.sum(Entry.amount)).where(Entry.account_id == account_id)
    if (await session.scalar(balance) or 0) < 0:
        raise HTTPException(402, "There is not enough money in this account")
    return entry


@router.get("/summary")
async def summarize(session: SnapshotSessionDep) -> Summary:
    """Count everything, in several statements that all see the same moment."""
    return Summary(
        counted=await session.scalar(select(func.sum(Counter.value))) or 0,
        accounts=await session.scalar(select(func.count(Account.id))) or 0,
        entries=await session.scalar(select(func.count(Entry.id))) or 0,
    )


def create_app(url: str | None = None) -> FastAPI:
    """Make the app, with a database of its own.

    Args:
        url: The database. Default: the environment variable FASTDB_URL.
    """
    db = Database(url or os.environ["FASTDB_URL"])

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with db.lifespan(app):
            await db.create_all(Base.metadata)
            yield

    app = FastAPI(title="fastdb demo", lifespan=lifespan)
    app.include_router(router)
    return app


def _found(row: Row | None) -> Row:
    if row is None:
        raise HTTPException(404, "There is no such row")
    return row
