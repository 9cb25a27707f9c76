"""What several tests begin with. The fixtures `client`, `db` and so on are fastdb's."""

from collections.abc import Iterator

import pytest
from ai_server import AIServer

from workflows.config import settings


@pytest.fixture(scope="session", autouse=True)
def ai_server() -> Iterator[AIServer]:
    """What the app asks in place of the real service, from before its lifespan on."""
    with AIServer() as server:
        settings.ai_url = server.url
        yield server


@pytest.fixture
def ai(ai_server: AIServer) -> AIServer:
    """The same one, as if nobody had asked it yet."""
    ai_server.reset()
    return ai_server
