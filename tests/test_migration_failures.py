"""A revision that fails half-way: the error says which one, why, and what of it stands."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from blockbuster import BlockBuster
from sqlalchemy import inspect, text

import shop_project
from backends import Backend
from fastdb import ConfigurationError, Database, MigrationFailed
from fastdb.migrations import current, server_locks, upgrade
from fastdb.migrations.literals import readable
from shop_project import add_revision, edit, remove

REVISION = '''"""first"""

import sqlalchemy as sa
from alembic import op

revision = "first"
down_revision = None


def upgrade():
    op.create_table("things", sa.Column("id", sa.Integer, primary_key=True, autoincrement=False))


def downgrade():
    op.drop_table("things")
'''
ENV = """
from fastdb.migrations import run

run(None, None)
"""
IF_KILLED = (
    " If an earlier attempt was killed, its DDL may stand: compare the tables with the revision."
)
ROLLED_BACK = "It was rolled back: mend it, and run the upgrade again."

on_mysql = pytest.mark.backends("mysql-aiomysql")
on_postgresql = pytest.mark.backends("postgresql-psycopg")
on_sqlite = pytest.mark.backends("sqlite-file")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with one revision, which makes a table."""
    versions = tmp_path / "migrations" / "versions"
    versions.mkdir(parents=True)
    (versions / "first.py").write_text(REVISION)
    (tmp_path / "migrations" / "env.py").write_text(ENV)
    return tmp_path


@pytest.fixture(autouse=True)
def tests_write_files(no_blocking_calls: BlockBuster) -> None:
    """What the tests themselves do to the project may block the event loop."""
    for function in no_blocking_calls.functions.values():
        function.can_block_in("/shop_project.py", vars(shop_project).keys())


