"""SIGTERM under load: what is in flight is finished or undone, and nothing is left behind.

The app and its clients are those of the bank, tens of them on a pool of a few connections: some
are inside a transaction, some in a statement or waiting for a lock, most of them for a connection.
"""

import asyncio
import os
import signal
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

import httpx
import pytest

from backends import Backend
from bank.clients import WAYS, Clients, as_order
from bank.judge import INNOCENT, Answer, Outcome, Transfer, judge
from bank.process import AppProcess
from bank.run import ACCOUNTS, BALANCE
from bank.tables import open_accounts, read_books
from databases import (
    MySQLConnection,
    PostgreSQLConnection,
    mysql_sessions,
    postgresql_sessions,
    wait_until_none,
)

CLIENTS = 40
CONNECTIONS = 4
SUCCESSES = 30
OPENING = dict.fromkeys(ACCOUNTS, BALANCE)

pytestmark = [
    pytest.mark.faults,
    pytest.mark.crowd,
    pytest.mark.backends("sqlite-file", "postgresql", "mysql"),
]


@asynccontextmanager
async def loaded(
    backend: Backend, tmp_path: Path, *, grace_seconds: int
) -> AsyncIterator[tuple[AppProcess, Clients]]:
    """Run the app with tens of clients, and give it when it is well at work."""
    await asyncio.to_thread(open_accounts, backend.url, ACCOUNTS, BALANCE)
    app = AppProcess(
        backend.url, tmp_path / "log", connections=CONNECTIONS, grace_seconds=grace_seconds
    )
    crowd = Clients([app.url], ACCOUNTS, number=CLIENTS, seed=7, ways=(*WAYS, "slowly"))
    try:
        await app.start()
        app.leave_alone()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(crowd.run())
            for _ in range(SUCCESSES):
                await crowd.served(10)
            yield app, crowd
            crowd.stop()
    finally:
        await app.close()


async def all_connections_are_taken(app: AppProcess) -> bool:
    """Return whether the pool is seen full: whoever comes then waits."""
    async with httpx.AsyncClient(trust_env=False, base_url=app.url) as client:
        for _ in range(100):
            if (await client.get("/taken")).json() == CONNECTIONS:
                return True
    return False


async def is_refused(app: AppProcess) -> bool:
    """Return whether nobody listens where the app did."""
    async with httpx.AsyncClient(trust_env=False) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(f"{app.url}/ready")
    return True


def left_behind(backend: Backend, request: pytest.FixtureRequest) -> Sequence[object]:
    """Return sessions that are on the server, or locks that are on the file."""
    if backend.name == "sqlite":
        path = backend.url.partition(":///")[2]
        with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("ROLLBACK")
            # Truncated only where nobody reads or writes.
            busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            return [busy] if busy else []
    name = backend.url.rpartition("/")[2]
    if backend.name == "postgresql":
        postgresql: PostgreSQLConnection = request.getfixturevalue("postgresql_admin")
        return wait_until_none(lambda: postgresql_sessions(postgresql, name))
    mysql: MySQLConnection = request.getfixturevalue("mysql_admin")
    with mysql.cursor() as cursor:
        return wait_until_none(lambda: mysql_sessions(cursor, name))


def hung_up(backend: Backend, request: pytest.FixtureRequest) -> int:
    """Return how many sessions have ended without a goodbye, where the server tells of this one."""
    if backend.name == "postgresql":
        admin: PostgreSQLConnection = request.getfixturevalue("postgresql_admin")
        if admin.info.server_version >= 140000:
            query = "SELECT sessions_abandoned FROM pg_stat_database WHERE datname = %s"
            found = admin.execute(query, [backend.url.rpartition("/")[2]]).fetchone()
            return int(found[0]) if found else 0
    # MariaDB counts for all databases at once, so the server must not be anybody else's.
    if backend.name == "mysql" and "FASTDB_TEST_MYSQL_URL" not in os.environ:
        mysql: MySQLConnection = request.getfixturevalue("mysql_admin")
        with mysql.cursor() as cursor:
            cursor.execute("SHOW GLOBAL STATUS LIKE 'Aborted_clients'")
            return int(cursor.fetchall()[0][1])
    return 0


async def test_what_is_in_flight_is_finished_or_undone(
    backend: Backend, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """With time enough: every answer is true, and the process leaves nothing behind."""
    hung_up_before = await asyncio.to_thread(hung_up, backend, request)
    async with loaded(backend, tmp_path, grace_seconds=10) as (app, crowd):
        assert await all_connections_are_taken(app)
        served = len(crowd.answers)
        assert await app.stop() == -signal.SIGTERM
        assert await is_refused(app)

    assert not await asyncio.to_thread(left_behind, backend, request)
    assert await asyncio.to_thread(hung_up, backend, request) == hung_up_before
    books = await asyncio.to_thread(read_books, backend.url)
    assert judge(OPENING, crowd.answers, books) == INNOCENT
    afterwards = {answer.outcome for answer in crowd.answers[served:]}
    assert Outcome.ACKNOWLEDGED in afterwards  # what SIGTERM has found in flight
    assert "Warning" not in await app.written()


async def test_what_outstays_the_grace_is_undone(
    backend: Backend, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Requests that never end by themselves are cancelled inside their transactions."""
    stuck = [Transfer(f"stuck-{n}", 1 + n, 11 + n, 1) for n in range(CONNECTIONS - 1)]
    async with (
        loaded(backend, tmp_path, grace_seconds=1) as (app, crowd),
        httpx.AsyncClient(trust_env=False, timeout=20) as client,
    ):
        answers = [asyncio.ensure_future(ask_for(client, app, each)) for each in stuck]
        await one_is_stuck(client, app)
        assert await app.stop() == -signal.SIGTERM
        outcomes = await asyncio.gather(*answers)
        assert await is_refused(app)

    assert not await asyncio.to_thread(left_behind, backend, request)
    books = await asyncio.to_thread(read_books, backend.url)
    assert judge(OPENING, [*crowd.answers, *outcomes], books) == INNOCENT
    assert not {entry.id for entry in books.ledger} & {each.id for each in stuck}
    assert "Warning" not in await app.written()


async def one_is_stuck(client: httpx.AsyncClient, app: AppProcess) -> None:
    """Wait until one has written; on SQLite, the others wait for it from then on."""
    async with asyncio.timeout(10):
        while not (await client.get(f"{app.url}/stuck")).json():  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)


async def ask_for(client: httpx.AsyncClient, app: AppProcess, transfer: Transfer) -> Answer:
    """Send what will never be done; the app must not say that it is."""
    try:
        answer = await client.post(f"{app.url}/never", json=as_order(transfer))
    except httpx.TransportError as error:
        return Answer(transfer, Outcome.UNKNOWN, type(error).__name__)
    assert answer.is_error
    return Answer(transfer, Outcome.REFUSED, str(answer.status_code))
