"""The lock on migrations: one worker at a time, and what those who wait for it are told."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import pytest
from sqlalchemy import Connection, make_url, text

from backends import Backend
from fastdb import ConfigurationError, Database, MigrationFailed, MigrationLocked, NotAtHead
from fastdb.migrations import check_at_head, upgrade, upgrade_sync
from fastdb.migrations.lock import one_at_a_time
from fastdb.migrations.requests import VersionTable
from shop_project import empty_directory, wait_until

ENV = """
from fastdb.migrations import run

run(None, None)
"""
REVISION = """
from alembic import op

revision, down_revision = "first", None


def upgrade():
    op.execute("CREATE TABLE things (id INTEGER)")
"""

USUAL = VersionTable()

pytestmark = pytest.mark.backends("sqlite-file", "postgresql-psycopg", "mysql-aiomysql")


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A folder with one revision."""
    versions = tmp_path / "migrations" / "versions"
    versions.mkdir(parents=True)
    (versions / "first.py").write_text(REVISION)
    (tmp_path / "migrations" / "env.py").write_text(ENV)
    return str(tmp_path / "migrations")


@pytest.fixture
async def db(backend: Backend) -> AsyncIterator[Database]:
    async with Database(backend.url) as db:
        yield db


@contextmanager
def holding(db: Database, table: VersionTable = USUAL) -> Iterator[Connection]:
    """Hold the lock of the project with this version table."""
    with (
        db.sync.engine.connect() as connection,
        one_at_a_time(connection, table, wait=0, stop=Event()),
    ):
        yield connection


def failed() -> MigrationFailed:
    return MigrationFailed("no", revision="first")


# --- What those who wait are told ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "told"),
    [(failed(), True), (LookupError(), False)],
    ids=["a revision failed", "something else"],
)
def test_who_waits_is_told_of_each_failure(
    backend: Backend,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    told: bool,
) -> None:
    """Also of one that leaves a transaction open, or another database chosen."""
    caplog.set_level(logging.INFO, "fastdb.migrations")
    db = Database(backend.url)

    def wait() -> str | None:
        with (
            db.sync.engine.connect() as connection,
            one_at_a_time(connection, USUAL, wait=20, stop=Event()) as news,
        ):
            return news

    def fail() -> None:
        with holding(db) as connection:
            waiting.append(pool.submit(wait))
            wait_until(lambda: "waiting" in caplog.text)
            if backend.name == "mysql":
                connection.exec_driver_sql("USE information_schema")
            elif not connection.in_transaction():
                connection.begin()
            raise error

    waiting: list[Future[str | None]] = []
    with db.sync, ThreadPoolExecutor() as pool:
        with pytest.raises(type(error)):
            fail()
        assert (waiting[0].result(50) is not None) is told