@pytest.fixture(autouse=True)
def tell_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save the time in which those could see a failure who wait, as nobody does."""
    monkeypatch.setattr(server_locks, "_TELL_SECONDS", 0.0)


@pytest.fixture
async def db(backend: Backend) -> AsyncIterator[Database]:
    async with Database(backend.url) as db:
        yield db


async def failure(project: Path, db: Database) -> MigrationFailed:
    with pytest.raises(MigrationFailed) as raised:
        await upgrade(db, script_location=str(project / "migrations"))
    return raised.value


async def failure_of(project: Path, db: Database, up: str) -> MigrationFailed:
    add_revision(project, "half", after="first", up=up)
    failed = await failure(project, db)
    assert failed.revision == "half"
    return failed


async def version(project: Path, db: Database) -> tuple[str, ...]:
    return await current(db, script_location=str(project / "migrations"))


async def tables(db: Database) -> set[str]:
    async with db.read_engine.connect() as connection:
        return set(await connection.run_sync(lambda sync: inspect(sync).get_table_names()))


# --- What MySQL's DDL has committed -----------------------------------------------------------

INSERT = "INSERT INTO things (id) VALUES (1)"


@on_mysql
@pytest.mark.parametrize(
    "then",
    [
        'raise RuntimeError("no")',
        'op.execute("SELECT none FROM things")',
        'op.execute("DROP TABLE alembic_version")',  # so that the version cannot be written
    ],
)
async def test_last_statement_that_succeeded_stands(project: Path, db: Database, then: str) -> None:
    """What fails after DDL may be no statement, or one that changes nothing."""
    failed = await failure_of(project, db, f'op.execute("CREATE TABLE made (id INT)")\n{then}')
    assert failed.standing[0] == "CREATE TABLE made (id INT)"
    assert "rolled back" not in str(failed)
    assert "made" in await tables(db)


@on_mysql
@pytest.mark.parametrize(
    "commits",
    [
        "/* why */ ALTER TABLE things ADD x INT",
        "-- why\n ALTER TABLE things ADD x INT",
        "# why\nALTER TABLE things ADD x INT",
        "/*!50000 ALTER TABLE things ADD x INT */",
        "CREATE TABLE alembic_versions (id INT)",
        "ALTER TABLE alembic_version MODIFY version_num VARCHAR(90) NOT NULL",
        "CHECK TABLE things",
        "FLUSH TABLES",
        "BEGIN",
        "START TRANSACTION",
        "COMMIT",
        "COMMIT AND CHAIN",
        "SET autocommit = 1",
    ],
)
async def test_all_that_mysql_commits_with_is_seen(
    project: Path, db: Database, commits: str
) -> None:
    """Behind comments, without DDL, and on tables with names like that of the version."""
    failed = await failure_of(
        project, db, f'op.execute("{INSERT}")\nop.execute({commits!r})\nraise RuntimeError("no")'
    )
    assert failed.standing[0] == INSERT
    async with db.session() as session:
        assert await session.scalar(text("SELECT count(*) FROM things")) == 1


@on_mysql
@pytest.mark.parametrize(
    "harmless",
    [
        "UPDATE things SET id = 2",
        "CREATE TEMPORARY TABLE scratch (id INT)",
        "SET @alter = 'ALTER'",
        "(SELECT 1)",
        "ROLLBACK",
    ],
)
async def test_what_mysql_rolls_back_is_not_listed(
    project: Path, db: Database, harmless: str
) -> None:
    """Nothing stands, of this attempt: one that was killed is not known of."""
    failed = await failure_of(
        project, db, f'op.execute("{INSERT}")\nop.execute("{harmless}")\nraise RuntimeError("no")'
    )
    assert str(failed) == (
        f"Revision half (half) failed: RuntimeError: no. {ROLLED_BACK}{IF_KILLED}"
    )
    assert failed.standing == ()
    async with db.session() as session:
        assert await session.scalar(text("SELECT count(*) FROM things")) == 0


@on_mysql
async def test_failed_ddl_that_was_caught_has_committed(project: Path, db: Database) -> None:
    """The statement that ends the revision is another one."""
    up = f"""
    op.execute("{INSERT}")
    try:
        op.execute("ALTER TABLE none ADD x INT")
    except Exception:
        pass
    op.execute("SELECT none FROM things")
    """
    assert (await failure_of(project, db, up)).standing == (INSERT,)


# --- Failures that come from no revision's module ---------------------------------------------


@on_postgresql
async def test_failed_write_of_the_version_names_the_revision(project: Path, db: Database) -> None:
    """Alembic writes it when the revision has returned."""
    failed = await failure_of(project, db, 'op.execute("DROP TABLE alembic_version")')
    assert re.fullmatch(
        rf"Revision half \(half\) failed: UndefinedTable: .*\. {re.escape(ROLLED_BACK)}",
        str(failed),
    ), failed
    assert await version(project, db) == ("first",)


@on_sqlite
async def test_failed_check_of_foreign_keys_names_the_revision(project: Path, db: Database) -> None:
    """A foreign key to columns that are not unique cannot be checked."""
    up = """
    op.execute("CREATE TABLE parents (id INT)")
    op.execute("CREATE TABLE children (parent INT REFERENCES parents (id))")
    op.execute("INSERT INTO children VALUES (1)")
    """
    failed = await failure_of(project, db, up)
    assert "OperationalError: foreign key mismatch" in str(failed)
    assert str(failed).endswith(ROLLED_BACK)


@on_sqlite
async def test_what_the_code_lacks_is_named(project: Path, db: Database) -> None:
    """Autogenerate imports no types of the user's: which one is missing is no secret."""
    failed = await failure_of(project, db, up='op.add_column("things", shop.types.Exact())')
    assert "failed: NameError: name 'shop' is not defined. " in str(failed)


