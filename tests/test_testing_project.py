"""A user's project that has the public test kit and no more, run by pytest as a user runs it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

import user_project
from backends import BACKENDS
from databases import render
from pytest_runs import WITHOUT_OURS

# Each is a whole run of pytest, or several.
pytestmark = pytest.mark.timeout(180)

AUTO = """
asyncio_mode = "auto"
asyncio_default_fixture_loop_scope = "function"
"""
SESSION_LOOPS = """
asyncio_mode = "auto"
asyncio_default_fixture_loop_scope = "session"
asyncio_default_test_loop_scope = "session"
"""
STRICT = """
asyncio_mode = "strict"
asyncio_default_fixture_loop_scope = "function"
"""
ANYIO = """
addopts = ["-p", "no:asyncio"]
"""
ANYIO_MARKS = """
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


"""
TESTS = user_project.TESTS
STRICT_TESTS = TESTS.replace("ALL = [", "pytestmark = pytest.mark.asyncio\n\nALL = [", 1).replace(
    "@pytest.fixture\nasync", "import pytest_asyncio\n\n@pytest_asyncio.fixture\nasync"
)
# The mark of pytest-asyncio is not for what is synchronous.
STRICT_TESTS = STRICT_TESTS.replace("pytestmark = pytest.mark.asyncio\n", "").replace(
    "\nasync def test_", "\n@pytest.mark.asyncio\nasync def test_"
)
ANYIO_TESTS = TESTS.replace("ALL = [", f"{ANYIO_MARKS}ALL = [", 1)

ServerURL = Callable[[str], str]


@pytest.fixture
def server_url(request: pytest.FixtureRequest) -> ServerURL:
    """The URL of the server of a backend, through its driver."""

    def url(backend_id: str) -> str:
        name, driver = BACKENDS[backend_id]
        if name == "sqlite":
            return "sqlite"
        given = os.environ.get(f"FASTDB_TEST_{name.upper()}_URL")
        plain = make_url(given or request.getfixturevalue(f"{name}_server").url())
        return render(plain.set(drivername=f"{name}+{driver}"))

    return url


def run_pytest(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in a project, as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *arguments],
        cwd=project,
        env={**os.environ, "PYTEST_ADDOPTS": WITHOUT_OURS},
        capture_output=True,
        text=True,
        check=False,
    )


def outcome(run: subprocess.CompletedProcess[str]) -> str:
    """Return the last line without its time, or all that was printed where some have failed."""
    last = run.stdout.strip().rpartition("\n")[2]
    return last.partition(" in ")[0] if run.returncode == 0 else f"{run.stdout}\n{run.stderr}"


ALL_PASSED = (
    f"{TESTS.count(chr(10) + 'def test_') + TESTS.count(chr(10) + 'async def test_')} passed"
)


@pytest.mark.parametrize(
    "backend_id", [backend_id for backend_id in BACKENDS if backend_id != "sqlite-memory"]
)
def test_project_on_every_driver(backend_id: str, server_url: ServerURL, tmp_path: Path) -> None:
    """Commits are undone, whoever makes them, with every driver; none of it is left."""
    project = user_project.make(tmp_path / "project", AUTO)
    assert outcome(run_pytest(project, "--fastdb-url", server_url(backend_id))) == ALL_PASSED


@pytest.mark.parametrize("backend_id", ["sqlite-file", "postgresql-asyncpg", "mysql-aiomysql"])
def test_project_in_several_workers(backend_id: str, server_url: ServerURL, tmp_path: Path) -> None:
    """Workers of pytest-xdist have a database each, on one server."""
    project = user_project.make(tmp_path / "project", AUTO)
    run = run_pytest(project, "--fastdb-url", server_url(backend_id), "--numprocesses=2")
    assert outcome(run) == ALL_PASSED


@pytest.mark.parametrize(
    ("settings", "tests"),
    [(SESSION_LOOPS, TESTS), (STRICT, STRICT_TESTS), (ANYIO, ANYIO_TESTS)],
    ids=["session-loops", "strict", "anyio"],
)
def test_project_in_any_event_loop(settings: str, tests: str, tmp_path: Path) -> None:
    """Row 31: nothing is attached to a loop, whichever plugin runs the tests, in any scope."""
    project = user_project.make(tmp_path / "project", settings, test_shop=tests)
    assert outcome(run_pytest(project, "--fastdb-url", "sqlite")) == ALL_PASSED


@pytest.mark.parametrize("backend_id", ["postgresql-asyncpg", "mysql-aiomysql"])
def test_project_in_loops_of_the_session_on_a_server(
    backend_id: str, server_url: ServerURL, tmp_path: Path
) -> None:
    """Row 31: nor on a server, whose connections belong to an event loop."""
    project = user_project.make(tmp_path / "project", SESSION_LOOPS)
    assert outcome(run_pytest(project, "--fastdb-url", server_url(backend_id))) == ALL_PASSED


OTHER_PROCESS = """
import httpx
import pytest
from sqlalchemy import select

from fastdb.testing.servers import AppServer
from shop.app import Order


@pytest.mark.fastdb(isolation="database")
@pytest.mark.parametrize("number", [1, 2])
def test_app_in_a_process_of_its_own(database_url, sync_session, number):
    sync_session.add(Order(customer="mine"))
    sync_session.commit()
    with AppServer("shop.app:app", environment={"SHOP_URL": database_url}) as server:
        assert httpx.get(f"{server.url}/orders", trust_env=False).json() == ["seed", "mine"]
        answer = httpx.post(f"{server.url}/orders?customer=ours", trust_env=False)
        assert answer.status_code == 201
    query = select(Order.customer).order_by(Order.id)
    assert list(sync_session.scalars(query)) == ["seed", "mine", "ours"]
"""


@pytest.mark.parametrize("backend_id", ["sqlite-file", "postgresql-psycopg", "mysql-asyncmy"])
def test_app_in_another_process(backend_id: str, server_url: ServerURL, tmp_path: Path) -> None:
    """A test's own database has a URL, which leads another process to it; the next one is new."""
    project = user_project.make(tmp_path / "project", AUTO, test_shop=OTHER_PROCESS)
    run = run_pytest(project, "--fastdb-url", server_url(backend_id))
    assert outcome(run) == "2 passed"
