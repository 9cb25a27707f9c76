"""Alembic on a Database: a real project up and down, at start-up of many workers, and half-way."""

import asyncio
import logging
import os
import re
import signal
import sqlite3
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from blockbuster import BlockBuster
from sqlalchemy import Connection, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import OperationalError

import shop_project
from backends import Backend
from conftest import RecordingHandler
from fastdb import (
    ConfigurationError,
    Database,
    MigrationFailed,
    MigrationLocked,
    NotAtHead,
    PoolOptions,
    Timeouts,
)
from fastdb.migrations import (
    check_at_head,
    check_at_head_sync,
    current,
    current_sync,
    downgrade,
    downgrade_sync,
    pending,
    pending_sync,
    upgrade,
    upgrade_sync,
)
from fastdb.migrations import testing as migration_tests
from fastdb.migrations.testing import Migrations
from servers import AWKWARD_PASSWORD
from shop_project import (
    REVISIONS,
    add_revision,
    alembic,
    copy_project,
    edit,
    empty_directory,
    last,
    lock_files,
    make_project,
    migrating,
    open_gate,
    python,
    remove,
    uvicorn_workers,
    wait_until,
)

one_of_each = pytest.mark.backends("sqlite-file", "postgresql-asyncpg", "mysql-aiomysql")


@pytest.fixture(scope="module")
def made_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project, made once."""
    return make_project(tmp_path_factory.mktemp("made") / "project")


@pytest.fixture
def project(made_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project of the test's own, which is the working directory."""
    root = copy_project(made_project, tmp_path / "project")
    monkeypatch.chdir(root)
    monkeypatch.syspath_prepend(root)  # Alembic adds to the path, which this sets back
    yield root
    for name in [name for name in sys.modules if name.partition(".")[0] == "shop"]:
        del sys.modules[name]


@pytest.fixture(autouse=True)
def tests_write_files(no_blocking_calls: BlockBuster) -> None:
    """What the tests themselves do to the project may block the event loop."""
    for function in no_blocking_calls.functions.values():
        function.can_block_in("/shop_project.py", vars(shop_project).keys())


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A directory for SHOP_GATE."""
    return empty_directory(tmp_path / "gate")


@pytest.fixture
async def db(backend: Backend) -> AsyncIterator[Database]:
    async with Database(backend.url) as db:
        yield db


async def tables(db: Database) -> set[str]:
    async with db.read_engine.connect() as connection:
        return set(await connection.run_sync(lambda sync: inspect(sync).get_table_names()))


# --- A real project ---------------------------------------------------------------------------


@one_of_each
async def test_project_goes_up_and_down(project: Path, db: Database) -> None:
    """Five revisions by autogenerate and by hand, on each database, up and down and up."""
    names = await pending(db)
    assert len(names) == len(REVISIONS)
    await upgrade(db)
    assert await current(db) == names[-1:]
    assert await pending(db) == ()
    async with db.session() as session:
        assert await session.scalar(text("SELECT title FROM articles")) == "chair"
    await downgrade(db, "-1")
    assert await pending(db) == names[-1:]
    async with db.session() as session:
        assert await session.scalar(text("SELECT name FROM articles")) == "chair"
    await downgrade(db, "base")
    assert await tables(db) == {"alembic_version"}
    await upgrade(db, names[1])
    assert await current(db) == (names[1],)
    await upgrade(db)
    await check_at_head(db)


@pytest.mark.backends("sqlite-file", "sqlite-memory", "postgresql-psycopg", "mysql-asyncmy")
async def test_models_match_head(project: Path, db: Database) -> None:
    """What the revisions make is what the models describe; the test that users import says so."""
    await asyncio.to_thread(migration_tests.test_models_match_head, Migrations(db))
    await downgrade(db, "base")
    await asyncio.to_thread(migration_tests.test_upgrade_downgrade_upgrade, Migrations(db))


@pytest.mark.backends("sqlite-file")
async def test_imported_tests_find_what_is_wrong(project: Path, db: Database) -> None:
    """A revision that the models know nothing of, and one that leaves its table behind."""
    add_revision(
        project,
        "more",
        after=last(project),
        up='op.create_table("more", sa.Column("id", sa.Integer))',
    )
    with pytest.raises(CommandError, match=r"New upgrade operations detected.*'remove_table'"):
        await asyncio.to_thread(migration_tests.test_models_match_head, Migrations(db))
    with pytest.raises(AssertionError, match="`downgrade base` leaves tables: more"):
        await asyncio.to_thread(migration_tests.test_upgrade_downgrade_upgrade, Migrations(db))


@pytest.mark.backends("sqlite-file")
async def test_imported_tests_compare_what_is_in_the_tables(
    project: Path, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second upgrade that makes another column has the same tables by name only."""
    monkeypatch.setenv("SHOP_COLUMN", "one")
    up = """
    import os

    op.add_column("owners", sa.Column(os.environ["SHOP_COLUMN"], sa.Integer))
    os.environ["SHOP_COLUMN"] = "two"
    """
    add_revision(project, "column", after=last(project), up=up)
    with pytest.raises(AssertionError, match=r"(?s)makes other tables:\s+owners: .*one.*two"):
        await asyncio.to_thread(migration_tests.test_upgrade_downgrade_upgrade, Migrations(db))