async def test_who_has_waited_for_a_failure_is_content_with_a_later_success(
    folder: str, db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """What counts is where the database is, not what has happened on the way."""
    caplog.set_level(logging.INFO, "fastdb.migrations")

    held = Event()

    def migrate_and_fail() -> None:
        with pytest.raises(MigrationFailed), holding(db) as connection:
            held.set()
            wait_until(lambda: "waiting" in caplog.text)
            pretend_at(connection, "first")
            raise failed()

    holder = asyncio.create_task(asyncio.to_thread(migrate_and_fail))
    await asyncio.to_thread(held.wait, 10)
    await upgrade(db, script_location=folder)
    await holder
    await check_at_head(db, script_location=folder)


async def test_older_code_that_has_waited(
    folder: str, db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """A newer worker has migrated meanwhile: that is told as it is to who comes later."""
    caplog.set_level(logging.INFO, "fastdb.migrations")

    held = Event()

    def migrate_further() -> None:
        with holding(db) as connection:
            held.set()
            wait_until(lambda: "waiting" in caplog.text)
            pretend_at(connection, "newer")

    holder = asyncio.create_task(asyncio.to_thread(migrate_further))
    await asyncio.to_thread(held.wait, 10)
    with pytest.raises(NotAtHead, match="The database is at revision newer, which is not in"):
        await upgrade(db, script_location=folder)
    await holder


def test_patience_that_env_py_has(folder: str, backend: Backend) -> None:
    """`wait` of `run()` holds where nobody says otherwise."""
    Path(folder, "env.py").write_text(ENV.replace("None)", "None, wait=0.2)"))
    db = Database(backend.url)
    with db.sync, holding(db):
        with pytest.raises(MigrationLocked, match=r"^Waited 0\.2 seconds for "):
            upgrade_sync(db, script_location=folder)
        with pytest.raises(MigrationLocked, match=r"^Waited 0\.1 seconds for "):
            upgrade_sync(db, script_location=folder, wait=0.1)


def pretend_at(connection: Connection, revision: str) -> None:
    """Write the version as a migration in another process would."""
    connection.rollback()
    with connection.begin():
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        connection.execute(text("INSERT INTO alembic_version VALUES (:v)"), {"v": revision})


# --- Whose lock it is ---------------------------------------------------------------------------


def test_projects_of_one_database_are_no_concern_of_each_other(backend: Backend) -> None:
    """Each has a version table, and the lock goes with that: so does the news of a failure."""
    db = Database(backend.url)
    with db.sync, holding(db):
        with pytest.raises(MigrationFailed), holding(db, VersionTable("v", "b")):
            raise failed()
        with pytest.raises(MigrationLocked), holding(db):
            pytest.fail("two at a time")
    with (
        db.sync,
        db.sync.engine.connect() as connection,
        one_at_a_time(connection, USUAL, wait=0, stop=Event()) as news,
    ):
        assert news is None


@pytest.mark.backends("sqlite-file", "mysql-aiomysql", "postgresql-psycopg")
def test_a_schema_that_is_named_is_the_one_that_is_meant(backend: Backend) -> None:
    """Who says where the version is, and who has it there by default, keep off each other."""
    db = Database(backend.url)
    default = {"sqlite": "main", "postgresql": "public", "mysql": make_url(backend.url).database}
    named = VersionTable(schema=default[backend.name])
    with db.sync, holding(db), pytest.raises(MigrationLocked), holding(db, named):
        pytest.fail("two at a time")


@pytest.mark.backends("postgresql-psycopg")
def test_version_tables_of_two_search_paths_are_two(backend: Backend) -> None:
    """Tenants that have a schema each may be migrated at a time, and fail alone."""
    db = Database(backend.url)
    tenant = Database(make_url(backend.url).update_query_dict({"options": "-csearch_path=tenant"}))
    with db.sync, tenant.sync, holding(db) as connection:
        connection.exec_driver_sql("CREATE SCHEMA tenant")
        connection.commit()
        with holding(tenant) as other:
            assert other.exec_driver_sql("SELECT current_schema()").scalar() == "tenant"


async def test_a_database_of_the_process_does_not_wait_for_the_lock_of_another(
    folder: str, db: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Alembic, of which a process has one, is taken only when there is the lock."""
    caplog.set_level(logging.INFO, "fastdb.migrations")
    held, enough = Event(), Event()

    def hold() -> None:
        with holding(db):
            held.set()
            assert enough.wait(50)

    holder = asyncio.create_task(asyncio.to_thread(hold))
    await asyncio.to_thread(held.wait, 10)
    upgrading = asyncio.create_task(upgrade(db, script_location=folder))
    await asyncio.to_thread(wait_until, lambda: "Another worker migrates" in caplog.text)
    async with Database(f"sqlite:///{tmp_path}/second.db") as second:
        await asyncio.wait_for(upgrade(second, script_location=folder), 40)
        await check_at_head(second, script_location=folder)
        assert not upgrading.done()
    enough.set()
    await asyncio.gather(holder, upgrading)
    await check_at_head(db, script_location=folder)


@pytest.mark.backends("sqlite-file")
async def test_lock_file_that_cannot_be_written(
    folder: str, db: Database, backend: Backend
) -> None:
    """The error names the file, and says what it is for."""
    path = f"{make_url(backend.url).database}-migrations"
    await asyncio.to_thread(empty_directory, Path(path))
    with pytest.raises(ConfigurationError, match=f"^{re.escape(path)} cannot be written"):
        await upgrade(db, script_location=folder)
