"""Rates in the database: kept, found and used."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Literal

from sqlalchemy import func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from portfolio.amounts import WIDE
from portfolio.ecb import DailyRate
from portfolio.models import Rate

EURO = "EUR"

# The same words on both databases; SQLAlchemy has them in each dialect.
_INSERTS: dict[str, Callable[[type[Rate]], sqlite.Insert | postgresql.Insert]] = {
    "sqlite": sqlite.insert,
    "postgresql": postgresql.insert,
}

Way = Literal["same", "direct", "inverse", "cross"]


class UnknownRate(Exception):
    """There is no rate of this currency on that day or before."""

    def __init__(self, currency: str, day: date) -> None:
        super().__init__(f"There is no rate of {currency} on {day} or before.")


@dataclass(frozen=True, slots=True)
class Conversion:
    """What an amount is in another currency.

    Attributes:
        amount: In that currency.
        rate: Of one currency in the other.
        way: "direct" from the euro, "inverse" to it, "cross" through it.
        day: The older one of the days that the rates are of; None where none was needed.
    """

    amount: Decimal
    rate: Decimal
    way: Way
    day: date | None


async def save(session: AsyncSession, rates: Sequence[DailyRate]) -> None:
    """Insert or correct rates, many in one statement; what is there already stays one row."""
    if not rates:
        return
    insert = _INSERTS[session.get_bind().dialect.name](Rate)
    statement = insert.on_conflict_do_update(
        index_elements=[Rate.currency, Rate.day], set_={"per_euro": insert.excluded.per_euro}
    )
    # Sorted: two that save the same ones at once do not wait for each other in a circle.
    rows = sorted({(rate.currency, rate.day): rate.per_euro for rate in rates}.items())
    await session.execute(
        statement,
        [{"currency": currency, "day": day, "per_euro": rate} for (currency, day), rate in rows],
    )


async def currencies(session: AsyncSession) -> Sequence[tuple[str, date]]:
    """Return the currencies that there are rates of, each with the last day."""
    query = select(Rate.currency, func.max(Rate.day)).group_by(Rate.currency).order_by("currency")
    return [(currency, day) for currency, day in await session.execute(query)]


async def missing_since(session: AsyncSession, names: Collection[str], first: date) -> date:
    """Return the day from which on a rate of these currencies may be missing.

    Args:
        session: It reads only.
        names: The currencies; at least one.
        first: The day for a currency of which there is no rate, such as one that is new here.
    """
    last = dict(await currencies(session))
    return min(last.get(name, first) for name in names)


async def convert(
    session: AsyncSession, amount: Decimal, source: str, target: str, day: date
) -> Conversion:
    """Convert an amount by the rates of a day, or of the last day before.

    It reads two rates: in a snapshot, so that both are from before or from after a sync.

    Raises:
        UnknownRate: There is none.
    """
    if source == target:
        return Conversion(amount, Decimal(1), "same", None)
    of_source, of_target = (
        await rate_of(session, source, day),
        await rate_of(session, target, day),
    )
    rate = WIDE.divide(of_target.per_euro, of_source.per_euro)
    way: Way = "direct" if source == EURO else "inverse" if target == EURO else "cross"
    # Not by the rate, which is rounded already: that would round twice.
    converted = WIDE.divide(WIDE.multiply(amount, of_target.per_euro), of_source.per_euro)
    return Conversion(converted, rate, way, min(of_source.day, of_target.day))


async def rate_of(session: AsyncSession, currency: str, day: date) -> DailyRate:
    """Return the rate of a day, or of the last day before.

    Raises:
        UnknownRate: There is none.
    """
    if currency == EURO:
        return DailyRate(EURO, day, Decimal(1))
    query = (
        select(Rate)
        .where(Rate.currency == currency, Rate.day <= day)
        .order_by(Rate.day.desc())
        .limit(1)
    )
    rate = await session.scalar(query)
    if rate is None:
        raise UnknownRate(currency, day)
    return DailyRate(currency, rate.day, rate.per_euro)
