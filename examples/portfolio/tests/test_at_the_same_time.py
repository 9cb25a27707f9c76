"""Requests that meet: no update is lost and nothing is there twice, on SQLite and PostgreSQL."""

import asyncio
from collections import Counter
from datetime import date
from decimal import Decimal

import httpx
import pytest
from ecb_server import ECBServer
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.pool import QueuePool

from fastdb import Database
from portfolio import rates
from portfolio.ecb import ECB, DailyRate
from portfolio.models import Asset, Broker, Rate
from portfolio.routes import sync

pytestmark = pytest.mark.fastdb(isolation="database")


async def make_asset(client: httpx.AsyncClient) -> int:
    broker = (await client.post("/brokers", json={"name": "First Bank"})).json()["id"]
    new = {"symbol": "ACME", "currency": "USD", "price": "12.5"}
    return int((await client.post(f"/brokers/{broker}/assets", json=new)).json()["id"])


async def test_no_trade_is_lost(client: httpx.AsyncClient, session: AsyncSession) -> None:
    """Each reads the quantity and writes a new one."""
    asset = await make_asset(client)

    async def buy(_: int) -> int:
        answer = await client.post(f"/assets/{asset}/trades", json={"quantity": "0.1"})
        return answer.status_code

    assert Counter(await asyncio.gather(*map(buy, range(60)))) == {200: 60}
    assert await session.scalar(select(Asset.quantity)) == Decimal(6)


async def test_nothing_is_sold_twice(client: httpx.AsyncClient, session: AsyncSession) -> None:
    """Of ten who want the last three, three get one."""
    asset = await make_asset(client)
    await client.post(f"/assets/{asset}/trades", json={"quantity": "3"})

    async def sell(_: int) -> int:
        answer = await client.post(f"/assets/{asset}/trades", json={"quantity": "-1"})
        return answer.status_code

    assert Counter(await asyncio.gather(*map(sell, range(10)))) == {200: 3, 409: 7}
    assert await session.scalar(select(Asset.quantity)) == 0


async def test_parallel_syncs(
    client: httpx.AsyncClient,
    ecb: ECBServer,
    session: AsyncSession,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They fetch the same rates at the same time; each is kept once."""
    monkeypatch.setattr("portfolio.routes._today", lambda: date(2026, 3, 6))

    async def sync(_: int) -> int:
        return (await client.post("/sync")).status_code

    assert Counter(await asyncio.gather(*map(sync, range(10)))) == {200: 10}
    assert await session.scalar(select(func.count()).select_from(Rate)) == 10


async def test_a_broker_is_deleted_once(client: httpx.AsyncClient) -> None:
    """Of several who delete it, one has, and the others are told that it is not there."""

    async def delete(broker: int) -> int:
        return (await client.delete(f"/brokers/{broker}")).status_code

    for turn in range(10):
        new = await client.post("/brokers", json={"name": f"Bank {turn}"})
        deleted = await asyncio.gather(*[delete(new.json()["id"]) for _ in range(8)])
        assert Counter(deleted) == {204: 1, 404: 7}


async def test_a_conversion_is_by_the_rates_of_one_moment(
    client: httpx.AsyncClient, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rates that are saved after it has read one of its two are not used for the other."""
    await keep_rates(db, date(2026, 3, 4), Decimal(1))
    find = rates.rate_of

    async def find_then_others_save(session: AsyncSession, currency: str, day: date) -> DailyRate:
        found = await find(session, currency, day)
        if currency == "USD":
            await keep_rates(db, date(2026, 3, 5), Decimal(2))
        return found

    monkeypatch.setattr(rates, "rate_of", find_then_others_save)
    query = {"amount": "1", "from": "USD", "to": "GBP", "on": "2026-03-06"}
    assert (await client.get("/convert", params=query)).json()["amount"] == "1"


async def keep_rates(db: Database, day: date, per_euro: Decimal) -> None:
    async with db.session() as session:
        await rates.save(session, [DailyRate(each, day, per_euro) for each in ("GBP", "USD")])


async def test_nothing_is_held_while_the_ecb_is_awaited(
    ecb_server: ECBServer, db: Database
) -> None:
    """No connection, and on SQLite no lock: others write meanwhile."""
    ecb_server.gate.clear()
    async with httpx.AsyncClient(base_url=ecb_server.url, trust_env=False) as asking:
        syncing = asyncio.create_task(sync(db, ECB(asking)))
        assert await asyncio.to_thread(ecb_server.was_asked.wait, 30)
        pools = [db.read_engine.pool, db.engine.pool]
        assert [pool.checkedout() for pool in pools if isinstance(pool, QueuePool)] == [0, 0]
        async with db.session() as session:
            session.add(Broker(name="Second Bank"))
        ecb_server.gate.set()
        await syncing
