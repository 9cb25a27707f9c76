"""Tests that must fail, each because of one guard. `test_canary.py` runs them and looks why."""

import asyncio
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pymysql
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

if TYPE_CHECKING:
    from fastdb import Database

kept: list[object] = []  # what a test must not keep


async def test_blocking_call() -> None:
    time.sleep(0.001)


async def test_coroutine_never_awaited() -> None:
    asyncio.sleep(0)  # type: ignore[unused-coroutine]


def test_file_left_open() -> None:
    Path(__file__).open()  # noqa: SIM115


async def test_exception_in_lost_task() -> None:
    async def fail() -> None:
        raise RuntimeError("lost")

    task = asyncio.create_task(fail())
    await asyncio.sleep(0)
    del task


def test_warning() -> None:
    warnings.warn("an ordinary one", UserWarning, stacklevel=1)


@pytest.mark.timeout(0.1)
def test_without_end() -> None:
    time.sleep(10)


@pytest.mark.xfail(reason="passes")
def test_that_should_fail_but_passes() -> None:
    pass


async def test_connection_left_to_garbage_collector(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'test.db'}")
    connection = await engine.connect()
    await connection.execute(text("SELECT 1"))
    del connection


@pytest.mark.backends("sqlite-file")
async def test_connection_left_checked_out(database: "Database") -> None:
    kept.append(await database.engine.connect())


def test_sqlite_file_left_open(sqlite_url: str) -> None:
    kept.append(Path(str(make_url(sqlite_url).database)).open("w"))  # noqa: SIM115


def test_postgresql_session_left(postgresql_url: str) -> None:
    kept.append(psycopg.connect(postgresql_url))


def test_pgbouncer_client_left(pgbouncer_url: str) -> None:
    kept.append(psycopg.connect(pgbouncer_url))


def test_mysql_session_left(mysql_url: str) -> None:
    url = make_url(mysql_url)
    kept.append(
        pymysql.connect(
            host=str(url.host),
            port=int(url.port or 3306),
            user=url.username,
            password=str(url.password),
            database=url.database,
        )
    )
