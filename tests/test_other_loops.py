"""One engine in several event loops, and after a fork."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from backends import Backend
from fastdb import Database, PoolOptions, WrongEventLoop, create_async_engine

pytestmark = pytest.mark.faults

PROBE = Path(__file__).with_name("fork_probe.py")

NETWORK = pytest.mark.backends("postgresql", "mysql")


async def ask(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return int((await connection.execute(select(1))).scalar_one())


@NETWORK
def test_connections_of_another_loop_are_refused(backend: Backend) -> None:
    """With what to do; afterwards the engine is as it was."""
    engine = create_async_engine(backend.url)
    with asyncio.Runner() as first:
        assert first.run(ask(engine)) == 1
        with asyncio.Runner() as second, pytest.raises(WrongEventLoop, match=r"dispose\(\)"):
            second.run(ask(engine))
        assert first.run(ask(engine)) == 1
        first.run(engine.dispose())


def test_after_dispose_another_loop_may_have_it(backend: Backend) -> None:
    """There is nothing left that belongs to the first one."""
    engine = create_async_engine(backend.url)
    for _ in range(2):
        with asyncio.Runner() as runner:
            assert runner.run(ask(engine)) == 1
            runner.run(engine.dispose())


def test_a_connection_for_each_session_belongs_to_no_loop(backend: Backend) -> None:
    """`PoolOptions.null()`."""
    engine = create_async_engine(backend.url, pool=PoolOptions.null())
    for _ in range(2):
        with asyncio.Runner() as runner:
            assert runner.run(ask(engine)) == 1


@pytest.mark.backends("sqlite")
def test_sqlite_goes_on_in_the_next_loop(backend: Backend) -> None:
    """Its connections belong to no loop; two loops at once are refused all the same."""
    engine = create_async_engine(backend.url)
    with asyncio.Runner() as first:
        assert first.run(ask(engine)) == 1
        first.run(engine.dispose())  # the pool that comes after it is like it
        assert first.run(ask(engine)) == 1
        with asyncio.Runner() as second, pytest.raises(WrongEventLoop):
            second.run(ask(engine))
    with asyncio.Runner() as third:
        assert third.run(ask(engine)) == 1
        third.run(engine.dispose())


def test_a_database_has_connections_for_each_loop(backend: Backend) -> None:
    """Nested and one after the other."""
    db = Database(backend.url)

    async def ping() -> None:
        async with db, db.session() as session:
            assert await session.scalar(text("SELECT 1")) == 1

    for _ in range(2):
        with asyncio.Runner() as first:
            first.run(ping())
            with asyncio.Runner() as second:
                second.run(ping())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_has_connections_of_its_own(backend: Backend) -> None:
    """The child's are others than the parent's, which go on as they were: async and the twin's."""
    told = subprocess.run(
        [sys.executable, "-W", "error", str(PROBE), backend.url],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.split() == ["child", "fine", "parent", "fine"]
