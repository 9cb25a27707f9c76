"""Brokers, assets and trades."""

from collections.abc import Sequence
from datetime import date
from decimal import Decimal

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from portfolio.amounts import LIMIT, WIDE
from portfolio.models import Asset, Broker
from portfolio.rates import convert


class NotFound(Exception):
    """What was asked for is not there."""

    def __init__(self, kind: str, number: int) -> None:
        super().__init__(f"There is no {kind} {number}.")


class ImpossibleTrade(Exception):
    """More was to be sold than there is, or bought than can be kept."""


async def trade(session: AsyncSession, asset_id: int, quantity: Decimal) -> Asset:
    """Buy, or sell with a negative quantity.

    Two trades of one asset at once must not read the same quantity: `with_for_update` locks the
    row on PostgreSQL, and SQLite's write lock serves there.

    Raises:
        NotFound: There is no such asset.
        ImpossibleTrade: There would be less than nothing, or too much.
    """
    asset = await session.get(Asset, asset_id, with_for_update=True)
    if asset is None:
        raise NotFound("asset", asset_id)
    if not 0 <= asset.quantity + quantity < LIMIT:
        raise ImpossibleTrade(f"There are {asset.quantity.normalize():f} of {asset.symbol}.")
    asset.quantity += quantity
    return asset


async def add_asset(session: AsyncSession, asset: Asset) -> None:
    """Add an asset of a broker.

    Raises:
        NotFound: There is no such broker.
    """
    # It may be deleted in between: then the foreign key refuses the asset.
    if await session.get(Broker, asset.broker_id) is None:
        raise NotFound("broker", asset.broker_id)
    session.add(asset)
    await session.flush()


async def delete_broker(session: AsyncSession, broker_id: int) -> None:
    """Delete a broker; the database refuses it where there are assets.

    Locked, so that of two who delete it at once one is told that it is not there.

    Raises:
        NotFound: There is no such broker.
    """
    broker = await session.get(Broker, broker_id, with_for_update=True)
    if broker is None:
        raise NotFound("broker", broker_id)
    await session.delete(broker)


async def assets(session: AsyncSession) -> Sequence[Asset]:
    """Return all assets."""
    return (await session.scalars(select(Asset).order_by(Asset.id))).all()


async def value(session: AsyncSession, currency: str, day: date) -> Decimal:
    """Return what all of it is worth in a currency, by the rates of a day.

    It reads assets and rates: in a snapshot, so that they are of one moment.

    Raises:
        UnknownRate: One is missing.
    """
    total = Decimal(0)
    worth: dict[str, Decimal] = {}
    for asset in await assets(session):
        so_far = worth.get(asset.currency, Decimal(0))
        worth[asset.currency] = WIDE.fma(asset.quantity, asset.price, so_far)
    for source, amount in worth.items():
        converted = await convert(session, amount, source, currency, day)
        total = WIDE.add(total, converted.amount)
    return total
