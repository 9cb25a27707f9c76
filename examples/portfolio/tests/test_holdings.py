"""Brokers, assets, and what they are worth."""

from datetime import date
from decimal import Decimal

import httpx
import pytest
import pytest_asyncio
from sqlalchemy.ext.asyncio import AsyncSession

from portfolio.models import Rate


@pytest_asyncio.fixture
async def broker(client: httpx.AsyncClient) -> int:
    """The id of a broker."""
    return int((await client.post("/brokers", json={"name": "First Bank"})).json()["id"])


@pytest_asyncio.fixture
async def asset(client: httpx.AsyncClient, broker: int) -> int:
    """The id of an asset, of which there is nothing yet."""
    new = {"symbol": "ACME", "currency": "USD", "price": "12.5"}
    answer = await client.post(f"/brokers/{broker}/assets", json=new)
    assert answer.status_code == 201
    return int(answer.json()["id"])


async def test_broker_with_assets_cannot_be_deleted(
    client: httpx.AsyncClient, broker: int, asset: int
) -> None:
    """The foreign key refuses it, on SQLite too; nothing is deleted."""
    answer = await client.delete(f"/brokers/{broker}")
    assert answer.status_code == 409
    assert answer.json()["kind"] == "foreign_key"
    assert [each["id"] for each in (await client.get("/assets")).json()] == [asset]


async def test_broker_without_assets_is_deleted(client: httpx.AsyncClient, broker: int) -> None:
    """Once."""
    assert (await client.delete(f"/brokers/{broker}")).status_code == 204
    assert (await client.delete(f"/brokers/{broker}")).status_code == 404


async def test_what_is_there_already(client: httpx.AsyncClient, broker: int, asset: int) -> None:
    """A broker's name, and a broker's asset."""
    assert (await client.post("/brokers", json={"name": "First Bank"})).status_code == 409
    again = {"symbol": "ACME", "currency": "EUR", "price": "1"}
    assert (await client.post(f"/brokers/{broker}/assets", json=again)).status_code == 409


async def test_asset_of_no_broker(client: httpx.AsyncClient) -> None:
    """It is the broker that is not there."""
    new = {"symbol": "ACME", "currency": "USD", "price": "12.5"}
    answer = await client.post("/brokers/1000000/assets", json=new)
    assert (answer.status_code, answer.json()["detail"]) == (404, "There is no broker 1000000.")


async def test_buy_and_sell(client: httpx.AsyncClient, asset: int) -> None:
    """Never below nothing."""
    path = f"/assets/{asset}/trades"
    assert (await client.post(path, json={"quantity": "0.3"})).json()["quantity"] == "0.3"
    assert (await client.post(path, json={"quantity": "-0.1"})).json()["quantity"] == "0.2"
    refused = await client.post(path, json={"quantity": "-0.20000001"})
    assert refused.status_code == 409
    assert refused.json()["detail"] == "There are 0.2 of ACME."
    assert (await client.post(path, json={"quantity": "-0.2"})).json()["quantity"] == "0"
    assert (await client.post("/assets/1000000/trades", json={"quantity": "1"})).status_code == 404


async def test_value_in_a_currency(
    client: httpx.AsyncClient, asset: int, session: AsyncSession
) -> None:
    """All that there is, by the rates of a day."""
    session.add(Rate(currency="USD", day=date(2026, 3, 4), per_euro=Decimal("1.25")))
    await session.commit()
    await client.post(f"/assets/{asset}/trades", json={"quantity": "10"})
    query = {"currency": "EUR", "on": "2026-03-05"}
    assert (await client.get("/value", params=query)).json() == {"currency": "EUR", "value": "100"}
    answer = await client.get("/value", params={**query, "on": "2026-03-03"})
    assert answer.status_code == 404


async def test_as_much_as_can_be_kept(client: httpx.AsyncClient, asset: int) -> None:
    """What would be more is refused, and leaves what there is."""
    path = f"/assets/{asset}/trades"
    most = {"quantity": "9999999999.99999999"}
    assert (await client.post(path, json=most)).json() == {
        **(await client.get("/assets")).json()[0],
        **most,
    }
    refused = await client.post(path, json={"quantity": "0.00000001"})
    assert refused.status_code == 409
    assert refused.json()["detail"] == "There are 9999999999.99999999 of ACME."


async def test_value_of_as_much_as_can_be_kept(
    client: httpx.AsyncClient, broker: int, session: AsyncSession
) -> None:
    """No digit of it is lost: it has more than Python's decimal numbers have by default."""
    of_usd, of_xts = Decimal("0.0001"), Decimal(100_000_000)
    session.add(Rate(currency="USD", day=date(2026, 3, 4), per_euro=of_usd))
    session.add(Rate(currency="XTS", day=date(2026, 3, 4), per_euro=of_xts))
    await session.commit()
    most = "9999999999.99999999"
    new = {"symbol": "ALL", "currency": "USD", "price": most}
    made = (await client.post(f"/brokers/{broker}/assets", json=new)).json()
    await client.post(f"/assets/{made['id']}/trades", json={"quantity": most})
    answer = await client.get("/value", params={"currency": "XTS"})
    assert answer.json()["value"] == "99999999999999999800000000000000.0001"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/brokers", {"name": "\x00"}),
        ("/brokers", {"name": " "}),
        ("/brokers/1/assets", {"symbol": "acme", "currency": "USD", "price": "1"}),
        ("/brokers/1/assets", {"symbol": "ACME", "currency": "USD", "price": "0"}),
        ("/brokers/1/assets", {"symbol": "ACME", "currency": "USD", "price": "1.123456789"}),
        ("/assets/1/trades", {"quantity": "Infinity"}),
        ("/assets/0/trades", {"quantity": "1"}),
        (f"/assets/{2**63}/trades", {"quantity": "1"}),
    ],
)
async def test_what_is_refused(path: str, body: dict[str, str], client: httpx.AsyncClient) -> None:
    """422, and it does not reach the database."""
    assert (await client.post(path, json=body)).status_code == 422


async def test_text_that_is_no_text(client: httpx.AsyncClient) -> None:
    """Half a surrogate pair is no UTF-8: neither a row nor an answer could hold it."""
    body = b'{"name": "\\ud83d"}'
    headers = {"Content-Type": "application/json"}
    assert (await client.post("/brokers", content=body, headers=headers)).status_code == 422
