"""What the plugin refuses, what fails a test, and what it does to runs that do not use it."""

import subprocess
import sys
from pathlib import Path

import pytest

import user_project
from test_testing_project import AUTO, run_pytest

# Each is a whole run of pytest, or several.
pytestmark = pytest.mark.timeout(180)

IMPORTS = """
import asyncio
import time

import pytest
from sqlalchemy import text
from shop.app import Order, db as own, number_of_orders
"""


def run_tests(tmp_path: Path, tests: str, settings: str = "", *arguments: str) -> str:
    """Run tests of the project on SQLite; return what pytest printed."""
    project = user_project.make(tmp_path / "project", AUTO + settings, test_shop=IMPORTS + tests)
    run = run_pytest(project, "--fastdb-url", "sqlite", "--tb=short", *arguments)
    return run.stdout + run.stderr


def test_forgotten_await_fails_the_test(tmp_path: Path) -> None:
    """Row 34: a COMMIT that nobody has awaited has not happened."""
    printed = run_tests(
        tmp_path,
        """
async def test_forgets(session):
    session.add(Order(customer="a"))
    session.commit()


async def test_does_not(session):
    await session.commit()
""",
    )
    assert "1 failed, 1 passed" in printed
    assert "AsyncSession.commit() at" in printed.replace("AsyncUnitSession", "AsyncSession")


def test_test_without_a_fixture_is_told_what_to_ask_for(tmp_path: Path) -> None:
    """Before the first test that has one, and after it."""
    printed = run_tests(
        tmp_path,
        """
async def test_before():
    await number_of_orders()

async def test_with(db):
    assert await number_of_orders() == 1

async def test_after():
    await number_of_orders()
""",
    )
    assert "2 failed, 1 passed" in printed
    failures, _, _ = printed.partition("short test summary info")  # longer in CI
    assert failures.count('@pytest.mark.usefixtures("fastdb_test")') == 2


def test_loop_is_watched_without_a_database(tmp_path: Path) -> None:
    """The fixture alone is enough; a limit that is not understood is refused, not left out."""
    printed = run_tests(
        tmp_path,
        """
async def test_held(responsive_loop):
    time.sleep(0.4)

@pytest.mark.responsive_loop(limit=0.05)
async def test_keyword(responsive_loop): ...
""",
    )
    assert "EventLoopHeld: The event loop was held for longer than 100 ms" in printed
    assert "test_keyword: responsive_loop() takes a number." in printed
    assert "1 failed, 1 error" in printed


@pytest.mark.parametrize("place", ["test", "app"])
def test_held_event_loop_fails_the_test(place: str, tmp_path: Path) -> None:
    """The line that held it is named, whether it is in the test's loop or in the app's."""
    printed = run_tests(
        tmp_path,
        """
from shop.app import app

@app.get("/held")
async def held():
    time.sleep(0.4)

@pytest.mark.responsive_loop(0.05)
async def test_app(client, responsive_loop):
    await client.get("/held")

async def test_test(db, responsive_loop):
    time.sleep(0.4)

async def test_neither(client, responsive_loop):
    await client.get("/orders")
""",
        "",
        "-k",
        f"test_{place} or test_neither",
    )
    assert "1 failed, 1 passed, 1 deselected" in printed
    assert "The event loop was held for longer than" in printed
    assert "time.sleep(0.4)" in printed


def test_more_queries_than_the_budget_fail_the_test(tmp_path: Path) -> None:
    """All that was asked is listed, each with its line."""
    printed = run_tests(
        tmp_path,
        """
@pytest.mark.query_budget(1)
async def test_budget(client):
    await client.get("/orders")
    await client.get("/orders")
""",
    )
    assert "1 failed" in printed
    assert "Expected at most 1 query, 2 were executed" in printed
    assert "shop/app.py" in printed


def test_apps_own_database_is_refused(tmp_path: Path) -> None:
    """A test that asks for no fixture of fastdb's never reaches what the app is configured for."""
    printed = run_tests(
        tmp_path,
        """
async def test_without_a_fixture():
    await number_of_orders()


async def test_with_one(db):
    assert await number_of_orders() == 1


async def test_afterwards():
    await number_of_orders()


def test_twin():
    with own.sync.session() as session:
        session.execute(text("SELECT 1"))
""",
    )
    assert "3 failed, 1 passed" in printed
    assert "NotUndone: A test has used Database('postgresql+asyncpg://nobody@production" in printed


def test_transactions_are_not_left_to_sql(tmp_path: Path) -> None:
    """What would end the transaction around the test is refused before it is sent."""
    printed = run_tests(
        tmp_path,
        """
@pytest.mark.parametrize("statement", ["COMMIT", "ROLLBACK", "begin", "/* x */ END"])
async def test_sql(session, statement):
    await session.execute(text(statement))


async def test_savepoint_is_allowed(session):
    await session.execute(text("SAVEPOINT mine"))
    await session.execute(text("ROLLBACK TO mine"))
    await session.execute(text("RELEASE mine"))
""",
    )
    assert "4 failed, 1 passed" in printed
    assert "NotUndone: In a test that is rolled back, this is not left to SQL: COMMIT." in printed