@pytest.mark.backends("sqlite-file")
def test_sync_commands(project: Path, backend: Backend) -> None:
    """Scripts have the same commands without `await`."""
    db = Database(backend.url)
    with db.sync:
        opened: list[object] = []
        closed: list[object] = []
        event.listen(db.sync.engine, "connect", lambda connection, _: opened.append(connection))
        event.listen(db.sync.engine, "close", lambda connection, _: closed.append(connection))
        names = pending_sync(db)
        assert current_sync(db) == ()
        with pytest.raises(NotAtHead):
            check_at_head_sync(db)
        upgrade_sync(db)
        # What was set for the session that migrates ends with it.
        assert len(opened) == 1
        assert closed == opened
        check_at_head_sync(db)
        downgrade_sync(db, names[0])
        assert current_sync(db) == (names[0],)
        assert pending_sync(db) == names[1:]


# --- Alembic's own commands -------------------------------------------------------------------


def test_alembic_commands(project: Path) -> None:
    """They work as Alembic's users know them; each revision is shown as it begins and ends."""
    said = alembic(project, "upgrade", "head")
    both = r"(\w+ -> \w+: {}) \.\.\.\n\{}, \d+\.\d\d s\n"
    shown = "".join(both.format(name, number) for number, name in enumerate(REVISIONS, 1))
    assert re.fullmatch(shown, said), said
    remove(*lock_files(project))
    assert alembic(project, "current") == f"{last(project)} (head)\n"
    assert "No new upgrade operations detected." in alembic(project, "check")
    assert alembic(project, "upgrade", "head") == ""
    assert not lock_files(project)  # none of these has anything to change
    assert len(alembic(project, "downgrade", "base").splitlines()) == 2 * len(REVISIONS)


@one_of_each
async def test_version_table_alone(project: Path, db: Database, backend: Backend) -> None:
    """`alembic ensure_version` makes it, though no revision is run."""
    url = {"SHOP_URL": backend.url}
    await asyncio.to_thread(alembic, project, "ensure_version", environment=url)
    assert await tables(db) == {"alembic_version"}
    assert await current(db) == ()


def test_sql_without_a_database(project: Path) -> None:
    """`--sql` writes a transaction for each revision; nothing is connected to."""
    url = {"SHOP_URL": "postgresql://user:p%25w%40@nowhere.invalid/shop"}
    said = alembic(project, "upgrade", "head", "--sql", environment=url)
    assert said.count("BEGIN;") == said.count("COMMIT;") == len(REVISIONS)
    assert "ALTER TABLE articles RENAME name TO title;" in said


def test_sql_for_sqlite(project: Path) -> None:
    """Foreign keys are off while tables are rebuilt, and looked after, as in a real run."""
    said = alembic(project, "upgrade", f"{last(project)}:head", "--sql")
    assert said.split("\n\n") == [
        "PRAGMA foreign_keys = OFF;",
        "\nPRAGMA foreign_key_check;",
        "PRAGMA foreign_keys = ON;",
        "\n",
    ]


@one_of_each
async def test_handed_over_connection(project: Path, db: Database) -> None:
    """A connection in `config.attributes`, as Alembic's cookbook has it, is used as it is."""

    def work(connection: Connection) -> None:
        config = Config(toml_file="pyproject.toml")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")

    def work_in_transaction() -> None:
        with db.sync.engine.begin() as connection:
            work(connection)
            assert connection.in_transaction()

    def work_without() -> None:
        with db.sync.engine.connect() as connection:
            work(connection)
            pragma = connection.exec_driver_sql("PRAGMA foreign_keys").scalar()
            assert pragma == 1

    if db.engine.dialect.name == "sqlite":
        # What refers to a table that is rebuilt would be deleted with it.
        with pytest.raises(ConfigurationError, match="handed over inside of a transaction"):
            await asyncio.to_thread(work_in_transaction)
        assert await current(db) == ()
        await asyncio.to_thread(work_without)
    else:
        await asyncio.to_thread(work_in_transaction)
    await check_at_head(db)


@pytest.fixture(params=["postgresql", "mysql"])
def url_with_percent(request: pytest.FixtureRequest) -> URL:
    """A URL whose password has all characters that mean something."""
    url = make_url(request.getfixturevalue(f"{request.param}_url"))
    admin = request.getfixturevalue(f"{request.param}_admin")
    if request.param == "postgresql":
        admin.execute(f"ALTER DATABASE {url.database} OWNER TO awkward")
    else:
        admin.query(f"GRANT ALL ON {url.database}.* TO awkward@'%'")
    return url.set(username="awkward", password=AWKWARD_PASSWORD)


async def test_password_with_percent(project: Path, url_with_percent: URL) -> None:
    """`%` in a URL, which Alembic's configuration takes for its own, does no harm."""
    async with Database(url_with_percent) as db:
        await upgrade(db)
        await check_at_head(db)


@pytest.mark.backends("sqlite-file")
async def test_folder_inside_of_a_package(project: Path, db: Database) -> None:
    """It is found from wherever the app is started."""
    copy_project(project / "migrations", project / "shop" / "migrations")
    await upgrade(db, script_location="shop:migrations")
    assert await current(db) == (last(project),)


