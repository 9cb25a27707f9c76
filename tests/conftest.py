"""Backends, guards and command-line options for the tests.

A server is started when the first test asks for it. Each test gets an empty database of its own,
and fails if it leaves a connection to it behind, on the server's side.
"""

import gc
import logging
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pymysql
import pytest
from blockbuster import BlockBuster, blockbuster_ctx
from sqlalchemy.engine import make_url

from backends import BACKENDS, DRIVERS, Backend
from databases import (
    MySQLConnection,
    PostgreSQLConnection,
    new_mysql_database,
    new_postgresql_database,
    open_files,
    pgbouncer_clients,
    render,
    wait_until_none,
)
from server_process import ServerMissing
from servers import MariaDB, PgBouncer, PostgreSQL

if TYPE_CHECKING:
    from fastdb import Database

# --- Backends ---------------------------------------------------------------------------------


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Backend:
    """Give the test each database in turn; `@pytest.mark.backends("sqlite")` chooses some."""
    backend_id: str = request.param
    name, driver = BACKENDS[backend_id]
    if backend_id == "sqlite-memory":
        return Backend(backend_id, "sqlite+aiosqlite://", name, driver)
    plain_url: str = request.getfixturevalue(f"{name}_url")
    url = make_url(plain_url).set(drivername=f"{name}+{driver}")
    return Backend(backend_id, render(url), name, driver)


@pytest.fixture
async def database(backend: Backend) -> AsyncIterator["Database"]:
    """Give the test an open `Database`; afterwards every connection must be back in its pool."""
    from fastdb import Database

    async with Database(backend.url) as database:
        yield database
        checked_out = database.engine.pool.checkedout()  # type: ignore[attr-defined]
        assert checked_out == 0, f"the test left {checked_out} connections checked out"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--driver",
        action="append",
        choices=DRIVERS,
        help="run tests of backends only with this driver (may be repeated)",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "backends(*names): run only on these databases (sqlite, postgresql, mysql)"
        " or backends (sqlite-file, postgresql-asyncpg, …)",
    )
    config.addinivalue_line(
        "markers",
        "faults: something is killed, cut off, cancelled or told to stop: `nox -s faults`",
    )
    config.addinivalue_line(
        "markers",
        "crowd: faults among many processes, which coverage would make too slow for each other",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" in metafunc.fixturenames:
        metafunc.parametrize("backend", _chosen_backends(metafunc.definition), indirect=True)


def _chosen_backends(node: pytest.Item) -> list[str]:
    marker = node.get_closest_marker("backends")
    if marker is None:
        return list(BACKENDS)
    known = {*BACKENDS, *(name for name, _ in BACKENDS.values())}
    if not marker.args or not known.issuperset(marker.args):
        raise pytest.UsageError(f"{node.nodeid}: backends{marker.args}: choose from {known}")
    return [
        backend_id
        for backend_id, (name, _) in BACKENDS.items()
        if not {backend_id, name}.isdisjoint(marker.args)
    ]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    drivers = config.getoption("--driver")
    if not drivers:
        return
    wanted = {"aiosqlite" if driver == "sqlite" else driver for driver in drivers}
    deselected = [item for item in items if _driver(item) not in {None, *wanted}]
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = [item for item in items if item not in set(deselected)]


def _driver(item: pytest.Item) -> str | None:
    callspec = getattr(item, "callspec", None)
    backend_id = callspec.params.get("backend") if callspec else None
    return BACKENDS[backend_id][1] if backend_id in BACKENDS else None


# --- Servers ----------------------------------------------------------------------------------

NOT_TESTED = "NOT TESTED: "


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgreSQL]:
    """The private PostgreSQL server that all tests share: not one to stop, kill or reconfigure."""
    with PostgreSQL() as server:
        yield server


@pytest.fixture(scope="session")
def mysql_server() -> Iterator[MariaDB]:
    """The private MariaDB server that all tests share: not one to stop, kill or reconfigure."""
    with MariaDB() as server:
        yield server


@pytest.fixture(scope="session")
def pgbouncer_server(postgresql_server: PostgreSQL) -> Iterator[PgBouncer]:
    """PgBouncer in transaction mode before the private PostgreSQL server."""
    with PgBouncer(postgresql_server) as server:
        yield server


@contextmanager
def _skip_without_server() -> Iterator[None]:
    try:
        yield
    except ServerMissing as missing:
        if os.environ.get("CI", "").lower() in {"1", "true"}:
            pytest.fail(f"{missing}; with CI=true nothing is skipped", pytrace=False)
        pytest.skip(f"{NOT_TESTED}{missing}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Iterator[None]:
    with _skip_without_server():
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    with _skip_without_server():
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons = {str(report.longrepr) for report in terminalreporter.getreports("skipped")}
    lines = {reason[reason.index(NOT_TESTED) : -2] for reason in reasons if NOT_TESTED in reason}
    for line in sorted(lines):
        terminalreporter.write_line(line, red=True, bold=True)


# --- A fresh database for each test -----------------------------------------------------------


@pytest.fixture(scope="session")
def postgresql_admin(request: pytest.FixtureRequest) -> Iterator[PostgreSQLConnection]:
    """A connection that may create databases, on the server under test."""
    url = os.environ.get("FASTDB_TEST_POSTGRESQL_URL")
    if not url:
        url = request.getfixturevalue("postgresql_server").url(user="admin")
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="session")
def mysql_admin(request: pytest.FixtureRequest) -> Iterator[MySQLConnection]:
    """A connection that may create databases, on the server under test."""
    text = os.environ.get("FASTDB_TEST_MYSQL_URL")
    url = make_url(text or request.getfixturevalue("mysql_server").url(user="admin"))
    with pymysql.connect(
        host=url.host or "localhost",
        port=url.port or 3306,
        user=url.username,
        password=url.password or "",
        autocommit=True,
        init_command="SET SESSION lock_wait_timeout = 5",
    ) as connection:
        yield connection


