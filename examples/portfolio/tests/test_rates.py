"""Rates: fetched from the ECB, kept once, used as of a day."""

from datetime import date
from decimal import Decimal

import httpx
import pytest
from ecb_server import ECBServer
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from fastdb import Database
from fastdb.testing import fail_commit
from portfolio.config import settings
from portfolio.models import Rate


@pytest.fixture
def synced(the_year: None, sync_client: httpx.Client, ecb: ECBServer) -> ECBServer:
    """The database has the rates of the ECB."""
    assert sync_client.post("/sync").json() == {"rates": 10}
    return ecb


@pytest.fixture(autouse=True)
def the_year(monkeypatch: pytest.MonkeyPatch) -> None:
    """Today is shortly after the days of which the server has rates."""
    monkeypatch.setattr("portfolio.routes._today", lambda: date(2026, 3, 6))


async def test_sync_asks_for_what_is_missing(client: httpx.AsyncClient, synced: ECBServer) -> None:
    """At first for the last three months, then from the last day on; holidays are no rates."""
    assert (await client.post("/sync")).json() == {"rates": 5}
    first, second = synced.asked
    assert first.startswith("/service/data/EXR/D.CHF+GBP+JPY+SEK+USD.EUR.SP00.A?")
    assert "startPeriod=2025-12-06" in first
    assert "startPeriod=2026-03-04" in second
    assert (await client.get("/currencies")).json() == [
        {"currency": each, "day": "2026-03-04"} for each in ("CHF", "GBP", "JPY", "SEK", "USD")
    ]