# --- Time limits ------------------------------------------------------------------------------


@pytest.mark.backends("postgresql-psycopg")
async def test_a_statement_of_a_migration_may_take_long(project: Path, backend: Backend) -> None:
    """Longer than one of the app's."""
    add_revision(project, "slow", after=last(project), up='op.execute("SELECT pg_sleep(0.6)")')
    async with Database(backend.url, timeouts=Timeouts(statement=0.3)) as db:
        await upgrade(db)
        await check_at_head(db)


@pytest.mark.backends("postgresql-psycopg")
async def test_a_migration_does_not_wait_long_for_a_table(project: Path, db: Database) -> None:
    """All who come after it would wait, too; env.py says for how long."""
    await upgrade(db)
    environment = project / "migrations" / "env.py"
    edit(environment, "Base.metadata)", "Base.metadata, timeouts=Timeouts(lock=0.3))")
    edit(environment, "from shop", "from fastdb import Timeouts\nfrom shop")
    add_revision(
        project, "more", after=last(project), up='op.execute("ALTER TABLE owners ADD x INT")'
    )
    async with db.session() as session:
        await session.execute(text("LOCK TABLE owners IN SHARE MODE"))
        with pytest.raises(MigrationFailed, match=r"Revision more .*lock timeout"):
            await asyncio.wait_for(upgrade(db), 4)
    await upgrade(db)


# --- Several workers --------------------------------------------------------------------------


@contextmanager
def noting(logger: logging.Logger) -> Iterator[list[str]]:
    """Give what is logged within the block."""
    handler, level = RecordingHandler(logging.INFO), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield handler.messages
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@pytest.mark.faults
@pytest.mark.crowd
@pytest.mark.timeout(180)  # eight processes start
@one_of_each
def test_eight_workers_start_at_once(project: Path, backend: Backend) -> None:
    """On an empty database one worker runs each revision, all serve, and their logs go on."""
    with uvicorn_workers(project, backend.url, count=8) as workers:
        workers.wait_until(lambda log: log.count("Application startup complete.") == 8)
        assert httpx.get(f"{workers.url}/titles", trust_env=False).json() == ["chair"]
    runs = re.findall(
        r"^(\d+) fastdb.migrations \w+ -> \w+: (\w+), [\d.]+ s$", workers.log(), re.MULTILINE
    )
    assert [name for _, name in runs] == list(REVISIONS)
    assert len({process for process, _ in runs}) == 1
    assert "ERROR" not in workers.log()


@pytest.mark.faults
@pytest.mark.crowd
@pytest.mark.timeout(180)  # eight processes start
@one_of_each
def test_worker_is_killed_while_it_migrates(project: Path, backend: Backend, gate: Path) -> None:
    """SIGKILL amid a revision's DDL frees the lock: another worker does it, and all serve.

    That they serve is logged by `uvicorn.error`, which migrations leave on.
    """
    with uvicorn_workers(project, backend.url, count=8, gate=gate) as workers:
        wait_until((gate / "entered").exists)
        workers.wait_until(lambda log: log.count("Another worker migrates") == 7)
        victim = int((gate / "entered").read_text())
        os.kill(victim, signal.SIGKILL)
        open_gate(gate)
        # Uvicorn starts another one in its place.
        workers.wait_until(lambda log: log.count("Application startup complete.") == 8)
        assert httpx.get(f"{workers.url}/titles", trust_env=False).json() == ["chair"]
    runs = re.findall(r"^(\d+) fastdb.migrations \w+ -> \w+: (\w+),", workers.log(), re.MULTILINE)
    assert sorted(name for _, name in runs) == sorted(REVISIONS)
    after = {process for process, name in runs if name in ("data", "rename")}
    assert len(after) == 1
    assert str(victim) not in after
    assert "ERROR" not in workers.log()


@pytest.mark.backends("postgresql-psycopg")
async def test_worker_is_killed_during_a_statement(
    project: Path, db: Database, backend: Backend, gate: Path
) -> None:
    """PostgreSQL looks for its client while it works, and ends what nobody waits for any more."""
    up = """
    import os, pathlib

    if "SHOP_GATE" in os.environ:
        pathlib.Path(os.environ["SHOP_GATE"], "sleeps").touch()
        op.execute("SELECT pg_sleep(300)")
    """
    add_revision(project, "slow", after=last(project), up=up)
    open_gate(gate)
    with migrating(project, backend.url, gate) as other:
        await asyncio.to_thread(wait_until, (gate / "sleeps").exists)
        with pytest.raises(MigrationLocked):
            await upgrade(db, wait=0)
        other.kill()
        await upgrade(db, wait=40)
    await check_at_head(db)


@one_of_each
async def test_waiting_ends_and_names_the_holder(
    project: Path, db: Database, backend: Backend, gate: Path
) -> None:
    """Who has waited for long enough says for whom; then the other one goes on undisturbed."""
    with migrating(project, backend.url, gate) as other:
        await asyncio.to_thread(wait_until, (gate / "entered").exists)
        with pytest.raises(MigrationLocked) as raised:
            await upgrade(db, wait=0.3)
        open_gate(gate)
        assert await asyncio.to_thread(other.wait, 30) == 0
    holder = {
        "sqlite": rf"process {other.pid} on \S+",
        "postgresql": r"server process \d+ of 127\.0\.0\.1, since .+",
        "mysql": r"connection \d+ of fastdb@127\.0\.0\.1:\d+, in its state for \d+ s",
    }[backend.name]
    assert re.fullmatch(
        rf"Waited 0\.3 seconds for {holder}, which migrates this database\. Wait for longer"
        r" \(`wait=…`\), or look at what it does\.",
        str(raised.value),
    ), raised.value
    await check_at_head(db)


