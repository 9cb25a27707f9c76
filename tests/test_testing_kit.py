"""The kit's parts in one process: settings, templates and copies, the app, and what goes wrong."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import psycopg
import pytest
from blockbuster import BlockBuster
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from backends import BACKENDS
from fastdb import ConfigurationError, Database
from fastdb.errors import NotUndone
from fastdb.testing import plugin
from fastdb.testing.apps import RunningApp, async_client
from fastdb.testing.away import away
from fastdb.testing.home import Home
from fastdb.testing.kit import Kit
from fastdb.testing.live import live_server
from fastdb.testing.settings import Settings, find

APP = """
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastdb import Database, SessionDep
from sqlalchemy import Column, Integer, MetaData, String, Table, text

db = Database("{url}")
metadata = MetaData()
Table("heroes", metadata, Column("id", Integer, primary_key=True), Column("name", String(20)))
broken = FastAPI(lifespan=lambda app: 1 / 0)
nothing = None


@asynccontextmanager
async def lifespan(app):
    async with db.lifespan(app):
        yield


app = FastAPI(lifespan=lifespan)


async def make(db):
    await db.create_all(metadata)
    async with db.session() as session:
        await session.execute(text("INSERT INTO heroes (name) VALUES ('template')"))
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a user's module, with an app and a Database that is in production."""
    name = f"kit_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(APP.format(url="sqlite:////nowhere/at/all.db"))
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


@contextmanager
def opened(settings: Settings, server_url: Any = None) -> Iterator[Kit]:
    kit = Kit(settings, server_url)
    kit.open()
    try:
        yield kit
    finally:
        kit.close()


def names(session: Session) -> list[str]:
    return list(session.scalars(text("SELECT name FROM heroes ORDER BY id")))


def add(session: Session, name: str) -> None:
    session.execute(text("INSERT INTO heroes (name) VALUES (:name)"), {"name": name})
    session.commit()


def url_of(request: pytest.FixtureRequest, backend_id: str) -> str:
    name, driver = BACKENDS[backend_id]
    if name == "sqlite":
        return "sqlite"
    plain: str = request.getfixturevalue(f"{name}_server").url()
    return plain.replace("://", f"+{driver}://", 1)


BACKEND_IDS = ["sqlite-file", "postgresql-psycopg", "mysql-aiomysql", "mysql-asyncmy"]


@pytest.mark.parametrize("backend_id", BACKEND_IDS)
def test_each_test_begins_from_the_template(
    backend_id: str, module: str, request: pytest.FixtureRequest
) -> None:
    """Rolled back or in a database of its own, also where a test has changed the tables."""
    url = url_of(request, backend_id)
    settings = Settings(app=f"{module}:app", url=url, schemas=(f"{module}:make",))
    with opened(settings) as kit:
        for isolation in ("rollback", "database", "database", "rollback"):
            with kit.isolated(isolation) as test:
                session = test.sync_session()
                assert names(session) == ["template"]
                assert test.sync_session(test.db) is session
                add(session, "mine")
                session.execute(text("DELETE FROM heroes WHERE name = 'template'"))
                session.commit()
        with kit.isolated("database") as test:
            test.sync_session().execute(text("ALTER TABLE heroes ADD COLUMN age INTEGER"))
            test.sync_session().commit()
        with kit.isolated("database") as test:
            assert names(test.sync_session()) == ["template"]
            row = test.sync_session().execute(text("SELECT * FROM heroes")).one()
            assert len(row) == 2


SEQUENCE = """
    CREATE SEQUENCE numbers START WITH 7 INCREMENT BY 5 NOCACHE;
    CREATE TABLE parts (id BIGINT PRIMARY KEY DEFAULT (nextval(numbers)), name VARCHAR(20));
    INSERT INTO parts (name) VALUES ('template')
"""
WITH_SEQUENCE = f'''

async def make_sequence(db):
    async with db.session() as session:
        for statement in """{SEQUENCE}""".split(";"):
            await session.execute(text(statement))
'''


