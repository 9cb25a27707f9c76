"""What a test's isolation costs: tests that are rolled back, beside the same on a bare session.

Each round runs pytest twice in a project of one test, a thousand times over: an insert, a COMMIT
and a query. Once with the test kit's `session`; once with a plain SQLAlchemy session, on an engine
that lives as long as the run, and nobody cleans up. In turns; all of pytest's time counts.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.table import Table
from targets import Target, private_servers, sqlite

APP = """
import os

from fastdb import Database
from models import Base

db = Database(os.environ["URL"])
"""
MODELS = """
from sqlalchemy import String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase): ...


class Hero(Base):
    __tablename__ = "test_heroes"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50), index=True)
"""
TESTS = """
import pytest
from sqlalchemy import func, select

from models import Hero


@pytest.mark.parametrize("number", range({number}))
async def test_hero(session, number):
    session.add(Hero(name=f"hero {{number}}"))
    await session.commit()
    count = select(func.count()).where(Hero.name == f"hero {{number}}")
    assert await session.scalar(count) == 1
"""
BARE = """
import os

import pytest
from models import Base
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine


@pytest.fixture(scope="session")
async def engine():
    engine = create_async_engine(os.environ["URL"])
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all)
        await connection.run_sync(Base.metadata.create_all)
    yield engine
    await engine.dispose()


@pytest.fixture
async def session(engine):
    async with AsyncSession(engine, expire_on_commit=False) as session:
        yield session
"""
SETTINGS = """
[tool.pytest.ini_options]
pythonpath = ["."]
asyncio_mode = "auto"
asyncio_default_fixture_loop_scope = "session"
asyncio_default_test_loop_scope = "session"
"""
KIT = """
fastdb_database = "app:db"
fastdb_schema = "models:Base.metadata"
"""


def run(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks testkit")
    parser.add_argument("--servers", action="store_true", help="start private servers, as tests do")
    parser.add_argument("--tests", type=int, default=1000, help="default 1000")
    parser.add_argument("--rounds", type=int, default=5, help="default 5")
    parser.add_argument("--rollback", action="store_true", help="leave out databases of their own")
    chosen = parser.parse_args(arguments)
    ways = ["rolled back"] if chosen.rollback else ["rolled back", "own database"]
    columns = [f"{way}, {what}" for what in ("s", "ratio (least to most)") for way in ways]
    table = Table("database", "bare, s", *columns)
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="fastdb-benchmark-"))
        projects = _projects(Path(directory), chosen.tests)[: len(ways) + 1]
        targets = [stack.enter_context(sqlite())]
        if chosen.servers:
            targets += stack.enter_context(private_servers())
        for target in targets:
            table.add_row(*_measure(target, projects, chosen.rounds))
    Console(width=110).print(table)


def _projects(directory: Path, number: int) -> list[tuple[Path, list[str]]]:
    """Write both projects; return them, and what pytest is told in each of the ways."""
    bare, kit = directory / "bare", directory / "kit"
    for project in (bare, kit):
        project.mkdir()
        (project / "models.py").write_text(MODELS)
        (project / "test_heroes.py").write_text(TESTS.format(number=number))
    (bare / "conftest.py").write_text(BARE)
    (bare / "pyproject.toml").write_text(SETTINGS)
    (kit / "app.py").write_text(APP)
    (kit / "pyproject.toml").write_text(SETTINGS + KIT)
    return [(bare, []), (kit, []), (kit, ["-o", "fastdb_isolation=database"])]


def _measure(target: Target, projects: list[tuple[Path, list[str]]], rounds: int) -> list[str]:
    url = target.new_url()
    seconds: list[list[float]] = [[] for _ in projects]
    for _ in range(rounds):
        for (project, options), figures in zip(projects, seconds, strict=True):
            figures.append(_run_pytest(project, url, options))
    ratios = [
        [one / bare for one, bare in zip(each, seconds[0], strict=True)] for each in seconds[1:]
    ]
    return [
        target.name,
        *(f"{statistics.median(each):.2f}" for each in seconds),
        *(f"{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})" for each in ratios),
    ]


def _run_pytest(project: Path, url: str, options: list[str]) -> float:
    kit = [] if project.name == "bare" else ["--fastdb-url", url]
    begun = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *kit, *options],
        cwd=project,
        env={**os.environ, "URL": url},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - begun
