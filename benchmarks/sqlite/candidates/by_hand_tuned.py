"""The same, by somebody who knows SQLite: WAL, NORMAL, a busy timeout, BEGIN IMMEDIATE to write.

For BEGIN, it follows SQLAlchemy's documentation of its SQLite dialects.
"""

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from sqlalchemy import Connection, event
from sqlalchemy.ext.asyncio import create_async_engine

from sqlite.candidates.by_hand import app_on
from sqlite.candidates.pragmas import set_pragmas


def make_app(path: Path) -> FastAPI:
    read_engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    event.listen(read_engine.sync_engine, "connect", set_pragmas)
    write_engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    event.listen(write_engine.sync_engine, "connect", set_pragmas)
    event.listen(write_engine.sync_engine, "connect", _begin_nothing)
    event.listen(write_engine.sync_engine, "begin", _begin_immediate)
    return app_on(read_engine, write_engine)


def _begin_nothing(dbapi_connection: Any, _record: Any) -> None:
    dbapi_connection.isolation_level = None


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