@pytest.fixture
def sqlite_url(tmp_path: Path) -> Iterator[str]:
    """A URL of a file that does not exist yet; afterwards nothing may hold it open."""
    path = tmp_path / "test.db"
    yield f"sqlite:///{path}"
    left = wait_until_none(lambda: open_files(path) and _open_after_collection(path))
    assert not left, f"the test left open: {left}"


def _open_after_collection(path: Path) -> Sequence[str]:
    # Before 3.12, an exception may keep the cursor that raised it, and a cursor the closed file.
    # What was never closed does not get away: that it is collected is a warning.
    gc.collect()
    return open_files(path)


@pytest.fixture
def postgresql_url(
    request: pytest.FixtureRequest, postgresql_admin: PostgreSQLConnection
) -> Iterator[str]:
    """A URL of a new, empty PostgreSQL database; afterwards nobody may be connected to it."""
    base = os.environ.get("FASTDB_TEST_POSTGRESQL_URL")
    url = make_url(base or request.getfixturevalue("postgresql_server").url())
    with new_postgresql_database(postgresql_admin, owner=str(url.username)) as name:
        yield render(url.set(drivername="postgresql", database=name))


@pytest.fixture
def mysql_url(request: pytest.FixtureRequest, mysql_admin: MySQLConnection) -> Iterator[str]:
    """A URL of a new, empty MariaDB database; afterwards nobody may be connected to it."""
    base = os.environ.get("FASTDB_TEST_MYSQL_URL")
    url = make_url(base or request.getfixturevalue("mysql_server").url())
    with new_mysql_database(mysql_admin) as name:
        yield render(url.set(drivername="mysql", database=name))


@pytest.fixture
def pgbouncer_url(pgbouncer_server: PgBouncer) -> Iterator[str]:
    """A URL of a new, empty PostgreSQL database through PgBouncer in transaction mode."""
    with (
        psycopg.connect(pgbouncer_server.upstream.url(user="admin"), autocommit=True) as admin,
        # PgBouncer keeps its own sessions on the server: what counts is who is connected to it.
        new_postgresql_database(admin, owner="fastdb", may_stay_connected=True) as name,
    ):
        yield pgbouncer_server.url(name)
        left = wait_until_none(lambda: pgbouncer_clients(pgbouncer_server, name))
        assert not left, f"the test left clients at PgBouncer: {left}"


# --- Guards -----------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_blocking_calls() -> Iterator[BlockBuster]:
    """Fail what blocks an event loop: sleeping, files, sockets, locks, SQLite."""
    with blockbuster_ctx() as detector:
        detector.functions["os.path.abspath"].deactivate()  # looks at nothing but a string
        for function in detector.functions.values():
            function.can_block_in("<frozen importlib._bootstrap>", {"_find_and_load"})
            # It looks for certificates in the home directory at each connect.
            function.can_block_in("asyncpg/connect_utils.py", {"_parse_connect_dsn_and_args"})
            # One directory for each in-memory database, when it is opened.
            function.can_block_in("fastdb/sqlite/memory.py", {"__init__"})
            # Reads that are cheaper than a hop to the connection's thread, and what ends them.
            function.can_block_in("fastdb/sqlite/accelerated.py", {"_execute_here", "_end"})
            # Coverage's own lock, where a second thread runs a line for the first time.
            function.can_block_in("coverage/collector.py", {"lock_data"})
        yield detector


@pytest.fixture(autouse=True)
def no_asyncio_errors() -> Iterator[None]:
    """Fail what asyncio only logs: exceptions in tasks that nobody awaited, lost tasks."""
    _leave_out_of_collections()
    handler = RecordingHandler(logging.ERROR)
    logger = logging.getLogger("asyncio")
    logger.addHandler(handler)
    try:
        yield
        # What is only noticed when it is collected (a task, a coroutine, a connection) is noticed
        # in the test that left it.
        gc.collect()
    finally:
        logger.removeHandler(handler)
    assert not handler.messages, "asyncio logged:\n" + "\n".join(handler.messages)


class RecordingHandler(logging.Handler):
    """Keeps the messages, with their tracebacks."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(self.format(record))


tests_run = count()


def _leave_out_of_collections() -> None:
    # Modules, and what they cache, stay for good. Collections are quick without them.
    if next(tests_run) % 50 == 0:
        gc.collect()
        gc.freeze()
