"""The app in a process of its own, as it is deployed: the story that the README tells."""

import httpx
import pytest
from ecb_server import ECBServer

from fastdb.testing.servers import AppServer


@pytest.mark.fastdb(isolation="database")
def test_story(database_url: str, ecb_server: ECBServer) -> None:
    """Two workers, one of which migrates; and what they keep is kept."""
    environment = {"PORTFOLIO_DATABASE_URL": database_url, "PORTFOLIO_ECB_URL": ecb_server.url}
    with (
        AppServer(
            "portfolio.app:app", environment=environment, arguments=("--workers", "2")
        ) as server,
        httpx.Client(base_url=server.url, trust_env=False, timeout=30) as client,
    ):
        broker = client.post("/brokers", json={"name": "First Bank"}).json()["id"]
        new = {"symbol": "ACME", "currency": "EUR", "price": "12.5"}
        asset = client.post(f"/brokers/{broker}/assets", json=new).json()["id"]
        bought = client.post(f"/assets/{asset}/trades", json={"quantity": "8"})
        assert bought.json()["quantity"] == "8"
        assert client.delete(f"/brokers/{broker}").status_code == 409
        assert client.get("/value").json() == {"currency": "EUR", "value": "100"}
        assert client.post("/sync").status_code == 200
        assert ecb_server.asked
        query = {"amount": "1", "from": "EUR", "to": "XXX"}
        assert client.get("/convert", params=query).status_code == 404
