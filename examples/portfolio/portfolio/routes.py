"""The routes."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query

from fastdb import DatabaseDep, ReadSessionDep, SessionDep, SnapshotSessionDep
from fastdb.handlers import error_responses
from portfolio import holdings, rates
from portfolio.amounts import Amount, rounded
from portfolio.config import settings
from portfolio.ecb import ECBDep
from portfolio.models import Asset, Broker
from portfolio.schemas import (
    AssetIn,
    AssetOut,
    BrokerIn,
    BrokerOut,
    ConversionOut,
    Currency,
    CurrencyOut,
    Synced,
    Trade,
    Value,
)

Id = Annotated[int, Path(ge=1, le=2**31 - 1)]
Day = Annotated[date | None, Query(description="Default: today, in UTC.")]

HISTORY = timedelta(days=90)

router = APIRouter()
_MISSING: dict[int | str, dict[str, Any]] = {404: {"description": "It is not there."}}


def _today() -> date:
    return datetime.now(UTC).date()


@router.post("/brokers", status_code=201, response_model=BrokerOut, responses=error_responses(409))
async def create_broker(new: BrokerIn, session: SessionDep) -> Broker:
    broker = Broker(name=new.name)
    session.add(broker)
    await session.flush()
    return broker


@router.delete(
    "/brokers/{broker_id}", status_code=204, responses={**_MISSING, **error_responses(409)}
)
async def delete_broker(broker_id: Id, session: SessionDep) -> None:
    await holdings.delete_broker(session, broker_id)


@router.post(
    "/brokers/{broker_id}/assets",
    status_code=201,
    response_model=AssetOut,
    responses={**_MISSING, **error_responses(409)},
)
async def create_asset(broker_id: Id, new: AssetIn, session: SessionDep) -> Asset:
    asset = Asset(broker_id=broker_id, quantity=Decimal(0), **new.model_dump())
    await holdings.add_asset(session, asset)
    return asset


@router.get("/assets", response_model=list[AssetOut])
async def list_assets(session: ReadSessionDep) -> Any:
    return await holdings.assets(session)


@router.post(
    "/assets/{asset_id}/trades",
    response_model=AssetOut,
    responses={**_MISSING, 409: {"description": "There is not enough."}},
)
async def trade(asset_id: Id, order: Trade, session: SessionDep) -> Asset:
    return await holdings.trade(session, asset_id, order.quantity)


@router.get("/value", responses=_MISSING)
async def value(session: SnapshotSessionDep, currency: Currency = "EUR", on: Day = None) -> Value:
    worth = await holdings.value(session, currency, on or _today())
    return Value(currency=currency, value=rounded(worth, 4))


@router.get("/currencies")
async def list_currencies(session: ReadSessionDep) -> list[CurrencyOut]:
    known = await rates.currencies(session)
    return [CurrencyOut(currency=currency, day=day) for currency, day in known]


@router.post("/sync", responses={502: {"description": "The ECB does not answer as it should."}})
async def sync(db: DatabaseDep, ecb: ECBDep) -> Synced:
    """Fetch the rates that may be missing.

    In two units of work: while the ECB is awaited, nobody waits for our connection or our lock.
    """
    async with db.read_session() as session:
        since = await rates.missing_since(session, settings.currencies, _today() - HISTORY)
    fetched = await ecb.daily_rates(settings.currencies, since)
    async with db.session() as session:
        await rates.save(session, fetched)
    return Synced(rates=len(fetched))


@router.get("/convert", responses=_MISSING)
async def convert(
    session: SnapshotSessionDep,
    amount: Annotated[Amount, Query()],
    source: Annotated[Currency, Query(alias="from")],
    target: Annotated[Currency, Query(alias="to")],
    on: Day = None,
) -> ConversionOut:
    found = await rates.convert(session, amount, source, target, on or _today())
    return ConversionOut(
        amount=rounded(found.amount, 4),
        rate=rounded(found.rate, 8),
        way=found.way,
        day=found.day,
    )
