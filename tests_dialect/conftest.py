"""Has pytest run SQLAlchemy's own tests of dialects, as its README.dialects.rst describes."""

import sqlite3
from contextlib import closing
from typing import Any

import pytest

# What the tests need besides a connection, like a second database to call a schema: SQLAlchemy
# looks for it in the package of the dialect, and ours has nothing of its own.
import sqlalchemy.dialects.sqlite.provision  # noqa: F401 - it registers itself
from sqlalchemy import Engine, event


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--wal", action="store_true", help="put the database file into WAL mode")


def pytest_configure(config: pytest.Config) -> None:
    if config.option.wal:
        event.listen(Engine, "do_connect", _put_into_wal_mode)


def _put_into_wal_mode(_dialect: Any, _record: Any, arguments: Any, _options: Any) -> None:
    # SQLAlchemy deletes the file after each class of tests: it is a new one at times. The mode is
    # a property of the file, and the dialect looks at it as soon as it has connected.
    with closing(sqlite3.connect(arguments[0])) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
