"""What the endpoints of the claims do, whichever way they are served."""

import time
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Select, String, insert, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from peers.engines import make_sync_engine
from peers.places import Place
from peers.work import sleeping

OUTWARD_SECONDS = 0.04  # what another service takes to answer
QUERIES = 5
QUERY_MS = 50
_COMPUTE_SECONDS = 0.25
_RATES = {"EUR": "1", "USD": "1.0842", "GBP": "0.8561", "CHF": "0.9437"}


class Base(DeclarativeBase):
    pass


class Rate(Base):
    __tablename__ = "fastdb_benchmark_rate"

    currency: Mapped[str] = mapped_column(String(3), primary_key=True)
    per_euro: Mapped[str] = mapped_column(String(20))  # text: SQLite has no decimal numbers


class Conversion(Base):
    __tablename__ = "fastdb_benchmark_conversion"

    id: Mapped[int] = mapped_column(primary_key=True)
    amount: Mapped[str] = mapped_column(String(20))
    result: Mapped[str] = mapped_column(String(20))


class ConversionIn(BaseModel):
    amount: Decimal
    source: str
    target: str


class ConversionOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    result: Decimal


def make_tables(place: Place) -> None:
    """Make the tables anew, with the rates."""
    engine = make_sync_engine(place)
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        rates = [{"currency": name, "per_euro": rate} for name, rate in _RATES.items()]
        connection.execute(insert(Rate), rates)
    engine.dispose()


def slow(database: str, milliseconds: int) -> Select[Any]:
    return sleeping(database, milliseconds)


def rates(wanted: ConversionIn) -> Select[tuple[Rate]]:
    return select(Rate).where(Rate.currency.in_([wanted.source, wanted.target]))


def convert(wanted: ConversionIn, rates: Sequence[Rate]) -> Conversion:
    per_euro = {rate.currency: Decimal(rate.per_euro) for rate in rates}
    result = wanted.amount / per_euro[wanted.source] * per_euro[wanted.target]
    return Conversion(amount=str(wanted.amount), result=str(result.quantize(Decimal("0.01"))))


def compute() -> int:
    """Keep the interpreter busy for as long as the work takes in processor time of this thread."""
    rounds = 0
    end = time.thread_time() + _COMPUTE_SECONDS
    while time.thread_time() < end:
        rounds += 1
    return rounds
