"""What several tests begin with. The fixtures `client`, `db` and so on are fastdb's."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from fastdb import Database
from fastdb.testing.servers import AppServer
from realtime import users
from realtime.config import settings

ANN = {"Authorization": "Bearer token of ann"}
BOB = {"Authorization": "Bearer token of bob"}
NAMES = [f"file_{number}.txt" for number in range(8)]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the browser's test leave a picture."""
    parser.addoption("--screenshot", metavar="PATH", help="keep a picture of the page there")


@pytest.fixture(scope="session", autouse=True)
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that operations look at, from before the app's lifespan on."""
    settings.files = tmp_path_factory.mktemp("files")
    for number, name in enumerate(NAMES):
        (settings.files / name).write_text("x" * number)
    return settings.files


@pytest.fixture
def server(database_url: str, files: Path) -> Iterator[AppServer]:
    """The app, in a process of its own."""
    environment = {
        "REALTIME_DATABASE_URL": database_url,
        "REALTIME_FILES": str(files),
        "REALTIME_DEMO_TOKEN": "demo",
    }
    with AppServer("realtime.app:app", environment=environment) as server:
        yield server


@pytest_asyncio.fixture
async def people(db: Database) -> None:
    """Ann and Bob, who have tokens."""
    async with db.session() as session:
        for name in ("ann", "bob"):
            await session.run_sync(users.add, name, f"token of {name}")