def test_units_that_wait_for_each_other_are_told(tmp_path: Path) -> None:
    """A task that would wait for itself is told at once; another one after some seconds."""
    printed = run_tests(
        tmp_path,
        """
async def test_itself(db):
    async with db.session() as outer:
        outer.add(Order(customer="outer"))
        await outer.flush()
        async with db.session() as inner:
            inner.add(Order(customer="inner"))


async def test_another(db):
    written = asyncio.Event()

    async def writes():
        async with db.session() as session:
            session.add(Order(customer="a"))
            await session.flush()
            written.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(writes())
    await written.wait()
    try:
        async with db.session() as session:
            session.add(Order(customer="b"))
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_afterwards(db):
    assert await number_of_orders() == 1
""",
    )
    assert "2 failed, 1 passed" in printed
    assert printed.count("UnitsOverlap: Two units of work of this test overlap:") >= 2


def test_cancelled_statement_leaves_the_test_usable(tmp_path: Path) -> None:
    """Its unit of work is undone, and no more than that."""
    printed = run_tests(
        tmp_path,
        """
SLOW = (
    "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n LIMIT 1"
)


async def test_cancelled(db, session):
    session.add(Order(customer="kept"))
    await session.commit()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2), db.session() as mine:
            mine.add(Order(customer="undone"))
            await mine.flush()
            await mine.execute(text(SLOW))
    assert await number_of_orders() == 2
""",
    )
    assert "1 passed" in printed


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ('fastdb_database = "shop.app:nothing"', "has no attribute 'nothing'"),
        ('fastdb_database = "shop.app:app"', "this is no Database but <fastapi"),
        ('fastdb_database = "shop.nowhere:db"', "there is no module shop.nowhere"),
        ('fastdb_database = "shop"', 'write it as "package.module:name"'),
        ('fastdb_schema = "shop.app:sent"', "neither a MetaData nor a function but ["),
        (
            'fastdb_schema = ["migrations", "migrations"]',
            "fastdb_schema has 2 lines for 1 databases",
        ),
        ('fastdb_isolation = "none"', "fastdb_isolation = 'none': there are 'rollback' and"),
    ],
)
def test_setting_that_leads_nowhere_is_named(settings: str, message: str, tmp_path: Path) -> None:
    """The first test says which setting is wrong, and what would be right."""
    printed = run_tests(tmp_path, "def test_it(db): ...\n", settings)
    assert message in printed.replace("\nE   ", "")
    assert " passed" not in printed


def test_marker_with_a_mistake_is_named(tmp_path: Path) -> None:
    """An unknown isolation, or another argument, is nobody's default."""
    printed = run_tests(
        tmp_path,
        """
@pytest.mark.fastdb(isolation="none")
def test_isolation(db): ...

@pytest.mark.fastdb(izolation="database")
def test_argument(db): ...

@pytest.mark.query_budget(most=3)
def test_budget(db): ...
""",
    )
    assert "1 failed, 2 errors" in printed
    assert "query_budget() takes a number." in printed
    assert "= 'none': there are 'rollback' and 'database'." in printed
    assert "fastdb() takes isolation=… only." in printed


PROBE = """
import sys
import time

begun = time.perf_counter()
import pytest_fastdb
print(time.perf_counter() - begun, *sorted(sys.modules))
"""


def test_runs_that_do_not_use_it_import_nothing() -> None:
    """What pytest loads in every project of the environment is one module of fastdb's."""
    run = subprocess.run(
        [sys.executable, "-c", f"import pytest\n{PROBE}"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(run.stdout.split())
    assert "pytest_fastdb" in loaded
    assert loaded.isdisjoint({"fastdb", "sqlalchemy", "fastapi", "httpx"})


def test_runs_that_do_not_use_it_have_no_fixtures(tmp_path: Path) -> None:
    """Other plugins' fixtures have the same names: ours are there where a setting wants them."""
    (tmp_path / "test_it.py").write_text("def test_it(session): ...\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    printed = run_pytest(tmp_path).stdout
    assert "fixture 'session' not found" in printed


def test_transaction_that_was_committed_does_not_reach_later_tests(tmp_path: Path) -> None:
    """Where a test cannot be undone, it fails, and the later ones have a new database."""
    printed = run_tests(
        tmp_path,
        """
async def test_commits(session):
    session.add(Order(customer="stays"))
    await session.flush()
    raw = (await (await session.connection()).get_raw_connection()).dbapi_connection
    await (await session.connection()).run_sync(lambda _: raw.visit(lambda real: real.commit()))


async def test_later(db):
    assert await number_of_orders() == 1
""",
    )
    assert "2 passed, 1 error" in printed
    assert "NotUndone: The transaction around this test was ended inside of it" in printed


def test_a_rolled_back_test_has_no_url(tmp_path: Path) -> None:
    """Another process would see nothing of it, and what it writes would stay."""
    printed = run_tests(
        tmp_path,
        """
def test_url(database_url):
    raise AssertionError(database_url)
""",
    )
    assert (
        "This test is rolled back, so that another process would see nothing of it: give it a"
        ' database of its own, with @pytest.mark.fastdb(isolation="database").'
    ) in printed
    assert "1 error" in printed


def test_markers_count_without_a_fixture(tmp_path: Path) -> None:
    """A test that is marked is judged, though it asks for nothing."""
    printed = run_tests(
        tmp_path,
        """
@pytest.mark.query_budget(1)
async def test_budget():
    await number_of_orders()
    await number_of_orders()

@pytest.mark.responsive_loop(0.05)
async def test_loop():
    time.sleep(0.4)

@pytest.mark.query_budget(2)
@pytest.mark.responsive_loop(5)
async def test_within():
    await number_of_orders()
""",
    )
    assert "2 failed, 1 passed" in printed
    assert "The event loop was held for longer than" in printed
    assert "Expected at most 1 query, 2 were executed" in printed
