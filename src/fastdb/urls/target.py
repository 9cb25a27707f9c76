"""What a database URL comes to."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy.engine import URL

from fastdb.options import TLSOptions

World = Literal["async", "sync"]
Backend = Literal["sqlite", "postgresql", "mysql"]


@dataclass(frozen=True, slots=True)
class Target:
    """Which database a URL names, and what to tell the driver.

    Args:
        backend: The kind of database.
        driver: The driver's name in SQLAlchemy: "aiosqlite", "pysqlite", "asyncpg", "psycopg",
            "psycopg2", "aiomysql", "asyncmy" or "pymysql".
        url: The same place with the driver named and no parameters left, except on SQLite with
            `uri=true`, where SQLAlchemy's dialect itself makes the file name from them.
        connect_args: Arguments for the driver, with the types that it wants. Several hosts and
            Unix sockets are here, because a URL object has room for one network host only.
        tls: What the URL asks for, or None where it says nothing.
        in_memory: The URL names an SQLite database that has no file.
        transaction_pooler: The URL says that a pooler gives each transaction another connection
            (`pgbouncer=true`); `connect_args` already turn prepared statements off.
    """

    backend: Backend
    driver: str
    url: URL
    connect_args: Mapping[str, Any]
    tls: TLSOptions | None = None
    in_memory: bool = False
    transaction_pooler: bool = False