@pytest.mark.backends("sqlite-file", "postgresql-psycopg", "mysql-aiomysql")
async def test_failed_callback_names_the_revision(
    project: Path, db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """It is run before the COMMIT, and no line says that the revision is done."""
    callback = "run(None, None, on_version_apply=lambda **_: 1 / 0)"
    edit(project / "migrations" / "env.py", "run(None, None)", callback)
    caplog.set_level(logging.INFO, "fastdb.migrations")
    failed = await failure(project, db)
    assert failed.revision == "first"
    assert "failed: ZeroDivisionError: division by zero. " in str(failed)
    assert "base -> first: first," not in caplog.text


# --- What cannot be done ----------------------------------------------------------------------


ASKS_FOR_ITSELF = "ConfigurationError: env.py or a revision asks for migrations itself"


@on_sqlite
@pytest.mark.parametrize(
    "call", ["{}_sync({}, {})", "asyncio.run({}({}, {}))"], ids=["sync", "async"]
)
async def test_revision_that_asks_for_migrations(project: Path, db: Database, call: str) -> None:
    """It would wait for itself, in whichever thread."""
    asking = call.format("current", 'Database("sqlite://")', 'script_location="migrations"')
    up = f"""
    import asyncio
    from fastdb import Database
    from fastdb.migrations import current, current_sync

    {asking.replace(", script", ", script")}
    """
    failed = await failure_of(project, db, up)
    assert ASKS_FOR_ITSELF in str(failed)
    assert await version(project, db) == ("first",)


@on_sqlite
def test_revision_that_asks_for_migrations_in_alembics_command(project: Path) -> None:
    """Where the command has not come from here, too."""
    edit(project / "migrations" / "env.py", "run(None, None)", "run(Database('sqlite://'), None)")
    edit(project / "migrations" / "env.py", "\nfrom", "\nfrom fastdb import Database\nfrom")
    up = """
    from fastdb import Database
    from fastdb.migrations import current_sync

    current_sync(Database("sqlite://"), script_location="migrations")
    """
    add_revision(project, "half", after="first", up=up)
    config = Config()
    config.set_main_option("script_location", str(project / "migrations"))
    with pytest.raises(MigrationFailed, match=ASKS_FOR_ITSELF):
        command.upgrade(config, "head")


@on_sqlite
async def test_two_databases_in_one_folder(project: Path, db: Database) -> None:
    """The second one would be given the revisions of the first."""
    edit(project / "migrations" / "env.py", "run(None, None)", "run(None, None)\nrun(None, None)")
    with pytest.raises(ConfigurationError, match=r"calls `run\(\)` twice"):
        await upgrade(db, script_location=str(project / "migrations"))


@on_sqlite
def test_two_databases_in_one_folder_by_alembics_command(project: Path) -> None:
    """It knows nothing of `upgrade`, and is refused with the same words."""
    databases = "\n".join(f"run(Database('sqlite:///{project}/{name}.db'), None)" for name in "ab")
    edit(project / "migrations" / "env.py", "run(None, None)", databases)
    edit(project / "migrations" / "env.py", "\nfrom", "\nfrom fastdb import Database\nfrom")
    config = Config()
    config.set_main_option("script_location", str(project / "migrations"))
    with pytest.raises(ConfigurationError, match=r"calls `run\(\)` twice"):
        command.upgrade(config, "head")
    assert not (project / "b.db").exists()


# --- COMMIT -----------------------------------------------------------------------------------


@on_postgresql
async def test_failed_commit_is_not_shown_as_done(
    project: Path, db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither when the lock is freed, on the same connection."""
    caplog.set_level(logging.INFO, "fastdb.migrations")
    up = """
    op.execute("CREATE TABLE late (id INT UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    op.execute("INSERT INTO late VALUES (1), (1)")
    """
    failed = await failure_of(project, db, up)
    assert "UniqueViolation: duplicate key value violates unique constraint" in str(failed)
    assert "base -> first: first," in caplog.text
    assert "first -> half: half," not in caplog.text


@on_mysql
async def test_callback_that_commits_the_version(project: Path, db: Database) -> None:
    """Then the version is not as before, which the error says."""
    callback = """
def audit(ctx, **_):
    ctx.connection.exec_driver_sql("CREATE TABLE audits (id INT)")
    raise RuntimeError("no")

run(None, None, on_version_apply=audit)"""
    edit(project / "migrations" / "env.py", "run(None, None)", callback)
    failed = await failure(project, db)
    assert "its version was committed" in str(failed)
    assert failed.standing[-1] == "CREATE TABLE audits (id INT)"
    assert await version(project, db) == ("first",)


# --- COMMIT within a revision -----------------------------------------------------------------


@on_postgresql
async def test_failure_in_autocommit_block(project: Path, db: Database) -> None:
    """The cause is the statement's, what came before it stands, and an index may be left over."""
    up = """
    op.execute("INSERT INTO things (id) VALUES (1)")
    with op.get_context().autocommit_block():
        op.execute("CREATE TABLE doubles (id INT)")
        op.execute("INSERT INTO doubles VALUES (7), (7)")
        op.execute("CREATE UNIQUE INDEX CONCURRENTLY once ON doubles (id)")
    """
    failed = await failure_of(project, db, up)
    assert "failed: UniqueViolation: could not create unique index" in str(failed)
    assert str(failed).endswith(
        " PostgreSQL may have left an INVALID index, which is to be dropped first."
    )
    assert failed.standing == (
        INSERT,
        "CREATE TABLE doubles (id INT)",
        "INSERT INTO doubles VALUES (7), (7)",
    )


@pytest.mark.backends("sqlite-file", "postgresql-psycopg")
async def test_commit_by_hand(project: Path, db: Database) -> None:
    """What came before it stands; what came after it, too, where it was in no transaction."""
    up = f"""
    op.execute("{INSERT}")
    op.execute("COMMIT")
    raise RuntimeError("no")
    """
    failed = await failure_of(project, db, up)
    assert failed.standing == (INSERT,)
    assert "but as of a COMMIT in the revision, these of its statements stand" in str(failed)


# --- Several revisions in one transaction -----------------------------------------------------


@on_postgresql
async def test_one_transaction_for_all_revisions(
    project: Path, db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """The one that failed is blamed, and not the one before it, which was rolled back with it."""
    caplog.set_level(logging.INFO, "fastdb.migrations")
    edit(
        project / "migrations" / "env.py",
        "run(None, None)",
        "run(None, None, transaction_per_migration=False)",
    )
    failed = await failure_of(project, db, 'raise RuntimeError("no")')
    assert str(failed) == (
        "Revision half (half) failed: RuntimeError: no. It was rolled back, and so were the 1"
        " before it in the same transaction: mend it, and run the upgrade again."
    )
    assert await tables(db) <= {"alembic_version"}
    assert "base -> first: first," not in caplog.text

    remove(project / "migrations" / "versions" / "half.py")
    await upgrade(db, script_location=str(project / "migrations"))
    assert "base -> first: first," in caplog.text


@on_postgresql
async def test_transaction_of_the_callers(project: Path, db: Database) -> None:
    """It is not ours to roll back, and the error does not say that we have."""
    add_revision(project, "half", after="first", up='raise RuntimeError("no")')

    def work() -> None:
        config = Config()
        config.set_main_option("script_location", str(project / "migrations"))
        with db.sync.engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    with pytest.raises(MigrationFailed) as raised:
        await asyncio.to_thread(work)
    assert str(raised.value) == (
        "Revision half (half) failed: RuntimeError: no. It is in a transaction of the caller's, who"
        " is to roll back: mend it, and run the upgrade again."
    )


# --- Secrets and values -----------------------------------------------------------------------


@on_mysql
async def test_no_secret_of_a_statement_is_shown(project: Path, db: Database) -> None:
    """Neither where it stands, nor where it is what the server does not understand."""
    up = """
    op.execute("CREATE TABLE notes (t TEXT COMMENT 'hunter2', u INT COMMENT \\"hunter2\\")")
    op.execute("ALTR USER bob IDENTIFIED BY 'hunter2'")
    """
    failed = await failure_of(project, db, up)
    assert failed.standing == ("CREATE TABLE notes (t TEXT COMMENT '…', u INT COMMENT '…')",)
    assert "near '…' at line 1" in str(failed)
    assert "hunter2" not in str(failed)


@pytest.mark.backends("mysql-aiomysql", "postgresql-psycopg")
@pytest.mark.parametrize(
    "up",
    [
        "INSERT INTO notes VALUES ('x@y', 1), ('x@y', 2)",
        "INSERT INTO notes VALUES ('it''s x@y', 1), ('it''s x@y', 2)",
        "INSERT INTO notes VALUES ('a', 'x@y')",
    ],
)
async def test_no_value_of_a_row_is_shown(project: Path, db: Database, up: str) -> None:
    """What the server says of it is, and the name of the key."""
    made = "CREATE TABLE notes (t VARCHAR(50), n INT, CONSTRAINT once UNIQUE (t))"
    failed = await failure_of(project, db, f'op.execute("{made}")\nop.execute("{up}")')
    assert "x@y" not in str(failed)
    assert re.search(r"'once'|\"once\"|'notes.once'|: '…'", str(failed)), failed


@pytest.mark.parametrize(
    ("mysql", "statement", "shown"),
    [
        (True, "SET x = 'a\\'b' -- it's\n, y = `it's`", "SET x = '…' , y = `it's`"),
        (False, "INSERT INTO \"it's\" VALUES ('a\\', 'b', E'\\'c')",
         "INSERT INTO \"it's\" VALUES ('…', '…', '…')"),
        (False, "DO $x$ 'a' $x$ /* b */ ; SELECT 'unclosed", "DO '…' ; SELECT '…'"),
    ],
)  # fmt: skip
def test_literals_of_each_dialect(mysql: bool, statement: str, shown: str) -> None:
    """A backslash and double quotes mean something else on MySQL."""
    assert readable(statement, mysql=mysql) == shown
