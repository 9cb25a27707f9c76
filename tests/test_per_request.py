"""The sessions of one request, where there are several of them."""

import asyncio

import pytest
from sqlalchemy import select
from sqlalchemy.pool import QueuePool
from starlette.requests import HTTPConnection

from fastdb import Database
from fastdb.per_request import RequestSessions


@pytest.mark.backends("sqlite-memory", "postgresql", "mysql")
async def test_a_cancellation_while_rolling_back_leaves_no_session_open(database: Database) -> None:
    """All sessions of the request are ended, also those after the one that was interrupted."""
    sessions = RequestSessions(HTTPConnection({"type": "http", "method": "POST"}))
    await sessions.read_session(database, "snapshot").execute(select(1))
    await sessions.session(database).execute(select(1))

    async def give_up() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await sessions.abandon()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(give_up())
    for engine in (database.engine, database.read_engine):
        assert isinstance(engine.pool, QueuePool)
        assert engine.pool.checkedout() == 0
