"""What several tests begin with. The fixtures `client`, `session` and so on are fastdb's."""

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from ecb_server import ECBServer

from portfolio.app import app
from portfolio.ecb import ECB, get_ecb


@pytest.fixture
def ecb_server() -> Iterator[ECBServer]:
    """A server on this machine that answers as the ECB's does."""
    with ECBServer() as server:
        yield server


@pytest.fixture
def ecb(ecb_server: ECBServer) -> Iterator[ECBServer]:
    """The same one, which the app asks in place of the real one."""

    async def local() -> AsyncIterator[ECB]:
        async with httpx.AsyncClient(base_url=ecb_server.url, trust_env=False) as client:
            yield ECB(client)

    app.dependency_overrides[get_ecb] = local
    yield ecb_server
    app.dependency_overrides.clear()