@pytest.mark.parametrize("backend_id", ["mysql-aiomysql", "mysql-asyncmy"])
def test_sequences_begin_where_the_templates_are(
    backend_id: str, module: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """MariaDB's, in each test's own database; a column takes its values from there."""
    with (tmp_path / f"{module}.py").open("a") as file:
        file.write(WITH_SEQUENCE)
    url = url_of(request, backend_id)
    settings = Settings(app=f"{module}:app", url=url, schemas=(f"{module}:make_sequence",))
    used: list[str | None] = []
    with opened(settings) as kit:
        for _ in range(3):
            with kit.isolated("database") as test:
                session = test.sync_session()
                for name in ("a", "b"):
                    session.execute(text("INSERT INTO parts (name) VALUES (:name)"), {"name": name})
                session.commit()
                numbers = session.scalars(text("SELECT id FROM parts ORDER BY id"))
                assert list(numbers) == [7, 12, 17]
                used.append(session.scalar(text("SELECT DATABASE()")))
                session.execute(text("ALTER SEQUENCE numbers INCREMENT BY 50"))
    assert len({*used}) == 1  # emptied, and used again


@pytest.mark.parametrize("backend_id", BACKEND_IDS)
def test_connection_that_is_left_open_keeps_nobody_waiting(
    backend_id: str, module: str, request: pytest.FixtureRequest
) -> None:
    """The locks of a test with a database of its own end with the test."""
    url = url_of(request, backend_id)
    settings = Settings(app=f"{module}:app", url=url, schemas=(f"{module}:make",))
    with opened(settings) as kit:
        with kit.isolated("database") as test:
            left = test.db.sync.engine.connect()
            left.execute(text("DELETE FROM heroes"))
        with kit.isolated("database") as test:
            add(test.sync_session(), "mine")
            test.sync_session().commit()
        with kit.isolated("database") as test:
            assert names(test.sync_session()) == ["template"]
        left.invalidate()
        left.close()


def test_nothing_is_served_between_two_tests(module: str) -> None:
    """What the app does by itself then is refused."""
    settings = Settings(app=f"{module}:app", url="sqlite", schemas=(f"{module}:metadata",))
    with opened(settings) as kit:
        with kit.isolated("rollback") as test:
            db = test.db
        with pytest.raises(NotUndone, match="outside of any test"), db.sync.session() as session:
            session.execute(text("SELECT 1"))
    assert find(f"{module}:db", "fastdb_database") is db


def test_test_that_cannot_be_undone_gives_the_next_one_another_database(module: str) -> None:
    """What it has committed beneath the kit is not seen there."""
    settings = Settings(app=f"{module}:app", url="sqlite", schemas=(f"{module}:metadata",))
    with opened(settings) as kit:
        with pytest.raises(NotUndone), kit.isolated("rollback") as test:
            session = test.sync_session()
            session.execute(text("INSERT INTO heroes (name) VALUES ('stays')"))
            raw: Any = session.connection().connection.dbapi_connection
            raw.visit(lambda real: real.commit())
        with kit.isolated("rollback") as test:
            assert names(test.sync_session()) == []


async def test_sessions_of_a_test_end_in_its_loop(
    module: str, no_blocking_calls: BlockBuster
) -> None:
    """In a database of its own, what was opened in the test's loop is closed there."""
    no_blocking_calls.deactivate()
    settings = Settings(databases=(f"{module}:db",), url="sqlite", schemas=(f"{module}:metadata",))
    with opened(settings) as kit, kit.isolated("database") as test:
        assert kit.app is None
        session: AsyncSession = test.session()
        await session.execute(text("INSERT INTO heroes (name) VALUES ('mine')"))
        assert test.session() is session
        await test.close_here()
        await test.end_in_loop()


def test_session_of_a_database_that_is_not_replaced(module: str) -> None:
    """It is refused, by name."""
    settings = Settings(databases=(f"{module}:db",), url="sqlite")
    with (
        opened(settings) as kit,
        kit.isolated("rollback") as test,
        pytest.raises(ConfigurationError, match=r"Database\('sqlite.*is not replaced in the tests"),
    ):
        test.session(Database("sqlite://"))


def test_app_that_does_not_start(module: str) -> None:
    """Its error is that of the first test, and nothing is left."""
    settings = Settings(app=f"{module}:broken", url="sqlite")
    with pytest.raises(ZeroDivisionError), opened(settings):
        raise AssertionError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(), "Neither fastdb_app nor fastdb_database says"),
        (Settings(app="sys:path"), "sys has no Databases, so it is unclear"),
        (Settings(databases=("sys:path",)), "fastdb_database = sys:path: this is no Database"),
        (Settings(databases=("sys",)), 'write it as "package.module:name"'),
        (Settings(databases=("nowhere:db",)), "there is no module nowhere"),
        (Settings(databases=("sys:nowhere",)), "it is not there"),
        (Settings(databases=("{module}:db",), schemas=("sys:path",)), "neither a MetaData nor"),
        (
            Settings(databases=("{module}:db",), schemas=("migrations", "migrations")),
            "fastdb_schema has 2 lines for 1 databases",
        ),
    ],
)
def test_settings_that_lead_nowhere(settings: Settings, message: str, module: str) -> None:
    """The message names the setting."""
    databases = tuple(place.format(module=module) for place in settings.databases)
    settings = Settings(app=settings.app, databases=databases, schemas=settings.schemas)
    with pytest.raises(ConfigurationError, match=message):
        settings.find_databases()


def test_module_that_cannot_be_imported_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is missing inside of it is no mistake in the setting."""
    (tmp_path / "kit_broken.py").write_text(dedent("import nowhere_at_all"))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="nowhere_at_all"):
        find("kit_broken:db", "fastdb_database")


def test_server_of_a_kind_is_asked_for_once_it_is_wanted(
    module: str, request: pytest.FixtureRequest
) -> None:
    """And used through the app's own driver where that is of the same kind."""
    asked: list[str] = []

    def server_url(kind: str) -> str:
        asked.append(kind)
        url: str = request.getfixturevalue("postgresql_server").url()
        return url

    settings = Settings(databases=(f"{module}:db",), url="postgresql")
    with opened(settings, server_url) as kit, kit.isolated("rollback") as test:
        assert test.db.engine.dialect.name == "postgresql"
    assert asked == ["postgresql"]


