"""A primary dies and its standby takes over: an app with both in its URL goes on by itself."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import psycopg
import pytest
from sqlalchemy.engine import make_url

from asgi import Base, Client
from databases import add_database, postgresql_sessions, wait_until_none
from fail_over import CLIENTS, app_on, fail_over, url_of_both
from fastdb import Database, Timeouts
from servers import PostgreSQL
from standby import Standby

pytestmark = pytest.mark.faults


@asynccontextmanager
async def streaming_pair() -> AsyncIterator[tuple[PostgreSQL, Standby, str]]:
    """A primary and the standby that its COMMIT waits for, with a database's name."""
    primary = await asyncio.to_thread(PostgreSQL)
    standby = await asyncio.to_thread(Standby, primary)
    try:
        await asyncio.to_thread(primary.start)
        url = await asyncio.to_thread(add_database, primary)
        await asyncio.to_thread(standby.start)
        await asyncio.to_thread(standby.synchronise)
        yield primary, standby, str(make_url(url).database)
    finally:
        await asyncio.to_thread(standby.close)
        await asyncio.to_thread(primary.close)


def end_sessions(server: PostgreSQL, name: str) -> None:
    """End all sessions on a database; what is told to end has ended a moment later."""
    with psycopg.connect(server.url(user="admin"), autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
        )
        assert not wait_until_none(lambda: postgresql_sessions(admin, name))


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_an_app_survives_a_fail_over(
    driver: str, record_property: Callable[[str, object], None]
) -> None:
    """The primary is killed and the standby promoted: all is written there, and nothing is lost.

    Nor does the app go back when the old primary does, which can only be read from by then.
    """
    async with streaming_pair() as (primary, standby, name):
        url = url_of_both(primary, standby, driver, name)
        db = Database(url, timeouts=Timeouts(connect=2))
        app = app_on(db)
        async with db.lifespan(app):
            await db.create_all(Base.metadata)
            client = Client(app, None, db)
            seen = await fail_over(client, primary, standby)
            assert seen.acknowledged <= seen.rows
            assert seen.rows <= seen.acknowledged | seen.unknown
            assert {status for status, _ in seen.answers} <= {201, 500, 503}
            assert {kind for status, kind in seen.answers if status == 500} <= {
                "commit_outcome_unknown"
            }
            assert len(seen.unknown) <= CLIENTS
            record_property(f"promotion_seconds_{driver}", round(seen.promotion_seconds, 3))
            record_property(f"recovery_seconds_{driver}", round(seen.recovery_seconds, 3))
            await asyncio.to_thread(primary.start_demoted)
            await asyncio.to_thread(end_sessions, standby, name)
            answers = [await client.post(f"/items/back-{number}") for number in range(3)]
            assert {answer.status for answer in answers} == {201}