@pytest.mark.backends("sqlite-file")
async def test_a_revision_is_named_while_it_runs(
    project: Path, db: Database, gate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may take long: the log says at once which one it is, and that the one before is done."""
    monkeypatch.setenv("SHOP_GATE", str(gate))
    with noting(logging.getLogger("fastdb.migrations")) as notes:
        upgrading = asyncio.create_task(upgrade(db))
        await asyncio.to_thread(wait_until, (gate / "entered").exists)
        told = [re.sub(r"^.*: |, [\d.]+ s$", "", note) for note in notes]
        open_gate(gate)
        await upgrading
    expected = [line for name in REVISIONS[:3] for line in (f"{name} ...", name)]
    assert told == [*expected, "data ..."]


@one_of_each
async def test_workers_that_waited_do_not_repeat_what_failed(
    project: Path, db: Database, backend: Backend, gate: Path
) -> None:
    """Where a revision fails, those who waited for it stop; it has run once."""
    add_revision(project, "broken", after=last(project), up='raise RuntimeError("no")')
    waiting = logging.getLogger("fastdb.migrations")
    with migrating(project, backend.url, gate) as other, noting(waiting) as notes:
        await asyncio.to_thread(wait_until, (gate / "entered").exists)
        upgrading = asyncio.create_task(upgrade(db))
        await asyncio.to_thread(wait_until, lambda: any("waiting" in note for note in notes))
        open_gate(gate)
        with pytest.raises(MigrationFailed) as raised:
            await upgrading
        assert await asyncio.to_thread(other.wait, 30) == 1
    assert re.fullmatch(
        r"Another worker \(.+\) has failed to migrate this database; its log says why\. This one"
        r" does not try the same revision again\.",
        str(raised.value),
    )
    assert raised.value.revision is None
    assert await current(db) == (last(project),)
    with pytest.raises(MigrationFailed, match="Revision broken"):  # who comes later tries
        await upgrade(db)


@one_of_each
async def test_nothing_is_locked_at_head(project: Path, db: Database, backend: Backend) -> None:
    """Who is at head asks twice, on one connection of the app's pool, and takes no lock."""
    await upgrade(db)
    remove(*lock_files(project.parent))
    statements: list[str] = []
    connections: list[object] = []
    async with Database(backend.url) as another:
        engines = [another.engine.sync_engine, another.read_engine.sync_engine]
        for engine in engines:
            event.listen(engine, "before_cursor_execute", lambda *of: statements.append(of[2]))
            event.listen(engine, "connect", lambda *of: connections.append(of[0]))
        async with another.engine.connect():
            pass  # SQLAlchemy asks who the server is when it first connects
        statements.clear()
        await upgrade(another)
        assert len(statements) <= 2, statements
        async with another.session() as session:  # which finds it in its pool
            await session.execute(text("SELECT 1"))
        assert len(connections) == 1
        assert not another.supply.twin
    assert not lock_files(project.parent)


# --- Cancellation -----------------------------------------------------------------------------


@one_of_each
async def test_cancelled_while_a_revision_runs(
    project: Path, db: Database, gate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The revision that runs comes to its end, no further one begins, and the lock is free."""
    monkeypatch.setenv("SHOP_GATE", str(gate))
    upgrading = asyncio.create_task(upgrade(db))
    await asyncio.to_thread(wait_until, (gate / "entered").exists)
    for _ in range(2):
        upgrading.cancel()
        await asyncio.sleep(0)
        assert not upgrading.done()
    open_gate(gate)
    with pytest.raises(asyncio.CancelledError):
        await upgrading
    assert await pending(db) == (last(project),)
    await upgrade(db, wait=0)


@one_of_each
async def test_cancelled_while_another_one_migrates(
    project: Path, db: Database, backend: Backend, gate: Path
) -> None:
    """Who waits for the lock stops waiting at once, and disturbs nobody."""
    with migrating(project, backend.url, gate) as other:
        await asyncio.to_thread(wait_until, (gate / "entered").exists)
        with noting(logging.getLogger("fastdb.migrations")) as notes:
            upgrading = asyncio.create_task(upgrade(db))
            await asyncio.to_thread(wait_until, lambda: any("waiting" in note for note in notes))
        upgrading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upgrading
        open_gate(gate)
        assert await asyncio.to_thread(other.wait, 30) == 0
    await check_at_head(db)


@one_of_each
async def test_program_that_ends_while_a_revision_runs(
    project: Path, db: Database, backend: Backend, gate: Path
) -> None:
    """`asyncio.run()` cancels what is left over: the process lasts until the revision has ended."""
    code = """
    import asyncio, os, pathlib
    from fastdb.migrations import upgrade
    from shop.models import db

    gate = pathlib.Path(os.environ["SHOP_GATE"])

    async def migrate():
        async with db:
            try:
                await upgrade(db)
            finally:
                print((gate / "open").exists())

    async def open_once_cancelled():
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(50):  # the other one has been told, too, and must still be waiting
                await asyncio.sleep(0)
            (gate / "open").touch()

    async def main():
        tasks.extend(asyncio.create_task(each()) for each in (migrate, open_once_cancelled))
        while not (gate / "entered").exists():
            await asyncio.sleep(0.01)

    tasks = []
    asyncio.run(main())
    print(*(task.cancelled() for task in tasks))
    """
    environment = {"SHOP_URL": backend.url, "SHOP_GATE": str(gate)}
    said = await asyncio.to_thread(
        python, project, "-c", textwrap.dedent(code), environment=environment
    )
    assert (said.stdout, said.stderr) == ("True\nTrue True\n", "")
    assert await pending(db) == (last(project),)
    await upgrade(db, wait=0)
    await check_at_head(db)


# --- Half-way failures ------------------------------------------------------------------------

HALF = """
op.create_table("halves", sa.Column("id", sa.Integer, primary_key=True, autoincrement=False))
op.execute("INSERT INTO halves (id) VALUES (1)")
op.execute("INSERT INTO halves (id) VALUES (1)")
"""


@pytest.mark.backends("sqlite-file", "postgresql-asyncpg")
async def test_failed_revision_is_rolled_back(project: Path, db: Database) -> None:
    """DDL included, where the database can; the revisions before it stay; the error names it."""
    add_revision(project, "half", after=last(project), up=HALF)
    with pytest.raises(MigrationFailed) as raised:
        await upgrade(db)
    assert re.fullmatch(
        r"Revision half \(half\) failed: (?:IntegrityError|UniqueViolation): .*(?i:unique).*\."
        r" It was rolled back: mend it, and run the upgrade again\.",
        str(raised.value),
    ), raised.value
    assert (raised.value.revision, raised.value.standing) == ("half", ())
    assert await current(db) == (last(project),)
    assert await tables(db) == {"alembic_version", "articles", "owners"}


@pytest.mark.backends("mysql-aiomysql")
async def test_failed_revision_of_mysql_may_stand_in_parts(project: Path, db: Database) -> None:
    """What DDL has committed is listed, with what to do; what came after it was rolled back."""
    add_revision(project, "half", after=last(project), up=HALF)
    with pytest.raises(MigrationFailed) as raised:
        await upgrade(db)
    create = "CREATE TABLE halves ( id INTEGER NOT NULL, PRIMARY KEY (id) )"
    assert re.fullmatch(
        r"Revision half \(half\) failed: IntegrityError: .*Duplicate entry '…' for key .*\."
        r" The version is as before, but as MySQL commits with each DDL statement, these of its"
        rf" statements stand:\n    {re.escape(create)};\n"
        r"Undo them by hand, mend the revision and run the upgrade again; or do by hand what is"
        r" missing, and `alembic stamp` the revision\.",
        str(raised.value),
    ), raised.value
    assert raised.value.standing == (create,)
    assert await current(db) == (last(project),)
    async with db.session() as session:
        assert await session.scalar(text("SELECT count(*) FROM halves")) == 0


@pytest.mark.backends("mysql-aiomysql")
async def test_ddl_that_fails_commits_what_came_before(project: Path, db: Database) -> None:
    """MySQL commits before each DDL statement, also before one that fails."""
    up = 'op.execute("DELETE FROM owners WHERE id = 9")\nop.execute("ALTER TABLE none ADD x INT")'
    add_revision(project, "half", after=last(project), up=up)
    with pytest.raises(MigrationFailed) as raised:
        await upgrade(db)
    assert raised.value.standing == ("DELETE FROM owners WHERE id = 9",)


@pytest.mark.backends("postgresql-psycopg")
async def test_failure_after_autocommit_block(project: Path, db: Database) -> None:
    """What an autocommit_block() has committed stands on PostgreSQL too, and the error says so."""
    up = """
    op.execute("CREATE TABLE before (id INT)")
    with op.get_context().autocommit_block():
        op.execute("CREATE INDEX CONCURRENTLY by_title ON articles (title)")
    op.execute("CREATE TABLE after (id INT)")
    raise RuntimeError("no")
    """
    add_revision(project, "half", after=last(project), up=up)
    with pytest.raises(MigrationFailed, match=r"as of autocommit_block\(\), these") as raised:
        await upgrade(db)
    assert raised.value.standing == (
        "CREATE TABLE before (id INT)",
        "CREATE INDEX CONCURRENTLY by_title ON articles (title)",
    )
    assert await tables(db) == {"alembic_version", "articles", "owners", "before"}


@pytest.mark.backends("postgresql-asyncpg")
async def test_failure_of_the_commit_names_the_revision(project: Path, db: Database) -> None:
    """A deferred constraint fails when the revision has returned."""
    up = """
    op.execute("ALTER TABLE articles ALTER CONSTRAINT articles_owner DEFERRABLE INITIALLY DEFERRED")
    op.execute("INSERT INTO articles (id, title, owner_id) VALUES (2, 'x', 99)")
    """
    add_revision(project, "late", after=last(project), up=up)
    with pytest.raises(MigrationFailed, match=r"Revision late \(late\) failed: ForeignKeyViol"):
        await upgrade(db)
    assert await current(db) == (last(project),)


@pytest.mark.backends("postgresql-asyncpg")
async def test_connection_that_is_lost_during_commit(project: Path, db: Database) -> None:
    """Then nobody knows whether the revision stands, and nothing else is claimed."""
    up = """
    op.execute(
        "CREATE FUNCTION leave() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$"
    )
    op.execute(
        "CREATE CONSTRAINT TRIGGER leaves AFTER INSERT ON owners DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION leave()"
    )
    op.execute("INSERT INTO owners (id, name) VALUES (2, 'x')")
    """
    add_revision(project, "lost", after=last(project), up=up)
    with pytest.raises(MigrationFailed) as raised:
        await upgrade(db)
    assert re.fullmatch(
        r"Revision lost \(lost\) failed: AdminShutdown: .*\. The connection was lost during its"
        r" COMMIT, so it may stand: `alembic current` says whether it does, and running the upgrade"
        r" again is right in either case\.",
        str(raised.value),
    ), raised.value


# --- SQLite's foreign keys --------------------------------------------------------------------


@pytest.mark.backends("sqlite-file", "sqlite-memory")
async def test_rebuilding_a_table_keeps_what_refers_to_it(project: Path, db: Database) -> None:
    """Batch mode drops the old table: with foreign keys on, ON DELETE CASCADE would take all."""
    up = """
    with op.batch_alter_table("owners", recreate="always") as batch:
        batch.add_column(sa.Column("mail", sa.String(50)))
    """
    add_revision(project, "mail", after=last(project), up=up)
    await upgrade(db)
    async with db.session() as session:
        assert await session.scalar(text("SELECT count(*) FROM articles WHERE owner_id = 1")) == 1
        assert await session.scalar(text("PRAGMA foreign_keys")) == 1

    def twin_enforces() -> object:
        with db.sync.session() as session:
            return session.scalar(text("PRAGMA foreign_keys"))

    assert await asyncio.to_thread(twin_enforces) == 1


@pytest.mark.backends("sqlite-file")
async def test_nobody_writes_between_version_and_revision(
    project: Path, db: Database, backend: Backend, gate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write lock is taken before the version is read: else a revision might find it too old."""
    await upgrade(db)
    up = """
    import os, pathlib, time

    pathlib.Path(os.environ["SHOP_GATE"], "entered").touch()
    deadline = time.monotonic() + 50
    while not pathlib.Path(os.environ["SHOP_GATE"], "open").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    op.execute("DELETE FROM articles")
    """
    add_revision(project, "waits", after=last(project), up=up)
    monkeypatch.setenv("SHOP_GATE", str(gate))
    upgrading = asyncio.create_task(upgrade(db))
    await asyncio.to_thread(wait_until, (gate / "entered").exists)
    try:
        with pytest.raises(OperationalError, match="locked"):
            async with db.session(timeouts=Timeouts(lock=0.05)) as session:
                await session.execute(text("INSERT INTO owners (id, name) VALUES (5, 'late')"))
    finally:
        open_gate(gate)
        await upgrading


@pytest.mark.backends("sqlite-file")
async def test_revision_that_leaves_orphans_is_rolled_back(project: Path, db: Database) -> None:
    """Foreign keys are checked before each COMMIT; the error says where and how many rows."""
    add_revision(project, "orphans", after=last(project), up='op.execute("DELETE FROM owners")')
    with pytest.raises(MigrationFailed) as raised:
        await upgrade(db)
    assert str(raised.value) == (
        "Revision orphans (orphans) failed: it would leave foreign keys that refer to nothing: 1"
        " row(s) of articles refer to no row of owners. It was rolled back."
    )
    assert await current(db) == (last(project),)
    async with db.session() as session:
        assert await session.scalar(text("SELECT count(*) FROM owners")) == 1


def without_foreign_keys(backend: Backend, statement: str) -> None:
    """Do what another program may, on SQLite."""
    path = make_url(backend.url).database
    assert path is not None
    with closing(sqlite3.connect(path)) as plain, plain:
        plain.execute(statement)


@pytest.mark.backends("sqlite-file")
async def test_orphans_from_before_are_no_revisions_fault(
    project: Path, db: Database, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    """A database that was used without foreign keys can be migrated; the log says what is amiss."""
    await upgrade(db)
    await asyncio.to_thread(without_foreign_keys, backend, "DELETE FROM owners")
    add_revision(project, "child", after=last(project), up='op.rename_table("articles", "goods")')
    add_revision(project, "parent", after="child", up='op.rename_table("owners", "people")')
    await upgrade(db)
    assert {"goods", "people"} <= await tables(db)
    assert "Before any revision: 1 row(s) of articles refer to no row of owners" in caplog.messages
    both = 'op.rename_table("goods", "wares")\nop.rename_table("people", "persons")'
    back = 'op.rename_table("persons", "people")\nop.rename_table("wares", "goods")'
    add_revision(project, "both", after="parent", up=both, down=back)
    await upgrade(db)
    await downgrade(db, "parent")
    remove(project / "migrations" / "versions" / "both.py")
    up = """
    op.execute("INSERT INTO goods (id, title, owner_id) VALUES (2, 'table', 2)")
    op.rename_table("goods", "articles")
    """
    add_revision(project, "worse", after="parent", up=up)
    with pytest.raises(MigrationFailed, match=r"2 row\(s\) of articles refer to no row of people"):
        await upgrade(db)
    up = """
    op.execute("CREATE TABLE parents (id INTEGER PRIMARY KEY)")
    op.execute("CREATE TABLE children (parent INTEGER REFERENCES parents)")
    op.execute("INSERT INTO children VALUES (1)")
    op.drop_table("goods")
    """
    remove(project / "migrations" / "versions" / "worse.py")
    add_revision(project, "other", after="parent", up=up)
    with pytest.raises(MigrationFailed, match=r"1 row\(s\) of children refer to no row of parents"):
        await upgrade(db)


@pytest.mark.backends("sqlite-file")
async def test_orphans_of_a_table_that_refers_to_itself(
    project: Path, db: Database, backend: Backend
) -> None:
    """To rename it renames both ends of its foreign key, and makes nobody an orphan."""
    made = "CREATE TABLE nodes (id INTEGER PRIMARY KEY, above INTEGER REFERENCES nodes)"
    add_revision(project, "nodes", after=last(project), up=f'op.execute("{made}")')
    await upgrade(db)
    await asyncio.to_thread(without_foreign_keys, backend, "INSERT INTO nodes VALUES (1, 9)")
    add_revision(project, "name", after="nodes", up='op.rename_table("nodes", "places")')
    up = """
    with op.batch_alter_table("places", recreate="always") as batch:
        batch.add_column(sa.Column("title", sa.String(50)))
    """
    add_revision(project, "rebuild", after="name", up=up)
    await upgrade(db)
    add_revision(
        project, "more", after="rebuild", up='op.execute("INSERT INTO places VALUES (2, 9, NULL)")'
    )
    with pytest.raises(MigrationFailed, match=r"1 row\(s\) of places refer to no row of places"):
        await upgrade(db)


# --- What cannot work -------------------------------------------------------------------------


POOLED = (
    "Migrations hold a lock that belongs to one connection to the server, and {}. Give them a"
    " Database with the server's own URL: `run(Database(DIRECT_URL), …)` in env.py, `async with"
    " Database(DIRECT_URL) as direct: await upgrade(direct)` in the app."
)


async def test_declared_pooler_is_refused(project: Path, pgbouncer_url: str) -> None:
    """A Database for a transaction pooler can be asked where it is, and cannot be migrated."""
    async with Database(pgbouncer_url, pool=PoolOptions.transaction_pooler()) as db:
        with pytest.raises(ConfigurationError) as raised:
            await upgrade(db)
        assert len(await pending(db)) == len(REVISIONS)
    assert str(raised.value) == POOLED.format("this Database goes through a transaction pooler")


async def advisory_locks(db: Database) -> int:
    """How many anybody holds, the pooler's own connections included."""
    async with db.session() as session:
        query = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
        return int(await session.scalar(query) or 0)


async def test_undeclared_pooler_is_found_out(project: Path, pgbouncer_url: str) -> None:
    """A pooler that nobody has told of is noticed by the process number that it gives."""
    async with Database(pgbouncer_url) as db:
        with pytest.raises(ConfigurationError) as raised:
            await upgrade(db)
        assert await tables(db) == set()
        assert await advisory_locks(db) == 0
    assert str(raised.value) == POOLED.format("this one goes through a pooler")


async def test_url_without_a_database(project: Path, mysql_url: str) -> None:
    """On MySQL one can be connected to no database, and there is nothing to migrate."""
    async with Database(make_url(mysql_url).set(database="")) as db:
        with pytest.raises(ConfigurationError) as raised:
            await upgrade(db)
    assert str(raised.value) == (
        "Migrations are of one database, and the URL names none: mysql://…/name."
    )


@one_of_each
async def test_check_at_head(project: Path, db: Database) -> None:
    """It says where the database is, what the code needs, and what to do."""
    await upgrade(db, (await pending(db))[2])
    names = await pending(db)
    with pytest.raises(NotAtHead) as raised:
        await check_at_head(db)
    assert str(raised.value) == (
        f"The database is at {raised.value.current[0]}, and this code needs {names[-1]}: 2"
        " revision(s) are pending. Run `alembic upgrade head`, or `await upgrade(db)` before the"
        " app serves."
    )
    assert raised.value.heads == names[-1:]


@pytest.mark.backends("sqlite-file")
async def test_database_that_is_ahead(project: Path, db: Database) -> None:
    """Code that is older than its database says so, and touches nothing."""
    add_revision(project, "newer", after=last(project), up="pass")
    await upgrade(db)
    remove(project / "migrations" / "versions" / "newer.py")
    for ask in (upgrade, check_at_head, pending):
        with pytest.raises(NotAtHead) as raised:
            await ask(db)
        assert str(raised.value) == (
            f"The database is at revision newer, which is not in {project / 'migrations'}: a newer"
            " version of this code has migrated it, or another folder's migrations were run. Deploy"
            " the newer version, or add the file."
        )


@pytest.mark.backends("sqlite-memory")
async def test_migrations_that_cannot_be_found(
    project: Path, db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says where was looked and what to write; a folder may be named."""
    nowhere = empty_directory(tmp_path / "nowhere")
    monkeypatch.chdir(nowhere)
    with pytest.raises(ConfigurationError) as raised:
        await current(db)
    assert str(raised.value) == (
        f"No migrations were found from {nowhere}: neither does pyproject.toml have a table"
        " [tool.alembic] there, nor alembic.ini a script_location. Start the app in the project's"
        ' directory; or say where they are, script_location="…" (a path, or "package:folder"); or'
        " make them with `fastdb init`."
    )
    with pytest.raises(ConfigurationError) as raised:
        await current(db, config="pyproject.toml")
    assert str(raised.value) == (
        f"There is no configuration of Alembic at {nowhere / 'pyproject.toml'}: config=… is the"
        " path of a pyproject.toml or of an alembic.ini."
    )
    with pytest.raises(ConfigurationError, match="The migrations cannot be read: Path doesn't"):
        await current(db, script_location="none")
    await upgrade(db, script_location=str(project / "migrations"))
    await check_at_head(db, config=project / "pyproject.toml")
    monkeypatch.setenv("ALEMBIC_CONFIG", str(project / "pyproject.toml"))
    await check_at_head(db)


@pytest.mark.backends("sqlite-memory")
async def test_env_py_that_is_not_ours(project: Path, db: Database) -> None:
    """An env.py without `run()` is named."""
    edit(project / "migrations" / "env.py", "run(db, Base.metadata)", "")
    with pytest.raises(ConfigurationError) as raised:
        await upgrade(db)
    assert str(raised.value) == (
        f"{project / 'migrations'}/env.py does not call `run(db, metadata)` of fastdb.migrations."
        " Write it there, in the place of Alembic's own lines."
    )


def test_command_says_in_one_line_what_is_wrong(project: Path, pgbouncer_url: str) -> None:
    """Alembic's command shows no traceback for what is no error of the code."""
    said = python(
        project, "-m", "alembic", "upgrade", "head", environment={"SHOP_URL": pgbouncer_url}
    )
    assert said.returncode != 0
    assert "FAILED: Migrations hold a lock" in said.stdout + said.stderr
    assert "Traceback" not in said.stderr


# --- Options ----------------------------------------------------------------------------------


@pytest.mark.backends("sqlite-file")
async def test_options_of_env_py(project: Path, db: Database) -> None:
    """Alembic's own options go through `run()`, and the commands know of them."""
    edit(project / "migrations" / "env.py", "metadata)", 'metadata, version_table="shop_version")')
    await upgrade(db)
    assert await tables(db) == {"shop_version", "articles", "owners"}
    await check_at_head(db)


@pytest.mark.backends("sqlite-file")
async def test_config_is_not_changed(project: Path, db: Database) -> None:
    """What the caller passes in stays the caller's."""
    config = Config(toml_file="pyproject.toml")
    config.set_main_option("sqlalchemy.url", "unused")  # from here on it has a part that is shared
    await upgrade(db, config=config)
    await upgrade(db, config=config, script_location="migrations")
    assert config.attributes == {}
    assert config.get_main_option("script_location") is None


def test_existing_loggers_stay_on(project: Path, backend: Backend) -> None:
    """Also where env.py still has the line that turns them off."""
    Path("logging.ini").write_text(
        "[loggers]\nkeys=root\n[handlers]\nkeys=\n[formatters]\nkeys=\n[logger_root]\nhandlers=\n"
    )
    env = Path("migrations/env.py")
    lines = "from logging.config import fileConfig\nfileConfig('logging.ini')\n"
    env.write_text(lines + env.read_text())
    logger = logging.getLogger("uvicorn.error")
    db = Database(backend.url)
    try:
        upgrade_sync(db)
    finally:
        db.sync.close()
    assert not logger.disabled


async def test_search_path_is_kept(project: Path, db: Database) -> None:
    """Asking for the version, again and again, leaves nothing behind in the process."""
    await upgrade(db)
    before = list(sys.path)
    for _ in range(3):
        await check_at_head(db)
    assert sys.path == before


@pytest.mark.backends("sqlite-file")
async def test_two_databases_at_a_time(project: Path, db: Database, tmp_path: Path) -> None:
    """Alembic has one context in a process: the second database waits for it, and gets its own."""
    async with Database(f"sqlite:///{tmp_path}/second.db") as second:
        await asyncio.gather(upgrade(db), upgrade(second))
        for each in (db, second):
            await check_at_head(each)
            assert await tables(each) == {"alembic_version", "articles", "owners"}


def test_progress_is_shown_on_a_terminal(project: Path) -> None:
    """A script whose logging is not set up shows how far it is where somebody looks."""
    code = (
        "from fastdb.migrations import upgrade_sync; from shop.models import db; upgrade_sync(db)"
    )
    controller, terminal = os.openpty()
    try:
        said = python(project, "-c", code, stderr=terminal)
        assert said.returncode == 0
        shown = os.read(controller, 10_000).decode()
        assert shown.count(" ...\r\n") == shown.count(" s\r\n") == len(REVISIONS)
    finally:
        os.close(controller)
        os.close(terminal)
    (project / "shop.db").unlink()
    said = python(project, "-c", code)
    assert (said.stdout, said.stderr) == ("", "")