def test_user_who_may_not_create_databases_is_told(
    module: str, request: pytest.FixtureRequest
) -> None:
    """With the server's own words, and without the password."""
    url = request.getfixturevalue("postgresql_server").url(user="awkward")
    settings = Settings(databases=(f"{module}:db",), url=url)
    with (
        pytest.raises(ConfigurationError, match="who may create databases named") as caught,
        opened(settings),
    ):
        raise AssertionError
    assert "permission denied to create database" in str(caught.value)
    assert "w:ord" not in str(caught.value)
    assert "w%3Aord" not in str(caught.value)


# --- The app ------------------------------------------------------------------------------------


async def test_app_that_says_that_it_could_not_start() -> None:
    """An ASGI app need not raise: what it says is the error."""

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no coffee"})

    with pytest.raises(RuntimeError, match=r"lifespan\.startup: no coffee"):
        await RunningApp(app).start()


async def test_app_that_knows_no_lifespan() -> None:
    """It serves all the same, with an empty state."""
    seen: list[Any] = []

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        seen.append((scope["type"], scope["state"]))
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    running = RunningApp(app)
    await running.start()
    home = Home()
    await asyncio.to_thread(lambda: home.loop)
    client = async_client(home, running)
    assert (await client.get("/")).status_code == 204
    await running.stop()
    await asyncio.to_thread(home.close)
    assert seen == [("lifespan", {}), ("http", {})]


def test_live_server_without_uvicorn(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install."""
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with (
        pytest.raises(ImportError, match="The fixture live_server needs uvicorn"),
        live_server(Home(), None),
    ):
        raise AssertionError


def test_fixture_for_an_app_where_there_is_none() -> None:
    """It says which setting is missing."""
    with pytest.raises(pytest.UsageError, match="say where it is, with fastdb_app"):
        plugin._app(Kit(Settings(), str))


# --- Servers of a run ---------------------------------------------------------------------------


def test_private_server_is_started_once() -> None:
    """For all that ask for its kind, and stopped at the end of the run."""
    servers = plugin.PrivateServers()
    url = servers.url("postgresql")
    assert servers.url("postgresql") == url
    servers.close()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)


@pytest.mark.parametrize(
    ("url", "own", "kinds"),
    [
        ("postgresql", "sqlite://", {"postgresql"}),
        ("mariadb", "sqlite://", {"mysql"}),
        ("postgresql://a@b/c", "sqlite://", set()),
        (None, "sqlite://", set()),
        (None, "postgresql://a@b/c", {"postgresql"}),
    ],
)
def test_servers_that_workers_share(
    url: str | None, own: str, kinds: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that the settings name, or that are of the kind of the app's own database."""
    (tmp_path / "kit_own.py").write_text(f"from fastdb import Database\ndb = Database({own!r})\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "kit_own", raising=False)
    assert plugin._server_kinds(Settings(databases=("kit_own:db",), url=url)) == kinds


def test_module_that_is_broken_is_left_to_the_workers() -> None:
    """They import it too, and say what is wrong."""
    assert plugin._server_kinds(Settings(databases=("nowhere:db",))) == set()


# --- What home is for ---------------------------------------------------------------------------


async def test_home_that_is_closed_serves_nobody() -> None:
    """Who comes later is told that its test is over."""
    home = Home()
    await asyncio.to_thread(lambda: home.run(asyncio.sleep(0)))
    await asyncio.to_thread(home.close)
    await asyncio.to_thread(home.close)
    with pytest.raises(NotUndone, match="belongs to a test that has ended"):
        home.call(lambda: asyncio.sleep(0))


def test_home_is_not_waited_for_at_home() -> None:
    """Synchronous code that would stop the loop that it waits for is refused."""
    home = Home()

    async def call() -> None:
        home.call(lambda: asyncio.sleep(0))

    with pytest.raises(RuntimeError, match="on the thread that its database lives in"):
        home.run(call())
    home.close()


# --- The app's own database ---------------------------------------------------------------------


def test_engine_that_was_made_at_import_is_refused() -> None:
    """Whoever holds it would reach the app's own database in tests."""
    db = Database("sqlite://")
    assert db.engine is not None
    with pytest.raises(ConfigurationError, match="had made engines before the first test"):
        away(db)


async def test_database_that_is_away_serves_nobody() -> None:
    """It can be neither opened nor used."""
    db = Database("sqlite://")
    with db.supplied_by(away(db)):
        assert db.pools() == frozenset()
        with pytest.raises(NotUndone, match="which is the app's own and not for tests"):
            async with db:
                raise AssertionError
        with pytest.raises(NotUndone):
            db.session()


def test_migrations_are_a_way_to_make_tables(module: str) -> None:
    """The word is enough."""
    settings = Settings(databases=(f"{module}:db",), schemas=("migrations",))
    ((_, schema),) = settings.find_databases()
    assert schema is not None
