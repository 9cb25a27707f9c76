"""Nothing is left of a connection that could not be opened: cancelled anywhere, or not answered."""

import asyncio
import gc
import socket
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from awaits import WAYS, cancel_at
from backends import Backend
from fastdb import Database, PoolOptions, Timeouts
from server_process import HOST

pytestmark = pytest.mark.faults

LIMITS = Timeouts(connect=3, pool=2, lock=2, close=2)
OPEN_FILES = Path("/proc/self/fd")


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Whatever is freed is freed at once: a server waits until garbage is collected somewhere."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def open_sockets() -> set[str]:
    """Name the sockets of this process (on Linux)."""
    names = []
    for file in OPEN_FILES.iterdir() if OPEN_FILES.exists() else ():
        try:
            names.append(str(file.readlink()))
        except FileNotFoundError:  # the directory itself, which was open to be read
            continue
    return {name for name in names if name.startswith("socket:")}


async def left_since(before: set[str]) -> set[str]:
    """Name what was opened and is open still; transports close theirs in the loop's next turns."""
    deadline = time.monotonic() + 1
    while left := (await asyncio.to_thread(open_sockets)) - before:
        if time.monotonic() > deadline:
            break
        await asyncio.sleep(0.01)
    return left


async def read(db: Database) -> None:
    async with db.read_session() as session:
        assert await session.scalar(select(1)) == 1


@pytest.mark.backends("postgresql", "mysql")
@pytest.mark.parametrize("way", ["task", "answered", "again", "anyio"])
async def test_nothing_is_left_of_a_first_connection(
    backend: Backend, way: str, uncollected: None
) -> None:
    """It ends by being cancelled and by no other error, and no socket stays open.

    Only the first one asks the server what it is and how much it takes.
    """
    # In plain text: asyncpg's own TLS code leaves a future behind where connecting is cancelled.
    url = backend.url + ("?sslmode=disable" if backend.driver == "asyncpg" else "")
    at_first = await asyncio.to_thread(open_sockets)
    for place in count(1):
        async with Database(url, pool=PoolOptions(size=1), timeouts=LIMITS) as db:
            run = await cancel_at(place, WAYS[way](), read(db), within=LIMITS.close + 1)
            assert run.cancelled is run.reached
            await asyncio.wait_for(read(db), 3)
        assert not await left_since(at_first), str(run)
        if not run.reached:
            break
    assert place > 3


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg", "aiomysql", "asyncmy"])
async def test_nothing_is_left_of_a_server_that_does_not_answer(
    driver: str, uncollected: None
) -> None:
    """It has taken the connection, and says nothing: no socket is left of each try."""
    dialect = "postgresql" if driver in ("asyncpg", "psycopg") else "mysql"
    with socket.create_server((HOST, 0)) as deaf:
        at_first = await asyncio.to_thread(open_sockets)
        url = f"{dialect}+{driver}://nobody@{HOST}:{deaf.getsockname()[1]}/nothing"
        async with Database(url, timeouts=Timeouts(connect=1)) as db:
            for _ in range(2):
                with pytest.raises((SQLAlchemyError, TimeoutError)):
                    await read(db)
                assert not await left_since(at_first)