async def test_a_currency_that_is_new_here(
    client: httpx.AsyncClient, synced: ECBServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rates are fetched for three months too, though there are newer ones of the others."""
    monkeypatch.setattr(settings, "currencies", ["NOK", "USD"])
    assert (await client.post("/sync")).json() == {"rates": 2}
    assert "D.NOK+USD.EUR.SP00.A?startPeriod=2025-12-06" in synced.asked[-1]


async def test_a_rate_is_kept_once_and_corrected(
    client: httpx.AsyncClient, synced: ECBServer, session: AsyncSession
) -> None:
    """The ECB corrects itself; what comes again replaces what was there."""
    synced.text = (
        "KEY,CURRENCY,TIME_PERIOD,OBS_VALUE\r\n"
        "EXR.D.USD.EUR.SP00.A,USD,2026-03-04,1.0999\r\n"
        "EXR.D.USD.EUR.SP00.A,USD,2026-03-05,1.1\r\n"
    )
    assert (await client.post("/sync")).json() == {"rates": 2}
    rates = await session.execute(
        select(Rate.day, Rate.per_euro).where(Rate.currency == "USD").order_by(Rate.day)
    )
    assert [str(rate) for _, rate in rates] == ["1.0844000000", "1.0999000000", "1.1000000000"]


async def test_nothing_new(client: httpx.AsyncClient, synced: ECBServer) -> None:
    """The ECB answers 404 then."""
    synced.status = 404
    assert (await client.post("/sync")).json() == {"rates": 0}


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (500, ""),
        (200, "<html>maintenance</html>"),
        (200, "CURRENCY,TIME_PERIOD,OBS_VALUE\r\nUSD,yesterday,1.1\r\n"),
        (200, "CURRENCY,TIME_PERIOD,OBS_VALUE\r\nUSD,2026-03-05,much\r\n"),
        (200, "CURRENCY,TIME_PERIOD,OBS_VALUE\r\nUSD,2026-03-05,-1\r\n"),
        (200, "CURRENCY,TIME_PERIOD,OBS_VALUE\r\nUSD,2026-03-05,NaN\r\n"),
        (200, "CURRENCY,TIME_PERIOD,OBS_VALUE\r\nUSD,2026-03-05,1e30\r\n"),
        (200, "CURRENCY,TIME_PERIOD,OBS_VALUE\r\nUSD,2026-03-05,1e-20\r\n"),
        (200, "CURRENCY,TIME_PERIOD,OBS_VALUE\r\nXTS,2026-03-05,1\r\n"),
        (200, f"CURRENCY,TIME_PERIOD,OBS_VALUE\r\n{'U' * 200_000},2026-03-05,1\r\n"),
    ],
)
async def test_ecb_that_does_not_answer_as_it_should(
    status: int, text: str, client: httpx.AsyncClient, ecb: ECBServer, session: AsyncSession
) -> None:
    """502, and nothing is kept of it."""
    ecb.status, ecb.text = status, text
    assert (await client.post("/sync")).status_code == 502
    assert await session.scalar(select(func.count()).select_from(Rate)) == 0


async def test_all_rates_or_none(
    client: httpx.AsyncClient, ecb: ECBServer, db: Database, session: AsyncSession
) -> None:
    """Where COMMIT fails, none of many currencies is kept, and the next try brings them."""
    with fail_commit(db, "serialization"):
        assert (await client.post("/sync")).status_code == 503
    assert await session.scalar(select(func.count()).select_from(Rate)) == 0
    assert (await client.post("/sync")).json() == {"rates": 10}


@pytest.mark.parametrize(
    ("source", "target", "amount", "rate", "way"),
    [
        ("EUR", "USD", "109.01", "1.0901", "direct"),
        ("USD", "EUR", "91.7347", "0.91734703", "inverse"),
        ("USD", "GBP", "78.3414", "0.78341437", "cross"),
        ("GBP", "GBP", "100", "1", "same"),
    ],
)
async def test_conversion(
    source: str,
    target: str,
    amount: str,
    rate: str,
    way: str,
    client: httpx.AsyncClient,
    synced: ECBServer,
) -> None:
    """Direct, inverse, through the euro, and none; in decimal digits, as strings."""
    query = {"amount": "100", "from": source, "to": target, "on": "2026-03-04"}
    answer = (await client.get("/convert", params=query)).json()
    day = None if way == "same" else "2026-03-04"
    assert answer == {"amount": amount, "rate": rate, "way": way, "day": day}


async def test_large_amount(client: httpx.AsyncClient, synced: ECBServer) -> None:
    """What is answered may have more digits than what may be asked."""
    query = {"amount": "9999999999.99999999", "from": "EUR", "to": "JPY"}
    answer = await client.get("/convert", params=query)
    assert answer.json()["amount"] == "1709000000000"
    query = {"amount": "-9999999999", "from": "EUR", "to": "JPY"}
    assert (await client.get("/convert", params=query)).json()["amount"] == "-1708999999829.1"


async def test_rates_of_the_last_day_before(client: httpx.AsyncClient, synced: ECBServer) -> None:
    """A holiday has those of the day before; a day before all of them has none."""
    query = {"amount": "1", "from": "EUR", "to": "USD", "on": "2026-03-03"}
    assert (await client.get("/convert", params=query)).json()["day"] == "2026-03-02"
    answer = await client.get("/convert", params={**query, "on": "2026-03-01"})
    assert answer.status_code == 404
    assert answer.json()["detail"] == "There is no rate of USD on 2026-03-01 or before."


async def test_no_digit_is_lost(
    client: httpx.AsyncClient, session: AsyncSession, synced: ECBServer
) -> None:
    """What binary numbers cannot hold: there and back."""
    session.add(Rate(currency="XTS", day=date(2026, 3, 4), per_euro=Decimal("0.1")))
    await session.commit()
    query = {"amount": "1234567890.12345678", "from": "EUR", "to": "XTS"}
    assert (await client.get("/convert", params=query)).json()["amount"] == "123456789.0123"
    assert await session.scalar(select(Rate.per_euro).where(Rate.currency == "XTS")) == Decimal(
        "0.1"
    )


@pytest.mark.parametrize(
    "query",
    [
        {"amount": "NaN"},
        {"amount": "1e30"},
        {"from": "usd"},
        {"to": "US\x00"},
        {"on": "2026-02-30"},
    ],
)
async def test_what_no_conversion_is(query: dict[str, str], client: httpx.AsyncClient) -> None:
    """422."""
    valid = {"amount": "1", "from": "EUR", "to": "USD"}
    assert (await client.get("/convert", params={**valid, **query})).status_code == 422
